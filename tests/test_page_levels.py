"""The report of 8-bit images says where the bits go and what is predicted, and other data hear nothing of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import normal
from test_page import RECORD, FakeRun, Page, shown, write
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
    constraints,
)

from logpx import plots
from logpx.data import DataSet, Split
from logpx.distributions import RelaxedBernoulli, log_prob_per_channel
from logpx.likelihoods import make_likelihood
from logpx.page import levels

LEVELS = 17
FLAT, MAPS = (2,), (2, 2, 1)


class Model:
    """A linear VAE of images of levels, with latents of any shape, and none of logpx but the likelihood."""

    def __init__(
        self, name: str = "discretized-logistic-mixture", event_shape: tuple[int, ...] = (3, 4, 3), latents: Any = FLAT
    ) -> None:
        self.likelihood = make_likelihood(name, event_shape, levels=LEVELS, num_mixtures=2)
        self.latents = tuple(latents)
        num = math.prod(self.latents)
        self.encode = 0.3 * normal(math.prod(event_shape), num, seed=1)
        self.decode = 0.5 * normal(num, self.likelihood.num_parameters)

    def prior(self) -> Distribution:
        return Independent(Normal(torch.zeros(self.latents), 1.0), len(self.latents))

    def encoder(self, x: Tensor) -> Distribution:
        loc = (x.flatten(1) @ self.encode).unflatten(-1, self.latents)
        return Independent(Normal(loc, 0.5), len(self.latents))

    def decoder(self, z: Tensor) -> Distribution:
        return self.likelihood(z.flatten(-len(self.latents)) @ self.decode)


class Blind(Model):
    """A decoder that does not look at z, so that what the data cost is known without sampling; and costly latents."""

    def encoder(self, x: Tensor) -> Distribution:
        return Independent(Normal(3 + x.flatten(1) @ self.encode, 0.5), 1)

    def decoder(self, z: Tensor) -> Distribution:
        return super().decoder(torch.ones_like(z))


class Relaxed(Model):
    def decoder(self, z: Tensor) -> Distribution:
        return RelaxedBernoulli(torch.zeros(*z.shape[:2], 3, 4, 3), 3)


class Ends(Bernoulli):
    """Somebody's own way to write levels, of which this package knows nothing."""

    @property
    def support(self) -> Any:
        class Levels(constraints.Constraint):
            is_discrete = True
            event_dim = 0

            def check(self, value: Tensor) -> Tensor:
                return (value >= 0) & (value <= 1)

        return Levels()


class Unknown(Model):
    def decoder(self, z: Tensor) -> Distribution:
        each = Independent(
            Ends(0.5 * torch.ones(*z.shape[:2], 2, 3, 4, 3), validate_args=False), 3, validate_args=False
        )
        return MixtureSameFamily(Categorical(torch.ones(*z.shape[:2], 2)), each, validate_args=False)


class Whole(Model):
    """A model that knows its log-weights as a whole alone."""

    def log_weights(self, x: Tensor, num_samples: int, context: Any = None, mask: Any = None) -> Tensor:
        raise NotImplementedError


