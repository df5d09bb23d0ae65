r"""An estimate of a mean, with its error, an interval, and a diagnosis in words."""

from __future__ import annotations

__all__ = ["Estimate", "Trace", "given"]

import dataclasses
import math

from .solve import Method, interval, khat, largest_share, log_estimate, solve
from .sums import Sums

# Below this many terms that are not zero, an error bar is a guess.
FEW = 10
LARGE_SHARE = 0.1
# Terms that are all below so many times their mean have no tail, whatever shape k-hat finds at their upper end.
SMALL = 5.0


def given(confidence: float) -> str:
    """Says a confidence in percent, to no more digits than it has.

    Example:
        >>> given(0.95), given(0.999)
        ('95%', '99.9%')
    """
    return f"{100 * confidence:.10g}%"


@dataclasses.dataclass(frozen=True)
class Trace:
    """The running estimate after some of the draws.

    Arguments:
        num_samples: The number of draws so far.
        estimate: The estimate from them.
        standard_error: Its standard error.
        interval: Its confidence interval.
    """

    num_samples: int
    estimate: float
    standard_error: float
    interval: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Estimate:
    r"""An estimate of :math:`\mu = E_p[f(X)]`, in the unit of f.

    Arguments:
        estimate: The estimate :math:`\hat\mu`.
        standard_error: Its standard error.
        interval: Its confidence interval: exact for an indicator under plain Monte Carlo, by weighted events for an
            indicator with weights, else Student's.
        confidence: The coverage of the interval, such as 0.95.
        num_samples: The number n of draws that it rests on.
        num_nonzero: The number of draws with :math:`f w \neq 0`: the hits, where f is an indicator.
        num_adaptive: The number of draws that were spent on fitting the proposal, and are not in the estimate.
        ess: The effective number of terms, :math:`(\sum |f| w)^2 / \sum (f w)^2`.
        weight_ess: The effective number of draws, :math:`(\sum w)^2 / \sum w^2`; n without weights.
        pareto_k: The k-hat of the non-zero terms :math:`|f| w`, or of the weights where they are normalised and
            heavier; NaN below 25 of them, and :math:`-\infty` where terms are constant or an indicator bounds them.
        largest_share: The share of the largest term in :math:`\sum |f| w`.
        log_estimate: :math:`\log \hat\mu`, also where :math:`\hat\mu` is too small for a float; NaN where f has
            both signs.
        method: How it was estimated.
        seed: The seed of the draws; after a merge, all seeds.
        reached: Whether the target was reached; None where there was none.
        trace: The running estimate, where it was asked for.
        ceiling: The largest mean that f of 0 or 1 can have: 1, or infinite where p need not be normalised.
    """

    estimate: float
    standard_error: float
    interval: tuple[float, float]
    confidence: float
    num_samples: int
    num_nonzero: int
    num_adaptive: int
    ess: float
    weight_ess: float
    pareto_k: float
    largest_share: float
    log_estimate: float
    method: Method
    seed: tuple[int, ...]
    reached: bool | None = None
    trace: tuple[Trace, ...] = ()
    ceiling: float = 1.0
    sums: Sums | None = dataclasses.field(default=None, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        sums: Sums,
        method: Method,
        seed: tuple[int, ...],
        *,
        confidence: float = 0.95,
        num_adaptive: int = 0,
        reached: bool | None = None,
        trace: tuple[Trace, ...] = (),
        ceiling: float = 1.0,
    ) -> Estimate:
        """Computes the estimate from the sums of draws.

        Raises:
            LogpxError: If self-normalised weights are all zero.
        """
        mean, error, freedom = solve(sums, method)
        return cls(
            estimate=mean,
            standard_error=error,
            interval=interval(sums, method, (mean, error, freedom), confidence, ceiling),
            confidence=confidence,
            num_samples=sums.count,
            num_nonzero=sums.terms.count,
            num_adaptive=num_adaptive,
            ess=float(sums.terms.ess()) if sums.terms.count else 0.0,
            weight_ess=float(sums.count if sums.weights is None else sums.weights.ess()),
            pareto_k=khat(sums, method),
            largest_share=largest_share(sums),
            log_estimate=log_estimate(sums, method, mean),
            method=method,
            seed=seed,
            reached=reached,
            trace=trace,
            ceiling=ceiling,
            sums=sums,
        )

    def merged(self, other: Estimate) -> Estimate:
        """Returns the estimate from the draws of both runs.

        Raises:
            ValueError: If the runs share a seed, so that their draws are the same, or differ in their settings.
        """
        if self.sums is None or other.sums is None:
            raise ValueError("Estimates merge by their sums, but one has none: keep those that the estimators return.")
        if self.method != other.method:
            methods = f"{self.method} and {other.method}"
            raise ValueError(f"Estimates must share a method to merge, but are {methods}: average them by hand.")
        if len(self.sums.moments.mean) != len(other.sums.moments.mean):
            raise ValueError(
                "Estimates must have the same control variates to merge, but differ: use the same in both."
            )
        if self.confidence != other.confidence:
            levels = f"{self.confidence} and {other.confidence}"
            raise ValueError(f"Estimates must share a confidence to merge, but have {levels}: use one for both.")
        if set(self.seed) & set(other.seed):
            raise ValueError(f"Estimates must come from different seeds, but both used {self.seed}: change one.")
        return Estimate.of(
            self.sums.merged(other.sums),
            self.method,
            self.seed + other.seed,
            confidence=self.confidence,
            num_adaptive=self.num_adaptive + other.num_adaptive,
            ceiling=max(self.ceiling, other.ceiling),
        )

    @property
    def relative_error(self) -> float:
        """The standard error divided by the absolute estimate; infinite for an estimate of 0."""
        if self.estimate != 0 and math.isfinite(self.estimate):
            return self.standard_error / abs(self.estimate)
        if self.num_nonzero == 0 or not math.isfinite(self.log_estimate) or self.num_samples < 2:
            return math.inf
        # beyond the range of floats: (se / mu)^2 = (n / ess - 1) / (n - 1) for f >= 0
        return math.sqrt(max(self.num_samples / self.ess - 1, 0.0) / (self.num_samples - 1))

    @property
    def diagnosis(self) -> str:
        """What a reader of the estimate must know, in words."""
        sentences = [_tail_sentence(self)]
        if self.largest_share >= LARGE_SHARE and self.num_nonzero >= FEW:
            sentences.append(f"The largest term alone makes {self.largest_share:.0%} of the sum.")
        if self.reached is False:
            sentences.append(
                f"The cap of {self.num_samples:,} samples was hit before the target: standard error "
                f"{self.standard_error:.2g}, relative {self.relative_error:.2g}."
            )
        return " ".join(sentences)

    def __str__(self) -> str:
        low, high = self.interval
        spent = f" + {self.num_adaptive:,} to fit the proposal" if self.num_adaptive else ""
        return (
            f"{self.estimate:.6g} ± {self.standard_error:.2g} (one standard error; {given(self.confidence)} interval "
            f"{low:.6g} to {high:.6g}), {self.num_samples:,} samples{spent}, {self.method}. {self.diagnosis}"
        )


