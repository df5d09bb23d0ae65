"""Two models are told apart when they differ, and are said not to be when they do not, with both errors counted."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from logpx import FactorAnalysis
from logpx.comparison import Comparison, Evaluated, caution, compare, matched, paired, rows
from logpx.evidence import importance
from logpx.utils import keyed_rng

NUM_DATA = 1000
RECORD: dict[str, Any] = {
    "data": {
        "name": "digits",
        "split": "test",
        "num_data": 40,
        "kind": "binary",
        "event_shape": [1, 4, 4],
        "binarization": "static",
        "seed": 0,
        "hash": "sha256:00ff",
    },
    "model": "VAE",
    "estimator": "importance",
    "relaxed": None,
    "jackknife": {"mean": -1.0, "bias": -0.01},
}


def evaluated(name: str, *, k: float = 0.1, index: Any = None, draw: int = 0, **data: Any) -> Evaluated:
    """An evaluation of 40 data, or of some of them, with standard error 0.1."""
    record = copy.deepcopy(RECORD)
    record["data"] |= data
    chosen = np.arange(40) if index is None else np.asarray(index)
    values = np.random.default_rng(draw).normal(-20, 3, 40)[chosen]
    scores = {"index": chosen, "log_evidence": values, "standard_error": np.full(len(chosen), 0.1)}
    return Evaluated(name, record, {**scores, "pareto_k": np.full(len(chosen), k)})


def exact(name: str) -> Evaluated:
    """The same without weights, as a model gives that knows its log p(x)."""
    each = evaluated(name, draw=1)
    scores = {key: each.scores[key] for key in ("index", "log_evidence")} | {"standard_error": np.zeros(40)}
    return Evaluated(name, {**each.record, "estimator": "exact", "model": "Mixture", "jackknife": None}, scores)


def random(n: int = 60, spread: float = 2.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    common = rng.normal(-80, 20, n)
    return *(common + rng.normal(0, spread, (2, n))), *rng.uniform(0.1, 0.3, (2, n))


# ---------------------------------------------------------------- the numbers


def test_the_interval_is_that_of_a_paired_t_test() -> None:
    a, b, error_a, error_b = random()
    result = paired(a, b, error_a, error_b, confidence=0.9)
    oracle = stats.ttest_rel(a, b).confidence_interval(0.9)
    assert (result.low, result.high) == pytest.approx((oracle.low, oracle.high), rel=1e-12)
    assert result.difference == pytest.approx((a - b).mean())
    assert result.error == pytest.approx((a - b).std(ddof=1) / math.sqrt(60))
    assert (result.num_better, result.num_worse, result.num_data) == ((a > b).sum(), (a < b).sum(), 60)
    # not that of two unpaired means, which would hold the spread of the data
    assert result.error < 0.2 * stats.sem(a)


def test_the_error_has_both_parts() -> None:
    a, b, error_a, error_b = random()
    result = paired(a, b, error_a, error_b)
    assert result.monte_carlo_error == pytest.approx(math.sqrt((error_a**2 + error_b**2).sum()) / 60)
    assert math.hypot(result.monte_carlo_error, result.test_set_error) == pytest.approx(result.error)
    known = paired(a, b, np.zeros(60), np.zeros(60))
    assert (known.monte_carlo_error, known.test_set_error) == (0, pytest.approx(result.error))


def test_the_other_way_round_is_the_same_with_another_sign() -> None:
    a, b, error_a, error_b = random()
    there, back = paired(a, b, error_a, error_b), paired(b, a, error_b, error_a)
    assert (back.difference, back.low, back.high) == (-there.difference, -there.high, -there.low)
    assert (back.num_better, back.num_worse) == (there.num_worse, there.num_better)


def test_a_model_does_not_differ_from_itself() -> None:
    a, _, error, _ = random()
    result = paired(a, a, error, error)
    assert (result.difference, result.error, result.num_better, result.num_worse) == (0, 0, 0, 0)
    assert not result.is_shown


def test_more_nats_are_fewer_bits() -> None:
    a, b, error_a, error_b = random()
    result = paired(a + 10, b, error_a, error_b)
    gain, error = result.bits_per_dim(16)
    assert gain == pytest.approx(result.difference / (16 * math.log(2)))
    assert error == pytest.approx(result.error / (16 * math.log(2)))
    assert gain > 0


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda a: a[:-1], r"same n of at least 2, but have \(59,\), \(60,\)"),
        (lambda a: a.reshape(6, 10), "same n of at least 2"),
        (lambda a: np.where(np.arange(60) < 3, -np.inf, a), "3 of 60 data have an estimate that is not finite"),
        (lambda a: np.where(np.arange(60) < 1, np.nan, a), "1 of 60 data"),
    ],
    ids=["shorter", "a matrix", "impossible data", "not a number"],
)
def test_what_has_no_mean_difference_is_refused(change: Any, says: str) -> None:
    a, b, error_a, error_b = random()
    with pytest.raises(ValueError, match=says):
        paired(change(a), b, error_a, error_b)


def test_one_pair_and_a_confidence_in_percent_are_refused() -> None:
    one = np.ones(1)
    with pytest.raises(ValueError, match="at least 2"):
        paired(one, one, one, one)
    with pytest.raises(ValueError, match="confidence must be between 0 and 1, but is 95"):
        paired(*random(), confidence=95)


# ---------------------------------------------------------------- the verdict


def result(low: float, high: float) -> Comparison:
    middle = (low + high) / 2
    return Comparison(60, middle, 0.1, 0.0, 0.1, low, high, 0.95, 40, 20)


def test_the_verdict_names_the_better_model_and_by_how_much() -> None:
    assert result(0.2, 0.6).verdict("A", "B") == (
        "A is better than B by 0.400 nats per datum (95% interval: 0.200 to 0.600)."
    )
    assert result(-0.6, -0.2).verdict("A", "B") == (
        "B is better than A by 0.400 nats per datum (95% interval: 0.200 to 0.600)."
    )


@pytest.mark.parametrize("ends", [(-0.1, 0.6), (0.0, 0.6), (-0.6, 0.0)])
def test_an_interval_that_holds_0_shows_no_difference(ends: tuple[float, float]) -> None:
    verdict = result(*ends).verdict("A", "B")
    assert verdict.startswith("No difference shown: the 95% interval of A less B, ")
    assert "better" not in verdict


def factor_analysis(shift: float) -> FactorAnalysis:
    """A model of 4 dimensions whose mean lies so many standard deviations of x from the truth, which is at 0."""
    loading, u = torch.tensor([[1.0], [0.5], [-0.5], [0.2]]), torch.tensor([1.0, -1.0, 0.5, 0.0])
    covariance = loading @ loading.T + 0.64 * torch.eye(4)
    mean = shift * u / (u @ torch.linalg.solve(covariance, u)).sqrt()
    return FactorAnalysis(loading, mean, torch.full((4,), 0.8), 1.1)


def test_sets(models: tuple[FactorAnalysis, FactorAnalysis], num_sets: int, num_samples: int) -> list[Comparison]:
    """Compares two models on test sets that are drawn from the truth, exactly or by importance sampling."""
    truth, found = factor_analysis(0.0), []
    for number in range(num_sets):
        with keyed_rng(number, "test set"):
            x = truth.decoder(truth.prior().sample((NUM_DATA,))).sample()
        if num_samples:
            parts = [importance(model, x, num_samples, seed=2 * number + i) for i, model in enumerate(models)]
            columns = [getattr(part, name).numpy() for name in ("log_evidence", "standard_error") for part in parts]
        else:
            columns = [*(model.log_evidence(x).numpy() for model in models), *np.zeros((2, NUM_DATA))]
        found.append(paired(*columns))
    return found


test_sets.__test__ = False  # type: ignore[attr-defined]


def test_equal_models_show_no_difference_in_95_percent_of_test_sets() -> None:
    """The share of 1,000 has standard error 0.7%, so 93-97% is 3 of them: false alarm 4e-3."""
    found = test_sets((factor_analysis(2.5), factor_analysis(-2.5)), 1000, 0)
    assert 0.93 < np.mean([not each.is_shown for each in found]) < 0.97
    assert np.mean([each.error for each in found]) * math.sqrt(NUM_DATA) == pytest.approx(5.0, rel=0.02)


def test_a_difference_of_half_a_nat_is_found_in_80_percent_of_test_sets() -> None:
    """With E[d] = (t^2 - s^2) / 2 = 0.5 and sd(d) = s + t = 5; its share is 88.5% ± 2% of 250: false alarm 2e-5."""
    s, t = 2.4, 2.6
    found = test_sets((factor_analysis(s), factor_analysis(-t)), 250, 0)
    assert np.mean([each.difference for each in found]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([each.is_shown and each.difference > 0 for each in found]) >= 0.8


def test_the_interval_holds_monte_carlo_noise_as_well() -> None:
    """Near each other, the models' noise is half of the variance; 94.9% ± 1.3% of 300 is judged at 4: 6e-5."""
    found = test_sets((factor_analysis(0.05), factor_analysis(-0.05)), 300, 4)
    noise = np.mean([each.monte_carlo_error**2 / each.error**2 for each in found])
    assert 0.3 < noise < 0.8
    assert 0.9 < np.mean([not each.is_shown for each in found]) < 0.995
    # an interval of the test-set part alone would be too narrow
    narrow = [abs(each.difference) < 1.96 * each.test_set_error for each in found]
    assert np.mean(narrow) < 0.9


