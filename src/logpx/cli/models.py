"""The commands for models: fit, evaluate, compare, sample, reconstruct, encode, report, data."""

from __future__ import annotations

__all__ = ["COMMANDS"]

import dataclasses
import math
from argparse import SUPPRESS
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from ..data.catalogue import CATALOGUE
from ..settings import SECTIONS, Settings, known_recipes
from ._command import Command, UsageError, add_seed
from ._own import add_own, check_evaluated, evaluate_own

if TYPE_CHECKING:
    from ..comparison import Comparison, Evaluated
    from ..run import Run


def _fit(options: Namespace) -> None:
    given = {name: value for name, value in vars(options).items() if name not in FIT_OPTIONS}
    if options.resume is not None:
        _resume(options, given)
        return
    if options.data is None and options.config is None and not options.print_config:
        raise UsageError("fit needs data: logpx fit digits, or another name, a .npy or .npz file, or a folder.")
    settings = _settings(options, given)
    if options.print_config:
        print(settings.to_yaml(), end="")
        return
    from ..train import fit

    run = fit(settings.data.name, settings=settings, out=options.out, overwrite=options.overwrite, **given)
    _fitted(run)


def _settings(options: Namespace, given: dict[str, Any]) -> Settings:
    if options.config is not None and options.recipe is not None:
        raise UsageError("Give --config or --recipe, not both: a config is complete in itself.")
    if options.config is None:
        settings = Settings.from_recipe(options.data or "digits", options.recipe)
    else:
        settings = Settings.from_file(options.config)
        settings = settings if options.data is None else settings.override(name=options.data)
    return settings.override(**given)


def _resume(options: Namespace, given: dict[str, Any]) -> None:
    if options.data is not None or set(given) - {"epochs", "max_iterations"}:
        raise UsageError(
            "--resume takes no data and no settings but --epochs (or --max-iterations, for EM): the run has its own."
        )
    from ..train import resume

    _fitted(resume(options.resume, **given))


def _fitted(run: Run) -> None:
    (_print_em if run.is_em else _print_bound)(run)
    print(f"Next: logpx evaluate {run.path}")


def _print_em(run: Run) -> None:
    metrics, settings = run.metrics(), run.settings
    last = {key: column[-1] for key, column in metrics.items()}
    for event in run.events():
        print(event)
    if settings.data.binarization == "dynamic" and run.info["data"]["kind"] != "binary":
        print("Greys were binarized (dynamic): EM passes over one draw of them.")
    steps = f"{last['iteration']:.0f} iterations from start {last['start'] + 1:.0f} of {settings.em.restarts}"
    end = "converged" if last["gain"] < settings.em.tolerance else "not converged (--max-iterations prolongs it)"
    quantity = "relaxed score (not log p(x))" if run.is_relaxed else "log p(x)"
    print(f"Fitted in {metrics['seconds'].max():.1f} s by EM, {steps}, {end}: ", end="")
    print(f"{quantity} {last['log_evidence']:.2f} nats on train.")


def _print_bound(run: Run) -> None:
    last = {key: column[-1] for key, column in run.metrics().items()}
    skipped = f", {last['skipped']:.0f} batches skipped" if last["skipped"] else ""
    valid = "" if math.isnan(last["valid"]) else f", {last['valid']:.2f} nats on {run.settings.train.validate_on}"
    bounds = f"{last['train']:.2f} nats on train{valid}"
    bounds += " (a relaxed likelihood: not of log p(x))" if run.is_relaxed else ""
    print(f"Fitted in {last['seconds']:.1f} s, {last['epoch']:.0f} epochs{skipped}: bound {bounds}.")


def _evaluate(options: Namespace) -> None:
    if check_evaluated(options):
        evaluate_own(options)
        return
    run = _open(options)
    evaluation = run.evaluate(
        options.split,
        weights=options.weights or "best",
        estimator=options.estimator,
        proposal=options.proposal,
        target_error=options.target_error,
        num_temperatures=options.num_temperatures,
        schedule=options.schedule,
        num_samples=options.num_samples,
        limit=options.limit,
        subset=options.subset,
        seed=options.seed,
        device=options.device,
    )
    print(evaluation)
    if options.scores is not None:
        evaluation.write_scores(options.scores)
        print(f"Scores of each datum: {options.scores}")
    print(f"Record: {run.path / 'evaluation.json'}\nNext: logpx report {run.path}")


