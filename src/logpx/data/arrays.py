"""Data sets from .npy and .npz files."""

from __future__ import annotations

__all__ = ["load_arrays"]

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..files import read_arrays
from ..utils import LogpxError
from ._checks import check_range
from ._parts import Raw, from_parts, from_whole
from .catalogue import Kind

_PARTS = ("train", "valid", "test")
_Array = NDArray[Any]


def load_arrays(path: Path) -> Raw:
    """Reads a .npy file, or a .npz file with the keys train, valid and test or with one array.

    An array is (N, D), or (N, H, W) for grey images, or (N, H, W, C), or else (N, C, H, W), for images of
    C = 1 or 3 channels. uint8 is "8-bit", floating point is "real", and what holds only 0 and 1 is "binary".

    Arguments:
        path: The file.

    Raises:
        LogpxError: If the file is damaged, or an array is empty, of another shape or type, or not finite.
    """
    arrays = _pick(path, _read(path))
    arrays = {key: _channels_first(_where(path, key), array) for key, array in arrays.items()}
    kind, levels = _kind(path, arrays)
    parts = {key: _values(_where(path, key), array, kind) for key, array in arrays.items()}
    if len({values.shape[1:] for values in parts.values()}) > 1:
        shapes = {key: tuple(values.shape) for key, values in parts.items()}
        raise LogpxError(f"{path}: expected parts of one shape, received {shapes}; save them alike.")
    if "train" in parts:
        return from_parts(kind, levels, parts, str(path))
    return from_whole(kind, levels, next(iter(parts.values())), str(path))


def _read(path: Path) -> dict[str, _Array]:
    """Returns the arrays in the file; that of a .npy file has the key ""."""
    try:
        return read_arrays(path)
    except ValueError as error:
        raise LogpxError(
            f"{path}: expected a complete file of plain numeric arrays, received one that NumPy cannot read "
            f"({error}); save it again with numpy.save or numpy.savez, without objects in it."
        ) from error


def _pick(path: Path, arrays: dict[str, _Array]) -> dict[str, _Array]:
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


def _where(path: Path, key: str) -> str:
    return f"{path}: array {key!r}" if key else str(path)


def _channels_first(where: str, array: _Array) -> _Array:
    """Returns an array of shape (N, D) or (N, C, H, W)."""
    if array.ndim not in (2, 3, 4) or (array.ndim == 4 and not {array.shape[1], array.shape[3]} & {1, 3}):
        raise LogpxError(
            f"{where}: expected the shape (N, D), (N, H, W), or with 1 or 3 channels (N, H, W, C) or "
            f"(N, C, H, W), received {array.shape}; reshape it."
        )
    if not array.size:
        raise LogpxError(
            f"{where}: expected at least one value, received an empty set of shape {array.shape}; add data."
        )
    if array.ndim == 3:
        return array[:, None]
    if array.ndim == 4 and array.shape[3] in (1, 3):
        return np.moveaxis(array, 3, 1)
    return array


def _kind(path: Path, arrays: dict[str, _Array]) -> tuple[Kind, int | None]:
    """Returns the kind of all arrays together, and their number of levels."""
    for key, array in arrays.items():
        if array.dtype.kind not in "buif":
            raise LogpxError(
                f"{_where(path, key)}: expected bool, uint8 or floating-point values, received "
                f"{array.dtype}; convert them."
            )
    if all(((array == 0) | (array == 1)).all() for array in arrays.values()):
        return "binary", 2
    if all(array.dtype == np.uint8 for array in arrays.values()):
        return "8-bit", 256
    for key, array in arrays.items():
        _check_floating(_where(path, key), array)
    return "real", None


def _check_floating(where: str, array: _Array) -> None:
    if array.dtype.kind == "f":
        return
    wrong = (array < 0) | (array > 255)
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        received = f"{array[index]} at index {index} (channels first)"
        cure = "rescale the values or, if they are measurements, save them as float32"
    else:
        received, cure = (
            f"integers up to {array.max()}",
            "save all arrays of the file as uint8 (or all as float32)",
        )
    raise LogpxError(
        f"{where}: expected uint8 levels from 0 to 255, or floating-point values, received "
        f"{array.dtype} with {received}; {cure}."
    )


def _values(where: str, array: _Array, kind: Kind) -> Tensor:
    with np.errstate(over="ignore"):
        values = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32 if kind == "real" else np.uint8))
    try:
        check_range(where, values, None if kind == "real" else 256)
    except ValueError as error:
        raise LogpxError(str(error)) from error
    return values
