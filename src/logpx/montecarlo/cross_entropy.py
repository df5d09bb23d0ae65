r"""The cross-entropy method: a proposal for a rare event, found in stages.

To estimate :math:`\mu = P_p(S(X) \geq \gamma)`, the best proposal of a family is the one with the least cross-entropy
to p given the event. While the event is too rare to be seen, it stands behind easier ones: of the draws of a stage,
those with the highest scores set a level :math:`\gamma_t \leq \gamma`, and the family is fitted to them, with weights
p / q, for the next stage.

A fit to draws beyond a level is narrower than p, and its weights have no variance in its tails; stages built on them
stall. Each proposal is therefore 4/5 the fit and 1/5 the fit at no less than the spread of p.
"""

from __future__ import annotations

__all__ = ["Fit", "cross_entropy"]

import dataclasses
import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..utils import LogpxError
from .density import log_density, require_unbatched
from .draws import keyed_draws
from .fitting import weighted_fit
from .mixture import Mixture, widened
from .values import Function

WIDE_SHARE = 0.2


@dataclasses.dataclass(frozen=True)
class Fit:
    r"""A proposal for a rare event, and how it was found.

    Arguments:
        proposal: The importance distribution q.
        levels: The levels :math:`\gamma_t` of the stages, in the unit of the score; the last is the threshold.
        num_samples: The number of draws that were spent on it.
    """

    proposal: Distribution
    levels: tuple[float, ...]
    num_samples: int


@torch.no_grad()
def cross_entropy(
    score: Function,
    nominal: Distribution,
    threshold: float,
    *,
    family: Distribution | None = None,
    num_samples: int = 1000,
    quantile: float = 0.1,
    max_stages: int = 20,
    seed: int = 0,
) -> Fit:
    r"""Fits a proposal for :math:`P_p(S(X) \geq \gamma)` by the cross-entropy method.

    The level of a stage is the threshold if the upper quantile of its scores is there, else that quantile. Once two
    stages in a row were at the threshold, the fit is done. With fresh draws, by `importance_sampling` from
    `fit.proposal`, the estimate is unbiased given the fit.

    A family with one mode finds one: if the event can happen in several ways that are far apart, all but one may be
    missed without a sign. Then give a Mixture with a component for each.

    References:
        The cross-entropy method for combinatorial and continuous optimization (Rubinstein, 1999).
        A tutorial on the cross-entropy method (de Boer, Kroese, Mannor and Rubinstein, 2005).

    Arguments:
        score: The score S, a function of draws, with shape (n, \*event), that returns values of shape (n,).
        nominal: The distribution p, with batch shape ().
        threshold: The threshold :math:`\gamma`, in the unit of the score.
        family: Where the proposal starts, of the family that it keeps; by default the nominal distribution. See
            `weighted_fit` for the families.
        num_samples: The number of draws of each stage.
        quantile: The share of the draws of a stage that set its level and are fitted to.
        max_stages: The number of stages, at most.
        seed: The seed of the draws.

    Raises:
        TypeError: If the family cannot be fitted.
        ValueError: If an argument is out of range, or the score returns another shape or NaN.
        LogpxError: If the threshold is not reached.

    Example:
        >>> from torch.distributions import Normal
        >>> from logpx.montecarlo import importance_sampling
        >>> p = Normal(0.0, 1.0)
        >>> fit = cross_entropy(lambda x: x, p, 4.0)
        >>> result = importance_sampling(lambda x: x >= 4.0, p, fit.proposal)  # truth: 3.167e-05
        >>> f"{result.estimate:.1e}", result.pareto_k < 0.5, fit.num_samples < 10_000
        ('3.2e-05', True, True)
    """
    fit = proposal = nominal if family is None else family
    _require_sensible(nominal, proposal, threshold, num_samples, quantile, max_stages)
    threshold, levels = float(threshold), list[float]()
    while len(levels) < max_stages and levels[-2:] != [threshold, threshold]:
        with keyed_draws(seed, "cross-entropy", len(levels)):
            x = proposal.sample((num_samples,))
            scores = _checked(score(x), x)
        levels.append(_level(scores, threshold, quantile))
        elite = x[scores >= levels[-1]]
        fit = weighted_fit(fit, elite, _log_weights(elite, nominal, proposal))
        proposal = _defended(fit, nominal)
    if levels[-1] != threshold:
        raise LogpxError(
            f"Cross-entropy must reach the threshold {threshold:g}, but after {max_stages} stages of {num_samples:,} "
            f"draws its level is {levels[-1]:g}: if it still rose, give more stages or draws, else another family or "
            "a threshold that the score can reach."
        )
    return Fit(proposal, tuple(levels), len(levels) * num_samples)


def _level(scores: Tensor, threshold: float, quantile: float) -> float:
    num_elite = math.ceil(quantile * len(scores))
    # compared as tensors, as in the event itself: a float32 score may equal a threshold that it cannot represent
    if int((scores >= threshold).sum()) >= num_elite:
        return threshold
    return float(scores.sort(descending=True).values[num_elite - 1])


def _log_weights(x: Tensor, nominal: Distribution, proposal: Distribution) -> Tensor:
    log_p = log_density(nominal, x).double()
    return torch.where(log_p == -torch.inf, log_p, log_p - log_density(proposal, x).double())


def _defended(fit: Distribution, nominal: Distribution) -> Distribution:
    wide = widened(fit, nominal)
    return fit if wide is fit else Mixture([fit, wide], [1 - WIDE_SHARE, WIDE_SHARE])


def _checked(scores: Tensor, x: Tensor) -> Tensor:
    if not isinstance(scores, Tensor) or scores.shape != x.shape[:1]:
        got = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(f"The score must have shape {tuple(x.shape[:1])}, but got {got}: return one value per draw.")
    if bool(torch.isnan(scores).any()):
        first = x[torch.isnan(scores)][0].tolist()
        raise ValueError(f"The score must be a number, but is NaN at x = {first}: mend the function.")
    return scores


def _require_sensible(
    nominal: Distribution, family: Distribution, threshold: float, num_samples: int, quantile: float, max_stages: int
) -> None:
    require_unbatched("nominal distribution", nominal)
    require_unbatched("family", family)
    if not math.isfinite(threshold):
        raise ValueError(f"threshold must be finite, but is {threshold}: give the score from which the event begins.")
    if not 0 < quantile < 1:
        raise ValueError(f"quantile must be between 0 and 1, but is {quantile}: 0.1 is customary.")
    for name, count in {"num_samples": num_samples, "max_stages": max_stages}.items():
        if count < 1:
            raise ValueError(f"{name} must be positive, but is {count}: leave it out for a sensible one.")
