r"""Which of two models gives the same data a larger log p(x), and how well that is known.

For n data with estimates :math:`\hat a_i` and :math:`\hat b_i` and Monte Carlo standard errors :math:`s_i` and
:math:`t_i`, the difference is that of pairs, :math:`d_i = \hat a_i - \hat b_i`, so that what both models find hard in a
datum cancels:

.. math:: \mathrm{total}^2 = \mathrm{sd}(d)^2 / n, \qquad
          \mathrm{MonteCarlo}^2 = \sum_i (s_i^2 + t_i^2) / n^2, \qquad
          \mathrm{testset}^2 = \mathrm{total}^2 - \mathrm{MonteCarlo}^2.

The total holds both: the noise of each estimate is in the spread of the differences. The split takes the draws of the
two models as independent. The bias of a finite number of samples is in none of them.
"""

from __future__ import annotations

__all__ = ["Comparison", "Evaluated", "caution", "compare", "matched", "paired", "rows"]

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .montecarlo.intervals import require_confidence, student
from .utils import bits_per_dim

# What must be the same in two records of evaluations, so that their log p(x) can be compared.
SAME = ("hash", "split", "num_data", "kind", "event_shape", "binarization", "seed")
UNRELIABLE_K = 0.7


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The mean difference of log p(x), of the first model less the second, over the same data.

    Arguments:
        num_data: The number n of pairs.
        difference: The mean difference, in nats per datum.
        error: Its standard error, in nats, which holds both of the following.
        monte_carlo_error: The part of it that more samples would shrink, in nats.
        test_set_error: The part of it that more data would shrink, in nats.
        low: The lower end of its interval by Student's t with n - 1 degrees of freedom, in nats.
        high: The upper end, in nats.
        confidence: The coverage of the interval.
        num_better: How many data are more probable under the first model.
        num_worse: How many are more probable under the second.
    """

    num_data: int
    difference: float
    error: float
    monte_carlo_error: float
    test_set_error: float
    low: float
    high: float
    confidence: float
    num_better: int
    num_worse: int

    @property
    def is_shown(self) -> bool:
        """Whether the interval leaves out 0."""
        return not self.low <= 0 <= self.high

    def bits_per_dim(self, num_dims: int) -> tuple[float, float]:
        """Returns how many bits per dimension the first model's code is shorter, and the standard error of that."""
        per_nat = float(bits_per_dim(-1.0, num_dims))
        return self.difference * per_nat, self.error * per_nat

    def verdict(self, a: str = "the first", b: str = "the second") -> str:
        """Says which model is better, by how much, or that no difference is shown.

        Arguments:
            a: What the first model is called.
            b: What the second is called.
        """
        interval = f"{100 * self.confidence:.4g}% interval"
        if not self.is_shown:
            ends = f"{self.low:.3f} to {self.high:.3f} nats per datum"
            return f"No difference shown: the {interval} of {a} less {b}, {ends}, holds 0."
        better, worse = (a, b) if self.difference > 0 else (b, a)
        low, high = sorted((abs(self.low), abs(self.high)))
        gain = f"{abs(self.difference):.3f} nats per datum"
        return f"{better} is better than {worse} by {gain} ({interval}: {low:.3f} to {high:.3f})."


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """What an evaluation left behind.

    Arguments:
        name: What the model is called.
        record: The record of the evaluation.
        scores: The numbers per datum, by name, each with shape (n,).
    """

    name: str
    record: Mapping[str, Any]
    scores: Mapping[str, np.ndarray]

    def take(self, index: np.ndarray) -> Evaluated:
        """Returns the same on some of the data, given by their ascending places in the split."""
        rows = np.isin(self.scores["index"], index)
        return dataclasses.replace(self, scores={name: column[rows] for name, column in self.scores.items()})

    @property
    def unreliable(self) -> float:
        """The share of the data whose estimate is unreliable by its k-hat, or is not known to be reliable."""
        k = self.scores.get("pareto_k")
        return 0.0 if k is None else float(np.mean(~(k < UNRELIABLE_K)))


