"""How estimates settle down as samples are added."""

from __future__ import annotations

__all__ = ["convergence"]

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ._style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    WIDTH,
    chart,
    count,
    finish,
    styled_as_text,
    text_width,
)
from .numbers import scientific, short, tick

COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, INK)
LINES = ("-", "--", "-.", (0, (1, 1)), (0, (6, 1.5, 1, 1.5, 1, 1.5)))  # as many as share no factor with the colours
LOG_FROM = 10.0  # estimates that span more than this factor get a logarithmic axis
FAR = 1e4  # an end of an interval that is larger than the estimates by this factor does not widen the view
Trace = Sequence[tuple[int, float, float, float]]


@styled_as_text
def convergence(
    traces: Mapping[str, Trace],
    *,
    quantity: str = "P(T ≥ 70 days)",
    confidence: float = 0.95,
    reference: tuple[str, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draws running estimates against the number of samples, each with the band of its intervals.

    The axis is logarithmic where estimates are positive, or zero for want of a hit, and span more than a factor of 10.
    Early bands that would squash the view are cut by it.

    Arguments:
        traces: For each proposal its points: number of samples, estimate, and the ends of its interval.
        quantity: What is estimated, with its unit where it has one.
        confidence: The coverage of the intervals.
        reference: The name and the value of a number to compare with.
        title: A sentence that says what is shown.

    Raises:
        ValueError: If there is no trace, or one without a point.
    """
    series = _series(traces)
    is_log, low, high = _view(list(series.values()), reference)
    title = _title(series, quantity) if title is None else title
    y_label = quantity + (" (log scale)" if is_log else "")
    figure, ax = chart(title, "number of samples (log scale)", y_label, height=4.0)
    n = np.concatenate([points[:, 0] for points in series.values()])
    space = max((n.max() / n.min()) ** 0.04, 1.2)
    ax.set(xscale="log", xlim=(n.min() / space, n.max() * space))
    ax.set(yscale="log" if is_log else "linear", ylim=(low, high))
    for i, (name, points) in enumerate(series.items()):
        style = {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)]}
        _draw(ax, name, points, is_log, low, high, **style)
    if reference is not None:
        label = f"{_cut(reference[0])}: {scientific(reference[1])}"
        ax.axhline(reference[1], color=INK, linewidth=0.8, label=label, zorder=1)
    _ticks(ax, is_log, low, high)
    notes = _notes(series, is_log, low, high)
    if reference is not None and not low <= reference[1] <= high:
        notes.append(f"Outside of the view: {reference[0]}.")
    return finish(figure, ax, notes, **_legend(ax, confidence))


def _legend(ax: Axes, confidence: float) -> dict[str, Any]:
    handles = ax.get_legend_handles_labels()[0]
    handles.append(Patch(facecolor=GREY, alpha=0.3, label=f"bands: {100 * confidence:g}% intervals"))
    widest = max(text_width(str(handle.get_label()), 8.5) for handle in handles)
    return {"handles": handles, "ncols": max(min(int(WIDTH / (widest + 0.5)), 3), 1)}


def _series(traces: Mapping[str, Trace]) -> dict[str, np.ndarray]:
    """Returns the traces as arrays with columns n, estimate, low, high, in the order of n."""
    if not traces:
        raise ValueError("traces must hold at least one proposal, but is empty: keep the running estimate of one.")
    series = {}
    for name, trace in traces.items():
        points = np.array([tuple(point) for point in trace], dtype=float)
        if points.ndim != 2 or points.shape[1] != 4 or not (points[:, 0] > 0).all():
            raise ValueError(
                f"The trace of {name!r} must have rows (number of samples > 0, estimate, low, high), but has shape "
                f"{points.shape}: keep at least one."
            )
        series[name] = points[np.argsort(points[:, 0], kind="stable")]
    return series


def _view(series: Sequence[np.ndarray], reference: tuple[str, float] | None) -> tuple[bool, float, float]:
    """Returns whether the axis is logarithmic, and its limits."""
    estimates = np.concatenate([points[:, 1] for points in series])
    late = np.concatenate([points[2 * len(points) // 3 :, 1:] for points in series]).ravel()
    estimates, late = estimates[np.isfinite(estimates)], late[np.isfinite(late)]
    compared = np.array([] if reference is None else [reference[1]])
    has_zeros = bool((estimates == 0).any())
    # where there is no hit yet, the upper end of the interval is all that is known
    known = np.concatenate([estimates, compared, late if has_zeros else []])
    known = known[known > 0]
    if estimates.min(initial=0.0) >= 0 and len(known) and known.max() > LOG_FROM * known.min():
        positive = estimates[estimates > 0] if (estimates > 0).any() else late[late > 0]
        return True, *_log_limits(positive, late, compared[compared > 0], has_zeros)
    return False, *_linear_limits(np.concatenate([estimates, compared]), late)


def _log_limits(positive: np.ndarray, late: np.ndarray, compared: np.ndarray, has_zeros: bool) -> tuple[float, float]:
    """Returns limits that hold the estimates and the reference, and of the late bands what does not dwarf them."""
    low, high = positive.min(), positive.max()
    held = np.concatenate([late[(late > low / LOG_FROM) & (late < FAR * high)], compared])
    low, high = held.min(initial=low), held.max(initial=high)
    pad = max((high / low) ** 0.06, 1.2)
    return low / pad ** (2.5 if has_zeros else 1.0), high * pad


def _linear_limits(estimates: np.ndarray, late: np.ndarray) -> tuple[float, float]:
    """Returns limits that hold the late bands, and of the early estimates what does not dwarf them."""
    if not len(late):
        return 0.0, 1.0
    low, high = late.min(), late.max()
    reach = (high - low) or abs(high) / 10 or 1.0
    low = max(min(low, estimates.min(initial=low)), low - 2 * reach)
    high = min(max(high, estimates.max(initial=high)), high + 2 * reach)
    pad = 0.06 * (high - low) or reach
    low = max(low, 0.0) if estimates.min(initial=low) >= 0 else low
    return low - pad, high + pad


def _draw(ax: Axes, name: str, points: np.ndarray, is_log: bool, low: float, high: float, **style: Any) -> None:
    n, estimate = points[:, 0], points[:, 1]
    missed = is_log & (estimate == 0)
    bottom, top = (np.clip(np.nan_to_num(end, nan=low), low, high) for end in (points[:, 2], points[:, 3]))
    if len(n) == 1:
        ax.vlines(n, bottom, top, color=style["color"], alpha=0.4, linewidth=5)
    else:
        ax.fill_between(n, bottom, top, color=style["color"], alpha=0.15, linewidth=0)
    marker = "o" if len(n) <= 12 else ""
    ax.plot(n, np.where(missed, np.nan, estimate), marker=marker, markersize=3, label=_cut(name), **style)
    if missed.any():
        (marks,) = ax.plot(n[missed], np.full(missed.sum(), 0.03), "v", transform=ax.get_xaxis_transform())
        marks.set(markerfacecolor="white", markeredgecolor=style["color"], markersize=5, gid=f"no hit: {name}")


def _cut(name: str) -> str:
    return name if len(name) <= 32 else name[:31] + "…"


def _title(series: Mapping[str, np.ndarray], quantity: str) -> str:
    if len(series) > 1:
        return f"How {len(series)} estimates of {quantity} settle down as samples are added."
    points = next(iter(series.values()))
    n, estimate, low, high = points[-1]
    if estimate == 0 < high:
        return f"After {n:,.0f} samples without a hit, {quantity} may be up to {short(high)}."
    return f"After {n:,.0f} samples, {quantity} is estimated as {scientific(estimate, (high - low) / 4)}."


def _ticks(ax: Axes, is_log: bool, low: float, high: float) -> None:
    left, right = ax.get_xlim()
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if right < 100 * left else (1.0,)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    decades = math.log10(high / low) if is_log else 0.0
    subs = (1.0, 2.0, 5.0) if decades < 3 else (1.0,)
    ax.yaxis.set_major_locator(LogLocator(subs=subs) if is_log else MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    ax.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: tick(value, value if is_log else max(abs(low), abs(high))))
    )
    ax.yaxis.set_minor_formatter(NullFormatter())


def _notes(series: Mapping[str, np.ndarray], is_log: bool, low: float, high: float) -> list[str]:
    estimates = np.concatenate([points[:, 1] for points in series.values()])
    missed = is_log & (estimates == 0)
    outside = np.isfinite(estimates) & ((estimates < low) | (estimates > high)) & ~missed
    notes = ["A triangle at the lower edge: no hit yet, and an estimate of 0."] if missed.any() else []
    notes += [f"{count(outside, 'estimate')} outside of the view."] if outside.any() else []
    bad = ~np.isfinite(estimates)
    return notes + ([f"Not finite, and not drawn: {count(bad, 'estimate')}."] if bad.any() else [])
