"""Figures of a schedule show what they say: orders, positions, bands and counts, whatever the sizes."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import matplotlib
import networkx
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from logpx import plots
from logpx.plots import numbers
from logpx.plots._layers import arrange
from logpx.plots._style import RED

OWEN = {
    "1": "",
    "2": "1",
    "3": "1",
    "4": "2",
    "5": "2",
    "6": "3",
    "7": "3",
    "8": "3",
    "9": "5 6 7",
    "10": "4 8 9",
}
EDGES = [(other, task) for task, others in OWEN.items() for other in others.split()]
MEANS = [4.0, 4.0, 2.0, 5.0, 2.0, 3.0, 2.0, 3.0, 2.0, 2.0]
PATH = ["1", "2", "4", "10"]


def words(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(Text)).replace("\n", " ")


def axes(figure: Figure) -> Axes:
    return figure.axes[0]


def drawn(figure: Figure) -> Figure:
    figure.draw_without_rendering()
    return figure


def extent(text: Text) -> Bbox:
    """Returns where a text is drawn, in inches."""
    figure = text.get_figure(root=True)
    assert isinstance(figure, Figure)
    return text.get_window_extent().transformed(figure.dpi_scale_trans.inverted())


def network(num: int, seed: int = 0, width: int = 5) -> tuple[list[str], list[tuple[str, str]]]:
    """Returns a random network: tasks of a generation wait for some of the three before."""
    rng = np.random.default_rng(seed)
    generation = np.sort(rng.integers(0, max(num // width, 1), num))
    edges = []
    for task in range(num):
        before = np.flatnonzero((generation < generation[task]) & (generation >= generation[task] - 3))
        chosen = rng.choice(before, min(len(before), 1 + rng.poisson(0.7)), replace=False)
        edges += [(f"T{other}", f"T{task}") for other in chosen]
    return [f"T{task}" for task in range(num)], edges


def boxes(figure: Figure) -> dict[str, Bbox]:
    patches = [patch for patch in axes(figure).patches if isinstance(patch, FancyBboxPatch)]
    return {
        str(patch.get_gid()).removeprefix("task "): Bbox.from_bounds(
            patch.get_x(), patch.get_y(), patch.get_width(), patch.get_height()
        )
        for patch in patches
    }


def arrows(figure: Figure) -> list[FancyArrowPatch]:
    return [patch for patch in axes(figure).patches if isinstance(patch, FancyArrowPatch)]


def course(arrow: FancyArrowPatch) -> Path:
    """Returns the middle line of an arrow, without its head."""
    path: Path = arrow._path_original
    return path


def is_red(patch: Any) -> bool:
    return tuple(patch.get_edgecolor()[:3]) == to_rgb(RED)


def owen(**options: Any) -> Figure:
    return plots.network(
        list(OWEN), EDGES, critical=PATH, durations=MEANS, criticality=np.linspace(0, 1, 10), **options
    )


def test_tasks_stand_in_the_column_of_their_longest_distance_from_the_start() -> None:
    found = boxes(owen())
    graph = networkx.DiGraph(EDGES)
    depth = {}
    for task in networkx.topological_sort(graph):
        depth[task] = max((depth[other] + 1 for other in graph.predecessors(task)), default=0)
    columns = sorted({round(box.x0, 6) for box in found.values()})
    assert {task: columns.index(round(box.x0, 6)) for task, box in found.items()} == depth
    assert all(found[a].x1 < found[b].x0 for a, b in EDGES)


def test_the_critical_path_is_red_and_its_arrows_are_thick() -> None:
    figure = owen()
    patches = [patch for patch in axes(figure).patches if isinstance(patch, FancyBboxPatch)]
    assert [patch.get_gid() for patch in patches if is_red(patch)] == [f"task {task}" for task in PATH]
    thick, thin = ([a.get_linewidth() for a in arrows(figure) if is_red(a) == red] for red in (True, False))
    assert len(thick) == len(PATH) - 1 and len(thin) == len(EDGES) - len(thick)
    assert min(thick) > 2 * max(thin)
    found = boxes(figure)
    for arrow, (a, b) in zip([a for a in arrows(figure) if is_red(a)], pairwise(PATH), strict=True):
        path = course(arrow).vertices
        assert tuple(path[0]) == pytest.approx((found[a].x1, found[a].y0 / 2 + found[a].y1 / 2))
        assert tuple(path[-1]) == pytest.approx((found[b].x0, found[b].y0 / 2 + found[b].y1 / 2))


def test_a_box_says_id_name_duration_and_criticality() -> None:
    figure = owen(names=["survey", *[""] * 8, "handing over of the building"], unit="weeks")
    said = [text.get_text() for text in axes(figure).texts]
    assert said[:3] == ["1", "survey", "4 weeks · 0%"]
    assert said[-4:] == ["10", "handing over of", "the building", "2 weeks · 100%"]
    assert "red path decides: 15 weeks" in words(figure)


def test_more_critical_tasks_are_darker() -> None:
    patches = [patch for patch in axes(owen()).patches if isinstance(patch, FancyBboxPatch)]
    shades = [sum(patch.get_facecolor()[:3]) for patch in patches]
    assert shades == sorted(shades, reverse=True) and shades[0] == 3


@pytest.mark.parametrize("num, width", [(1, 1), (3, 1), (40, 4), (100, 6), (100, 2), (100, 30)])
def test_boxes_never_overlap_and_texts_stay_within_them(num: int, width: int) -> None:
    ids, edges = network(num, width=width)
    figure = drawn(plots.network(ids, edges, durations=np.linspace(1, 20, num), criticality=np.full(num, 0.5)))
    found = boxes(figure)
    assert set(found) == set(ids)
    assert not any(a.overlaps(b) for a, b in combinations(found.values(), 2))
    height = axes(figure).get_ylim()[0]
    assert all(b.x0 > 0 and b.x1 < 6 and b.y0 > 0 and b.y1 < height for b in found.values())
    below = axes(figure).get_position().y0 * figure.get_figheight()
    for text in axes(figure).texts:
        place = extent(text)
        y = height - (np.array([place.y0, place.y1]) - below)
        homes = [b for b in found.values() if b.x0 <= place.x0 and place.x1 <= b.x1 and b.y0 < y.mean() < b.y1]
        assert len(homes) == 1 or "▸" in text.get_text(), text.get_text()
        assert place.x0 >= 0 and place.x1 <= 6, text.get_text()


@pytest.mark.parametrize("num, width", [(40, 4), (100, 6), (60, 2)])
def test_arrows_run_between_boxes_and_not_through_them(num: int, width: int) -> None:
    ids, edges = network(num, seed=1, width=width)
    figure = plots.network(ids, edges)
    inner = [box.padded(-0.01) for box in boxes(figure).values()]
    for arrow in arrows(figure):
        path = course(arrow).to_polygons(closed_only=False)[0]
        points = np.concatenate([np.linspace(a, b, 20) for a, b in pairwise(path)])
        assert not any(box.count_contains(points) for box in inner)


def test_a_tree_is_drawn_without_crossings() -> None:
    rng = np.random.default_rng(0)
    label = rng.permutation(60)
    parents = [(int(label[rng.integers(0, i)]), int(label[i])) for i in range(1, 60)]
    layers = arrange(60, parents)
    for (a, b), (c, d) in combinations(parents, 2):
        if layers.column[a] == layers.column[c]:
            assert (layers.height[a] - layers.height[c]) * (layers.height[b] - layers.height[d]) >= 0


def test_a_long_edge_bends_in_every_column_between() -> None:
    layers = arrange(4, [(0, 1), (1, 2), (2, 3), (0, 3)])
    assert [len(route) for route in layers.routes] == [2, 2, 2, 4]
    assert layers.column[list(layers.routes[3])].tolist() == [0, 1, 2, 3]


def test_a_long_chain_continues_from_row_to_row_and_margins_name_the_other_end() -> None:
    ids = [f"step{i}" for i in range(45)]
    figure = plots.network(ids, list(pairwise(ids)), critical=ids)
    found = boxes(figure)
    breaks = [i for i in range(1, 45) if found[ids[i]].x0 < found[ids[i - 1]].x0]
    assert breaks and all(found[ids[i]].y0 > found[ids[i - 1]].y1 for i in breaks)
    said = [text.get_text() for text in axes(figure).texts if "▸" in text.get_text()]
    assert said == [*(f"▸ {ids[i]}" for i in breaks), *(f"{ids[i - 1]} ▸" for i in breaks)]
    assert "continue like lines of text" in words(figure)


def test_of_a_large_network_those_most_often_critical_are_drawn_and_the_path_first() -> None:
    ids, edges = network(300, width=20)
    often = np.random.default_rng(0).random(300)
    often[7] = 0.0
    found = boxes(figure := plots.network(ids, edges, critical=["T7"], criticality=often))
    expected = {"T7"} | {f"T{i}" for i in np.argsort(-often)[:99]}
    assert set(found) == expected and "Drawn are 100 of 300 tasks, the most often critical" in words(figure)
    assert "T7" in boxes(plots.network(ids, edges, critical=["T7"]))


def test_ids_and_units_are_text_and_never_formulas() -> None:
    figure = drawn(plots.network(["a$b$", "c_1^2"], [("a$b$", "c_1^2")], names=[r"$\frac{$", "x\ny"], unit="$k$"))
    assert [text.get_text() for text in axes(figure).texts] == ["a$b$", r"$\frac{$", "c_1^2", "x y"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"ids": []}, "ids must be different and not empty"),
        ({"ids": ["a", "a", "b"]}, "ids must be different"),
        ({"edges": [("a", "x")]}, "'x' is none: add it"),
        ({"critical": ["y"]}, "'y' is none: add it"),
        ({"names": ["n"]}, "names must be one per task, but are 1 for 3 tasks"),
        ({"edges": [("a", "b"), ("b", "c"), ("c", "a")]}, r"has [abc] -> [abc] -> [abc] -> [abc]: remove one"),
    ],
)
def test_network_refuses_what_it_cannot_draw(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plots.network(**{"ids": ["a", "b", "c"], "edges": [("a", "b")], **change})


def histogram(times: np.ndarray, num_bins: int = 400, **options: Any) -> Figure:
    counts, edges = np.histogram(times, num_bins)
    quantiles = {q: float(np.quantile(times, q)) for q in (0.5, 0.8, 0.9, 0.95)}
    return plots.completion_histogram(edges, counts, mean=float(times.mean()), **{"quantiles": quantiles, **options})


TIMES = np.random.default_rng(0).gamma(6, 3, 100_000)


def test_bars_are_shares_of_all_projects() -> None:
    figure = histogram(TIMES)
    bars = axes(figure).patches
    assert 10 <= len(bars) <= 60
    for bar in bars[5:20]:
        share = np.mean((bar.get_x() <= TIMES) & (bar.get_x() + bar.get_width() > TIMES))
        width = float(np.median([b.get_width() for b in bars]))
        assert bar.get_height() == pytest.approx(100 * share * width / bar.get_width(), rel=1e-6)
    assert "of the projects (%)" in axes(figure).get_ylabel() and "(days)" in axes(figure).get_xlabel()


def test_bins_of_unequal_width_are_drawn_as_a_density() -> None:
    figure = plots.completion_histogram([0, 1, 2, 4, 5], [10, 10, 20, 10], mean=2.5)
    assert [bar.get_height() for bar in axes(figure).patches] == pytest.approx([20.0] * 4)


def test_mean_and_quantiles_stand_where_they_are() -> None:
    figure = histogram(TIMES, deadline=50.0, unit="weeks")
    at = sorted(line.get_xdata()[0] for line in axes(figure).lines if len(line.get_xdata()) == 2)
    assert at == pytest.approx(sorted([TIMES.mean(), 50.0, *np.quantile(TIMES, [0.5, 0.8, 0.9, 0.95])]))
    said = words(figure)
    assert f"P90 {np.quantile(TIMES, 0.9):.1f}" in said and f"mean {TIMES.mean():.1f}" in said
    assert f"Half of 100,000 simulated projects end within {np.median(TIMES):.1f} weeks, and 95% within" in said
    assert "P95 is the time by which 95% of the projects have ended" in said


@pytest.mark.parametrize(
    "times, deadline",
    [
        (TIMES, 18.0),
        (TIMES, 120.0),
        (TIMES + 100, 3.0),
        (1000 + TIMES / 1000, 1000.03),
        (np.sort(TIMES)[:3], 20.0),
        (np.full(10, 15.0), 15.0),
        (np.full(10, 0.0), None),
        (-np.log(np.random.default_rng(1).random(1000)), 0.01),
        (100 - TIMES, 90.0),
    ],
)
def test_labels_meet_neither_each_other_nor_lines_nor_the_edge(times: np.ndarray, deadline: float | None) -> None:
    figure = drawn(histogram(times, deadline=deadline, probability=(0.5, 0.4, 0.6)))
    ax = axes(figure)
    labels = [text for text in ax.texts if "deadline " not in text.get_text()]
    places = [extent(text) for text in labels]
    assert not any(a.overlaps(b) for a, b in combinations(places, 2))
    frame = ax.get_window_extent().transformed(figure.dpi_scale_trans.inverted())
    assert all(frame.x0 <= place.x0 and place.x1 <= frame.x1 + 0.02 for place in places)
    for line in (line for line in ax.lines if len(line.get_xdata()) == 2):
        ends = line.get_transform().transform(line.get_xydata()) / figure.dpi
        for place in places:
            crosses = place.x0 < ends[0, 0] < place.x1 and min(ends[1, 1], place.y1) > max(ends[0, 1], place.y0) + 0.02
            assert not crosses


def test_the_deadline_is_in_view_with_its_probability_and_interval() -> None:
    figure = histogram(TIMES, deadline=95.0, probability=(3.19e-5, 3.17e-5, 3.21e-5))
    low, high = axes(figure).get_xlim()
    assert TIMES.max() < 95 and low < 95 < high
    said = words(figure)
    assert "deadline 95 days, missed with a probability of 3.190×10⁻⁵ (interval 3.170×10⁻⁵ to 3.210×10⁻⁵)" in said


@pytest.mark.parametrize("deadline, side, arrow", [(7000.0, "right", "▶"), (-7000.0, "left", "◀")])
def test_a_deadline_that_is_very_far_is_pointed_to(deadline: float, side: str, arrow: str) -> None:
    figure = drawn(histogram(TIMES, deadline=deadline))
    assert axes(figure).get_xlim()[0] > -200 and axes(figure).get_xlim()[1] < 200
    assert arrow in words(figure) and f"days lies far to the {side} of the view" in words(figure)


def test_a_long_tail_is_cut_and_counted() -> None:
    times = np.concatenate([TIMES, np.linspace(80, 6000, 60)])
    figure = histogram(times, num_bins=4000)
    right = max(bar.get_x() + bar.get_width() for bar in axes(figure).patches)
    assert right < 200
    outside = int((times >= right).sum())
    assert f"{outside} projects to the right of the view, as far as 6,000 days" in words(figure)
    # a deadline in the tail keeps the bars as far as itself
    bars = axes(histogram(np.append(TIMES, 400.0), num_bins=4000, deadline=399.0)).patches
    assert max(bar.get_x() + bar.get_width() for bar in bars) > 399


def test_projects_of_one_completion_time_are_one_visible_bar() -> None:
    figure = histogram(np.full(100, 15.0), deadline=15.0)
    (bar,) = axes(figure).patches
    assert bar.get_height() == 100 and bar.get_x() < 15 < bar.get_x() + bar.get_width()
    low, high = axes(figure).get_xlim()
    assert 0.1 < bar.get_width() / (high - low) < 0.9


def test_histogram_refuses_bins_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="2 edges and 2 counts"):
        plots.completion_histogram([0, 1], [1, 1], mean=0.5)
    with pytest.raises(ValueError, match="no project is counted"):
        plots.completion_histogram([0, 1], [0], mean=0.5)


def test_criticality_is_sorted_and_slack_stands_beside_it() -> None:
    figure = drawn(plots.criticality_bars(["a", "b", "c"], [0.25, 1.0, 0.004], [1.234, 0.0, 12.0], unit="weeks"))
    ax = axes(figure)
    assert [bar.get_width() for bar in ax.patches] == [100.0, 25.0, 0.4]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b", "a", "c"]
    said = [text.get_text() for text in ax.texts]
    assert said == ["100%", "0.00", "25%", "1.23", "<1%", "12.00", "mean slack\n(weeks)"]
    assert ax.yaxis_inverted() and "Task b is critical most often: in 100% of the projects." in words(figure)
    places = [extent(text) for text in ax.texts]
    assert not any(a.overlaps(b) for a, b in combinations(places, 2))


def test_tasks_beyond_the_thirtieth_are_counted() -> None:
    often = np.linspace(1, 0, 101)
    figure = drawn(plots.criticality_bars([f"T{i}" for i in range(101)], often, np.ones(101)))
    assert len(axes(figure).patches) == 30
    assert "Not drawn: 71 more tasks, each critical in at most 70% of the projects." in words(figure)
    assert "1 more task, critical in <1%" in words(
        plots.criticality_bars([str(i) for i in range(31)], [*[0.5] * 30, 0.001], np.ones(31))
    )


def test_criticality_refuses_unequal_lengths() -> None:
    with pytest.raises(ValueError, match="ids: 1, criticality: 2, slack: 2"):
        plots.criticality_bars(["a"], [0.1, 0.2], [0.0, 1.0])


def trace(value: float, relative: float, first: int = 1000, steps: int = 8) -> list[tuple[int, float, float, float]]:
    """Returns a running estimate whose error falls as the square root of n."""
    n = [first * 2**i for i in range(steps)]
    half = [1.96 * value * relative / np.sqrt(i) for i in n]
    pairs = zip(n, half, strict=True)
    return [(i, value + (-1) ** k * h / 3, value - h, value + h) for k, (i, h) in enumerate(pairs)]


def curve(figure: Figure, name: str) -> Any:
    (line,) = [line for line in axes(figure).lines if line.get_label() == name]
    return line


def test_lines_are_the_running_estimates_and_bands_their_intervals() -> None:
    points = trace(0.3, 5)
    figure = drawn(plots.convergence({"plain": points}))
    assert curve(figure, "plain").get_xydata().tolist() == [[n, estimate] for n, estimate, _, _ in points]
    (band,) = axes(figure).collections
    corners = band.get_paths()[0].vertices
    low_end, high_end = axes(figure).get_ylim()
    for n, _, low, high in points:
        at = corners[corners[:, 0] == n, 1]
        assert at.min() == pytest.approx(max(low, low_end)) and at.max() == pytest.approx(min(high, high_end))
    assert axes(figure).get_xscale() == "log" and axes(figure).get_yscale() == "linear"
    assert "bands: 95% intervals" in words(figure) and axes(figure).get_ylabel() == "P(T ≥ 70 days)"


def test_the_last_third_of_the_bands_is_in_view_whole() -> None:
    points = trace(0.3, 5)
    low_end, high_end = axes(plots.convergence({"plain": points})).get_ylim()
    assert low_end < min(low for _, _, low, _ in points[5:]) and max(high for *_, high in points[5:]) < high_end


@pytest.mark.parametrize("early", [(10, 0.3, 0.0, 1.0), (10, 0.3, -np.inf, np.inf)])
def test_an_early_band_does_not_squash_the_picture(early: tuple[int, float, float, float]) -> None:
    points = trace(0.3, 1.0)
    low_end, high_end = axes(drawn(plots.convergence({"plain": [early, *points]}))).get_ylim()
    assert high_end - low_end < 2 * (points[5][3] - points[5][2])


def test_estimates_that_span_more_than_a_factor_of_ten_get_a_logarithmic_axis() -> None:
    narrow = {"a": trace(1e-5, 3), "b": trace(6e-5, 3)}
    wide = {"a": trace(1e-5, 3), "b": trace(3e-4, 3)}
    assert axes(plots.convergence(narrow)).get_yscale() == "linear"
    figure = plots.convergence(wide)
    assert axes(figure).get_yscale() == "log" and "(log scale)" in axes(figure).get_ylabel()
    assert axes(figure).get_ylim()[0] > 1e-6
    signed = {"a": [(1, -1.0, -2.0, 0.0), (2, 5.0, 4.0, 6.0), (3, 0.1, 0.0, 0.2)]}
    assert axes(plots.convergence(signed)).get_yscale() == "linear"


def test_an_estimate_without_a_hit_is_a_triangle_at_the_lower_edge() -> None:
    points = [(10**k, 0.0, 0.0, 3.7 / 10**k) for k in range(2, 5)] + [
        (10**5, 1e-4, 5e-5, 2e-4),
        (10**6, 9e-6, 5e-6, 2e-5),
    ]
    figure = drawn(plots.convergence({"plain": points}))
    assert axes(figure).get_yscale() == "log"
    (marks,) = [line for line in axes(figure).lines if str(line.get_gid()) == "no hit: plain"]
    assert marks.get_xdata().tolist() == [100, 1000, 10_000]
    y = axes(figure).transAxes.inverted().transform(marks.get_transform().transform(marks.get_xydata()))[:, 1]
    assert (y < 0.05).all()
    drawn_estimates = np.asarray(curve(figure, "plain").get_ydata())
    assert np.isnan(drawn_estimates[:3]).all() and drawn_estimates[3:].tolist() == [1e-4, 9e-6]
    assert "no hit yet" in words(figure)


def test_without_any_hit_the_upper_end_of_the_interval_is_shown() -> None:
    points = [(n, 0.0, 0.0, 3.69 / n) for n in (1000, 10_000, 100_000, 5_000_000)]
    figure = drawn(plots.convergence({"plain": points}, reference=("importance", 1e-16)))
    low, high = axes(figure).get_ylim()
    assert low < 1e-16 and high > 7.38e-7
    assert "After 5,000,000 samples without a hit, P(T ≥ 70 days) may be up to 7.38×10⁻⁷." in words(figure)
    alone = drawn(plots.convergence({"weights": [(n, 0.0, 0.0, 1.0) for n in (10, 100)]}))
    assert axes(alone).get_ylim()[1] >= 1


def test_a_bound_of_one_does_not_squash_tiny_probabilities() -> None:
    figure = drawn(plots.convergence({"auto": trace(1e-9, 4), "lost": [(1000, 0.0, 0.0, 1.0), (9000, 0.0, 0.0, 1.0)]}))
    assert axes(figure).get_ylim()[1] < 1e-7


def test_the_reference_is_a_line_in_view_or_a_note() -> None:
    figure = drawn(plots.convergence({"a": trace(0.3, 1)}, reference=("truth", 0.31)))
    line = curve(figure, "truth: 0.310")
    assert set(line.get_ydata()) == {0.31} and axes(figure).get_ylim()[1] > 0.31
    assert "Outside of the view: truth." in words(plots.convergence({"a": trace(0.3, 0.01)}, reference=("truth", 0.9)))


def test_seven_series_differ_in_colour_and_style_and_all_are_named() -> None:
    names = [f"proposal {i}" for i in range(7)]
    figure = drawn(plots.convergence({name: trace(3e-5, 2 + i) for i, name in enumerate(names)}))
    lines = [curve(figure, name) for name in names]
    assert len({line.get_color() for line in lines}) == 7
    assert all(a._dash_pattern != b._dash_pattern for a, b in pairwise(lines))
    legend = axes(figure).get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()][:7] == names
    assert legend.get_window_extent().x1 <= figure.bbox.x1 + 1


def test_ticks_are_written_for_people() -> None:
    points = trace(1e-9, 4, steps=13)
    figure = drawn(plots.convergence({"a": points}))
    x, y = ([label.get_text() for label in axis.get_ticklabels()] for axis in (axes(figure).xaxis, axes(figure).yaxis))
    assert "1,000,000" in x and all("e" not in text for text in x + y)
    assert all("×10⁻" in text or text in ("0", "10⁻⁹") for text in y)


def test_single_points_and_values_that_are_not_finite() -> None:
    figure = drawn(plots.convergence({"a$b$ " + 40 * "x": [(1000, 0.3, 0.27, 0.33)]}, title="One."))
    (interval,) = axes(figure).collections
    assert np.sort(interval.get_paths()[0].vertices[:, 1]).tolist() == [0.27, 0.33]
    broken = drawn(plots.convergence({"a": [(1, np.nan, -np.inf, np.inf), (2, np.nan, np.nan, np.nan)]}))
    assert "Not finite, and not drawn: 2 estimates." in words(broken)
    outside = drawn(plots.convergence({"a": [(10, -50.0, -60, -40), *trace(0.3, 1)]}))
    assert "1 estimate outside of the view." in words(outside)


@pytest.mark.parametrize("traces", [{}, {"a": []}, {"a": [(1, 2, 3)]}, {"a": [(0, 0.1, 0.0, 0.2)]}])
def test_traces_without_points_are_refused(traces: Any) -> None:
    with pytest.raises(ValueError, match="at least one"):
        plots.convergence(traces)


def test_numbers_are_never_rounded_to_nothing_or_to_all() -> None:
    assert [numbers.share(x) for x in (0.0, 1e-9, 0.004, 0.9999, 1.0)] == ["0%", "<1%", "<1%", ">99%", "100%"]
    assert [numbers.short(x) for x in (69.5, 7.196, 0.1, 12_345.0)] == ["69.5", "7.2", "0.1", "12,345"]
    assert numbers.probability(0.99997) == "99.9970%" and numbers.probability(1e-320).endswith("×10⁻³²⁰")
    assert numbers.one_in(1e-320) == "1 in ∞" and numbers.one_in(0.999) == ">99 in 100"
    assert numbers.probability_with_error(9.9996e-6, 1e-8) == "(1.000 ± 0.001)×10⁻⁵"
    assert numbers.probability_with_error(0.0, 0.0) == "0" and numbers.probability_with_error(0.5, np.inf) == "50%"


def test_settings_of_matplotlib_stay_as_they_were() -> None:
    before = dict(matplotlib.rcParams)
    drawn(owen())
    drawn(histogram(TIMES))
    drawn(plots.convergence({"a": trace(0.3, 1)}))
    assert dict(matplotlib.rcParams) == before