def paired(
    a: np.ndarray, b: np.ndarray, error_a: np.ndarray, error_b: np.ndarray, *, confidence: float = 0.95
) -> Comparison:
    """Compares two models by their estimates of log p(x) of the same data.

    Arguments:
        a: The estimates of the first model, in nats, with shape (n,).
        b: Those of the second, of the same data in the same order.
        error_a: The Monte Carlo standard errors of the first, in nats, with shape (n,); 0 where log p(x) is exact.
        error_b: Those of the second.
        confidence: The coverage of the interval.

    Returns:
        The mean difference, its interval and its errors.

    Raises:
        ValueError: If the shapes differ, there are fewer than 2 data, an estimate is not finite, or the confidence is
            not between 0 and 1.

    Example:
        >>> result = paired(np.array([1.0, 3.0, 2.0]), np.array([0.0, 1.0, 2.0]), np.zeros(3), np.zeros(3))
        >>> result.difference, result.num_better, result.is_shown
        (1.0, 2, False)
    """
    require_confidence(confidence)
    _check(a, b, error_a, error_b)
    n, d = len(a), np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    mean, error = float(d.mean()), float(d.std(ddof=1)) / math.sqrt(n)
    # MonteCarlo^2 = sum (s^2 + t^2) / n^2
    monte_carlo = math.sqrt(float(np.sum(np.square(error_a) + np.square(error_b)))) / n
    low, high = student(mean, error, n - 1, confidence)
    return Comparison(
        num_data=n,
        difference=mean,
        error=error,
        monte_carlo_error=monte_carlo,
        test_set_error=math.sqrt(max(error**2 - monte_carlo**2, 0.0)),
        low=low,
        high=high,
        confidence=confidence,
        num_better=int((d > 0).sum()),
        num_worse=int((d < 0).sum()),
    )


def matched(a: Evaluated, b: Evaluated) -> tuple[Evaluated, Evaluated]:
    """Returns two evaluated models on the data that both were evaluated on, after checking that these are the same.

    Arguments:
        a: The first, on all data of a split, or on a subset of them.
        b: The second; where both have subsets, it must be the same one.

    Raises:
        ValueError: If one of them gives no log-probability, or they were evaluated on other data.
    """
    for each in (a, b):
        if each.record["relaxed"]:
            raise ValueError(
                f"{each.name} has no log-probability to compare, but a relaxed score ({each.record['relaxed']:.500}): "
                "choose a run with another likelihood."
            )
    for key in SAME:
        if a.record["data"][key] != b.record["data"][key]:
            raise ValueError(
                f"{a.name} and {b.name} cannot be compared, because their data differ in {key} "
                f"({a.record['data'][key]} and {b.record['data'][key]}): fit and evaluate both on the same data."
            )
    common = np.intersect1d(a.scores["index"], b.scores["index"])
    sizes = len(a.scores["index"]), len(b.scores["index"])
    if len(common) < min(sizes):
        raise ValueError(
            f"{a.name} and {b.name} cannot be compared, because they were evaluated on different subsets of {sizes[0]} "
            f"and {sizes[1]} data: give both the same --subset and --seed."
        )
    return a.take(common), b.take(common)


def compare(a: Evaluated, b: Evaluated, *, confidence: float = 0.95) -> Comparison:
    """Compares two evaluated models on the data that both were evaluated on.

    Arguments:
        a: The first.
        b: The second.
        confidence: The coverage of the interval.

    Raises:
        ValueError: As in `matched` and `paired`.
    """
    require_confidence(confidence)
    a, b = matched(a, b)
    columns = (each.scores[name] for name in ("log_evidence", "standard_error") for each in (a, b))
    try:
        return paired(*columns, confidence=confidence)
    except ValueError as error:
        raise ValueError(f"{a.name} and {b.name} cannot be compared: {error}") from error


