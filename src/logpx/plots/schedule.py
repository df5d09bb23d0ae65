"""When a project ends, and which of its tasks decide that."""

from __future__ import annotations

__all__ = ["completion_histogram", "criticality_bars"]

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ._style import BLUE, INK, ORANGE, RED, chart, finish, styled_as_text, text_width, vector
from .numbers import given, probability_interval, rounded, share, short
from .numbers import probability as chance

NUM_BARS = 60
NUM_TASKS = 30
LABEL_SIZE = 8.0  # points
AXES_WIDTH = 5.2  # inches, of the area within the axes, or a little less
ROW = 0.065  # the height of a row of labels, as a share of the axes
NO_QUANTILES: Mapping[float, float] = {}
BESIDE: dict[str, Any] = {"textcoords": "offset points", "va": "center_baseline", "fontsize": LABEL_SIZE}
BESIDE |= {"annotation_clip": False}


@styled_as_text
def completion_histogram(
    edges: Sequence[float] | np.ndarray,
    counts: Sequence[float] | np.ndarray,
    *,
    mean: float,
    deadline: float | None = None,
    probability: tuple[float, float, float] | None = None,
    quantiles: Mapping[float, float] = NO_QUANTILES,
    unit: str = "days",
) -> Figure:
    """Draws when simulated projects end, with their mean, their quantiles and the deadline.

    Arguments:
        edges: The edges of the bins, increasing, in `unit`, with shape (B + 1,).
        counts: The number of projects that end in each bin, with shape (B,).
        mean: The mean time of completion, in `unit`.
        deadline: The deadline, in `unit`.
        probability: The probability that the deadline is missed, and the two ends of its interval.
        quantiles: Times by their levels: `{0.9: 27.3}` says that 90% of the projects end within 27.3.
        unit: The unit of time.

    Raises:
        ValueError: If there is no project, or not one edge more than bins.
    """
    bins = _Bins.of(edges, counts)
    reach, is_near = bins.edges[-1] - bins.edges[0], False
    if deadline is not None:
        is_near = bins.edges[0] - reach <= deadline <= bins.edges[-1] + reach
    view = bins.view(deadline if is_near else None)
    low, high = view.limits(mean, *quantiles.values())
    step = (high - low) / 20
    figure, ax = chart(_when(bins, quantiles, step, unit), f"completion time ({unit})", "share of the projects (%)")
    heights = 100 * view.counts / bins.counts.sum() * (np.median(view.widths) / view.widths)
    _draw_bars(ax, view.edges, heights)
    marks = [_Mark(mean, f"mean {rounded(mean, step)}", ORANGE)]
    marks += [_Mark(time, f"P{100 * level:g} {rounded(time, step)}", INK) for level, time in quantiles.items()]
    notes = _notes(bins, view, quantiles, unit)
    if deadline is not None:
        ax.plot([], [], color=RED, label=_deadline_label(deadline, probability, unit))
        if is_near:
            marks.append(_Mark(deadline, "deadline", RED))
            low, high = min(low, deadline - step), max(high, deadline + step)
        else:
            low, high = (low, high + 3 * step) if deadline > high else (low - 5 * step, high)
            notes.append(_point_beyond(ax, deadline, deadline > high, unit))
    _draw_marks(ax, marks, low, high, float(heights.max()))
    return finish(figure, ax, notes)


