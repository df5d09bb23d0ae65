r"""Proposals that know the curvature: a Gaussian with full covariance per datum, by natural-gradient steps.

For :math:`q = \mathcal{N}(m, \Lambda^{-1})` the datum's ELBO is stationary where

.. math:: \mathbb{E}_q[\nabla_z \log p(x, z)] = 0, \qquad \Lambda = \mathbb{E}_q[-\nabla_z^2 \log p(x, z)],

and with the Gauss-Newton precision in the place of the Hessian each step is

.. math:: \Lambda \leftarrow \mathbb{E}_q[J^\top F J] + \Lambda_{\mathrm{prior}}, \qquad
          m \leftarrow m + \rho\, \Lambda^{-1} \mathbb{E}_q[\nabla_z \log p(x, z)].

Preconditioned steps need far fewer passes than Adam, and averaging over q widens what a point's curvature makes too
narrow. Without noise they lead to the mode, and to Laplace's approximation.
"""

from __future__ import annotations

__all__ = ["fit_curvature", "fit_laplace"]

import math

import torch
from torch import Tensor

from ..utils import keyed_rng
from .block import Block
from .elliptical import Elliptical
from .fit import Fit, encoder_moments
from .gauss_newton import gauss_newton
from .mixture import ProposalMixture
from .precision import MAX_DENSE, DensePrecision, Precision, diagonal_precision, mean_covariance, mixed

# (draws for the gradient, of these for the curvature, step size rho): full steps diverge, half ones converge, and then
# steps of 1, 1/2, 1/3, ... of a half average the noise away
EARLY = ((4, 1, 0.5),) * 4
LATE = tuple((8, 1, 1 / (2 + i)) for i in range(7))
# With a low-rank precision, which costs more, only some steps renew it.
RENEWALS = (0, 3, 6, 9)
# Two widths: the narrower one is efficient, the wider one keeps the weights' tails short.
SCALES, SHARES = (0.92, 1.1), (0.6, 0.4)
MODE_STEPS = 12
MODE_STEP = 0.7


@torch.no_grad()
def fit_curvature(
    block: Block,
    *,
    df: float = math.inf,
) -> Fit:
    r"""Fits a mean and a full covariance to each datum's ELBO, from those of the encoder on.

    Precisions of single draws of z differ; the proposal's covariance is the mean of their inverses, so that it is wide
    where the curvature is uncertain, in two widths mixed.

    References:
        Fast and Simple Natural-Gradient Variational Inference with Mixture of Exponential-family Approximations (Lin,
        Khan and Schmidt, 2019).

    Arguments:
        block: The data, under a model with real latents.
        df: The degrees of freedom of Student's t; by default a Gaussian.

    Raises:
        LogpxError: If the Fisher information of the decoder's distribution is not known.
    """
    loc, around = _start(block)
    cost, seen = 1, list[Precision]()
    for step, (num_gradients, num_curvatures, rho) in enumerate(EARLY + LATE):
        with keyed_rng(block.seed, "curvature", block.number, step, device=loc.device):
            z = _antithetic(loc, around, num_gradients)
            if loc[0].numel() <= MAX_DENSE or step in RENEWALS:
                new, passes = gauss_newton(block, _both_signs(z, num_curvatures))
                around = mixed(around, new, rho) if seen else new
                cost, seen = cost + passes, [*seen, new]
            loc = loc + rho * _newton(block, z, around)
        cost += 3 * num_gradients
    shape = mean_covariance(seen[len(seen) // 2 :])
    return Fit(ProposalMixture([Elliptical(loc, shape, scale, df) for scale in SCALES], SHARES), cost)


@torch.no_grad()
def fit_laplace(
    block: Block,
    *,
    scale: float = 1.1,
    df: float = math.inf,
    exact_hessian: bool = False,
) -> Fit:
    r"""Fits a Gaussian at the mode of :math:`p(z | x)`, by Laplace's approximation.

    References:
        Accurate Approximations for Posterior Moments and Marginal Densities (Tierney and Kadane, 1986).

    Arguments:
        block: The data, under a model with real latents.
        scale: By how much the proposal is wider than the fitted Gaussian.
        df: The degrees of freedom of Student's t; by default a Gaussian.
        exact_hessian: Whether the precision is the Hessian itself, for up to 128 latents and where it is positive
            definite; else the Gauss-Newton matrix.

    Raises:
        LogpxError: If the Fisher information of the decoder's distribution is not known.
    """
    loc, _ = _start(block)
    cost = 1
    for step in range(MODE_STEPS):
        with keyed_rng(block.seed, "laplace", block.number, step, device=loc.device):
            precision, passes = gauss_newton(block, loc.unsqueeze(0))
            loc = loc + MODE_STEP * _newton(block, loc.unsqueeze(0), precision)
        cost += passes + 3
    with keyed_rng(block.seed, "laplace", block.number, MODE_STEPS, device=loc.device):
        precision, passes = gauss_newton(block, loc.unsqueeze(0))
    if exact_hessian and isinstance(precision, DensePrecision):
        precision, more = _hessian(block, loc, precision)
        passes += more
    return Fit(Elliptical(loc, precision, scale, df), cost + passes)


def _start(block: Block) -> tuple[Tensor, Precision]:
    """Returns the encoder's mean and its scales as precisions."""
    loc, scale = encoder_moments(block)
    return loc, diagonal_precision(scale)


def _antithetic(loc: Tensor, precision: Precision, num: int) -> Tensor:
    """Draws pairs on both sides of the mean, so that linear terms of the gradient cancel."""
    noise = torch.randn(num // 2, *loc.flatten(1).shape, dtype=loc.dtype, device=loc.device)
    step = precision.colour(noise).reshape(num // 2, *loc.shape)
    return torch.cat([loc + step, loc - step])


def _both_signs(z: Tensor, num: int) -> Tensor:
    """Returns some of the draws, from either side of the mean."""
    half = len(z) // 2
    return torch.cat([z[: (num + 1) // 2], z[half : half + num // 2]])


def _newton(block: Block, z: Tensor, precision: Precision) -> Tensor:
    gradient = block.gradient(z).mean(0)
    return precision.solve(gradient.flatten(1)).reshape(gradient.shape)


def _hessian(block: Block, loc: Tensor, fallback: DensePrecision) -> tuple[DensePrecision, int]:
    """Returns minus the Hessian of log p(x, z) where it is positive definite, and the Gauss-Newton matrix elsewhere."""
    with torch.enable_grad():
        z = loc.detach().unsqueeze(0).requires_grad_()
        (gradient,) = torch.autograd.grad(block.log_joint(z).sum(), z, create_graph=True)
        columns = gradient.flatten(2).sum((0, 1))
        rows = [torch.autograd.grad(column, z, retain_graph=True)[0].flatten(2)[0] for column in columns]
    hessian = -torch.stack(rows, 1)
    root, failed = torch.linalg.cholesky_ex(0.5 * (hessian + hessian.mT).double())
    chosen = torch.where((failed > 0)[:, None, None], fallback.root, root.to(loc.dtype))
    return DensePrecision(chosen), 3 + 4 * len(columns)
