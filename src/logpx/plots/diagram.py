"""The network of a project: tasks as boxes from left to right, and arrows to what must wait for them."""

from __future__ import annotations

__all__ = ["network"]

import graphlib
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from ._layers import Layers, arrange
from ._plan import LINE, STUB, Plan, Tasks, cut, make_plan
from ._style import BLUE, CHART_DPI, GREY, INK, RED, TITLE_CHARACTERS, WIDTH, styled_as_text, text_width
from .numbers import short

MAX_DRAWN, NUM_DRAWN = 150, 100


@styled_as_text
def network(
    ids: Sequence[str],
    edges: Sequence[tuple[str, str]],
    *,
    critical: Sequence[str] = (),
    durations: Sequence[float] | np.ndarray | None = None,
    criticality: Sequence[float] | np.ndarray | None = None,
    names: Sequence[str] | None = None,
    unit: str = "days",
    title: str | None = None,
) -> Figure:
    """Draws the tasks of a project in the order in which they can be done, and marks a critical path in red.

    A task stands in the column of its longest distance from the start. A large network is drawn with fewer words, and
    of more than 150 tasks only 100 are drawn: those that are most often critical, the critical path first.

    Arguments:
        ids: The tasks, n of them.
        edges: Pairs (task, task that must wait for it).
        critical: The tasks of the critical path, in their order.
        durations: The mean durations, in `unit`, with shape (n,).
        criticality: How often each task is critical, between 0 and 1, with shape (n,).
        names: Names of the tasks, n of them; an empty one is left out.
        unit: The unit of time.
        title: A sentence that says what is shown.

    Raises:
        ValueError: If there is no task or one twice, an edge or the critical path names an unknown one, lengths differ,
            or the network has a cycle.
    """
    tasks = Tasks.of(ids, names, durations, criticality, unit)
    path, links = tasks.find(critical), list(zip(*map(tasks.find, zip(*edges, strict=True)), strict=True))
    title = _title(tasks, path) if title is None else title
    drawn, notes = _chosen(tasks, path)
    new = {task: position for position, task in enumerate(drawn)}
    tasks, path = tasks.take(drawn), [new[task] for task in path if task in new]
    links = [(new[a], new[b]) for a, b in links if a in new and b in new]
    plan = make_plan(tasks, _layers(tasks, links, path))
    figure, ax = _canvas(plan.height, title, plan.notes(tasks) + notes)
    _draw_arrows(ax, plan, tasks, set(pairwise(path)))
    _draw_boxes(ax, plan, tasks, set(path))
    return figure


def _title(tasks: Tasks, path: Sequence[int]) -> str:
    if not path:
        return f"What must wait for what, of {len(tasks.ids):,} tasks."
    if tasks.durations is None:
        return "What must wait for what, and in red the critical path."
    total = short(float(tasks.durations[path].sum()))
    return f"With every task at its mean duration, the red path decides: {total} {tasks.unit} in all."


def _chosen(tasks: Tasks, path: Sequence[int]) -> tuple[list[int], list[str]]:
    """Returns which tasks are drawn, in their order, and a note on the others."""
    number = len(tasks.ids)
    if number <= MAX_DRAWN:
        return list(range(number)), []
    rank = np.zeros(number) if tasks.criticality is None else -tasks.criticality
    rank[path] -= 1
    which = "those of the red path and the first others" if tasks.criticality is None else "the most often critical"
    note = f"Drawn are {NUM_DRAWN} of {number:,} tasks, {which}; arrows to and from the others are left out."
    return sorted(np.argsort(rank, kind="stable")[:NUM_DRAWN].tolist()), [note]


def _layers(tasks: Tasks, links: Sequence[tuple[int, int]], path: Sequence[int]) -> Layers:
    try:
        return arrange(len(tasks.ids), links, list(pairwise(path)))
    except graphlib.CycleError as error:
        cycle = " -> ".join(tasks.ids[task] for task in error.args[1])
        raise ValueError(f"A network must have no cycle, but has {cycle}: remove one of these edges.") from None


def _canvas(height: float, title: str, notes: Sequence[str]) -> tuple[Figure, Axes]:
    """Returns axes whose unit is an inch, between a title and notes."""
    title, note = textwrap.fill(title, TITLE_CHARACTERS), textwrap.fill(" ".join(notes), TITLE_CHARACTERS + 18)
    above, below = 0.16 + 0.17 * (title.count("\n") + 1), 0.1 + 0.15 * (note.count("\n") + 1) if note else 0.0
    total = above + height + below
    figure = Figure(figsize=(WIDTH, total), dpi=CHART_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, y=1 - 0.05 / total, ha="left", va="top", fontsize=10)
    if note:
        figure.supxlabel(note, x=0.01, y=0.05 / total, ha="left", va="bottom", fontsize=8, color=GREY)
    ax = figure.add_axes((0, below / total, 1, height / total), xlim=(0, WIDTH), ylim=(height, 0))
    ax.axis("off")
    return figure, ax


