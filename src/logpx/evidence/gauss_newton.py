r"""The Gauss-Newton precision of a latent, :math:`J^\top F J + \Lambda_{\mathrm{prior}}`, whole or of low rank.

J is the Jacobian of the decoder's parameters in z and F their Fisher information, so that :math:`J^\top F J` is the
Fisher information of z in a datum drawn from :math:`p(x | z)`: positive semidefinite everywhere, and the expected
Hessian of :math:`-\log p(x | z)`. Both terms are of the form :math:`G^\top G`, with G the derivative of the
*whitened map*

.. math:: g(z) = \left( W \theta(z),\; W_{\mathrm{prior}} T(z) \right), \qquad W^\top W = F,

in which the roots W are held fixed and T maps the prior to independent Gaussians. So derivatives of one map in chosen
directions are all that is needed, and J itself is never held.
"""

from __future__ import annotations

__all__ = ["gauss_newton", "whitened_map"]

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from ..utils import chunks
from .block import Block
from .fisher import fisher_root, parameters_of
from .precision import MAX_DENSE, DensePrecision, LowRankPrecision, Precision
from .prior import diagonal_of, prior_map

RANK = 64
NUM_PROBES = 32
# Where the prior's precision is not a diagonal, the diagonal beside the low-rank part has at least this share of all.
LEAST_SHARE = 0.1
SHIFT = 1e-6
# Copies of one decoder output that are alive at once under forward differentiation: a rough count.
COPIES = 16

Map: TypeAlias = Callable[[Tensor], Tensor]


@torch.no_grad()
def gauss_newton(block: Block, z: Tensor) -> tuple[Precision, int]:
    r"""Returns :math:`J^\top F J + \Lambda_{\mathrm{prior}}`, averaged over draws of z, and what it cost.

    Up to 128 latents, one Jacobian-vector product per latent gives the whole matrix. Beyond, a randomized Nyström
    approximation of rank 64 holds the directions of which the datum speaks most, and a diagonal the rest.

    References:
        New Insights and Perspectives on the Natural Gradient Method (Martens, 2020).
        Fixed-rank approximation of a positive-semidefinite matrix from streaming data (Tropp, Yurtsever, Udell and
        Cevher, 2017).

    Arguments:
        block: The data, under a model with real latents.
        z: The latents, with shape (S, B) + their event shape.

    Returns:
        The precisions of the B data, and the passes that each cost: forward 1, backward 2, Jacobian-vector product 2.

    Raises:
        LogpxError: If the Fisher information of the decoder's distribution is not known.
    """
    num_samples, num_latents = len(z), z[0, 0].numel()
    if num_latents <= MAX_DENSE:
        points = z.unsqueeze(1)
        parts = [_dense(whitened_map(block, point), point, block.memory_budget) for point in points]
        return DensePrecision.of(torch.stack(parts).mean(0)), num_samples * (1 + 2 * num_latents)
    # a diagonal precision of the prior is known exactly, so that only what the datum says is approximated
    known = diagonal_of(block.prior(), z[0])
    maps = [whitened_map(block, each.unsqueeze(0), with_prior=known is None) for each in z]
    operator = _Operator(maps, z, block.memory_budget)
    return _low_rank(operator, z, known), num_samples * (1 + 5 * RANK + 3 * NUM_PROBES)


def whitened_map(block: Block, z: Tensor, with_prior: bool = True) -> Map:
    r"""Returns the map g, whose derivative at z has :math:`G^\top G = J^\top F J + \Lambda_{\mathrm{prior}}`.

    Arguments:
        block: The data, under a model with real latents.
        z: Where the roots are taken, with shape (S, B) + the event shape of z.
        with_prior: Whether the prior's part is there.

    Returns:
        A function of latents of shape (T S, B) + their event shape, T copies of those of z, to (T, S, B, K).
    """
    mask, whiten = block.mask, fisher_root(block.decoder(z))
    prior = prior_map(block.prior())

    def g(points: Tensor) -> Tensor:
        parameters = parameters_of(block.decoder(points))
        likelihood = whiten(tuple(each.unflatten(0, (-1, len(z))) for each in parameters))
        if mask is not None:
            # what is not observed says nothing: one factor per dimension of the datum, whatever comes behind it
            likelihood = likelihood * mask.reshape(mask.shape + (1,) * (likelihood.dim() - 2 - mask.dim()))
        if not with_prior:
            return likelihood.flatten(3)
        return torch.cat([likelihood.flatten(3), prior(points).unflatten(0, (-1, len(z))).flatten(3)], -1)

    return g


