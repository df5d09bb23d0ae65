"""Charts: training curves, and what the evidence per datum looks like."""

from __future__ import annotations

__all__ = ["evidence_curve", "evidence_histogram", "pareto_scatter", "training_curves"]

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ._style import BLUE, GREEN, GREY, ORANGE, RED, chart, count, finish, nats, styled, vector
from .numbers import decimals


@styled
def training_curves(metrics: Mapping[str, np.ndarray], *, held_out: str = "validation") -> Figure:
    """Draws the bounds of training and held-out data against the epoch, and marks the best of the latter.

    Arguments:
        metrics: "epoch", "train" and "valid", each with shape (E,); bounds in nats, NaN where there is none.
        held_out: What the data of "valid" are called.

    Raises:
        ValueError: If a column is missing or their lengths differ.
    """
    epoch, train, valid = _columns(metrics, ("epoch", "train", "valid"))
    bounds = np.concatenate([train, valid])
    low, notes = _low_end(bounds), []
    title = "The training bound, epoch by epoch."
    if np.isfinite(valid).any():
        best = int(np.argmax(np.where(np.isfinite(valid), valid, -np.inf)))
        title = f"The {held_out} bound is best after epoch {epoch[best]:.0f}: {nats(valid[best])} nats."
    figure, ax = chart(title, "training time (epochs)", "bound (nats per datum)")
    marker = "o" if len(epoch) <= 20 else ""
    ax.plot(epoch, train, color=GREY, marker=marker, label="training data")
    if np.isfinite(valid).any():
        ax.plot(epoch, valid, color=BLUE, marker=marker, label=f"{held_out} data")
        ax.plot(epoch[best], valid[best], "D", color=RED, markersize=7, linestyle="none", label=f"best {held_out}")
    if low is not None:
        ax.set_ylim(low, 1.05 * bounds[np.isfinite(bounds)].max() - 0.05 * low)
        below = np.isfinite(bounds) & (bounds < low)
        notes.append(f"{count(below, 'value')} below the view, down to {nats(bounds[below].min())} nats.")
    bad = ~np.isfinite(train) | np.isinf(valid)
    notes += [f"Not finite, and not drawn: {count(bad, 'epoch')}."] if bad.any() else []
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return finish(figure, ax, notes)


@styled
def evidence_histogram(
    log_evidence: np.ndarray, *, error: float | None = None, unit: str = "nats", quantity: str = "log p(x)"
) -> Figure:
    r"""Draws how log p(x) is distributed over the data, with the mean and its 95% interval.

    Arguments:
        log_evidence: The estimates, in `unit`, with shape (N,).
        error: The standard error of the mean, in `unit`; by default :math:`\mathrm{sd} / \sqrt{N}`.
        unit: The unit of the values.
        quantity: What the values are.

    Raises:
        ValueError: If the array is not a non-empty vector.
    """
    values = vector("log_evidence", log_evidence)
    finite = values[np.isfinite(values)]
    middle = " to ".join(nats(value) for value in np.percentile(finite, [25, 75])) if len(finite) else "nothing"
    title = f"Over {count(values, 'datum', 'data')}, the middle half of {quantity} spans {middle} {unit}."
    figure, ax = chart(title, f"{quantity} ({unit})", "number of data")
    notes = _nonfinite_notes(values, quantity)
    if len(finite):
        notes += _bars(ax, finite, unit)
        mean = float(finite.mean()) if len(finite) == len(values) else math.nan
        if error is None:
            error = float(finite.std(ddof=1)) / math.sqrt(len(finite)) if len(finite) > 1 else math.nan
        if math.isfinite(mean):
            digits = decimals(error)
            label = f"mean {nats(mean, digits)} ± {nats(error, digits)} {unit} (one standard error)"
            ax.axvspan(mean - 1.96 * error, mean + 1.96 * error, color=RED, alpha=0.2, linewidth=0)
            ax.axvline(mean, color=RED, label=label)
        else:
            notes.append("The mean over all data is not finite.")
    return finish(figure, ax, notes)