def _draw_boxes(ax: Axes, plan: Plan, tasks: Tasks, path: set[int]) -> None:
    width, height = plan.box
    for task, lines in enumerate(plan.texts):
        x, y = plan.x[task], plan.y[task]
        often = 0.0 if tasks.criticality is None else float(tasks.criticality[task])
        edge, line = (RED, 1.6) if task in path else (GREY, 0.8)
        corner = (x - width / 2, y - height / 2)
        style = f"round,pad=0,rounding_size={min(0.04, height / 4):.3f}"
        box = FancyBboxPatch(corner, width, height, style, facecolor=_tint(often), edgecolor=edge, linewidth=line)
        box.set(zorder=3, gid=f"task {tasks.ids[task]}")
        ax.add_patch(box)
        for i, text in enumerate(lines):
            below = (i - (len(lines) - 1) / 2) * LINE * plan.detail.size / 72
            weight = "bold" if i == 0 else "normal"
            drawn = ax.text(x, y + below, text, fontsize=plan.detail.size, weight=weight, color=INK, zorder=4)
            drawn.set(ha="center", va="center_baseline")


def _tint(often: float) -> tuple[float, ...]:
    """Returns white for 0 and a blue on which text is legible for 1."""
    return tuple(1 - 0.5 * often * (1 - channel) for channel in to_rgb(BLUE))


def _draw_arrows(ax: Axes, plan: Plan, tasks: Tasks, steps: set[tuple[int, int]]) -> None:
    """Draws each edge along its bends; where it continues in another band, the margins name its ends."""
    leaving, entering = defaultdict[int, list[str]](list), defaultdict[int, list[str]](list)
    for route in plan.layers.routes:
        source, target = route[0], route[-1]
        breaks = [i for i in range(1, len(route)) if plan.band[route[i]] != plan.band[route[i - 1]]]
        for start, stop in pairwise([0, *breaks, len(route)]):
            _draw_arrow(ax, plan, route[start:stop], start > 0, stop < len(route), (source, target) in steps)
        for i in breaks:
            leaving[route[i - 1]].append(tasks.ids[target])
            entering[route[i]].append(tasks.ids[source])
    size = plan.detail.size - 1
    for labels, x, align in ((leaving, WIDTH - STUB, "left"), (entering, STUB, "right")):
        for node, ids in labels.items():
            words = _fitted(list(dict.fromkeys(ids)), size)
            text = f"▸ {words}" if align == "left" else f"{words} ▸"
            ax.text(x, plan.y[node], text, fontsize=size, color=GREY, ha=align, va="center_baseline")


def _fitted(words: Sequence[str], size: float) -> str:
    """Returns as many words as there is room for in a margin."""
    for number in range(len(words), 0, -1):
        text = ", ".join(words[:number]) + (", …" if number < len(words) else "")
        if text_width(f"▸ {text}", size) < STUB - 0.03:
            return text
    return cut(words[0], 5)


def _draw_arrow(ax: Axes, plan: Plan, nodes: Sequence[int], from_margin: bool, to_margin: bool, is_step: bool) -> None:
    path = _path(plan, nodes, from_margin, to_margin)
    colour, line = (RED, 1.7) if is_step else (GREY, 0.7)
    style = "-" if to_margin else "-|>,head_length=0.35,head_width=0.16"
    arrow = FancyArrowPatch(path=path, arrowstyle=style, mutation_scale=11, color=colour, linewidth=line)
    arrow.set(zorder=2 if is_step else 1)
    ax.add_patch(arrow)


def _path(plan: Plan, nodes: Sequence[int], from_margin: bool, to_margin: bool) -> Path:
    """Returns a path from the right side of the first node to the left side of the last."""
    half, first, last = plan.box[0] / 2, nodes[0], nodes[-1]
    points, codes = [(plan.x[first] + half, plan.y[first])], [Path.MOVETO]
    if from_margin:
        points = [(STUB, plan.y[first]), (plan.x[first] - half, plan.y[first])]
        codes = [Path.MOVETO, Path.LINETO]
    for a, b in pairwise(nodes):
        if len(points) > 1 and a >= len(plan.texts):
            # a bend passes straight between the boxes of its column
            points, codes = [*points, (plan.x[a] + half, plan.y[a])], [*codes, Path.LINETO]
        start, end = points[-1], (plan.x[b] - half, plan.y[b])
        middle = (start[0] + end[0]) / 2
        points += [(middle, start[1]), (middle, end[1]), end]
        codes += [Path.CURVE4] * 3
    if to_margin:
        points, codes = [*points, (WIDTH - STUB, plan.y[last])], [*codes, Path.LINETO]
    return Path(points, codes)
