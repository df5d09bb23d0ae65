r"""Discretized logistic distributions and mixtures of them, exact in every bin.

An intensity is logistic with location :math:`\mu` and scale s; the level x is the integer nearest to it, so that

.. math:: P(x) = \sigma(a) - \sigma(b), \qquad a = \frac{x + 1/2 - \mu}{s}, \quad b = \frac{x - 1/2 - \mu}{s},

with :math:`b = -\infty` for the lowest level and :math:`a = \infty` for the highest. As a difference this cancels or
underflows; but :math:`\sigma(a) - \sigma(b) = \sigma(a)\, \sigma(-b)\, (1 - e^{b - a})`, hence

.. math:: \log P(x) = \log \sigma(a) + \log \sigma(-b) + \log(1 - e^{-1/s}):

three terms of one sign, each without cancellation, for bins of any width and at any distance. At the lowest level only
the first is left, at the highest only the second.
"""

from __future__ import annotations

__all__ = ["DiscretizedLogistic", "DiscretizedLogisticMixture", "draw_logistic", "logistic_log_mass"]

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical, Distribution, constraints
from torch.distributions.utils import broadcast_all
from torch.types import _size

from .levels import Levels, full_precision, require_levels, stepped


class DiscretizedLogistic(Levels):
    r"""A logistic intensity rounded to the levels 0..levels-1, :math:`P(x) = \sigma(a) - \sigma(b)`.

    References:
        PixelCNN++: Improving the PixelCNN with discretized logistic mixture likelihood and other modifications
        (Salimans, Karpathy, Chen and Kingma, 2017).

    Arguments:
        loc: The location :math:`\mu`, in levels, with shape (\*).
        scale: The scale s > 0, in levels, with shape (\*).
        levels: The number L of levels.
        validate_args: Whether to check the parameters; data are always checked.

    Raises:
        ValueError: If a parameter is invalid, or `levels` is below 2.

    Example:
        >>> p = DiscretizedLogistic(torch.tensor(100.0), torch.tensor(2.0))
        >>> round(p.log_prob(torch.arange(256)).exp().sum().item(), 5)
        1.0
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}

    def __init__(
        self, loc: Tensor | float, scale: Tensor | float, levels: int = 256, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale = (full_precision(p) for p in broadcast_all(loc, scale))
        super().__init__(levels, self.loc, self.loc.shape, validate_args)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> DiscretizedLogistic:
        """Returns the distribution with its batch shape expanded."""
        loc, scale = (p.expand(batch_shape) for p in (self.loc, self.scale))
        return type(self)(loc, scale, self.levels, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log P(x), in nats, with the batch shape.

        Raises:
            ValueError: If a value is not a level.
        """
        require_levels(value, self.levels)
        return logistic_log_mass(value, self.loc, self.scale, self.levels)

    def cdf(self, value: Tensor) -> Tensor:
        r"""Returns :math:`P(X \leq x)` of any reals, with the batch shape."""
        cumulative = torch.sigmoid((torch.floor(value) + 0.5 - self.loc) / self.scale)
        return stepped(cumulative, value, self.levels)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Returns draws with shape sample_shape + batch shape."""
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            return draw_logistic(self.loc.expand(shape), self.scale.expand(shape), self.levels)


class DiscretizedLogisticMixture(Levels):
    r"""A mixture of K discretized logistics, :math:`P(x) = \sum_k \pi_k [\sigma(a_k) - \sigma(b_k)]`.

    The axis of the mixture is the last of the shapes, not of the memory: a network's (\*, K, H, W) enters by
    `movedim` without a copy.

    References:
        PixelCNN++: Improving the PixelCNN with discretized logistic mixture likelihood and other modifications
        (Salimans, Karpathy, Chen and Kingma, 2017).

    Arguments:
        logits: The weights, :math:`\pi = \mathrm{softmax}(\mathrm{logits})`, with shape (\*, K).
        loc: The locations :math:`\mu`, in levels, with shape (\*, K).
        scale: The scales s > 0, in levels, with shape (\*, K).
        levels: The number L of levels.
        validate_args: Whether to check the parameters; data are always checked.

    Raises:
        ValueError: If a parameter is invalid, they disagree about K, or `levels` is below 2.

    Example:
        >>> p = DiscretizedLogisticMixture(torch.zeros(2), torch.tensor([50.0, 200.0]), torch.ones(2))
        >>> round(p.mean.item(), 3)
        125.0
    """

    arg_constraints: ClassVar = {
        "logits": constraints.real_vector,
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
    }

    def __init__(
        self, logits: Tensor, loc: Tensor, scale: Tensor, levels: int = 256, validate_args: bool | None = None
    ) -> None:
        shapes = [tuple(p.shape) for p in (logits, loc, scale)]
        if any(p.ndim < 1 or p.shape[-1] != loc.shape[-1] for p in (logits, loc, scale)):
            raise ValueError(f"logits, loc and scale must have shape (*, K), but have {shapes}: put K last in each.")
        self.logits, self.loc, self.scale = (full_precision(p) for p in broadcast_all(logits, loc, scale))
        super().__init__(levels, self.loc, self.loc.shape[:-1], validate_args)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> DiscretizedLogisticMixture:
        """Returns the distribution with its batch shape expanded."""
        shape = torch.Size(batch_shape) + self.loc.shape[-1:]
        logits, loc, scale = (p.expand(shape) for p in (self.logits, self.loc, self.scale))
        return type(self)(logits, loc, scale, self.levels, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log P(x), in nats, with the batch shape.

        Raises:
            ValueError: If a value is not a level.
        """
        require_levels(value, self.levels)
        log_mass = logistic_log_mass(value.unsqueeze(-1), self.loc, self.scale, self.levels)
        # log P = log sum_k e^{logit_k} P_k - log sum_k e^{logit_k}
        return torch.logsumexp(self.logits + log_mass, -1) - torch.logsumexp(self.logits, -1)

    def cdf(self, value: Tensor) -> Tensor:
        r"""Returns :math:`P(X \leq x)` of any reals, with the batch shape."""
        each = torch.sigmoid((torch.floor(value).unsqueeze(-1) + 0.5 - self.loc) / self.scale)
        return stepped((torch.softmax(self.logits, -1) * each).sum(-1), value, self.levels)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Returns draws with shape sample_shape + batch shape."""
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            k = Categorical(logits=self.logits, validate_args=True).sample(sample_shape).unsqueeze(-1)
            loc, scale = (p.expand(*shape, -1).gather(-1, k).squeeze(-1) for p in (self.loc, self.scale))
            return draw_logistic(loc, scale, self.levels)


def logistic_log_mass(x: Tensor, loc: Tensor, scale: Tensor, levels: int) -> Tensor:
    r"""Returns :math:`\log P(x) = \log \sigma(a) + \log \sigma(-b) + \log(1 - e^{-1/s})`, in nats; see the module.

    Arguments:
        x: Levels, broadcast with the parameters.
        loc: The location :math:`\mu`, in levels.
        scale: The scale s, in levels.
        levels: The number L of levels.
    """
    x = x.to(loc.dtype)
    # 0 where an edge lies at infinity, so that its term vanishes with its gradient
    has_upper, has_lower = (x < levels - 1).to(x.dtype), (x > 0).to(x.dtype)
    width = scale.reciprocal()
    middle = (x - loc) * width
    # -log sigma(a) = softplus(-a), a = u + 1/2s;  -log sigma(-b) = softplus(b), b = u - 1/2s
    upper, lower = F.softplus(-middle - width / 2), F.softplus(middle - width / 2)
    return has_upper * has_lower * torch.log(-torch.expm1(-width)) - has_upper * upper - has_lower * lower


def draw_logistic(loc: Tensor, scale: Tensor, levels: int) -> Tensor:
    r"""Returns the levels nearest to draws :math:`\mu + s \, \mathrm{logit}(u)`, with the shape of the parameters."""
    y = loc + scale * torch.logit(torch.rand_like(loc))
    return y.round().clamp(0, levels - 1)