def data(event_shape: tuple[int, ...] = (3, 4, 3), n: int = 40, kind: Any = "8-bit") -> Split:
    values = torch.randint(LEVELS, (n, *event_shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    parts = {"train": values, "valid": values[:0], "test": values}
    return DataSet("things", kind, LEVELS, event_shape, parts, "here").split("test")


def run_of(path: Path, model: Any, record: Any = None, scores: Any = None) -> FakeRun:
    return FakeRun(path / "run", record, scores, model)


def titles(run: FakeRun, monkeypatch: pytest.MonkeyPatch, split: Split) -> tuple[Page, dict[str, Any]]:
    """Writes a page with empty figures; returns it, and the rows of tiles by the title of their figure."""
    drawn: dict[str, Any] = {}
    monkeypatch.setattr("logpx.page.run.png", lambda figure: b"")
    stacked = plots.stacked_grid

    def spy(rows: Any, *args: Any, **options: Any) -> Any:
        drawn[options["title"]] = dict(rows)
        return stacked(rows, *args, **options)

    monkeypatch.setattr(plots, "stacked_grid", spy)
    return Page(write(run, split=split)), drawn


@pytest.mark.parametrize("latents", [FLAT, MAPS], ids=["a vector of latents", "maps of latents"])
def test_a_page_of_colours_has_its_section(tmp_path: Path, latents: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path, Model(latents=latents))
    page, drawn = titles(run, monkeypatch, data())
    flat = ["traversals", "manifold"] if latents == FLAT else []
    assert shown(run) == sorted(["training_curves", "reconstructions", "samples", "predictions", *flat])
    reconstructions = drawn["Data (test), and below them the mean and a sample of p(x | z)."]
    samples = drawn["What the model generates from its prior: the mean and a sample of p(x | z)."]
    assert list(reconstructions) == ["data", "mean", "sample"] and list(samples) == ["mean", "sample"]
    for rows in (reconstructions, samples):
        # draws lie on levels, and scatter around the mean of the same z more closely than around those of others
        mean, level = rows["mean"], (LEVELS - 1) * rows["sample"]
        assert np.abs(level - np.rint(level)).max() < 1e-5
        own, other = (np.square(rows["sample"] - m).mean() for m in (mean, np.roll(mean, 1, axis=0)))
        assert own < 0.8 * other
    text = page.text
    assert (
        "Where the bits go" in text and "The ELBO of all 40 test data with one draw of z" in text and "(seed 0)" in text
    )
    assert "red" in text and "green given red" in text and "blue given red and green" in text
    assert "a third of each counts towards the total" in text and "latents (the rate)" in text
    assert "a sample from it: the noise" in text and "pixel 3 has the highest" in text
    assert "the mean of p(x | z) is exact for the first channel alone" in text
    assert ("here they are maps of shape 2×2×1, and one number of them" in text) == (latents == MAPS)


def test_a_page_is_the_same_when_written_again(tmp_path: Path) -> None:
    run = run_of(tmp_path, Model(event_shape=(1, 3, 3)))
    first = write(run, split=data((1, 3, 3)))
    torch.rand(3)
    before = torch.get_rng_state()
    assert write(run, split=data((1, 3, 3))) == first
    assert torch.equal(torch.get_rng_state(), before)
    text = Page(first).text
    assert "grey" in text and "what the pixels cost given the latents" in text and "of each counts" not in text


def test_relaxed_likelihoods_have_no_bits_and_two_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path, Relaxed())
    page, drawn = titles(run, monkeypatch, data())
    assert "Where the bits go" not in page.text and "a sample from it" not in page.text
    assert "predictions" not in shown(run)
    assert not drawn and "reconstructions" in shown(run)


def test_types_that_are_not_known_have_draws_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path, Unknown())
    page, drawn = titles(run, monkeypatch, data())
    assert "Where the bits go" not in page.text and "predictions" not in shown(run)
    assert [list(rows) for rows in drawn.values()] == [["data", "mean", "sample"], ["mean", "sample"]]


def test_a_likelihood_without_a_mean_has_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path, Model("dequantized-gaussian"), {**RECORD, "data": {**RECORD["data"], "kind": "8-bit"}})
    page, drawn = titles(run, monkeypatch, data())
    assert [list(rows) for rows in drawn.values()] == [["data", "sample"], ["sample"]]
    assert [title.count("the mean") for title in drawn] == [0, 0]
    # a bound has bits, and channels that do not lean on one another, but no masses
    assert "Where the bits go" in page.text and "given red" not in page.text and "predictions" not in shown(run)
    assert "Each tile is a sample from p(x | z)" in page.text


def test_vectors_of_levels_have_draws_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path, Model(event_shape=(7,)))
    page, drawn = titles(run, monkeypatch, data((7,)))
    assert "Where the bits go" not in page.text and "predictions" not in shown(run)
    assert [list(rows) for rows in drawn.values()] == [["data", "mean", "sample"], ["mean", "sample"]]


def test_part_of_an_epoch_is_not_rounded_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(tmp_path, Relaxed())
    run.config["objective"] = {"beta_warmup_epochs": 0.5}
    assert "In the first 0.5 epochs the KL term" in titles(run, monkeypatch, data(n=2))[0].text


def channels_of(bits: dict[str, Any]) -> list[str]:
    return [channel["name"] for channel in bits["channels"]]


def code(model: Any, split: Split, seed: int = 0) -> dict[str, Any]:
    return levels.code_lengths(model, split, seed, "cpu")


def test_the_parts_of_the_code_length_sum_to_the_elbo() -> None:
    model, split = Blind(), data(n=70)
    bits = code(model, split)
    x = split.batch(torch.arange(70)).x
    p = model.decoder(torch.zeros(1, 70, *FLAT))
    per_channel, log_p = log_prob_per_channel(p, x), p.log_prob(x)
    assert per_channel is not None and bits["num_data"] == 70
    for c, channel in enumerate(bits["channels"]):
        # bits per value: -log P / (H W ln 2)
        expected = -per_channel[0, :, c].double() / (12 * math.log(2))
        assert channel["bits"] == pytest.approx((expected.mean().item(), expected.std().item() / 70**0.5), rel=1e-5)
        assert channel["share"] == pytest.approx([value / 3 for value in channel["bits"]])
    distortion = sum(channel["share"][0] for channel in bits["channels"])
    assert distortion == pytest.approx(-log_p.double().mean().item() / (36 * math.log(2)), rel=1e-5)
    assert bits["total"][0] == pytest.approx(distortion + bits["rate"][0], rel=1e-9)
    q = model.encoder(x)
    rate = torch.distributions.kl_divergence(q, model.prior()).mean().item() / (36 * math.log(2))
    # within four standard errors: a false alarm once in 16,000 seeds, and the seed is fixed
    assert bits["rate"][0] == pytest.approx(rate, abs=4 * bits["rate"][1]) and bits["rate"][1] < 0.05 * rate
    assert 0 < bits["total"][1] < 0.1 * bits["total"][0]