def caution(a: Evaluated, b: Evaluated) -> str:
    """Says what unreliable estimates on either side mean for the difference; nothing where there are none."""
    shares = {each.name: each.unreliable for each in (a, b) if each.unreliable}
    if not shares:
        return ""
    which = " and ".join(f"{share:.1%} of those of {name}" for name, share in shares.items())
    cure = "evaluate with --estimator auto, or a better proposal"
    if len(shares) == 2:
        means = (
            "both means are lower bounds on average, and a difference of two lower bounds is no bound, of either side"
        )
    else:
        means = f"the mean of {next(iter(shares))} is a lower bound on average, so that it may be better than it seems"
    return f"Of the estimates, {which} are unreliable (k-hat of 0.7 or more, or none): {means}; {cure}."


def rows(a: Evaluated, b: Evaluated, result: Comparison) -> list[tuple[str, str]]:
    """Returns the table of a comparison: names, and values with their units.

    Arguments:
        a: The first model.
        b: The second.
        result: What `compare` says of them.
    """
    data = a.record["data"]
    what = f"{data['name'] or 'data'}, {data['split']}, {result.num_data:,} data, binarization {data['binarization']}"
    gain, gain_error = result.bits_per_dim(math.prod(data["event_shape"]))
    length = "shorter" if gain >= 0 else "longer"
    table = [
        ("data", what + (f" (a random subset of {data['num_data']:,})" if result.num_data < data["num_data"] else "")),
        ("A", _source(a)),
        ("B", _source(b)),
        ("A less B", f"{result.difference:.3f} nats per datum"),
        ("  total error", f"{result.error:.3f} nats (one standard error)"),
        ("  Monte Carlo", f"{result.monte_carlo_error:.3f} nats, which more samples would shrink"),
        ("  test set", f"{result.test_set_error:.3f} nats, which more data would shrink"),
        ("  interval", f"{result.low:.3f} to {result.high:.3f} nats ({100 * result.confidence:.4g}%, Student's t)"),
        ("bits per dimension", f"A's code is {length} by {abs(gain):.4f} ± {gain_error:.4f} bits/dim"),
        ("more probable", f"under A {result.num_better:,} data, under B {result.num_worse:,}"),
    ]
    table += [("note", text)] if (text := caution(a, b)) else []
    return [*table, ("verdict", result.verdict("A", "B"))]


def _source(each: Evaluated) -> str:
    """Says where the numbers of a model come from, and how far they are too low on average."""
    record, bias = each.record, each.record.get("jackknife")
    mean = float(np.mean(each.scores["log_evidence"]))
    if record["estimator"] == "exact":
        return f"{each.name} ({record['model']}): {mean:.3f} nats per datum, exact"
    known = f"finite-sample bias about {bias['bias']:.3f} nats" if bias else "finite-sample bias not estimable"
    return f"{each.name} ({record['model']}): {mean:.3f} nats per datum, estimator {record['estimator']}, {known}"


def _check(a: np.ndarray, b: np.ndarray, error_a: np.ndarray, error_b: np.ndarray) -> None:
    shapes = {np.shape(values) for values in (a, b, error_a, error_b)}
    if len(shapes) > 1 or np.ndim(a) != 1 or len(a) < 2:
        listed = ", ".join(str(np.shape(values)) for values in (a, b, error_a, error_b))
        raise ValueError(
            f"Estimates and errors must have shape (n,) with the same n of at least 2, but have {listed}: give one "
            "value per datum in each."
        )
    bad = int((~np.isfinite(a) | ~np.isfinite(b)).sum())
    if bad:
        raise ValueError(
            f"{bad} of {len(a)} data have an estimate that is not finite under one of the models, so that no mean "
            "difference exists: evaluate both with an estimator that gives finite ones."
        )
