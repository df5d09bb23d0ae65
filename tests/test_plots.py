"""Figures show what they say: marks, bands, positions and counts, not merely that something is drawn."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from matplotlib.text import Text

from logpx import plots
from logpx.plots._style import BLUE, GREEN, RED, WIDTH

IMAGES = np.random.default_rng(0).random((7, 1, 5, 4))


def words(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(Text)).replace("\n", " ")


def axes(figure: Figure) -> Axes:
    return figure.axes[0]


def labelled(figure: Figure, start: str) -> Any:
    lines = [line for line in axes(figure).lines if str(line.get_label()).startswith(start)]
    assert len(lines) == 1
    return lines[0]


def canvas(figure: Figure) -> np.ndarray:
    return np.asarray(axes(figure).images[0].get_array())


def rendered(figure: Figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="rgba", dpi=figure.dpi)
    width, height = figure.canvas.get_width_height(physical=True)
    return np.frombuffer(buffer.getvalue(), np.uint8).reshape(height, width, 4)


def curves(valid: Any = (-120.0, -101.0, -100.0, -103.0)) -> dict[str, np.ndarray]:
    epoch = np.arange(1.0, len(valid) + 1)
    return {"epoch": epoch, "train": -99 - 20 / epoch, "valid": np.array(valid)}


def test_training_curves_mark_the_best_validation() -> None:
    figure = plots.training_curves(curves())
    assert labelled(figure, "best").get_xydata().tolist() == [[3.0, -100.0]]
    assert "best after epoch 3: −100.00 nats" in words(figure)
    assert "epochs" in axes(figure).get_xlabel() and "nats" in axes(figure).get_ylabel()


def test_training_curves_without_validation() -> None:
    figure = plots.training_curves(curves([np.nan] * 4))
    assert [line.get_label() for line in axes(figure).lines] == ["training data"]


def test_training_curves_say_what_a_cut_hides() -> None:
    bounds = np.concatenate([[-5000.0, -900.0], np.linspace(-100, -90, 40)])
    figure = plots.training_curves(curves(bounds) | {"train": bounds})
    low, high = axes(figure).get_ylim()
    assert -150 < low < -100 and -90 < high < -85
    assert "4 values below the view, down to −5,000.00 nats" in words(figure)


def test_training_curves_show_all_when_nothing_squashes_the_view() -> None:
    figure = plots.training_curves(curves([-127.3, -115.8, -112.2, -109.6]))
    assert axes(figure).get_ylim()[0] < -127.3 and "below the view" not in words(figure)


def test_training_curves_count_what_is_not_finite() -> None:
    assert "not drawn: 1 epoch" in words(plots.training_curves(curves([-1.0, -np.inf, -1.0])))


@pytest.mark.parametrize("change, message", [({"valid": np.zeros(3)}, "equal lengths"), ({"train": []}, "non-empty")])
def test_training_curves_refuse_unequal_columns(change: Any, message: Any) -> None:
    with pytest.raises(ValueError, match=message):
        plots.training_curves(curves() | change)
    with pytest.raises(ValueError, match="valid is missing"):
        plots.training_curves({"epoch": np.ones(1), "train": np.ones(1)})


def test_histogram_has_its_mean_and_interval_and_every_datum() -> None:
    values = np.random.default_rng(0).normal(-90, 24, 1000)
    figure = plots.evidence_histogram(values, error=0.5)
    mean = values.mean()
    assert labelled(figure, "mean").get_xdata() == [pytest.approx(mean)] * 2
    *bars, band = axes(figure).patches
    assert band.get_x() == pytest.approx(mean - 1.96 * 0.5)
    assert band.get_width() == pytest.approx(2 * 1.96 * 0.5)
    assert sum(bar.get_height() for bar in bars) == 1000
    assert f"mean {mean:.2f} ± 0.50 nats".replace("-", "−") in words(figure)


def test_histogram_takes_the_standard_error_of_the_mean() -> None:
    values = np.arange(100.0)
    band = axes(plots.evidence_histogram(values)).patches[-1]
    assert band.get_width() == pytest.approx(2 * 1.96 * values.std(ddof=1) / 10)


def test_histogram_counts_outliers_and_non_finite_values() -> None:
    values = np.concatenate([np.linspace(-100, -80, 98), [-9000.0, -np.inf]])
    figure = plots.evidence_histogram(values)
    assert axes(figure).get_xlim()[0] > -1000
    assert "1 datum to the left of the view, down to −9,000.00 nats" in words(figure)
    assert "1 with log p(x) = −∞" in words(figure) and "The mean over all data is not finite" in words(figure)
    assert not [line for line in axes(figure).lines if str(line.get_label()).startswith("mean")]


@pytest.mark.parametrize("values", [[-5.0], [-5.0] * 9, [np.nan, -np.inf]])
def test_histogram_of_little(values: Any) -> None:
    assert rendered(plots.evidence_histogram(np.array(values))).size


def test_curve_has_a_band_of_two_errors_and_the_elbo() -> None:
    s, mean, error = (
        np.array([32.0, 320.0, 3200.0]),
        np.array([-91.0, -90.0, -89.5]),
        np.array([0.4, 0.3, 0.2]),
    )
    figure = plots.evidence_curve(s, mean, error, -95.0)
    band = axes(figure).collections[0].get_paths()[0].vertices
    for x, low, high in zip(s, mean - 1.96 * error, mean + 1.96 * error, strict=True):
        at = band[band[:, 0] == x, 1]
        assert at.min() == pytest.approx(low) and at.max() == pytest.approx(high)
    assert set(labelled(figure, "ELBO").get_ydata()) == {-95.0}
    assert axes(figure).get_xscale() == "log"
    assert axes(figure).get_xlim()[0] <= 1 and "rises by 0.50 nats" in words(figure)


def test_curve_without_elbo_or_with_one_point_or_infinite_points() -> None:
    assert "ELBO −" not in words(plots.evidence_curve([1.0, 2.0], [-2.0, -1.0], [0.1, 0.1]))
    assert rendered(plots.evidence_curve([1.0], [-2.0], [np.nan], -2.0)).size
    figure = plots.evidence_curve([1, 2, 4], [-np.inf, -2, -1], [np.nan, 0.1, 0.1], -np.inf)
    assert "not drawn: 1 estimate" in words(figure) and len(labelled(figure, "estimate").get_xdata()) == 2
    assert rendered(plots.evidence_curve([1.0], [-np.inf], [np.nan], -np.inf)).size


def test_the_limit_of_the_curve_is_a_line_with_its_band() -> None:
    figure = plots.evidence_curve([10, 20, 40], [-3.0, -2.5, -2.25], [0.1, 0.1, 0.1], limit=(-2.0, 0.11))
    line = labelled(figure, "extrapolated")
    assert set(line.get_ydata()) == {-2.0}
    assert line.get_label() == "extrapolated −2.00 ± 0.11"
    (band,) = [patch for patch in axes(figure).patches if patch.get_height() == pytest.approx(2 * 1.96 * 0.11)]
    assert band.get_y() == pytest.approx(-2.0 - 1.96 * 0.11)
    assert "extrapolated" not in words(plots.evidence_curve([10, 20], [-3.0, -2.5], [0.1, 0.1]))


def test_pairs_are_drawn_with_the_interval_of_their_mean() -> None:
    rng = np.random.default_rng(0)
    b = rng.normal(-90, 20, 400)
    a = b + np.append(rng.normal(1, 2, 399), 300.0)
    figure = plots.paired_scores(a, b, (0.5, 1.5), confidence=0.9, names=("runs/$a", "runs/b"))
    left, right = figure.axes
    assert f"A less B is {(a - b).mean():.1f} nats on average (90% interval 0.5 to 1.5)" in words(figure)
    assert "A: runs/$a. B: runs/b." in words(figure) and "1 difference beyond the view" in words(figure)
    (band,) = [patch for patch in left.patches if patch.get_width() == pytest.approx(1.0) and patch.get_x() == 0.5]
    assert band.get_alpha() < 0.5
    mean = [line for line in left.lines if str(line.get_label()).startswith("mean")]
    assert mean[0].get_xdata()[0] == pytest.approx((a - b).mean())
    dots = next(each for each in right.collections if isinstance(each, PathCollection)).get_offsets()
    assert np.allclose(dots, np.stack([a, b], 1))
    assert rendered(figure).size


def test_pairs_of_a_model_with_itself_and_unequal_lengths() -> None:
    a = np.array([-3.0, -2.0, -5.0])
    assert "A less B is 0.00 nats" in words(plots.paired_scores(a, a, (0.0, 0.0)))
    with pytest.raises(ValueError, match="equal lengths, but have 3 and 2"):
        plots.paired_scores(a, a[:2], (0.0, 0.0))


def test_pareto_scatter_sorts_data_into_zones() -> None:
    k = np.array([-np.inf, 0.2, 0.4999, 0.5, 0.69, 0.7, 1.3, np.inf, np.nan])
    figure = plots.pareto_scatter(np.linspace(-9, -1, 9), k)
    clouds = [c for c in axes(figure).collections if isinstance(c, PathCollection)]
    assert [np.asarray(c.get_offsets())[:, 1].tolist() for c in clouds] == [
        [0.2, 0.4999],
        [0.5, 0.69],
        [0.7, 1.3],
    ]
    assert len({tuple(c.get_facecolor()[0]) for c in clouds}) == 3
    assert sorted(line.get_ydata()[0] for line in axes(figure).lines) == [0.5, 0.7]
    said = words(figure)
    assert "33.3% of 9 data" in said and "1 with $\\hat{k}$ = −∞ (constant weights)" in said
    assert "1 with $\\hat{k}$ = ∞" in said and "1 with $\\hat{k}$ undefined" in said


def test_pareto_scatter_without_a_finite_point() -> None:
    assert rendered(plots.pareto_scatter(np.array([-np.inf, -1.0]), np.array([0.1, np.nan]))).size


def test_extremes_are_the_smallest_and_the_largest_and_never_nan() -> None:
    values = np.array([-3.0, -np.inf, np.nan, -1.0, -7.0, -2.0])
    least, most = plots.extreme_indices(values, 2)
    assert least.tolist() == [1, 4] and most.tolist() == [3, 5]
    least, most = plots.extreme_indices(values[:2], 10)
    assert least.tolist() == [1] and most.tolist() == [0]


def test_extremes_show_the_images_under_their_values() -> None:
    images = np.linspace(0, 1, 7)[:, None, None, None] * np.ones((7, 1, 4, 4))
    values = np.array([-4.0, -9.0, -1.0, -5.0, -3.0, -2.0, -6.0])
    figure = plots.extremes(images, values, num=2)
    shown = [t.get_text() for t in axes(figure).texts if t.get_text().startswith("−")]
    assert shown == ["−9.0", "−6.0", "−1.0", "−2.0"]
    large = [t.get_text() for t in axes(plots.extremes(images, 1000 * values, num=1)).texts if "," in t.get_text()]
    assert large == ["−9,000", "−1,000"]
    greys = [g for g in np.unique(canvas(figure)) if (canvas(figure) == g).sum() > 1000]
    assert set(greys) >= {round(255 * images[i].max()) for i in (1, 6, 2, 5)}


def test_tiles_are_whole_pixels_of_the_right_grey() -> None:
    image = np.arange(20.0).reshape(1, 1, 5, 4) / 19
    figure = plots.image_grid(image)
    shown = canvas(figure)[..., 0]
    rows, columns = np.nonzero(shown < 255)
    top, left = rows.min(), columns.min()
    size = shown.shape[0] and int(np.sum(shown[top] == 0))
    corners = shown[top : top + 5 * size : size, left : left + 4 * size : size]
    assert corners.tolist() == np.rint(255 * image[0, 0]).tolist()
    assert (rendered(figure)[..., 0] == shown)[top : top + 5 * size].all()


def test_colours_stay_and_odd_shapes_become_lines() -> None:
    red = np.zeros((1, 3, 4, 4))
    red[:, 0] = 1
    assert (canvas(plots.image_grid(red)) == [255, 0, 0]).all(-1).sum() > 100
    figure = plots.image_grid(np.random.default_rng(0).normal(size=(5, 9)), ncols=3, limits=(-2, 2))
    lines = next(c for c in axes(figure).collections if isinstance(c, LineCollection))
    assert len([s for s in lines.get_segments() if len(s) == 9]) == 5
    assert "values from −2 (bottom) to 2 (top)" in words(figure)


def test_large_images_are_made_smaller() -> None:
    assert canvas(plots.image_grid(np.random.default_rng(0).random((24, 1, 600, 600)))).shape[1] < 3000


def test_pairs_alternate() -> None:
    figure = plots.paired_grid(np.zeros((4, 1, 3, 3)), np.ones((4, 1, 3, 3)) * 0.5, ncols=2)
    shown = canvas(figure)[..., 0]
    column = shown[:, np.nonzero((shown < 255).any(0))[0].max()]
    dark = [value for value, before in zip(column[1:], column, strict=False) if value != before and value != 255]
    assert dark == [0, 128, 0, 128]
    assert [t.get_text() for t in axes(figure).texts if t.get_text() == "data"] == ["data"] * 2
    with pytest.raises(ValueError, match="equal shapes"):
        plots.paired_grid(IMAGES, IMAGES[:3])


def test_rows_of_several_kinds_stand_in_groups() -> None:
    rows = {name: np.full((4, 1, 3, 3), grey) for name, grey in (("data", 0.0), ("mean", 0.5), ("sample", 0.8))}
    figure = plots.stacked_grid(rows, ncols=2)
    shown = canvas(figure)[..., 0]
    column = shown[:, np.nonzero((shown < 255).any(0))[0].max()]
    starts = [i for i in range(1, len(column)) if column[i] != column[i - 1] and column[i] != 255]
    assert column[starts].tolist() == [0, 128, 204] * 2
    # more air between groups than within
    steps = np.diff(starts)
    assert steps[0] == steps[1] == steps[3] and steps[2] > steps[0]
    assert [t.get_text() for t in axes(figure).texts if t.get_text()] == ["data", "mean", "sample"] * 2
    with pytest.raises(ValueError, match=r"equal shapes, but have a: .*, b: "):
        plots.stacked_grid({"a": IMAGES, "b": IMAGES[:3]})
    with pytest.raises(ValueError, match="equal shapes, but have none"):
        plots.stacked_grid({})


def spikes(num_levels: int, sharpness: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Masses of shape (L, C, H, W) around levels, the narrower the sharper."""
    k = np.arange(num_levels).reshape(-1, 1, 1, 1)
    masses = np.exp(-sharpness * np.abs(k - centre))
    return np.asarray(masses / masses.sum(0))


