"""Files that are written whole or not at all."""

from __future__ import annotations

__all__ = [
    "LEFTOVER",
    "NO_ARRAYS",
    "arrays_writer",
    "first_line",
    "json_writer",
    "machine",
    "read_arrays",
    "read_json",
    "remove_leftovers",
    "staged",
    "sync_folder",
    "write_arrays",
    "write_atomically",
    "write_bytes",
    "write_json",
    "write_text",
]

import errno
import hashlib
import json
import math
import os
import re
import socket
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from .utils import LogpxError

# An archive may unpack to so many times its size, or to so many bytes; no array that says something packs better.
MOST_PACKED, MOST_UNPACKED = 200, 2**28
# What logpx writes is nested four levels deep; Python's stack ends at some hundreds.
DEEPEST = 20
LONGEST_LINE = 1000
NO_ARRAYS = (
    *(ArithmeticError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError, TypeError, ValueError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
# the temporary files of process 1 are called .name.1@digest.tmp and the suffix of the name, with a digest of the
# machine's name, which those of earlier versions lack
LEFTOVER = re.compile(r"^\..*\.(\d+)(?:@([0-9a-f]{8}))?\.tmp")
# why a file cannot grow, by the number of the error
FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EFBIG: "it would be larger than files may be here",
}


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    write_atomically(path, lambda tmp: tmp.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    write_atomically(path, lambda tmp: tmp.write_text(text))


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays to an .npz file whole or not at all.

    Raises:
        ValueError: If the path does not end in .npz.
    """
    if path.suffix != ".npz":
        raise ValueError(f"Arrays go to a file that ends in .npz, but got {path}: rename the output.")
    write_atomically(path, arrays_writer(arrays))


def arrays_writer(arrays: Mapping[str, np.ndarray]) -> Callable[[Path], object]:
    """Returns a function that writes named arrays to the .npz file that it is given."""
    return lambda path: np.savez_compressed(path, allow_pickle=False, **arrays)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an .npz file by name, or that of an .npy file under the name "".

    Raises:
        ValueError: If NumPy cannot read the file, it holds objects or no arrays, or unpacks to far more than its size.
    """
    try:
        with path.open("rb") as file:
            _check_unpacked(path)
            loaded = np.load(file, allow_pickle=False)
            arrays = {"": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except NO_ARRAYS as error:
        raise ValueError(" ".join(str(error).split()).removesuffix(".") or type(error).__name__) from error
    if strange := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"{strange[0]!r} is no array")
    return arrays


def _check_unpacked(path: Path) -> None:
    """Refuses an archive that would fill the memory; it never gives more than its directory promises."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(info.file_size for info in archive.infolist())
    if unpacked > max(MOST_UNPACKED, MOST_PACKED * path.stat().st_size):
        raise ValueError(f"it unpacks to {unpacked:,} bytes, more than {MOST_PACKED} times its size: save it unpacked")


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a JSON file whole or not at all; NaN and infinities, which JSON lacks, become strings."""
    write_atomically(path, json_writer(record))


def json_writer(record: Mapping[str, Any]) -> Callable[[Path], object]:
    """Returns a function that writes a record to the JSON file that it is given, as :func:`write_json` does."""
    text = json.dumps(_encoded(record), indent=2, allow_nan=False) + "\n"
    return lambda path: path.write_text(text)


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file, with NaN and infinities as :func:`write_json` writes them.

    Raises:
        ValueError: If the file holds no JSON, or JSON that is nested too deeply.
    """
    try:
        return _decoded(json.loads(path.read_text()), DEEPEST)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _encoded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _encoded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(item) for item in value]
    finite = not isinstance(value, float) or math.isfinite(value)
    return value if finite else next(name for name, x in _NONFINITE.items() if repr(x) == repr(value))


def _decoded(value: Any, levels: int) -> Any:
    if levels < 0:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict):
        return {key: _decoded(item, levels - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_decoded(item, levels - 1) for item in value]
    return _NONFINITE.get(value, value) if isinstance(value, str) else value


_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a temporary path beside `path`, then renames: a reader sees the old file or the new one.

    Arguments:
        path: The file that is made or replaced.
        write: Writes the whole content to the path that it is given.

    Raises:
        LogpxError: If the disk is full; the old file is intact.
    """
    with staged(path, write) as tmp:
        tmp.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Lets new names of files in a folder outlive a power failure, where the system can."""
    if os.name != "posix":
        return
    # a folder that may not be read, or a disk that knows no such thing, is no reason to fail: the file is in its place
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def staged(path: Path, write: Callable[[Path], object]) -> Iterator[Path]:
    """Within the block the content is on the disk under a temporary name beside `path`, and only to be renamed.

    Arguments:
        path: The file that is to be made or replaced.
        write: Writes the whole content to the path that it is given.

    Returns:
        The temporary path; what has not been renamed is removed afterwards.

    Raises:
        LogpxError: If the disk is full.
    """
    tmp = path.with_name(f".{path.stem}.{os.getpid()}@{machine()}.tmp{path.suffix}")
    try:
        with _explaining_full_disks(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write(tmp)
            with tmp.open("rb") as file:
                os.fsync(file.fileno())
        yield tmp
    finally:
        tmp.unlink(missing_ok=True)


@contextmanager
def _explaining_full_disks(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # a library may tell of its own failure, and of the disk only in what led to it
        causes = [error, error.__cause__, error.__context__]
        reasons = [FULL[each.errno] for each in causes if isinstance(each, OSError) and each.errno in FULL]
        if not reasons:
            raise
        kept = "the earlier file is intact" if path.exists() else "no part of it is left"
        raise LogpxError(
            f"{path} cannot be written because {reasons[0]}; {kept}: free space, then give the same command again, or "
            "go on with a fit by 'logpx fit --resume' and its folder."
        ) from error


def remove_leftovers(folder: Path, stem: str = "*") -> None:
    """Removes the temporary files that killed processes of this machine left in a folder and those within it.

    Arguments:
        folder: The folder; where others may write to it, give a stem.
        stem: The stem of the files that they were to become; by default any.
    """
    for path in [*folder.glob(f".{stem}.*.tmp*"), *folder.glob(f"*/.{stem}.*.tmp*")]:
        writer = LEFTOVER.search(path.name)
        if writer and writer[2] in (None, machine()) and not _is_running(int(writer[1])):
            path.unlink(missing_ok=True)


def machine() -> str:
    """Returns a digest of the name of this machine, which may hold any character."""
    return hashlib.sha256(socket.gethostname().encode(errors="surrogateescape")).hexdigest()[:8]


def _is_running(process: int) -> bool:
    """Whether there is such a process on this machine; elsewhere than on POSIX systems nobody is asked."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def first_line(error: Exception, number: int = 0) -> str:
    """Returns one line of an error's message, without its full stop, and of a very long one the beginning."""
    lines = [line.strip().rstrip(".")[:LONGEST_LINE] for line in str(error).splitlines() if line.strip()]
    return lines[min(number, len(lines) - 1)] if lines else type(error).__name__
