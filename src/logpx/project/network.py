r"""A project: tasks, what each waits for, and the time at which the last of them ends.

With durations :math:`x_i`, a task starts when its predecessors have ended,

.. math:: s_i = \max_{j \in \mathrm{pred}(i)} f_j, \qquad f_i = s_i + x_i, \qquad T = \max_i f_i,

so that the completion T is the length of the longest path. Everything is computed for many draws at once, task by task.
"""

from __future__ import annotations

__all__ = ["Project", "Schedule", "Task", "TaskError"]

import dataclasses
import difflib
import graphlib
import heapq
import math
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..utils import chunks
from .durations import Duration
from .joint import Durations

# Draws that are taken through the network together, so that the finishes of some tasks stay in a core's cache.
CHUNK = 2**14


class TaskError(ValueError):
    """A task that does not fit into its project.

    Arguments:
        index: The place of the task among the tasks of the project.
        message: What is wrong with it, and the cure.
    """

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


@dataclasses.dataclass(frozen=True)
class Task:
    """One task of a project.

    Arguments:
        id: What other tasks call it.
        duration: Its duration, in the unit of the project.
        predecessors: The ids of the tasks that must have ended before it starts.
        name: What people call it.

    Raises:
        TypeError: If the duration is no :class:`Duration`, or the predecessors are one string.
    """

    id: str
    duration: Duration
    predecessors: tuple[str, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.duration, Duration):
            got = f"Task {self.id!r} must have a Duration, but has {self.duration!r}"
            raise TypeError(f"{got}: write parse_duration({self.duration!r}).")
        if isinstance(self.predecessors, str):
            got = f"Task {self.id!r} must have a tuple of predecessors, but has {self.predecessors!r}"
            raise TypeError(f"{got}: write ({self.predecessors!r},).")
        object.__setattr__(self, "predecessors", tuple(self.predecessors))


class Schedule(NamedTuple):
    """When tasks start and end in S draws of the durations, and which of them matter.

    Arguments:
        start: When each task starts at the earliest, with shape (S, n), in the unit of the project.
        finish: When it then ends, with shape (S, n).
        completion: When the last task ends, T, with shape (S,).
        critical: Whether the task lies on a longest path, so that any delay of it delays T, with shape (S, n).
        slack: By how much the task may be late before T is, with shape (S, n); exactly 0 where it is critical.
    """

    start: Tensor
    finish: Tensor
    completion: Tensor
    critical: Tensor
    slack: Tensor