_FEW_WORDS = {
    True: "trust the interval alone",
    False: "the error bar is a guess, and with weights that vary much the interval is too narrow as well",
}


def _tail_sentence(estimate: Estimate) -> str:
    hits, khat = estimate.num_nonzero, estimate.pareto_k
    if hits == 0:
        return (
            f"No hit: f(x) was 0, or had no weight, for all {estimate.num_samples:,} samples. That is absence of "
            f"evidence, not evidence of absence: the interval, for f of 0 or 1, ends at {estimate.interval[1]:.3g}."
        )
    if hits < FEW:
        words = _FEW_WORDS[estimate.method == "plain"]
        return f"Only {hits} of {estimate.num_samples:,} samples hit (f(x) was not 0): {words}."
    largest = estimate.largest_share * hits
    if khat >= 0.5 and largest < SMALL and estimate.method != "self-normalised importance":
        return f"The largest term is only {largest:.1f} times the mean of those other than 0: they have no tail."
    if khat >= 0.7:
        return (
            f"k-hat = {khat:.2f} >= 0.7: the terms are so heavy-tailed that the estimate is unreliable, and probably "
            "too near 0; a better proposal helps, more samples hardly."
        )
    if khat >= 0.5:
        return f"k-hat = {khat:.2f}, between 0.5 and 0.7: the estimate is usable, but its error bar is unreliable."
    if math.isnan(khat):
        return f"{hits} terms other than 0 are too few to judge the tail of the weights."
    if estimate.relative_error == 0 and estimate.interval[0] == estimate.interval[1]:
        return f"All {hits:,} terms are equal up to rounding: no variation was seen."
    if khat == -math.inf:
        return "The terms are bounded: estimate and interval can be relied on."
    return f"k-hat = {khat:.2f} < 0.5: the terms have finite variance; estimate and interval can be relied on."