def test_pixels_are_chosen_by_their_entropy() -> None:
    masses = np.zeros((8, 1, 2, 3))
    # entropies of 2, 3, 0, then 1, 1, 1 bits: that of 1 or 2 bits is midway, and of equals the first counts
    for place, support in zip(np.ndindex(2, 3), (4, 8, 1, 2, 2, 2), strict=True):
        masses[:support, 0, place[0], place[1]] = 1 / support
    assert plots.pixels_by_entropy(masses).tolist() == [[0, 2], [0, 0], [0, 1]]
    # with the mirrored image as a second channel 2, 6, 2, then 2, 2, 2 bits: the first is as near to 4 as the second
    mirrored = np.concatenate([masses, masses[..., ::-1]], axis=1)
    assert plots.pixels_by_entropy(mirrored).tolist() == [[0, 0], [0, 1]]
    assert plots.pixels_by_entropy(masses[:, :, :1, :1]).tolist() == [[0, 0]]


def prediction(num_channels: int = 3, num_levels: int = 16) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (num_channels, 4, 5)
    masses = spikes(num_levels, rng.uniform(0.1, 3, shape), rng.integers(0, num_levels, shape))
    return rng.integers(0, num_levels, shape) / (num_levels - 1), masses


def steps(ax: Axes) -> list[np.ndarray]:
    return [patch.get_data().values for patch in ax.patches if isinstance(patch, StepPatch) and not patch.get_fill()]


