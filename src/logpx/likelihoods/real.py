"""Likelihoods of real data: densities."""

from __future__ import annotations

__all__ = ["ContinuousBernoulliLikelihood", "GaussianLikelihood"]

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from ..distributions import SafeContinuousBernoulli
from ..distributions.levels import full_precision
from ..utils import scale_of
from ._likelihood import Likelihood


@dataclasses.dataclass(frozen=True)
class GaussianLikelihood(Likelihood):
    r"""The likelihood :math:`p(x | z) = \prod_d \mathcal{N}(x_d; \mu_d(z), \sigma_d(z)^2)` of real data.

    The parameters are the mean and the log-variance, which is bounded smoothly to (-14, 14).

    Arguments:
        event_shape: The shape of one datum.
    """

    exact_kinds: ClassVar[tuple[str, ...]] = ("real",)
    relaxed_kinds: ClassVar[tuple[str, ...]] = ("8-bit",)

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The mean and the log-variance."""
        return 2, *self.event_shape

    def distribution(self, parameters: Tensor) -> Independent:
        """Returns p(x | z)."""
        num_dims = len(self.event_shape)
        mu, log_variance = full_precision(parameters).unbind(-num_dims - 1)
        return Independent(Normal(mu, scale_of(log_variance), validate_args=False), num_dims, validate_args=False)

    def bias(self, mean: Tensor) -> Tensor:
        """Returns the mean, and log-variances of 0."""
        return torch.stack([mean, torch.zeros_like(mean)])


@dataclasses.dataclass(frozen=True)
class ContinuousBernoulliLikelihood(Likelihood):
    r"""The likelihood :math:`p(x | z) \propto \prod_d e^{a_d(z) x_d}` of real data in [0, 1].

    References:
        The continuous Bernoulli: fixing a pervasive error in variational autoencoders (Loaiza-Ganem and Cunningham,
        2019).

    Arguments:
        event_shape: The shape of one datum.
    """

    exact_kinds: ClassVar[tuple[str, ...]] = ("real",)
    relaxed_kinds: ClassVar[tuple[str, ...]] = ("8-bit",)

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The logits a."""
        return self.event_shape

    def distribution(self, parameters: Tensor) -> Independent:
        """Returns p(x | z)."""
        base = SafeContinuousBernoulli(parameters, validate_args=False)
        return Independent(base, len(self.event_shape), validate_args=False)

    def bias(self, mean: Tensor) -> Tensor:
        """Returns logits whose mean is about that of the data, :math:`(1 / 2 + a / 12)` near the middle."""
        return (12 * (mean - 0.5)).clamp(-6, 6)
