r"""Streaming, mergeable mean and covariance of weighted vectors, of either sign and any magnitude.

The vectors :math:`y_s = v_s e^{\ell_s}` are kept divided by :math:`e^m`, m the largest :math:`\ell` so far, so that
weights of any size neither overflow nor vanish. Two streams merge exactly:

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
    log_scale: float  # the mean is e^log_scale times `mean`; -inf when all vectors are zero
    mean: Tensor  # (d,)
    products: Tensor  # (d, d) sum over draws of the outer product of the deviations, in units of e^(2 log_scale)

    @classmethod
    def empty(cls, size: int) -> MomentAccumulator:
        """Returns the statistics of no vectors of `size` entries."""
        zeros = torch.zeros(size, dtype=torch.float64)
        return cls(0, -math.inf, zeros, torch.outer(zeros, zeros))

    @classmethod
    def of(cls, values: Tensor, log_w: Tensor | None = None) -> MomentAccumulator:
        r"""Returns the statistics of the vectors :math:`v_s e^{\ell_s}`.

        Arguments:
            values: The vectors :math:`v`, with shape (S, d).
            log_w: The log-weights :math:`\ell`, in nats, with shape (S,); by default 0.
        """
        count, size = values.shape
        scale = 0.0 if log_w is None else float(log_w.max())
        if count == 0 or scale == -math.inf:
            return dataclasses.replace(cls.empty(size), count=count)
        y = values.double() if log_w is None else values.double() * torch.exp(log_w.double() - scale).unsqueeze(-1)
        mean = y.mean(0)
        deviations = (y - mean).T
        return cls(count, scale, mean, deviations @ deviations.T)

    def merged(self, other: MomentAccumulator) -> MomentAccumulator:
        """Returns the statistics of both streams together."""
        count = self.count + other.count
        if min(self.count, other.count) == 0:
            return self if other.count == 0 else other
        scale = max(self.log_scale, other.log_scale)
        a, b = self._rescaled(scale), other._rescaled(scale)
        gap = a.mean - b.mean
        mean = b.mean + gap * (a.count / count)
        products = a.products + b.products + torch.outer(gap, gap) * (a.count * (b.count / count))
        return MomentAccumulator(count, scale, mean, products)

    def covariance(self) -> Tensor:
        """Returns the unbiased covariance, in units of e^(2 log_scale), with shape (d, d); NaN for one draw."""
        return self.products / (self.count - 1) if self.count > 1 else torch.full_like(self.products, math.nan)

    def _rescaled(self, log_scale: float) -> MomentAccumulator:
        factor = 0.0 if self.log_scale == -math.inf else math.exp(self.log_scale - log_scale)
        return MomentAccumulator(self.count, log_scale, self.mean * factor, self.products * factor**2)
