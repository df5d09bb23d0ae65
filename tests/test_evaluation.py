"""An evaluation says what is known of log p(x), how well, and what of it cannot be relied on."""

from __future__ import annotations

import csv
import itertools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers import POISON, Toy, data_set, normal, suitable, test_split
from scipy import stats
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal, Poisson, constraints

import logpx
from logpx import DataSet
from logpx.evaluation import Evaluation, Shards, evaluate
from logpx.evidence import ESTIMATORS, Block, Estimator, Evidence
from logpx.likelihoods import LIKELIHOODS, make_likelihood
from logpx.processes import divided
from logpx.subset import Subset, draw_subset
from logpx.wording import headline

D, L = 6, 2
# the first use of torch.func's forward mode compiles scripts, of which torch itself warns
SCRIPTS = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
BINARY = (normal(50, 4, seed=5) > 0).to(torch.uint8)
GREYS = torch.randint(0, 256, (50, 4), generator=torch.Generator().manual_seed(6)).to(torch.uint8)


def exact(posterior_scale: float = 1.0, dtype: torch.dtype = torch.float32) -> logpx.FactorAnalysis:
    loading, noise = normal(D, L, seed=1).to(dtype), torch.linspace(0.5, 1.5, D, dtype=dtype)
    return logpx.FactorAnalysis(loading, torch.ones(D, dtype=dtype), noise, posterior_scale)


def reals(n: int = 100) -> Any:
    """Draws from the exact model."""
    model = exact()
    z = normal(n, L, seed=2)
    return test_split(z @ model.loading.T + model.mean + model.noise_scale * normal(n, D, seed=3))


def truth(split: Any) -> np.ndarray:
    return exact(dtype=torch.float64).log_evidence(split.values.double()).numpy()


class Standard:
    """A person's own object with one standard normal latent and no use for it; subclasses say what x is."""

    def prior(self) -> Distribution:
        return Independent(Normal(torch.zeros(1), 1.0), 1)

    def encoder(self, x: Tensor) -> Distribution:
        return Independent(Normal(torch.zeros(len(x), 1), 1.0), 1)

    def decoder(self, z: Tensor) -> Distribution:
        raise NotImplementedError


class Coins(Standard):
    """Independent coins; torch checks its arguments unless told otherwise."""

    def __init__(self, check: bool = True) -> None:
        self.check = check

    def decoder(self, z: Tensor) -> Distribution:
        logits = torch.zeros(*z.shape[:-1], 4)
        return Independent(Bernoulli(logits=logits, validate_args=self.check), 1, validate_args=self.check)


class Gaussian(Standard):
    def decoder(self, z: Tensor) -> Distribution:
        return Independent(Normal(torch.zeros(*z.shape[:-1], 4), 1.0), 1)


class Grid(constraints.Constraint):
    """The 256 levels k / 255."""

    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        return ((255 * value - (255 * value).round()).abs() < 1e-3) & (value >= 0) & (value <= 1)


