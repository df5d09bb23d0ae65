"""The report is one page that stands alone, says what the record says, and can always be written."""

from __future__ import annotations

import base64
import copy
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal

from logpx import plots, wording
from logpx.data import DataSet
from logpx.page import _common, report

FIGURES = [
    "training_curves",
    "reconstructions",
    "samples",
    "traversals",
    "manifold",
    "histogram",
    "extremes",
    "curve",
    "pareto_k",
]
RECORD = {
    "schema": 1,
    "data": {
        "name": "digits",
        "split": "test",
        "num_data": 40,
        "kind": "binary",
        "event_shape": [1, 4, 4],
        "binarization": "dynamic",
        "hash": "sha256:00ff",
    },
    "model": "VAE",
    "estimator": "importance",
    "proposal": "encoder",
    "num_samples": 1000,
    "target_error": None,
    "share_above_target": None,
    "methods": {"encoder": 40},
    "samples": {"mean": 1000.0, "maximum": 1000.0},
    "passes": {"mean": 1001.0, "maximum": 1001.0},
    "subset": None,
    "seed": 0,
    "relaxed": None,
    "log_evidence": {
        "mean": -23.304,
        "total": -932.16,
        "error": 0.2101,
        "monte_carlo_error": 0.0042,
        "test_set_error": 0.21,
    },
    "bits_per_dim": {"mean": 2.1013, "error": 0.0189},
    "elbo": -23.64,
    "rate": 9.8,
    "distortion": 13.84,
    "active_units": 1,
    "num_latents": 2,
    "jackknife": {"mean": -23.29, "bias": -0.014},
    "pareto_k": {"share_above_05": 0.25, "share_above_07": 0.05, "sentence": "5.0% of the data have k-hat > 0.7."},
    "ess": {"median": 141.26, "minimum": 3.1},
    "num_nonfinite": 0,
    "curve": {"num_samples": [31.25, 62.5, 1000.0], "mean": [-23.4, -23.35, -23.304], "error": [0.21, 0.21, 0.21]},
    "extrapolation": {
        "mean": -23.288,
        "error": 0.0051,
        "gain": 0.016,
        "gain_error": 0.001,
        "num_points": 4,
        "sentence": "By a line in 1/S through the last 4 points of the curve over S.",
    },
    "flags": ["5.0% of the data have k-hat > 0.7."],
    "provenance": {"logpx": "0.1", "torch": "2.13", "device": "cpu", "date": "2025-01-01", "seconds": 1.5},
}


class Model:
    """A linear VAE with fixed weights, and nothing of logpx in it."""

    def __init__(self, num_dims: int, num_latents: int = 2, event_shape: tuple[int, ...] = (1, 4, 4)) -> None:
        self.a = torch.randn(num_latents, num_dims, generator=torch.Generator().manual_seed(0))
        self.event_shape = event_shape

    def prior(self) -> Distribution:
        return Independent(Normal(torch.zeros(len(self.a)), 1.0), 1)

    def encoder(self, x: Tensor) -> Distribution:
        return Independent(Normal(x.flatten(1) @ self.a.T, 0.5), 1)

    def decoder(self, z: Tensor) -> Distribution:
        logits = (z @ self.a).unflatten(-1, self.event_shape)
        return Independent(Bernoulli(logits=logits), len(self.event_shape))


class RealModel(Model):
    """The same with a Gaussian likelihood."""

    def decoder(self, z: Tensor) -> Distribution:
        return Independent(Normal((z @ self.a).unflatten(-1, self.event_shape), 1.0), len(self.event_shape))


class FakeRun:
    """What the report asks of a run folder."""

    def __init__(self, path: Path, record: Any = RECORD, scores: Any = "some", model: Any = None) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path, self.record = path, record
        self.given, self.model = scores, Model(16) if model is None else model
        self.config: dict[str, Any] = {
            "data": {"name": "digits", "num_valid": None},
            "model": {"hidden": [64, 32], "extra": {}},
            "seed": 0,
        }

    def metrics(self) -> dict[str, np.ndarray]:
        return {"epoch": np.arange(1.0, 4.0), "train": np.array([-30.0, -25.0, -24.0]), "valid": np.full(3, np.nan)}

    def events(self) -> list[str]:
        return []

    def evaluation(self) -> Any:
        return self.record

    def scores(self) -> Any:
        return scores() if self.given == "some" else self.given

    def bounds(self) -> Any:
        return None

    def load_model(self) -> Any:
        return self.model

    def load_split(self, name: str) -> Any:
        return data_set().split(name)


