r"""The estimate at infinitely many samples, from the curve of the mean over the number S of them.

For weights of finite variance the delta method gives

.. math:: \mathbb{E}[\log \hat p_S] = \log p - \frac{\mathrm{Var}(w)}{2 p^2 S} + O(S^{-2}),

a line in 1/S, whose intercept is found by weighted least squares over the last points of the curve. At S / g it
averages g groups of the same draws: to first order their noise is that of the last point, and what is left has a
variance of :math:`\propto g`, so that weights are proportional to S.
"""

from __future__ import annotations

__all__ = ["extrapolation"]

import math
from typing import Any

import torch
from torch import Tensor

from .results import Evidence

NUM_POINTS = 4
# Weights have finite variance below this k-hat, which is an estimate itself: so not of all data.
FINITE_VARIANCE, ALMOST_ALL = 0.5, 0.95


def extrapolation(evidence: Evidence, shift: float = 0.0) -> dict[str, Any]:
    """Returns the mean of log p(x) at infinitely many samples, or the reason why there is none.

    References:
        Debiasing Evidence Approximations: On Importance-weighted Autoencoders and Jackknife Variational Inference
        (Nowozin, 2018).

    Arguments:
        evidence: Estimates with the same number of samples for all data.
        shift: What is added to means over the data, in nats.

    Returns:
        The mean with its Monte Carlo error, and what it adds to the estimate at the largest S with the error of that,
        in nats; the number of points; a sentence. Numbers that are not offered are None.
    """
    if reason := _reason(evidence):
        numbers = dict.fromkeys(("mean", "error", "gain", "gain_error", "num_points"))
        return {**numbers, "sentence": f"No extrapolation in the number of samples: {reason}."}
    num_samples, curve = evidence.curve_samples[-NUM_POINTS:, 0], evidence.curve[-NUM_POINTS:]
    gain = intercept_weights(num_samples) @ curve - curve[-1]
    monte_carlo = evidence.standard_error.square().sum().sqrt().item() / len(gain)
    # the noise that all points share is that of the last one; the rest varies from datum to datum
    error = gain.std().item() / math.sqrt(len(gain))
    return {
        "mean": (curve[-1] + gain).mean().item() + shift,
        "error": math.hypot(monte_carlo, error),
        "gain": gain.mean().item(),
        "gain_error": error,
        "num_points": len(num_samples),
        "sentence": f"By a line in 1/S through the last {len(num_samples)} points of the curve over S.",
    }


def intercept_weights(num_samples: Tensor) -> Tensor:
    r"""Returns what each point counts in the intercept of a line in 1/S, with weights proportional to S.

    Arguments:
        num_samples: The numbers S of samples, with shape (C,).

    Example:
        >>> intercept_weights(torch.tensor([10.0, 20.0])).round(decimals=4).tolist()
        [-1.0, 2.0]
    """
    u = 1 / num_samples
    # the weighted mean of u is C / sum S, and sum S (u - mean)^2 = sum u - C^2 / sum S
    mean = len(u) / num_samples.sum()
    return num_samples / num_samples.sum() - mean * num_samples * (u - mean) / (u.sum() - mean * len(u))


def _reason(evidence: Evidence) -> str:
    """Returns why the limit is not offered, or nothing."""
    if (evidence.pareto_k == -math.inf).all():
        return "all weights are constant up to rounding, so that the estimates are exact"
    if len(evidence.log_evidence) < 2:
        return "one datum does not tell its error"
    if len(evidence.curve) < NUM_POINTS:
        return "there are too few samples for a curve"
    if not (evidence.curve_samples == evidence.curve_samples[:, :1]).all():
        return "the number of samples differs between data"
    if not torch.isfinite(evidence.curve).all():
        return "the curve is not finite"
    reliable = (evidence.pareto_k < FINITE_VARIANCE).double().mean().item()
    if reliable < ALMOST_ALL:
        return (
            f"{1 - reliable:.1%} of the data have a k-hat of 0.5 or more, or none, and where weights may have infinite "
            "variance the bias falls more slowly than 1/S"
        )
    return ""
