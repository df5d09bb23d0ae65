"""Binarization: a grey level becomes a probability, and the probability a 0 or a 1."""

from __future__ import annotations

__all__ = ["draw", "draw_each", "threshold", "threshold_each"]

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..utils import chunks, generator
from .rows import Rows

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


def threshold_each(rows: Rows, levels: int | None) -> Rows:
    """Returns data that are thresholded when they are read.

    Arguments:
        rows: The levels, uint8, or the probabilities, of shape (N, *event_shape).
        levels: The number of levels, or None for probabilities.
    """
    return _converted(rows, lambda values, index: threshold(values, levels))


def draw_each(rows: Rows, levels: int | None, seed: int, *key: int | str) -> Rows:
    """Returns data that are drawn when they are read, each datum by random numbers of its own.

    So the draw of a datum depends neither on which are read before it nor on which are read with it.

    Arguments:
        rows: The levels, uint8, or the probabilities, of shape (N, *event_shape).
        levels: The number of levels, or None for probabilities.
        seed: The seed; with the key and the position of the datum it fixes the draw.
        key: What the draws are for.
    """

    def drawn(values: Tensor, index: NDArray[np.int64]) -> Tensor:
        uniform = torch.empty(values.shape)
        for row, i in zip(uniform, index.tolist(), strict=True):
            torch.rand(row.shape, generator=generator(seed, *key, i), out=row)
        return (uniform < _probability(values, levels)).to(torch.uint8)

    return _converted(rows, drawn)


def _converted(rows: Rows, function: Callable[[Tensor, NDArray[np.int64]], Tensor]) -> Rows:
    def read(index: NDArray[np.int64]) -> Tensor:
        return function(rows[torch.from_numpy(index)], index)

    def advise(index: NDArray[np.int64]) -> None:
        rows.announce(torch.from_numpy(index))

    return Rows(read, len(rows), rows.event_shape, torch.uint8, advise)


def _probability(values: Tensor, levels: int | None) -> Tensor:
    return values if levels is None else values.to(torch.float32) / (levels - 1)
