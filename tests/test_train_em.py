"""Models that know their log p(x) go the whole road: fitted by EM, interrupted, evaluated, pictured, compared."""

from __future__ import annotations

import itertools
import json
import math
import re
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_same_result, contents, data_set, metrics, normal, run_command, test_split
from matplotlib.figure import Figure
from torch import Tensor

import logpx
from logpx import LogpxError, plots, train_em
from logpx.cli import main
from logpx.data import DataSet
from logpx.evaluation import evaluate
from logpx.exact import BernoulliMixture, FactorAnalysis, GaussianMixture, ProbabilisticPCA
from logpx.page import report
from logpx.run import Run

SMALL: dict[str, Any] = {"model": "bernoulli-mixture", "components": 12, "tolerance": 1e-4}
MODELS: list[dict[str, Any]] = [
    {"model": "bernoulli-mixture", "components": 3, "pseudo_count": 0.5},
    *({"model": "gaussian-mixture", "components": 3, "covariance": kind} for kind in ("full", "diagonal", "tied")),
    {"model": "factor-analysis", "latent_dim": 2},
    {"model": "ppca", "latent_dim": 2, "variance_floor": 1e-4},
]
CLASSES = {
    "bernoulli-mixture": BernoulliMixture,
    "gaussian-mixture": GaussianMixture,
    "factor-analysis": FactorAnalysis,
    "ppca": ProbabilisticPCA,
}
each_model = pytest.mark.parametrize("options", MODELS, ids=lambda options: "-".join(map(str, options.values())))


def clusters(n: int, seed: int) -> Tensor:
    return 3 * normal(3, 4, seed=0)[torch.arange(n) % 3] + normal(n, 4, seed=seed)


def data_for(options: dict[str, Any]) -> DataSet:
    parts = [clusters(n, seed) for seed, n in enumerate((90, 20, 30), 1)]
    if options["model"] == "bernoulli-mixture":
        return data_set(*((part > 0).to(torch.uint8) for part in parts), kind="binary", levels=2)
    return data_set(*parts)


def fitted(path: Path, **options: Any) -> Run:
    return logpx.fit("digits", out=path, **{**SMALL, **options})


def interrupt_at(monkeypatch: pytest.MonkeyPatch, *iterations: int) -> None:
    """Lets Ctrl-C come after certain iterations, counted over all starts, each time once."""
    waiting = list(iterations)

    @contextmanager
    def track(*args: Any) -> Iterator[Callable[[int, str], None]]:
        def show(done: int, note: str) -> None:
            while done in waiting:
                waiting.remove(done)
                signal.raise_signal(signal.SIGINT)

        yield show

    monkeypatch.setattr(train_em, "track", track)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = fitted(tmp_path_factory.mktemp("runs") / "mixture")
    run.evaluate()
    return run


# ---------------------------------------------------------------- the fit