@styled
def evidence_curve(
    num_samples: Sequence[float] | np.ndarray,
    mean: Sequence[float] | np.ndarray,
    error: Sequence[float] | np.ndarray,
    elbo: float | None = None,
    *,
    limit: tuple[float, float] | None = None,
    quantity: str = "log p(x)",
) -> Figure:
    """Draws the estimate of log p(x) against the number of samples per datum, ±1.96 standard errors.

    Arguments:
        num_samples: The numbers of samples per datum, with shape (C,).
        mean: The mean estimate over the data at each, in nats, with shape (C,).
        error: Its standard error, in nats, with shape (C,).
        elbo: The ELBO, in nats: the expected estimate from one sample.
        limit: The estimate for infinitely many samples and its standard error, in nats.
        quantity: What is estimated.

    Raises:
        ValueError: If the lengths differ.
    """
    columns = {"num_samples": num_samples, "mean": mean, "error": error}
    s, m, e = _columns(columns, tuple(columns))
    keep = np.isfinite(m)
    notes = [] if keep.all() else [f"Not finite, and not drawn: {count(~keep, 'estimate')}."]
    s, m, e = s[keep], m[keep], e[keep]
    figure, ax = chart(_curve_title(s, m, quantity), "samples per datum (log scale)", f"{quantity} (nats)")
    ax.set_xscale("log")
    ax.fill_between(s, m - 1.96 * e, m + 1.96 * e, color=BLUE, alpha=0.18, linewidth=0, label="±1.96 standard errors")
    ax.plot(s, m, color=BLUE, marker="o", label="estimate")
    if limit is not None:
        height, band = limit[0], 1.96 * limit[1]
        ax.axhspan(height - band, height + band, color=GREEN, alpha=0.12, linewidth=0)
        label = f"extrapolated {nats(height, decimals(limit[1]))} ± {nats(limit[1], decimals(limit[1]))}"
        ax.axhline(height, color=GREEN, linestyle=(0, (6, 3)), linewidth=1.2, label=label)
    if elbo is not None and math.isfinite(elbo):
        ax.axhline(elbo, color=ORANGE, linestyle="--", label=f"ELBO {nats(elbo)} (1 sample)")
        ax.plot([1.0, *s[:1]], [elbo, *m[:1]], color=BLUE, linestyle=":", linewidth=1.2)
    narrow = len(s) == 0 or s.max() < 100 * ax.get_xlim()[0]
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    return finish(figure, ax, notes, ncols=3 if limit is None else 2)


@styled
def pareto_scatter(log_evidence: np.ndarray, pareto_k: np.ndarray, *, quantity: str = "log p(x)") -> Figure:
    r"""Draws the Pareto :math:`\hat k` of each datum against its log p(x), in three zones of reliability.

    Arguments:
        log_evidence: The estimates, in nats, with shape (N,).
        pareto_k: The diagnosis, with shape (N,); -inf means constant weights, NaN too few samples.
        quantity: What is estimated.

    Raises:
        ValueError: If the lengths differ.
    """
    x, k = _columns({"log_evidence": log_evidence, "pareto_k": pareto_k}, ("log_evidence", "pareto_k"))
    title = rf"$\hat{{k}}$ is 0.7 or more for {np.mean(k >= 0.7):.1%} of {count(k, 'datum', 'data')}."
    figure, ax = chart(title, f"{quantity} (nats)", r"Pareto $\hat{k}$ (no unit)")
    zones = (
        (k < 0.5, BLUE, "o", "below 0.5: estimate and interval can be used"),
        ((k >= 0.5) & (k < 0.7), ORANGE, "^", "0.5 to 0.7: the interval is unreliable"),
        (k >= 0.7, RED, "s", "0.7 and above: the estimate is unreliable"),
    )
    drawn = np.isfinite(x) & np.isfinite(k)
    for zone, colour, marker, meaning in zones:
        label = f"{meaning} ({zone.sum():,})"
        ax.scatter(
            x[zone & drawn],
            k[zone & drawn],
            s=9,
            c=colour,
            marker=marker,
            alpha=0.55,
            linewidths=0,
            label=label,
        )
    for threshold, colour in ((0.5, ORANGE), (0.7, RED)):
        ax.axhline(threshold, color=colour, linewidth=1, linestyle="--", zorder=1)
    notes = _nonfinite_notes(k, r"$\hat{k}$", " (constant weights)")
    return finish(figure, ax, notes + _nonfinite_notes(x, quantity), ncols=1, markerscale=2)