# ---------------------------------------------------------------- the same data


@pytest.mark.parametrize(
    "key, value",
    [
        ("hash", "sha256:1"),
        ("split", "valid"),
        ("num_data", 64),
        ("binarization", "dynamic"),
        ("seed", 3),
        ("kind", "real"),
        ("event_shape", [16]),
    ],
)
def test_numbers_about_other_data_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"a and b cannot be compared, because their data differ in {key} \("):
        compare(evaluated("a"), evaluated("b", **{key: value}))


def test_runs_without_a_finite_difference_are_named() -> None:
    a, b = evaluated("a"), evaluated("b")
    a.scores["log_evidence"][3] = np.nan
    with pytest.raises(
        ValueError, match=r"^a and b cannot be compared: 1 of 40 data have an estimate that is not finite"
    ):
        compare(a, b)


def test_a_relaxed_score_is_refused() -> None:
    relaxed = evaluated("b")
    relaxed.record["relaxed"] = "a density on greys"  # type: ignore[index]
    for pair in ((evaluated("a"), relaxed), (relaxed, evaluated("a"))):
        with pytest.raises(ValueError, match=r"b has no log-probability to compare, but a relaxed score \(a density"):
            compare(*pair)


def test_a_subset_is_compared_with_all_data_on_the_data_of_the_subset() -> None:
    index = [3, 5, 8, 20, 39]
    some, everything = evaluated("a", index=index), evaluated("b", draw=1)
    d = some.scores["log_evidence"] - everything.scores["log_evidence"][index]
    for pair, sign in (((some, everything), 1), ((everything, some), -1)):
        found = compare(*pair)
        assert (found.num_data, found.difference) == (5, pytest.approx(sign * d.mean()))
    assert [list(each.scores["index"]) for each in matched(some, everything)] == [index, index]
    assert "5 data, binarization static (a random subset of 40)" in dict(rows(some, everything, found))["data"]


