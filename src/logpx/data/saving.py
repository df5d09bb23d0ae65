"""Data sets of any size in .npy files, a few data at a time: later fits then read them from disk as they are."""

from __future__ import annotations

__all__ = ["save_data"]

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..files import remove_leftovers, staged, sync_folder
from ..utils import LogpxError
from .catalogue import PREFIX
from .huggingface import streamed
from .rows import pieces
from .sources import load_data

_Array = NDArray[Any]
_NAMES = ("train", "valid", "test", "data")


def save_data(name_or_path: str | Path, folder: str | Path, *, data_root: str | Path | None = None) -> list[Path]:
    """Writes a data set to train.npy, valid.npy and test.npy in a folder, which `load_data` then reads.

    Sets of Hugging Face are streamed: their images are decoded once, and the library keeps no copy of them. One of them
    without splits becomes data.npy, which is divided when it is loaded. The files appear together, when all are whole.

    Arguments:
        name_or_path: What `load_data` takes.
        folder: The folder, which may not hold another set.
        data_root: The folder to look in first for a named set.

    Returns:
        The files.

    Raises:
        LogpxError: If the set cannot be had, the folder holds one, or levels are fewer than a file of bytes says that
            they are.
    """
    folder = Path(folder).expanduser()
    _check_free(folder)
    if isinstance(name_or_path, str) and name_or_path.startswith(PREFIX):
        parts = streamed(name_or_path.removeprefix(PREFIX))
    else:
        parts = _loaded(name_or_path, data_root)
    paths = {part: folder / f"{part or 'data'}.npy" for part in parts}
    with ExitStack() as written:
        files = {part: partial(_write_npy, name_or_path, batches) for part, batches in parts.items()}
        staged_files = [written.enter_context(staged(paths[part], write)) for part, write in files.items()]
        for file, path in zip(staged_files, paths.values(), strict=True):
            file.replace(path)
    sync_folder(folder)
    return list(paths.values())


def _check_free(folder: Path) -> None:
    for name in _NAMES:
        if (folder / f"{name}.npy").exists():
            raise LogpxError(f"{folder} holds {name}.npy already: choose another folder, or delete that set.")
        remove_leftovers(folder, name)


def _loaded(name_or_path: str | Path, data_root: str | Path | None) -> dict[str, Iterator[_Array]]:
    data = load_data(name_or_path, data_root=data_root)
    if data.kind == "8-bit" and data.levels != 256:
        raise LogpxError(
            f"{data.name}: expected 256 levels, which is what a file of bytes is taken to have, received "
            f"{data.levels}; fit to {data.name} by its name."
        )
    parts = {part: values for part, values in data.parts.items() if len(values)}
    return {part: (_channels_last(x) for _, x in pieces(values)) for part, values in parts.items()}


def _channels_last(x: Tensor) -> _Array:
    """Returns greys as (N, H, W) and colours as (N, H, W, 3), which no size of an image can be mistaken for."""
    if x.dim() != 4:
        return x.numpy()
    return x[:, 0].numpy() if x.shape[1] == 1 else x.movedim(1, -1).numpy()


def _write_npy(source: str | Path, batches: Iterator[_Array], path: Path) -> None:
    """Writes arrays one after the other, whose number is known at the end: NumPy leaves room for it in the header."""
    first = next(batches)
    header = {"descr": np.lib.format.dtype_to_descr(first.dtype), "fortran_order": False}
    count = 0
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {**header, "shape": first.shape})
        for array in chain([first], batches):
            if (array.shape[1:], array.dtype) != (first.shape[1:], first.dtype):
                raise LogpxError(
                    f"{source}: expected data of one shape and type, received {array.shape[1:]} {array.dtype} from row "
                    f"{count} on after {first.shape[1:]} {first.dtype}; make them alike or leave out what differs."
                )
            file.write(np.ascontiguousarray(array).data)
            count += len(array)
        file.seek(0)
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (count, *first.shape[1:])})
