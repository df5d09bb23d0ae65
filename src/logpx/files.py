"""Files that are written whole or not at all."""

from __future__ import annotations

__all__ = ["first_line", "read_json", "write_arrays", "write_atomically", "write_json", "write_text"]

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


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


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Writes a JSON file whole or not at all; NaN and infinities, which JSON lacks, become strings."""
    write_text(path, json.dumps(_encoded(record), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file, with NaN and infinities as :func:`write_json` writes them."""
    return _decoded(json.loads(path.read_text()))


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