def test_code_lengths_follow_the_seed_and_cover_the_split(monkeypatch: pytest.MonkeyPatch) -> None:
    model, split = Model(), data(n=70)
    assert code(model, split) == code(model, split)
    assert code(model, split)["total"] != code(model, split, seed=1)["total"]
    monkeypatch.setattr(levels, "NUM_CODED", 5)
    few = code(Blind(), split)
    x = split.batch(torch.tensor([0, 17, 34, 52, 69])).x
    log_p = Blind().decoder(torch.zeros(1, 5, *FLAT)).log_prob(x)
    assert few["num_data"] == 5
    distortion = sum(channel["share"][0] for channel in few["channels"])
    assert distortion == pytest.approx(-log_p.mean().item() / (36 * math.log(2)), rel=1e-5)


def test_each_batch_of_data_has_draws_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Recording(Model):
        def decoder(self, z: Tensor) -> Distribution:
            draws.append(z)
            return super().decoder(z)

        def encoder(self, x: Tensor) -> Distribution:
            return Independent(Normal(torch.zeros(len(x), 2), 1.0), 1)

    draws: list[Tensor] = []
    monkeypatch.setattr(levels, "CODED_AT_ONCE", 20)
    code(Recording(), data(n=40))
    assert [z.shape for z in draws] == [(1, 20, 2)] * 2 and not torch.equal(*draws)


@pytest.mark.parametrize(
    "name, event_shape, names",
    [
        ("discretized-logistic-mixture", (2, 2, 2), ["channel 0", "channel 1 given channel 0"]),
        ("categorical", (3, 2, 2), ["red", "green", "blue"]),
        ("poisson", (1, 2, 2), ["grey"]),
        ("discretized-gaussian", (4, 1, 2), ["channel 0", "channel 1", "channel 2", "channel 3"]),
    ],
)
def test_channels_are_called_by_what_they_lean_on(name: str, event_shape: tuple[int, ...], names: list[str]) -> None:
    assert channels_of(code(Model(name, event_shape), data(event_shape))) == names


@pytest.mark.parametrize("make", [lambda: Whole(), lambda: Unknown()], ids=["own log-weights", "an unknown type"])
def test_what_cannot_be_taken_apart_has_no_code_lengths(make: Callable[[], Any]) -> None:
    assert code(make(), data()) == {}


def test_predictions_are_those_of_the_first_and_last_datum(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, Any] = {}

    def spy(images: np.ndarray, masses: np.ndarray, **options: Any) -> str:
        drawn.update(images=images, masses=masses, **options)
        return "a figure"

    monkeypatch.setattr(plots, "predicted_levels", spy)
    model, x = Model(), data().batch(torch.arange(6)).x
    assert levels.predictions(model, x, seed=0) == {"predictions": "a figure"}
    assert (drawn["images"] == x[[0, 5]].numpy()).all()
    code = model.encoder(x[[0, 5]]).mean
    p = model.decoder(code[None])
    assert np.allclose(drawn["means"], p.mean[0])
    level = (x[[0, 5]] * (LEVELS - 1)).round().long().unsqueeze(1).numpy()
    at_data = np.log(np.take_along_axis(drawn["masses"], level, axis=1)).sum((1, 2, 3, 4))
    assert at_data == pytest.approx(p.log_prob(x[[0, 5]])[0].numpy(), rel=1e-4)
    assert drawn["channels"] == ["red", "green given red", "blue given red and green"]
    monkeypatch.setattr(levels, "MOST_DIMS", 35)
    assert levels.predictions(model, x, seed=0) == {}


@pytest.mark.parametrize("kind", ["binary", "real"])
def test_other_kinds_of_data_hear_nothing_of_levels(kind: Any) -> None:
    values = torch.zeros(4, 3, 4, 3, dtype=torch.float32 if kind == "real" else torch.uint8)
    parts = {"train": values, "valid": values[:0], "test": values}
    split = DataSet("things", kind, 2 if kind == "binary" else None, (3, 4, 3), parts, "here").split("test")
    assert levels.versions(Model(), split, split.batch(torch.arange(4)).x, 0) == {}
    assert levels.versions(Model(), data(), data().batch(torch.arange(0)).x, 0) == {}
    assert levels.versions(Model(), data(), data().batch(torch.arange(4)).x, 0) == {"mean": True, "sample": False}
