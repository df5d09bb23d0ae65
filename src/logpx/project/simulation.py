r"""Plain simulation of a project: its mean completion and quantiles, and how often each task is critical.

Trials come in blocks, each keyed by the seed and its place, so that results do not depend on the number of threads.
Of a trial nothing is kept but its share in sums, and a count in one of many narrow bins of the completion T, which
give quantiles to a relative :math:`2^{-14}`. So memory does not grow with the number of trials.
"""

from __future__ import annotations

__all__ = ["Bins", "Simulation", "simulate"]

import dataclasses
import math
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from scipy import special
from torch import Tensor

from ..montecarlo.draws import block_ends, keyed_draws, largest_block, map_blocks
from ..montecarlo.moments import MomentAccumulator
from ..progress import track
from .network import Project

# The bits of positive float32 numbers are ordered as the numbers are. Without the last 9 of them they number bins, each
# between 2^-15 and 2^-14 of its place wide.
DROPPED_BITS = 9


def simulate(
    project: Project,
    num_trials: int = 1_000_000,
    *,
    seed: int = 0,
    num_workers: int | None = None,
    progress: bool | None = None,
) -> Simulation:
    """Draws the durations of all tasks again and again, and looks at the completion and at what was critical.

    Arguments:
        project: The project.
        num_trials: The number of trials.
        seed: The seed of the draws.
        num_workers: The number of threads; by default as many as torch uses.
        progress: Whether to show a bar; by default only on a terminal.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> from logpx.project import example
        >>> f"{simulate(example(), 100_000).mean:.1f} {example().unit}"
        '18.2 days'
    """
    for name, number in (("num_trials", num_trials), ("num_workers", num_workers)):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be positive, but is {number}: leave it out for a sensible one.")
    durations = project.durations

    @torch.no_grad()
    def work(block: tuple[int, int]) -> Simulation:
        start, stop = block
        with keyed_draws(seed, "trial", start):
            x = durations.sample((stop - start,))
        return Simulation.of(project, x, (seed,))

    result = Simulation.empty(project, (seed,))
    with track("trials", num_trials, progress) as update:
        for piece in map_blocks(work, _blocks(num_trials, len(project.tasks)), num_workers):
            result = result._joined(piece)
            update(result.num_trials, "")
    return result


def _blocks(num_trials: int, num_tasks: int) -> Iterator[tuple[int, int]]:
    """Yields the blocks of trials; only the last is cut."""
    start = 0
    for end in block_ends(largest_block(num_tasks)):
        yield start, min(end, num_trials)
        start = end
        if start >= num_trials:
            return


