"""The command for project schedules: simulate."""

from __future__ import annotations

__all__ = ["COMMANDS"]

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from ._command import Command, UsageError, add_seed


def _simulate(options: Namespace) -> None:
    if (options.project is None) != options.example:
        raise UsageError("simulate needs a project, either a file or --example: logpx simulate project.yaml.")
    from ..project import example, read_project
    from ..project.study import COMPARED, run_study
    from ..project.words import lines

    result = run_study(
        example() if options.example else read_project(options.project),
        options.deadline,
        proposal=options.proposal,
        relative_error=options.relative_error,
        num_trials=options.num_trials,
        max_samples=options.max_trials,
        compare=() if options.compare is None else options.compare or COMPARED,
        confidence=options.confidence,
        seed=options.seed,
    )
    for line in lines(result):
        print(line)
    if options.html is not None:
        from ..page import project_page

        print(f"Page: {project_page(result, Path(options.html))}")


def _add_simulate(parser: ArgumentParser) -> None:
    parser.add_argument("project", nargs="?", help="a .yaml or .csv file of tasks: id, predecessors, duration")
    parser.add_argument("--example", action="store_true", help="the ten tasks of Owen's book, with deadline 70 days")
    parser.add_argument(
        "--deadline", type=float | None, help="estimate P(completion >= deadline); by default that of the file"
    )
    parser.add_argument(
        "--proposal",
        default="auto",
        help="how durations are drawn for the deadline: auto (fitted), plain, scale=c, critical-path=c (default auto)",
    )
    parser.add_argument(
        "--relative-error",
        type=float,
        default=0.005,
        help="where its estimate may stop (default 0.005, half a percent)",
    )
    parser.add_argument("--max-trials", type=int, default=100_000_000, help="or at most here (default 100,000,000)")
    parser.add_argument(
        "--num-trials", type=int, default=1_000_000, help="plain trials for the schedule itself (default 1,000,000)"
    )
    parser.add_argument(
        "--compare",
        nargs="*",
        metavar="PROPOSAL",
        help="also compare proposals; without names: plain, scale=4, critical-path=2 to 5, auto",
    )
    parser.add_argument("--confidence", type=float, default=0.95, help="coverage of the intervals (default 0.95)")
    parser.add_argument("--html", metavar="FILE", help="write a page with the network, the histogram and the figures")
    add_seed(parser)


COMMANDS = {
    "simulate": Command(
        _simulate, _add_simulate, "simulate a project's schedule, and how likely it misses a deadline", "[PROJECT]"
    ),
}
