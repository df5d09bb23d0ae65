"""Likelihoods of levels as counts, which know no greatest level.

The mass beyond the L levels is lost, so that the probabilities of the data sum to less than 1; a draw beyond them is
given as the greatest level, because data know no other.
"""

from __future__ import annotations

__all__ = ["NegativeBinomialLikelihood", "PoissonLikelihood"]

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Independent

from ..distributions import NegativeBinomialCounts, OnUnitInterval, PoissonCounts
from ..utils import soft_bound
from ._likelihood import Likelihood

LOG_RATE_BOUND = 10.0


@dataclasses.dataclass(frozen=True)
class PoissonLikelihood(Likelihood):
    r"""The likelihood :math:`p(x | z) = \prod_d \mathrm{Poisson}(x_d; \lambda_d(z))` of levels.

    The parameters are :math:`\log \lambda`, from half a level on and bounded smoothly to ten powers of e either way.

    Arguments:
        event_shape: The shape of one datum.
        levels: The number L of levels.
    """

    levels: int = 256

    exact_kinds: ClassVar[tuple[str, ...]] = ("8-bit",)

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The logarithm of the rate."""
        return self.event_shape

    def distribution(self, parameters: Tensor) -> Independent:
        """Returns p(x | z)."""
        rate = torch.exp(soft_bound(parameters.float(), LOG_RATE_BOUND))
        return _on_unit_interval(PoissonCounts(rate, validate_args=False), self)

    def bias(self, mean: Tensor) -> Tensor:
        """Returns the logarithm of the mean."""
        return _unbounded((mean * (self.levels - 1)).clamp(min=0.1).log())


@dataclasses.dataclass(frozen=True)
class NegativeBinomialLikelihood(Likelihood):
    r"""The likelihood :math:`p(x | z) = \prod_d \mathrm{NB}(x_d; r_d(z), p_d(z))` of levels, overdispersed.

    The parameters are the logarithms of the mean and of r, both bounded smoothly.

    Arguments:
        event_shape: The shape of one datum.
        levels: The number L of levels.
    """

    levels: int = 256

    exact_kinds: ClassVar[tuple[str, ...]] = ("8-bit",)

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The logarithms of the mean and of r."""
        return 2, *self.event_shape

    def distribution(self, parameters: Tensor) -> Independent:
        """Returns p(x | z)."""
        log_mean, log_r = soft_bound(parameters.float(), LOG_RATE_BOUND).unbind(-len(self.event_shape) - 1)
        # the mean is r e^logit
        counts = NegativeBinomialCounts(log_r.exp(), log_mean - log_r, validate_args=False)
        return _on_unit_interval(counts, self)

    def bias(self, mean: Tensor) -> Tensor:
        """Returns the logarithm of the mean, and r = 1."""
        log_mean = _unbounded((mean * (self.levels - 1)).clamp(min=0.1).log())
        return torch.stack([log_mean, torch.zeros_like(mean)])


def _on_unit_interval(
    counts: PoissonCounts | NegativeBinomialCounts, likelihood: PoissonLikelihood | NegativeBinomialLikelihood
) -> Independent:
    x = OnUnitInterval(counts, likelihood.levels)
    return Independent(x, len(likelihood.event_shape), validate_args=False)


def _unbounded(y: Tensor) -> Tensor:
    """Inverts the smooth bound, x = y / sqrt(1 - (y / b)^2)."""
    return y * torch.rsqrt(1 - (y / LOG_RATE_BOUND) ** 2)
