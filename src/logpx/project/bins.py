"""Counts of numbers in narrow bins, which merge and give quantiles in constant memory."""

from __future__ import annotations

__all__ = ["Bins"]

import dataclasses
import math
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

# The bits of positive float32 numbers are ordered as the numbers are. Without the last 9 of them they number bins, each
# between 2^-15 and 2^-14 of its place wide.
DROPPED_BITS = 9


@dataclasses.dataclass(eq=False)
class Bins:
    """Counts of numbers that are not negative, in bins by the first 22 bits of their float32 form.

    Arguments:
        first: The number of the first bin.
        counts: How many numbers are in each bin from there on.
        smallest: The smallest number.
        largest: The largest number.
    """

    first: int
    counts: np.ndarray
    smallest: float
    largest: float

    @classmethod
    def empty(cls) -> Bins:
        """Returns the counts of no numbers."""
        return cls(0, np.zeros(0, np.int64), math.inf, -math.inf)

    @classmethod
    def of(cls, values: Tensor) -> Bins:
        """Returns the counts of values, float32 with shape (S,)."""
        bins = values.view(torch.int32) >> DROPPED_BITS
        first = int(bins.min())
        return cls(first, torch.bincount(bins - first).numpy(), float(values.min()), float(values.max()))

    def add(self, other: Bins) -> None:
        """Adds the counts of another, in place: a copy of many bins for each block of trials would take long."""
        self.__dict__.pop("_cumulative", None)
        if len(other.counts):
            self._reach(other.first, other.first + len(other.counts))
            self.counts[other.first - self.first :][: len(other.counts)] += other.counts
        self.smallest, self.largest = min(self.smallest, other.smallest), max(self.largest, other.largest)

    def copy(self) -> Bins:
        """Returns the same counts, to add to."""
        return dataclasses.replace(self, counts=self.counts.copy())

    def ranked(self, rank: int) -> tuple[float, float, float]:
        """Returns where the number of a rank from 1 is: the least that it can be, a good guess, and the most."""
        place = int(np.searchsorted(self._cumulative, rank))
        low, high = np.clip(self._edges(place, place + 2), self.smallest, self.largest).tolist()
        # numbers are taken to be spread evenly over their bin
        share = (rank - self._cumulative[place] + self.counts[place] - 0.5) / self.counts[place]
        return low, low + float(share) * (high - low), high

    def histogram(self, num_bins: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns increasing edges, moved to edges of our bins, and the counts between them."""
        low, high = self.smallest, self.largest
        if low == high:
            low, high = low - 0.5, high + 0.5
        edges, fine = np.linspace(low, high, num_bins + 1), self._edges(0, len(self.counts) + 1)
        place = np.searchsorted((fine[:-1] + fine[1:]) / 2, edges)
        below = np.concatenate([[0], self._cumulative])[place]
        edges = np.where((fine[0] <= edges) & (edges <= fine[-1]), fine[place], edges)
        edges[0], edges[-1] = low, high
        edges, kept = np.unique(np.clip(edges, low, high), return_index=True)
        below = below[kept]
        below[0], below[-1] = 0, self.counts.sum()
        return edges, np.diff(below)

    def _reach(self, first: int, end: int) -> None:
        """Widens the range of bins where it does not hold those from `first` to `end`."""
        if len(self.counts) == 0:
            self.first = first
        before, after = max(0, self.first - first), max(0, end - self.first - len(self.counts))
        if before or after:
            self.first, self.counts = self.first - before, np.pad(self.counts, (before, after))

    @cached_property
    def _cumulative(self) -> np.ndarray:
        return np.cumsum(self.counts)

    def _edges(self, start: int, stop: int) -> np.ndarray:
        """Returns the edges of some bins; the first of all bins is that of 0, though it ends at 1e-42."""
        bins = np.arange(self.first + start, self.first + stop, dtype=np.int32)
        return np.where(bins > 1, (bins << DROPPED_BITS).view(np.float32).astype(np.float64), 0.0)
