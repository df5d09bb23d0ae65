"""What all commands share: how they are described, parsed, and what wrong usage is."""

from __future__ import annotations

__all__ = ["Command", "UsageError", "add_seed", "new_parser"]

import dataclasses
import shutil
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable
from typing import Any

from jsonargparse import ArgumentParser, Namespace


class UsageError(ValueError):
    """Words that do not go together."""


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Arguments:
        function: What it does with its options.
        add_options: Adds its options to a parser.
        help: What it does, in one line.
        operand: What stands behind its name.
    """

    function: Callable[[Namespace], None]
    add_options: Callable[[ArgumentParser], None]
    help: str
    operand: str = "RUN"


def new_parser(usage: str | None, description: str, **more: Any) -> ArgumentParser:
    """Returns a parser without options."""
    return ArgumentParser(
        prog="logpx", usage=usage, description=description, formatter_class=_Help, allow_abbrev=False, **more
    )


def add_seed(parser: ArgumentParser) -> None:
    """Adds --seed."""
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")


class _Help(RawDescriptionHelpFormatter):
    """Plain help, as wide as the terminal up to 100 columns, without types and defaults that the texts say already."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=min(shutil.get_terminal_size().columns, 100) - 2)
