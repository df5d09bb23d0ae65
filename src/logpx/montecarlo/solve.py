"""From the sums of draws to an estimate, its error, its interval, and what tells whether to trust them."""

from __future__ import annotations

__all__ = ["Method", "interval", "largest_share", "log_estimate", "khat", "solve"]

import math
from typing import Literal

import torch
from torch import Tensor

from ..utils import LogpxError
from .intervals import clopper_pearson, student, weighted_events
from .sums import Sums

Method = Literal["plain", "importance", "self-normalised importance", "sobol", "stratified"]


def solve(sums: Sums, method: Method) -> tuple[float, float, float]:
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


def interval(
    sums: Sums, method: Method, solved: tuple[float, float, float], confidence: float, ceiling: float
) -> tuple[float, float]:
    """Returns the confidence interval: by what is known of f, and by how often it was not 0.

    Arguments:
        sums: The sums of draws.
        method: How the mean is estimated.
        solved: The estimate, its standard error, and the degrees of freedom.
        confidence: The coverage, between 0 and 1.
        ceiling: The largest mean that an indicator can have.
    """
    count, n, has_weights = sums.terms.count, sums.count, sums.weights is not None
    if count == 0:
        # of an f that need not be 0 or 1, its zeros say nothing; with weights, none of the event was ever seen
        high = ceiling if has_weights else clopper_pearson(0, n, confidence)[1]
        return (0.0, high) if sums.is_boolean else (-math.inf, math.inf)
    is_rare = not sums.has_negative and 2 * count <= n
    if len(sums.moments.mean) > _first_control(sums) or not (sums.is_indicator or is_rare):
        mean, error, freedom = solved
        return student(mean, error, freedom, confidence) if error > 0 else (mean, mean)
    if sums.is_indicator and not has_weights:
        return clopper_pearson(count, n, confidence)
    return _by_events(sums, method, solved, confidence, ceiling if sums.is_indicator else math.inf)


def _by_events(
    sums: Sums, method: Method, solved: tuple[float, float, float], confidence: float, ceiling: float
) -> tuple[float, float]:
    mean, error, _ = solved
    count, n = sums.terms.count, sums.count
    log_mean_w = float(sums.weights.log_mean()) if method == "self-normalised importance" and sums.weights else 0.0
    largest = math.exp(float(sums.terms.maximum) - log_mean_w)
    if method == "self-normalised importance" and sums.is_indicator and mean > 0.5 and sums.weights:
        # the event that is rare is the other one
        largest = math.exp(float(sums.weights.maximum) - log_mean_w)
        low, high = weighted_events(max(1 - mean, 0.0), error if mean < 1 else 0.0, largest, n, confidence)
        return max(1 - high, 0.0), 1 - low
    low, high = weighted_events(mean, error, largest, n, confidence)
    if method == "importance":
        # the share of hits has an error of its own, which few misses do not show
        low = min(low, mean * clopper_pearson(count, n, confidence)[0] * n / count)
    return low, min(high, ceiling)


def khat(sums: Sums, method: Method) -> float:
    """Returns the k-hat of the terms, or of the weights where these are normalised and heavier."""
    if sums.terms.count == 0:
        return math.nan
    if sums.weights is None and sums.is_indicator:
        return -math.inf
    shape = float(sums.terms.pareto_k())
    if method == "self-normalised importance" and sums.weights is not None:
        return max(shape, float(sums.weights.pareto_k()))
    return shape


def largest_share(sums: Sums) -> float:
    """Returns the share of the largest term in the sum of their absolute values."""
    if sums.terms.count == 0:
        return math.nan
    return math.exp(float(sums.terms.maximum - sums.terms.log_mean()) - math.log(sums.terms.count))


def log_estimate(sums: Sums, method: Method, mean: float) -> float:
    """Returns the logarithm of the estimate, NaN where terms have both signs."""
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
