r"""An estimate of a mean, with its error, an interval, and a diagnosis in words."""

from __future__ import annotations

__all__ = ["Estimate", "Trace"]

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from ..utils import LogpxError
from .intervals import clopper_pearson, student, weighted_events
from .sums import Sums

Method = Literal["plain", "importance", "self-normalised importance", "sobol", "stratified"]
# Below this many terms that are not zero, an error bar is a guess.
FEW = 10
LARGE_SHARE = 0.1
# Terms that are all below so many times their mean have no tail, whatever shape k-hat finds at their upper end.
SMALL = 5.0


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
        mean, error, freedom = _solve(sums, method)
        return cls(
            estimate=mean,
            standard_error=error,
            interval=_interval(sums, method, mean, error, freedom, confidence, ceiling),
            confidence=confidence,
            num_samples=sums.count,
            num_nonzero=sums.terms.count,
            num_adaptive=num_adaptive,
            ess=float(sums.terms.ess()) if sums.terms.count else 0.0,
            weight_ess=float(sums.count if sums.weights is None else sums.weights.ess()),
            pareto_k=_pareto_k(sums, method),
            largest_share=_largest_share(sums),
            log_estimate=_log_estimate(sums, method, mean),
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
                f"The cap of {self.num_samples:,} samples was hit before the target: relative standard error "
                f"{self.relative_error:.2g}."
            )
        return " ".join(sentences)

    def __str__(self) -> str:
        low, high = self.interval
        spent = f" + {self.num_adaptive:,} to fit the proposal" if self.num_adaptive else ""
        return (
            f"{self.estimate:.6g} ± {self.standard_error:.2g} (one standard error; {self.confidence:.0%} interval "
            f"{low:.6g} to {high:.6g}), {self.num_samples:,} samples{spent}, {self.method}. {self.diagnosis}"
        )


def _solve(sums: Sums, method: Method) -> tuple[float, float, float]:
    """Returns the estimate, its standard error, and the degrees of freedom."""
    if method == "self-normalised importance":
        return _ratio(sums)
    moments, n = sums.moments, sums.count
    controls = moments.mean[_first_control(sums) :]
    freedom = n - 1 - len(controls)
    mean, error = _adjusted(sums) if len(controls) else (moments.mean[0], (moments.covariance()[0, 0] / n).sqrt())
    if _is_constant(sums):
        return _scaled(mean, moments.log_scale[0]), 0.0, math.inf
    return (
        _scaled(mean, moments.log_scale[0]),
        _scaled(error, moments.log_scale[0]) if freedom > 0 else math.inf,
        freedom,
    )


def _adjusted(sums: Sums) -> tuple[Tensor, Tensor]:
    r"""The intercept of the regression of t on the controls c, and its standard error, in units of t.

    .. math:: \hat\mu = \bar t - \beta^\top \bar c, \qquad
              \mathrm{se}^2 = \hat\sigma^2 \Bigl(\frac{1}{n} + \bar c^\top P^+ \bar c\Bigr), \qquad \beta = P^+ P_{ct}
    """
    moments, n, first = sums.moments, sums.count, _first_control(sums)
    controls, cross = moments.mean[first:], moments.products[first:, 0]
    # of the correlations, so that the units of the controls do not matter
    size = moments.products[first:, first:].diagonal().sqrt()
    size = torch.where(size > 0, size, 1.0)
    inverse = torch.linalg.pinv(moments.products[first:, first:] / torch.outer(size, size), hermitian=True)
    inverse = inverse / torch.outer(size, size)
    beta = inverse @ cross
    variance = (moments.products[0, 0] - beta @ cross).clamp(min=0) / max(n - 1 - len(controls), 1)
    return moments.mean[0] - beta @ controls, (variance * (1 / n + controls @ inverse @ controls)).sqrt()


def _first_control(sums: Sums) -> int:
    return 1 if sums.weights is None else 2


def _scaled(value: Tensor, log_scale: Tensor) -> float:
    return float(torch.where(value == 0, 0.0, value * log_scale.exp()))


