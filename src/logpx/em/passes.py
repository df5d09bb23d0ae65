"""Passes over data that are in memory, or larger than it."""

from __future__ import annotations

__all__ = ["DataSource", "Passes"]

from collections.abc import Iterable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from ..data import Split
from ..utils import chunks, generator

DataSource: TypeAlias = Split | Tensor | Iterable[Tensor]
# How many data the E-step sees at once; sums over more are taken in float64.
ROWS = 8192


class Passes:
    """The data in one pass after another: in their order, or shuffled batches of them.

    Arguments:
        data: A split, data of shape (N,) + the event shape, or an iterable of such parts, which is asked for a new
            iterator in every pass.
        device: Where the batches are put.
        seed: The seed of the order.

    Raises:
        TypeError: If the data can be passed over only once.
    """

    def __init__(self, data: DataSource, device: torch.device, seed: int = 0) -> None:
        if isinstance(data, Iterator):
            raise TypeError(
                f"EM passes over the data many times, but a {type(data).__name__} ends after once: give a tensor, a "
                "Split, or an object whose __iter__ starts anew, such as a list or a DataLoader."
            )
        self.data, self.device, self.seed = data, device, seed

    def in_order(self) -> Iterator[Tensor]:
        """Yields all data, always the same in the same order."""
        if not isinstance(self.data, Split | Tensor):
            yield from self._parts(self.data, None)
            return
        for start, stop in chunks(len(self.data), ROWS):
            yield self._rows(self.data, torch.arange(start, stop))

    def shuffled(self, size: int, epoch: int) -> Iterator[Tensor]:
        """Yields all data in batches, in a random order where they are in memory, and fresh where they are dynamic.

        Arguments:
            size: The largest number of data in a batch.
            epoch: The number of the pass.
        """
        if not isinstance(self.data, Split | Tensor):
            yield from self._parts(self.data, size)
            return
        data = self.data.epoch(epoch) if isinstance(self.data, Split) else self.data
        order = torch.randperm(len(data), generator=generator(self.seed, "em", "order", epoch))
        for start, stop in chunks(len(data), size):
            yield self._rows(data, order[start:stop])

    def sample(self, size: int) -> tuple[Tensor, int]:
        """Draws data without replacement in one pass, however many there are.

        Arguments:
            size: The number of data to draw; all in a random order where there are fewer.

        Returns:
            The draws, with shape (min(size, N),) + the event shape, and the number N of data.

        Raises:
            ValueError: If there are no data.
        """
        draws, num_data = generator(self.seed, "em", "sample"), 0
        lots, kept = torch.empty(0, dtype=torch.float64), None
        for x in self.in_order():
            num_data += len(x)
            # every datum draws a lot; the smallest stay
            lots = torch.cat([lots, torch.rand(len(x), generator=draws, dtype=torch.float64)])
            kept = x if kept is None else torch.cat([kept, x])
            lots, order = lots.sort()
            lots, kept = lots[:size], kept[order[:size].to(kept.device)]
        if kept is None or not num_data:
            raise ValueError("EM needs data, but got none: give at least one datum.")
        return kept, num_data

    def _rows(self, data: Split | Tensor, index: Tensor) -> Tensor:
        if isinstance(data, Split):
            return data.batch(index, self.device).x
        return self._float(data[index.to(data.device)])

    def _parts(self, data: Iterable[Tensor], size: int | None) -> Iterator[Tensor]:
        for part in data:
            if not isinstance(part, Tensor):
                raise TypeError(f"EM needs parts that are tensors, but got a {type(part).__name__}: yield tensors.")
            for x in part.split(size or max(len(part), 1)):
                yield self._float(x)

    def _float(self, x: Tensor) -> Tensor:
        x = x.to(self.device)
        return x if x.is_floating_point() else x.to(torch.float32)
