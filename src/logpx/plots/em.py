"""Charts of expectation maximization: the climb, and how the ELBO touches log p(x) on the way."""

from __future__ import annotations

__all__ = ["em_ascent", "em_touch"]

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ._style import BLUE, GREY, ORANGE, chart, finish, nats, styled

FIRST = 6  # iterations that are drawn step by step
STEEP = 4  # iterations of the steep climb, which long fits leave below the view
DOTS = 60


@styled
def em_ascent(metrics: Mapping[str, np.ndarray], *, quantity: str = "log p(x)") -> Figure:
    """Draws log p(x) of the training data, iteration by iteration, for every start, with the ELBO of the best.

    Arguments:
        metrics: "start", "iteration", "log_evidence" and "elbo_after", the last two in nats per datum, each with shape
            (I,); the rows of the best start stand last.
        quantity: What is maximized.
    """
    start, iteration, height = (metrics[name] for name in ("start", "iteration", "log_evidence"))
    best = start == start[-1]
    title = f"EM climbs to {nats(height[-1])} nats, and after every E-step the ELBO touches {quantity}."
    figure, ax = chart(title, "iterations of EM", f"{quantity} of training data (nats per datum)")
    for number in np.unique(start[~best]):
        label = "other starts" if number == start[~best].min() else None
        ax.plot(iteration[start == number], height[start == number], color=GREY, linewidth=1.0, label=label)
    ax.plot(iteration[best], height[best], color=BLUE, label=f"{quantity}, best start")
    dots = np.flatnonzero(best)[:: math.ceil(best.sum() / DOTS)]
    elbo = metrics["elbo_after"][dots]
    ax.plot(iteration[dots], elbo, "o", markersize=3, color=ORANGE, label="ELBO after an E-step")
    # the first steps are so large that they would hide the others
    low = height[iteration >= min(STEEP, iteration.max() // 2)].min()
    ax.set_ylim(low - 0.05 * (height.max() - low or 1), height.max() + 0.05 * (height.max() - low or 1))
    below = height < low
    notes = [f"Below the view: the first iterations, from {nats(height.min())} nats."] if below.any() else []
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return finish(figure, ax, notes)


@styled
def em_touch(metrics: Mapping[str, np.ndarray], *, quantity: str = "log p(x)") -> Figure:
    r"""Draws the first iterations in half steps: the M-step raises the ELBO, and the E-step lifts it to log p(x).

    What the E-step closes is the divergence of the old posterior from the new, :math:`\mathrm{KL}(r_{t-1} \| r_t)`.

    Arguments:
        metrics: The columns of :func:`em_ascent`, and "elbo_before".
        quantity: What is maximized.
    """
    best = np.flatnonzero(metrics["start"] == metrics["start"][-1])
    # the first step is often so large that it hides the others
    rows = best[1 : FIRST + 2] if len(best) > 2 else best
    iteration, height = metrics["iteration"][rows], metrics["log_evidence"][rows]
    before, after = metrics["elbo_before"][rows], metrics["elbo_after"][rows]
    title = f"Each M-step raises the ELBO, and each E-step closes its gap to {quantity}."
    figure, ax = chart(title, "iterations of EM", f"{quantity} of training data (nats per datum)")
    # E-steps are drawn as vertical lines at whole iterations, M-steps as slopes between them
    ax.plot(iteration, height, color=BLUE, marker="_", markersize=14, linestyle="none", label=quantity)
    for i in range(1, len(rows)):
        label = "M-step" if i == 1 else None
        ax.plot([iteration[i - 1], iteration[i]], [after[i - 1], before[i]], color=GREY, linewidth=1.2, label=label)
    ax.ticklabel_format(axis="y", useOffset=False)
    ax.vlines(iteration, before, after, color=ORANGE, linewidth=2.5, label="E-step")
    ax.plot(iteration, before, "o", markerfacecolor="white", color=ORANGE, linestyle="none", label="ELBO before it")
    ax.plot(iteration, after, "o", color=ORANGE, linestyle="none", label="ELBO after it")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    gaps = ", ".join(nats(gap, 3) for gap in (height - before)[np.isfinite(before)])
    return finish(figure, ax, [f"The gaps that the E-steps close: {gaps} nats."] if gaps else [])
