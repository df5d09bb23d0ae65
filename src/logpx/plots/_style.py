"""What all figures have in common: sizes, colours, matplotlib settings, and how numbers are written."""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np

WIDTH = 6.0  # inches, of every figure
CHART_DPI = 240
TILE_WIDTH = 0.75  # inches, at most
TILE_DPI = (240, 400)  # a pixel of an image becomes a square of whole pixels at a resolution in this range
TITLE_CHARACTERS = 82
# Colours that the colour-blind tell apart (Color Universal Design, Okabe and Ito, 2008).
BLUE, ORANGE, RED, GREY, INK = "#0072B2", "#E69F00", "#D55E00", "#767676", "#222222"
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


def vector(name: str, values: Any) -> np.ndarray:
    vector = np.asarray(values, dtype=float)
    if vector.ndim != 1 or not len(vector):
        raise ValueError(f"{name} must be a non-empty vector, but has shape {vector.shape}: give one value per datum.")
    return vector


def nats(value: float, digits: int = 2) -> str:
    return f"{value:,.{digits}f}".replace("-", "−").replace("inf", "∞")
