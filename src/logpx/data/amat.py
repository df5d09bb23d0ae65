"""The .amat format of binarized MNIST: one datum per line, its values 0 or 1 separated by blanks."""

from __future__ import annotations

__all__ = ["read_amat"]

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..utils import LogpxError
from ._files import read_prefix

_BLOCK = 1 << 20
_DIGIT, _BLANK, _NEWLINE, _OTHER = range(4)
_CLASS = np.full(256, _OTHER, dtype=np.uint8)
_CLASS[list(b"01")] = _DIGIT
_CLASS[list(b" \r")] = _BLANK
_CLASS[list(b"\n")] = _NEWLINE

_Array = NDArray[Any]


def read_amat(path: Path, shape: tuple[int, int]) -> Tensor:
    """Reads a table of zeros and ones, plain or gzipped.

    Arguments:
        path: The file.
        shape: The number of lines and of values per line that it must have; memory is bounded by it.

    Returns:
        The values, of shape `shape`, uint8.

    Raises:
        LogpxError: If the file is damaged, a character is not allowed, or a line is too short or too long.
    """
    num_lines, num_values = shape
    longest = num_lines * (2 * num_values + 2)
    text = read_prefix(path, longest + 1)
    blocks = [np.empty((0, num_values), dtype=np.uint8)]
    position = line = 0
    while position < len(text):
        stop = _end_of_block(text, position, max(_BLOCK, 2 * num_values + 2))
        block = np.frombuffer(text, dtype=np.uint8, count=stop - position, offset=position)
        blocks.append(_parse(path, block, position, line, num_values))
        position, line = stop, line + len(blocks[-1])
        if line > num_lines:
            break
    if line != num_lines:
        received = f"{line} lines" if line < num_lines else "more"
        raise LogpxError(
            f"{path}: expected {num_lines} lines of {num_values} values, received {received}; get the right file."
        )
    return torch.from_numpy(np.concatenate(blocks))


def _end_of_block(text: bytearray, start: int, size: int) -> int:
    """Returns where the last whole line ends that fits into a block."""
    stop = min(start + size, len(text))
    return text.rfind(b"\n", start, stop) + 1 or stop


def _parse(path: Path, block: _Array, position: int, line: int, num_values: int) -> _Array:
    """Returns the values of some whole lines, the first of which has the number `line`, counted from 0."""
    character = _CLASS[block]
    is_digit = character == _DIGIT
    ends = np.flatnonzero(character == _NEWLINE)
    _check_characters(path, block, character, ends, position, line)
    starts = np.concatenate([[0], ends + 1])
    starts = starts[starts < len(block)]
    counts = np.add.reduceat(is_digit, starts, dtype=np.int64)
    if (wrong := counts != num_values).any():
        row = int(wrong.argmax())
        raise LogpxError(
            f"{path}: expected {num_values} values in line {line + row + 1} (from byte "
            f"{position + starts[row]}), received {counts[row]}; get the right file."
        )
    values: _Array = block[is_digit] - ord("0")
    return values.reshape(-1, num_values)


def _check_characters(path: Path, block: _Array, character: _Array, ends: _Array, position: int, line: int) -> None:
    wrong = character == _OTHER
    wrong[1:] |= (character[1:] == _DIGIT) & (character[:-1] == _DIGIT)
    if wrong.any():
        first = int(wrong.argmax())
        raise LogpxError(
            f"{path}: expected values 0 or 1 with blanks between, received {chr(block[first])!r} in line "
            f"{line + int(np.searchsorted(ends, first)) + 1} (byte {position + first}); get the right file."
        )
