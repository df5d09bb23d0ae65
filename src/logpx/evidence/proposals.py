r"""Proposals by name, each fitted to a block of data.

The encoder serves all data at once; the others are better importance distributions because each datum gets its own.
"""

from __future__ import annotations

__all__ = ["PROPOSALS", "encoder_proposal", "fitted_proposal", "prior_proposal"]

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..model import LatentVariableModel, Proposal, call
from .block import Block
from .curvature import fit_curvature, fit_laplace
from .elliptical import Elliptical
from .fit import Fit, encoder_moments
from .mixture import defensive_mixture
from .precision import diagonal_precision
from .refined import fit_refined

WIDER = 1.1


def encoder_proposal(model: LatentVariableModel, context: Tensor | None = None) -> Proposal:
    """Returns the model's encoder as importance distribution, z ~ q(z | x).

    Arguments:
        model: The model.
        context: Labels or covariates, with shape (B, *).
    """
    return lambda x: call(model.encoder, x, context=context)


def prior_proposal(model: LatentVariableModel, context: Tensor | None = None) -> Proposal:
    """Returns the model's prior as importance distribution, z ~ p(z): plain Monte Carlo, for comparison.

    Arguments:
        model: The model.
        context: Labels or covariates, with shape (B, *).
    """
    return lambda x: _prior(Block(model, x, context)).q


def fitted_proposal(
    model: LatentVariableModel,
    name: str,
    *,
    context: Tensor | None = None,
    mask: Tensor | None = None,
    seed: int = 0,
    **options: Any,
) -> Proposal:
    """Returns a proposal that is fitted to the data whenever it is called.

    Arguments:
        model: The model, in evaluation mode.
        name: A key of PROPOSALS: encoder, prior, widened, refined, laplace, curvature or defensive.
        context: Labels or covariates, with shape (B, *).
        mask: True where x is observed, with the shape of x.
        seed: The seed of the draws that fitting takes.
        options: Those of the fit, such as `df=10` for Student's t, or `exact_hessian=True` of laplace.

    Raises:
        ValueError: If there is no such proposal.
    """
    if name not in PROPOSALS:
        raise ValueError(f"proposal must be one of {', '.join(PROPOSALS)}, but is {name!r}: choose one.")
    return lambda x: PROPOSALS[name](Block(model, x, context, mask, seed), **options).q


def _encoder(block: Block) -> Fit:
    return Fit(block.encoder(), 1)


def _prior(block: Block) -> Fit:
    p = block.prior()
    return Fit(p if len(p.batch_shape) == 1 else p.expand(torch.Size((len(block),))), 0)


def _widened(block: Block, *, scale: float = WIDER, df: float = math.inf) -> Fit:
    """A Gaussian of the encoder's mean and 1.1 times its scale."""
    loc, deviation = encoder_moments(block)
    return Fit(Elliptical(loc, diagonal_precision(deviation), scale, df), 1)


def _defensive(block: Block, **options: Any) -> Fit:
    """The curvature proposal with some of the encoder and of the prior, so that weights are bounded."""
    fit = fit_curvature(block, **options)
    return Fit(defensive_mixture(fit.q, block.encoder(), block.prior()), fit.num_passes + 1)


PROPOSALS: dict[str, Callable[..., Fit]] = {
    "encoder": _encoder,
    "prior": _prior,
    "widened": _widened,
    "refined": fit_refined,
    "laplace": fit_laplace,
    "curvature": fit_curvature,
    "defensive": _defensive,
}