def test_a_mixture_is_fitted_and_evaluated_by_the_command_line(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = run_command("fit", "digits", "--model", "bernoulli-mixture", "--components", "5", "--out", run)
    assert (done.returncode, done.stderr) == (0, "")
    greys, fit, following = done.stdout.splitlines()
    assert greys == "Greys were binarized (dynamic): EM passes over one draw of them."
    words = r"Fitted in [\d.]+ s by EM, (\d+) iterations from start \d of 3, converged: log p\(x\) (-[\d.]+) nats on "
    found = re.fullmatch(words + r"train\.", fit)
    last = metrics(run)[-1]
    assert found is not None and found.groups() == (last["iteration"], f"{float(last['log_evidence']):.2f}")
    assert following == f"Next: logpx evaluate {run}"
    done = run_command("evaluate", run)
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads((run / "evaluation.json").read_text())
    assert (record["estimator"], record["num_samples"], record["log_evidence"]["monte_carlo_error"]) == (
        "exact",
        None,
        0,
    )
    assert "exact: the model's own log p(x), in closed form" in done.stdout
    assert not {"k-hat", "ESS", "Monte Carlo", "samples"} & set(
        re.findall(r"k-hat|ESS|Monte Carlo|samples", done.stdout)
    )


def test_the_metrics_are_one_row_per_iteration_and_never_fall(mixture: Run) -> None:
    columns = mixture.metrics()
    rows = list(zip(*(columns[name] for name in ("start", "segment", "penalized", "gain")), strict=True))
    assert sorted(set(columns["start"])) == [0, 1, 2]
    for (start, segment, low, _), (same, other, high, gain) in itertools.pairwise(rows):
        if (start, segment) == (same, other):
            # the E-step of bytes is in float32
            assert gain == pytest.approx(high - low) and gain > -1e-5
        else:
            assert math.isnan(gain)
    assert np.allclose(columns["elbo_after"], columns["log_evidence"], rtol=0, atol=1e-4)
    later = columns["iteration"] > 0
    assert (np.isnan(columns["elbo_before"]) == ~later).all()
    assert (columns["elbo_before"] <= columns["log_evidence"] + 1e-5)[later].all()
    train = mixture.load_split("train")
    log_p = mixture.load_model().log_evidence(train.batch(torch.arange(len(train))).x)  # type: ignore[attr-defined]
    assert columns["log_evidence"][-1] == pytest.approx(log_p.mean().item(), abs=1e-4)
    assert columns["gain"][-1] < SMALL["tolerance"]


@each_model
def test_every_model_goes_the_whole_road(options: dict[str, Any], tmp_path: Path) -> None:
    data = data_for(options)
    run = logpx.fit(data, out=tmp_path / "run", **options)
    assert run.is_em and not run.is_relaxed
    model: Any = run.load_model()
    assert type(model) is CLASSES[options["model"]]
    # the weights alone bring the model back
    again: Any = Run.open(run.path, data=data).load_model()
    test = run.load_split("test")
    x = test.batch(torch.arange(len(test))).x
    assert torch.equal(again.log_evidence(x), model.log_evidence(x))
    evaluation = run.evaluate()
    assert np.allclose(evaluation.scores()["log_evidence"], model.log_evidence(x))
    assert evaluation.record["log_evidence"]["monte_carlo_error"] == 0
    assert (evaluation.record["relaxed"], evaluation.record["estimator"]) == (None, "exact")
    num_latents = options.get("components") or options["latent_dim"]
    assert logpx.encode(again, test)["mean"].shape == (30, num_latents)
    assert logpx.sample(again, 5).shape == logpx.reconstruct(again, x[:5]).shape == (5, 4)
    assert logpx.sample(again, 5, mean=False).isfinite().all()
    if options.get("covariance") in ("diagonal", "tied") or options["model"] == "ppca":
        return  # their pages are those of their kin
    text = report(run).read_text()
    assert "Expectation maximization" in text and "nothing is uncertain but the data" in text
    assert "em.tolerance" in text and "train.epochs" not in text and "model.hidden" not in text
    figures = {path.stem for path in (run.path / "figures").iterdir()}
    assert {"em_ascent", "samples", "reconstructions", "histogram", "extremes"} <= figures
    assert ("components" in figures) == ("mixture" in options["model"])
    assert ("traversals" in figures) == ("mixture" not in options["model"])
    assert not {"pareto_k", "curve", "training_curves"} & figures


@each_model
def test_importance_sampling_from_the_exact_posterior_agrees_with_the_closed_form(options: dict[str, Any]) -> None:
    data = data_for(options)
    split = data.split("test")
    model: Any = {
        "bernoulli-mixture": lambda: BernoulliMixture.blank(3, (4,)),
        "gaussian-mixture": lambda: GaussianMixture.blank(3, (4,), options["covariance"]),
        "factor-analysis": lambda: FactorAnalysis.blank(2, (4,)),
        "ppca": lambda: ProbabilisticPCA.blank(2, (4,)),
    }[options["model"]]()
    model.initialize(split.batch(torch.arange(30)).x, seed=0)
    exact, sampled = (evaluate(model, split, estimator=name, num_samples=30) for name in ("auto", "importance"))
    assert (exact.record["estimator"], sampled.record["estimator"]) == ("exact", "importance")
    assert np.allclose(exact.scores()["log_evidence"], sampled.scores()["log_evidence"], rtol=0, atol=1e-4)
    assert (sampled.scores()["standard_error"] < 1e-4).all()
    assert exact.record["bits_per_dim"] == pytest.approx(sampled.record["bits_per_dim"], abs=1e-5)
    assert set(exact.record) == set(sampled.record)
    assert json.loads(json.dumps(exact.record)) == exact.record


def test_an_estimator_is_refused_where_the_model_has_not_what_it_needs() -> None:
    class Nothing:
        prior = encoder = decoder = staticmethod(lambda z: z)

    class Sums(FactorAnalysis):
        def log_evidence(self, x: Tensor) -> Tensor:
            return super().log_evidence(x).sum()

    split = test_split(normal(20, 4))
    with pytest.raises(ValueError, match="exact needs a model with a method log_evidence, but Nothing has none"):
        evaluate(Nothing(), split, estimator="exact")
    with pytest.raises(ValueError, match=r"log_evidence\(x\) must have shape \(20,\), but has \(\)"):
        evaluate(Sums(torch.eye(4)[:, :2], torch.zeros(4), torch.ones(4)), split)


def test_the_name_of_the_model_makes_the_default_folder_and_may_be_given_in_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = logpx.fit("digits", model="bernoulli-mixture", components=2, max_iterations=2, restarts=1)
    assert run.path == Path("runs/digits-bernoulli-mixture")
    assert run.info["num_parameters"] == 2 + 2 * 64


def test_greys_have_a_relaxed_score_under_a_gaussian(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, words = tmp_path / "run", ["--model", "ppca", "--latent-dim", "2", "--binarization", "none"]
    assert main(["fit", "digits", *words, "--out", str(run)]) == 0
    assert "relaxed score (not log p(x))" in capsys.readouterr().out
    assert main(["evaluate", str(run)]) == 0
    out = capsys.readouterr().out
    assert "Not a log-probability of the data: a density on 8-bit data" in out
    assert "bits" not in out


def test_what_was_mended_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, words = tmp_path / "run", ["--model", "bernoulli-mixture", "--pseudo-count", "0", "--components", "3"]
    assert main(["fit", "digits", *words, "--restarts", "1", "--max-iterations", "2", "--out", str(run)]) == 0
    out = capsys.readouterr().out
    assert "Start 1, iteration 1: Component" in out and "give a pseudo_count above 0." in out
    assert "not converged (--max-iterations prolongs it)" in out
    assert Run.open(run).events() == out.splitlines()[:1]
    assert "give a pseudo_count above 0." in report(Run.open(run)).read_text()


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["--binarization", "none"],
            "model 'bernoulli-mixture' is not for 8-bit data: choose model gaussian-mixture, or",
        ),
        (["--model", "gaussian-mixture"], "model 'gaussian-mixture' is not for binary data: choose model bernoulli-"),
        (["--epochs", "3"], "epochs is a setting of model vae, but the model is bernoulli-mixture"),
        (["--hidden", "3"], "hidden is a setting of model vae"),
        (["--covariance", "tied"], "covariance is a setting of model gaussian-mixture, but"),
    ],
)
def test_what_does_not_go_together_is_refused_and_an_earlier_run_stays(
    mixture: Run, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(mixture.path)
    code = main(["fit", "digits", "--model", "bernoulli-mixture", "--overwrite", "--out", str(mixture.path), *words])
    assert code == 1 and message in capsys.readouterr().err
    assert contents(mixture.path) == before


# ---------------------------------------------------------------- it can be interrupted


@pytest.mark.parametrize("at", [(1,), (10,), (17,), (30,), (31,), (45,), (2, 12, 25, 30, 40)], ids=str)
def test_an_interrupted_fit_is_usable_and_goes_on_to_the_same_result(
    mixture: Run, at: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(metrics(mixture.path)) > 45
    path = tmp_path / "run"
    interrupt_at(monkeypatch, *at)
    with pytest.raises(KeyboardInterrupt, match=f"Interrupted and saved; continue with: logpx fit --resume {path}"):
        fitted(path)
    assert len(metrics(path)) == at[0]
    assert math.isfinite(Run.open(path).evaluate(limit=20).record["log_evidence"]["mean"])
    for _ in at[1:]:
        with pytest.raises(KeyboardInterrupt):
            logpx.resume(path)
    resumed = logpx.resume(path)
    assert_same_result(path, mixture.path)
    # the evaluation spoke of other weights
    assert resumed.evaluation() is None


def test_saving_on_the_way_changes_nothing(mixture: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_em, "SAVE_EVERY", 0.0)
    assert_same_result(fitted(tmp_path / "run").path, mixture.path)


def test_a_fit_is_prolonged_as_if_it_had_been_longer(tmp_path: Path) -> None:
    long = fitted(tmp_path / "long", tolerance=0.0, max_iterations=25)
    short = fitted(tmp_path / "short", tolerance=0.0, max_iterations=4)
    assert len(short.metrics()["start"]) == 12
    logpx.resume(short.path, max_iterations=25)
    assert_same_result(short.path, long.path)
    assert short.settings == long.settings


def test_a_finished_fit_that_is_resumed_keeps_its_evaluation(mixture: Run) -> None:
    before = contents(mixture.path)
    logpx.resume(mixture.path)
    assert contents(mixture.path) == before
    with pytest.raises(ValueError, match="epochs is a setting of model vae"):
        logpx.resume(mixture.path, epochs=3)


def test_without_a_saved_state_a_resume_begins_anew(mixture: Run, tmp_path: Path) -> None:
    run = fitted(tmp_path / "run", max_iterations=3)
    (run.path / "training.pt").unlink()
    (run.path / "config.yaml").write_text((mixture.path / "config.yaml").read_text())
    assert_same_result(logpx.resume(run.path).path, mixture.path)


def test_a_damaged_state_is_one_sentence(tmp_path: Path) -> None:
    run = fitted(tmp_path / "run", max_iterations=2)
    (run.path / "training.pt").write_bytes(b"not a state")
    with pytest.raises(LogpxError, match="cannot be resumed from"):
        logpx.resume(run.path)


# ---------------------------------------------------------------- figures


def test_the_ascent_shows_every_start_and_the_elbo_on_the_line(mixture: Run) -> None:
    columns = mixture.metrics()
    (ax,) = plots.em_ascent(columns).axes
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert len(ax.get_lines()) == 4
    best = columns["start"] == columns["start"][-1]
    assert np.array_equal(lines["log p(x), best start"].get_ydata(), columns["log_evidence"][best])
    x, y = (np.asarray(values) for values in lines["ELBO after an E-step"].get_data())
    assert np.allclose(y, columns["log_evidence"][best][x.astype(int)], rtol=0, atol=1e-4)
    assert ax.get_ylim()[1] > columns["log_evidence"].max()
    assert ax.get_xlabel() == "iterations of EM" and "nats" in ax.get_ylabel()


def test_the_first_steps_show_the_gap_that_each_e_step_closes(mixture: Run) -> None:
    columns = mixture.metrics()
    figure: Figure = plots.em_touch(columns)
    rows = np.flatnonzero(columns["start"] == columns["start"][-1])[1:8]
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert np.array_equal(lines["ELBO before it"].get_ydata(), columns["elbo_before"][rows])
    assert np.array_equal(lines["ELBO after it"].get_ydata(), columns["elbo_after"][rows])
    gaps = [f"{gap:.3f}" for gap in columns["log_evidence"][rows] - columns["elbo_before"][rows]]
    assert ", ".join(gaps) in figure.get_supxlabel()


@pytest.mark.parametrize("num_components", [1, 5, 13, 70])
def test_components_are_drawn_by_weight(num_components: int) -> None:
    weights = np.linspace(1, 2, num_components) / np.linspace(1, 2, num_components).sum()
    figure = plots.component_grid(np.random.default_rng(0).random((num_components, 1, 4, 4)), weights)
    labels = [text.get_text() for text in figure.axes[0].texts if text.get_text()]
    assert labels == [f"{100 * weight:.1f}%" for weight in sorted(weights, reverse=True)[:60]]
    assert figure.get_suptitle().startswith("The 60 heaviest of 70" if num_components == 70 else "The components")


# ---------------------------------------------------------------- what a model buys over a baseline


def test_a_report_says_what_a_vae_buys_over_a_mixture(mixture: Run, run_copy: Path) -> None:
    vae = Run.open(run_copy)
    vae.evaluate(estimator="importance", num_samples=50)
    text = " ".join(re.sub("<[^>]*>", "", report(vae, baseline=mixture).read_text()).split())
    difference = vae.scores()["log_evidence"] - mixture.scores()["log_evidence"]  # type: ignore[index]
    error = difference.std(ddof=1) / math.sqrt(300)
    found = re.search(r"([\d.]+) ± ([\d.]+) nats per datum (more|less) than (\S+) \(BernoulliMixture\)", text)
    assert found is not None
    assert float(found[1]) == pytest.approx(abs(difference.mean()), abs=0.06)
    assert float(found[2]) == pytest.approx(error, rel=0.06)
    assert found[3] == ("more" if difference.mean() > 0 else "less") and found[4] == str(mixture.path)
    assert f"of which {(difference > 0).sum()} are more probable under this model" in text
    assert "That of the baseline is exact." in text
    assert "train.epochs" in text and "em.tolerance" not in text and "pseudo_count" not in text
    other_way = " ".join(re.sub("<[^>]*>", "", report(mixture, baseline=vae).read_text()).split())
    assert f"nats per datum {'less' if found[3] == 'more' else 'more'} than {vae.path} (VAE)" in other_way
    assert "That of the baseline is an estimate, on average too low" in other_way
    worse, better = (text, other_way) if found[3] == "less" else (other_way, text)
    assert "The baseline is better than this model by" in worse
    assert "This model is better than the baseline by" in better


def test_without_a_baseline_the_report_names_the_commands_that_make_one(
    mixture: Run, run_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = report(Run.open(run_copy)).read_text()
    fit, evaluation, again = (
        shlex.split(words.replace("&#39;", "'"))
        for words in re.findall(r"<code>(logpx (?:fit|evaluate|report) [^<]*)</code>", text)[-3:]
    )
    assert main([*fit[1:], "--components", "2", "--max-iterations", "2"]) == 0
    assert main(evaluation[1:]) == 0
    assert main(["evaluate", str(run_copy), "--estimator", "importance", "--num-samples", "20"]) == 0
    assert main(again[1:]) == 0
    assert "BernoulliMixture" in (run_copy / "report.html").read_text()
    assert capsys.readouterr().err == ""
    assert "This model is a baseline itself" in report(mixture).read_text()


def test_runs_that_cannot_be_compared_are_refused(mixture: Run, run_copy: Path, tmp_path: Path) -> None:
    vae = Run.open(run_copy)
    with pytest.raises(ValueError, match=r"their data differ in num_data \(64 and 300\)"):
        report(vae, baseline=mixture)
    fresh = fitted(tmp_path / "fresh", max_iterations=2)
    with pytest.raises(ValueError, match="has not been evaluated: run 'logpx evaluate"):
        report(mixture, baseline=fresh)
    other = fitted(tmp_path / "other", max_iterations=2, data_seed=5)
    other.evaluate()
    with pytest.raises(ValueError, match=r"their data differ in seed \(0 and 5\)"):
        report(mixture, baseline=other)
    relaxed = logpx.fit("digits", model="ppca", latent_dim=2, binarization="none", out=tmp_path / "relaxed")
    relaxed.evaluate()
    with pytest.raises(ValueError, match="has no log-probability to compare, but a relaxed score"):
        report(mixture, baseline=relaxed)