def _compare(options: Namespace) -> None:
    from .. import comparison
    from ..run import Run
    from ..wording import table

    a, b = comparison.matched(*(Run.open(path).evaluated() for path in (options.run_a, options.run_b)))
    result = comparison.compare(a, b, confidence=options.confidence)
    if options.output is not None:
        _write_figure(Path(options.output), lambda: _paired(a, b, result))
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

    run = _open(options)
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


def _sample(options: Namespace) -> None:
    from .. import generate, plots

    run = _open(options)
    model = run.load_model()
    x = generate.sample(model, options.num, seed=options.seed, mean=not options.draw)
    title = f"{options.num} samples from the model ({'draws' if options.draw else 'means of the likelihood'})."
    _write_pictures(options, run, "samples.png", x.numpy(), lambda: plots.image_grid(x.numpy(), title=title))


def _reconstruct(options: Namespace) -> None:
    from .. import generate, plots
    from ..utils import spread

    run = _open(options)
    split = run.load_split(options.split)
    index = spread(len(split), options.num)
    x = split.batch(index).x
    y = generate.reconstruct(run.load_model(), x, seed=options.seed, mean=not options.draw)
    below = "draws from p(x | z)" if options.draw else "their reconstructions"
    _write_pictures(
        options,
        run,
        "reconstructions.png",
        y.numpy(),
        lambda: plots.paired_grid(x.numpy(), y.numpy(), title=f"Data, and below them {below}."),
        originals=x.numpy(),
        index=index.numpy(),
    )


def _encode(options: Namespace) -> None:
    from ..data import load_data
    from ..files import write_arrays
    from ..generate import encode_all

    run = _open(options)
    data = run.load_data() if options.data is None else load_data(options.data, data_root=options.data_root)
    splits = {part: run.split_of(data, part) for part in data.parts}
    codes = encode_all(run.load_model(), splits, rows=data.rows, seed=options.seed)
    write_arrays(Path(options.output), codes)
    num_latents = math.prod(codes["mean"].shape[1:])
    what = "{} component probabilities" if run.is_em and "mixture" in run.settings.model.model else "{} latents"
    print(f"{len(codes['mean'])} codes of {what.format(num_latents)}: {options.output}")


def _report(options: Namespace) -> None:
    from ..page import report
    from ..run import Run
    from ..wording import headline

    run = _open(options)
    baseline = None if options.baseline is None else Run.open(options.baseline)
    page, record = report(run, baseline=baseline), run.evaluation()
    print(headline(record) if record else f"No evaluation yet: logpx evaluate {run.path}")
    print(f"Report: {page}")


def _data(options: Namespace) -> None:
    from ..data import known_data

    for known in known_data(options.data_root):
        shape = "x".join(str(size) for size in known.event_shape)
        sizes = ", ".join(f"{part} {size:,}" for part, size in known.sizes.items())
        print(f"{known.name}\n  {known.description}\n  {known.kind}, {shape}; {sizes}; recipe {known.default_recipe}")
        print(f"  {'found: ' + known.found if known.found else 'not here: ' + known.how_to_get}")
    print("Anybody's own\n  a .npy or .npz file, or a folder of PNG, JPEG or WebP images, by its path")


def _open(options: Namespace) -> Run:
    from ..run import Run

    run = Run.open(options.run)
    run.data_root = options.data_root
    return run


def _write_pictures(options: Namespace, run: Run, name: str, data: Any, draw: Callable[[], Any], **more: Any) -> None:
    from ..files import write_arrays

    path = Path(options.output or run.path / name)
    if path.suffix == ".npz":
        write_arrays(path, {"x": data, **more})
    else:
        _write_figure(path, draw, " or .npz")
    print(path)


def _write_figure(path: Path, draw: Callable[[], Any], other: str = "") -> None:
    from ..files import write_atomically

    if path.suffix not in (".png", ".pdf", ".svg"):
        kinds = f".png, .pdf, .svg{other}" if other else ".png, .pdf or .svg"
        raise ValueError(f"The output must end in {kinds}, but is {path}: choose one of these.")
    figure = draw()
    write_atomically(path, lambda tmp: figure.savefig(tmp))


def _add_fit(parser: ArgumentParser) -> None:
    names = ", ".join(CATALOGUE)
    parser.add_argument("data", nargs="?", help=f"{names}, a .npy or .npz file, or a folder of images")
    parser.add_argument("--recipe", help=f"named settings: {', '.join(known_recipes())}; by default that of the data")
    parser.add_argument("--config", help="settings from a YAML file, in place of a recipe")
    parser.add_argument("--print-config", action="store_true", help="print the full resolved settings and stop")
    parser.add_argument("--out", help="run folder; by default runs/ and the name of the data (and of the model)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run in the folder")
    parser.add_argument("--resume", metavar="RUN", help="continue an interrupted run")
    for field in dataclasses.fields(Settings):
        if field.name not in SECTIONS:
            _add_setting(parser, field, get_type_hints(Settings)[field.name])
    for name, section in SECTIONS.items():
        group = parser.add_argument_group(name)
        hints = get_type_hints(section)
        for field in dataclasses.fields(section):
            if (name, field.name) != ("data", "name"):
                _add_setting(group, field, hints[field.name])


