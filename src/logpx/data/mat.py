"""The MATLAB format of SVHN: one array X of shape (H, W, C, N)."""

from __future__ import annotations

__all__ = ["read_mat"]

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..utils import LogpxError
from ._files import Stream, opened

_UNREADABLE = (
    *(ArithmeticError, EOFError, LookupError, MemoryError, NotImplementedError),
    *(OSError, TypeError, ValueError, zlib.error),
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
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError

    try:
        _check_array(path, {name: (tuple(size), kind) for name, size, kind in whosmat(stream)}, stored)
        stream.seek(0)
        return np.asarray(loadmat(stream, variable_names=["X"])["X"])
    except (*_UNREADABLE, MatReadError) as error:
        raise LogpxError(
            f"{path}: expected a complete MATLAB file up to version 7, received one that SciPy cannot read "
            f"({' '.join(str(error).split()).removesuffix('.')}); delete it and get it again."
        ) from error


def _check_array(path: Path, found: dict[str, tuple[tuple[int, ...], str]], stored: tuple[int, ...]) -> None:
    if found.get("X") != (stored, "uint8"):
        received = ", ".join(f"{name!r} of shape {shape} ({kind})" for name, (shape, kind) in found.items())
        raise LogpxError(
            f"{path}: expected an array X of shape {stored} (uint8), received {received or 'none'}; get the right file."
        )
