"""How much is said of each task of a network, and where its box stands."""

from __future__ import annotations

__all__ = ["LINE", "STUB", "Plan", "Tasks", "cut", "make_plan"]

import dataclasses
import math
import textwrap
from collections.abc import Iterable, Sequence

import numpy as np

from ._layers import Layers
from ._style import WIDTH, text_width
from .numbers import share, short

LINE = 1.3  # the height of a line of text, in sizes of its font
MARGIN, STUB = 0.06, 0.48  # inches at both sides, and where the drawing continues from row to row
BAND_GAP = 0.3  # inches between such rows


@dataclasses.dataclass(frozen=True)
class Detail:
    """How much is said of each task, and the room that the drawing may take for it.

    Arguments:
        size: The size of the font, in points.
        characters: The number of characters after which a line is cut.
        gap: The space between columns and between boxes of a column, in inches.
        num_bands: Into how many bands the columns may be broken, like lines of text.
        height: How high the drawing may become, in inches.
        name_lines: On how many lines a box names its task, and the unit of its duration.
        has_numbers: Whether a box shows duration and criticality.
    """

    size: float
    characters: int
    gap: tuple[float, float]
    num_bands: float
    height: float
    name_lines: int
    has_numbers: bool


DETAILS = (
    Detail(7.5, 18, (0.26, 0.18), 1, 6.0, 2, True),
    Detail(7.0, 12, (0.22, 0.16), 1, 6.0, 2, True),
    Detail(7.5, 18, (0.26, 0.18), 2, 6.0, 2, True),
    Detail(6.5, 12, (0.22, 0.13), 3, 6.0, 0, True),
    Detail(5.5, 8, (0.16, 0.07), 1, 8.0, 0, False),
    Detail(6.0, 10, (0.2, 0.08), math.inf, math.inf, 0, False),
)


@dataclasses.dataclass(frozen=True)
class Tasks:
    """What is known of tasks, in their order."""

    ids: tuple[str, ...]
    names: tuple[str, ...] | None
    durations: np.ndarray | None
    criticality: np.ndarray | None
    unit: str

    @classmethod
    def of(
        cls,
        ids: Sequence[str],
        names: Sequence[str] | None,
        durations: Sequence[float] | np.ndarray | None,
        criticality: Sequence[float] | np.ndarray | None,
        unit: str,
    ) -> Tasks:
        if not len(ids) or len(set(ids)) < len(ids):
            raise ValueError(
                f"ids must be different and not empty, but are {', '.join(ids) or 'none'}: name each task."
            )
        for what, values in {"names": names, "durations": durations, "criticality": criticality}.items():
            if values is not None and len(values) != len(ids):
                raise ValueError(f"{what} must be one per task, but are {len(values)} for {len(ids)} tasks: add them.")
        mean, often = (None if v is None else np.asarray(v, dtype=float) for v in (durations, criticality))
        return cls(tuple(ids), None if names is None else tuple(names), mean, often, unit)

    def find(self, ids: Iterable[str]) -> list[int]:
        """Returns the positions of tasks."""
        position = {task: i for i, task in enumerate(self.ids)}
        unknown = [task for task in ids if task not in position]
        if unknown:
            raise ValueError(f"Edges and path must join tasks, but {unknown[0]!r} is none: add it to ids.")
        return [position[task] for task in ids]

    def take(self, tasks: Sequence[int]) -> Tasks:
        index = list(tasks)
        names = None if self.names is None else tuple(self.names[i] for i in index)
        durations = None if self.durations is None else self.durations[index]
        criticality = None if self.criticality is None else self.criticality[index]
        return Tasks(tuple(self.ids[i] for i in index), names, durations, criticality, self.unit)

    def lines(self, task: int, detail: Detail) -> tuple[str, ...]:
        """Returns what a box says."""
        lines, numbers = [cut(self.ids[task], detail.characters)], []
        if detail.name_lines and self.names is not None and self.names[task] not in ("", self.ids[task]):
            lines += _folded(self.names[task], detail.characters, detail.name_lines)
        if detail.has_numbers and self.durations is not None:
            numbers.append(short(self.durations[task]) + (f" {self.unit}" if detail.name_lines else ""))
        if detail.has_numbers and self.criticality is not None:
            numbers.append(share(self.criticality[task]))
        return (*lines, " · ".join(numbers)) if numbers else tuple(lines)


def cut(text: str, characters: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _folded(text: str, characters: int, num_lines: int) -> list[str]:
    return textwrap.wrap(text, characters, max_lines=num_lines, placeholder="…") or ["…"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Where everything is drawn, in inches from the upper left corner."""

    detail: Detail
    texts: tuple[tuple[str, ...], ...]
    box: tuple[float, float]
    layers: Layers
    x: np.ndarray
    y: np.ndarray
    band: np.ndarray
    height: float

    def notes(self, tasks: Tasks) -> list[str]:
        """Says what the boxes and margins mean."""
        duration = "its mean duration" + ("" if self.detail.name_lines else f" in {tasks.unit}")
        says = [duration] if tasks.durations is not None else []
        says += ["how often it is critical"] if tasks.criticality is not None else []
        notes = [f"In each box: the task, {' and '.join(says)}."] if says and self.detail.has_numbers else []
        if tasks.criticality is not None:
            notes.append("The darker a box, the more often its task decides when the project ends.")
        if self.band.max() > 0:
            notes.append("Rows continue like lines of text: a triangle in the margin names the other end of an arrow.")
        return notes


def make_plan(tasks: Tasks, layers: Layers) -> Plan:
    """Returns the drawing with the most words that has room for them."""
    plans = (_planned(tasks, layers, detail) for detail in DETAILS)
    return next(p for p in plans if p.band.max() < p.detail.num_bands and p.height <= p.detail.height)


def _planned(tasks: Tasks, layers: Layers, detail: Detail) -> Plan:
    texts = tuple(tasks.lines(task, detail) for task in range(len(tasks.ids)))
    widths = [text_width(line, detail.size, bold=i == 0) for text in texts for i, line in enumerate(text)]
    width = max(widths) + 0.016 * detail.size
    height = (max(map(len, texts)) * LINE + 0.6) * detail.size / 72
    x, band = _columns(layers.column, width, detail.gap[0])
    y, bottom = layers.height * (height + detail.gap[1]), MARGIN
    for b in range(int(band.max()) + 1):
        y[band == b] += bottom + height / 2 - y[band == b].min()
        bottom = y[band == b].max() + height / 2 + BAND_GAP
    return Plan(detail, texts, (width, height), layers, x, y, band, bottom - BAND_GAP + MARGIN)


def _columns(column: np.ndarray, width: float, gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the x of columns, and the band of each when they do not fit side by side."""
    number, margin = int(column.max()) + 1, MARGIN
    if number * (width + gap) - gap > WIDTH - 2 * margin:
        margin = STUB + 0.12
    room = WIDTH - 2 * margin
    num_bands = math.ceil(number / max(math.floor((room + gap) / (width + gap)), 1))
    per_band = math.ceil(number / num_bands)
    pitch = min((room - width) / max(per_band - 1, 1), width + 0.7)
    left = (WIDTH - pitch * (per_band - 1)) / 2
    return left + pitch * (column % per_band), column // per_band
