"""The command line: one command per verb. Torch is imported when a command runs, so that help is quick."""

from __future__ import annotations

__all__ = ["COMMANDS", "main"]

import os
import sys
from collections.abc import Callable, Sequence

from jsonargparse import ArgumentParser, Namespace

from ..version import __version__
from . import evidence, fit, models, schedule
from ._command import UsageError, new_parser

DESCRIPTION = """Train latent-variable models, and say how probable data are under them: log p(x), with an error bar.

  logpx fit digits                 fit a variational autoencoder; the result is in runs/digits
  logpx evaluate runs/digits       log p(x) of the test data, in nats and bits per dimension
  logpx report runs/digits         one page of figures and numbers
  logpx simulate --example         how likely a project misses its deadline"""

COMMANDS = fit.COMMANDS | evidence.COMMANDS | models.COMMANDS | schedule.COMMANDS


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit code: 0, 1 for an error, 2 for wrong usage, 130 for an interrupt.

    Arguments:
        argv: The words behind `logpx`; by default those of the process.
    """
    parser = _parser()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        options = parser.parse_args(words or ["--help"])
    except SystemExit as stop:
        return int(stop.code or 0)
    name = options.pop("subcommand")
    code = _run(COMMANDS[name].function, options[name])
    if "logpx.processes" in sys.modules:
        from ..processes import leave

        leave(code)
    return code


def _run(function: Callable[[Namespace], None], options: Namespace) -> int:
    debug = options.pop("debug")
    try:
        function(options)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt as interrupt:
        print(str(interrupt) or "Interrupted.", file=sys.stderr)
        return 130
    except UsageError as error:
        print(f"logpx: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # the reader of our output, `head` say, has enough; nothing more may be flushed to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        hint = "" if _is_explained(error) else " (perhaps a defect of logpx: --debug shows where)"
        print(f"logpx: {text}{hint}", file=sys.stderr)
        return 1


def _is_explained(error: Exception) -> bool:
    """Errors of use have a message of ours; anything else may be a defect."""
    from ..utils import LogpxError

    return isinstance(error, LogpxError | ValueError | TypeError | OSError)


def _parser() -> ArgumentParser:
    parser = new_parser(None, DESCRIPTION, version=__version__)
    commands = parser.add_subcommands(metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = new_parser(f"logpx {name} {command.operand} [options]", command.help.capitalize() + ".")
        command.add_options(sub)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        commands.add_subcommand(name, sub, help=command.help)
    return parser