def test_predictions_show_the_masses_and_the_true_levels_of_chosen_pixels() -> None:
    image, masses = prediction()
    names = ["red", "green given red", "blue given red and green"]
    figure = plots.predicted_levels(image[None], masses[None], means=image[None], channels=names)
    pictures = [ax for ax in figure.axes if ax.images]
    panels = [ax for ax in figure.axes if not ax.images]
    assert (len(pictures), len(panels)) == (2, 3)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [*names, "true level"]
    places = plots.pixels_by_entropy(masses)
    for number, ((row, column), ax) in enumerate(zip(places, panels, strict=True), start=1):
        pixel, levels = masses[:, :, row, column], np.rint(15 * image[:, row, column]).astype(int)
        # the highest first, at the back
        order = np.argsort(-pixel.max(0))
        assert all((a == pixel[:, c]).all() for a, c in zip(steps(ax), order, strict=True))
        dots = [line.get_xydata()[0].tolist() for line in ax.lines if line.get_marker() in "o^s"]
        assert dots == [[levels[c], pixel[levels[c], c]] for c in order]
        dotted = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"]
        assert dotted == levels[order].tolist()
        colours = [line.get_color() for line in ax.lines if line.get_linestyle() == ":"]
        assert colours == [(RED, GREEN, BLUE)[c] for c in order]
        entropy, cost = -(pixel * np.log2(pixel)).sum(), -np.log2(pixel[levels, range(3)]).sum()
        title = f"pixel {number}: entropy {entropy:.1f} bits; the true levels cost {cost:.1f} bits"
        assert ax.get_title(loc="left") == title
    for ax in pictures:
        assert [line.get_xydata()[0].tolist() for line in ax.lines] == places[:, ::-1].tolist()
        assert [t.get_text() for t in ax.texts] == ["1", "2", "3"]
        assert np.allclose(ax.images[0].get_array(), np.moveaxis(image, 0, -1))
    said = words(figure)
    assert "level, from 0 to 15 (no unit)" in said and "probability of the level" in said and "mean of p(x | z)" in said
    assert [ax.get_xlabel() != "" for ax in panels] == [False, False, True]


