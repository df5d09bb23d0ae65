r"""Plain simulation of a project: its mean completion and quantiles, and how often each task is critical.

Trials come in blocks, each keyed by the seed and its place, so that results do not depend on the number of threads.
Of a trial nothing is kept but its share in sums, and a count in one of many narrow bins of the completion T, which
give quantiles to a relative :math:`2^{-14}`. So memory does not grow with the number of trials.
"""

from __future__ import annotations

__all__ = ["Simulation", "simulate"]

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import torch
from scipy import special
from torch import Tensor

from ..montecarlo.draws import block_ends, keyed_draws, largest_block, map_blocks
from ..montecarlo.moments import MomentAccumulator
from ..progress import track
from .bins import Bins
from .network import Project


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


def _binomial_quantile(share: float, count: int, q: float) -> int:
    """Returns the smallest k with P(N <= k) >= share, N ~ B(count, q)."""
    return math.ceil(special.bdtrik(share, count, q))


def _require_share(name: str, holds: bool, share: float) -> None:
    if not holds:
        raise ValueError(f"{name} must be a share between 0 and 1, but is {share}: 0.95 stands for 95%.")
