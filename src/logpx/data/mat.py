"""The MATLAB format of SVHN: one array X of shape (H, W, C, N)."""

from __future__ import annotations

__all__ = ["read_mat"]

import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..utils import LogpxError
from ._files import Stream, opened

# Of the MATLAB 5 format: the bytes before the first element, and types of elements and arrays.
HEADER, COMPRESSED, MATRIX, UINT8_ARRAY = 128, 15, 14, 9
BYTES: dict[int, type[np.int8] | type[np.uint8]] = {1: np.int8, 2: np.uint8}
_UNREADABLE = (
    *(ArithmeticError, EOFError, LookupError, MemoryError, NotImplementedError),
    *(OSError, TypeError, ValueError, struct.error, zlib.error),
)


def read_mat(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Reads the array X of a MATLAB file up to version 7, plain or gzipped, whose last axis counts the images.

    Arguments:
        path: The file.
        shape: The shape (N, C, H, W) that the images must have together; nothing is read of an array of another.

    Returns:
        The images, of shape `shape`, uint8.

    Raises:
        LogpxError: If the file is damaged, or holds no X of this shape and of type uint8.
    """
    num_images, channels, height, width = shape
    stored = (height, width, channels, num_images)
    with opened(path) as stream:
        images = _load(path, stream, stored)
    _check_array(path, {"X": (images.shape, str(images.dtype))}, stored)
    return torch.from_numpy(np.ascontiguousarray(images.transpose(3, 2, 0, 1)))


def _load(path: Path, stream: Stream, stored: tuple[int, ...]) -> NDArray[Any]:
    from scipy.io import whosmat
    from scipy.io.matlab import MatReadError

    try:
        _check_array(path, {name: (tuple(size), kind) for name, size, kind in whosmat(stream)}, stored)
        stream.seek(HEADER)
        return _values(stream, math.prod(stored)).reshape(stored, order="F")
    except (*_UNREADABLE, MatReadError) as error:
        raise LogpxError(
            f"{path}: expected a complete MATLAB file up to version 7, received one that SciPy cannot read "
            f"({' '.join(str(error).split()).removesuffix('.')}); delete it and get it again."
        ) from error


def _values(stream: Stream, size: int) -> NDArray[Any]:
    """Returns the bytes of X. SciPy's own reader ends the process where the type of the values is damaged."""
    while len(tag := stream.read(8)) == 8:
        kind, length = struct.unpack("<II", tag)
        if kind == COMPRESSED:
            # what lies before the values of an array takes less than 1,024 bytes
            element = zlib.decompressobj().decompress(stream.read(length), size + 1024)
        else:
            element = tag + stream.read(length)
        if struct.unpack_from("<I", element)[0] == MATRIX:
            flags, _, name, (value_kind, values) = _parts(element[8:], 4)
            if name[1] == b"X" and flags[1][0] == UINT8_ARRAY and value_kind in BYTES and len(values) == size:
                return np.frombuffer(values, BYTES[value_kind])
    raise ValueError("the values of X are not stored as bytes in the order of this machine")


def _parts(element: bytes, number: int) -> list[tuple[int, bytes]]:
    """Returns the first parts of an element, each with its type."""
    parts, at = [], 0
    for _ in range(number):
        kind, length = struct.unpack_from("<II", element, at)
        if kind >> 16:
            # a small part: two bytes of type, two of length, four of content
            parts.append((kind & 0xFFFF, element[at + 4 : at + 4 + (kind >> 16)]))
            at += 8
        else:
            parts.append((kind, element[at + 8 : at + 8 + length]))
            at += 8 + length + -length % 8
    return parts


def _check_array(path: Path, found: dict[str, tuple[tuple[int, ...], str]], stored: tuple[int, ...]) -> None:
    if found.get("X") != (stored, "uint8"):
        received = ", ".join(f"{name!r} of shape {shape} ({kind})" for name, (shape, kind) in found.items())
        raise LogpxError(
            f"{path}: expected an array X of shape {stored} (uint8), received {received or 'none'}; get the right file."
        )