def test_predictions_of_several_greys_without_means() -> None:
    image, masses = prediction(1)
    figure = plots.predicted_levels(np.stack([image, image]), np.stack([masses, masses[::-1]]), title="A title.")
    assert len([ax for ax in figure.axes if ax.images]) == 2 and len(figure.axes) == 8
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["channel 0", "true level"]
    assert figure.get_suptitle() == "A title." and "mean" not in words(figure)
    assert "the true level costs" in words(figure) and rendered(figure).size
    assert figure.get_size_inches()[0] == WIDTH


def test_predictions_that_are_sure_and_wrong_cost_infinitely_much() -> None:
    masses = np.zeros((4, 5, 1, 1))
    masses[2] = 1
    figure = plots.predicted_levels(np.zeros((1, 5, 1, 1)), masses[None])
    assert "pixel 1: entropy 0.0 bits; the true levels cost ∞ bits" in words(figure)
    sure = plots.predicted_levels(np.full((1, 5, 1, 1), 2 / 3), 1.0000001 * masses[None])
    assert "pixel 1: entropy 0.0 bits; the true levels cost 0.0 bits" in words(sure)
    assert len(figure.axes) == 2 and rendered(figure).size


def test_predictions_of_other_shapes_are_refused() -> None:
    image, masses = prediction()
    with pytest.raises(ValueError, match="one prediction per image"):
        plots.predicted_levels(image[None], masses[None, :, :2])
    with pytest.raises(ValueError, match="one prediction per image"):
        plots.predicted_levels(image[None], masses[None], means=image)


