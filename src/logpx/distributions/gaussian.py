r"""The discretized Gaussian, exact in narrow and wide bins and far from the mean.

With :math:`v = |x - \mu| / s` and half the width of a bin :math:`h = 1 / (2 s)`, both edges of an interior bin are
reflected to the left tail, :math:`P(x) = \Phi(h - v) - \Phi(-h - v)`. Each of three forms is free of cancellation in
its place. Near the mean, and where the bin is narrow,

.. math:: P = \frac12 \left[\mathrm{erf}\frac{h + v}{\sqrt 2} + \mathrm{erf}\frac{h - v}{\sqrt 2}\right], \qquad
          P = 2 h \varphi(v) \left[1 + \frac{h^2}{6} (v^2 - 1) + \frac{h^4}{120} (v^4 - 6 v^2 + 3) + \dots\right],

the integral of the density's Taylor series; and in the tail, with :math:`\mathrm{erfcx}(z) = e^{z^2} \mathrm{erfc}(z)`,

.. math:: P = \frac12 e^{-z_-^2} \left[\mathrm{erfcx}(z_-) - e^{-2 v h} \mathrm{erfcx}(z_+)\right], \qquad
          z_\pm = \frac{v \pm h}{\sqrt 2}.

torch's log_ndtr would do for many values, but in float32 its gradient is 1% off at 1,000 standard deviations and lost
at 10,000.
"""

from __future__ import annotations

__all__ = ["DiscretizedGaussian"]

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.utils import broadcast_all
from torch.special import erf, erfc, erfcx
from torch.types import _size

from .levels import Levels, full_precision, require_levels, stepped

# The bin is narrow where h (1 + v) is below this; the first omitted term, h^6 v^6 / 5040, is then below 5e-8.
NARROW = 0.25
ROOT_HALF = math.sqrt(0.5)


class DiscretizedGaussian(Levels):
    r"""A Gaussian intensity rounded to the levels 0..levels-1, :math:`P(x) = \Phi(a) - \Phi(b)`.

    Here :math:`a = (x + 1/2 - \mu) / s` and :math:`b = (x - 1/2 - \mu) / s`; the lowest level takes all mass below it,
    the highest all above.

    References:
        Denoising diffusion probabilistic models (Ho, Jain and Abbeel, 2020), their discrete decoder.

    Arguments:
        loc: The mean :math:`\mu` of the intensity, in levels, with shape (\*).
        scale: Its standard deviation s > 0, in levels, with shape (\*).
        levels: The number L of levels.
        validate_args: Whether to check the parameters; data are always checked.

    Raises:
        ValueError: If a parameter is invalid, or `levels` is below 2.

    Example:
        >>> p = DiscretizedGaussian(torch.tensor(2.0), torch.tensor(1.0), levels=5)
        >>> round(p.log_prob(torch.tensor(2.0)).exp().item(), 4)
        0.3829
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}

    def __init__(
        self, loc: Tensor | float, scale: Tensor | float, levels: int = 256, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale = (full_precision(p) for p in broadcast_all(loc, scale))
        super().__init__(levels, self.loc, self.loc.shape, validate_args)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> DiscretizedGaussian:
        """Returns the distribution with its batch shape expanded."""
        loc, scale = (p.expand(batch_shape) for p in (self.loc, self.scale))
        return type(self)(loc, scale, self.levels, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log P(x), in nats, with the batch shape.

        Raises:
            ValueError: If a value is not a level.
        """
        require_levels(value, self.levels)
        x = value.to(self.loc.dtype)
        middle, half_width = (x - self.loc) / self.scale, 0.5 / self.scale
        inside = _interior(middle.abs(), half_width)
        # log Phi(a) at the lowest level, log Phi(-b) at the highest
        above = torch.where(x == self.levels - 1, _log_ndtr(half_width - middle), inside)
        return torch.where(x == 0, _log_ndtr(half_width + middle), above)

    def cdf(self, value: Tensor) -> Tensor:
        r"""Returns :math:`P(X \leq x)` of any reals, with the batch shape."""
        z = (torch.floor(value) + 0.5 - self.loc) / self.scale
        return stepped(0.5 * erfc(-ROOT_HALF * z), value, self.levels)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Returns draws with shape sample_shape + batch shape."""
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            y = torch.normal(self.loc.expand(shape), self.scale.expand(shape))
            return y.round().clamp(0, self.levels - 1)


def _interior(v: Tensor, h: Tensor) -> Tensor:
    """Returns log(Phi(h - v) - Phi(-h - v)); each form gets harmless numbers where another is taken."""
    is_narrow = h * (1 + v) < NARROW
    is_far = ~is_narrow & (v - h > 1)
    is_near = ~is_narrow & ~is_far
    log_mass = _near(torch.where(is_near, v, 0.0), torch.where(is_near, h, 1.0))
    narrow = _narrow(torch.where(is_narrow, v, 0.0), torch.where(is_narrow, h, 0.1))
    far = _far(torch.where(is_far, v, 3.0), torch.where(is_far, h, 1.0))
    return torch.where(is_far, far, torch.where(is_narrow, narrow, log_mass))


def _near(v: Tensor, h: Tensor) -> Tensor:
    return torch.log(0.5 * (erf(ROOT_HALF * (h + v)) + erf(ROOT_HALF * (h - v))))


def _narrow(v: Tensor, h: Tensor) -> Tensor:
    # h^2 (v^2 - 1) / 6 + h^4 (v^4 - 6 v^2 + 3) / 120
    series = h**2 * (v**2 - 1) / 6 + h**4 * (v**4 - 6 * v**2 + 3) / 120
    return torch.log(2 * h) - 0.5 * v**2 - 0.5 * math.log(2 * math.pi) + torch.log1p(series)


def _far(v: Tensor, h: Tensor) -> Tensor:
    near_edge, far_edge = ROOT_HALF * (v - h), ROOT_HALF * (v + h)
    scaled = erfcx(near_edge) - torch.exp(-2 * v * h) * erfcx(far_edge)
    return torch.log(0.5 * scaled) - near_edge**2


def _log_ndtr(z: Tensor) -> Tensor:
    """Returns log Phi(z), with a gradient that is right in the tail too."""
    is_left = z < -1
    left, right = torch.where(is_left, -ROOT_HALF * z, 1.0), torch.where(is_left, 0.0, ROOT_HALF * z)
    return torch.where(is_left, torch.log(0.5 * erfcx(left)) - left**2, torch.log1p(-0.5 * erfc(right)))