def test_a_code_is_said_to_be_longer_or_shorter_by_a_positive_number() -> None:
    a, b = evaluated("a"), evaluated("b", draw=1)
    size = abs(compare(a, b).bits_per_dim(16)[0])
    texts = [dict(rows(*pair, compare(*pair)))["bits per dimension"] for pair in ((a, b), (b, a))]
    assert sorted(text.partition(" ±")[0] for text in texts) == [
        f"A's code is {word} by {size:.4f}" for word in ("longer", "shorter")
    ]
    assert ("shorter" in texts[0]) == (compare(a, b).difference > 0)


def test_different_subsets_are_refused() -> None:
    with pytest.raises(ValueError, match="different subsets of 3 and 4 data: give both the same --subset and --seed"):
        compare(evaluated("a", index=[1, 2, 3]), evaluated("b", index=[1, 2, 4, 5]))


# ---------------------------------------------------------------- what unreliable estimates mean


def test_a_difference_of_two_lower_bounds_is_said_to_be_no_bound() -> None:
    a, b = evaluated("runs/a", k=0.8), evaluated("runs/b", k=math.nan)
    text = caution(a, b)
    assert "a difference of two lower bounds is no bound" in text
    assert "100.0% of those of runs/a and 100.0% of those of runs/b" in text
    assert ("note", text) in rows(a, b, compare(a, b))


def test_one_lower_bound_says_which_model_may_be_better_than_it_seems() -> None:
    text = caution(evaluated("runs/a"), evaluated("runs/b", k=0.7))
    assert "the mean of runs/b is a lower bound on average" in text
    assert "runs/a" not in text


def test_reliable_and_exact_numbers_need_no_caution() -> None:
    a, b = evaluated("runs/a", k=0.69), exact("runs/b")
    assert caution(a, b) == ""
    table = dict(rows(a, b, compare(a, b)))
    assert "note" not in table
    assert table["B"].endswith("nats per datum, exact") and "finite-sample bias about -0.010 nats" in table["A"]
    assert table["verdict"] == compare(a, b).verdict("A", "B")
