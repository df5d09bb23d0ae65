"""What a study says in words: lines for a terminal, each number with its unit."""

from __future__ import annotations

__all__ = ["lines", "one_in", "samples_needed"]

import math
from collections.abc import Iterator, Sequence

from ..montecarlo.estimate import Estimate, given
from .study import Study

QUANTILES = (0.5, 0.8, 0.9, 0.95)


def lines(study: Study) -> Iterator[str]:
    """Yields the result of a study, line by line."""
    simulation, unit = study.simulation, study.project.unit
    yield from _headline(study)
    yield f"completion       mean {simulation.mean:.3f} ± {simulation.mean_error:.3f} {unit} (one standard error), " + (
        f"standard deviation {simulation.sd:.2f} {unit}; {simulation.num_trials:,} trials, seed {simulation.seed[0]}"
    )
    for q in QUANTILES:
        low, high = simulation.quantile_interval(q, study.confidence)
        interval = f"{given(study.confidence)} interval {low:.2f} to {high:.2f}"
        yield f"  P{100 * q:<15.0f}{simulation.quantile(q):.2f} {unit} ({interval})"
    path = " → ".join(study.project.critical_path())
    yield f"critical path    {path}: {study.project.mean_completion:g} {unit} if every task took its mean"
    yield ""
    yield from _task_table(study)
    if study.comparison:
        yield ""
        yield from _comparison_table(study)


def one_in(probability: float) -> str:
    """Says a probability as one project in so many.

    Example:
        >>> one_in(0.0001)
        'about 1 project in 10,000'
    """
    if probability == 0:
        return "no project was seen to be late"
    if probability >= 0.5:
        return f"{probability:.1%} of projects"
    return f"about 1 project in {float(f'{1 / probability:.3g}'):,.0f}"


def _headline(study: Study) -> Iterator[str]:
    risk, unit = study.risk, study.project.unit
    count = len(study.project.tasks)
    yield f"{study.project.name or 'project'}: {count} task{'' if count == 1 else 's'}"
    yield from (f"  note           {note}" for note in study.notes)
    if risk is None:
        return
    low, high = risk.interval
    spent = f" + {risk.num_adaptive:,} to fit the proposal" if risk.num_adaptive else ""
    number = f"{risk.estimate:.4g} ± {risk.standard_error:.2g} (one standard error)"
    yield f"P(completion >= {study.deadline:g} {unit}) = {number}"
    yield f"  {given(risk.confidence)} interval   {low:.4g} to {high:.4g}; {one_in(risk.estimate)}"
    yield f"  cost           {risk.num_samples:,} trials{spent} (proposal {study.proposal})"
    yield f"  diagnosis      {risk.diagnosis}"


def _task_table(study: Study) -> Iterator[str]:
    simulation, unit = study.simulation, study.project.unit
    rows = [("task", "predecessors", f"duration ({unit})", "critical", f"mean slack ({unit})")]
    numbers = zip(study.project.tasks, simulation.criticality, simulation.slack, strict=True)
    for task, criticality, slack in numbers:
        name = f"{task.id} {task.name}".strip()
        waits = ", ".join(task.predecessors) or "-"
        rows.append((name, waits, str(task.duration), f"{criticality:.1%}", f"{slack:.2f}"))
    yield from _aligned(rows)


def _comparison_table(study: Study) -> Iterator[str]:
    rows = [
        ("proposal", "estimate", "std. error", f"{given(study.confidence)} interval", "trials", "for 1% error", "k-hat")
    ]
    for name, estimate in study.comparison.items():
        low, high = estimate.interval
        total = estimate.num_samples + estimate.num_adaptive
        row = (f"{estimate.estimate:.4g}", f"{estimate.standard_error:.1g}", f"{low:.4g} to {high:.4g}", f"{total:,}")
        rows.append((name, *row, samples_needed(estimate), f"{estimate.pareto_k:.2f}"))
    yield from _aligned(rows)


def samples_needed(estimate: Estimate, relative_error: float = 0.01) -> str:
    """Says how many trials give a relative standard error, by the error that so many have, and the fit's beside."""
    if not 0 < estimate.relative_error < math.inf:
        return "unknown"
    needed = estimate.num_samples * (estimate.relative_error / relative_error) ** 2 + estimate.num_adaptive
    return f"{float(f'{needed:.2g}'):,.0f}"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yields rows with their columns one below the other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
