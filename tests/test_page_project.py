"""The page of a project stands alone, says what the study says with every unit, and can always be written."""

from __future__ import annotations

import dataclasses
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from logpx import plots
from logpx.montecarlo import Estimate, Trace, expectation, importance_sampling
from logpx.page import project as page_room
from logpx.page import project_page
from logpx.project import Project, Task, example, parse_duration, simulate
from logpx.project.study import Study

FIGURES = ["completion", "network", "criticality", "plain", "proposals"]
STEPS = (1000, 2000, 5000, 10_000)


def plain(threshold: float, num_samples: int = 20_000) -> Estimate:
    return expectation(lambda x: x > threshold, Normal(0.0, 1.0), num_samples=num_samples, trace=STEPS)


def weighted(threshold: float, mean: float, num_adaptive: int = 0) -> Estimate:
    p, q = Normal(0.0, 1.0), Normal(mean, 1.0)
    found = importance_sampling(lambda x: x > threshold, p, q, num_samples=20_000, trace=STEPS)
    return dataclasses.replace(found, num_adaptive=num_adaptive)


class FakeSimulation:
    """What the page asks of a simulation, from times that are given."""

    num_trials, seed = 400, (3,)
    criticality, slack = np.array([1.0, 0.25, 0.0]), np.array([0.0, 1.5, 12.25])

    def __init__(self, times: np.ndarray) -> None:
        self.times = times
        self.mean, self.sd = float(times.mean()), float(times.std(ddof=1))
        self.mean_error = self.sd / math.sqrt(self.num_trials)

    def quantile(self, q: float) -> float:
        return float(np.quantile(self.times, q))

    def quantile_interval(self, q: float, confidence: float = 0.95) -> tuple[float, float]:
        assert confidence in (0.9, 0.95)
        return self.quantile(q) - 0.5, math.inf if q > 0.94 else self.quantile(q) + 0.5

    def histogram(self, num_bins: int) -> tuple[np.ndarray, np.ndarray]:
        counts, edges = np.histogram(self.times, num_bins)
        return edges, counts


def project(name: str = "A house", unit: str = "weeks") -> Project:
    survey = Task("1", parse_duration("exponential(4)"), name="survey")
    walls = Task("2", parse_duration("triangular(2, 3, 7)"), ("1",))
    roof = Task("3", parse_duration(2), ("1", "2"), "roof")
    return Project((survey, walls, roof), name=name, unit=unit)


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what takes the time, where a test only reads."""
    monkeypatch.setattr(page_room, "png", lambda figure: figure.get_suptitle().encode())


def study(**changes: Any) -> Study:
    risk = weighted(4.0, 4.0, num_adaptive=3000)
    known: dict[str, Any] = {
        "project": project(),
        "deadline": 40.5,
        "simulation": FakeSimulation(np.random.default_rng(0).gamma(9, 1.2, 400)),
        "risk": risk,
        "proposal": "auto",
        "comparison": {"plain": plain(3.5), "auto": risk, "scale=3": weighted(4.0, 3.0)},
        "provenance": {"logpx": "0.2", "file": "house.yaml"},
    }
    return Study(**(known | changes))


class Page(HTMLParser):
    """Every tag with its attributes, the text as a reader sees it, and the rows of tables."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.in_cell = False
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.in_cell:
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())

    @property
    def figures(self) -> list[str | None]:
        return [attributes["id"] for tag, attributes in self.tags if tag == "figure"]

    def row(self, start: str) -> list[str]:
        (row,) = [row for row in self.rows if row[0] == start]
        return row


def write(known: Any, path: Path) -> str:
    assert project_page(known, path) == path
    return path.read_text(encoding="utf-8")


def read(path: Path, **changes: Any) -> Page:
    return Page(write(study(**changes), path / "page.html"))


def test_the_page_stands_alone_and_tells_its_story_in_order(tmp_path: Path) -> None:
    html = write(study(), tmp_path / "new" / "folder" / "page.html")
    page = Page(html)
    assert page.figures == FIGURES
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == len(FIGURES)
    assert all(str(image["src"]).startswith("data:image/png;base64,") and image["alt"] for image in images)
    links = [a[name] for _, a in page.tags for name in ("src", "href", "srcset", "action") if name in a]
    assert all(str(link).startswith("data:") for link in links)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "url(" not in html and "@import" not in html and "http" not in html
    assert sum(tag == "figcaption" for tag, _ in page.tags) == len(FIGURES)


