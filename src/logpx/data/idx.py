"""The idx format of MNIST: a magic number, the sizes of the dimensions, then the bytes."""

from __future__ import annotations

__all__ = ["read_idx"]

import math
import struct
from pathlib import Path

import torch
from torch import Tensor

from ..utils import LogpxError
from ._files import read_prefix

_UNSIGNED_BYTES = 0x0800


def read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Reads an idx file of unsigned bytes, plain or gzipped.

    Arguments:
        path: The file.
        shape: The shape that it must have; memory is bounded by it, whatever the header says.

    Returns:
        The values, of shape `shape`, uint8.

    Raises:
        LogpxError: If the file is damaged or is not an idx file of this shape.
    """
    offset = 4 + 4 * len(shape)
    expected = offset + math.prod(shape)
    _check_header(path, read_prefix(path, offset), shape)
    content = read_prefix(path, expected + 1)
    if len(content) != expected:
        received = f"more than {expected}" if len(content) > expected else len(content)
        raise LogpxError(
            f"{path}: expected {expected} bytes for the shape {shape} that its header gives, received "
            f"{received}; delete it and get it again."
        )
    if not math.prod(shape):
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(content, dtype=torch.uint8, offset=offset).reshape(shape)


def _check_header(path: Path, header: bytearray, shape: tuple[int, ...]) -> None:
    magic = _UNSIGNED_BYTES + len(shape)
    if len(header) < 4 + 4 * len(shape):
        raise LogpxError(
            f"{path}: expected an idx header of {4 + 4 * len(shape)} bytes, received a file that ends at "
            f"byte {len(header)}; delete it and get it again."
        )
    received_magic, *sizes = struct.unpack(f">{1 + len(shape)}I", header)
    if received_magic != magic:
        raise LogpxError(
            f"{path}: expected the magic number 0x{magic:08x} at byte 0, received 0x{received_magic:08x}; "
            f"this is not an idx file of unsigned bytes in {len(shape)} dimensions, so get the right one."
        )
    if tuple(sizes) != shape:
        raise LogpxError(
            f"{path}: expected the shape {shape} in the header at byte 4, received {tuple(sizes)}; get the right file."
        )
