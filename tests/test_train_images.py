"""Fits of images: no step meets a NaN, mirroring is recorded and resumed, and half precision stays within networks."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers import (
    TINY,
    Toy,
    assert_same_result,
    contents,
    data_set,
    normal,
    picture_data,
    pictures,
    same,
    signal_at,
    test_split,
    toy_data,
    weights,
)
from torch import Tensor, nn

import logpx
from logpx import Batch, DataSet, Run, Settings
from logpx.train import calls
from logpx.train.calls import mean_of
from logpx.train.step import Objective, make_optimizer
from logpx.utils import keyed_rng
from logpx.weights import build_model

IMAGE = (3, 8, 8)
SMALL: dict[str, Any] = {"channels": (8, 8), "latent_channels": 4, "batch_size": 16}


@contextlib.contextmanager
def seen_batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[bool, list[Batch]]]:
    """Collects the batches of a fit's steps (True) and of its validations (False)."""
    batches: dict[bool, list[Batch]] = {True: [], False: []}
    forward = Objective.forward

    def spy(objective: Objective, batch: Batch, beta: float) -> Tensor:
        batches[objective.training].append(batch)
        return forward(objective, batch, beta)

    with monkeypatch.context() as patch:
        patch.setattr(Objective, "forward", spy)
        yield batches


# no step meets a NaN


def fit_fast(out: Path, share: float = 1.0, **options: Any) -> dict[str, np.ndarray]:
    """200 steps at 10 times the learning rate of the recipe; a loss or gradient that is not finite stops the fit."""
    settings = Settings.from_recipe("own", "resnet-dmol").override(**SMALL)
    fast = {"learning_rate": 10 * settings.train.learning_rate, "epochs": 1, "on_nonfinite": "stop"}
    data = picture_data(IMAGE, n=3200, share=share)
    return logpx.fit(data, out=out, settings=settings.override(**fast, **options)).metrics()


# Nearly all images are black, so that scales fall; then one is not. No warm-up and no clipping soften the steps.
HARSH: dict[str, Any] = {"share": 0.05, "warmup_steps": 0, "clip_norm": None, "precision": "32-true"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        HARSH,
        {**HARSH, "log_scale_bound": 14.0},
        {**HARSH, "likelihood": "discretized-gaussian", "log_scale_bound": 14.0},
        {"network": "conv", "likelihood": "bernoulli", "binarization": "dynamic", "precision": "32-true"},
    ],
    ids=["the recipe", "harsh", "harsh, wide scales", "harsh, Gaussian, wide scales", "binary"],
)
def test_ten_times_the_learning_rate_meets_no_nan(tmp_path: Path, options: dict[str, Any]) -> None:
    metrics = fit_fast(tmp_path / "run", **options)
    assert metrics["step"].tolist() == [200] and metrics["skipped"].tolist() == [0]
    assert np.isfinite(metrics["train"]).all() and np.isfinite(metrics["valid"]).all()


# mirroring


FLIPPED: dict[str, Any] = {"network": "conv", "channels": (4, 8), "latent_dim": 2, "num_mixtures": 1}
FLIPPED |= {"epochs": 3, "batch_size": 20, "flip": True, "encoder_dropout": 0.1}