def _dense(g: Map, z: Tensor, memory_budget: int) -> Tensor:
    """Returns G'G at one draw per datum, with shape (B, L, L)."""
    num = z[0, 0].numel()
    eye = torch.eye(num, dtype=z.dtype, device=z.device)
    rows = [
        _jvp(g, z, eye[start:stop, None, None].expand(-1, *z.shape[:2], -1))
        for start, stop in chunks(num, _at_once(g, z, memory_budget))
    ]
    # (L, 1, B, K) -> (B, L, K)
    derivative = torch.cat(rows).squeeze(1).movedim(0, 1)
    return derivative @ derivative.mT


class _Operator:
    """G'G averaged over draws, as a function of vectors."""

    def __init__(self, maps: list[Map], z: Tensor, memory_budget: int) -> None:
        self.maps, self.points = maps, list(z.unsqueeze(1))
        self.size = _at_once(maps[0], self.points[0], memory_budget)

    def times(self, v: Tensor) -> Tensor:
        """Returns G'G v for vectors of shape (T, B, L)."""
        total = torch.zeros_like(v)
        for (g, z), (start, stop) in self._pieces(len(v)):
            image = _jvp(g, z, v[start:stop].unsqueeze(1))
            total[start:stop] += _vjp(g, z, image).squeeze(1)
        return total / len(self.maps)

    def probe(self, num: int) -> Tensor:
        """Returns vectors G' e of Gaussian e, whose covariance is G'G, with shape (num, B, L)."""
        total = []
        for (g, z), (start, stop) in self._pieces(num):
            noise = torch.randn(stop - start, *g(z).shape[1:], dtype=z.dtype, device=z.device)
            total.append(_vjp(g, z, noise).squeeze(1))
        return torch.cat(total)

    def _pieces(self, num: int) -> Iterator[tuple[tuple[Map, Tensor], tuple[int, int]]]:
        for pair in zip(self.maps, self.points, strict=True):
            for piece in chunks(num, self.size):
                yield pair, piece


def _low_rank(operator: _Operator, z: Tensor, known: Tensor | None) -> LowRankPrecision:
    """Returns a diagonal and U U'; the diagonal is the known one and what U U' leaves out."""
    flat = z.flatten(2)
    test = torch.randn(flat.shape[1], flat.shape[2], RANK, dtype=z.dtype, device=z.device)
    test = torch.linalg.qr(test).Q
    image = operator.times(test.movedim(-1, 0)).movedim(0, -1)
    # Nystroem: Y (Omega' Y)^-1 Y', shifted against rounding
    shift = SHIFT * torch.linalg.matrix_norm(image, keepdim=True).clamp(min=1e-20)
    y = (image + shift * test).double()
    core = test.double().mT @ y
    root = torch.linalg.cholesky(0.5 * (core + core.mT))
    factor = torch.linalg.solve_triangular(root.mT, y, upper=True, left=False).to(z.dtype)
    # what is orthogonal to the directions that U holds, by squares of (I - Q Q') G' e
    basis = torch.linalg.qr(image).Q
    probes = operator.probe(NUM_PROBES).movedim(0, -1)
    rest = (probes - basis @ (basis.mT @ probes)).square().mean(-1)
    floor = LEAST_SHARE * probes.square().mean(-1) if known is None else known
    return LowRankPrecision.of(rest + floor, factor)


def _jvp(g: Map, z: Tensor, v: Tensor) -> Tensor:
    """Returns G v, with shape (T, S, B, K), for directions of shape (T, S, B, L)."""
    _prepare_forward_mode()
    points = z.repeat(len(v), *[1] * (z.dim() - 1))
    return torch.func.jvp(g, (points,), (v.reshape(points.shape).contiguous(),))[1]


@functools.cache
def _prepare_forward_mode() -> None:
    """Makes torch load what it needs, which it does with a warning about itself that is none of the user's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.sin, (torch.zeros(()),), (torch.ones(()),))


def _vjp(g: Map, z: Tensor, u: Tensor) -> Tensor:
    """Returns G' u, with shape (T, S, B, L), for cotangents of shape (T, S, B, K)."""
    points = z.repeat(len(u), *[1] * (z.dim() - 1))
    with torch.enable_grad():
        points.requires_grad_()
        (gradient,) = torch.autograd.grad(g(points), points, u)
    return gradient.unflatten(0, (-1, len(z))).flatten(3)


def _at_once(g: Map, z: Tensor, memory_budget: int) -> int:
    """Returns how many directions the budget holds at once."""
    return max(1, memory_budget // (4 * COPIES * g(z).numel()))
