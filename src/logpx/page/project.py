"""The study of a project in, one self-contained HTML page out: when it ends, why, and with what probability too late.

The page needs no network and no script, and is a function of the study alone, so that writing it twice gives the same
bytes.
"""

from __future__ import annotations

__all__ = ["project_page"]

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from .. import plots
from ..files import write_bytes
from ..plots import numbers
from ..project.words import samples_needed
from ._common import inline, png, render, with_error

if TYPE_CHECKING:
    from ..montecarlo import Estimate
    from ..project.study import Study

LEVELS = (0.5, 0.8, 0.9, 0.95)
NUM_BINS = 2000  # of which the figure draws fewer, the narrower where a tail is long
PLAIN = "plain"
FEW = 10  # terms, below which an error bar is a guess
UNRELIABLE = 0.5  # the k-hat from which on something is


def project_page(study: Study, path: Path) -> Path:
    """Writes the page of a study.

    Arguments:
        study: The study; what it has not got (deadline, risk, comparison) is left out.
        path: The HTML file that is made or replaced.

    Returns:
        The path of the page.

    Raises:
        ValueError: If the study has probabilities but no deadline.
    """
    if study.deadline is None and (study.risk is not None or study.comparison):
        raise ValueError(
            "The probability of missing a deadline needs the deadline, but the study has none: give it, or leave out "
            "risk and comparison."
        )
    figures = {name: inline(figure, png(figure)) for name, figure in _figures(study).items()}
    page = render(
        "project.html",
        name=study.project.name or "Project",
        unit=study.project.unit,
        study=study,
        figures=figures,
        quantity=_quantity(study),
        has_doubts=study.risk is not None and _has_doubts(study.risk),
        quantiles=[_quantile(study, q) for q in LEVELS],
        tasks=_tasks(study),
        has_names=any(task.name for task in study.project.tasks),
        comparison=[(name, estimate, samples_needed(estimate)) for name, estimate in study.comparison.items()],
    )
    write_bytes(path, page.encode())
    return path


def _figures(study: Study) -> dict[str, Figure]:
    project, simulation, unit = study.project, study.simulation, study.project.unit
    edges, counts = simulation.histogram(NUM_BINS)
    risk = None if study.risk is None else (study.risk.estimate, *study.risk.interval)
    figures = {
        "completion": plots.completion_histogram(
            edges,
            counts,
            mean=simulation.mean,
            deadline=study.deadline,
            probability=risk,
            quantiles={q: simulation.quantile(q) for q in LEVELS},
            unit=unit,
        ),
        "network": plots.network(
            project.ids,
            [(other, task.id) for task in project.tasks for other in task.predecessors],
            critical=project.critical_path(),
            durations=[task.duration.mean for task in project.tasks],
            criticality=simulation.criticality,
            names=[task.name for task in project.tasks],
            unit=unit,
        ),
        "criticality": plots.criticality_bars(project.ids, simulation.criticality, simulation.slack, unit=unit),
    }
    return figures | _convergence(study)


def _convergence(study: Study) -> dict[str, Figure]:
    """Draws how the estimates settle down: plain simulation by itself, because it needs far more samples."""
    traces = {name: _trace(estimate) for name, estimate in study.comparison.items()}
    figures = {"plain": {PLAIN: traces.pop(PLAIN)} if PLAIN in traces else {}, "proposals": traces}
    reference = None if study.risk is None else ("result of this page", study.risk.estimate)
    return {
        name: plots.convergence(
            series,
            quantity=_quantity(study),
            confidence=study.confidence,
            reference=reference,
        )
        for name, series in figures.items()
        if series
    }


def _trace(estimate: Estimate) -> list[tuple[int, float, float, float]]:
    """Returns the points of the running estimate, the last of them included."""
    points = [(point.num_samples, point.estimate, *point.interval) for point in estimate.trace]
    spent = estimate.num_samples + estimate.num_adaptive
    if not points or points[-1][0] < spent:
        points.append((spent, estimate.estimate, *estimate.interval))
    return points


def _quantity(study: Study) -> str:
    return "" if study.deadline is None else f"P(T ≥ {numbers.given(study.deadline)} {study.project.unit})"


def _has_doubts(risk: Estimate) -> bool:
    return risk.num_nonzero < FEW or risk.pareto_k >= UNRELIABLE or risk.reached is False


def _quantile(study: Study, q: float) -> dict[str, str]:
    """Returns a quantile and its interval, to the digits that the interval leaves."""
    value, (low, high) = study.simulation.quantile(q), study.simulation.quantile_interval(q, study.confidence)
    error = (high - low) / 4 if math.isfinite(high) and high > low else value / 100
    ends = [numbers.rounded(end, error) if math.isfinite(end) else "any time" for end in (low, high)]
    return {"level": f"{100 * q:g}", "time": numbers.rounded(value, error), "interval": " to ".join(ends)}


def _tasks(study: Study) -> list[dict[str, Any]]:
    """Returns a row of the table for each task."""
    often, slack = np.asarray(study.simulation.criticality), np.asarray(study.simulation.slack)
    error = np.sqrt(often * (1 - often) / study.simulation.num_trials)
    step = float(slack.max()) / 100
    return [
        {
            "task": task,
            "often": with_error(100 * often[i], 100 * error[i]) if error[i] > 0 else f"{100 * often[i]:.0f}",
            "slack": numbers.rounded(slack[i], step),
        }
        for i, task in enumerate(study.project.tasks)
    ]
