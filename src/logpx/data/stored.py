"""Arrays of which only the rows that are asked for are read, in NumPy's types and as they were saved."""

from __future__ import annotations

__all__ = ["MAPPED_FROM", "Stored", "in_memory", "npy_file", "read_ahead"]

import math
import os
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..utils import LogpxError, chunks

# Arrays of so many bytes and more stay where they are stored.
MAPPED_FROM = 1 << 28
_PIECE_BYTES = 1 << 22
# So many announced parts of batches are kept at most: those of this step and the next, and some that nobody asked for.
_MOST_AHEAD = 256
_MAGIC = b"\x93NUMPY"

Index = NDArray[np.int64]
Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Stored:
    """An array in memory or elsewhere.

    Arguments:
        shape: Its shape, (N, ...).
        dtype: Its type.
        read: Reads rows: positions of shape (B,) in, an array of shape (B, ...) out.
        announce: Says which rows will be read soon, by their positions.
        array: The array itself where it is in memory.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[Index], Array]
    announce: Callable[[Index], None] = lambda index: None
    array: Array | None = None

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def is_small(self) -> bool:
        """Whether it belongs into memory."""
        return self.array is not None or math.prod(self.shape) * self.dtype.itemsize < MAPPED_FROM

    def turned(self, view: Callable[[Array], Array], shape: tuple[int, ...]) -> Stored:
        """Returns the array as a view shows its rows.

        Arguments:
            view: Any number of rows in, the same rows with other axes out.
            shape: The shape of the whole afterwards.
        """
        array = None if self.array is None else view(self.array)
        return replace(self, shape=shape, read=lambda index: view(self.read(index)), array=array)

    def pieces(self) -> Iterator[tuple[int, Array]]:
        """Yields all rows in their order, a few at a time, each time after the position of the first of them."""
        row_bytes = max(1, math.prod(self.shape[1:]) * self.dtype.itemsize)
        for start, stop in chunks(len(self), max(1, _PIECE_BYTES // row_bytes)):
            yield start, self.read(np.arange(start, stop)) if self.array is None else self.array[start:stop]


def in_memory(array: Array) -> Stored:
    """Wraps an array in memory.

    Arguments:
        array: The array, of shape (N, ...).
    """
    return Stored(array.shape, array.dtype, array.__getitem__, array=array)


def read_ahead(stored: Stored) -> Stored:
    """Returns an array whose announced rows a thread of its own reads while others are in use.

    It pays where to read is to compute, as with images that have to be decoded.

    Arguments:
        stored: The array, whose rows one thread may read while another one reads others.
    """
    ahead = _Ahead(stored.read)
    return replace(stored, read=ahead.read, announce=ahead.announce)


def npy_file(path: Path) -> Stored | None:
    """Opens a large .npy file without reading it, or returns None where it has to be read at once.

    Rows are read by their place in the file and not mapped: so they take no more memory than was asked for, and a file
    that was cut off in the meantime is an error and not the end of the process.

    Arguments:
        path: The file.

    Raises:
        ValueError: If the file is shorter than its header says, or holds objects.
        OSError: If it cannot be read.
    """
    if path.stat().st_size < MAPPED_FROM or not hasattr(os, "preadv"):
        return None
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            return None
    # the mapping tells where the values begin, and that none is missing; none of its pages is read
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    if mapped.ndim == 0 or not mapped.flags.c_contiguous:
        return None
    rows = _FileRows(path, mapped.offset, mapped.shape[1:], mapped.dtype)
    return Stored(mapped.shape, mapped.dtype, rows.read, rows.announce)


class _Ahead:
    """Reads announced rows in a thread, and others when they are asked for."""

    def __init__(self, rows: Callable[[Index], Array]) -> None:
        self.rows, self.pool = rows, ThreadPoolExecutor(1, thread_name_prefix="logpx-ahead")
        self.waiting: dict[bytes, Future[Array]] = {}

    def announce(self, index: Index) -> None:
        # what nobody asked for, as after the last batch of an epoch that was broken off, gives way
        while len(self.waiting) >= _MOST_AHEAD:
            self.waiting.pop(next(iter(self.waiting))).cancel()
        if len(index):
            self.waiting[index.tobytes()] = self.pool.submit(self.rows, index.copy())

    def read(self, index: Index) -> Array:
        found = self.waiting.pop(index.tobytes(), None)
        return self.rows(index) if found is None else found.result()


class _FileRows:
    """Reads rows of one size from a file, which stays open as long as this is in use."""

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.offset, self.shape, self.dtype = path, offset, shape, dtype
        self.row_bytes = math.prod(shape) * dtype.itemsize
        self.file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.file)

    def read(self, index: Index) -> Array:
        rows = np.empty((len(index), *self.shape), self.dtype)
        content, done = rows.reshape(-1).view(np.uint8).data, 0
        for place, size in self._runs(index):
            self._fill(content[done : done + size], place)
            done += size
        return rows

    def announce(self, index: Index) -> None:
        # the system fetches all of them at once; whoever reads them one by one waits for each
        if hasattr(os, "posix_fadvise"):
            for place, size in self._runs(index):
                os.posix_fadvise(self.file, place, size, os.POSIX_FADV_WILLNEED)

    def _runs(self, index: Index) -> list[tuple[int, int]]:
        """Returns the places in the file, each with a number of bytes: neighbours are one."""
        starts = np.flatnonzero(np.diff(index, prepend=-2) != 1)
        counts = np.diff(starts, append=len(index))
        places = self.offset + index[starts] * self.row_bytes
        return list(zip(places.tolist(), (counts * self.row_bytes).tolist(), strict=True))

    def _fill(self, content: memoryview, place: int) -> None:
        done = 0
        while done < len(content):
            try:
                count = os.preadv(self.file, [content[done:]], place + done)
            except OSError as error:
                raise LogpxError(
                    f"{self.path}: expected to read {len(content)} bytes, received the error {error}; mend its access."
                ) from error
            if not count:
                raise LogpxError(
                    f"{self.path}: expected {len(content)} bytes from byte {place}, received {done}, because the file "
                    "was cut off while it was in use; save it again."
                )
            done += count
