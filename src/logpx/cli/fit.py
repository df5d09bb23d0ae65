"""The command that fits a model to data, or goes on with a fit."""

from __future__ import annotations

__all__ = ["COMMANDS"]

import dataclasses
import math
from argparse import SUPPRESS
from typing import TYPE_CHECKING, Any, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from ..data.catalogue import CATALOGUE
from ..settings import SECTIONS, Settings, known_recipes
from ._command import Command, UsageError
from ._run import add_devices

if TYPE_CHECKING:
    from ..run import Run


def _fit(options: Namespace) -> None:
    given = {name: value for name, value in vars(options).items() if name not in FIT_OPTIONS}
    how = {"devices": options.devices, "num_nodes": options.num_nodes}
    if options.resume is not None:
        _resume(options, given, how)
        return
    if options.data is None and options.config is None and not options.print_config:
        raise UsageError("fit needs data: logpx fit digits, or another name, a .npy or .npz file, or a folder.")
    settings = _settings(options, given)
    if options.print_config:
        print(settings.to_yaml(), end="")
        return
    from ..train import fit

    run = fit(settings.data.name, settings=settings, out=options.out, overwrite=options.overwrite, **how, **given)
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


def _resume(options: Namespace, given: dict[str, Any], how: dict[str, Any]) -> None:
    if options.data is not None or set(given) - {"epochs", "max_iterations"}:
        raise UsageError(
            "--resume takes no data and no settings but --epochs (or --max-iterations, for EM): the run has its own."
        )
    from ..train import resume

    _fitted(resume(options.resume, **how, **given))


def _fitted(run: Run) -> None:
    from ..processes import is_first_process

    if not is_first_process():
        return
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


def _add_fit(parser: ArgumentParser) -> None:
    names = ", ".join(CATALOGUE)
    parser.add_argument("data", nargs="?", help=f"{names}, a .npy or .npz file, a folder of images, or hf:OWNER/NAME")
    parser.add_argument("--recipe", help=f"named settings: {', '.join(known_recipes())}; by default that of the data")
    parser.add_argument("--config", help="settings from a YAML file, in place of a recipe")
    parser.add_argument("--print-config", action="store_true", help="print the full resolved settings and stop")
    parser.add_argument("--out", help="run folder; by default runs/ and the name of the data (and of the model)")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier run in the folder")
    parser.add_argument("--resume", metavar="RUN", help="continue an interrupted run")
    add_devices(parser)
    for field in dataclasses.fields(Settings):
        if field.name not in SECTIONS:
            _add_setting(parser, field, get_type_hints(Settings)[field.name])
    for name, section in SECTIONS.items():
        group = parser.add_argument_group(name)
        hints = get_type_hints(section)
        for field in dataclasses.fields(section):
            if (name, field.name) != ("data", "name"):
                _add_setting(group, field, hints[field.name])


FIT_OPTIONS = ("data", "recipe", "config", "print_config", "out", "overwrite", "resume", "devices", "num_nodes")


def _add_setting(group: Any, field: dataclasses.Field[Any], hint: Any) -> None:
    flag, text = "--" + field.name.replace("_", "-"), field.metadata["help"]
    default = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    if isinstance(field.default, tuple):
        group.add_argument(flag, type=int, nargs="+", default=SUPPRESS, help=f"{text} (recipe's, else {default})")
    else:
        group.add_argument(flag, type=hint, default=SUPPRESS, help=f"{text} (recipe's, else {default})")


COMMANDS = {
    "fit": Command(_fit, _add_fit, "fit a variational autoencoder, or a mixture by EM, to data", "DATA"),
}
