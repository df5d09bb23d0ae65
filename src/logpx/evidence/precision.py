r"""Precisions :math:`\Lambda` of many Gaussians at once, in the two forms that can be solved, drawn from and weighed.

Few latents get a whole matrix, :math:`\Lambda = R R^\top`. Many get a low-rank one beside a diagonal,
:math:`\Lambda = D + U U^\top`, of which nothing larger than U is ever held: with the thin singular value decomposition
:math:`D^{-1/2} U = Q \,\mathrm{diag}(s)\, V^\top`,

.. math:: \Lambda = D^{1/2} A^2 D^{1/2}, \qquad A = I + Q \left(\mathrm{diag}(\sqrt{1 + s^2}) - I\right) Q^\top,

and A to any power is as cheap.
"""

from __future__ import annotations

__all__ = [
    "MAX_DENSE",
    "DensePrecision",
    "LowRankPrecision",
    "Precision",
    "diagonal_precision",
    "mean_covariance",
    "mixed",
]

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

# Up to so many latents a precision is held as a whole matrix.
MAX_DENSE = 128


@dataclasses.dataclass(frozen=True)
class DensePrecision:
    r"""Precisions :math:`\Lambda = R R^\top`.

    Arguments:
        root: The lower Cholesky factors R, with shape (B, L, L).
    """

    root: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> DensePrecision:
        r"""Factors matrices, in float64; of one that is not positive definite the diagonal is taken.

        Arguments:
            matrix: The precisions :math:`\Lambda`, positive definite, with shape (B, L, L).
        """
        root, failed = torch.linalg.cholesky_ex(matrix.double())
        # rounding, or latents that overflow, must not end the evaluation of the others
        diagonal = torch.nan_to_num(matrix.double().diagonal(dim1=-2, dim2=-1), nan=1.0).clamp(1e-12, 1e12)
        chosen = torch.where((failed > 0)[:, None, None], torch.diag_embed(diagonal.sqrt()), root)
        return cls(chosen.to(matrix.dtype))

    @property
    def log_det(self) -> Tensor:
        r"""The logarithms of :math:`\det \Lambda`, with shape (B,)."""
        return 2 * self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    @property
    def variance(self) -> Tensor:
        r"""The diagonals of :math:`\Lambda^{-1}`, with shape (B, L)."""
        return torch.cholesky_inverse(self.root).diagonal(dim1=-2, dim2=-1)

    def solve(self, v: Tensor) -> Tensor:
        r"""Returns :math:`\Lambda^{-1} v`, with the shape of v, (\*, B, L)."""
        return _times(torch.cholesky_inverse(self.root), v)

    def colour(self, noise: Tensor) -> Tensor:
        r"""Returns :math:`R^{-\top} \epsilon`, which has the covariance :math:`\Lambda^{-1}`, with shape (\*, B, L)."""
        return _times(self._inverse_root.mT, noise)

    def pull(self, gradient: Tensor) -> Tensor:
        r"""Returns :math:`R^{-1} g`, the gradient in the coordinates that :meth:`colour` maps from."""
        return _times(self._inverse_root, gradient)

    def whiten(self, v: Tensor) -> Tensor:
        r"""Returns :math:`R^\top v`, the inverse of :meth:`colour`, with shape (\*, B, L)."""
        return _times(self.root.mT, v)

    @functools.cached_property
    def _inverse_root(self) -> Tensor:
        eye = torch.eye(self.root.shape[-1], dtype=self.root.dtype, device=self.root.device)
        return torch.linalg.solve_triangular(self.root, eye, upper=False)

    def mixed(self, other: DensePrecision, share: float) -> DensePrecision:
        r"""Returns :math:`(1 - \rho) \Lambda + \rho \Lambda'`.

        Arguments:
            other: The other precisions :math:`\Lambda'`.
            share: Their share :math:`\rho`.
        """
        return DensePrecision.of((1 - share) * self.root @ self.root.mT + share * other.root @ other.root.mT)

    def take(self, index: Tensor) -> DensePrecision:
        """Returns the precisions of some of the B data."""
        return DensePrecision(self.root[index])


