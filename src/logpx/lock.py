"""One process at a time writes to a run folder.

The lock is one of the operating system on an empty file, which vanishes with the process that holds it, however that
ends. Beside it lies a record of the holder, for those who find the folder held.
"""

from __future__ import annotations

__all__ = ["HOLDER", "LOCK", "held"]

import datetime
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .files import read_json, remove_leftovers, write_json
from .utils import LogpxError

LOCK, HOLDER = ".lock", ".holder.json"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Within the block this process alone writes to a run folder; what killed ones left half-written is removed first.

    Arguments:
        folder: The run folder, which is made where it is not there.

    Raises:
        LogpxError: If another process holds the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise LogpxError(_refusal(folder)) from error
    try:
        remove_leftovers(folder)
        write_json(folder / HOLDER, _this_process())
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _this_process() -> dict[str, str | int]:
    program = Path(sys.argv[0]).name
    words = ["logpx" if program == "__main__.py" else program, *sys.argv[1:]]
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"process": os.getpid(), "host": socket.gethostname(), "command": shlex.join(words), "since": now}


def _refusal(folder: Path) -> str:
    try:
        holder = read_json(folder / HOLDER)
        who = "process {process} on {host} ({command}) since {since}".format(**holder)
    except (OSError, ValueError, TypeError, KeyError):
        who = "another process"
    return f"{folder} is held by {who}: wait until it ends, or stop it, and then give the command again."