@pytest.mark.usefixtures("unseen")
def test_the_headline_gives_probability_interval_odds_and_samples(tmp_path: Path) -> None:
    known = study()
    text = Page(write(known, tmp_path / "page.html")).text
    # P(X > 4) = 3.167e-5 for a standard normal X, and the estimate is within 1% of it
    estimate, error = known.risk.estimate * 1e5, known.risk.standard_error * 1e5
    assert f"P(T ≥ 40.5 weeks) = ({estimate:.3f} ± {error:.3f})×10⁻⁵" in text
    assert f"1 in {round(1 / known.risk.estimate, -2):,.0f} projects takes 40.5 weeks or longer" in text
    low, high = known.risk.interval
    assert f"95% interval is {low * 1e5:.3f}×10⁻⁵ to {high * 1e5:.3f}×10⁻⁵" in text
    assert "samples 23,000 , 3,000 of them to fit the proposal" in text
    assert "estimator importance , proposal auto , seed 0" in text
    assert text.count(known.risk.diagnosis) == 1


@pytest.mark.usefixtures("unseen")
def test_an_estimate_in_doubt_is_flagged(tmp_path: Path) -> None:
    sure, doubtful = study().risk, plain(3.5, 5000)
    assert sure.pareto_k < 0.5 and 0 < doubtful.num_nonzero < 10
    heavy = dataclasses.replace(sure, pareto_k=0.8)
    capped = dataclasses.replace(sure, reached=False)
    for risk, expected in ((sure, 0), (doubtful, 1), (heavy, 1), (capped, 1)):
        page = read(tmp_path, risk=risk)
        assert sum(a.get("class") == "flags" for _, a in page.tags) == expected
        assert sum(a.get("class") == "headline relaxed" for _, a in page.tags) == expected
        assert risk.diagnosis in page.text


@pytest.mark.usefixtures("unseen")
def test_notes_and_another_confidence_are_shown(tmp_path: Path) -> None:
    page = read(tmp_path, notes=("The probability is exactly 0.",), confidence=0.9)
    assert sum(tag == "li" for tag, _ in page.tags) == 3 and "The probability is exactly 0." in page.text
    assert page.rows[0][2] == "90% interval (weeks)" and page.row("proposal")[2].endswith("90% interval")
    assert page.text.count("90% interval") == 3 and "95% interval" not in page.text


@pytest.mark.usefixtures("unseen")
def test_without_a_hit_the_page_says_what_is_still_possible(tmp_path: Path) -> None:
    page = read(tmp_path, risk=plain(20.0), comparison={"plain": plain(20.0), "scale=3": weighted(20.0, 0.5)})
    assert "P(T ≥ 40.5 weeks) = 0 no simulated project took 40.5 weeks or longer" in page.text
    assert "95% interval is 0 to 1.84×10⁻⁴ (0 to 1 in 5,420)" in page.text
    assert page.row("plain")[1:] == ["0", "0 to 1.84×10⁻⁴", "20,000 (0)", "undefined", "unknown"]
    assert page.row("scale=3")[1:3] == ["0", "0 to 100%"]


@pytest.mark.usefixtures("unseen")
def test_a_likely_delay_is_given_in_percent(tmp_path: Path) -> None:
    page = read(tmp_path, risk=plain(0.0))
    assert "50 in 100 projects take 40.5 weeks or longer" in page.text and "% ± 0.35%" in page.text


@pytest.mark.usefixtures("unseen")
def test_quantiles_have_their_intervals_and_units(tmp_path: Path) -> None:
    known = study()
    page = Page(write(known, tmp_path / "page.html"))
    assert page.rows[0] == ["of all projects", "have ended after (weeks)", "95% interval (weeks)"]
    for q in (0.5, 0.8, 0.9):
        value = known.simulation.quantile(q)
        interval = f"{value - 0.5:.2f} to {value + 0.5:.2f}"
        assert page.row(f"{100 * q:g}% (P{100 * q:g})") == [f"{100 * q:g}% (P{100 * q:g})", f"{value:.2f}", interval]
    assert page.row("95% (P95)")[2].endswith(" to any time")
    simulation = known.simulation
    assert page.row("mean")[1] == f"{simulation.mean:.2f} ± {simulation.mean_error:.2f}"
    assert page.row("standard deviation")[1] == f"{simulation.sd:.2f}"
    assert f"would take {project().mean_completion:g} weeks" in page.text


