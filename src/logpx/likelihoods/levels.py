r"""Likelihoods of levels 0..L-1, such as 8-bit pixels: probability mass functions.

Data come as :math:`x = k / (L - 1)`. With half the range :math:`h = (L - 1) / 2`, networks give an unbounded location
a and log-scale c, which mean

.. math:: \mu = h (1 + a), \qquad s = h \, e^{-2 + \mathrm{bounded}(c)},

so that zeros stand for the middle grey and a scale of an eighth of half the range, and no step of training can make a
scale zero or infinite.
"""

from __future__ import annotations

__all__ = [
    "CategoricalLikelihood",
    "DequantizedGaussianLikelihood",
    "DiscretizedGaussianLikelihood",
    "LogisticMixtureLikelihood",
]

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from ..distributions import (
    CoupledLogisticMixture,
    Dequantized,
    DiscretizedGaussian,
    DiscretizedLogisticMixture,
    LevelsCategorical,
    OnUnitInterval,
    logistic_log_mass,
)
from ..utils import soft_bound
from ._likelihood import Likelihood

START = -2.0
COUPLING_BOUND = 2.0
SPREAD = 0.5


@dataclasses.dataclass(frozen=True)
class LevelsLikelihood(Likelihood):
    """A likelihood of levels with locations and scales.

    Arguments:
        event_shape: The shape of one datum.
        levels: The number L of levels.
        log_scale_bound: How far log-scales can go from where they start, either way.
    """

    levels: int = 256
    log_scale_bound: float = 5.0

    exact_kinds: ClassVar[tuple[str, ...]] = ("8-bit",)

    @property
    def _half(self) -> float:
        return (self.levels - 1) / 2

    def _loc(self, a: Tensor) -> Tensor:
        # mu = h (1 + a)
        return self._half * (1 + a)

    def _scale(self, c: Tensor) -> Tensor:
        # s = h e^(-2 + bounded(c))
        return self._half * torch.exp(START + soft_bound(c, self.log_scale_bound))

    def _independent(self, base: Distribution) -> Independent:
        return Independent(OnUnitInterval(base, self.levels), len(self.event_shape), validate_args=False)


@dataclasses.dataclass(frozen=True)
class LogisticMixtureLikelihood(LevelsLikelihood):
    r"""A mixture of K discretized logistics for each pixel of grey data, for each colour of a pixel jointly.

    The channels of a pixel share the component, and the location of each leans linearly on the levels of those before
    it, by coefficients that are bounded smoothly to (-2, 2); see :class:`CoupledLogisticMixture`. Data of one channel,
    and data that are no images, have a mixture of their own for each dimension. The locations of the components start
    spread over half the range.

    References:
        PixelCNN++: Improving the PixelCNN with discretized logistic mixture likelihood and other modifications
        (Salimans, Karpathy, Chen and Kingma, 2017).

    Arguments:
        event_shape: The shape of one datum.
        levels: The number L of levels.
        log_scale_bound: How far log-scales can go from where they start, either way.
        num_mixtures: The number K of components.
    """

    num_mixtures: int = 5

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """K of each: a logit, and per channel a location, a log-scale, and a coefficient for each channel before it."""
        k = self.num_mixtures
        if not self._num_coupled:
            return 3, k, *self.event_shape
        channels, height, width = self.event_shape
        return k * (1 + 2 * channels + self._num_coupled), height, width

    def distribution(self, parameters: Tensor) -> Distribution:
        """Returns p(x | z)."""
        return self._coupled(parameters) if self._num_coupled else self._separate(parameters)

    def bias(self, mean: Tensor) -> Tensor:
        """Returns the locations of the mean, and zeros."""
        a = 2 * mean - 1
        if not self._num_coupled:
            zero = torch.zeros_like(a)
            return torch.stack([zero, a, zero]).unsqueeze(1).expand(self.parameter_shape)
        logit, _, scale, coupling = torch.zeros(self.parameter_shape).split(self._sizes)
        return torch.cat([logit, a.repeat(self.num_mixtures, 1, 1), scale, coupling])

    def _separate(self, parameters: Tensor) -> Distribution:
        n = len(self.event_shape)
        # (*, 3, K, event) -> three of (*, event, K)
        logits, a, c = (p.movedim(-n - 1, -1) for p in parameters.float().unbind(-n - 2))
        loc = self._loc(a + self._offsets(a))
        mixture = DiscretizedLogisticMixture(logits, loc, self._scale(c), self.levels, validate_args=False)
        return self._independent(mixture)

    def _coupled(self, parameters: Tensor) -> Distribution:
        logits, *rest = parameters.float().split(self._sizes, -3)
        a, c, coupling = (p.unflatten(-3, (self.num_mixtures, -1)) for p in rest)
        loc = self._loc(a + self._offsets(a)[:, None, None, None])
        coupling = soft_bound(coupling, COUPLING_BOUND)
        mixture = CoupledLogisticMixture(logits, loc, self._scale(c), coupling, self.levels, validate_args=False)
        return OnUnitInterval(mixture, self.levels)

    def _offsets(self, like: Tensor) -> Tensor:
        if self.num_mixtures == 1:
            return torch.zeros(1, device=like.device)
        return torch.linspace(-SPREAD, SPREAD, self.num_mixtures, device=like.device)

    @property
    def _num_coupled(self) -> int:
        """The number of coefficients per component and pixel."""
        channels = self.event_shape[0] if len(self.event_shape) == 3 else 1
        return channels * (channels - 1) // 2

    @property
    def _sizes(self) -> list[int]:
        channels, k = self.event_shape[0], self.num_mixtures
        return [k, k * channels, k * channels, k * self._num_coupled]


