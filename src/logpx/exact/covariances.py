r"""Three kinds of covariance of K Gaussians: one full matrix each, variances alone, or one matrix for all.

A covariance is kept as its root: the lower Cholesky factor L, or the standard deviations. Of all covariances without
an eigenvalue below a floor, the likeliest has the eigenvectors of the free estimate, and its smaller eigenvalues raised
to the floor: so a floor leaves the M-step a maximization.
"""

from __future__ import annotations

__all__ = ["COVARIANCES", "Covariance", "Diagonal", "Full", "Tied", "log_normals"]

import math

import torch
from torch import Tensor


class Full:
    """A covariance matrix of its own for each component, with shape (K, D, D)."""

    @staticmethod
    def shape(num_components: int, num_dims: int) -> tuple[int, ...]:
        """Returns the shape of the covariances."""
        return (num_components, num_dims, num_dims)

    @staticmethod
    def root(covariance: Tensor) -> Tensor:
        """Returns the Cholesky factors L of the covariances."""
        root: Tensor = torch.linalg.cholesky(covariance)
        return root

    @staticmethod
    def square(root: Tensor) -> Tensor:
        """Returns the covariances L L'."""
        return root @ root.mT

    @staticmethod
    def unit(num_dims: int) -> Tensor:
        """Returns the covariance of a standard normal, in float64."""
        return torch.eye(num_dims, dtype=torch.float64)

    @staticmethod
    def of(root: Tensor, k: int) -> Tensor:
        """Returns the root of one component."""
        return root[k]

    @staticmethod
    def whiten(difference: Tensor, root: Tensor) -> Tensor:
        """Returns L^{-1} (x - mean) of one component, with shape (B, D)."""
        whitened: Tensor = torch.linalg.solve_triangular(root, difference.T, upper=False)
        return whitened.T

    @staticmethod
    def half_log_det(root: Tensor) -> Tensor:
        """Returns half the log-determinants of the covariances, in nats."""
        return root.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    @staticmethod
    def second(x: Tensor, r: Tensor) -> Tensor:
        """Returns the second moments sum_x r_k(x) x x'."""
        return torch.stack([(x * r_k.unsqueeze(-1)).T @ x for r_k in r.T])

    @staticmethod
    def around(second: Tensor, sums: Tensor, counts: Tensor, means: Tensor) -> Tensor:
        """Returns the second moments sum_x r_k(x) (x - m)(x - m)' around other points than 0."""
        cross = means.unsqueeze(-1) * sums.unsqueeze(-2)
        squares = counts[:, None, None] * means.unsqueeze(-1) * means.unsqueeze(-2)
        return second - cross - cross.mT + squares

    @staticmethod
    def estimate(scatter: Tensor, counts: Tensor) -> Tensor:
        """Returns the covariances whose likelihood is largest, the scatter divided by the counts."""
        return scatter / counts[:, None, None]

    @staticmethod
    def floored_root(covariance: Tensor, floor: float) -> tuple[Tensor, Tensor]:
        """Returns the roots of the covariances with eigenvalues raised to the floor, and how many were raised."""
        values, vectors = torch.linalg.eigh(0.5 * (covariance + covariance.mT))
        # V Lambda V' = R' R for Lambda^{1/2} V' = Q R, which keeps small eigenvalues where V Lambda V' rounds them away
        upper = torch.linalg.qr(values.clamp(min=floor).sqrt().unsqueeze(-1) * vectors.mT).R
        root = (upper * upper.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-1)).mT
        return root.contiguous(), (values < floor).sum(-1)

    @staticmethod
    def trace(scatter: Tensor, root: Tensor) -> Tensor:
        """Returns sum_k tr(Sigma_k^{-1} scatter_k)."""
        return torch.cholesky_solve(scatter, root).diagonal(dim1=-2, dim2=-1).sum()

    @staticmethod
    def keep(alive: Tensor, new: Tensor, old: Tensor) -> Tensor:
        """Returns the new covariances of components that are alive, and the old ones of the others."""
        return torch.where(alive[:, None, None], new, old)

    @staticmethod
    def average(covariance: Tensor, weights: Tensor) -> Tensor:
        """Returns the mean covariance within components, with shape (D, D)."""
        return torch.einsum("k,kde->de", weights, covariance)

    @staticmethod
    def seed(second: Tensor, k: int, count: Tensor, x: Tensor, within: Tensor) -> None:
        """Makes the second moments those of a component that explains `count` data at x, as wide as the others."""
        second[k] = count * (torch.outer(x, x) + within)


