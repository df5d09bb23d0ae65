"""What is asked of a model before its weights are believed: finite terms, and the same p(x | z) each time."""

from __future__ import annotations

__all__ = ["inspect_model"]

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..model import log_weights
from ..utils import keyed_rng
from .block import Block

NUM_DRAWS = 4
# Sums in another order differ by rounding; dropout and batch statistics change log p(x | z) by far more.
ROUNDING = 1e-3

T = TypeVar("T")


@torch.no_grad()
def inspect_model(block: Block) -> list[str]:
    """Tries a model on some data, and returns one sentence for each thing that a reader of its numbers must know.

    Layers such as dropout and batch normalization, left in training mode where nobody finds them, make another
    :math:`p(x | z)` each time it is asked for. Of the encoder this is told: weights stay right whatever z is drawn
    from. Of the decoder it is an error, unless its distribution has an attribute `is_bound` that is true, as
    :class:`~logpx.distributions.Dequantized` has. A distribution whose own `log_prob` is random is told of.

    Arguments:
        block: The first data under the model.

    Raises:
        ValueError: If a term of the log-weights is finite nowhere, the encoder's distribution cannot be drawn from, or
            p(x | z) is random or depends on other data.
    """
    if getattr(block.model, "log_weights", None) is not None:
        with keyed_rng(block.seed, "inspect", device=block.x.device):
            _check_finite("log_weights", log_weights(block.model, block.x, NUM_DRAWS, None, block.context, block.mask))
        return []
    with keyed_rng(block.seed, "inspect", device=block.x.device):
        q = block.encoder()
        z = _drawn(q)
        # first the proposal, since what it draws would spoil the other terms
        _check_finite("log q(z)", q.log_prob(z))
        terms = block.weigh(z, q)
    _check_finite("log p(z)", terms.log_prior)
    _check_finite("log p(x|z)", terms.log_likelihood)
    return [*_of_encoder(block, z), *_of_decoder(block, z)]


def _drawn(q: Distribution) -> Tensor:
    try:
        return q.sample(torch.Size((NUM_DRAWS,)))
    except RuntimeError as error:
        raise ValueError(
            f"q(z|x) cannot be drawn from ({error}): look for NaN weights, or scales below zero."
        ) from error


def _check_finite(name: str, term: Tensor) -> None:
    if torch.isfinite(term).any():
        return
    kinds = {"NaN": torch.isnan(term), "-inf": term == -torch.inf, "inf": term == torch.inf}
    counts = ", ".join(f"{int(where.sum())} {kind}" for kind, where in kinds.items() if where.any())
    raise ValueError(
        f"{name} is not finite in any of {term.shape[0]} draws for each of the first {term.shape[1]} data ({counts}): "
        "look for NaN weights, a scale of zero, or data outside the support."
    )


def _of_encoder(block: Block, z: Tensor) -> list[str]:
    first, again = _twice(block, lambda: block.encoder().log_prob(z))
    half = block.take(torch.arange((len(block) + 1) // 2, device=block.x.device))
    alone = half.encoder().log_prob(z[:, : len(half)])
    if _agree(first, again) and _agree(first[:, : len(half)], alone):
        return []
    return [
        "The encoder gives another q(z|x) each time, or one that depends on the other data of a batch (dropout or "
        "batch normalization in training mode?): the estimate holds for any q, but call .eval() on its modules."
    ]


def _of_decoder(block: Block, z: Tensor) -> list[str]:
    p, other = _twice(block, lambda: block.decoder(z))
    first = _log_prob(block, p, "first")
    if not _agree(first, _log_prob(block, other, "first")):
        raise ValueError(
            "decoder(z) gives another p(x|z) each time it is asked for the same z, as dropout in training mode does: "
            "call .eval() on all its modules; noise that is meant belongs into z."
        )
    if not _agree(first, _log_prob(block, p, "again")):
        return (
            []
            if _is_declared(p)
            else ["log p(x|z) is random given z: log p(x) is only right if each draw of p(x|z) has the right mean."]
        )
    if not _agree(first[:1], _log_prob(block, block.decoder(z[:1]), "first")):
        raise ValueError(
            "decoder(z) gives another p(x|z) when other latents are in the batch, as batch normalization in training "
            "mode does: call .eval() on all its modules."
        )
    return []


def _twice(block: Block, ask: Callable[[], T]) -> tuple[T, T]:
    """Asks with two different streams of random numbers."""
    answers = []
    for key in (1, 2):
        with keyed_rng(block.seed, "inspect", key, device=block.x.device):
            answers.append(ask())
    return answers[0], answers[1]


def _log_prob(block: Block, p: Distribution, key: str) -> Tensor:
    x = block.x if block.mask is None else torch.where(block.mask, block.x, torch.zeros_like(block.x))
    with keyed_rng(block.seed, "inspect", key, device=block.x.device):
        return p.log_prob(x)


def _agree(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=ROUNDING, atol=ROUNDING, equal_nan=True)


def _is_declared(p: Distribution) -> bool:
    """Whether a likelihood says of itself that its log_prob is random."""
    inner: Any = p
    while inner is not None and not getattr(inner, "is_bound", False):
        inner = getattr(inner, "base_dist", None) or getattr(inner, "base", None)
    return inner is not None