@dataclasses.dataclass(frozen=True)
class CategoricalLikelihood(Likelihood):
    """A softmax over all levels for each dimension, which knows nothing of their order.

    References:
        Pixel recurrent neural networks (van den Oord, Kalchbrenner and Kavukcuoglu, 2016).

    Arguments:
        event_shape: The shape of one datum.
        levels: The number L of levels.
    """

    levels: int = 256

    exact_kinds: ClassVar[tuple[str, ...]] = ("8-bit",)

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """A logit for each level."""
        return self.levels, *self.event_shape

    def distribution(self, parameters: Tensor) -> Independent:
        """Returns p(x | z)."""
        n = len(self.event_shape)
        base = LevelsCategorical(parameters.movedim(-n - 1, -1), validate_args=False)
        return Independent(OnUnitInterval(base, self.levels), n, validate_args=False)

    def bias(self, mean: Tensor) -> Tensor:
        """Returns the logits of a discretized logistic around the mean."""
        top = self.levels - 1
        k = torch.arange(self.levels).reshape(-1, *(1 for _ in self.event_shape))
        return logistic_log_mass(k, top * mean, torch.tensor(top / 8), self.levels)


@dataclasses.dataclass(frozen=True)
class DiscretizedGaussianLikelihood(LevelsLikelihood):
    r"""A Gaussian intensity rounded to the levels, :math:`P(x) = \Phi(a) - \Phi(b)`, for each dimension.

    Arguments:
        event_shape: The shape of one datum.
        levels: The number L of levels.
        log_scale_bound: How far log-scales can go from where they start, either way.
    """

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        """The location and the log-scale."""
        return 2, *self.event_shape

    def distribution(self, parameters: Tensor) -> Independent:
        """Returns p(x | z)."""
        a, c = parameters.float().unbind(-len(self.event_shape) - 1)
        return self._independent(DiscretizedGaussian(self._loc(a), self._scale(c), self.levels, validate_args=False))

    def bias(self, mean: Tensor) -> Tensor:
        """Returns the location of the mean, and log-scales of 0."""
        return torch.stack([2 * mean - 1, torch.zeros_like(mean)])


@dataclasses.dataclass(frozen=True)
class DequantizedGaussianLikelihood(DiscretizedGaussianLikelihood):
    r"""A Gaussian density under uniform noise that fills the bins; its log-mass is random, and a bound on average.

    References:
        A note on the evaluation of generative models (Theis, van den Oord and Bethge, 2016).

    Arguments:
        event_shape: The shape of one datum.
        levels: The number L of levels.
        log_scale_bound: How far log-scales can go from where they start, either way.
    """

    def distribution(self, parameters: Tensor) -> Independent:
        """Returns p(x | z)."""
        a, c = parameters.float().unbind(-len(self.event_shape) - 1)
        density = Normal(self._loc(a), self._scale(c), validate_args=False)
        return self._independent(Dequantized(density, self.levels))