class _Bins(NamedTuple):
    edges: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, edges: Sequence[float] | np.ndarray, counts: Sequence[float] | np.ndarray) -> _Bins:
        bins = cls(vector("edges", edges), vector("counts", counts))
        if len(bins.edges) != len(bins.counts) + 1:
            sizes = f"{len(bins.edges)} edges and {len(bins.counts)} counts"
            raise ValueError(f"There must be one edge more than counts, but there are {sizes}: give both ends of bins.")
        if not bins.counts.sum() > 0:
            raise ValueError("counts must have a positive sum, but no project is counted: simulate some.")
        return bins.trimmed()

    def trimmed(self) -> _Bins:
        """Returns the bins from the first to the last project, and a bar that can be seen where all end at one time."""
        filled = np.flatnonzero(self.counts)
        edges = self.edges[filled[0] : filled[-1] + 2]
        middle = (edges[0] + edges[-1]) / 2
        if edges[-1] - edges[0] > 1e-3 * abs(middle):
            return _Bins(edges, self.counts[filled[0] : filled[-1] + 1])
        half = 0.01 * abs(middle) or 0.5
        return _Bins(np.array([middle - half, middle + half]), self.counts.sum(keepdims=True))

    @property
    def widths(self) -> np.ndarray:
        return np.diff(self.edges)

    def limits(self, *times: float) -> tuple[float, float]:
        """Returns the ends of an axis that holds the bins and the times, with space beside a single bar."""
        space = self.widths[0] if len(self.counts) == 1 else 0.0
        return min(self.edges[0], *times) - space, max(self.edges[-1], *times) + space

    def view(self, deadline: float | None) -> _Bins:
        """Returns fewer bins, as far as the deadline but without a tail so long that it would squash the rest."""
        below = np.cumsum(self.counts) / self.counts.sum()
        low, high = self.edges[[np.searchsorted(below, 0.001), np.searchsorted(below, 0.999) + 1]]
        start, stop = 0, len(self.counts)
        if self.edges[-1] - self.edges[0] > 2 * (high - low):
            low, high = low - 0.1 * (high - low), high + 0.3 * (high - low)
            low, high = (low, high) if deadline is None else (min(low, deadline), max(high, deadline))
            start = max(int(np.searchsorted(self.edges, low, "right")) - 1, 0)
            stop = min(int(np.searchsorted(self.edges, high)), stop)
        # groups of nearly equal numbers of bins
        most = int(np.clip(math.sqrt(self.counts.sum()), 10, NUM_BARS))
        groups = np.linspace(start, stop, min(most, stop - start) + 1).round().astype(int)
        return _Bins(self.edges[groups], np.add.reduceat(self.counts[:stop], groups[:-1]))


class _Mark(NamedTuple):
    time: float
    text: str
    colour: str


def _when(bins: _Bins, quantiles: Mapping[float, float], step: float, unit: str) -> str:
    total = f"{bins.counts.sum():,.0f} simulated project" + ("s" if bins.counts.sum() > 1 else "")
    if 0.5 not in quantiles:
        return f"The completion time of {total}."
    half, last = f"Half of {total} end within {rounded(quantiles[0.5], step)} {unit}", max(quantiles)
    return half + (f", and {100 * last:g}% within {rounded(quantiles[last], step)}." if last > 0.5 else ".")


def _draw_bars(ax: Axes, edges: np.ndarray, heights: np.ndarray) -> None:
    bars = ax.bar(edges[:-1], heights, np.diff(edges), align="edge", color=BLUE, alpha=0.75)
    for bar in bars:
        bar.set(edgecolor="white", linewidth=0.4)


def _deadline_label(deadline: float, probability: tuple[float, float, float] | None, unit: str) -> str:
    label = f"deadline {given(deadline)} {unit}"
    if probability is None:
        return label
    value, low, high = probability
    error = (high - low) / 4
    missed = f"missed with a probability of {chance(value, error)}"
    return f"{label}, {missed}\n(interval {probability_interval(low, high, error)})"


def _notes(bins: _Bins, view: _Bins, quantiles: Mapping[float, float], unit: str) -> list[str]:
    notes = [f"Each bar is {short(float(np.median(view.widths)))} {unit} wide."]
    if quantiles:
        level = f"{100 * max(quantiles):g}"
        notes.append(f"P{level} is the time by which {level}% of the projects have ended.")
    above, below = bins.counts[bins.edges[1:] > view.edges[-1]], bins.counts[bins.edges[:-1] < view.edges[0]]
    for outside, side, end in ((below, "left", bins.edges[0]), (above, "right", bins.edges[-1])):
        if outside.sum():
            number = f"{outside.sum():,.0f} projects" if outside.sum() > 1 else "1 project"
            notes.append(f"{number} to the {side} of the view, as far as {short(float(end))} {unit}.")
    return notes


def _point_beyond(ax: Axes, deadline: float, is_late: bool, unit: str) -> str:
    """Points to a deadline that would squash the view, and returns a note on it."""
    text = f"{given(deadline)} {unit}"
    words, x, side = (f"deadline {text} ▶", 1.0, "right") if is_late else (f"◀ deadline {text}", 0.0, "left")
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
    ax.text(x, 0.45, words, transform=ax.transAxes, ha=side, color=RED, fontsize=LABEL_SIZE, bbox=box)
    return f"The deadline of {text} lies far to the {side} of the view."


