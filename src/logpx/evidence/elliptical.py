r"""Gaussians and Student's t with a full covariance per datum, given by their precisions."""

from __future__ import annotations

__all__ = ["Elliptical"]

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Chi2, Distribution, constraints
from torch.types import _size

from .precision import Precision


class Elliptical(Distribution):
    r"""The Gaussian :math:`\mathcal{N}(m, c^2 \Lambda^{-1})`, or Student's t of the same location and shape.

    .. math:: \log q(z) = \tfrac12 \log\det\Lambda - L \log c - \tfrac{L}{2} \log 2\pi - \tfrac{r^2}{2}, \qquad
              r^2 = (z - m)^\top \Lambda (z - m) / c^2,

    and with :math:`\nu` degrees of freedom
    :math:`\log\Gamma(\frac{\nu + L}{2}) - \log\Gamma(\frac{\nu}{2}) - \frac{L}{2} \log \nu\pi - \frac{\nu + L}{2}
    \log(1 + r^2 / \nu)` in the place of the last two terms. Its tails are heavier than those of any Gaussian, so that
    importance weights stay bounded where the nominal distribution is Gaussian in the tails.

    Arguments:
        loc: The locations m, with shape (B,) + the event shape, which may be that of maps.
        precision: The precisions :math:`\Lambda` of the flattened events.
        scale: The factor c by which the Gaussian is wider.
        df: The degrees of freedom :math:`\nu`; by default infinite, the Gaussian.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, loc: Tensor, precision: Precision, scale: float = 1.0, df: float = math.inf) -> None:
        self.loc, self.precision, self.scale, self.df = loc, precision, scale, df
        super().__init__(loc.shape[:1], loc.shape[1:], validate_args=False)

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        """All real vectors or maps."""
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """The locations; for Student's t with one degree of freedom or fewer there is no mean, but a centre."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        r"""The variances :math:`c^2 \mathrm{diag}(\Lambda^{-1})`, for Student's t times :math:`\nu / (\nu - 2)`."""
        heavier = 1.0 if math.isinf(self.df) else self.df / (self.df - 2) if self.df > 2 else math.inf
        return (heavier * self.scale**2 * self.precision.variance).reshape(self.loc.shape)

    def sample(self, sample_shape: _size = torch.Size()) -> Tensor:  # noqa: B008
        r"""Returns draws :math:`m + c \Lambda^{-1/2} \epsilon \sqrt{\nu / \chi^2_\nu}`."""
        shape = torch.Size(sample_shape) + self.loc.shape
        with torch.no_grad():
            noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device).flatten(len(sample_shape) + 1)
            step = self.scale * self.precision.colour(noise)
            if not math.isinf(self.df):
                chi2 = Chi2(torch.full_like(step[..., :1], self.df)).sample()
                step = step * torch.sqrt(self.df / chi2)
            return self.loc + step.reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns the log-densities, in nats, with shape (\*, B)."""
        num = self.loc[0].numel()
        difference = (value - self.loc).flatten(value.dim() - len(self.event_shape))
        square = (self.precision.whiten(difference) / self.scale).square().sum(-1)
        # 1/2 log det Lambda - L log c
        volume = 0.5 * self.precision.log_det - num * math.log(self.scale)
        if math.isinf(self.df):
            return volume - 0.5 * num * math.log(2 * math.pi) - 0.5 * square
        half = 0.5 * (self.df + num)
        constant = math.lgamma(half) - math.lgamma(0.5 * self.df) - 0.5 * num * math.log(self.df * math.pi)
        return volume + constant - half * torch.log1p(square / self.df)

    def expand(self, batch_shape: _size, _instance: Any = None) -> Elliptical:
        """Returns itself: there is one distribution per datum.

        Raises:
            ValueError: If the batch shape is another.
        """
        if torch.Size(batch_shape) != self.batch_shape:
            raise ValueError(
                f"The batch shape is {tuple(self.batch_shape)} and stays so: {tuple(batch_shape)} is another."
            )
        return self
