"""What all figures have in common: sizes, colours, matplotlib settings, titles, legends and notes."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

WIDTH = 6.0  # inches, of every figure
CHART_DPI = 240
TILE_WIDTH = 0.75  # inches, at most
TILE_DPI = (240, 400)  # a pixel of an image becomes a square of whole pixels at a resolution in this range
TITLE_CHARACTERS = 82
# Colours that the colour-blind tell apart (Color Universal Design, Okabe and Ito, 2008).
BLUE, ORANGE, RED, GREY, INK = "#0072B2", "#E69F00", "#D55E00", "#767676", "#222222"
GREEN, PURPLE, SKY = "#009E73", "#CC79A7", "#56B4E9"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E8E8E8",
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
}
# As a decorator: the style holds inside the function, and matplotlib's settings are afterwards as before.
styled = matplotlib.rc_context(STYLE)
# The same where names of the user are drawn, in which a dollar sign is a dollar sign.
styled_as_text = matplotlib.rc_context(STYLE | {"text.parse_math": False})


def chart(title: str, x_label: str, y_label: str, height: float = 3.6) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), dpi=CHART_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(textwrap.fill(title, TITLE_CHARACTERS), x=0.01, ha="left", fontsize=10)
    ax = figure.add_subplot(xlabel=x_label, ylabel=y_label)
    return figure, ax


def finish(figure: Figure, ax: Axes, notes: Sequence[str], **legend: Any) -> Figure:
    """Puts the legend above the axes and the notes below them, where neither hides data."""
    if ax.get_legend_handles_labels()[0]:
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0), "borderaxespad": 0.2}
        ax.legend(**{"ncols": 3, "fontsize": 8.5} | place | legend)
    if notes:
        text = textwrap.fill(" ".join(notes), TITLE_CHARACTERS + 18)
        figure.supxlabel(text, x=0.01, ha="left", fontsize=8, color=GREY)
    return figure


def vector(name: str, values: Any) -> np.ndarray:
    vector = np.asarray(values, dtype=float)
    if vector.ndim != 1 or not len(vector):
        raise ValueError(f"{name} must be a non-empty vector, but has shape {vector.shape}: give one value per datum.")
    return vector


def nats(value: float, digits: int = 2) -> str:
    return f"{value:,.{digits}f}".replace("-", "−").replace("inf", "∞")


def count(of: np.ndarray, singular: str, plural: str = "") -> str:
    """Counts the true ones of a boolean array, or all of any other: "1 datum", "10,000 data"."""
    number = int(of.sum()) if of.dtype == bool else len(of)
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def text_width(text: str, size: float, bold: bool = False) -> float:
    """Returns how wide a text is drawn, in inches; the size of the font is in points."""
    font = FontProperties(family=STYLE["font.family"], weight="bold" if bold else "normal", size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / 72
