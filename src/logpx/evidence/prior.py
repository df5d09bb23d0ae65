r"""What a prior says of the curvature of :math:`-\log p(z)`: a map to independent standard Gaussians.

For :math:`u = T(z)` with :math:`u \sim \mathcal{N}(0, I)` the Gauss-Newton precision of the prior is
:math:`T'^\top T'`. A Gaussian is whitened, a flow brings its own map, and any other prior is taken for the Gaussian of
its moments.
"""

from __future__ import annotations

__all__ = ["diagonal_of", "prior_map"]

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, TransformedDistribution

from .precision import MAX_DENSE

NUM_DRAWS = 2000


def prior_map(p: Distribution) -> Callable[[Tensor], Tensor]:
    r"""Returns T, which maps latents of shape (\*, B) + their event shape to standard Gaussians of the same size.

    Arguments:
        p: The prior p(z), with batch shape () or (B,).
    """
    match p:
        case Independent():
            return prior_map(p.base_dist)
        case Normal():
            # constants drop out of the derivative
            return lambda z: z / p.scale
        case MultivariateNormal():
            # |R' z|^2 = z' Lambda z
            root = torch.linalg.cholesky(p.precision_matrix)
            return lambda z: (root.mT @ z.unsqueeze(-1)).squeeze(-1)
        case TransformedDistribution():
            base = prior_map(p.base_dist)
            return lambda z: base(_inverse(p, z))
    if _is_flow(p):
        flow: Any = p
        base = prior_map(flow.base)
        return lambda z: base(flow.transform(z))
    return _moments(p)


def diagonal_of(p: Distribution, z: Tensor) -> Tensor | None:
    r"""Returns the diagonal precisions :math:`\sigma^{-2}` of a prior of independent Gaussians, or None of any other.

    Arguments:
        p: The prior p(z), with batch shape () or (B,).
        z: Latents, with shape (B,) + their event shape.

    Returns:
        The precisions of the flattened latents, with shape (B, L).
    """
    while isinstance(p, Independent):
        p = p.base_dist
    return (p.scale**-2).expand(z.shape).flatten(1) if isinstance(p, Normal) else None


def _inverse(p: TransformedDistribution, z: Tensor) -> Tensor:
    for transform in reversed(p.transforms):
        z = transform.inv(z)
    return z


def _is_flow(p: Distribution) -> bool:
    """Whether it is a flow of zuko, z -> transform(z) ~ base."""
    return callable(getattr(p, "transform", None)) and isinstance(getattr(p, "base", None), Distribution)


def _moments(p: Distribution) -> Callable[[Tensor], Tensor]:
    """Whitens the Gaussian of the same mean and covariance; of many latents, of the same variances."""
    draws = _flat(p.sample((NUM_DRAWS,)), p)
    centred = draws - draws.mean(0)
    if draws.shape[-1] > MAX_DENSE:
        scale = centred.square().mean(0).sqrt()
        return lambda z: _flat(z, p) / scale
    covariance = torch.einsum("s...i,s...j->...ij", centred, centred) / (NUM_DRAWS - 1)
    root = torch.linalg.cholesky(covariance)
    # |R^-1 z|^2 = z' Sigma^-1 z
    return lambda z: torch.linalg.solve_triangular(root, _flat(z, p).unsqueeze(-1), upper=False).squeeze(-1)


def _flat(z: Tensor, p: Distribution) -> Tensor:
    return z.flatten(z.dim() - len(p.event_shape)) if p.event_shape else z.unsqueeze(-1)