FIT_OPTIONS = ("data", "recipe", "config", "print_config", "out", "overwrite", "resume")


def _add_setting(group: Any, field: dataclasses.Field[Any], hint: Any) -> None:
    flag, text = "--" + field.name.replace("_", "-"), field.metadata["help"]
    default = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    if isinstance(field.default, tuple):
        group.add_argument(flag, type=int, nargs="+", default=SUPPRESS, help=f"{text} (recipe's, else {default})")
    else:
        group.add_argument(flag, type=hint, default=SUPPRESS, help=f"{text} (recipe's, else {default})")


PROPOSAL = Literal["encoder", "prior", "widened", "refined", "laplace", "curvature", "defensive"]


def _add_evaluate(parser: ArgumentParser) -> None:
    parser.add_argument("run", nargs="?", help="a run folder, as made by logpx fit; or --model and --data")
    _add_data_root(parser)
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
    _add_weights(parser)
    # so that it is seen whether they were asked for
    parser.set_defaults(weights=None)
    parser.add_argument("--device", type=Literal["auto", "cpu", "cuda"], default="auto", help="where to compute")
    parser.add_argument("--scores", help="also write log p(x), error and k-hat of each datum to this CSV file")
    add_seed(parser)


def _add_compare(parser: ArgumentParser) -> None:
    parser.add_argument("run_a", help="an evaluated run folder, A")
    parser.add_argument("run_b", help="another one, evaluated on the same data, B")
    parser.add_argument("--confidence", type=float, default=0.95, help="coverage of the interval (0.95)")
    parser.add_argument("-o", "--output", help="also draw the differences, to this .png, .pdf or .svg file")


def _add_sandwich(parser: ArgumentParser) -> None:
    _add_run(parser)
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
    _add_weights(parser)
    add_seed(parser)


def _add_sample(parser: ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("-n", "--num", type=int, default=96, help="number of samples")
    parser.add_argument("--draw", action="store_true", help="draw from the likelihood, rather than show its mean")
    _add_output(parser, "samples.png")


def _add_reconstruct(parser: ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("-n", "--num", type=int, default=48, help="number of data, spread evenly over the split")
    parser.add_argument("--split", type=Literal["train", "valid", "test"], default="test", help="which data")
    parser.add_argument("--draw", action="store_true", help="draw x from p(x | z) rather than take its mean")
    _add_output(parser, "reconstructions.png")


def _add_encode(parser: ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("data", nargs="?", help="a data set of the same shape; by default that of the run")
    parser.add_argument("-o", "--output", default="latents.npz", help="the .npz file to write")
    add_seed(parser)


def _add_report(parser: ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("--baseline", metavar="RUN", help="another evaluated run of the same data, to compare with")


def _add_data(parser: ArgumentParser) -> None:
    _add_data_root(parser)


def _add_run(parser: ArgumentParser) -> None:
    parser.add_argument("run", help="a run folder, as made by logpx fit")
    _add_data_root(parser)


def _add_data_root(parser: ArgumentParser) -> None:
    parser.add_argument("--data-root", help="folder to look for named data in, before LOGPX_DATA and the user's cache")


def _add_weights(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        type=Literal["best", "last"],
        default="best",
        help="by validation, or after the last epoch",
    )


def _add_output(parser: ArgumentParser, name: str) -> None:
    parser.add_argument("-o", "--output", help=f".png, .pdf, .svg or .npz; by default {name} in the run folder")
    add_seed(parser)


COMMANDS = {
    "fit": Command(_fit, _add_fit, "fit a variational autoencoder, or a mixture by EM, to data", "DATA"),
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
    "sample": Command(_sample, _add_sample, "draw new data from the model"),
    "reconstruct": Command(_reconstruct, _add_reconstruct, "encode data and decode them again"),
    "encode": Command(_encode, _add_encode, "write the posterior means and scales of data to a file", "RUN [DATA]"),
    "report": Command(_report, _add_report, "write one page of figures and numbers"),
    "data": Command(_data, _add_data, "list the data sets that are known, and where each was found", ""),
}