def _ratio(sums: Sums) -> tuple[float, float, float]:
    r"""The mean of t over that of w; by the delta method :math:`\mathrm{se}^2 = \sum w^2 (f - \mu)^2 / (\sum w)^2`."""
    mean, n = sums.moments.mean, sums.count
    if not mean[1] > 0:
        raise LogpxError(
            f"Self-normalised weights need a positive sum, but all {n:,} weights are 0: the proposal misses the "
            "nominal distribution; choose one that covers it."
        )
    mu, log_scale = mean[0] / mean[1], sums.moments.log_scale[0] - sums.moments.log_scale[1]
    direction = torch.stack([torch.ones_like(mu), -mu])
    variance = (direction @ sums.moments.products @ direction).clamp(min=0) / (n * max(n - 1, 1)) / mean[1] ** 2
    return _scaled(mu, log_scale), _scaled(variance.sqrt(), log_scale) if n > 1 else math.inf, n - 1


def _is_constant(sums: Sums) -> bool:
    """Terms of one sign that agree up to rounding: zero variance."""
    same_sign = sums.terms.count == sums.count and not sums.has_negative and sums.count > 1
    return same_sign and bool(sums.terms.is_constant)


def _interval(
    sums: Sums, method: Method, mean: float, error: float, freedom: float, confidence: float, ceiling: float
) -> tuple[float, float]:
    has_controls = len(sums.moments.mean) > _first_control(sums)
    if not sums.is_indicator or (has_controls and sums.terms.count):
        return student(mean, error, freedom, confidence) if error > 0 else (mean, mean)
    if sums.weights is None:
        return clopper_pearson(sums.terms.count, sums.count, confidence)
    if sums.terms.count == 0:
        # no weight of the event was ever seen, so that nothing but the range of a probability bounds the mean
        return 0.0, ceiling
    if method == "self-normalised importance":
        log_mean_w = float(sums.weights.log_mean())
        if mean > 0.5:
            # the event that is rare is the other one
            largest = math.exp(float(sums.weights.maximum) - log_mean_w)
            low, high = weighted_events(max(1 - mean, 0.0), error, largest, sums.count, confidence)
            return max(1 - high, 0.0), 1 - low
        largest = math.exp(float(sums.terms.maximum) - log_mean_w)
        low, high = weighted_events(mean, error, largest, sums.count, confidence)
        return low, min(high, 1.0)
    low, high = weighted_events(mean, error, math.exp(float(sums.terms.maximum)), sums.count, confidence)
    # the share of hits has an error of its own, which few misses do not show
    least, _ = clopper_pearson(sums.terms.count, sums.count, confidence)
    return min(low, mean * least * sums.count / sums.terms.count), min(high, ceiling)


def _pareto_k(sums: Sums, method: Method) -> float:
    if sums.terms.count == 0:
        return math.nan
    if sums.weights is None and sums.is_indicator:
        return -math.inf
    khat = float(sums.terms.pareto_k())
    if method == "self-normalised importance" and sums.weights is not None:
        return max(khat, float(sums.weights.pareto_k()))
    return khat


def _largest_share(sums: Sums) -> float:
    if sums.terms.count == 0:
        return math.nan
    return math.exp(float(sums.terms.maximum - sums.terms.log_mean()) - math.log(sums.terms.count))


def _log_estimate(sums: Sums, method: Method, mean: float) -> float:
    if len(sums.moments.mean) > _first_control(sums):
        return math.log(mean) if mean > 0 else math.nan
    if sums.has_negative:
        return math.nan
    if sums.terms.count == 0:
        return -math.inf
    log_mean = float(sums.terms.log_mean()) + math.log(sums.terms.count / sums.count)
    if method == "self-normalised importance" and sums.weights is not None:
        return log_mean - float(sums.weights.log_mean())
    return log_mean


def _tail_sentence(estimate: Estimate) -> str:
    hits, khat = estimate.num_nonzero, estimate.pareto_k
    if hits == 0:
        return (
            f"No hit: f(x) was 0, or had no weight, for all {estimate.num_samples:,} samples. That is absence of "
            f"evidence, not evidence of absence: the interval, for f of 0 or 1, ends at {estimate.interval[1]:.3g}."
        )
    if hits < FEW:
        return f"Only {hits} of {estimate.num_samples:,} samples hit (f(x) was not 0): trust the interval alone."
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
        return "All terms are constant up to rounding: the proposal is the optimal one, and the estimate exact."
    if khat == -math.inf:
        return "The terms are bounded: estimate and interval can be relied on."
    return f"k-hat = {khat:.2f} < 0.5: the terms have finite variance; estimate and interval can be relied on."
