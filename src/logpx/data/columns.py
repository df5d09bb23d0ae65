"""Columns of Arrow tables as arrays: numbers in lists of one length, and images."""

from __future__ import annotations

__all__ = ["images", "numbers"]

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..utils import LogpxError, chunks
from .pictures import NO_PICTURE, open_picture
from .stored import Array, Index, Stored

_MODES = ("L", "RGB")
_NUM_OPENED = 1000

Form = tuple[str, tuple[int, int]]


def numbers(where: str, table: Any, column: str) -> Stored:
    """Returns a column of lists, or of lists of lists, as an array; the lengths of its first datum are those of all.

    Arguments:
        where: What the column is part of, for errors.
        table: The table, in the format "arrow".
        column: The name of the column.
    """
    shape, first = _flat(where, table, column, np.arange(1), None)

    def read(index: Index) -> Array:
        return _flat(where, table, column, index, shape)[1].reshape(len(index), *shape)

    return Stored((len(table), *shape), first.dtype, read)


def images(where: str, table: Any, column: str) -> Stored:
    """Returns a column of images as an array (N, H, W) or (N, H, W, 3), after a look at the header of each.

    Arguments:
        where: What the column is part of, for errors.
        table: The table, in the format "arrow".
        column: The name of the column; each datum has the bytes of a file or its path.
    """
    found = f"{where}: column {column!r}"
    forms: list[Form] = []

    def check(row: int, image: Image.Image) -> None:
        if not forms:
            forms.append((image.mode, image.size))
        _check_form(found, row, image, forms[0])

    for start, stop in chunks(len(table), _NUM_OPENED):
        _open(found, table, column, np.arange(start, stop), check)
    mode, (width, height) = forms[0]
    shape = (height, width, 3) if mode == "RGB" else (height, width)

    def read(index: Index) -> Array:
        pixels: list[Array] = []
        _open(found, table, column, index, lambda row, image: pixels.append(np.asarray(image)))
        return np.stack(pixels)

    return Stored((len(table), *shape), np.dtype(np.uint8), read)


def _rows(table: Any, column: str, index: Index) -> Any:
    """Returns rows of a column as one Arrow array; neighbours are read faster as a slice."""
    is_slice = int(index[-1]) - int(index[0]) + 1 == len(index) and bool((np.diff(index) == 1).all())
    rows = table[int(index[0]) : int(index[-1]) + 1] if is_slice else table[index.tolist()]
    return rows[column].combine_chunks()


def _flat(
    where: str, table: Any, column: str, index: Index, shape: tuple[int, ...] | None
) -> tuple[tuple[int, ...], Array]:
    """Returns the shape of a datum, that of the first unless told otherwise, and the values of all in one row."""
    import pyarrow as pa

    values = _rows(table, column, index)
    found: tuple[int, ...] = ()
    while pa.types.is_nested(values.type) or isinstance(values, pa.ExtensionArray):
        if isinstance(values, pa.ExtensionArray):
            values = values.storage
            continue
        lengths = values.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        wanted = int(lengths[0]) if shape is None else shape[len(found)]
        wrong = np.flatnonzero(lengths != wanted)
        if len(wrong):
            # the outer lists are of one length, so that the place tells the row
            row = int(index[wrong[0] * len(index) // len(lengths)])
            raise LogpxError(
                f"{where}: expected data of one shape, received {lengths[wrong[0]]} values in place of {wanted} in "
                f"row {row} of column {column!r}; reshape, pad or leave out what differs."
            )
        values, found = values.flatten(), (*found, wanted)
    if values.null_count:
        raise LogpxError(f"{where}: expected a value everywhere, received none in places of {column!r}; fill them.")
    return found, values.to_numpy(zero_copy_only=False)


def _open(where: str, table: Any, column: str, index: Index, use: Callable[[int, Image.Image], None]) -> None:
    """Shows images to a function, one after another."""
    for row, file in zip(index.tolist(), _rows(table, column, index).to_pylist(), strict=True):
        try:
            with open_picture(_content(file)) as image:
                use(row, image)
        except NO_PICTURE as error:
            raise LogpxError(
                f"{where}: expected a readable image, received the error {error} in row {row}; mend or leave out this "
                "datum."
            ) from error


def _content(file: dict[str, Any] | None) -> bytes:
    """Returns the bytes of an image, which the table holds itself, or tells where they are."""
    if file and file["bytes"] is not None:
        return bytes(file["bytes"])
    if not file or not file["path"]:
        raise ValueError("no image")
    if "://" not in file["path"]:
        return Path(file["path"]).read_bytes()
    # of a stream: on the hub, or within an archive
    import fsspec

    with fsspec.open(file["path"], "rb") as stream:
        return bytes(stream.read())


def _check_form(where: str, row: int, image: Image.Image, form: Form) -> None:
    received = f"mode {image.mode} and {image.width}x{image.height} pixels in row {row}"
    if image.mode not in _MODES:
        raise LogpxError(f"{where}: expected grey (L) or colour (RGB) images, received {received}; convert them.")
    if (image.mode, image.size) != form:
        raise LogpxError(
            f"{where}: expected mode {form[0]} and {form[1][0]}x{form[1][1]} pixels as in the first image, received "
            f"{received}; convert or resize the images alike."
        )