def data_set(kind: Any = "binary", event_shape: tuple[int, ...] = (1, 4, 4)) -> DataSet:
    rng = torch.Generator().manual_seed(0)
    values = torch.randn(40, *event_shape, generator=rng)
    values = values if kind == "real" else (values > 0).to(torch.uint8)
    parts = {"train": values, "valid": values[:0], "test": values}
    return DataSet("things", kind, 2 if kind == "binary" else None, event_shape, parts, "here")


def scores(n: int = 40) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"index": np.arange(n), "log_evidence": rng.normal(-23, 2, n), "pareto_k": rng.normal(0.4, 0.2, n)}


def record(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(RECORD), **changes}


def write(run: Any, **options: Any) -> str:
    return report(run, **options).read_text(encoding="utf-8")


def shown(run: FakeRun) -> list[str]:
    return sorted(path.stem for path in (run.path / "figures").glob("*.png"))


class Page(HTMLParser):
    """Every tag with its attributes, and the text as a reader sees it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> FakeRun:
    run = FakeRun(tmp_path_factory.mktemp("page") / "run")
    write(run)
    return run


def written(run: FakeRun) -> str:
    return (run.path / "report.html").read_text(encoding="utf-8")


def test_the_page_stands_alone(painted: FakeRun) -> None:
    html = written(painted)
    page = Page(html)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == len(FIGURES)
    assert all(str(image["src"]).startswith("data:image/png;base64,") and image["alt"] for image in images)
    links = [a[name] for _, a in page.tags for name in ("src", "href", "srcset", "action") if name in a]
    assert all(str(link).startswith("data:") for link in links)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "url(" not in html and "@import" not in html and "http" not in html


def test_figures_are_those_of_the_folder_in_the_order_of_the_story(painted: FakeRun) -> None:
    page = Page(written(painted))
    assert [a["id"] for tag, a in page.tags if tag == "figure"] == FIGURES
    assert shown(painted) == sorted(FIGURES)
    embedded = [base64.b64decode(str(a["src"]).split(",")[1]) for tag, a in page.tags if tag == "img"]
    assert embedded == [(painted.path / "figures" / f"{name}.png").read_bytes() for name in FIGURES]


def test_the_headline_gives_the_number_both_errors_and_bits(painted: FakeRun) -> None:
    text = Page(written(painted)).text
    assert "log p(x) = −23.30 ± 0.21 nats per datum" in text
    assert "2.101 ± 0.019 bits/dim" in text
    assert "Monte Carlo error 0.0042 nats" in text and "test-set error 0.21 nats" in text
    assert text.count("5.0% of the data have k-hat > 0.7.") == 1
    assert "1 of 2" in text and "141.3 (3.1)" in text and "sha256:00ff" in text
    assert "64, 32" in text and "model.hidden" in text


@pytest.mark.usefixtures("unpainted")
def test_the_results_name_the_effort_and_the_limit_in_s(tmp_path: Path) -> None:
    text = Page(write(FakeRun(tmp_path / "run"))).text
    assert "with 1,000 samples per datum, proposal: encoder (seed 0)" in text
    assert "samples with seed 0 1,000 samples per datum" in text
    assert "passes per datum forward 1, backward 2, pilots and fits included 1,001" in text
    assert "from infinitely many samples" in text and "−23.2880 ± 0.0051 nats" in text
    assert "a line in 1/S through the last 4 points has this intercept" in text
    reason = "No extrapolation in the number of samples: 9.0% of the data have a k-hat of 0.5 or more."
    without = record(extrapolation={"mean": None, "error": None, "sentence": reason})
    text = Page(write(FakeRun(tmp_path / "without", without))).text
    assert reason in text and "1/S through" not in text


@pytest.mark.usefixtures("unpainted")
def test_bounds_of_a_relaxed_score_are_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"num_temperatures": 5, "lower": -3.0, "upper": -2.9, "gap": 0.1, "gap_error": 0.01}
    for reason, quantity in ((None, "log p(x)"), ("greys", "relaxed score")):
        bounds = {"num_data": 9, "relaxed": reason, "rows": [row, row | {"num_temperatures": 20}]}
        monkeypatch.setattr(FakeRun, "bounds", lambda _, bounds=bounds: bounds)
        page = Page(write(FakeRun(tmp_path / quantity[:3])))
        assert f"a width near 0 shows that its {quantity} can be computed" in page.text
        titles = [attributes.get("alt") for _, attributes in page.tags]
        assert f"With 20 steps the bounds of {quantity} are 0.100 nats apart." in titles


@pytest.mark.usefixtures("unpainted")
def test_chains_are_called_chains(tmp_path: Path) -> None:
    chains = record(estimator="annealed", samples={"mean": 32.0, "maximum": 32.0})
    text = Page(write(FakeRun(tmp_path / "run", chains))).text
    assert "“annealed” with 32 chains per datum" in text
    assert "out of 32 chains per datum" in text and "samples with seed 0 32 chains per datum" in text
    assert "32 samples" not in text
    table = dict(wording.rows(chains | {"passes": {"mean": 9.0}}))
    assert table["samples"].startswith("32 chains per datum") and table["ESS"].endswith("smallest 3.1 chains")


@pytest.mark.usefixtures("unpainted")
def test_a_subset_is_said_to_stand_for_all(tmp_path: Path) -> None:
    parts = {**RECORD["log_evidence"], "subset_error": 0.0312}  # type: ignore[dict-item]
    subset = {"num_data": 10, "num_all": 40, "control_samples": 8, "error": 0.0315}
    text = Page(write(FakeRun(tmp_path / "run", record(log_evidence=parts, subset=subset), scores(10)))).text
    assert "from 10 of the data, drawn at random: with the ELBO of all as control variate" in text
    assert "As a statement on just these 40 data its error is 0.032 nats" in text
    assert text.count("0.031 nats") == 2
    assert "10 (0)" in text
    assert "subset" not in Page(write(FakeRun(tmp_path / "all"))).text


@pytest.mark.usefixtures("unpainted")
def test_a_relaxed_score_is_no_log_probability_and_has_no_bits(tmp_path: Path) -> None:
    relaxed = record(relaxed="binary cross-entropy on greys is a relaxed likelihood", bits_per_dim=None)
    text = Page(write(FakeRun(tmp_path / "run", relaxed))).text
    assert "relaxed score = −23.30 ± 0.21" in text
    assert "Not a log-probability of the data. Binary cross-entropy on greys is a relaxed likelihood." in text
    assert "bits/dim" not in text and "log p(x)" not in text
    # bits that a faulty record carries are not shown either
    faulty = record(relaxed="a density on 8-bit data")
    assert "bits" not in Page(write(FakeRun(tmp_path / "run", faulty))).text


@pytest.mark.usefixtures("unpainted")
def test_without_an_evaluation_the_page_says_how_to_get_one(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "my run", None, None)
    text = Page(write(run)).text
    assert f"logpx evaluate '{run.path}'" in text
    assert shown(run) == sorted(FIGURES[:5])
    assert "Results" not in text and "Provenance" not in text


@pytest.mark.usefixtures("unpainted")
def test_without_scores_the_record_is_still_shown(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run", scores=None)
    assert "−23.30 ± 0.21" in Page(write(run)).text
    assert shown(run) == sorted([*FIGURES[:5], "curve"])


@pytest.mark.usefixtures("unpainted")
def test_a_name_is_text_and_never_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)<"
    changed = record(flags=[evil])
    changed["data"]["name"] = changed["estimator"] = evil
    run = FakeRun(tmp_path / evil, changed)
    run.config = {"data": {"name": evil}, evil: "<b onclick=x>$"}
    page = Page(write(run))
    assert "script" not in {tag for tag, _ in page.tags}
    assert not any("onclick" in attributes for _, attributes in page.tags)
    assert page.text.count(evil) >= 4


def test_records_of_infinite_and_missing_numbers(tmp_path: Path) -> None:
    values = scores()
    values["log_evidence"][:2] = -math.inf, math.nan
    values["pareto_k"][:3] = math.inf, math.nan, -math.inf
    broken = record(
        log_evidence={"mean": -math.inf, "error": math.nan, "monte_carlo_error": math.inf, "test_set_error": math.nan},
        bits_per_dim={"mean": math.inf, "error": math.nan},
        elbo=None,
        rate=None,
        distortion=None,
        active_units=None,
        num_latents=None,
        jackknife=None,
        num_nonfinite=2,
        curve={"num_samples": [1.0, 2.0], "mean": [-math.inf, None], "error": [math.nan, None]},
        pareto_k={"share_above_05": None, "share_above_07": None, "sentence": "Too few samples."},
    )
    text = Page(write(FakeRun(tmp_path / "run", broken, values))).text
    assert "log p(x) = −∞ nats" in text and "Monte Carlo error ∞ nats" in text
    assert "40 (2)" in text and "Too few samples." in text and "ELBO" not in text.split("Results")[1]


@pytest.mark.usefixtures("unpainted")
def test_an_old_record_with_missing_parts_still_gives_a_page(tmp_path: Path) -> None:
    assert "−5.00" in Page(write(FakeRun(tmp_path / "run", {"log_evidence": {"mean": -5}}, {}))).text


def test_vectors_and_few_latents_of_another_kind(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run", model=RealModel(6, 3, (6,)))
    write(run, split=data_set("real", (6,)).split("test"))
    assert shown(run) == sorted(set(FIGURES) - {"manifold"})


def test_a_model_and_data_can_be_handed_over(tmp_path: Path) -> None:
    run = FakeRun(tmp_path / "run", None, None)
    run.load_model = run.load_split = None  # type: ignore[method-assign, assignment]
    empty = data_set().split("valid")
    write(run, model=Model(16, 5), split=empty)
    assert shown(run) == ["samples", "training_curves"]


@pytest.mark.usefixtures("unpainted")
def test_extremes_are_looked_up_by_their_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, np.ndarray] = {}

    def spy(images: np.ndarray, values: np.ndarray, **options: Any) -> Any:
        calls.update(images=images, values=values)
        return extremes(images, values, **options)

    extremes = plots.extremes
    monkeypatch.setattr(plots, "extremes", spy)
    values = scores(30)
    values["index"] = np.arange(39, 9, -1)
    write(FakeRun(tmp_path / "run", scores=values))
    x = data_set().parts["test"].float().numpy()
    worst, best = values["log_evidence"].argmin(), values["log_evidence"].argmax()
    assert calls["values"][0] == values["log_evidence"][worst] and calls["values"][10] == values["log_evidence"][best]
    assert (calls["images"][0] == x[39 - worst]).all() and (calls["images"][10] == x[39 - best]).all()


def test_writing_again_gives_the_same_bytes_and_leaves_nothing_behind(painted: FakeRun, tmp_path: Path) -> None:
    first = written(painted)
    run = FakeRun(tmp_path / "run")
    torch.rand(3)
    before = torch.get_rng_state()
    assert write(run) == first
    assert torch.equal(torch.get_rng_state(), before)
    files = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    assert files == {"report.html", *(f"figures/{name}.png" for name in FIGURES)}
    assert write(run, seed=1) != first


@pytest.mark.usefixtures("unpainted")
def test_a_failure_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = FakeRun(tmp_path / "run")
    first = write(run)

    def fail(*_: Any) -> str:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    run.config["seed"] = 17
    with pytest.raises(OSError, match="disk full"):
        report(run)  # type: ignore[arg-type]
    monkeypatch.undo()
    assert (run.path / "report.html").read_text(encoding="utf-8") == first
    assert not list(run.path.rglob("*.tmp*"))


@pytest.mark.parametrize(
    ("mean", "error", "text"),
    [
        (-87.7012, 0.2412, "−87.70 ± 0.24"),
        (-20437.0, 130.0, "−20,437 ± 130"),
        (0.16151, 0.00042, "0.16151 ± 0.00042"),
        (-1.5, 0.0, "−1.50 ± 0.00"),
        (-1.5, math.inf, "−1.50 ± ∞"),
        (-1.5, None, "−1.50"),
        (-math.inf, 0.1, "−∞"),
        (None, 0.1, "–"),
    ],
)
def test_numbers_have_the_digits_of_their_error(mean: Any, error: Any, text: str) -> None:
    assert _common.with_error(mean, error) == text


def test_small_numbers_keep_two_digits() -> None:
    written = [_common.brief(x) for x in (0.7, 0.0042, 12.4, 3e-7, 0.0, -0.021)]
    assert written == ["0.70", "0.0042", "12", "3.0e−07", "0.00", "−0.021"]
