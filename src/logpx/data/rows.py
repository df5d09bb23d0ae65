"""Data that stay where they are stored: read as they are asked for, in the place of a tensor."""

from __future__ import annotations

__all__ = ["Rows", "Values", "join", "pieces", "select"]

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..utils import chunks

_PIECE_VALUES = 1 << 20


@dataclass(frozen=True, eq=False)
class Rows:
    """Data of which only those that are asked for are in memory.

    As with a tensor of shape (N, *event_shape), an index of shape (B,) gives data, of shape (B, *event_shape), and a
    slice gives a part; a part is read no sooner than its data.

    Arguments:
        read: Reads the data at positions of shape (B,), int64, and returns them with shape (B, *event_shape).
        size: The number of data that can be read.
        event_shape: The shape of one datum.
        dtype: The type of the values, uint8 or float32.
        advise: Says which positions will be read soon, so that whatever stores them can fetch them.
        order: Which of the data these are, of shape (N,), int64, or None for all in their order.
        device: Where data are put that were read.

    Example:
        >>> rows = Rows(lambda index: torch.from_numpy(10.0 * index)[:, None], 5, (1,), torch.float64)
        >>> len(rows[2:]), rows[2:][torch.tensor([1, 0])].tolist()
        (3, [[30.0], [20.0]])
    """

    read: Callable[[NDArray[np.int64]], Tensor] = field(repr=False)
    size: int
    event_shape: tuple[int, ...]
    dtype: torch.dtype
    advise: Callable[[NDArray[np.int64]], None] = field(default=lambda index: None, repr=False)
    order: Tensor | None = field(default=None, repr=False)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __len__(self) -> int:
        return self.size if self.order is None else len(self.order)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that a tensor of all data would have."""
        return (len(self), *self.event_shape)

    def numel(self) -> int:
        """Returns the number of values."""
        return math.prod(self.shape)

    @overload
    def __getitem__(self, wanted: Tensor) -> Tensor: ...
    @overload
    def __getitem__(self, wanted: slice) -> Rows: ...
    def __getitem__(self, wanted: Tensor | slice) -> Tensor | Rows:
        if isinstance(wanted, slice):
            return self.select(torch.arange(len(self))[wanted])
        if not len(wanted):
            return torch.empty((0, *self.event_shape), dtype=self.dtype, device=self.device)
        return self.read(self._positions(wanted)).to(self.device)

    def announce(self, index: Tensor) -> None:
        """Says that the data at an index of shape (B,), int64, will be asked for soon."""
        self.advise(self._positions(index))

    def select(self, index: Tensor) -> Rows:
        """Returns the data at an index of shape (M,), int64, without reading them."""
        return replace(self, order=index if self.order is None else self.order[index])

    def to(self, device: torch.device | str) -> Rows:
        """Returns the same data, which will be put on a device when they are read."""
        return replace(self, device=torch.device(device))

    def _positions(self, index: Tensor) -> NDArray[np.int64]:
        index = index.cpu()
        return (index if self.order is None else self.order[index]).numpy()


Values: TypeAlias = Tensor | Rows


def select(values: Values, index: Tensor) -> Values:
    """Returns the data at an index of shape (M,), int64; what is not in memory is not read.

    Arguments:
        values: The data, of shape (N, *event_shape).
        index: Their positions.
    """
    return values.select(index) if isinstance(values, Rows) else values[index]


def join(first: Values, second: Values) -> Values:
    """Returns data and then others of the same shape and type; what is not in memory is not read.

    Arguments:
        first: The data, of shape (N, *event_shape).
        second: The others, of shape (M, *event_shape).
    """
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.cat([first, second])

    def read(index: NDArray[np.int64]) -> Tensor:
        position = torch.from_numpy(index)
        is_first = position < len(first)
        x = torch.empty((len(index), *first.shape[1:]), dtype=first.dtype)
        x[is_first] = first[position[is_first]]
        x[~is_first] = second[position[~is_first] - len(first)]
        return x

    return Rows(read, len(first) + len(second), tuple(first.shape[1:]), first.dtype)


def pieces(values: Values) -> Iterator[tuple[int, Tensor]]:
    """Yields all data in their order, a few at a time, each time after the position of the first of them.

    Arguments:
        values: The data, of shape (N, *event_shape).
    """
    for start, stop in chunks(len(values), max(1, _PIECE_VALUES // max(1, math.prod(values.shape[1:])))):
        if isinstance(values, Tensor):
            yield start, values[start:stop]
        else:
            values.announce(torch.arange(start, stop))
            yield start, values[torch.arange(start, stop)]
