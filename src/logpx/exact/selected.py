"""The Gaussians of chosen components, without a covariance matrix for each datum."""

from __future__ import annotations

__all__ = ["SelectedNormal"]

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.types import _size

from .covariances import Full, log_normals


class SelectedNormal(Distribution):
    r"""The Gaussian :math:`\mathcal{N}(x; \mu_k, L_k L_k^\top)` of a component k for every element of the batch.

    Densities are computed for all K components at once and then selected, so that S draws of k for one datum take the
    memory of K densities and not of S covariances.

    Arguments:
        index: The components k, with any batch shape, int64.
        means: The means, with shape (K,) + the event shape, of D dimensions in all.
        roots: The lower Cholesky factors L of the covariances, with shape (K, D, D).
    """

    arg_constraints: ClassVar = {}
    has_rsample = False

    def __init__(self, index: Tensor, means: Tensor, roots: Tensor) -> None:
        super().__init__(index.shape, means.shape[1:], validate_args=False)
        self.index, self.means, self.roots = index, means, roots

    @constraints.dependent_property(is_discrete=False)
    def support(self) -> constraints.Constraint:
        """The reals."""
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """The means, with the batch and event shape."""
        return self.means[self.index]

    @property
    def mode(self) -> Tensor:
        """The means, where the density is largest."""
        return self.mean

    @property
    def variance(self) -> Tensor:
        """The variances of the dimensions, with the batch and event shape."""
        # var(x_d) = sum_e L_de^2
        return self.roots.square().sum(-1).reshape(self.means.shape)[self.index]

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> SelectedNormal:
        """Returns the distribution with its batch shape expanded."""
        return SelectedNormal(self.index.expand(batch_shape), self.means, self.roots)

    def sample(self, sample_shape: _size = torch.Size()) -> Tensor:  # noqa: B008
        """Returns draws, with the sample, batch and event shape."""
        with torch.no_grad():
            index = self.index.expand(torch.Size(sample_shape) + self.batch_shape)
            shape = (*index.shape, math.prod(self.event_shape))
            x = torch.randn(shape, dtype=self.means.dtype, device=self.means.device)
            for k in index.unique().tolist():
                # x = mu_k + L_k e
                x[index == k] = x[index == k] @ self.roots[k].T
            return x.reshape(self._extended_shape(torch.Size(sample_shape))) + self.means[index]

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(x), in nats, with the batch shape."""
        values = value.reshape(*value.shape[: value.dim() - len(self.event_shape)], math.prod(self.event_shape))
        table = log_normals(values.to(self.means.dtype), self.means.flatten(1), self.roots, Full)
        shape = torch.broadcast_shapes(values.shape[:-1], self.batch_shape)
        index = self.index.expand(shape).unsqueeze(-1)
        return table.expand(*shape, len(self.means)).gather(-1, index).squeeze(-1)
