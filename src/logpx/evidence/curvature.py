r"""The curvature proposal: a full-covariance Gaussian per datum, fitted by natural-gradient steps on that datum's ELBO.

For :math:`q = \mathcal{N}(m, \Lambda^{-1})` the ELBO is stationary where

.. math:: \mathbb{E}_q[\nabla_z \log p(x, z)] = 0, \qquad \Lambda = \mathbb{E}_q[-\nabla_z^2 \log p(x, z)],

and with the Gauss-Newton precision :math:`\mathbb{E}_q[J^\top F J] + \Lambda_{\mathrm{prior}}` in the place of the Hessian
each step is

.. math:: \Lambda \leftarrow \mathbb{E}_q[J^\top F J] + \Lambda_{\mathrm{prior}}, \qquad
          m \leftarrow m + \Lambda^{-1} \mathbb{E}_q[\nabla_z \log p(x, z)].
"""

from __future__ import annotations

__all__ = ["CurvatureFit", "fit_curvature"]

import dataclasses

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from ..model import LatentVariableModel, call, log_joint, propose
from ..utils import keyed_rng
from .fisher import gauss_newton


@dataclasses.dataclass(frozen=True)
class CurvatureFit:
    r"""A Gaussian per datum, and what it cost.

    Arguments:
        loc: The means m, with shape (B, L).
        precision_root: The Cholesky factors of :math:`\Lambda`, with shape (B, L, L).
        num_passes: The passes per datum: forward 1, backward 2, Jacobian-vector product 2.
    """

    loc: Tensor
    precision_root: Tensor
    num_passes: int


def fit_curvature(
    model: LatentVariableModel,
    x: Tensor,
    *,
    context: Tensor | None = None,
    mask: Tensor | None = None,
    steps: tuple[tuple[int, int], ...] = ((4, 1), (4, 1), (4, 2), (8, 2), (8, 0), (8, 2), (16, 0), (16, 8)),
    seed: int = 0,
    block: int = 0,
) -> CurvatureFit:
    q = propose(model, x, None, context)
    loc, scale = q.mean.clone(), q.stddev
    root = torch.diag_embed(1 / scale)
    num_latents, cost = loc.shape[-1], 1
    precision = torch.diag_embed(scale**-2)
    for step, (num_gradients, num_curvatures) in enumerate(steps):
        with keyed_rng(seed, "curvature", block, step, device=x.device):
            noise = torch.randn(max(num_gradients, 2 * num_curvatures) // 2, *loc.shape, dtype=loc.dtype, device=x.device)
        z = loc + torch.cat([s * _solve_root(root, noise) for s in (1, -1)])
        if num_curvatures:
            half = len(z) // 2
            chosen = torch.cat([z[: (num_curvatures + 1) // 2], z[half : half + num_curvatures // 2]])
            precision = (gauss_newton(model, chosen, context) + prior_precision(model, chosen, context)).mean(0)
            root = torch.linalg.cholesky(precision)
            cost += num_curvatures * (1 + 2 * num_latents)
        gradient = _gradient(model, x, z, context, mask).mean(0)
        cost += 3 * len(z)
        loc = loc + torch.cholesky_solve(gradient.unsqueeze(-1), root).squeeze(-1)
    return CurvatureFit(loc, root, cost)


def proposal(fit: CurvatureFit, scale: float = 1.1) -> MultivariateNormal:
    # Sigma = Lambda^-1: with Lambda = R R', R^-T is a root
    eye = torch.eye(fit.loc.shape[-1], dtype=fit.loc.dtype, device=fit.loc.device)
    covariance = torch.cholesky_inverse(fit.precision_root)
    return MultivariateNormal(fit.loc, scale_tril=scale * torch.linalg.cholesky(covariance), validate_args=False)


def prior_precision(model: LatentVariableModel, z: Tensor, context: Tensor | None = None) -> Tensor:
    p = call(model.prior, context=context)
    if isinstance(p, Independent) and isinstance(p.base_dist, Normal):
        return torch.diag_embed((p.base_dist.scale**-2).expand(z.shape))
    raise NotImplementedError


def _solve_root(root: Tensor, noise: Tensor) -> Tensor:
    # R^-T eps has covariance Lambda^-1
    return torch.linalg.solve_triangular(root.mT, noise.unsqueeze(-1), upper=True).squeeze(-1)


def _gradient(model, x, z, context, mask):
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = log_joint(model, x, z, context, mask)
        return torch.autograd.grad(value.sum(), z)[0]
