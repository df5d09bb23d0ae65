"""Data sets from .npy and .npz files, and from whatever else holds arrays."""

from __future__ import annotations

__all__ = ["from_arrays", "load_arrays"]

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..files import NO_ARRAYS, read_arrays
from ..utils import LogpxError
from ._checks import check_range
from ._parts import Raw, from_parts, from_whole
from .catalogue import Kind
from .rows import Rows, Values, pieces
from .stored import Stored, in_memory, npy_file

_PARTS = ("train", "valid", "test")
_Array = NDArray[Any]


def load_arrays(path: Path) -> Raw:
    """Reads a .npy file, a .npz file with the keys train, valid and test or with one array, or a folder of .npy files.

    The files of a folder are train.npy, test.npy and perhaps valid.npy, or data.npy. The values of a large .npy file
    stay in it.
    An array is (N, D), or (N, H, W) for grey images, or (N, H, W, C), or else (N, C, H, W), for images of
    C = 1 or 3 channels. uint8 is "8-bit", floating point is "real", and what holds only 0 and 1 is "binary".

    Arguments:
        path: The file, or the folder.

    Raises:
        LogpxError: If a file is damaged, or an array is empty, of another shape or type, or not finite.
    """
    if not path.is_dir():
        return from_arrays(path, _pick(path, _open(path)))
    names = _PARTS if (path / "train.npy").is_file() else ("data",)
    files = [file for file in (path / f"{name}.npy" for name in names) if file.is_file()]
    return from_arrays(path, _pick(path, {file.stem: _only(file, _open(file)) for file in files}))


def from_arrays(path: Path | str, arrays: dict[str, Stored]) -> Raw:
    """Makes data of arrays: of train, test and perhaps valid, or of a single one.

    Arguments:
        path: Where they were found.
        arrays: The arrays by their names.

    Raises:
        LogpxError: If an array is empty, of another shape or type, or not finite.
    """
    arrays = {key: _channels_first(_where(path, key), array) for key, array in arrays.items()}
    kind, levels = _kind(path, arrays)
    parts = {key: _values(_where(path, key), array, kind) for key, array in arrays.items()}
    if len({tuple(values.shape[1:]) for values in parts.values()}) > 1:
        shapes = {key: tuple(values.shape) for key, values in parts.items()}
        raise LogpxError(f"{path}: expected parts of one shape, received {shapes}; save them alike.")
    if "train" in parts:
        return from_parts(kind, levels, parts, str(path))
    return from_whole(kind, levels, next(iter(parts.values())), str(path))


def _open(path: Path) -> dict[str, Stored]:
    """Returns the arrays in the file, in memory or not; that of a .npy file has the key ""."""
    try:
        large = npy_file(path)
    except NO_ARRAYS as error:
        raise _unreadable(path, error) from error
    return {"": large} if large is not None else {key: in_memory(array) for key, array in _read(path).items()}


def _only(path: Path, arrays: dict[str, Stored]) -> Stored:
    if "" not in arrays:
        raise _unreadable(path, ValueError("it is an archive"))
    return arrays[""]


def _read(path: Path) -> dict[str, _Array]:
    """Returns the arrays in the file; that of a .npy file has the key ""."""
    try:
        return read_arrays(path)
    except ValueError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: BaseException) -> LogpxError:
    reason = " ".join(str(error).split()).removesuffix(".")
    return LogpxError(
        f"{path}: expected a complete file of plain numeric arrays, received one that NumPy cannot read "
        f"({reason}); save it again with numpy.save or numpy.savez, without objects in it."
    )


def _pick(path: Path, arrays: dict[str, Stored]) -> dict[str, Stored]:
    """Keeps the parts, or the one array that holds the data."""
    if "train" in arrays and "test" in arrays:
        return {key: arrays[key] for key in _PARTS if key in arrays}
    if not arrays.keys() & set(_PARTS):
        if len(arrays) == 1:
            return arrays
        for key in ("x", "data"):
            if key in arrays:
                return {key: arrays[key]}
    raise LogpxError(
        f"{path}: expected the keys train and test (and perhaps valid), or x, or data, or a single array, "
        f"received {sorted(arrays)}; save it again with these names."
    )


def _where(path: Path | str, key: str) -> str:
    return f"{path}: array {key!r}" if key else str(path)


def _channels_first(where: str, array: Stored) -> Stored:
    """Returns an array of shape (N, D) or (N, C, H, W)."""
    shape = array.shape
    if len(shape) not in (2, 3, 4) or (len(shape) == 4 and not {shape[1], shape[3]} & {1, 3}):
        raise LogpxError(
            f"{where}: expected the shape (N, D), (N, H, W), or with 1 or 3 channels (N, H, W, C) or "
            f"(N, C, H, W), received {shape}; reshape it."
        )
    if 0 in shape:
        raise LogpxError(f"{where}: expected at least one value, received an empty set of shape {shape}; add data.")
    if len(shape) == 3:
        return array.turned(lambda rows: rows[:, None], (shape[0], 1, *shape[1:]))
    if len(shape) == 4 and shape[3] in (1, 3):
        return array.turned(lambda rows: np.moveaxis(rows, 3, 1), (shape[0], shape[3], *shape[1:3]))
    return array


def _kind(path: Path | str, arrays: dict[str, Stored]) -> tuple[Kind, int | None]:
    """Returns the kind of all arrays together, and their number of levels."""
    for key, array in arrays.items():
        if array.dtype.kind not in "buif":
            raise LogpxError(
                f"{_where(path, key)}: expected bool, uint8 or floating-point values, received "
                f"{array.dtype}; convert them."
            )
    if all(((x == 0) | (x == 1)).all() for array in arrays.values() for _, x in array.pieces()):
        return "binary", 2
    if all(array.dtype == np.uint8 for array in arrays.values()):
        return "8-bit", 256
    for key, array in arrays.items():
        _check_floating(_where(path, key), array)
    return "real", None


def _check_floating(where: str, array: Stored) -> None:
    if array.dtype.kind == "f":
        return
    received = f"integers up to {max(x.max() for _, x in array.pieces())}"
    cure = "save all arrays of the file as uint8 (or all as float32)"
    for start, x in array.pieces():
        wrong = (x < 0) | (x > 255)
        if wrong.any():
            first, *rest = (int(i) for i in np.argwhere(wrong)[0])
            received = f"{x[(first, *rest)]} at index {(start + first, *rest)} (channels first)"
            cure = "rescale the values or, if they are measurements, save them as float32"
            break
    raise LogpxError(
        f"{where}: expected uint8 levels from 0 to 255, or floating-point values, received "
        f"{array.dtype} with {received}; {cure}."
    )


def _values(where: str, array: Stored, kind: Kind) -> Values:
    convert = _to_float32 if kind == "real" else _to_uint8
    dtype = torch.float32 if kind == "real" else torch.uint8
    if array.array is not None:
        values: Values = convert(array.array)
    else:
        values = Rows(lambda index: convert(array.read(index)), len(array), array.shape[1:], dtype, array.announce)
        values = torch.cat([x for _, x in pieces(values)]) if array.is_small else values
    try:
        check_range(where, values, None if kind == "real" else 256)
    except ValueError as error:
        raise LogpxError(str(error)) from error
    return values


def _to_float32(array: _Array) -> Tensor:
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.require(array, np.float32, ["C", "W"]))


def _to_uint8(array: _Array) -> Tensor:
    return torch.from_numpy(np.require(array, np.uint8, ["C", "W"]))
