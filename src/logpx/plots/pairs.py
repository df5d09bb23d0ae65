"""Two models on the same data: how their log p(x) differ, pair by pair."""

from __future__ import annotations

__all__ = ["paired_scores"]

import math
import textwrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ._style import BLUE, CHART_DPI, GREY, RED, TITLE_CHARACTERS, WIDTH, count, finish, nats, styled_as_text, vector
from .numbers import decimals

REACH = 4  # standard deviations of the differences that are in view
DOTS = 4000


@styled_as_text
def paired_scores(
    a: np.ndarray,
    b: np.ndarray,
    interval: tuple[float, float],
    *,
    confidence: float = 0.95,
    names: tuple[str, str] = ("A", "B"),
) -> Figure:
    """Draws the histogram of the differences with the interval of their mean, and every datum under both models.

    Arguments:
        a: The estimates of log p(x) of the first model, in nats, finite, with shape (n,).
        b: Those of the second, of the same data.
        interval: The lower and upper end of the interval of the mean difference, in nats.
        confidence: The coverage of the interval.
        names: What the models are called, in the legend.

    Raises:
        ValueError: If the arrays are not vectors of one length.
    """
    a, b = vector("a", a), vector("b", b)
    if len(a) != len(b):
        raise ValueError(f"a and b must have equal lengths, but have {len(a)} and {len(b)}: give pairs.")
    d, percent = a - b, f"{100 * confidence:.4g}%"
    digits = decimals(interval[1] - interval[0])
    ends = f"{nats(interval[0], digits)} to {nats(interval[1], digits)}"
    average = f"A less B is {nats(float(d.mean()), digits)} nats on average"
    title = f"Over {count(a, 'datum', 'data')}, {average} ({percent} interval {ends})."
    figure = Figure(figsize=(WIDTH, 3.6), dpi=CHART_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(textwrap.fill(title, TITLE_CHARACTERS), x=0.01, ha="left", fontsize=10)
    left, right = figure.subplots(1, 2)
    note = _histogram(left, d, interval, percent)
    _scatter(right, a, b)
    shown = [f"A: {names[0]}. B: {names[1]}."] if names != ("A", "B") else []
    finish(figure, right, [*shown, *note], ncols=1)
    return finish(figure, left, [*shown, *note], ncols=1)


def _histogram(ax: Axes, d: np.ndarray, interval: tuple[float, float], percent: str) -> list[str]:
    """Draws the bulk of the differences; returns a note on those outside."""
    reach = REACH * float(d.std()) or 0.5
    low, high = max(d.min(), d.mean() - reach), min(d.max(), d.mean() + reach)
    low, high = min(low, interval[0], 0.0), max(high, interval[1], 0.0)
    edges = np.linspace(low, high, int(np.clip(math.sqrt(len(d)), 10, 60)) + 1) if high > low else np.array([-0.5, 0.5])
    ax.hist(d, edges.tolist(), color=BLUE, alpha=0.75, edgecolor="white", linewidth=0.4)
    ax.axvline(0.0, color=GREY, linestyle="--", linewidth=1, label="no difference")
    ax.axvspan(*interval, color=RED, alpha=0.25, linewidth=0)
    ax.axvline(float(d.mean()), color=RED, linewidth=1.2, label=f"mean and its {percent} interval")
    ax.set(xlabel="log p(x) of A less that of B (nats)", ylabel="number of data")
    outside = (d < edges[0]) | (d > edges[-1])
    if not outside.any():
        return []
    return [f"{count(outside, 'difference')} beyond the view, from {nats(d.min())} to {nats(d.max())} nats."]


def _scatter(ax: Axes, a: np.ndarray, b: np.ndarray) -> None:
    """Draws one dot per datum, or per one of many spread over the data, and the diagonal."""
    shown = np.linspace(0, len(a) - 1, min(len(a), DOTS)).round().astype(int)
    ends = float(min(a.min(), b.min())), float(max(a.max(), b.max()))
    ax.plot(ends, ends, color=GREY, linestyle="--", linewidth=1, label="equal")
    ax.scatter(a[shown], b[shown], s=7, c=BLUE, alpha=0.5, linewidths=0, label=_dots(len(shown), len(a)))
    ax.set(xlabel="log p(x) under A (nats)", ylabel="log p(x) under B (nats)")


def _dots(shown: int, n: int) -> str:
    return "one dot per datum" if shown == n else f"{shown:,} of {n:,} data"
