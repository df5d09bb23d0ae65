"""Evaluation of anybody's own model, which a function of theirs returns: no run folder is needed."""

from __future__ import annotations

__all__ = ["add_own", "check_evaluated", "evaluate_own", "evaluation_options", "show_evaluation"]

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace

from ._command import UsageError

if TYPE_CHECKING:
    from ..data import Split
    from ..evaluation import Evaluation
    from ..model import LatentVariableModel

HOW = (
    "estimator",
    "proposal",
    "num_samples",
    "target_error",
    "num_temperatures",
    "schedule",
    "limit",
    "subset",
    "seed",
    "device",
)
OWN = ("data", "binarization", "data_seed", "output")


def add_own(parser: ArgumentParser) -> None:
    """Adds the options of a model of one's own."""
    group = parser.add_argument_group("a model of your own, in the place of a run")
    group.add_argument(
        "--model",
        metavar="MODULE:NAME",
        help="a model with the methods prior, encoder and decoder, or a function or class that returns one when it is "
        "called without arguments. The module is imported, from the current directory too, and its code runs",
    )
    group.add_argument("--data", help="a known name, a .npy or .npz file, or a folder of images, as for logpx fit")
    group.add_argument(
        "--binarization",
        type=Literal["none", "threshold", "static", "dynamic"],
        help="how grey data become 0 or 1; by default none",
    )
    group.add_argument("--data-seed", type=int, help="seed of the binarization; by default 0")
    group.add_argument("--output", help="also write the record of the evaluation to this JSON file")


def check_evaluated(options: Namespace) -> bool:
    """Returns whether a model of one's own is to be evaluated, rather than a run.

    Raises:
        UsageError: If it is neither or both, or options of the one are given with the other.
    """
    if (options.run is None) == (options.model is None):
        raise UsageError("evaluate needs a run folder, or --model and --data, and not both.")
    if options.model is None:
        given = [name for name in OWN if getattr(options, name) is not None]
        if given:
            flags = ", ".join("--" + name.replace("_", "-") for name in given)
            raise UsageError(f"{flags} goes with --model: a run has its own data and record.")
        return False
    if options.data is None:
        raise UsageError("--model needs --data: a name, a .npy or .npz file, or a folder of images.")
    if options.weights is not None:
        raise UsageError("--weights is for a run: a model of your own comes with its weights.")
    return True


def evaluate_own(options: Namespace) -> None:
    """Evaluates a model that user code returns, and prints and writes the result."""
    from ..evaluation import evaluate
    from ..files import write_json
    from ..processes import divided

    launch = divided(options.device, options.devices, options.num_nodes)
    with _current_directory_importable(), _explained(f"The model of {options.model}", known=True), launch as processes:
        model = load_object(options.model)
        split = processes.first_first(partial(_split, options))
        evaluation = evaluate(model, split, processes=processes, **evaluation_options(options))
    if not processes.is_first:
        return
    show_evaluation(evaluation, options)
    if options.output is not None:
        write_json(Path(options.output), {**evaluation.record, "source": options.model})
        print(f"Record: {options.output}")


def evaluation_options(options: Namespace) -> dict[str, Any]:
    """Returns the options of :func:`logpx.evaluate` that were given."""
    return {name: getattr(options, name) for name in HOW}


def show_evaluation(evaluation: Evaluation, options: Namespace) -> None:
    """Prints the table of results, and writes the scores where they are asked for."""
    print(evaluation)
    if options.scores is not None:
        evaluation.write_scores(options.scores)
        print(f"Scores of each datum: {options.scores}")


def load_object(name: str) -> LatentVariableModel:
    """Returns the model that a name means: an object, or what a function or class returns.

    Arguments:
        name: "package.module:attribute".

    Raises:
        UsageError: If the name has another form.
        LogpxError: If the module or the attribute is not there, or user code raises an error.
        TypeError: If the object lacks one of the three methods.
    """
    from ..model import as_model

    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise UsageError(f"--model must be MODULE:NAME, such as my_package.my_module:load, but is {name!r}.")
    found = _attribute(_module(module), module, attribute)
    # a class has the methods too, but is no model
    if callable(found) and (isinstance(found, type) or not _has_methods(found)):
        with _explained(f"{name}()"):
            found = found()
    return as_model(found)


def _has_methods(candidate: object) -> bool:
    return all(callable(getattr(candidate, name, None)) for name in ("prior", "encoder", "decoder"))


def _module(name: str) -> Any:
    from ..utils import LogpxError

    try:
        with _explained(f"Importing {name}", passing=ModuleNotFoundError):
            return import_module(name)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if name == missing or name.startswith(missing + "."):
            raise LogpxError(
                f"There is no module {name} to import (no {missing}): run from the folder that holds it, or install it."
            ) from error
        raise LogpxError(f"The module {name} imports {missing}, which is not installed: install it.") from error


def _attribute(module: Any, name: str, attribute: str) -> Any:
    from ..utils import LogpxError

    if not hasattr(module, attribute):
        own = [each for each in vars(module) if not each.startswith("_") and callable(getattr(module, each))]
        raise LogpxError(
            f"The module {name} has no attribute {attribute!r}: its own names are {', '.join(own) or 'none'}."
        )
    return getattr(module, attribute)


def _split(options: Namespace) -> Split:
    from ..data import load_data

    with _explained(f"Reading {options.data}", known=True):
        data = load_data(options.data, data_root=options.data_root)
        return data.split(options.split, options.binarization or "none", options.data_seed or 0)


@contextmanager
def _explained(what: str, *, known: bool = False, passing: tuple[type[Exception], ...] | type[Exception] = ()) -> Any:
    """Makes one line of an error in user code.

    Arguments:
        what: What raised it.
        known: Whether errors of kinds that logpx raises itself pass as they are.
        passing: Errors that pass as they are.
    """
    from ..files import first_line
    from ..utils import LogpxError

    ours = (LogpxError, ValueError, TypeError, OSError) if known else (LogpxError,)
    try:
        yield
    except Exception as error:
        if isinstance(error, ours) or (passing and isinstance(error, passing)):
            raise
        raise LogpxError(f"{what} raised {type(error).__name__}: {first_line(error)} (--debug shows where).") from error


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    """Within the block, modules of the current directory can be imported."""
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before