@pytest.fixture(scope="module")
def flipped(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return logpx.fit(picture_data(IMAGE), out=tmp_path_factory.mktemp("flip") / "run", **FLIPPED)


def test_training_images_are_mirrored_afresh_and_others_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = picture_data(IMAGE)
    with seen_batches(monkeypatch) as batches:
        logpx.fit(data, out=tmp_path / "run", **FLIPPED)
    raw = data.parts["train"] / 255
    mirrored = torch.zeros(3, 48, dtype=torch.bool)
    assert len(batches[True]) == 1 + 3 * 3, "a rehearsal, and three steps in each of three epochs"
    for step, batch in enumerate(batches[True][1:]):
        for x, index in zip(batch.x, batch.index, strict=True):
            is_plain, is_mirrored = (torch.allclose(x, y) for y in (raw[index], raw[index].flip(-1)))
            assert is_plain != is_mirrored
            mirrored[step // 3, index] = is_mirrored
    # 144 tosses of a fair coin are within 72 +- 30 but for one in a million, and so are pairs that differ
    assert 42 < mirrored.sum() < 102
    assert mirrored[0].ne(mirrored[1]).any() and mirrored[1].ne(mirrored[2]).any()
    for batch in batches[False]:
        assert torch.allclose(batch.x, data.parts["valid"][batch.index] / 255)


def test_mirroring_is_recorded_and_acts_in_training_alone(flipped: Run) -> None:
    assert yaml.safe_load((flipped.path / "config.yaml").read_text())["data"]["flip"] is True
    data = flipped.load_data()
    for name in ("train", "valid", "test"):
        split = flipped.load_split(name).epoch(2)
        assert torch.allclose(split.batch(torch.arange(20)).x, data.parts[name][:20] / 255)
    evaluation = flipped.evaluate("train", estimator="importance", num_samples=10, limit=32)
    plain = logpx.evaluate(flipped.load_model(), data.split("train"), estimator="importance", num_samples=10, limit=32)
    assert np.array_equal(evaluation.scores()["log_evidence"], plain.scores()["log_evidence"])


def test_a_fit_without_mirroring_reaches_other_weights(flipped: Run, tmp_path: Path) -> None:
    plain = logpx.fit(picture_data(IMAGE), out=tmp_path / "run", **{**FLIPPED, "flip": False})
    assert not same(weights(plain.path), weights(flipped.path))


@pytest.mark.parametrize("step", [2, 3, 5])
def test_a_fit_with_mirroring_that_is_stopped_and_resumed_reaches_the_same_bits(
    flipped: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with monkeypatch.context() as patch:
        signal_at(patch, step)
        with pytest.raises(KeyboardInterrupt):
            logpx.fit(picture_data(IMAGE), out=tmp_path / "run", **FLIPPED)
    logpx.resume(tmp_path / "run", data=picture_data(IMAGE))
    assert_same_result(tmp_path / "run", flipped.path)


def test_data_that_are_no_images_are_not_mirrored_and_an_earlier_run_is_kept(tmp_path: Path) -> None:
    words = r"expected images of shape \(C, H, W\) to flip, received data of shape \(3,\)"
    with pytest.raises(ValueError, match=words):
        logpx.fit(toy_data(), out=tmp_path / "new", flip=True, **TINY)
    assert not (tmp_path / "new").exists(), "nothing half-made"
    run = logpx.fit(toy_data(), out=tmp_path / "run", **TINY)
    before = contents(run.path)
    with pytest.raises(ValueError, match=words):
        logpx.fit(toy_data(), out=run.path, overwrite=True, flip=True, **TINY)
    assert contents(run.path) == before


# optimizers and precision

NEW = [{"optimizer": "adamax"}, {"precision": "bf16-mixed"}]


@pytest.mark.parametrize("options", NEW, ids=str)
def test_adamax_and_half_precision_improve_resume_and_keep_weights_in_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    start = {"center": False, "beta_warmup_epochs": 0.0, "batch_size": 100, "learning_rate": 0.01}
    options = {**TINY, **start, **options}
    whole = logpx.fit("digits", out=tmp_path / "whole", **options)
    bounds = whole.metrics()["valid"]
    assert bounds[2] > bounds[0] + 0.3
    for name in ("best", "last"):
        assert {value.dtype for value in weights(whole.path, name).values()} == {torch.float32}
    with monkeypatch.context() as patch:
        signal_at(patch, 17)
        with pytest.raises(KeyboardInterrupt):
            logpx.fit("digits", out=tmp_path / "run", **options)
    logpx.resume(tmp_path / "run")
    assert_same_result(tmp_path / "run", whole.path)
    plain = logpx.fit("digits", out=tmp_path / "plain", **{**options, "optimizer": "adam", "precision": "32-true"})
    assert not same(weights(plain.path, "last"), weights(whole.path, "last"))


def test_adamax_is_that_of_torch() -> None:
    model = nn.Linear(2, 2)
    options = Settings().override(optimizer="adamax", learning_rate=0.03, weight_decay=0.2).train
    optimizer = make_optimizer(model, options)
    assert type(optimizer) is torch.optim.Adamax
    assert (optimizer.defaults["lr"], optimizer.defaults["weight_decay"]) == (0.03, 0.2)


@pytest.mark.parametrize("network", ["mlp", "resnet"])
def test_half_precision_is_for_networks_in_training_and_the_validation_bound_is_of_float32(
    tmp_path: Path, network: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lightning = logging.getLogger("lightning_fabric")
    monkeypatch.setattr(lightning, "handlers", [caplog.handler])
    before = lightning.level, lightning.filters, lightning.disabled
    dtypes: dict[bool, set[torch.dtype]] = {True: set(), False: set()}

    def note(module: nn.Module, _: Any, output: Tensor) -> None:
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            dtypes[module.training].add(output.dtype)

    sizes = TINY if network == "mlp" else SMALL
    options = {**sizes, "batch_size": 16, "epochs": 1, "num_mixtures": 2, "network": network}
    hook = nn.modules.module.register_module_forward_hook(note)
    try:
        run = logpx.fit(picture_data(IMAGE), out=tmp_path / "run", precision="bf16-mixed", **options)
    finally:
        hook.remove()
    assert dtypes == {True: {torch.bfloat16}, False: {torch.float32}}
    assert caplog.records == [] and before == (lightning.level, lightning.filters, lightning.disabled)
    assert lightning.isEnabledFor(logging.INFO), "what others log is still seen"
    model, split = run.load_model("last"), run.load_split("valid")
    with torch.no_grad(), keyed_rng(run.settings.seed, "validate", 0):
        bound = logpx.elbo(model, split.batch(torch.arange(20)).x)
    assert run.metrics()["valid"][-1] == pytest.approx(bound.double().mean().item(), rel=1e-7)


# batches


@pytest.mark.parametrize("own", [False, True])
def test_batch_normalization_of_a_single_datum_is_refused_before_an_earlier_run_is_removed(
    tmp_path: Path, own: bool
) -> None:
    class Normalizing(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.encode = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    normalized: dict[str, Any] = {**FLIPPED, "normalization": "batch", "epochs": 1}
    options = {"model": Normalizing(), "epochs": 1} if own else normalized
    data = toy_data() if own else picture_data(IMAGE, n=40)
    run = logpx.fit(data, out=tmp_path / "run", **{**options, "batch_size": 14})
    before = contents(run.path)
    for size in (13, 3, 1):
        words = f"batch_size {size} leaves 1 of 40 .*: set a batch_size that does not divide 39, or another"
        with pytest.raises(ValueError, match=words):
            logpx.fit(data, out=run.path, overwrite=True, **{**options, "batch_size": size})
    assert contents(run.path) == before
    if not own:
        logpx.fit(data, out=run.path, overwrite=True, **{**options, "normalization": "group", "batch_size": 13})


class Large(Toy):
    """A model whose decoder gives a million numbers for each draw, none of which takes memory."""

    def decoder(self, z: Tensor) -> Any:
        p: Any = super().decoder(z)
        p.table = torch.zeros(()).expand(*z.shape[:-1], 2**20 - 99)
        return p


@pytest.mark.parametrize("num_samples", [1, 2])
def test_fewer_data_are_validated_at_once_where_a_decoder_gives_many_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_samples: int
) -> None:
    data = data_set(normal(8, 3), normal(40, 3), normal(8, 3))
    with seen_batches(monkeypatch) as batches:
        for model in (Toy(), Large()):
            logpx.fit(data, model=model, out=tmp_path / type(model).__name__, epochs=1, num_samples=num_samples)
    sizes = [len(batch.x) for batch in batches[False]]
    assert sizes == ([40, 32, 8] if num_samples == 1 else [40, 16, 16, 8])


# the mean of the training data


@pytest.mark.parametrize("kind", ["8-bit", "real"])
def test_the_mean_of_the_data_is_taken_in_batches_of_any_size(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    values = pictures(1203, IMAGE) if kind == "8-bit" else 100 + normal(1203, 4)
    split = test_split(values, kind, 256 if kind == "8-bit" else None)
    scaled = values.double() / 255 if kind == "8-bit" else values.double()
    means = []
    for size in (7, 500, 5000):
        with monkeypatch.context() as patch:
            patch.setattr(calls, "MEAN_BATCH", size)
            sizes = spied_sizes(patch, split)
            means.append(mean_of(split))
        assert max(sizes) == min(size, 1203)
        assert means[-1].dtype == torch.float32 and means[-1].shape == split.event_shape
        assert torch.allclose(means[-1].double(), scaled.mean(0), rtol=2e-7, atol=1e-8)
    assert torch.equal(means[0], means[1]) and torch.equal(means[1], means[2])


def spied_sizes(patch: pytest.MonkeyPatch, split: Any) -> list[int]:
    """Collects how many data are asked for at once."""
    sizes: list[int] = []
    batch = type(split).batch

    def spy(self: Any, index: Tensor, device: Any = "cpu") -> Batch:
        sizes.append(len(index))
        return batch(self, index, device)

    patch.setattr(type(split), "batch", spy)
    return sizes


def test_a_centred_fit_starts_at_the_mean_of_the_unmirrored_data(tmp_path: Path) -> None:
    data = picture_data(IMAGE)
    run = logpx.fit(data, out=tmp_path / "run", **{**FLIPPED, "center": True, "epochs": 1, "learning_rate": 0.0})
    mean = (data.parts["train"].double() / 255).mean(0)
    assert torch.allclose(weights(run.path)["encoder.center"].double(), mean, atol=1e-6)
    model: Any = build_model(run.settings, data.event_shape, "8-bit", 256, mean.float())
    fitted: Any = run.load_model()
    assert torch.allclose(model.decoder.body.last.bias, fitted.decoder.body.last.bias, atol=1e-6)


def test_the_number_of_levels_of_the_data_is_that_of_the_likelihood(tmp_path: Path) -> None:
    few = (pictures(40, IMAGE) // 16).clamp(max=15)
    data = DataSet("few", "8-bit", 16, IMAGE, {"train": few, "valid": few[:8], "test": few[:8]}, "memory")
    run = logpx.fit(data, out=tmp_path / "run", **{**FLIPPED, "epochs": 1})
    for model in (run.model, logpx.load(run.path)):
        assert model.decoder.likelihood.levels == 16  # type: ignore[union-attr]
    x = logpx.sample(logpx.load(run.path), 3, mean=False)
    assert torch.allclose(15 * x, (15 * x).round(), atol=1e-4)
