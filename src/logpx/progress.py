"""Progress bars on a terminal, silence elsewhere."""

from __future__ import annotations

__all__ = ["track"]

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Update = Callable[..., None]


@contextmanager
def track(what: str, total: int, show: bool | None = None) -> Iterator[Update]:
    """Shows a bar with the time left on standard error, while the block runs.

    Arguments:
        what: What is going on.
        total: The number of steps.
        show: Whether to show it; by default only on a terminal.

    Returns:
        A function of the number of steps done, a note and, if it is now known better, the total, which moves the bar.
    """
    console = Console(stderr=True)
    if not (console.is_terminal if show is None else show):
        yield lambda done, note, total=total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total, note="")
        yield lambda done, note, total=total: bar.update(task, completed=done, note=note, total=total)
