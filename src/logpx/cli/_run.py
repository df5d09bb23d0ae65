"""What the commands about runs share: how a run is named and opened, and where figures go."""

from __future__ import annotations

__all__ = ["add_data_root", "add_devices", "add_run", "add_weights", "open_run", "write_figure"]

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace

if TYPE_CHECKING:
    from ..run import Run


def open_run(options: Namespace) -> Run:
    from ..run import Run

    run = Run.open(options.run)
    run.data_root = options.data_root
    return run


def write_figure(path: Path, draw: Callable[[], Any], other: str = "") -> None:
    from ..files import write_atomically

    if path.suffix not in (".png", ".pdf", ".svg"):
        kinds = f".png, .pdf, .svg{other}" if other else ".png, .pdf or .svg"
        raise ValueError(f"The output must end in {kinds}, but is {path}: choose one of these.")
    figure = draw()
    write_atomically(path, lambda tmp: figure.savefig(tmp))


def add_run(parser: ArgumentParser) -> None:
    parser.add_argument("run", help="a run folder, as made by logpx fit")
    add_data_root(parser)


def add_data_root(parser: ArgumentParser) -> None:
    parser.add_argument("--data-root", help="folder to look for named data in, before LOGPX_DATA and the user's cache")


def add_devices(parser: ArgumentParser) -> None:
    parser.add_argument("--devices", type=int, metavar="N", help="processes per machine, each with a device of its own")
    parser.add_argument("--num-nodes", type=int, metavar="M", help="machines; torchrun and SLURM launches work, too")


def add_weights(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        type=Literal["best", "last"],
        default="best",
        help="by validation, or after the last epoch",
    )
