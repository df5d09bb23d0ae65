"""Figures of training, data and evidence: arrays in, a matplotlib Figure out.

Nothing here draws on a screen or changes matplotlib's settings. A title is a sentence that says what is
shown, axes carry their units, and what is not in view (a cut tail, a non-finite value) is counted in a note.
"""

from __future__ import annotations

__all__ = [
    "decimals",
    "evidence_curve",
    "evidence_histogram",
    "extreme_indices",
    "extremes",
    "image_grid",
    "paired_grid",
    "pareto_scatter",
    "training_curves",
    "traversal_grid",
    "value_limits",
]

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

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
_styled = matplotlib.rc_context(STYLE)


@_styled
def training_curves(metrics: Mapping[str, np.ndarray]) -> Figure:
    """Draws the training and validation bounds against the epoch, and marks the best validation.

    Arguments:
        metrics: "epoch", "train" and "valid", each with shape (E,); bounds in nats, NaN where there is none.

    Raises:
        ValueError: If a column is missing or their lengths differ.
    """
    epoch, train, valid = _columns(metrics, ("epoch", "train", "valid"))
    bounds = np.concatenate([train, valid])
    low, notes = _low_end(bounds), []
    title = "The training bound, epoch by epoch."
    if np.isfinite(valid).any():
        best = int(np.argmax(np.where(np.isfinite(valid), valid, -np.inf)))
        title = f"The validation bound is best after epoch {epoch[best]:.0f}: {_nats(valid[best])} nats."
    figure, ax = _chart(title, "training time (epochs)", "bound (nats per datum)")
    marker = "o" if len(epoch) <= 20 else ""
    ax.plot(epoch, train, color=GREY, marker=marker, label="training data")
    if np.isfinite(valid).any():
        ax.plot(epoch, valid, color=BLUE, marker=marker, label="validation data")
        ax.plot(epoch[best], valid[best], "D", color=RED, markersize=7, linestyle="none", label="best validation")
    if low is not None:
        ax.set_ylim(low, 1.05 * bounds[np.isfinite(bounds)].max() - 0.05 * low)
        below = np.isfinite(bounds) & (bounds < low)
        notes.append(f"{_count(below, 'value')} below the view, down to {_nats(bounds[below].min())} nats.")
    bad = ~np.isfinite(train) | np.isinf(valid)
    notes += [f"Not finite, and not drawn: {_count(bad, 'epoch')}."] if bad.any() else []
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return _finish(figure, ax, notes)


@_styled
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
    values = _vector("log_evidence", log_evidence)
    finite = values[np.isfinite(values)]
    middle = " to ".join(_nats(value) for value in np.percentile(finite, [25, 75])) if len(finite) else "nothing"
    title = f"Over {_count(values, 'datum', 'data')}, the middle half of {quantity} spans {middle} {unit}."
    figure, ax = _chart(title, f"{quantity} ({unit})", "number of data")
    notes = _nonfinite_notes(values, quantity)
    if len(finite):
        notes += _bars(ax, finite, unit)
        mean = float(finite.mean()) if len(finite) == len(values) else math.nan
        if error is None:
            error = float(finite.std(ddof=1)) / math.sqrt(len(finite)) if len(finite) > 1 else math.nan
        if math.isfinite(mean):
            digits = decimals(error)
            label = f"mean {_nats(mean, digits)} ± {_nats(error, digits)} {unit} (one standard error)"
            ax.axvspan(mean - 1.96 * error, mean + 1.96 * error, color=RED, alpha=0.2, linewidth=0)
            ax.axvline(mean, color=RED, label=label)
        else:
            notes.append("The mean over all data is not finite.")
    return _finish(figure, ax, notes)