@pytest.mark.usefixtures("unseen")
def test_tasks_are_listed_with_their_criticality_and_slack(tmp_path: Path) -> None:
    page = read(tmp_path)
    units = ["duration (weeks)", "mean (weeks)", "critical (% of projects)", "mean slack (weeks)"]
    assert page.row("task")[1:] == ["name", "waits for", *units]
    # the standard error of a share of 0.25 of 400 trials is sqrt(0.25 * 0.75 / 400) = 2.17%
    assert page.row("1") == ["1", "survey", "–", "exponential(4)", "4", "100", "0.00"]
    assert page.row("2") == ["2", "", "1", "triangular(2, 3, 7)", "4", "25.0 ± 2.2", "1.50"]
    assert page.row("3") == ["3", "roof", "1, 2", "2", "2", "0", "12.25"]


@pytest.mark.usefixtures("unseen")
def test_the_comparison_gives_errors_costs_and_samples_needed(tmp_path: Path) -> None:
    known = study()
    page = Page(write(known, tmp_path / "page.html"))
    for name, estimate in known.comparison.items():
        row = page.row(name)
        needed = estimate.num_samples * (estimate.standard_error / estimate.estimate / 0.01) ** 2
        assert float(row[5].replace(",", "")) == pytest.approx(needed + estimate.num_adaptive, rel=0.05)
        assert row[3] == f"{20_000 + estimate.num_adaptive:,} ({estimate.num_adaptive:,})"
    assert page.row("auto")[4] == f"{known.risk.pareto_k:.2f}".replace("-", "−") and page.row("plain")[4] == "−∞"
    assert page.row("proposal")[1:3] == ["P(T ≥ 40.5 weeks) ± standard error", "P(T ≥ 40.5 weeks) 95% interval"]


@pytest.mark.usefixtures("unseen")
def test_plain_simulation_has_a_figure_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    convergence = plots.convergence

    def spy(traces: Any, **options: Any) -> Any:
        calls.append((traces, options))
        return convergence(traces, **options)

    monkeypatch.setattr(plots, "convergence", spy)
    known = study()
    write(known, tmp_path / "page.html")
    assert [list(traces) for traces, _ in calls] == [["plain"], ["auto", "scale=3"]]
    first = known.comparison["plain"].trace[0]
    assert calls[0][0]["plain"][0] == (1000, first.estimate, *first.interval)
    # the last point counts all samples, those of the fit included
    assert calls[1][0]["auto"][-1] == (23_000, known.risk.estimate, *known.risk.interval)
    assert len(calls[1][0]["auto"]) == len(STEPS) + 1
    assert all(options["reference"][1] == known.risk.estimate for _, options in calls)
    assert all(options["quantity"] == "P(T ≥ 40.5 weeks)" and options["confidence"] == 0.95 for _, options in calls)


@pytest.mark.usefixtures("unseen")
def test_figures_get_the_numbers_of_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, Any] = {}

    def spy(name: str, draw: Any) -> Any:
        return lambda *given, **options: calls.update({name: (given, options)}) or draw(*given, **options)

    for name in ("completion_histogram", "network", "criticality_bars"):
        monkeypatch.setattr(plots, name, spy(name, getattr(plots, name)))
    known = study()
    write(known, tmp_path / "page.html")
    (_, counts), options = calls["completion_histogram"]
    quantiles = {q: known.simulation.quantile(q) for q in (0.5, 0.8, 0.9, 0.95)}
    assert counts.sum() == 400 and options["quantiles"] == quantiles and options["mean"] == known.simulation.mean
    assert options["deadline"] == 40.5 and options["probability"] == (known.risk.estimate, *known.risk.interval)
    (ids, edges), options = calls["network"]
    assert list(ids) == ["1", "2", "3"] and edges == [("1", "2"), ("1", "3"), ("2", "3")]
    assert options["critical"] == ("1", "2", "3") and options["durations"] == pytest.approx([4.0, 4.0, 2.0])
    assert options["criticality"] is known.simulation.criticality and options["names"] == ["survey", "", "roof"]
    (_, often, slack), _ = calls["criticality_bars"]
    assert often is known.simulation.criticality and slack is known.simulation.slack
    assert all(options["unit"] == "weeks" for _, options in calls.values())


