"""Files that are written whole or not at all."""

from __future__ import annotations

__all__ = [
    "NO_ARRAYS",
    "first_line",
    "read_arrays",
    "read_json",
    "write_arrays",
    "write_atomically",
    "write_json",
    "write_text",
]

import json
import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

# An archive may unpack to so many times its size, or to so many bytes; no array that says something packs better.
MOST_PACKED, MOST_UNPACKED = 200, 2**28
NO_ARRAYS = (
    *(ArithmeticError, EOFError, LookupError, MemoryError, OSError, RuntimeError, SyntaxError, TypeError, ValueError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


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
    write_atomically(path, lambda tmp: np.savez_compressed(tmp, allow_pickle=False, **arrays))


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
    write_text(path, json.dumps(_encoded(record), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file, with NaN and infinities as :func:`write_json` writes them.

    Raises:
        ValueError: If the file holds no JSON, or JSON that is nested too deeply.
    """
    try:
        return _decoded(json.loads(path.read_text()))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _encoded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _encoded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(item) for item in value]
    finite = not isinstance(value, float) or math.isfinite(value)
    return value if finite else next(name for name, x in _NONFINITE.items() if repr(x) == repr(value))


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return _NONFINITE.get(value, value) if isinstance(value, str) else value


_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a temporary path beside `path`, then renames: a reader sees the old file or the new one.

    Arguments:
        path: The file that is made or replaced.
        write: Writes the whole content to the path that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        write(tmp)
        with tmp.open("rb") as file:
            os.fsync(file.fileno())
        tmp.replace(path)
    finally:
        tmp.unlink(missing_ok=True)


def first_line(error: Exception, number: int = 0) -> str:
    """Returns one line of an error's message, without its full stop."""
    lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
    return lines[min(number, len(lines) - 1)] if lines else type(error).__name__