@_styled
def evidence_curve(
    num_samples: Sequence[float] | np.ndarray,
    mean: Sequence[float] | np.ndarray,
    error: Sequence[float] | np.ndarray,
    elbo: float | None = None,
    *,
    quantity: str = "log p(x)",
) -> Figure:
    """Draws the estimate of log p(x) against the number of samples per datum, ±1.96 standard errors.

    Arguments:
        num_samples: The numbers of samples per datum, with shape (C,).
        mean: The mean estimate over the data at each, in nats, with shape (C,).
        error: Its standard error, in nats, with shape (C,).
        elbo: The ELBO, in nats: the expected estimate from one sample.
        quantity: What is estimated.

    Raises:
        ValueError: If the lengths differ.
    """
    columns = {"num_samples": num_samples, "mean": mean, "error": error}
    s, m, e = _columns(columns, tuple(columns))
    keep = np.isfinite(m)
    notes = [] if keep.all() else [f"Not finite, and not drawn: {_count(~keep, 'estimate')}."]
    s, m, e = s[keep], m[keep], e[keep]
    figure, ax = _chart(_curve_title(s, m, quantity), "samples per datum (log scale)", f"{quantity} (nats)")
    ax.set_xscale("log")
    ax.fill_between(s, m - 1.96 * e, m + 1.96 * e, color=BLUE, alpha=0.18, linewidth=0, label="±1.96 standard errors")
    ax.plot(s, m, color=BLUE, marker="o", label="estimate")
    if elbo is not None and math.isfinite(elbo):
        ax.axhline(elbo, color=ORANGE, linestyle="--", label=f"ELBO {_nats(elbo)} (1 sample)")
        ax.plot([1.0, *s[:1]], [elbo, *m[:1]], color=BLUE, linestyle=":", linewidth=1.2)
    narrow = len(s) == 0 or s.max() < 100 * ax.get_xlim()[0]
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if narrow else (1.0,)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    return _finish(figure, ax, notes)


@_styled
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
    title = rf"$\hat{{k}}$ is 0.7 or more for {np.mean(k >= 0.7):.1%} of {_count(k, 'datum', 'data')}."
    figure, ax = _chart(title, f"{quantity} (nats)", r"Pareto $\hat{k}$ (no unit)")
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
    return _finish(figure, ax, notes + _nonfinite_notes(x, quantity), ncols=1, markerscale=2)


def image_grid(
    images: np.ndarray, ncols: int = 12, *, title: str = "Data.", limits: tuple[float, float] | None = None
) -> Figure:
    r"""Draws data in a grid, row by row: images as they are, vectors as lines.

    Arguments:
        images: The data, with shape (N, 1 or 3, H, W) or (N, H, W); anything else is drawn as vectors.
        ncols: The number of columns.
        title: A sentence that says what is shown.
        limits: The values drawn black and white, or at bottom and top; by default :func:`value_limits`.
    """
    images = _some("images", images)
    ncols = min(ncols, len(images))
    missing = np.full((-len(images) % ncols, *images.shape[1:]), np.nan)
    tiles = np.concatenate([images, missing]).reshape(-1, ncols, *images.shape[1:])
    return _tile_figure(tiles, title, limits)


def paired_grid(
    originals: np.ndarray,
    reconstructions: np.ndarray,
    ncols: int = 12,
    *,
    title: str = "Data, and below them their reconstructions.",
    limits: tuple[float, float] | None = None,
) -> Figure:
    r"""Draws data in rows, and below each row its reconstructions.

    Arguments:
        originals: The data, with shape (N, \*event); see :func:`image_grid`.
        reconstructions: The reconstructions, with the same shape.
        ncols: The number of columns; data that do not fill a row are left out.
        title: A sentence that says what is shown.
        limits: The values drawn black and white, or at bottom and top; by default :func:`value_limits`.

    Raises:
        ValueError: If the shapes differ.
    """
    if originals.shape != reconstructions.shape:
        shapes = f"{originals.shape} and {reconstructions.shape}"
        raise ValueError(f"Originals and reconstructions must have equal shapes, but have {shapes}: pair them up.")
    pairs = np.stack([_some("originals", originals), reconstructions], axis=1)
    ncols = min(ncols, len(pairs))
    rows = len(pairs) // ncols
    tiles = pairs[: rows * ncols].reshape(rows, ncols, *pairs.shape[1:]).swapaxes(1, 2)
    tiles = tiles.reshape(2 * rows, ncols, *originals.shape[1:])
    return _tile_figure(tiles, title, limits, row_labels=["data", "recon-\nstruction"] * rows, group=2)


def traversal_grid(
    tiles: np.ndarray,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    *,
    title: str = "In each row one latent moves.",
    x_label: str = "",
    limits: tuple[float, float] | None = None,
) -> Figure:
    r"""Draws decoded data in a grid whose rows and columns mean something: latents and their values.

    Arguments:
        tiles: The data, with shape (R, C, \*event); see :func:`image_grid`.
        row_labels: What stands beside the R rows.
        column_labels: What stands above the C columns.
        title: A sentence that says what is shown.
        x_label: What stands below the grid.
        limits: The values drawn black and white, or at bottom and top; by default :func:`value_limits`.
    """
    rows, columns = list(row_labels), list(column_labels)
    return _tile_figure(tiles, title, limits, row_labels=rows, column_labels=columns, x_label=x_label)