def _draw_marks(ax: Axes, marks: Sequence[_Mark], low: float, high: float, tallest: float) -> None:
    """Draws vertical lines, each up to a label that no other line or label meets."""
    marks = sorted(marks, reverse=True)
    widths = [text_width(mark.text, LABEL_SIZE) + 0.12 for mark in marks]
    # the axis ends so far right that all labels end within it
    high = max(high, *(low + (m.time - low) / (1 - w / AXES_WIDTH) for m, w in zip(marks, widths, strict=True)))
    ax.set_xlim(low, high)
    rows: list[int] = []
    for i, (mark, width) in enumerate(zip(marks, widths, strict=True)):
        end = mark.time + width / AXES_WIDTH * (high - low)
        rows.append(max((rows[j] + 1 for j in range(i) if marks[j].time < end), default=0))
    base = 1 - ROW * (max(rows) + 1)
    ax.set_ylim(0, tallest / (base - 0.03))
    for mark, row in zip(marks, rows, strict=True):
        top, gap = base + ROW * (row + 0.9), 0.04 / AXES_WIDTH * (high - low)
        ax.axvline(mark.time, 0, top, color=mark.colour, linewidth=0.9 if mark.colour == INK else 1.6)
        place = ax.get_xaxis_transform()
        colour = RED if mark.colour == RED else INK
        ax.text(mark.time + gap, top, mark.text, transform=place, va="top", fontsize=LABEL_SIZE, color=colour)
    ax.set_yticks([tick for tick in ax.get_yticks() if 0 <= tick <= tallest])


@styled_as_text
def criticality_bars(
    ids: Sequence[str],
    criticality: Sequence[float] | np.ndarray,
    slack: Sequence[float] | np.ndarray,
    *,
    unit: str = "days",
) -> Figure:
    """Draws how often each task is critical, the most often first, and writes its mean slack beside it.

    Arguments:
        ids: The tasks, n of them.
        criticality: The share of the projects in which a task is on a longest path, with shape (n,).
        slack: By how much a task may be late on average before the project is, in `unit`, with shape (n,).
        unit: The unit of time.

    Raises:
        ValueError: If there is no task or lengths differ.
    """
    often, spare = vector("criticality", criticality), vector("slack", slack)
    if not len(ids) == len(often) == len(spare):
        lengths = f"ids: {len(ids)}, criticality: {len(often)}, slack: {len(spare)}"
        raise ValueError(f"Columns must have equal lengths, but have {lengths}: give one value per task in each.")
    order = np.argsort(-often, kind="stable")
    shown, left_out = order[:NUM_TASKS], order[NUM_TASKS:]
    title = f"Task {_cut(ids[order[0]])} is critical most often: in {share(often[order[0]])} of the projects."
    height = 1.15 + 0.19 * len(shown)
    figure, ax = chart(title, "share of the projects in which the task is critical (%)", "", height)
    rows = np.arange(len(shown))
    ax.barh(rows, 100 * often[shown], height=0.7, color=BLUE, alpha=0.75)
    ax.set(xlim=(0, 108), ylim=(len(shown) - 0.4, -0.6))
    ax.set_xticks(range(0, 101, 20))
    ax.set_yticks(rows, [_cut(ids[task]) for task in shown])
    ax.grid(False, axis="y")
    error = float(spare.max()) / 20 or 1.0
    for row, task in enumerate(shown):
        ax.annotate(share(often[task]), (100 * often[task], row), (3, 0), **BESIDE)
        ax.annotate(rounded(spare[task], error), (108, row), (46, 0), ha="right", **BESIDE)
    ax.annotate(f"mean slack\n({unit})", (108, -0.6), (46, 3), ha="right", **BESIDE | {"va": "bottom"})
    return finish(figure, ax, _left_out(often[left_out]))


def _cut(text: str, characters: int = 24) -> str:
    text = " ".join(str(text).split())
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _left_out(often: np.ndarray) -> list[str]:
    if not len(often):
        return []
    tasks = "1 more task, critical" if len(often) == 1 else f"{len(often):,} more tasks, each critical"
    most = share(often.max())
    return [f"Not drawn: {tasks} in {'' if most.startswith('<') else 'at most '}{most} of the projects."]