@pytest.mark.usefixtures("unseen")
def test_a_trace_that_reaches_the_end_is_not_lengthened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    convergence = plots.convergence
    monkeypatch.setattr(plots, "convergence", lambda traces, **_: calls.append(traces) or convergence(traces))
    whole = plain(1.0)
    whole = dataclasses.replace(whole, trace=(*whole.trace, Trace(20_000, 0.1, 0.0, (0.0, 0.2))))
    write(study(comparison={"plain": whole}), tmp_path / "page.html")
    assert [point[0] for point in calls[0]["plain"]] == [*STEPS, 20_000]


@pytest.mark.usefixtures("unseen")
def test_what_a_study_has_not_got_is_left_out(tmp_path: Path) -> None:
    bare = read(tmp_path, deadline=None, risk=None, comparison={}, provenance={})
    assert bare.figures == FIGURES[:3] and "No deadline was given." in bare.text
    assert "Provenance" not in bare.text and "P(T" not in bare.text and "mean completion" in bare.text
    unknown = read(tmp_path, risk=None, comparison={"auto": study().risk})
    assert "missing the deadline of 40.5 weeks was not estimated" in unknown.text
    assert unknown.figures == [*FIGURES[:3], "proposals"]
    assert read(tmp_path, comparison={"plain": plain(1.0)}).figures == FIGURES[:4]
    tasks = tuple(dataclasses.replace(task, name="") for task in project().tasks)
    assert read(tmp_path, project=Project(tasks)).row("task")[1] == "waits for"


@pytest.mark.usefixtures("unseen")
def test_probabilities_without_a_deadline_are_refused(tmp_path: Path) -> None:
    for change in ({"comparison": {}}, {"risk": None}):
        with pytest.raises(ValueError, match="needs the deadline, but the study has none: give it"):
            project_page(study(deadline=None, **change), tmp_path / "page.html")


def test_a_name_is_text_and_never_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script> $x$"
    task = Task(evil, parse_duration("exponential(4)"), name=evil)
    others = [Task(str(i), parse_duration(1), (evil,)) for i in range(2)]
    known = study(
        project=Project((task, *others), name=evil, unit="<b>$w"),
        proposal=evil,
        comparison={evil: study().risk},
        provenance={evil: evil},
    )
    page = Page(write(known, tmp_path / "page.html"))
    assert "script" not in {tag for tag, _ in page.tags} and page.text.count(evil) >= 8
    assert sum(tag == "b" for tag, _ in page.tags) == sum(tag == "b" for tag, _ in read(tmp_path).tags)


def test_writing_again_gives_the_same_bytes_and_changes_no_state(tmp_path: Path) -> None:
    known, path = study(), tmp_path / "page.html"
    first = write(known, path)
    torch.rand(3)
    before = torch.get_rng_state()
    assert write(known, path) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert [file.name for file in tmp_path.rglob("*")] == ["page.html"]


@pytest.mark.usefixtures("unseen")
def test_a_failure_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write(study(), path := tmp_path / "page.html")

    def fail(*_: Any) -> str:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        project_page(study(deadline=41.0), path)
    monkeypatch.undo()
    assert path.read_text(encoding="utf-8") == first and len(list(tmp_path.rglob("*"))) == 1


def test_a_real_simulation_gives_a_page(tmp_path: Path) -> None:
    owen = example()
    known = study(project=owen, simulation=simulate(owen, 2000), deadline=70.0)
    page = Page(write(known, tmp_path / "page.html"))
    assert page.figures == FIGURES and "simulated 2,000 times; all times are in days" in page.text
    single = Project((Task("only", parse_duration(3)),))
    known = study(project=single, simulation=simulate(single, 100), deadline=None, risk=None, comparison={})
    assert Page(write(known, tmp_path / "page.html")).row("50% (P50)")[1:] == ["3.000", "3.000 to 3.000"]
