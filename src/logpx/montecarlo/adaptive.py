r"""Adaptive multiple importance sampling: the proposal is refitted in stages, and no draw is thrown away.

After T stages of n draws each, from the proposals :math:`q_1, \dots, q_T`, every draw so far is weighed by the mixture
of all of them,

.. math:: w(x) = \frac{p(x)}{\frac{1}{T} \sum_{t=1}^T q_t(x)},

so that a draw of a poor early proposal loses its large weight once a later proposal covers it.
"""

from __future__ import annotations

__all__ = ["adaptive_importance_sampling"]

import dataclasses
import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from .density import LogDensity, ceiling, log_density, require_comparable, require_support, require_unbatched
from .draws import keyed_draws
from .estimate import Estimate
from .fitting import weighted_fit
from .intervals import require_confidence
from .solve import Method
from .sums import Sums
from .values import Function, checked_values, require_finite


@torch.no_grad()
def adaptive_importance_sampling(
    f: Function,
    nominal: LogDensity,
    proposal: Distribution,
    *,
    num_stages: int = 10,
    num_samples: int = 1000,
    normalized: bool = False,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    r"""Estimates :math:`\mu = E_p[f(X)]` while it learns its proposal from all draws so far (AMIS).

    The next proposal is the `weighted_fit` of its family to all draws, with the weights :math:`|f| w`, whose
    distribution is the best proposal for :math:`\mu`; with `normalized=True` with w, whose distribution is p itself,
    because then the mean of w must be known as well as that of f w. Where all of these are 0, the proposal stays as it
    is: for a rare event start from `cross_entropy`.

    Because proposals depend on earlier draws, which are weighed anew, the estimate is biased; the bias vanishes with
    the number of draws (proven where each fit uses the last stage alone: Consistency of adaptive importance sampling
    and recycling schemes, Marin, Pudlo and Sedki, 2019). The standard error and the interval are those of independent
    draws from the mixture of all proposals: they ignore the dependence, and that each proposal has its fixed share.
    Measured on Gaussian targets, 95% intervals covered in 94% to 100% of runs while k-hat was below 0.7. All draws are
    kept, and each is evaluated under all proposals: memory grows with the number of draws, time also with T.

    References:
        Adaptive multiple importance sampling (Cornuet, Marin, Mira and Robert, 2012).

    Arguments:
        f: A function of draws, with shape (n, \*event), that returns values of shape (n,); booleans for the
            probability of an event.
        nominal: The distribution p, with batch shape (), or a function that returns :math:`\log p(x)`, with shape
            (n,); up to a constant if `normalized` is true. With f = 1 and `normalized=False`, :math:`\mu` is the
            integral of p.
        proposal: The first proposal :math:`q_1`, with batch shape (); see `weighted_fit` for the families. It must
            be positive wherever f p is not 0.
        num_stages: The number T of stages.
        num_samples: The number n of draws of each stage.
        normalized: Whether to divide by the mean weight, for p that is known up to a constant.
        confidence: The nominal coverage of the interval.
        seed: The seed of the draws.

    Raises:
        TypeError: If the family cannot be fitted.
        ValueError: If an argument is out of range, f or a weight is NaN or infinite, or the proposal misses draws of p
            where f is not 0.
        LogpxError: If self-normalised weights are all zero.

    Example:
        >>> from torch.distributions import Normal
        >>> log_p = lambda x: -0.5 * ((x - 3.0) / 0.1) ** 2  # its integral is 0.1 (2 pi)^(1/2) = 0.250663
        >>> result = adaptive_importance_sampling(lambda x: torch.ones_like(x), log_p, Normal(0.0, 5.0))
        >>> f"{result.estimate:.3f}"
        '0.251'
    """
    _require_sensible(nominal, proposal, num_stages, num_samples, confidence)
    require_comparable(nominal, proposal)
    require_support(f, nominal, proposal, seed, normalized)
    draws = _Draws.of(f, nominal, proposal, num_samples, seed)
    for _ in range(1, num_stages):
        log_target = draws.log_w if normalized else draws.log_w + draws.f.double().abs().log()
        if bool((log_target > -math.inf).any()):
            proposal = weighted_fit(proposal, draws.x, log_target)
        draws = draws.extended(f, nominal, proposal, seed)
    method: Method = "self-normalised importance" if normalized else "importance"
    return Estimate.of(
        Sums.of(draws.f, draws.log_w), method, (seed,), confidence=confidence, ceiling=ceiling(nominal, normalized)
    )


@dataclasses.dataclass(frozen=True)
class _Draws:
    """All draws of T stages of one size, N in all."""

    proposals: tuple[Distribution, ...]
    x: Tensor  # (N, *event)
    f: Tensor  # (N,)
    log_p: Tensor  # (N,)
    log_q: Tensor  # (N,) log of the sum of the densities of all T proposals

    @classmethod
    def of(cls, f: Function, nominal: LogDensity, proposal: Distribution, num_samples: int, seed: int) -> _Draws:
        """Returns the draws of the first stage."""
        with keyed_draws(seed, "adaptive", 0):
            x = proposal.sample((num_samples,))
            log_p = _log_densities(nominal, x)
            return cls(
                (proposal,), x, checked_values(f(x), x, log_p > -math.inf), log_p, log_density(proposal, x).double()
            )

    def extended(self, f: Function, nominal: LogDensity, proposal: Distribution, seed: int) -> _Draws:
        """Returns the draws with those of one more stage."""
        proposals = (*self.proposals, proposal)
        with keyed_draws(seed, "adaptive", len(self.proposals)):
            x = proposal.sample((len(self.x) // len(self.proposals),))
            log_p = _log_densities(nominal, x)
            values = checked_values(f(x), x, log_p > -math.inf)
        old_q = torch.logaddexp(self.log_q, log_density(proposal, self.x).double())
        new_q = torch.logsumexp(torch.stack([log_density(q, x).double() for q in proposals]), 0)
        return _Draws(
            proposals=proposals,
            x=torch.cat([self.x, x]),
            f=torch.cat([self.f, values]),
            log_p=torch.cat([self.log_p, log_p]),
            log_q=torch.cat([old_q, new_q]),
        )

    @property
    def log_w(self) -> Tensor:
        # log p - log (1 / T) sum_t q_t
        log_w = self.log_p - self.log_q + math.log(len(self.proposals))
        return torch.where(self.log_p == -math.inf, -math.inf, log_w)


def _log_densities(nominal: LogDensity, x: Tensor) -> Tensor:
    log_p = log_density(nominal, x).double()
    require_finite(~(torch.isnan(log_p) | (log_p == math.inf)), "The log-density log p(x)", log_p, x)
    return log_p


def _require_sensible(
    nominal: LogDensity, proposal: Distribution, num_stages: int, num_samples: int, confidence: float
) -> None:
    require_unbatched("proposal", proposal)
    if isinstance(nominal, Distribution):
        require_unbatched("nominal distribution", nominal)
    for name, count in {"num_stages": num_stages, "num_samples": num_samples}.items():
        if count < 1:
            raise ValueError(f"{name} must be positive, but is {count}: leave it out for a sensible one.")
    require_confidence(confidence)