def test_traversal_grid_writes_its_labels() -> None:
    figure = plots.traversal_grid(IMAGES[:6].reshape(2, 3, 1, 5, 4), ["a", "b"], ["−1", "0", "1"], x_label="value")
    assert [t.get_text() for t in axes(figure).texts] == ["a", "b", "−1", "0", "1", "value"]


def test_empty_input_is_refused() -> None:
    with pytest.raises(ValueError, match="give some data"):
        plots.image_grid(np.empty((0, 1, 2, 2)))
    with pytest.raises(ValueError, match="non-empty vector"):
        plots.evidence_histogram(np.empty(0))


def test_limits_are_those_of_pixels_or_nearly_the_range() -> None:
    assert plots.value_limits(IMAGES) == (0.0, 1.0)
    low, high = plots.value_limits(np.append(np.linspace(-3, 3, 1001), [1e9, np.nan]))
    assert low == pytest.approx(-3, abs=0.1) and high == pytest.approx(3, abs=0.1)
    assert plots.value_limits(np.full(3, 7.0)) == (6.5, 7.5)


def test_settings_of_matplotlib_stay_as_they_were() -> None:
    before = dict(matplotlib.rcParams)
    figure = plots.evidence_curve([1, 2], [-2, -1], [0.1, 0.1], -2.0)
    rendered(plots.image_grid(IMAGES))
    assert dict(matplotlib.rcParams) == before
    assert figure.get_size_inches()[0] == WIDTH
