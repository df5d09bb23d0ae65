"""What fitting a proposal to each datum gives, and what it starts from."""

from __future__ import annotations

__all__ = ["Fit", "encoder_moments", "has_real_support", "precision_of", "require_real_latents", "take"]

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ..utils import LogpxError, keyed_rng
from .block import Block
from .elliptical import Elliptical
from .mixture import ProposalMixture
from .precision import Precision, diagonal_precision

NUM_DRAWS = 64


@dataclasses.dataclass(frozen=True)
class Fit:
    """A proposal per datum and what it cost.

    Arguments:
        q: The proposals, with batch shape (B,).
        num_passes: The passes that each datum cost: forward 1, backward 2, Jacobian-vector product 2.
    """

    q: Distribution
    num_passes: int


def encoder_moments(block: Block) -> tuple[Tensor, Tensor]:
    """Returns the mean and standard deviation of the encoder's q, by draws where q does not know its own.

    Raises:
        LogpxError: If the latents are not vectors or maps of real numbers.
    """
    q = block.encoder()
    require_real_latents(q)
    return _moments(q, block)


def has_real_support(q: Distribution) -> bool:
    """Whether z is a vector or map of any real numbers, so that one can step through it."""
    try:
        support: Any = q.support
    except NotImplementedError:
        # a distribution that does not say is taken at the word of its draws
        return bool(q.event_shape) and q.has_rsample
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return bool(q.event_shape) and support in (constraints.real, constraints.real_vector)


def require_real_latents(q: Distribution) -> None:
    """Refuses latents that nobody can step through.

    Raises:
        LogpxError: If z is not a vector or map of any real numbers.
    """
    if not has_real_support(q):
        raise LogpxError(
            f"Fitted proposals and annealing need latents that are vectors or maps of any real numbers, but "
            f"{type(q).__name__} with event shape {tuple(q.event_shape)} gives others: use estimator auto, exact or "
            "importance, with proposal encoder or prior."
        )


def precision_of(q: Distribution, block: Block) -> Precision:
    """Returns the precision by which steps through the support of q are shaped.

    Arguments:
        q: Proposals with batch shape (B,), or a prior.
        block: The data.
    """
    match q:
        case Elliptical():
            return q.precision
        case ProposalMixture():
            return precision_of(q.components[0], block)
        case _:
            scale = _moments(q, block)[1]
            return diagonal_precision(scale.expand(len(block), *q.event_shape))


def take(q: Distribution, rows: Tensor) -> Distribution:
    """Returns the fitted proposals of some of the data.

    Arguments:
        q: The proposals, with batch shape (B,).
        rows: Which data, with shape (R,).
    """
    match q:
        case Elliptical():
            return Elliptical(q.loc[rows], q.precision.take(rows), q.scale, q.df)
        case ProposalMixture():
            return ProposalMixture([take(each, rows) for each in q.components], q.shares)
        case _:
            raise TypeError(f"Only fitted proposals are taken apart, but got {type(q).__name__}: fit one to the data.")


def _moments(q: Distribution, block: Block) -> tuple[Tensor, Tensor]:
    try:
        return q.mean.clone(), q.stddev.clone()
    except NotImplementedError:
        with keyed_rng(block.seed, "moments", block.number, device=block.x.device):
            z = q.sample(torch.Size((NUM_DRAWS,)))
        return z.mean(0), z.std(0)