@dataclasses.dataclass(frozen=True, eq=False)
class Simulation:
    r"""What a number of trials say of a project. All times are in its unit.

    Arguments:
        project: The project.
        seed: The seed of the draws; after a merge, all seeds.
        moments: The mean and spread of the completion T.
        critical_counts: In how many trials each task was critical, with shape (n,).
        slack_sums: The sum over trials of the slack of each task, with shape (n,).
        completions: The completions, binned.
    """

    project: Project
    seed: tuple[int, ...]
    moments: MomentAccumulator
    critical_counts: np.ndarray
    slack_sums: np.ndarray
    completions: Bins

    @classmethod
    def empty(cls, project: Project, seed: tuple[int, ...]) -> Simulation:
        """Returns what no trials say."""
        num = len(project.tasks)
        return cls(project, seed, MomentAccumulator.empty(1), np.zeros(num, np.int64), np.zeros(num), Bins.empty())

    @classmethod
    def of(cls, project: Project, x: Tensor, seed: tuple[int, ...]) -> Simulation:
        """Returns what trials say.

        Arguments:
            project: The project.
            x: The durations, with shape (S, n).
            seed: Where they come from.
        """
        schedule = project.schedule(x)
        completion = schedule.completion.float()
        return cls(
            project=project,
            seed=seed,
            moments=MomentAccumulator.of(completion.unsqueeze(-1)),
            critical_counts=np.array([np.count_nonzero(row) for row in schedule.critical.T.numpy()]),
            slack_sums=schedule.slack.T.numpy().sum(1, dtype=np.float64),
            completions=Bins.of(completion),
        )

    def merged(self, other: Simulation) -> Simulation:
        """Returns what the trials of both say.

        Raises:
            ValueError: If they simulate different projects, or share a seed, so that their draws are the same.
        """
        if self.project != other.project:
            names = f"{self.project.name!r} and {other.project.name!r}"
            raise ValueError(f"Simulations must share a project to merge, but are of {names}: keep them apart.")
        if set(self.seed) & set(other.seed):
            seeds = f"{self.seed} and {other.seed}"
            raise ValueError(f"Simulations must come from different seeds to merge, but used {seeds}: change one.")
        own = dataclasses.replace(self, seed=self.seed + other.seed, completions=self.completions.copy())
        return own._joined(other)

    @property
    def num_trials(self) -> int:
        """The number of trials."""
        return self.moments.count

    @property
    def mean(self) -> float:
        """The mean completion."""
        return float(self.moments.mean[0])

    @property
    def sd(self) -> float:
        """The standard deviation of the completion; NaN for one trial."""
        return math.sqrt(float(self.moments.covariance()[0, 0]))

    @property
    def mean_error(self) -> float:
        """The standard error of the mean completion."""
        return self.sd / math.sqrt(self.num_trials)

    @property
    def criticality(self) -> np.ndarray:
        """The share c of trials in which each task was critical, with shape (n,)."""
        return self.critical_counts / self.num_trials

    @property
    def criticality_error(self) -> np.ndarray:
        r"""The standard error of each share, :math:`\sqrt{c (1 - c) / S}`, with shape (n,)."""
        return np.sqrt(self.criticality * (1 - self.criticality) / self.num_trials)

    @property
    def slack(self) -> np.ndarray:
        """The mean slack of each task, with shape (n,)."""
        return self.slack_sums / self.num_trials

    def quantile(self, q: float) -> float:
        r"""Returns the time by which a share q of the projects is complete, to a relative :math:`2^{-14}`.

        Arguments:
            q: The share, from 0 to 1.

        Raises:
            ValueError: If it is not.
        """
        _require_share("q", 0 <= q <= 1, q)
        return self.completions.ranked(max(1, math.ceil(q * self.num_trials)))[1]

    def quantile_interval(self, q: float, confidence: float = 0.95) -> tuple[float, float]:
        r"""Returns an interval for the quantile of q that no assumption on the distribution is needed for.

        The number of trials below the true quantile is binomial, N ~ B(S, q), so that it lies between the order
        statistics of ranks l and u with a probability of at least the confidence if
        :math:`P(N < l) \leq \alpha / 2` and :math:`P(N \geq u) \leq \alpha / 2`. Where S is too small for such ranks to
        exist, an end is 0 or infinite.

        References:
            Order statistics (David and Nagaraja, 2003).

        Arguments:
            q: The share, between 0 and 1.
            confidence: The coverage of the interval, between 0 and 1.

        Raises:
            ValueError: If a share is out of range.
        """
        _require_share("q", 0 < q < 1, q)
        _require_share("confidence", 0 < confidence < 1, confidence)
        tail, count = (1 - confidence) / 2, self.num_trials
        low, high = _binomial_quantile(tail, count, q), _binomial_quantile(1 - tail, count, q) + 1
        return (
            self.completions.ranked(low)[0] if low > 0 else 0.0,
            self.completions.ranked(high)[2] if high <= count else math.inf,
        )

    def histogram(self, num_bins: int = 100) -> tuple[np.ndarray, np.ndarray]:
        """Returns the edges of bins from the smallest to the largest completion, and exact counts between them.

        Edges are moved by up to a relative 2^-14, so that no count is split; they increase, with shape (bins + 1,).

        Arguments:
            num_bins: The number of bins, equally wide; there are fewer where they would be narrower than 2^-14.

        Raises:
            ValueError: If it is not positive.
        """
        if num_bins < 1:
            raise ValueError(f"num_bins must be positive, but is {num_bins}: 100 is customary.")
        return self.completions.histogram(num_bins)

    def _joined(self, other: Simulation) -> Simulation:
        """Returns what the trials of both say, and adds those of the other to the bins of this one."""
        self.completions.add(other.completions)
        return dataclasses.replace(
            self,
            moments=self.moments.merged(other.moments),
            critical_counts=self.critical_counts + other.critical_counts,
            slack_sums=self.slack_sums + other.slack_sums,
        )


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


def _binomial_quantile(share: float, count: int, q: float) -> int:
    """Returns the smallest k with P(N <= k) >= share, N ~ B(count, q)."""
    return math.ceil(special.bdtrik(share, count, q))


def _require_share(name: str, holds: bool, share: float) -> None:
    if not holds:
        raise ValueError(f"{name} must be a share between 0 and 1, but is {share}: 0.95 stands for 95%.")