@dataclasses.dataclass(frozen=True)
class LowRankPrecision:
    r"""Precisions :math:`\Lambda = D + U U^\top`, held as D and the singular vectors and values of :math:`D^{-1/2} U`.

    Arguments:
        diagonal: The diagonals of D, positive, with shape (B, L).
        vectors: The left singular vectors Q, with shape (B, L, R).
        values: The singular values s, with shape (B, R).
    """

    diagonal: Tensor
    vectors: Tensor
    values: Tensor

    @classmethod
    def of(cls, diagonal: Tensor, factor: Tensor) -> LowRankPrecision:
        """Takes D and U apart.

        Arguments:
            diagonal: The diagonals of D, positive, with shape (B, L).
            factor: The factors U, with shape (B, L, R).
        """
        vectors, values, _ = torch.linalg.svd(factor / diagonal.sqrt().unsqueeze(-1), full_matrices=False)
        return cls(diagonal, vectors, values)

    @property
    def log_det(self) -> Tensor:
        r"""The logarithms of :math:`\det \Lambda`, with shape (B,)."""
        return self.diagonal.log().sum(-1) + torch.log1p(self.values.square()).sum(-1)

    @property
    def variance(self) -> Tensor:
        r"""The diagonals of :math:`\Lambda^{-1}`, with shape (B, L)."""
        # Lambda^-1 = D^-1/2 (I - Q diag(s^2 / (1 + s^2)) Q') D^-1/2
        share = (self.values.square() / (1 + self.values.square())).unsqueeze(-2)
        return (1 - (self.vectors.square() * share).sum(-1)) / self.diagonal

    def solve(self, v: Tensor) -> Tensor:
        r"""Returns :math:`\Lambda^{-1} v`, with the shape of v, (\*, B, L)."""
        root = self.diagonal.sqrt()
        return self._power(v / root, -1.0) / root

    def colour(self, noise: Tensor) -> Tensor:
        r"""Returns :math:`D^{-1/2} A^{-1} \epsilon`, which has the covariance :math:`\Lambda^{-1}`."""
        return self._power(noise, -0.5) / self.diagonal.sqrt()

    def pull(self, gradient: Tensor) -> Tensor:
        r"""Returns :math:`A^{-1} D^{-1/2} g`, the gradient in the coordinates that :meth:`colour` maps from."""
        return self._power(gradient / self.diagonal.sqrt(), -0.5)

    def whiten(self, v: Tensor) -> Tensor:
        r"""Returns :math:`A D^{1/2} v`, the inverse of :meth:`colour`, with shape (\*, B, L)."""
        return self._power(v * self.diagonal.sqrt(), 0.5)

    def mixed(self, other: LowRankPrecision, share: float) -> LowRankPrecision:
        r"""Returns :math:`(1 - \rho) \Lambda + \rho \Lambda'`, with the leading directions of both.

        Arguments:
            other: The other precisions :math:`\Lambda'`.
            share: Their share :math:`\rho`.
        """
        diagonal = (1 - share) * self.diagonal + share * other.diagonal
        factor = torch.cat([math.sqrt(1 - share) * self.factor, math.sqrt(share) * other.factor], -1)
        both = LowRankPrecision.of(diagonal, factor)
        rank = max(self.values.shape[-1], other.values.shape[-1])
        return LowRankPrecision(diagonal, both.vectors[..., :rank], both.values[..., :rank])

    @property
    def factor(self) -> Tensor:
        """A factor U, with shape (B, L, R)."""
        return self.diagonal.sqrt().unsqueeze(-1) * self.vectors * self.values.unsqueeze(-2)

    def take(self, index: Tensor) -> LowRankPrecision:
        """Returns the precisions of some of the B data."""
        return LowRankPrecision(self.diagonal[index], self.vectors[index], self.values[index])

    def _power(self, v: Tensor, exponent: float) -> Tensor:
        """Returns (I + Q diag(s^2) Q')^exponent v."""
        change = ((1 + self.values.square()) ** exponent - 1) * _times(self.vectors.mT, v)
        return v + _times(self.vectors, change)


Precision: TypeAlias = DensePrecision | LowRankPrecision


def diagonal_precision(scale: Tensor) -> Precision:
    r"""Returns the diagonal precisions :math:`\sigma^{-2}`.

    Arguments:
        scale: The standard deviations :math:`\sigma`, with shape (B,) + the event shape.
    """
    diagonal = scale.flatten(1) ** -2
    return LowRankPrecision(diagonal, torch.zeros_like(diagonal).unsqueeze(-1), torch.zeros_like(diagonal[:, :1]))


def mixed(first: Precision, second: Precision, share: float) -> Precision:
    r"""Returns :math:`(1 - \rho) \Lambda + \rho \Lambda'` of two precisions of one form.

    Arguments:
        first: The precisions :math:`\Lambda`.
        second: The precisions :math:`\Lambda'`.
        share: The share :math:`\rho` of the second.

    Raises:
        TypeError: If one is whole and the other of low rank.
    """
    if isinstance(first, DensePrecision) and isinstance(second, DensePrecision):
        return first.mixed(second, share)
    if isinstance(first, LowRankPrecision) and isinstance(second, LowRankPrecision):
        return first.mixed(second, share)
    names = f"{type(first).__name__} and {type(second).__name__}"
    raise TypeError(f"Two precisions mix when both are whole or both of low rank, but got {names}: convert one.")


def mean_covariance(precisions: Sequence[Precision]) -> Precision:
    r"""Returns :math:`(\frac{1}{n} \sum_i \Lambda_i^{-1})^{-1}`; of low-rank ones, the mean of the precisions.

    Arguments:
        precisions: Precisions of the same data, all of one form.
    """
    if not all(isinstance(each, DensePrecision) for each in precisions):
        total = precisions[0]
        for i, each in enumerate(precisions[1:], 2):
            total = mixed(total, each, 1 / i)
        return total
    roots = torch.stack([each.root.double() for each in precisions if isinstance(each, DensePrecision)])
    covariance = torch.cholesky_inverse(roots).mean(0)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
    return DensePrecision.of(inverse.to(precisions[0].log_det.dtype))


def _times(matrix: Tensor, v: Tensor) -> Tensor:
    """Returns M v for each of the B matrices and all vectors of shape (*, B, L), by one product per matrix."""
    return torch.einsum("bij,...bj->...bi", matrix, v)
