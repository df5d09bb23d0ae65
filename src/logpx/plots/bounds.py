"""The sandwich of bidirectional Monte Carlo, closing as chains take more steps."""

from __future__ import annotations

__all__ = ["bounds_sandwich"]

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ._style import BLUE, ORANGE, chart, finish, nats, styled


@styled
def bounds_sandwich(
    num_temperatures: Sequence[float] | np.ndarray,
    lower: Sequence[float] | np.ndarray,
    upper: Sequence[float] | np.ndarray,
    gap_error: Sequence[float] | np.ndarray,
    *,
    quantity: str = "log p(x)",
) -> Figure:
    """Draws the mean lower and upper bound of log p(x) against the number of steps of the chains.

    Arguments:
        num_temperatures: The numbers of steps, rising, with shape (R,).
        lower: The mean lower bounds, in nats, with shape (R,).
        upper: The mean upper bounds, in nats, with shape (R,).
        gap_error: The standard errors of upper - lower, in nats, with shape (R,).
        quantity: What is bounded.

    Raises:
        ValueError: If the lengths differ.
    """
    columns = [np.asarray(column, dtype=float) for column in (num_temperatures, lower, upper, gap_error)]
    if len({len(column) for column in columns}) > 1:
        sizes = ", ".join(str(len(column)) for column in columns)
        raise ValueError(f"All columns must have one length, but have {sizes}: give one value per number of steps.")
    steps, low, high, error = columns
    title = f"With {steps[-1]:,.0f} steps the bounds of {quantity} are {nats(high[-1] - low[-1], 3)} nats apart."
    figure, ax = chart(title, "steps of the chains (log scale)", f"{quantity} (nats, mean over simulated data)")
    ax.set_xscale("log")
    ax.fill_between(steps, low, high, where=high >= low, color=BLUE, alpha=0.12, linewidth=0)
    # half of the width's error on either side
    ax.errorbar(
        steps, high, yerr=0.98 * error, color=ORANGE, marker="v", capsize=3, label="upper bound, backward chains"
    )
    ax.errorbar(steps, low, yerr=0.98 * error, color=BLUE, marker="^", capsize=3, label="lower bound, forward chains")
    ax.xaxis.set_major_locator(FixedLocator(steps.tolist()))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    return finish(figure, ax, [])
