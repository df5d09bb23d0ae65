"""A study of a project: its schedule, the probability that it misses its deadline, and what other proposals say."""

from __future__ import annotations

__all__ = ["COMPARED", "Study", "run_study"]

import dataclasses
import platform
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..montecarlo.engine import DEFAULT_CAP
from ..montecarlo.estimate import Estimate
from ..utils import LogpxError
from ..version import __version__
from .network import Project
from .risk import check_proposal, deadline_probability, longest_completion
from .simulation import Simulation, simulate

# What --compare runs, unless told otherwise.
COMPARED = ("plain", "scale=4", *(f"critical-path={factor}" for factor in (2, 3, 4, 5)), "auto")
# Trials of a comparison: plain Monte Carlo needs the most.
PLAIN_TRIALS, PROPOSAL_TRIALS = 5_000_000, 300_000
# Where the running estimate is kept: from 1,000 trials on, 20 times per decade.
TRACE = (*(round(1000 * 10 ** (k / 20)) for k in range(75)), PLAIN_TRIALS)


@dataclasses.dataclass(frozen=True)
class Study:
    """What was found out about a project.

    Arguments:
        project: The project.
        simulation: What plain trials say of its schedule.
        deadline: The deadline, in the project's unit, or None.
        proposal: How the durations were drawn for its probability.
        risk: P(completion >= deadline), or None without a deadline.
        comparison: The same probability by other proposals, with running estimates.
        confidence: The coverage of the intervals.
        notes: What else a reader must know, in sentences.
        provenance: Where the numbers come from.
    """

    project: Project
    simulation: Simulation
    deadline: float | None = None
    proposal: str = "auto"
    risk: Estimate | None = None
    comparison: Mapping[str, Estimate] = dataclasses.field(default_factory=dict)
    confidence: float = 0.95
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, str] = dataclasses.field(default_factory=dict)


def run_study(
    project: Project,
    deadline: float | None = None,
    *,
    proposal: str = "auto",
    num_samples: int | None = None,
    relative_error: float = 0.005,
    num_trials: int = 1_000_000,
    max_samples: int = DEFAULT_CAP,
    compare: Sequence[str] = (),
    confidence: float = 0.95,
    seed: int = 0,
    num_workers: int | None = None,
    progress: bool | None = None,
) -> Study:
    """Simulates a project, and estimates the probability that it misses its deadline.

    Arguments:
        project: The project.
        deadline: The deadline, in the project's unit; by default its own, if it has one.
        proposal: How the durations are drawn for its probability; see :func:`deadline_probability`.
        num_samples: The number of trials of that estimate; by default as many as the relative error takes.
        relative_error: The relative standard error at which that estimate stops.
        num_trials: The number of plain trials, for all but the deadline.
        max_samples: The cap on the trials of the deadline.
        compare: Further proposals, with 5,000,000 trials for "plain" and 300,000 for the others.
        confidence: The coverage of the intervals.
        seed: The seed of all draws.
        num_workers: The number of threads; by default as many as torch uses.
        progress: Whether to show bars; by default only on a terminal.

    Raises:
        ValueError: If an argument is out of range.
        LogpxError: If proposals are to be compared without a deadline.
    """
    deadline = project.deadline if deadline is None else deadline
    if compare and deadline is None:
        raise LogpxError("Proposals are compared by the probability of a deadline, but there is none: give one.")
    for name in (proposal, *compare):
        check_proposal(name)
    started = time.perf_counter()
    common: dict[str, Any] = {"confidence": confidence, "seed": seed, "num_workers": num_workers, "progress": progress}
    risk, comparison = None, {}
    if deadline is not None and not _is_certain(project):
        target: dict[str, Any] = {"num_samples": num_samples}
        if num_samples is None:
            target = {"relative_error": relative_error, "max_samples": max_samples}
        risk = deadline_probability(project, deadline, proposal, **target, **common)
        comparison = {name: _compared(project, deadline, name, common) for name in compare}
    simulation = simulate(project, num_trials, seed=seed, num_workers=num_workers, progress=progress)
    return Study(
        project=project,
        simulation=simulation,
        deadline=deadline,
        proposal=proposal,
        risk=risk,
        comparison=comparison,
        confidence=confidence,
        notes=_notes(project, deadline),
        provenance=_provenance(seed, time.perf_counter() - started),
    )


def _compared(project: Project, deadline: float, name: str, common: Mapping[str, Any]) -> Estimate:
    num = PLAIN_TRIALS if name == "plain" else PROPOSAL_TRIALS
    return deadline_probability(project, deadline, name, num_samples=num, trace=TRACE, **common)


def _is_certain(project: Project) -> bool:
    return all(task.duration.is_fixed for task in project.tasks)


def _notes(project: Project, deadline: float | None) -> tuple[str, ...]:
    longest = longest_completion(project)
    if deadline is not None and _is_certain(project):
        late = "is missed" if longest >= deadline else "is kept"
        return (f"All durations are fixed: the deadline of {deadline:g} {project.unit} {late} with certainty.",)
    if deadline is None or deadline <= longest:
        return ()
    took = f"Even with every duration at its longest the project takes {longest:g} {project.unit}"
    return (f"{took}: the probability is exactly 0.",)


def _provenance(seed: int, seconds: float) -> dict[str, str]:
    return {
        "logpx": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "seed": str(seed),
        "time": f"{seconds:.1f} s",
    }