def extreme_indices(log_evidence: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the positions of the least probable data, rising, and the most probable, falling; never NaN.

    Arguments:
        log_evidence: The estimates, in nats, with shape (N,).
        num: How many of each; fewer where the two would overlap.
    """
    values = _vector("log_evidence", log_evidence)
    order = np.argsort(values, kind="stable")[: int((~np.isnan(values)).sum())]
    num = min(num, max(1, len(order) // 2))
    return order[:num], order[::-1][:num]


def extremes(
    images: np.ndarray,
    log_evidence: np.ndarray,
    *,
    num: int = 10,
    quantity: str = "log p(x)",
    limits: tuple[float, float] | None = None,
) -> Figure:
    r"""Draws the least probable data in one row and the most probable in another, with log p(x).

    Arguments:
        images: The data, with shape (N, \*event); see :func:`image_grid`.
        log_evidence: The estimates, in nats, with shape (N,).
        num: How many of each.
        quantity: What the values are.
        limits: The values drawn black and white, or at bottom and top; by default :func:`value_limits`.
    """
    pair = np.stack(extreme_indices(log_evidence, num))
    labels = [[_nats(value, 1) for value in row] for row in np.asarray(log_evidence, dtype=float)[pair]]
    title = f"The data of lowest and of highest {quantity}, which stands above each in nats."
    rows = ["lowest", "highest"]
    return _tile_figure(images[pair], title, limits, row_labels=rows, tile_labels=labels)


def value_limits(values: np.ndarray) -> tuple[float, float]:
    """Returns which values are black and white: 0 and 1 where all lie between, else nearly their range."""
    finite = values[np.isfinite(values)]
    if not len(finite) or (finite.min() >= 0 and finite.max() <= 1):
        return 0.0, 1.0
    low, high = np.quantile(finite, [0.005, 0.995]).tolist()
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def decimals(error: float) -> int:
    """Returns how many decimals show an error, and the value beside it, to its second significant digit.

    Example:
        >>> decimals(0.24), decimals(0.0021), decimals(130.0)
        (2, 4, 0)
    """
    usable = math.isfinite(error) and error != 0
    return min(max(1 - math.floor(math.log10(abs(error))), 0), 6) if usable else 2


def _chart(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, 3.6), dpi=CHART_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(textwrap.fill(title, TITLE_CHARACTERS), x=0.01, ha="left", fontsize=10)
    ax = figure.add_subplot(xlabel=x_label, ylabel=y_label)
    return figure, ax


def _finish(figure: Figure, ax: Axes, notes: Sequence[str], **legend: Any) -> Figure:
    """Puts the legend above the axes and the notes below them, where neither hides data."""
    if ax.get_legend_handles_labels()[0]:
        place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0), "borderaxespad": 0.2}
        ax.legend(**{"ncols": 3, "fontsize": 8.5} | place | legend)
    if notes:
        text = textwrap.fill(" ".join(notes), TITLE_CHARACTERS + 18)
        figure.supxlabel(text, x=0.01, ha="left", fontsize=8, color=GREY)
    return figure


def _bars(ax: Axes, finite: np.ndarray, unit: str) -> list[str]:
    """Draws the histogram of the bulk of the values and its mean; returns notes on the values outside."""
    quartiles = np.percentile(finite, [25, 75])
    reach = 3 * max(float(np.ptp(quartiles)), 1e-9 * max(1.0, float(np.abs(quartiles).max())))
    low = max(finite.min(), min(quartiles[0] - reach, finite.mean()))
    high = min(finite.max(), max(quartiles[1] + reach, finite.mean()))
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
        below = f"{_count(finite < low, 'datum', 'data')} to the left of the view"
        notes.append(f"{below}, down to {_nats(finite.min())} {unit}.")
    if (finite > high).any():
        above = f"{_count(finite > high, 'datum', 'data')} to the right of the view"
        notes.append(f"{above}, up to {_nats(finite.max())} {unit}.")
    return notes


def _curve_title(s: np.ndarray, m: np.ndarray, quantity: str) -> str:
    if len(s) < 2:
        return f"The estimated {quantity}, and the ELBO below it."
    gain, verb = m[-1] - m[-2], "rises" if m[-1] >= m[-2] else "falls"
    last = f"From {s[-2]:,.5g} to {s[-1]:,.5g} samples per datum"
    return f"{last}, the estimated {quantity} {verb} by {_nats(abs(gain), decimals(gain))} nats."


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


class _Layout(NamedTuple):
    """Where tiles stand on their canvas, in pixels: columns begin at x, rows at y (counted from the top)."""

    x: np.ndarray
    y: np.ndarray
    width: int
    height: int
    dpi: float
    bottom: int


@_styled
def _tile_figure(
    tiles: np.ndarray,
    title: str,
    limits: tuple[float, float] | None,
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    tile_labels: Sequence[Sequence[str]] = (),
    x_label: str = "",
    group: int = 1,
) -> Figure:
    """Draws tiles of shape (R, C, *event) to whole pixels, with labels and air between groups of rows."""
    limits = value_limits(tiles) if limits is None else limits
    if not _is_image(tiles[0, 0]):
        scale = f"coordinates from left to right, values from {limits[0]:.3g} (bottom) to {limits[1]:.3g} (top)"
        x_label = "\n".join(filter(None, [x_label, scale.replace("-", "−")]))
    left, head, foot = (
        0.75 * bool(row_labels),
        0.2 * bool(column_labels),
        0.07 + 0.16 * len(x_label.splitlines()),
    )
    tile_width = min(TILE_WIDTH, (WIDTH - left) / tiles.shape[1])
    pixels = _pixels(tiles, tile_width, limits)
    title = textwrap.fill(title, TITLE_CHARACTERS)
    top = 0.15 + 0.17 * (1 + title.count("\n")) + head
    at = _layout(pixels.shape, tile_width, (left, top), 0.17 * bool(len(tile_labels)), group)
    figure, ax = _canvas(at, pixels, foot)
    figure.suptitle(title, x=0.0, y=1 - 0.04 / figure.get_figheight(), ha="left", va="top", fontsize=10)
    if not _is_image(tiles[0, 0]):
        ax.add_collection(_lines(tiles, at, limits))
    centre = at.x + at.width / 2
    for y, label in zip(at.y, row_labels, strict=False):
        ax.text(0, y + at.height / 2, label, va="center", fontsize=8.5)
    for x, label in zip(centre, column_labels, strict=False):
        ax.text(x, at.y[0] - 0.04 * at.dpi, label, ha="center", va="bottom", fontsize=8)
    for y, labels in zip(at.y, tile_labels, strict=False):
        for x, label in zip(centre, labels, strict=False):
            ax.text(x, y - 0.02 * at.dpi, label, ha="center", va="bottom", fontsize=8)
    ax.text(centre.mean(), at.bottom + 0.04 * at.dpi, x_label, ha="center", va="top", fontsize=8.5)
    return figure


def _layout(
    shape: Sequence[int], tile_width: float, corner: tuple[float, float], label_height: float, group: int
) -> _Layout:
    rows, columns, height, width = shape[:4]
    gap = max(2, round(0.05 * width))
    dpi = (width + gap) / tile_width
    left, top, label = (round(inches * dpi) for inches in (*corner, label_height))
    row = np.arange(rows)
    y = top + label + row * (height + gap + label) + (row // group) * (3 * gap if group > 1 else 0)
    return _Layout(left + np.arange(columns) * (width + gap), y, width, height, dpi, int(y[-1]) + height)


def _canvas(at: _Layout, pixels: np.ndarray, foot: float) -> tuple[Figure, Axes]:
    """Returns a figure that is one white canvas with the tiles in place, and axes whose unit is its pixel."""
    height, width = at.bottom + round(foot * at.dpi), round(WIDTH * at.dpi)
    canvas = np.full((height, width, 3), 255, np.uint8)
    for r, c in np.ndindex(*pixels.shape[:2]):
        canvas[at.y[r] : at.y[r] + at.height, at.x[c] : at.x[c] + at.width] = pixels[r, c]
    # a fraction of a pixel more, because matplotlib rounds sizes down
    figure = Figure(figsize=((width + 0.1) / at.dpi, (height + 0.1) / at.dpi), dpi=at.dpi, facecolor="white")
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.imshow(canvas, interpolation="nearest", aspect="auto", extent=(0, width, height, 0))
    ax.set_axis_off()
    return figure, ax


def _is_image(event: np.ndarray) -> bool:
    return event.ndim == 2 or (event.ndim == 3 and event.shape[0] in (1, 3))


def _pixels(tiles: np.ndarray, tile_width: float, limits: tuple[float, float]) -> np.ndarray:
    """Returns the tiles in colours, uint8 (R, C, h, w, 3): NaN is white, the ground of lines grey."""
    rows, columns = tiles.shape[:2]
    if not _is_image(tiles[0, 0]):
        width = round(tile_width * TILE_DPI[0])
        missing = np.isnan(tiles).reshape(rows, columns, 1, 1, -1).all(-1, keepdims=True)
        blank = np.where(missing, 255, 245).astype(np.uint8)
        return np.broadcast_to(blank, (rows, columns, round(0.6 * width), width, 3))
    low, high = limits
    images = tiles.reshape(rows, columns, -1, *tiles.shape[-2:])
    scaled = np.clip((np.moveaxis(images, 2, -1) - low) / max(high - low, 1e-12), 0, 1)
    coarse = _shrink(scaled, math.ceil(scaled.shape[3] / (tile_width * TILE_DPI[1])))
    bytes_: np.ndarray = np.where(np.isnan(coarse), 255, np.rint(255 * coarse)).astype(np.uint8)
    enlarged = math.ceil(tile_width * TILE_DPI[0] / bytes_.shape[3])
    bytes_ = bytes_.repeat(enlarged, axis=2).repeat(enlarged, axis=3)
    return np.broadcast_to(bytes_, (*bytes_.shape[:4], 3))


def _shrink(images: np.ndarray, factor: int) -> np.ndarray:
    """Averages blocks of pixels of images with shape (R, C, H, W, channels)."""
    if factor <= 1:
        return images
    rows, columns, height, width, channels = images.shape
    h, w = max(1, height // factor), max(1, width // factor)
    cut: np.ndarray = images[:, :, : h * factor, : w * factor]
    return cut.reshape(rows, columns, h, -1, w, factor, channels).mean((3, 5))


def _lines(tiles: np.ndarray, at: _Layout, limits: tuple[float, float]) -> LineCollection:
    """Returns vectors of shape (R, C, *event) as one line per tile, the first coordinate on the left."""
    flat = tiles.reshape(*tiles.shape[:2], -1)
    height = np.clip((flat - limits[0]) / max(limits[1] - limits[0], 1e-12), 0, 1)
    x = at.x[:, None] + at.width * np.linspace(0.06, 0.94, flat.shape[-1])
    y = at.y[:, None, None] + at.height * (0.92 - 0.84 * height)
    segments = np.stack([np.broadcast_to(x, y.shape), y], axis=-1)
    return LineCollection(list(segments.reshape(-1, flat.shape[-1], 2)), colors=BLUE, linewidths=0.9)


def _columns(table: Mapping[str, Any], names: Sequence[str]) -> list[np.ndarray]:
    missing = [name for name in names if name not in table]
    if missing:
        raise ValueError(f"The columns {', '.join(names)} are needed, but {', '.join(missing)} is missing: add it.")
    columns = [_vector(name, table[name]) for name in names]
    if len({len(column) for column in columns}) > 1:
        lengths = ", ".join(f"{name}: {len(column)}" for name, column in zip(names, columns, strict=True))
        raise ValueError(f"Columns must have equal lengths, but have {lengths}: give one value per row in each.")
    return columns


def _vector(name: str, values: Any) -> np.ndarray:
    vector = np.asarray(values, dtype=float)
    if vector.ndim != 1 or not len(vector):
        raise ValueError(f"{name} must be a non-empty vector, but has shape {vector.shape}: give one value per datum.")
    return vector


def _some(name: str, images: np.ndarray) -> np.ndarray:
    if images.ndim < 2 or not len(images):
        raise ValueError(f"{name} must have shape (N, *event) with N > 0, but has {images.shape}: give some data.")
    return images.astype(np.float32)


def _nats(value: float, digits: int = 2) -> str:
    return f"{value:,.{digits}f}".replace("-", "−").replace("inf", "∞")


def _count(of: np.ndarray, singular: str, plural: str = "") -> str:
    """Counts the true ones of a boolean array, or all of any other: "1 datum", "10,000 data"."""
    number = int(of.sum()) if of.dtype == bool else len(of)
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
