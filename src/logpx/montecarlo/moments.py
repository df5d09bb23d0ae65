r"""Streaming, mergeable mean and covariance of weighted vectors, of either sign and any magnitude.

Each entry of the vectors :math:`y_s = v_s e^{\ell_s}` is kept divided by :math:`e^m`, m the logarithm of the largest so
far, so that squares of any size neither overflow nor vanish. Two streams merge exactly:

.. math:: \bar y = \frac{n_a \bar y_a + n_b \bar y_b}{n_a + n_b}, \qquad
          C = C_a + C_b + \frac{n_a n_b}{n_a + n_b} (\bar y_a - \bar y_b)(\bar y_a - \bar y_b)^\top
"""

from __future__ import annotations

__all__ = ["MomentAccumulator"]

import dataclasses
import math

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class MomentAccumulator:
    r"""The mean and the sums of products of deviations of vectors with d entries, in float64.

    References:
        Updating formulae and a pairwise algorithm for computing sample variances (Chan, Golub and LeVeque, 1979).

    Example:
        >>> import torch
        >>> acc = MomentAccumulator.of(torch.tensor([[1.0], [3.0]]))
        >>> acc.mean.item(), acc.covariance().item()
        (2.0, 2.0)
    """

    count: int
    log_scale: Tensor  # (d,) the mean is e^log_scale times `mean`; -inf where all entries are zero
    mean: Tensor  # (d,)
    products: Tensor  # (d, d) sum over draws of the outer product of the deviations, in the units of the entries

    @classmethod
    def empty(cls, size: int) -> MomentAccumulator:
        """Returns the statistics of no vectors of `size` entries."""
        zeros = torch.zeros(size, dtype=torch.float64)
        return cls(0, zeros - math.inf, zeros, torch.outer(zeros, zeros))

    @classmethod
    def of(cls, values: Tensor, log_w: Tensor | None = None) -> MomentAccumulator:
        r"""Returns the statistics of the vectors :math:`v_s e^{\ell_s}`.

        Arguments:
            values: The vectors :math:`v`, with shape (S, d).
            log_w: The log-weights :math:`\ell`, in nats, with shape (S,); by default 0.
        """
        count, size = values.shape
        if count == 0:
            return cls.empty(size)
        values = values.double()
        if log_w is None:
            largest = values.abs().amax(0)
            # ordinary numbers stay as they are, so that nothing is rounded
            scale = torch.where((largest > 1e-100) & (largest < 1e100), 0.0, largest.log())
            y = values * torch.exp(-torch.where(scale == -math.inf, 0.0, scale))
        else:
            scale = (values.abs().log() + log_w.double().unsqueeze(-1)).amax(0)
            shift = torch.where(scale == -math.inf, 0.0, scale)
            y = torch.where(scale == -math.inf, 0.0, values * torch.exp(log_w.double().unsqueeze(-1) - shift))
        mean = y.mean(0)
        deviations = (y - mean).T
        return cls(count, scale, mean, deviations @ deviations.T)

    def merged(self, other: MomentAccumulator) -> MomentAccumulator:
        """Returns the statistics of both streams together."""
        count = self.count + other.count
        if min(self.count, other.count) == 0:
            return self if other.count == 0 else other
        scale = torch.maximum(self.log_scale, other.log_scale)
        a, b = self._rescaled(scale), other._rescaled(scale)
        gap = a.mean - b.mean
        mean = b.mean + gap * (a.count / count)
        products = a.products + b.products + torch.outer(gap, gap) * (a.count * (b.count / count))
        return MomentAccumulator(count, scale, mean, products)

    def covariance(self) -> Tensor:
        """Returns the unbiased covariance, in the units of the entries, with shape (d, d); NaN for one draw."""
        return self.products / (self.count - 1) if self.count > 1 else torch.full_like(self.products, math.nan)

    def _rescaled(self, log_scale: Tensor) -> MomentAccumulator:
        factor = torch.where(self.log_scale == -math.inf, 0.0, torch.exp(self.log_scale - log_scale))
        return MomentAccumulator(self.count, log_scale, self.mean * factor, self.products * torch.outer(factor, factor))