@dataclasses.dataclass(frozen=True)
class Project:
    """Tasks that wait for each other.

    Arguments:
        tasks: The n tasks, in any order.
        name: What the project is called.
        unit: The unit of all times, in the plural.
        deadline: When the project is due, positive, or None.

    Raises:
        ValueError: If there is no task, or the deadline is not positive.
        TaskError: If an id is used twice, a predecessor is unknown, or tasks wait for each other in a circle.

    Example:
        >>> from logpx.project import parse_duration
        >>> dig, build = Task("dig", parse_duration(2)), Task("build", parse_duration("exponential(3)"), ("dig",))
        >>> project = Project((dig, build))
        >>> project.critical_path(), project.mean_completion
        (('dig', 'build'), 5.0)
        >>> project.completion(torch.tensor([[2.0, 3.5]])).item()
        5.5
    """

    tasks: tuple[Task, ...]
    name: str = ""
    unit: str = "days"
    deadline: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))
        if not self.tasks:
            raise ValueError("A project must have at least one task, but has none: add one.")
        if self.deadline is not None and not 0 < self.deadline < math.inf:
            raise ValueError(f"A deadline must be positive and finite, but is {self.deadline}: give it in {self.unit}.")
        known: set[str] = set()
        for index, task in enumerate(self.tasks):
            if task.id in known:
                what = f"Task {task.id!r} must have an id of its own, but another task has it"
                raise TaskError(index, f"{what}: rename one.")
            known.add(task.id)
        for index, task in enumerate(self.tasks):
            for other in task.predecessors:
                if other not in known:
                    raise self._unknown(index, other)
        _ = self.order

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the tasks."""
        return tuple(task.id for task in self.tasks)

    @cached_property
    def predecessors(self) -> tuple[tuple[int, ...], ...]:
        """For each task the places of those that it waits for."""
        place = {task.id: index for index, task in enumerate(self.tasks)}
        return tuple(tuple(sorted({place[other] for other in task.predecessors})) for task in self.tasks)

    @cached_property
    def successors(self) -> tuple[tuple[int, ...], ...]:
        """For each task the places of those that wait for it."""
        later: list[list[int]] = [[] for _ in self.tasks]
        for index, sources in enumerate(self.predecessors):
            for source in sources:
                later[source].append(index)
        return tuple(map(tuple, later))

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The places of the tasks such that each comes after all its predecessors, else as they were given."""
        sorter = graphlib.TopologicalSorter(dict(enumerate(self.predecessors)))
        try:
            sorter.prepare()
        except graphlib.CycleError as error:
            raise self._circle(error.args[1][:-1]) from None
        ready, order = list(sorter.get_ready()), list[int]()
        heapq.heapify(ready)
        while ready:
            order.append(heapq.heappop(ready))
            sorter.done(order[-1])
            for index in sorter.get_ready():
                heapq.heappush(ready, index)
        return tuple(order)

    @cached_property
    def means(self) -> Tensor:
        """The mean durations, in float64, with shape (n,)."""
        return torch.tensor([task.duration.mean for task in self.tasks], dtype=torch.float64)

    @cached_property
    def durations(self) -> Durations:
        """The joint law of the durations, in float32."""
        laws = [task.duration for task in self.tasks]
        return Durations([law.mean if law.is_fixed else law.distribution() for law in laws])

    @cached_property
    def mean_completion(self) -> float:
        """The completion if every task took its mean: less than the mean completion, by Jensen's inequality."""
        return float(self.completion(self.means.unsqueeze(0)))

    def critical_path(self) -> tuple[str, ...]:
        """Returns the ids along the longest path at the mean durations; of several, the one whose tasks come first."""
        schedule = self.schedule(self.means.unsqueeze(0))
        start, finish = schedule.start[0].tolist(), schedule.finish[0].tolist()
        index = next(i for i in self.order if finish[i] == float(schedule.completion) and not self.successors[i])
        path = [index]
        while self.predecessors[index]:
            index = next(i for i in self.order if i in self.predecessors[index] and finish[i] == start[index])
            path.append(index)
        return tuple(self.tasks[i].id for i in reversed(path))

    def completion(self, x: Tensor) -> Tensor:
        r"""Returns the completion :math:`T = \max_i f_i`, the length of the longest path, with shape (S,).

        Arguments:
            x: The durations, not negative, with shape (S, n); fastest where a task's draws lie side by side in memory.

        Raises:
            ValueError: If the shape is not (S, n).
        """
        columns = self._columns(x)
        completion = np.zeros(len(x), columns.dtype)
        work = np.empty((self._plan.num_rows, min(CHUNK, len(x))), columns.dtype)
        for start, stop in chunks(len(x), CHUNK):
            self._walk(columns[:, start:stop], work[:, : stop - start], completion[start:stop])
        return torch.from_numpy(completion)

    def schedule(self, x: Tensor) -> Schedule:
        r"""Returns when tasks start and end, which are critical, and their slack.

        Backwards from the end, a task may end when its successors k must start at the latest, each by its own slack
        after it could, :math:`l_i = \min_k (s_k + \mathrm{slack}_k)`, or at T where none waits for it; its slack is
        :math:`l_i - f_i`. It is critical if it ends at T, or if a critical task starts at its very end: as a start is a
        copy of an end, rounding cannot blur this.

        References:
            Critical-path planning and scheduling (Kelley and Walker, 1959).

        Arguments:
            x: The durations, not negative, with shape (S, n).

        Raises:
            ValueError: If the shape is not (S, n).
        """
        columns = self._columns(x)
        start, finish = np.zeros_like(columns), np.empty_like(columns)
        for i in self.order:
            if self.predecessors[i]:
                _fold(np.maximum, [finish[j] for j in self.predecessors[i]], start[i])
            np.add(start[i], columns[i], out=finish[i])
        ends = [finish[i] for i in self.order if not self.successors[i]]
        completion = _fold(np.maximum, ends, np.empty_like(ends[0]))
        critical, slack = self._backwards(start, finish, completion)
        tables = [torch.from_numpy(table).T for table in (start, finish, critical, slack)]
        return Schedule(tables[0], tables[1], torch.from_numpy(completion), tables[2], tables[3])

    def _walk(self, columns: np.ndarray, work: np.ndarray, completion: np.ndarray) -> None:
        """Raises `completion` to the longest paths of some draws."""
        finish = list(columns)
        for task, sources, row in self._plan.steps:
            if len(sources) == 1:
                finish[task] = np.add(finish[sources[0]], columns[task], out=work[row])
            elif sources:
                start = _fold(np.maximum, [finish[j] for j in sources], work[row])
                finish[task] = np.add(start, columns[task], out=start)
            if not self.successors[task]:
                np.maximum(completion, finish[task], out=completion)

    def _backwards(
        self, start: np.ndarray, finish: np.ndarray, completion: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns which tasks are critical and their slack, with shape (n, S)."""
        critical, slack = np.zeros(start.shape, bool), np.empty_like(start)
        same = np.empty(len(completion), bool)
        for i in reversed(self.order):
            later = self.successors[i]
            # l_i = min_k (s_k + slack_k), which rounding cannot bring below f_i, as s_k >= f_i and slack_k >= 0
            latest = _fold(np.minimum, [start[k] + slack[k] for k in later], slack[i]) if later else completion
            np.subtract(latest, finish[i], out=slack[i])
            if not later:
                np.equal(finish[i], completion, out=critical[i])
            for k in later:
                np.equal(start[k], finish[i], out=same)
                np.logical_and(same, critical[k], out=same)
                np.logical_or(critical[i], same, out=critical[i])
        return critical, slack

    @cached_property
    def _plan(self) -> _Plan:
        """Which finishes are needed how long: a row of memory is used again once its task's last successor is done."""
        last = {source: i for i in self.order for source in self.predecessors[i]}
        row, free, num_rows, steps = dict[int, int](), list[int](), 0, list[tuple[int, tuple[int, ...], int]]()
        for i in self.order:
            sources = self.predecessors[i]
            # a task without predecessors ends after its duration: that column serves, and it has no row
            if sources:
                free += [row[j] for j in sources if j in row and last[j] == i]
                num_rows, free = (num_rows, free) if free else (num_rows + 1, [num_rows])
                row[i] = free.pop()
            # a source whose row is written to must be read first
            steps.append((i, tuple(sorted(sources, key=lambda j: row.get(j) != row[i])), row.get(i, 0)))
            if sources and not self.successors[i]:
                free.append(row[i])
        return _Plan(tuple(steps), num_rows)

    def _columns(self, x: Tensor) -> np.ndarray:
        """Returns the durations with shape (n, S), each task's side by side."""
        if x.dim() != 2 or x.shape[1] != len(self.tasks):
            expected = f"(S, {len(self.tasks)})"
            raise ValueError(f"Durations must have shape {expected}, but have {tuple(x.shape)}: one row per draw.")
        rows = x.detach().T
        columns: np.ndarray = (rows if rows.stride(1) == 1 else rows.contiguous()).numpy()
        return columns

    def _unknown(self, index: int, other: str) -> TaskError:
        close = difflib.get_close_matches(other, self.ids, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        what = f"Task {self.tasks[index].id!r} has unknown predecessor {other!r}"
        return TaskError(index, f"{what}: add that task, or correct the id{hint}.")

    def _circle(self, circle: Sequence[int]) -> TaskError:
        first = circle.index(min(circle))
        ids = [self.tasks[i].id for i in (*circle[first:], *circle[:first], circle[first])]
        what = f"Tasks must not wait for each other in a circle, but do: {' -> '.join(ids)}"
        return TaskError(circle[first], f"{what}; drop one of these predecessors.")


class _Plan(NamedTuple):
    """The steps (task, predecessors, row of its finish) of a walk, and how many rows of memory they take."""

    steps: tuple[tuple[int, tuple[int, ...], int], ...]
    num_rows: int


def _fold(extreme: np.ufunc, rows: Sequence[np.ndarray], out: np.ndarray) -> np.ndarray:
    """Writes the smallest or largest of rows to `out`, which may be the first of them."""
    extreme(rows[0], rows[-1], out=out)
    for each in rows[1:-1]:
        extreme(out, each, out=out)
    return out
