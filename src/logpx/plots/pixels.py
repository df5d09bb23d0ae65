"""What a model predicts for single pixels: the probability of every level, beside the image that they belong to."""

from __future__ import annotations

__all__ = ["pixels_by_entropy", "predicted_levels"]

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ._style import BLUE, CHART_DPI, GREEN, GREY, INK, RED, TITLE_CHARACTERS, WIDTH, nats, styled

# In inches: the side of an image; where panels begin, how high one is, and the step from one to the next; and what is
# above the first image and below the last panel.
IMAGE, PANEL_LEFT, PANEL, STEP = 1.4, 2.15, 0.66, 1.0
HEAD, LEGEND, FOOT = 0.32, 0.24, 0.6
COLOURS, MARKERS = (RED, GREEN, BLUE), ("o", "^", "s")


@styled
def predicted_levels(
    images: np.ndarray,
    masses: np.ndarray,
    *,
    means: np.ndarray | None = None,
    channels: Sequence[str] = (),
    title: str = "What is predicted for single pixels: the probability of every level.",
) -> Figure:
    r"""Draws what is predicted for a sure, a middling and an unsure pixel of each image, and the true levels.

    Arguments:
        images: The data, as levels divided by L - 1, with shape (N, C, H, W).
        masses: The predicted probabilities of the levels, with shape (N, L, C, H, W).
        means: The means of the predictions, drawn below the images, with their shape; by default nothing.
        channels: The names of the C channels; by default their numbers.
        title: A sentence that says what is shown.

    Raises:
        ValueError: If the shapes disagree.
    """
    _check_shapes(images, masses, images if means is None else means)
    places = [pixels_by_entropy(each) for each in masses]
    title = textwrap.fill(title, TITLE_CHARACTERS)
    top = HEAD + 0.17 * title.count("\n") + LEGEND
    height = STEP * 3 + FOOT
    canvas = _Canvas(top + len(images) * height)
    canvas.figure.suptitle(title, x=0.0, y=1 - 0.04 / canvas.height, ha="left", va="top", fontsize=10)
    _legend(canvas, top, channels, num_channels=images.shape[1])
    for i, chosen in enumerate(places):
        pictures = {"data": images[i]} if means is None else {"data": images[i], "mean of p(x | z)": means[i]}
        _images(canvas, top + i * height, pictures, chosen)
        _panels(canvas, top + i * height, images[i], masses[i], chosen)
    return canvas.figure


def pixels_by_entropy(masses: np.ndarray) -> np.ndarray:
    r"""Returns the pixels whose prediction has the lowest entropy, one midway and the highest.

    The entropy of a pixel is :math:`-\sum_{ck} P_c(k) \log_2 P_c(k)`, in bits, summed over its channels.

    Arguments:
        masses: The predicted probabilities of the levels, with shape (L, C, H, W).

    Returns:
        Rows and columns, with shape (P, 2); P is 3, or less in an image of fewer pixels.
    """
    entropy = _entropy(masses).sum(0)
    midway = np.abs(entropy - (entropy.min() + entropy.max()) / 2)
    chosen = dict.fromkeys(int(i) for i in (entropy.argmin(), midway.argmin(), entropy.argmax()))
    return np.stack(np.unravel_index(list(chosen), entropy.shape), axis=-1)


def _check_shapes(images: np.ndarray, masses: np.ndarray, means: np.ndarray) -> None:
    expected = (len(images), *masses.shape[1:2], *images.shape[1:])
    if images.ndim != 4 or not images.size or masses.shape != expected or means.shape != images.shape:
        raise ValueError(
            "Images and means must have shape (N, C, H, W) and masses (N, L, C, H, W), but have "
            f"{images.shape}, {means.shape} and {masses.shape}: give one prediction per image."
        )


class _Canvas:
    """A figure on which places are told in inches from the top left."""

    def __init__(self, height: float) -> None:
        self.height = height
        self.figure = Figure(figsize=(WIDTH, height), dpi=CHART_DPI, facecolor="white")
        FigureCanvasAgg(self.figure)

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        bottom = 1 - (top + height) / self.height
        return self.figure.add_axes((left / WIDTH, bottom, width / WIDTH, height / self.height))

    def text(self, left: float, top: float, text: str, **options: Any) -> None:
        self.figure.text(left / WIDTH, 1 - top / self.height, text, fontsize=8.5, **options)


def _panels(canvas: _Canvas, top: float, image: np.ndarray, masses: np.ndarray, places: np.ndarray) -> None:
    """Draws the predictions of the chosen pixels below one another, on one axis of levels."""
    num_levels, num_places = len(masses), len(places)
    for number, (row, column) in enumerate(places.tolist(), start=1):
        ax = canvas.axes(PANEL_LEFT, top + number * STEP - PANEL, WIDTH - PANEL_LEFT - 0.08, PANEL)
        levels = np.rint(image[:, row, column] * (num_levels - 1)).astype(int)
        _panel(ax, number, masses[:, :, row, column], levels)
        ax.tick_params(labelbottom=number == num_places)
    ax.set_xlabel(f"level, from 0 to {num_levels - 1} (no unit)", fontsize=8.5)
    middle = top + (num_places * STEP + STEP - PANEL) / 2
    canvas.text(PANEL_LEFT - 0.6, middle, "probability of the level", rotation=90, ha="center", va="center")


