"""The command for project schedules: simulate."""

from __future__ import annotations

__all__ = ["COMMANDS"]

import math
from collections.abc import Callable
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ._command import Command, UsageError, add_seed


def _simulate(options: Namespace) -> None:
    _require_usable(options)
    from ..project import example, read_project
    from ..project.risk import check_proposal
    from ..project.study import COMPARED, run_study
    from ..project.words import lines

    for name in (options.proposal, *(options.compare or ())):
        _require_known(name, check_proposal)
    study = run_study(
        example() if options.example else read_project(options.project),
        options.deadline,
        proposal=options.proposal,
        num_samples=options.num_samples,
        relative_error=options.relative_error,
        num_trials=options.num_trials,
        max_samples=options.max_samples,
        compare=() if options.compare is None else options.compare or COMPARED,
        confidence=options.confidence,
        seed=options.seed,
    )
    print("\n".join(lines(study)))
    if options.html is not None:
        from ..page import project_page

        print(f"Page: {project_page(study, Path(options.html))}")


def _require_known(proposal: str, check: Callable[[str], object]) -> None:
    try:
        check(proposal)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _require_usable(options: Namespace) -> None:
    if (options.project is None) != options.example:
        taken = [word for word in options.compare or () if Path(word).suffix in (".yaml", ".yml", ".csv")]
        hint = f"; put {taken[0]} in front of --compare" if taken else ""
        raise UsageError(f"simulate needs a project, either a file or --example: logpx simulate project.yaml{hint}.")
    if options.html is not None and Path(options.html).suffix not in (".html", ".htm"):
        raise UsageError(f"--html must name a file that ends in .html, but is {options.html}: write, say, page.html.")
    for name in ("num_samples", "num_trials", "max_samples"):
        if (number := options[name]) is not None and number < 2:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 2, but is {number}: one trial has no error.")
    if not options.relative_error > 0:
        raise UsageError(f"--relative-error must be positive, but is {options.relative_error}: 0.01 is one percent.")
    if not 0 < options.confidence < 1:
        raise UsageError(f"--confidence must be between 0 and 1, but is {options.confidence}: 0.95 is customary.")
    if options.deadline is not None and not 0 < options.deadline < math.inf:
        raise UsageError(f"--deadline must be positive and finite, but is {options.deadline}: give it in the unit.")


def _add_simulate(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("project", nargs="?", help="a .yaml or .csv file of tasks: id, predecessors, duration")
    add("--example", action="store_true", help="the ten tasks of Owen's book, with deadline 70 days")
    add("--deadline", type=float, help="estimate P(completion >= deadline); by default that of the file")
    add("--proposal", default="auto", help="auto (fitted), plain, scale=c or critical-path=c (default auto)")
    add("--relative-error", type=float, default=0.005, help="draw for it until this is reached (default 0.005)")
    add("--max-samples", type=int, default=100_000_000, help="but at most so many (default 100,000,000)")
    add("--num-samples", type=int, help="or draw so many for the deadline")
    add("--num-trials", type=int, default=1_000_000, help="plain trials for the schedule (default 1,000,000)")
    add(
        "--compare",
        nargs="*",
        metavar="PROPOSAL",
        help="also compare proposals; without names: plain, scale=4, critical-path=2 to 5, auto",
    )
    add("--confidence", type=float, default=0.95, help="coverage of the intervals (default 0.95)")
    add("--html", metavar="FILE", help="write a page with the network, the histogram and the figures")
    add_seed(parser)


COMMANDS = {
    "simulate": Command(
        _simulate, _add_simulate, "simulate a project: its schedule, and the risk of its deadline", "[PROJECT]"
    ),
}
