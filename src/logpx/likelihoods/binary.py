"""Likelihoods of binary data, strict and relaxed."""

from __future__ import annotations

__all__ = ["BernoulliLikelihood", "RelaxedBernoulliLikelihood"]

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from ..distributions import IndependentBernoulli, RelaxedBernoulli
from ._likelihood import Likelihood


@dataclasses.dataclass(frozen=True)
class BernoulliLikelihood(Likelihood):
    r"""The likelihood :math:`p(x | z) = \prod_d \mathcal{B}(x_d; \sigma(a_d(z)))` of binary data.

    Arguments:
        event_shape: The shape of one datum.
    """

    exact_kinds: ClassVar[tuple[str, ...]] = ("binary",)

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The logits a."""
        return self.event_shape

    def distribution(self, parameters: Tensor) -> IndependentBernoulli:
        """Returns p(x | z)."""
        return IndependentBernoulli(parameters, len(self.event_shape))

    def bias(self, mean: Tensor) -> Tensor:
        """Returns the logits of the mean, short of 0 and 1."""
        return torch.logit(mean.clamp(0.01, 0.99))


@dataclasses.dataclass(frozen=True)
class RelaxedBernoulliLikelihood(BernoulliLikelihood):
    """Binary cross-entropy on greys in [0, 1] in the place of a likelihood; see :class:`RelaxedBernoulli`."""

    exact_kinds: ClassVar[tuple[str, ...]] = ()
    relaxed_kinds: ClassVar[tuple[str, ...]] = ("8-bit", "real", "binary")

    def distribution(self, parameters: Tensor) -> RelaxedBernoulli:
        """Returns the relaxed p(x | z)."""
        return RelaxedBernoulli(parameters, len(self.event_shape))
