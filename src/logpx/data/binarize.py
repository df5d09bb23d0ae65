"""Binarization: a grey level becomes a probability, and the probability a 0 or a 1."""

from __future__ import annotations

__all__ = ["draw", "threshold"]

import torch
from torch import Tensor

from ..utils import chunks

_BLOCK_VALUES = 1 << 18


def threshold(values: Tensor, levels: int | None) -> Tensor:
    """Returns 1 where a value is at least half of its range, else 0.

    A level of 0..levels-1 is compared with levels / 2, a probability with 0.5.

    Arguments:
        values: The levels, uint8, or the probabilities, of any shape.
        levels: The number of levels, or None for probabilities.

    Returns:
        Zeros and ones, of the shape of `values`, uint8.

    Example:
        >>> threshold(torch.tensor([0, 8, 9, 16], dtype=torch.uint8), levels=17)
        tensor([0, 0, 1, 1], dtype=torch.uint8)
    """
    return (values >= (0.5 if levels is None else levels / 2)).to(torch.uint8)


def draw(values: Tensor, levels: int | None, rng: torch.Generator) -> Tensor:
    """Draws each value from a Bernoulli whose probability is level / (levels - 1).

    The numbers are drawn in whole blocks of a fixed size, so that memory is bounded and the draw of a datum
    does not depend on how many come after it.

    Arguments:
        values: The levels, uint8, or the probabilities, of shape (N, *event_shape), on the CPU.
        levels: The number of levels, or None for probabilities.
        rng: Where the random numbers come from.

    Returns:
        Zeros and ones, of the shape of `values`, uint8.
    """
    event_shape = values.shape[1:]
    rows = max(1, _BLOCK_VALUES // event_shape.numel())
    drawn = torch.empty(values.shape, dtype=torch.uint8)
    for start, stop in chunks(len(values), rows):
        uniform = torch.rand((rows, *event_shape), generator=rng)[: stop - start]
        drawn[start:stop] = uniform < _probability(values[start:stop], levels)
    return drawn


def _probability(values: Tensor, levels: int | None) -> Tensor:
    return values if levels is None else values.to(torch.float32) / (levels - 1)
