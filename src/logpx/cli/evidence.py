"""The commands about log p(x): evaluate, compare, sandwich."""

from __future__ import annotations

__all__ = ["COMMANDS"]

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace

from ._command import Command, add_seed
from ._own import add_own, check_evaluated, evaluate_own, evaluation_options, show_evaluation
from ._run import add_data_root, add_devices, add_run, add_weights, open_run, write_figure

if TYPE_CHECKING:
    from ..comparison import Comparison, Evaluated


def _evaluate(options: Namespace) -> None:
    from ..processes import is_first_process

    if check_evaluated(options):
        evaluate_own(options)
        return
    run = open_run(options)
    how = {"devices": options.devices, "num_nodes": options.num_nodes, **evaluation_options(options)}
    evaluation = run.evaluate(options.split, weights=options.weights or "best", **how)
    if not is_first_process():
        return
    show_evaluation(evaluation, options)
    print(f"Record: {run.path / 'evaluation.json'}\nNext: logpx report {run.path}")


def _compare(options: Namespace) -> None:
    from .. import comparison
    from ..run import Run
    from ..wording import table

    a, b = comparison.matched(*(Run.open(path).evaluated() for path in (options.run_a, options.run_b)))
    result = comparison.compare(a, b, confidence=options.confidence)
    if options.output is not None:
        write_figure(Path(options.output), lambda: _paired(a, b, result))
    print(table(comparison.rows(a, b, result)))
    if options.output is not None:
        print(f"Figure: {options.output}")


def _paired(a: Evaluated, b: Evaluated, result: Comparison) -> Any:
    from .. import plots

    scores_a, scores_b = (each.scores["log_evidence"] for each in (a, b))
    interval = result.low, result.high
    return plots.paired_scores(scores_a, scores_b, interval, confidence=result.confidence, names=(a.name, b.name))


def _sandwich(options: Namespace) -> None:
    from ..wording import bounds_rows

    run = open_run(options)
    run.sandwich(
        weights=options.weights,
        num_data=options.num_data,
        num_chains=options.num_chains,
        num_temperatures=tuple(options.num_temperatures),
        proposal=options.proposal,
        seed=options.seed,
    )
    for line in bounds_rows(run.bounds() or {}):
        print(line)
    print(f"Record: {run.path / 'sandwich.json'}\nNext: logpx report {run.path}")


PROPOSAL = Literal["encoder", "prior", "widened", "refined", "laplace", "curvature", "defensive"]


def _add_evaluate(parser: ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", help="a run folder, as made by logpx fit; or --model and --data")
    add_data_root(parser)
    add_own(parser)
    parser.add_argument(
        "--estimator",
        type=Literal["auto", "importance", "annealed", "exact"],
        default="auto",
        help="auto (exact where the model allows, else an effort that adapts to each datum), importance (a fixed "
        "number of draws), annealed (chains), or exact",
    )
    parser.add_argument(
        "--proposal",
        type=PROPOSAL,
        help="what importance draws from, or where annealed starts; by default the encoder",
    )
    parser.add_argument(
        "--num-samples", type=int, help="draws (5000) or chains (32) per datum; of auto, the most per proposal (3500)"
    )
    parser.add_argument(
        "--target-error", type=float, default=0.05, help="standard error that auto aims at, in nats per datum"
    )
    parser.add_argument("--num-temperatures", type=int, default=50, help="steps of annealed")
    parser.add_argument(
        "--schedule", type=Literal["adaptive", "sigmoid"], default="adaptive", help="how the steps are laid out"
    )
    parser.add_argument("--split", type=Literal["train", "valid", "test"], default="test", help="which data")
    parser.add_argument("--limit", type=int | None, help="the first data only")
    parser.add_argument(
        "--subset", type=int | None, help="so many random data, which stand for all with the ELBO of all beside them"
    )
    add_weights(parser)
    # so that it is seen whether they were asked for
    parser.set_defaults(weights=None)
    parser.add_argument("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="where to compute")
    add_devices(parser)
    parser.add_argument("--scores", help="also write log p(x), error and k-hat of each datum to this CSV file")
    add_seed(parser)


def _add_compare(parser: ArgumentParser) -> None:
    parser.add_argument("run_a", help="an evaluated run folder, A")
    parser.add_argument("run_b", help="another one, evaluated on the same data, B")
    parser.add_argument("--confidence", type=float, default=0.95, help="coverage of the interval (0.95)")
    parser.add_argument("-o", "--output", help="also draw the differences, to this .png, .pdf or .svg file")


def _add_sandwich(parser: ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--num-data", type=int, default=100, help="simulated data")
    parser.add_argument("--num-chains", type=int, default=16, help="chains per datum and direction")
    parser.add_argument(
        "--num-temperatures",
        type=int,
        nargs="+",
        default=[5, 20, 80],
        help="steps of the chains, one sandwich for each",
    )
    parser.add_argument("--proposal", type=PROPOSAL, default="curvature", help="where forward chains start")
    add_weights(parser)
    add_seed(parser)


COMMANDS = {
    "evaluate": Command(
        _evaluate,
        _add_evaluate,
        "estimate log p(x) of data, with its errors and a diagnosis",
        "RUN | --model MODULE:NAME --data DATA",
    ),
    "compare": Command(
        _compare, _add_compare, "say which of two runs gives the same data a larger log p(x)", "RUN_A RUN_B"
    ),
    "sandwich": Command(_sandwich, _add_sandwich, "bound log p(x) of simulated data from both sides"),
}