def _bars(ax: Axes, finite: np.ndarray, unit: str) -> list[str]:
    """Draws the histogram of the bulk of the values and its mean; returns notes on the values outside."""
    quartiles = np.percentile(finite, [25, 75])
    reach = 3 * max(float(np.ptp(quartiles)), 1e-9 * max(1.0, float(np.abs(quartiles).max())))
    low = max(finite.min(), min(quartiles[0] - reach, finite.mean()))
    high = min(finite.max(), max(quartiles[1] + reach, finite.mean()))
    if np.ptp(finite) <= 1.5 * (high - low):
        low, high = finite.min(), finite.max()
    num_bins = int(np.clip(math.sqrt(len(finite)), 10, 60))
    edges = np.linspace(low, high, num_bins + 1) if high > low else low + np.array([-0.5, 0.5])
    ax.hist(
        finite[(finite >= low) & (finite <= high)],
        edges.tolist(),
        color=BLUE,
        alpha=0.75,
        edgecolor="white",
        linewidth=0.4,
    )
    notes = []
    if (finite < low).any():
        below = f"{count(finite < low, 'datum', 'data')} to the left of the view"
        notes.append(f"{below}, down to {nats(finite.min())} {unit}.")
    if (finite > high).any():
        above = f"{count(finite > high, 'datum', 'data')} to the right of the view"
        notes.append(f"{above}, up to {nats(finite.max())} {unit}.")
    return notes


def _curve_title(s: np.ndarray, m: np.ndarray, quantity: str) -> str:
    if len(s) < 2:
        return f"The estimated {quantity}, and the ELBO below it."
    gain, verb = m[-1] - m[-2], "rises" if m[-1] >= m[-2] else "falls"
    last = f"From {s[-2]:,.5g} to {s[-1]:,.5g} samples per datum"
    return f"{last}, the estimated {quantity} {verb} by {nats(abs(gain), decimals(gain))} nats."


def _low_end(values: np.ndarray) -> float | None:
    """Returns where to cut the view when early values would squash the rest, or None to show all."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    low, high = np.percentile(finite, 20), finite.max()
    return float(low - (high - low)) if finite.min() < low - 2 * (high - low) else None


def _nonfinite_notes(values: np.ndarray, quantity: str, constant: str = "") -> list[str]:
    counts = {
        f"= −∞{constant}": np.isneginf(values).sum(),
        "= ∞": np.isposinf(values).sum(),
        "undefined": np.isnan(values).sum(),
    }
    found = [f"{count:,} with {quantity} {name}" for name, count in counts.items() if count]
    return [f"Not drawn: {', '.join(found)}."] if found else []


def _columns(table: Mapping[str, Any], names: Sequence[str]) -> list[np.ndarray]:
    missing = [name for name in names if name not in table]
    if missing:
        raise ValueError(f"The columns {', '.join(names)} are needed, but {', '.join(missing)} is missing: add it.")
    columns = [vector(name, table[name]) for name in names]
    if len({len(column) for column in columns}) > 1:
        lengths = ", ".join(f"{name}: {len(column)}" for name, column in zip(names, columns, strict=True))
        raise ValueError(f"Columns must have equal lengths, but have {lengths}: give one value per row in each.")
    return columns
