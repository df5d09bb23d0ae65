"""Tiles: data side by side, images as they are and vectors as lines."""

from __future__ import annotations

__all__ = [
    "component_grid",
    "extreme_indices",
    "extremes",
    "image_grid",
    "paired_grid",
    "stacked_grid",
    "traversal_grid",
    "value_limits",
]

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from ._style import BLUE, TILE_DPI, TILE_WIDTH, TITLE_CHARACTERS, WIDTH, nats, styled, vector


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
    rows = {"data": originals, "recon-\nstruction": reconstructions}
    return stacked_grid(rows, ncols, title=title, limits=limits)


def stacked_grid(
    rows: Mapping[str, np.ndarray],
    ncols: int = 12,
    *,
    title: str = "Data, and what belongs to each below it.",
    limits: tuple[float, float] | None = None,
) -> Figure:
    r"""Draws data in rows, and below each row what belongs to it, one row of each kind.

    Arguments:
        rows: What stands below one another, by the label of its row, each with shape (N, \*event); see
            :func:`image_grid`.
        ncols: The number of columns; data that do not fill a row are left out.
        title: A sentence that says what is shown.
        limits: The values drawn black and white, or at bottom and top; by default :func:`value_limits`.

    Raises:
        ValueError: If the shapes differ.
    """
    shapes = {label: each.shape for label, each in rows.items()}
    if len(set(shapes.values())) != 1:
        listed = ", ".join(f"{label}: {shape}" for label, shape in shapes.items())
        raise ValueError(f"Rows must have equal shapes, but have {listed or 'none'}: give one tile of each per datum.")
    stacks = np.stack([_some(label, each) for label, each in rows.items()], axis=1)
    ncols = min(ncols, len(stacks))
    num_groups = len(stacks) // ncols
    tiles = stacks[: num_groups * ncols].reshape(num_groups, ncols, *stacks.shape[1:]).swapaxes(1, 2)
    tiles = tiles.reshape(num_groups * len(rows), ncols, *stacks.shape[2:])
    return _tile_figure(tiles, title, limits, row_labels=list(rows) * num_groups, group=len(rows))


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


def component_grid(
    means: np.ndarray,
    weights: np.ndarray,
    *,
    num: int = 60,
    ncols: int = 12,
    limits: tuple[float, float] | None = None,
) -> Figure:
    r"""Draws the means of a mixture's components, the heaviest first, with their weights in percent.

    Arguments:
        means: The means, with shape (K, \*event); see :func:`image_grid`.
        weights: The weights, with shape (K,).
        num: How many to draw, at most.
        ncols: The number of columns.
        limits: The values drawn black and white, or at bottom and top; by default :func:`value_limits`.
    """
    order = np.argsort(-vector("weights", weights), kind="stable")[:num]
    ncols = min(ncols, len(order))
    missing = -len(order) % ncols
    blank = np.full((missing, *means.shape[1:]), np.nan)
    tiles = np.concatenate([_some("means", means)[order], blank]).reshape(-1, ncols, *means.shape[1:])
    labels = np.array([_percent(weight) for weight in weights[order]] + [""] * missing).reshape(-1, ncols)
    which = "The" if len(order) == len(weights) else f"The {len(order)} heaviest of {len(weights)}"
    title = f"{which} components: the mean of each, and above it its weight."
    return _tile_figure(tiles, title, limits, tile_labels=labels.tolist())


def extreme_indices(log_evidence: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the positions of the least probable data, rising, and the most probable, falling; never NaN.

    Arguments:
        log_evidence: The estimates, in nats, with shape (N,).
        num: How many of each; fewer where the two would overlap.
    """
    values = vector("log_evidence", log_evidence)
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
    values = np.asarray(log_evidence, dtype=float)[pair]
    # large numbers are wider than a tile with a decimal
    digits = 0 if (np.abs(values[np.isfinite(values)]) >= 1000).any() else 1
    labels = [[nats(value, digits) for value in row] for row in values]
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


class _Layout(NamedTuple):
    """Where tiles stand on their canvas, in pixels: columns begin at x, rows at y (counted from the top)."""

    x: np.ndarray
    y: np.ndarray
    width: int
    height: int
    dpi: float
    bottom: int


@styled
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


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%" if share >= 0.001 else "<0.1%"


def _lines(tiles: np.ndarray, at: _Layout, limits: tuple[float, float]) -> LineCollection:
    """Returns vectors of shape (R, C, *event) as one line per tile, the first coordinate on the left."""
    flat = tiles.reshape(*tiles.shape[:2], -1)
    height = np.clip((flat - limits[0]) / max(limits[1] - limits[0], 1e-12), 0, 1)
    x = at.x[:, None] + at.width * np.linspace(0.06, 0.94, flat.shape[-1])
    y = at.y[:, None, None] + at.height * (0.92 - 0.84 * height)
    segments = np.stack([np.broadcast_to(x, y.shape), y], axis=-1)
    return LineCollection(list(segments.reshape(-1, flat.shape[-1], 2)), colors=BLUE, linewidths=0.9)


def _some(name: str, images: np.ndarray) -> np.ndarray:
    if images.ndim < 2 or not len(images):
        raise ValueError(f"{name} must have shape (N, *event) with N > 0, but has {images.shape}: give some data.")
    return images.astype(np.float32)