def _legend(canvas: _Canvas, top: float, channels: Sequence[str], num_channels: int) -> None:
    names = list(channels) or [f"channel {c}" for c in range(num_channels)]
    looks = zip(names, _looks(num_channels), strict=True)
    handles = [Line2D([], [], color=colour, label=name) for name, (colour, _) in looks]
    handles.append(Line2D([], [], color=GREY, linestyle=":", marker="o", linewidth=1, label="true level"))
    place = (-0.005, 1 - (top - 0.02) / canvas.height)
    options: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": place, "ncols": 8, "borderaxespad": 0}
    canvas.figure.legend(handles=handles, fontsize=8.5, **options)


def _images(canvas: _Canvas, top: float, images: Mapping[str, np.ndarray], places: np.ndarray) -> None:
    """Draws images below one another, with their names and with the chosen pixels numbered in each."""
    for name, image in images.items():
        canvas.text(0, top + 0.16, name, va="bottom")
        ax = canvas.axes(0, top + 0.2, IMAGE, IMAGE)
        shown = image if len(image) == 3 else np.broadcast_to(image.mean(0), (3, *image.shape[1:]))
        ax.imshow(np.clip(np.moveaxis(shown, 0, -1), 0, 1), interpolation="nearest")
        ax.set_anchor("NW")
        ax.set_axis_off()
        for number, (row, column) in enumerate(places.tolist(), start=1):
            _mark(ax, str(number), row, column, is_left=column < image.shape[-1] / 2)
        top += IMAGE + 0.28


def _mark(ax: Axes, label: str, row: int, column: int, is_left: bool) -> None:
    """Draws a square around a pixel, and its number on the side that has more room."""
    stroke = [withStroke(linewidth=2.2, foreground="white")]
    square: dict[str, Any] = {"markersize": 5, "fillstyle": "none", "markeredgewidth": 0.9, "clip_on": False}
    ax.plot(column, row, "s", color=INK, path_effects=stroke, **square)
    offset, side = ((5, 0), "left") if is_left else ((-5, 0), "right")
    at: dict[str, Any] = {"xytext": offset, "textcoords": "offset points", "ha": side, "va": "center"}
    ax.annotate(label, (column, row), fontsize=8.5, path_effects=stroke, **at)


def _panel(ax: Axes, number: int, masses: np.ndarray, levels: np.ndarray) -> None:
    """Draws one pixel's predicted masses, of shape (L, C), and its true levels, of shape (C,)."""
    num_levels, num_channels = masses.shape
    edges = np.arange(num_levels + 1) - 0.5
    true = masses[levels, np.arange(num_channels)]
    dot: dict[str, Any] = {"markersize": 4.5, "markeredgecolor": "white", "markeredgewidth": 0.6, "clip_on": False}
    # the highest at the back, where it hides no other
    for depth, c in enumerate(np.argsort(-masses.max(0), kind="stable"), start=2):
        colour, marker = _looks(num_channels)[c]
        ax.stairs(masses[:, c], edges, color=colour, alpha=0.18, fill=True, zorder=depth)
        ax.stairs(masses[:, c], edges, color=colour, linewidth=0.9, zorder=depth)
        ax.axvline(levels[c], color=colour, linestyle=":", linewidth=0.9, zorder=depth)
        ax.plot(levels[c], true[c], marker, color=colour, zorder=20, **dot)
    ax.set_title(f"pixel {number}: {_bits(masses, true)}", loc="left", fontsize=8.5, pad=4)
    ax.set(xlim=(-0.02 * num_levels, 1.02 * num_levels - 1), ylim=(0, 1.12 * masses.max()))
    ax.set_xticks(np.unique(np.rint(np.linspace(0, num_levels - 1, 5))))
    ax.yaxis.set_major_locator(MaxNLocator(3))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    ax.tick_params(labelsize=8)


def _bits(masses: np.ndarray, true: np.ndarray) -> str:
    """Says how much is uncertain about a pixel, and what its true levels cost."""
    with np.errstate(divide="ignore"):
        # a mass that rounding makes larger than one costs nothing, rather than less
        entropy, cost = (nats(max(bits.sum(), 0.0), 1) for bits in (_entropy(masses), -np.log2(true)))
    return f"entropy {entropy} bits; the true level{' costs' if len(true) == 1 else 's cost'} {cost} bits"


def _looks(num_channels: int) -> list[tuple[str, str]]:
    """Returns a colour and a marker for each channel: ink for one alone, else red, green and blue in turn."""
    return [(INK, "o")] if num_channels == 1 else [(COLOURS[c % 3], MARKERS[c % 3]) for c in range(num_channels)]


def _entropy(masses: np.ndarray) -> np.ndarray:
    """Returns the entropies over the first axis, in bits; a mass of zero adds nothing."""
    entropy: np.ndarray = -(masses * np.log2(np.where(masses > 0, masses, 1.0))).sum(0)
    return entropy