class Tied(Full):
    """One covariance matrix for all components, with shape (D, D)."""

    @staticmethod
    def shape(num_components: int, num_dims: int) -> tuple[int, ...]:
        """Returns the shape of the covariance."""
        return (num_dims, num_dims)

    @staticmethod
    def of(root: Tensor, k: int) -> Tensor:
        """Returns the root that all components share."""
        return root

    @staticmethod
    def second(x: Tensor, r: Tensor) -> Tensor:
        """Returns the second moment sum_x x x', as responsibilities sum to one."""
        return x.T @ x

    @staticmethod
    def around(second: Tensor, sums: Tensor, counts: Tensor, means: Tensor) -> Tensor:
        """Returns sum_k sum_x r_k(x) (x - m_k)(x - m_k)'."""
        cross = means.T @ sums
        return second - cross - cross.T + (counts.unsqueeze(-1) * means).T @ means

    @staticmethod
    def estimate(scatter: Tensor, counts: Tensor) -> Tensor:
        """Returns the covariance whose likelihood is largest."""
        return scatter / counts.sum()

    @staticmethod
    def keep(alive: Tensor, new: Tensor, old: Tensor) -> Tensor:
        """Returns the new covariance, which depends on no single component."""
        return new

    @staticmethod
    def average(covariance: Tensor, weights: Tensor) -> Tensor:
        """Returns the covariance."""
        return covariance

    @staticmethod
    def seed(second: Tensor, k: int, count: Tensor, x: Tensor, within: Tensor) -> None:
        """Adds `count` data at x, as wide as all components."""
        second += count * (torch.outer(x, x) + within)


class Diagonal:
    """Variances of its own for each component, with shape (K, D)."""

    @staticmethod
    def shape(num_components: int, num_dims: int) -> tuple[int, ...]:
        """Returns the shape of the variances."""
        return (num_components, num_dims)

    @staticmethod
    def root(covariance: Tensor) -> Tensor:
        """Returns the standard deviations."""
        return covariance.sqrt()

    @staticmethod
    def square(root: Tensor) -> Tensor:
        """Returns the variances."""
        return root.square()

    @staticmethod
    def unit(num_dims: int) -> Tensor:
        """Returns the variances of a standard normal, in float64."""
        return torch.ones(num_dims, dtype=torch.float64)

    @staticmethod
    def of(root: Tensor, k: int) -> Tensor:
        """Returns the standard deviations of one component."""
        return root[k]

    @staticmethod
    def whiten(difference: Tensor, root: Tensor) -> Tensor:
        """Returns (x - mean) / sd of one component, with shape (B, D)."""
        return difference / root

    @staticmethod
    def half_log_det(root: Tensor) -> Tensor:
        """Returns half the log-determinants of the covariances, in nats."""
        return root.log().sum(-1)

    @staticmethod
    def second(x: Tensor, r: Tensor) -> Tensor:
        """Returns the second moments sum_x r_k(x) x^2."""
        return r.T @ x.square()

    @staticmethod
    def around(second: Tensor, sums: Tensor, counts: Tensor, means: Tensor) -> Tensor:
        """Returns the second moments sum_x r_k(x) (x - m)^2 around other points than 0."""
        return second - 2 * means * sums + counts.unsqueeze(-1) * means.square()

    @staticmethod
    def estimate(scatter: Tensor, counts: Tensor) -> Tensor:
        """Returns the variances whose likelihood is largest, the scatter divided by the counts."""
        return scatter / counts.unsqueeze(-1)

    @staticmethod
    def floored_root(covariance: Tensor, floor: float) -> tuple[Tensor, Tensor]:
        """Returns the standard deviations of the variances raised to the floor, and how many were raised."""
        return covariance.clamp(min=floor).sqrt(), (covariance < floor).sum(-1)

    @staticmethod
    def trace(scatter: Tensor, root: Tensor) -> Tensor:
        """Returns sum_k tr(Sigma_k^{-1} scatter_k)."""
        return (scatter / root.square()).sum()

    @staticmethod
    def keep(alive: Tensor, new: Tensor, old: Tensor) -> Tensor:
        """Returns the new variances of components that are alive, and the old ones of the others."""
        return torch.where(alive.unsqueeze(-1), new, old)

    @staticmethod
    def average(covariance: Tensor, weights: Tensor) -> Tensor:
        """Returns the mean variances within components, with shape (D,)."""
        return weights @ covariance

    @staticmethod
    def seed(second: Tensor, k: int, count: Tensor, x: Tensor, within: Tensor) -> None:
        """Makes the second moments those of a component that explains `count` data at x, as wide as the others."""
        second[k] = count * (x.square() + within)


def log_normals(x: Tensor, means: Tensor, roots: Tensor, covariance: Covariance) -> Tensor:
    """Returns the log-density of data of shape (*, D) under each of K Gaussians, in nats, with shape (*, K)."""
    rows, each = x.reshape(-1, x.shape[-1]), []
    for k, mean in enumerate(means):
        root = covariance.of(roots, k)
        # log N(x; m, L L') = -1/2 |L^{-1} (x - m)|^2 - log |L| - D/2 log 2 pi
        square = covariance.whiten(rows - mean, root).square().sum(-1)
        each.append(-0.5 * (square + x.shape[-1] * math.log(2 * math.pi)) - covariance.half_log_det(root))
    return torch.stack(each, -1).reshape(*x.shape[:-1], len(means))


Covariance = type[Full] | type[Diagonal]
COVARIANCES: dict[str, Covariance] = {"full": Full, "diagonal": Diagonal, "tied": Tied}