class Levels(Categorical):
    """A probability for each of the 256 levels, given as k / 255."""

    support = Grid()

    def log_prob(self, value: Tensor) -> Tensor:
        level = (255 * value).round().long().expand(self.batch_shape)
        return self.logits.gather(-1, level.unsqueeze(-1)).squeeze(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return super().expand(batch_shape, self._get_checked_instance(Levels, _instance))


class Histogram(Standard):
    """Pixels with one distribution over 256 levels, given by its logits."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    def decoder(self, z: Tensor) -> Distribution:
        return Independent(Levels(logits=self.logits.expand(*z.shape[:-1], 4, 256)), 1)


class Builtin(Standard):
    """A likelihood of logpx by its name."""

    def __init__(self, name: str, size: float = 0.3, levels: int = 256) -> None:
        self.likelihood = make_likelihood(name, (4,), levels=levels)
        self.weight = size * normal(1, self.likelihood.num_parameters, seed=8)

    def decoder(self, z: Tensor) -> Distribution:
        return self.likelihood(z @ self.weight)


class OwnWeights(Standard):
    """A model that brings its own log-weights, those of a fair coin per dimension plus noise."""

    def log_weights(self, x: Tensor, num_samples: int, context: Any = None, mask: Any = None) -> Tensor:
        noise = Normal(-0.005, 0.1).sample((num_samples, len(x)))  # E[e^noise] = 1
        return noise - x.shape[1] * math.log(2.0)

    def decoder(self, z: Tensor) -> Distribution:
        return Independent(Bernoulli(logits=torch.zeros(*z.shape[:-1], 4)), 1)


def columns(evaluation: Evaluation) -> dict[str, np.ndarray]:
    """Returns the numbers per datum."""
    return {name: column for name, column in evaluation.scores().items() if column.dtype.kind != "U"}


@pytest.fixture(scope="module")
def inexact() -> Evaluation:
    return evaluate(exact(1.2), reals(), estimator="importance", num_samples=300)


def test_with_the_exact_posterior_every_number_is_the_truth() -> None:
    split = reals()
    evaluation = evaluate(exact(), split, estimator="importance", num_samples=40)
    record, known = evaluation.record, truth(split)
    assert columns(evaluation)["log_evidence"] == pytest.approx(known, abs=1e-4)
    assert record["log_evidence"]["mean"] == pytest.approx(known.mean(), abs=1e-5)
    assert record["log_evidence"]["error"] == pytest.approx(known.std(ddof=1) / math.sqrt(100), rel=1e-4)
    assert record["elbo"] == pytest.approx(known.mean(), abs=1e-5)
    assert record["log_evidence"]["monte_carlo_error"] == 0
    assert record["log_evidence"]["test_set_error"] == record["log_evidence"]["error"]
    assert record["pareto_k"]["share_above_05"] == record["pareto_k"]["share_above_07"] == 0
    assert record["ess"] == {"median": 40.0, "minimum": 40.0}
    assert "All weights are constant" in str(evaluation)
    assert record["flags"] == []


def test_the_errors_are_those_of_the_scores(inexact: Evaluation) -> None:
    scores, log_p = columns(inexact), inexact.record["log_evidence"]
    n = len(scores["log_evidence"])
    assert log_p["mean"] == pytest.approx(scores["log_evidence"].mean(), rel=1e-12)
    assert log_p["total"] == pytest.approx(scores["log_evidence"].sum(), rel=1e-12)
    assert log_p["error"] == pytest.approx(scores["log_evidence"].std(ddof=1) / math.sqrt(n), rel=1e-12)
    assert log_p["monte_carlo_error"] == pytest.approx(math.sqrt((scores["standard_error"] ** 2).sum()) / n, rel=1e-12)
    assert log_p["monte_carlo_error"] > 0
    rest = math.sqrt(log_p["error"] ** 2 - log_p["monte_carlo_error"] ** 2)
    assert log_p["test_set_error"] == pytest.approx(rest, rel=1e-12)


def test_the_other_means_are_those_of_the_scores(inexact: Evaluation) -> None:
    scores, record = columns(inexact), inexact.record
    for name in ("elbo", "rate", "distortion"):
        assert record[name] == pytest.approx(scores[name].mean(), rel=1e-12)
    assert record["elbo"] == pytest.approx(-record["rate"] - record["distortion"], abs=1e-5)
    assert record["elbo"] < record["log_evidence"]["mean"]
    assert record["jackknife"]["mean"] == pytest.approx(scores["jackknife"].mean(), rel=1e-12)
    bias = record["log_evidence"]["mean"] - record["jackknife"]["mean"]
    assert record["jackknife"]["bias"] == pytest.approx(bias, abs=1e-9)
    k = scores["pareto_k"]
    assert record["pareto_k"]["share_above_05"] == (k >= 0.5).mean()
    assert record["pareto_k"]["share_above_07"] == (k >= 0.7).mean()
    assert record["ess"]["minimum"] == scores["ess"].min()
    assert record["curve"]["num_samples"][-1] == 300
    assert record["curve"]["mean"][-1] == pytest.approx(record["log_evidence"]["mean"], abs=1e-9)
    assert record["curve"]["error"][-1] == pytest.approx(record["log_evidence"]["monte_carlo_error"], rel=1e-6)


def test_bits_per_dimension_are_the_code_length(inexact: Evaluation) -> None:
    log_p, bits = inexact.record["log_evidence"], inexact.record["bits_per_dim"]
    assert bits["mean"] == pytest.approx(-log_p["mean"] / (D * math.log(2)), rel=1e-12)
    assert bits["error"] == pytest.approx(log_p["error"] / (D * math.log(2)), rel=1e-12)
    assert f"{bits['mean']:.4f} ± {bits['error']:.4f} bits/dim" in str(inexact)


def test_the_record_names_all_that_the_number_depends_on(inexact: Evaluation) -> None:
    data_set = DataSet("coins", "binary", 2, (4,), {"train": BINARY, "valid": BINARY[:0], "test": BINARY}, "memory")
    evaluation = evaluate(Coins(), data_set.split("test", seed=3), estimator="importance", num_samples=30, seed=7)
    record = evaluation.record
    data = {"name": "coins", "split": "test", "num_data": 50, "kind": "binary", "levels": 2}
    data |= {"event_shape": [4]}
    assert record["data"] == {**data, "binarization": "none", "seed": 3, "hash": data_set.hash}
    assert (record["estimator"], record["proposal"], record["num_samples"], record["seed"]) == (
        *("importance", "encoder", 30, 7),
    )
    assert record["model"] == "Coins"
    assert {"logpx", "torch", "python", "device", "date", "seconds"} <= record["provenance"].keys()
    table = str(evaluation)
    for words in (
        "coins, test, 50 data, binarization none",
        "importance, proposal encoder",
        "30 samples per datum, seed 7",
    ):
        assert words in table


@pytest.mark.parametrize(
    "model, split, is_relaxed",
    [
        (Coins(), test_split(BINARY, "binary", 2), False),
        (Builtin("bernoulli"), test_split(BINARY, "binary", 2), False),
        (Builtin("gaussian"), test_split(normal(50, 4)), False),
        (Gaussian(), test_split(normal(50, 4)), False),
        (Histogram(torch.zeros(256)), test_split(GREYS, "8-bit", 256), False),
        (Builtin("relaxed-bernoulli"), test_split(GREYS, "8-bit", 256), True),
        (Builtin("relaxed-bernoulli"), test_split(BINARY, "binary", 2), True),
        (Builtin("gaussian"), test_split(GREYS, "8-bit", 256), True),
        (Gaussian(), test_split(GREYS, "8-bit", 256), True),
        (Gaussian(), test_split(BINARY, "binary", 2), True),
        (Coins(check=False), test_split(GREYS, "8-bit", 256), True),
    ],
    ids=[
        *("own coins", "strict", "Gaussian, reals", "own Gaussian, reals", "256 levels", "relaxed, greys"),
        *("relaxed, binary", "Gaussian, greys", "own Gaussian, greys", "own Gaussian, binary", "own coins, greys"),
    ],
)
def test_what_is_no_probability_of_the_data_is_labelled_and_has_no_bits(
    model: Any, split: Any, is_relaxed: bool
) -> None:
    evaluation = evaluate(model, split, estimator="importance", num_samples=30)
    record, table = evaluation.record, str(evaluation)
    label = "ot a log-probability of the data"
    assert (record["bits_per_dim"] is None) == is_relaxed
    assert bool(record["relaxed"]) == is_relaxed
    assert (label in table) == is_relaxed
    assert any(label in flag for flag in record["flags"]) == is_relaxed
    assert ("bits" in table) != is_relaxed
    quantities = {name for name, _ in evaluation.rows()}
    assert ("log p(x)" in quantities) != is_relaxed
    assert ("relaxed score" in quantities) == is_relaxed


@pytest.mark.parametrize(
    "name, kind", [(name, kind) for name, each in LIKELIHOODS.items() for kind in each.exact_kinds + each.relaxed_kinds]
)
def test_every_likelihood_is_exact_or_relaxed_for_what_it_says(name: str, kind: str) -> None:
    values = {"binary": BINARY, "8-bit": GREYS, "real": suitable("continuous-bernoulli", (4,), 50)}[kind]
    split = test_split(values, kind, {"binary": 2, "8-bit": 256}.get(kind))
    record = evaluate(Builtin(name), split, estimator="importance", num_samples=30).record
    assert math.isfinite(record["log_evidence"]["mean"])
    assert bool(record["relaxed"]) == (kind in LIKELIHOODS[name].relaxed_kinds) == (record["bits_per_dim"] is None)


class BiasedCoins(Standard):
    def decoder(self, z: Tensor) -> Distribution:
        return Independent(Bernoulli(logits=torch.full((*z.shape[:-1], 4), 9.0)), 1)


@pytest.mark.parametrize(
    "model, split, uniform",
    [
        (Histogram(30.0 * torch.eye(256)[0]), test_split(GREYS, "8-bit", 256), 8),
        (BiasedCoins(), test_split(BINARY, "binary", 2), 1),
        (Builtin("categorical", levels=17), test_split(GREYS // 16, "8-bit", 17), 4.09),
    ],
    ids=["8-bit", "binary", "17 levels"],
)
def test_data_that_a_uniform_code_would_shorten_are_flagged(model: Any, split: Any, uniform: float) -> None:
    """The models put nearly all mass on a level that the data rarely take."""
    record = evaluate(model, split, estimator="importance", num_samples=30).record
    assert record["bits_per_dim"]["mean"] > uniform
    assert any(f"a uniform code would need only {uniform}" in flag for flag in record["flags"])


def test_the_uniform_code_has_8_bits_and_no_flag() -> None:
    logits = torch.zeros(256).scatter(0, GREYS.flatten().long(), 1e-3)  # hardly better than uniform
    record = evaluate(Histogram(logits), test_split(GREYS, "8-bit", 256), estimator="importance", num_samples=30).record
    assert record["bits_per_dim"]["mean"] == pytest.approx(8.0, abs=1e-3)
    assert record["flags"] == []
    few = test_split(GREYS % 17, "8-bit", 17)
    record = evaluate(Builtin("categorical", size=0.0, levels=17), few, estimator="importance", num_samples=30).record
    assert record["bits_per_dim"]["mean"] == pytest.approx(math.log2(17), abs=1e-5)
    assert record["flags"] == []


def test_a_datum_that_is_not_finite_is_counted_flagged_and_not_dropped() -> None:
    values = normal(40, 3)
    clean = evaluate(Toy(), test_split(values), estimator="importance", num_samples=30)
    values[7, 1] = POISON
    evaluation = evaluate(Toy(), test_split(values), estimator="importance", num_samples=30)
    scores = columns(evaluation)["log_evidence"]
    assert evaluation.record["data"]["num_data"] == len(scores) == 40
    assert evaluation.record["num_nonfinite"] == 1
    assert np.flatnonzero(np.isnan(scores)).tolist() == [7]
    others = np.arange(40) != 7
    assert scores[others] == pytest.approx(columns(clean)["log_evidence"][others], rel=1e-5)
    assert math.isnan(evaluation.record["log_evidence"]["mean"])
    assert any("1 data have an estimate that is not finite; none was dropped" in f for f in evaluation.record["flags"])
    assert "nan nats per datum" in str(evaluation)


class Impossible(Standard):
    """A model of which every datum with a first coordinate above 2 has probability 0."""

    def decoder(self, z: Tensor) -> Distribution:
        return Independent(Box(torch.zeros(*z.shape[:-1], 4), 1.0, validate_args=False), 1, validate_args=False)


class Box(Normal):
    def log_prob(self, value: Tensor) -> Tensor:
        return torch.where(value > 2, -math.inf, super().log_prob(value))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        return Box(self.loc.expand(batch_shape), self.scale.expand(batch_shape), validate_args=False)


def test_a_datum_of_probability_0_is_minus_infinity_and_not_absent() -> None:
    values = 0.1 * normal(40, 4)
    values[3, 0] = 3.0
    evaluation = evaluate(Impossible(), test_split(values), estimator="importance", num_samples=30)
    scores = columns(evaluation)
    assert np.flatnonzero(scores["log_evidence"] == -math.inf).tolist() == [3]
    assert evaluation.record["log_evidence"]["mean"] == -math.inf
    assert evaluation.record["num_nonfinite"] == 1
    assert scores["ess"][3] == 0
    assert "-inf nats per datum" in str(evaluation)


@pytest.mark.parametrize("limit", [32, 64])
def test_a_limit_changes_no_number_of_whole_blocks(inexact: Evaluation, limit: int) -> None:
    some = evaluate(exact(1.2), reals(), estimator="importance", num_samples=300, limit=limit)
    assert some.record["data"]["num_data"] == limit
    for name, column in columns(some).items():
        assert np.array_equal(column, columns(inexact)[name][:limit]), name


def test_a_limit_beyond_the_data_is_all_data(inexact: Evaluation) -> None:
    everything = evaluate(exact(1.2), reals(), estimator="importance", num_samples=300, limit=1000)
    assert np.array_equal(columns(everything)["log_evidence"], columns(inexact)["log_evidence"])


@pytest.mark.parametrize("memory_budget", [1, 10_000, 200_000])
def test_the_memory_budget_changes_no_result(inexact: Evaluation, memory_budget: int) -> None:
    frugal = evaluate(exact(1.2), reals(), estimator="importance", num_samples=300, memory_budget=memory_budget)
    for name, column in columns(frugal).items():
        tolerance = 1e-3 if name in ("ess", "pareto_k") else 1e-5
        assert column == pytest.approx(columns(inexact)[name], abs=tolerance, rel=1e-5), name


def test_a_seed_gives_the_same_numbers_and_another_seed_others(inexact: Evaluation) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        again = evaluate(exact(1.2), reals(), estimator="importance", num_samples=300)
    other = evaluate(exact(1.2), reals(), estimator="importance", num_samples=300, seed=1)
    assert np.array_equal(columns(again)["log_evidence"], columns(inexact)["log_evidence"])
    assert not np.isclose(columns(other)["log_evidence"], columns(inexact)["log_evidence"], rtol=0, atol=1e-7).any()


def test_a_likelihood_that_draws_follows_the_seed_whatever_the_memory() -> None:
    model, split = Builtin("dequantized-gaussian"), test_split(GREYS, "8-bit", 256)
    a, b = (
        columns(evaluate(model, split, estimator="importance", num_samples=50, memory_budget=budget))
        for budget in (1, 2**28)
    )
    for name, column in a.items():
        assert np.array_equal(column, b[name], equal_nan=True), name


def test_the_prior_agrees_with_importance_within_their_errors() -> None:
    """Prior weights of this model are bounded; a z-score beyond 5 is a false alarm in under one of 10^4 runs of 100."""
    model = logpx.FactorAnalysis(0.3 * normal(D, L, seed=1), torch.ones(D), torch.ones(D), 1.1)
    split = test_split(1 + normal(100, D, seed=9))
    scores = {
        name: columns(evaluate(model, split, estimator="importance", proposal=name, num_samples=4000))
        for name in ("prior", "encoder")
    }
    known = logpx.FactorAnalysis(model.loading.double(), model.mean.double(), model.noise_scale.double())
    log_p = known.log_evidence(split.values.double()).numpy()
    for name, column in scores.items():
        z = (column["log_evidence"] - log_p) / column["standard_error"]
        assert np.abs(z).max() < 5, name
        assert 0.5 < z.std() < 2, name
    assert scores["prior"]["standard_error"].mean() > scores["encoder"]["standard_error"].mean()


def test_the_prior_as_a_proposal_is_named() -> None:
    record = evaluate(exact(), reals(), estimator="importance", proposal="prior", num_samples=30, limit=5).record
    assert (record["estimator"], record["proposal"]) == ("importance", "prior")


class HalfDead(nn.Module):
    """Two latents, of which the encoder uses the first alone."""

    def prior(self) -> Distribution:
        return Independent(Normal(torch.zeros(2), 1.0), 1)

    def encoder(self, x: Tensor) -> Distribution:
        return Independent(Normal(torch.stack([x[:, 0], torch.full((len(x),), 3.0)], -1), 0.5), 1)

    def decoder(self, z: Tensor) -> Distribution:
        return Independent(Normal(z[..., :1].expand(*z.shape[:-1], 4), 1.0), 1)


def test_latents_that_do_not_vary_over_data_are_not_active() -> None:
    evaluation = evaluate(HalfDead(), test_split(normal(40, 4)), estimator="importance", num_samples=30)
    assert (evaluation.record["active_units"], evaluation.record["num_latents"]) == (1, 2)
    assert "1 of 2 latents" in str(evaluation)


def test_the_activity_of_latents_cannot_be_seen_from_one_datum() -> None:
    evaluation = evaluate(HalfDead(), test_split(normal(40, 4)), estimator="importance", num_samples=30, limit=1)
    assert evaluation.record["active_units"] is None
    assert "active units" not in str(evaluation)


class Dropping(Toy):
    """A model whose result depends on its mode, with a part that its user froze."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.frozen = nn.Dropout(0.5), nn.Dropout(0.5).eval()

    def encoder(self, x: Tensor) -> Distribution:
        assert not self.drop.training
        return super().encoder(self.drop(x))


@pytest.mark.parametrize("fails", [False, True])
def test_a_module_is_evaluated_in_evaluation_mode_and_comes_back_as_it_was(fails: bool) -> None:
    model = Dropping()
    before = {name: module.training for name, module in model.named_modules()}
    if fails:
        model.decoder = lambda z: Normal(model.decode(z), 1.0)  # type: ignore[method-assign]
        with pytest.raises(ValueError, match=r"log p\(x\|z\)"):
            evaluate(model, test_split(normal(5, 3)), estimator="importance", num_samples=3)
    else:
        evaluate(model, test_split(normal(5, 3)), estimator="importance", num_samples=3)
    assert {name: module.training for name, module in model.named_modules()} == before
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_scores_are_written_with_their_units(inexact: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    inexact.write_scores(path)
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    nats = ["log_evidence", "standard_error", "elbo", "rate", "distortion", "jackknife"]
    names = {name: f"{name}_nats" if name in nats else name for name in columns(inexact)}
    assert list(table[0]) == [*names.values(), "method"]
    assert {row["method"] for row in table} == {"encoder"}
    assert {"index", "log_evidence_nats", "standard_error_nats", "pareto_k", "ess"} <= table[0].keys()
    for name, column in columns(inexact).items():
        assert [float(row[names[name]]) for row in table] == pytest.approx(column.tolist(), rel=1e-8), name
    assert [row["index"] for row in table] == [str(i) for i in range(100)]


def test_a_model_with_its_own_log_weights_is_evaluated_by_them() -> None:
    evaluation = evaluate(OwnWeights(), test_split(BINARY, "binary", 2), estimator="importance", num_samples=3000)
    record = evaluation.record
    assert record["proposal"] == "the model's own"
    assert (record["rate"], record["distortion"], record["active_units"]) == (None, None, None)
    # the standard error is 0.1 / sqrt(3000 * 50) = 0.0003: ten of them
    assert record["log_evidence"]["mean"] == pytest.approx(-4 * math.log(2), abs=0.003)
    assert "rate" not in str(evaluation)
    prior = evaluate(
        OwnWeights(), test_split(BINARY, "binary", 2), num_samples=30, estimator="importance", proposal="prior"
    ).record
    assert prior["proposal"] == "prior"


class Unsummed(Gaussian):
    def decoder(self, z: Tensor) -> Distribution:
        return Normal(torch.zeros(*z.shape[:-1], 4), 1.0)


class UnsummedEncoder(Gaussian):
    def encoder(self, x: Tensor) -> Distribution:
        return Normal(torch.zeros(len(x), 1), 1.0)


@pytest.mark.parametrize(
    "model, options, kind, words",
    [
        (Gaussian(), {"estimator": "magic"}, ValueError, "auto, importance.*'magic'"),
        (Gaussian(), {"proposal": "magic"}, ValueError, "encoder, prior.*'magic'"),
        (Gaussian(), {"limit": 0}, ValueError, "limit must be at least 1, but is 0"),
        (Gaussian(), {"num_samples": 0}, ValueError, "num_samples must be at least 1, but is 0"),
        (Unsummed(), {}, ValueError, r"log p\(x\|z\) must have shape.*Independent"),
        (UnsummedEncoder(), {}, ValueError, r"proposal must have batch shape \(20,\).*Independent"),
        (nn.Linear(2, 2), {}, TypeError, "lacks prior and encoder and decoder"),
    ],
    ids=["estimator", "proposal", "limit", "num_samples", "decoder's shape", "encoder's shape", "no model"],
)
def test_what_cannot_be_evaluated_is_refused(model: Any, options: dict[str, Any], kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        evaluate(model, test_split(normal(20, 4)), **{"estimator": "importance", "num_samples": 30, **options})


def test_an_empty_split_is_refused() -> None:
    empty = data_set(normal(5, 4), normal(0, 4), normal(5, 4)).split("valid")
    with pytest.raises(ValueError, match="The valid split is empty"):
        evaluate(Gaussian(), empty)


def test_too_few_samples_to_judge_the_tail_are_said_to_be_so() -> None:
    evaluation = evaluate(exact(1.2), reals(), estimator="importance", num_samples=10)
    assert evaluation.record["pareto_k"]["share_above_07"] is None
    assert "too few samples to judge the tail" in str(evaluation)


def test_a_proposal_that_is_too_narrow_raises_the_alarm() -> None:
    evaluation = evaluate(exact(0.3), reals(), estimator="importance", num_samples=1000)
    assert evaluation.record["pareto_k"]["share_above_07"] > 0.5
    assert evaluation.record["flags"] == [evaluation.record["pareto_k"]["sentence"]]
    assert str(evaluation).count(evaluation.record["pareto_k"]["sentence"]) == 1


def plain(record: Any) -> list[float]:
    """Returns the numbers in a record that JSON cannot hold."""
    if isinstance(record, dict):
        return [x for value in record.values() for x in plain(value)]
    if isinstance(record, list):
        return [x for value in record for x in plain(value)]
    return [record] if isinstance(record, float) and not math.isfinite(record) else []


def test_a_record_of_finite_data_holds_only_what_json_can(inexact: Evaluation) -> None:
    assert plain(inexact.record) == []
    assert json.loads(json.dumps(inexact.record)) == inexact.record


def test_one_sample_per_datum_is_no_exact_posterior() -> None:
    evaluation = evaluate(exact(1.2), reals(), estimator="importance", num_samples=1)
    assert "too few samples" in evaluation.record["pareto_k"]["sentence"]
    assert math.isinf(evaluation.record["log_evidence"]["monte_carlo_error"])
    assert math.isnan(evaluation.record["log_evidence"]["test_set_error"])


def test_a_datum_whose_k_hat_is_unknown_is_not_counted_as_reliable() -> None:
    class OneBad(Toy):
        def decoder(self, z: Tensor) -> Distribution:
            nan = torch.where(torch.arange(z.shape[1]) == 0, torch.nan, 0.0).unsqueeze(-1)
            return Independent(Normal(self.decode(z) * 0 + nan, 1.0, validate_args=False), 1, validate_args=False)

    record = evaluate(OneBad(), test_split(normal(10, 3)), estimator="importance", num_samples=50).record
    assert record["num_nonfinite"] == 1
    assert record["pareto_k"]["share_above_07"] >= 0.1


def test_a_mass_function_on_real_data_is_relaxed() -> None:
    class Coin(Toy):
        def decoder(self, z: Tensor) -> Distribution:
            return Independent(Bernoulli(logits=self.decode(z), validate_args=False), 1, validate_args=False)

    record = evaluate(Coin(), test_split(torch.rand(20, 3)), estimator="importance", num_samples=30).record
    assert "mass function on real data" in record["relaxed"] and record["bits_per_dim"] is None


def test_a_mass_function_of_counts_is_a_probability_of_real_data_that_are_counts() -> None:
    class Counting(Toy):
        def decoder(self, z: Tensor) -> Distribution:
            return Independent(Poisson(self.decode(z).exp(), validate_args=False), 1, validate_args=False)

    counts = torch.poisson(torch.full((20, 3), 4.0), generator=torch.Generator().manual_seed(0))
    evaluation = evaluate(Counting(), test_split(counts), estimator="importance", num_samples=30)
    assert evaluation.record["relaxed"] is None and evaluation.record["bits_per_dim"]["mean"] > 0
    assert "(if p is a density, it depends on the data's unit)" in str(evaluation)
    assert evaluate(Counting(), test_split(counts + 0.5), estimator="importance", num_samples=30).record["relaxed"]


def test_the_model_stays_on_its_device_and_an_object_needs_none() -> None:
    model = Toy()
    evaluate(model, test_split(normal(5, 3)), estimator="importance", num_samples=30)
    assert next(model.parameters()).device.type == "cpu"
    with pytest.raises(logpx.LogpxError, match="finds no CUDA here"):
        evaluate(model, test_split(normal(5, 3)), estimator="importance", num_samples=30, device="cuda")


# ---------------------------------------------------------------- what is spent on each datum


@SCRIPTS
def test_the_default_adapts_its_effort_and_says_what_it_took() -> None:
    evaluation = evaluate(Toy(), test_split(normal(40, 3)), target_error=0.02)
    record, scores = evaluation.record, columns(evaluation)
    assert (record["estimator"], record["proposal"]) == ("auto", "adapted to each datum")
    assert record["samples"]["maximum"] <= record["num_samples"] == ESTIMATORS["auto"]
    assert sum(record["methods"].values()) == 40
    assert record["samples"] == {"mean": scores["num_samples"].mean(), "maximum": scores["num_samples"].max()}
    assert record["passes"] == {"mean": scores["num_passes"].mean(), "maximum": scores["num_passes"].max()}
    assert (scores["num_passes"] > scores["num_samples"]).all(), "pilots are counted"
    missed = (scores["standard_error"] > 0.02).mean()
    assert (record["target_error"], record["share_above_target"]) == (0.02, missed)
    assert f"standard error 0.02 nats per datum, missed by {missed:.1%} of the data" in str(evaluation)
    assert record["curve"]["num_samples"][-1] == pytest.approx(record["samples"]["mean"])


# ---------------------------------------------------------------- a random subset that stands for all


def subset_of(n: int, split: Any, **options: Any) -> Evaluation:
    return evaluate(exact(1.2), split, estimator="importance", num_samples=40, subset=n, **options)


def test_a_subset_of_all_data_is_the_plain_evaluation() -> None:
    plain, whole = (
        evaluate(exact(1.2), reals(), estimator="importance", num_samples=40, subset=n) for n in (None, 100)
    )
    assert whole.record["log_evidence"]["mean"] == pytest.approx(plain.record["log_evidence"]["mean"], rel=1e-12)
    assert whole.record["log_evidence"]["error"] == pytest.approx(plain.record["log_evidence"]["error"], rel=1e-12)
    assert whole.record["log_evidence"]["subset_error"] == 0
    assert whole.record["log_evidence"]["total"] == pytest.approx(plain.record["log_evidence"]["total"], rel=1e-12)
    assert "subset_error" not in plain.record["log_evidence"] and plain.record["subset"] is None
    for name, column in columns(plain).items():
        assert np.array_equal(columns(whole)[name], column), name


def test_the_estimate_from_a_subset_is_that_of_its_scores() -> None:
    split = reals()
    evaluation = subset_of(30, split)
    record, scores = evaluation.record, columns(evaluation)
    subset, log_p = record["subset"], record["log_evidence"]
    assert (subset["num_data"], subset["num_all"], len(scores["index"])) == (30, 100, 30)
    assert (np.diff(scores["index"]) > 0).all() and scores["index"].max() < 100
    assert record["data"]["num_data"] == 100
    # the estimates are of the data that the index names
    assert scores["log_evidence"] == pytest.approx(truth(split)[scores["index"]], abs=0.5)
    assert subset["plain_mean"] == pytest.approx(scores["log_evidence"].mean())
    assert record["elbo"] == subset["control_mean"] == pytest.approx(-record["rate"] - record["distortion"], abs=1e-5)
    parts = [log_p[f"{name}_error"] for name in ("monte_carlo", "subset", "test_set")]
    assert all(part > 0 for part in parts)
    assert log_p["error"] == pytest.approx(math.hypot(*parts), rel=1e-9)
    assert subset["error"] == pytest.approx(math.hypot(*parts[:2]), rel=1e-9)
    assert record["curve"]["mean"][-1] == pytest.approx(log_p["mean"], abs=1e-9)
    assert record["jackknife"]["mean"] == pytest.approx(log_p["mean"] - record["jackknife"]["bias"], abs=1e-9)
    assert log_p["total"] == pytest.approx(100 * log_p["mean"])
    table = str(evaluation)
    for words in ("30 of these data, drawn at random (seed 0), stand for all", "which a larger subset would shrink"):
        assert words in table
    assert "and 9 for each of all data" in table
    assert f"subset {log_p['subset_error']:.3f}, test set {log_p['test_set_error']:.3f}" in headline(record)


def test_a_subset_follows_the_seed() -> None:
    index = [columns(subset_of(30, reals(), seed=seed))["index"].tolist() for seed in (0, 0, 1)]
    assert index[0] == index[1] != index[2]


def test_a_subset_estimates_the_mean_of_all_without_bias_and_its_interval_covers_it() -> None:
    """Of 2,000 intervals of 95% the share that covers has standard error 0.5%, so 93-97% is 4 of them, as is the bias.

    False alarm 6e-5 each.
    """
    split = reals(300)
    log_p, n, num_all = truth(split), 40, 300
    noise = np.random.default_rng(0)
    # the control is the ELBO by 8 draws, as noisy as it is, and an estimate with an error that is known
    control = torch.as_tensor(evaluate(exact(1.2), split, estimator="importance", num_samples=8).evidence.elbo)
    misses, covers = [], []
    for seed in range(2000):
        index = draw_subset(n, num_all, seed)
        error = torch.full((n,), 0.05, dtype=torch.float64)
        values = torch.as_tensor(log_p[index] + 0.05 * noise.normal(size=n))
        subset = Subset(index, control)
        miss = values.mean().item() + subset.shift - log_p.mean()
        width = stats.t.ppf(0.975, n - 1) * subset.describe(values, error)["error"]
        misses.append(miss)
        covers.append(abs(miss) <= width)
    assert abs(np.mean(misses)) < 4 * np.std(misses) / math.sqrt(2000)
    # the subset alone would leave sd(log p) / sqrt(n): the control takes most of it away
    assert np.std(misses) < 0.3 * log_p.std() / math.sqrt(n)
    assert 0.93 < np.mean(covers) < 0.97


def test_the_error_as_to_all_data_is_that_of_many_subsets() -> None:
    # the mean of 30 squared standard normals is 1 with standard deviation 0.26: 4 of them, false alarm 10^-3 at most
    split = reals(200)
    records = [subset_of(25, split, seed=seed).record for seed in range(30)]
    known = truth(split).mean()
    z = [(record["log_evidence"]["mean"] - known) / record["subset"]["error"] for record in records]
    assert 0.2 < np.mean(np.square(z)) < 2.1


def test_the_total_error_of_a_subset_is_that_on_other_data() -> None:
    """The mean of 500 totals' squares is the variance of 500 estimates of E[log p(x)]: to 6.3%, so 25% is 4 of them."""
    log_p = truth(reals(20_000))
    rng = np.random.default_rng(1)
    estimates, totals = [], []
    for seed in range(500):
        y = torch.as_tensor(rng.choice(log_p, 100))
        control = y - 0.2 + 0.3 * torch.as_tensor(rng.normal(size=100))
        subset = Subset(draw_subset(25, 100, seed), control)
        values = y[subset.index] + 0.1 * torch.as_tensor(rng.normal(size=25))
        estimates.append(values.mean().item() + subset.shift)
        totals.append(subset.errors(values, torch.full((25,), 0.1, dtype=torch.float64))["error"])
    assert np.mean(np.square(totals)) == pytest.approx(np.var(estimates), rel=0.25)


def test_noise_of_the_estimates_is_no_error_of_the_subset() -> None:
    """A perfect control leaves the noise alone: the spread of 2,000 squares is known to 3%, so 13% is 4 of them."""
    rng = np.random.default_rng(2)
    y = torch.as_tensor(rng.normal(-80, 3, 4000))
    subset = Subset(draw_subset(2000, 4000), y - 0.2)
    values = y[subset.index] + 0.5 * torch.as_tensor(rng.normal(size=2000))
    errors = subset.errors(values, torch.full((2000,), 0.5, dtype=torch.float64))
    assert errors["monte_carlo_error"] == pytest.approx(0.5 / math.sqrt(2000))
    assert errors["subset_error"] < math.sqrt(0.5 * 0.13) * errors["monte_carlo_error"]
    assert errors["test_set_error"] == pytest.approx(3 / math.sqrt(4000), rel=0.1)


@pytest.mark.parametrize(
    "model, options, words",
    [
        (exact(1.2), {"subset": 101}, "subset must be between 2 and all 100 data, but is 101"),
        (exact(1.2), {"subset": 1}, "subset must be between 2 and all 100 data, but is 1"),
        (exact(1.2), {"subset": 20, "limit": 50}, "but limit 50 was given beside it: leave out one"),
        (exact(), {"subset": 20, "estimator": "auto", "num_samples": None}, "needs no subset: leave it out"),
    ],
    ids=["too many", "one", "limit", "exact"],
)
def test_a_subset_that_cannot_be_is_refused(model: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        evaluate(model, reals(), **{"estimator": "importance", "num_samples": 30, **options})


def test_a_datum_without_an_elbo_makes_every_subset_useless_and_is_said_to() -> None:
    values = normal(40, 3)
    values[7, 1] = POISON
    record = evaluate(Toy(), test_split(values), estimator="importance", num_samples=30, subset=4).record
    assert math.isnan(record["log_evidence"]["mean"])
    assert any("1 data have an ELBO that is not finite" in flag for flag in record["flags"])


def test_a_model_with_its_own_log_weights_has_subsets_too() -> None:
    split = test_split(BINARY, "binary", 2)
    record = evaluate(OwnWeights(), split, estimator="importance", num_samples=300, subset=20).record
    assert record["log_evidence"]["mean"] == pytest.approx(-4 * math.log(2), abs=0.1)
    assert (record["rate"], record["subset"]["num_data"]) == (None, 20)


# ---------------------------------------------------------------- infinitely many samples


def test_the_extrapolation_gains_what_the_delta_method_says(inexact: Evaluation) -> None:
    # -Var(w) / (2 p^2 S), where Var(w) / p^2 is S / ESS - 1 in expectation
    relative_variance = (300 / columns(inexact)["ess"] - 1).mean()
    limit = inexact.record["extrapolation"]
    assert limit["gain"] == pytest.approx(relative_variance / 600, rel=0.25)
    assert f"{limit['mean']:.3f} ± {limit['error']:.3f} nats (Monte Carlo)" in str(inexact)


@SCRIPTS
@pytest.mark.parametrize(
    "model, options, reason",
    [
        (exact(0.3), {"num_samples": 500}, "of the data have a k-hat of 0.5 or more"),
        (exact(1.2), {"num_samples": 3}, "too few samples for a curve"),
        (exact(1.2), {"num_samples": 300, "limit": 1}, "one datum does not tell its error"),
        (Toy(), {"estimator": "auto"}, "the number of samples differs between data"),
    ],
    ids=["heavy tails", "few samples", "one datum", "auto"],
)
def test_no_extrapolation_is_offered_where_it_would_be_wrong(model: Any, options: dict[str, Any], reason: str) -> None:
    split = test_split(normal(40, 3)) if isinstance(model, Toy) else reals()
    evaluation = evaluate(model, split, **{"estimator": "importance", **options})
    limit = evaluation.record["extrapolation"]
    assert limit["mean"] is limit["error"] is limit["gain"] is None
    assert reason in limit["sentence"] and limit["sentence"] in str(evaluation)


def test_constant_weights_are_said_to_be_exact_and_not_extrapolated() -> None:
    evaluation = evaluate(exact(), reals(), estimator="importance", num_samples=300)
    limit = evaluation.record["extrapolation"]
    assert limit["mean"] is None and "so that the estimates are exact" in limit["sentence"]
    assert dict(evaluation.rows())["limit in S"] == limit["sentence"]


def test_what_is_exact_is_not_extrapolated() -> None:
    assert evaluate(exact(), reals()).record["extrapolation"] is None


class Stopping:
    """Counts the blocks that are estimated, and interrupts at one of them."""

    calls = 0
    stop = 0


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Stopping:
    count, estimate = Stopping(), Estimator.__call__

    def counted(self: Estimator, block: Block) -> Evidence:
        count.calls += 1
        if count.calls == count.stop:
            raise KeyboardInterrupt
        return estimate(self, block)

    monkeypatch.setattr(Estimator, "__call__", counted)
    return count


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Shards]:
    """Opens the same folder again and again, to which each block is written at once."""
    monkeypatch.setattr("logpx.evaluation.shards.WRITE_EVERY", -1.0)
    return lambda: Shards(tmp_path / "parts", "the exact model")


# 200 data are 7 blocks, and those of the subset 3 more
SHARDED: list[dict[str, Any]] = [
    {"estimator": "importance", "num_samples": 50},
    {"estimator": "importance", "num_samples": 50, "subset": 80},
    {"estimator": "auto", "limit": 150},
]


@pytest.mark.parametrize("options", SHARDED)
def test_an_interrupted_evaluation_goes_on_with_its_finished_blocks(
    options: dict[str, Any], stopping: Stopping, shards: Callable[[], Shards]
) -> None:
    split, model = reals(200), exact(0.8)
    whole = evaluate(model, split, **options)
    total, stopping.calls, stopping.stop = stopping.calls, 0, 3
    with pytest.raises(KeyboardInterrupt, match="what is finished is kept, and the same command goes on"):
        evaluate(model, split, shards=shards(), **options)
    stopping.calls, stopping.stop = 0, 0
    again = evaluate(model, split, shards=shards(), **options)
    assert stopping.calls == total - 2
    for name, value in vars(whole.evidence).items():
        assert torch.equal(getattr(again.evidence, name).nan_to_num(7.0), value.nan_to_num(7.0)), name
    for record in (whole.record, again.record):
        del record["provenance"]
    assert json.dumps(again.record) == json.dumps(whole.record)


def test_the_seconds_of_an_interrupted_evaluation_add_up(
    stopping: Stopping, shards: Callable[[], Shards], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of each process begins anew."""
    for stop, seconds in ((3, 1000.0), (0, 1000.0)):
        stopping.calls, stopping.stop = 0, stop
        clock = itertools.count(0.0, seconds)
        monkeypatch.setattr("logpx.evaluation.shards.time.perf_counter", lambda clock=clock: next(clock))
        try:
            evaluation = evaluate(exact(), reals(200), shards=shards(), **SHARDED[0])
        except KeyboardInterrupt:
            before = max(shard["seconds"].item() for shard in contents_of(shards()))
    assert before > 1000.0
    assert evaluation.record["provenance"]["seconds"] > before + 1000.0


def contents_of(shards: Shards) -> list[dict[str, Tensor]]:
    return [safetensors.torch.load(path.read_bytes()) for path in shards.folder.glob("*.part")]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"num_samples": 51},
        {"limit": 150},
        {"subset": 99},
        {"proposal": "prior"},
    ],
)
def test_finished_blocks_of_another_evaluation_are_removed(
    change: dict[str, Any], stopping: Stopping, shards: Callable[[], Shards]
) -> None:
    options = {"estimator": "importance", "num_samples": 50, **change}
    evaluate(exact(0.8), reals(200), **options)
    total, stopping.calls = stopping.calls, 0
    evaluate(exact(0.8), reals(200), shards=shards(), **SHARDED[0])
    assert len(contents_of(shards())) == 7
    stopping.calls = 0
    evaluate(exact(0.8), reals(200), shards=shards(), **options)
    assert stopping.calls == total
    assert len(contents_of(shards())) == total


def test_other_data_and_another_model_have_other_blocks(stopping: Stopping, shards: Callable[[], Shards]) -> None:
    kept, model = shards(), exact()
    evaluate(model, reals(200), shards=kept, **SHARDED[0])
    for split, name in ((reals(199), kept.model), (reals(200), "another model")):
        stopping.calls = 0
        evaluate(model, split, shards=Shards(kept.folder, name), **SHARDED[0])
        assert stopping.calls == 7


@pytest.mark.parametrize("damage", [lambda x: x[:-1], lambda x: x[:-9] + b"\xff" + x[-8:], lambda x: b""])
def test_a_damaged_file_of_finished_blocks_is_computed_again(
    damage: Any, stopping: Stopping, shards: Callable[[], Shards]
) -> None:
    whole = evaluate(exact(0.8), reals(200), shards=shards(), **SHARDED[0])
    path = sorted(shards().folder.glob("*.part"))[2]
    path.write_bytes(damage(path.read_bytes()))
    stopping.calls = 0
    again = evaluate(exact(0.8), reals(200), shards=shards(), **SHARDED[0])
    assert stopping.calls == 1
    assert torch.equal(again.evidence.log_evidence, whole.evidence.log_evidence)


def test_blocks_that_several_processes_finished_are_read_by_one(
    stopping: Stopping, shards: Callable[[], Shards], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two take every second block, in files of three or four."""
    whole = evaluate(exact(0.8), reals(200), shards=shards(), **SHARDED[0])
    done, key = shards().read("data"), json.loads((shards().folder / "key.json").read_text())
    shards().remove()
    monkeypatch.setattr("logpx.evaluation.shards.WRITE_EVERY", math.inf)
    for process in range(2):
        part = shards()
        with divided("cpu") as alone:
            part.open({name: value for name, value in key.items() if name not in ("model", "fields")}, alone)
        for number in range(process, 7, 2):
            part.add("data", number, done[number])
        part.write()
    assert len(contents_of(shards())) == 2
    stopping.calls = 0
    again = evaluate(exact(0.8), reals(200), shards=shards(), **SHARDED[0])
    assert stopping.calls == 0
    assert torch.equal(again.evidence.log_evidence, whole.evidence.log_evidence)


def test_a_short_evaluation_writes_no_shards(tmp_path: Path) -> None:
    evaluate(exact(), reals(), shards=Shards(tmp_path / "parts", "model"), **SHARDED[0])
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError(), RuntimeError("can't allocate memory: 7")])
def test_where_memory_runs_out_the_budget_is_halved_once_for_all_blocks(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets = []

    def estimate(self: Estimator, block: Block) -> Evidence:
        budgets.append(block.memory_budget)
        if block.memory_budget > 300_000:
            raise error
        return call(self, block)

    call = Estimator.__call__
    monkeypatch.setattr(Estimator, "__call__", estimate)
    evaluation = evaluate(exact(0.8), reals(100), memory_budget=2**20, **SHARDED[0])
    assert budgets == [2**20, 2**19, 2**18, 2**18, 2**18, 2**18]
    assert sum(flag.startswith("Memory ran out") for flag in evaluation.record["flags"]) == 1


def test_memory_for_less_than_one_draw_is_refused_and_other_errors_are_not_taken_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def estimate(self: Estimator, block: Block) -> Evidence:
        raise errors[0]

    errors: list[Exception] = [MemoryError()]
    monkeypatch.setattr(Estimator, "__call__", estimate)
    with pytest.raises(logpx.LogpxError, match=r"too little memory on cpu to evaluate 32 data of shape \(6,\).*draws"):
        evaluate(exact(0.8), reals(100), **SHARDED[0])
    errors[0] = RuntimeError("shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="shapes cannot"):
        evaluate(exact(0.8), reals(100), **SHARDED[0])


def test_where_memory_runs_out_already_for_a_first_look_the_evaluation_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def look(block: Block) -> list[str]:
        raise errors[0]

    errors: list[Exception] = [RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 7 bytes")]
    monkeypatch.setattr(sys.modules["logpx.evaluation.evaluate"], "inspect_model", look)
    with pytest.raises(logpx.LogpxError, match="too little memory on cpu to evaluate 32 data"):
        evaluate(exact(0.8), reals(100), **SHARDED[0])
    errors[0] = RuntimeError("shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="shapes cannot"):
        evaluate(exact(0.8), reals(100), **SHARDED[0])
