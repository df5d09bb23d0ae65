"""Data sets of the Hugging Face library `datasets`: from its hub, or from a local folder.

The library keeps them on disk as Arrow tables, which it maps into memory, so they may be larger than it. What is small
is read into memory, as from any other source.
"""

from __future__ import annotations

__all__ = ["load_huggingface", "streamed"]

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..utils import LogpxError
from ._parts import Raw
from .arrays import from_arrays
from .catalogue import PREFIX
from .columns import images, numbers
from .stored import Stored, read_ahead

_NAMES = {"train": "train", "validation": "valid", "valid": "valid", "val": "valid", "dev": "valid", "test": "test"}
_STREAMED_AT_ONCE = 256
# One split, and all of them: the library is not typed and need not be there.
_Table: TypeAlias = Any
_Tables: TypeAlias = dict[str, Any]


def load_huggingface(words: str) -> tuple[str, Raw]:
    """Loads the one column of images, or of numbers of a fixed shape, of a data set.

    A split "validation" is valid. Where there is no test, validation is test; what is missing then is made as for
    arrays.

    Arguments:
        words: A local folder (of parquet files, of images, or as `save_to_disk` writes it), or else OWNER/NAME or
            OWNER/NAME/CONFIG on the hub.

    Returns:
        The name of the data set, and the data.

    Raises:
        LogpxError: If the library is not installed, the data cannot be had, there is no such column or more than one,
            or the data differ in shape.
    """
    source = f"{PREFIX}{words}"
    tables = _parts(source, _load(words))
    column = _column(source, next(iter(tables.values())).features)
    arrays = {part: _stored(_where(source, part), table, column) for part, table in tables.items()}
    name = Path(words).expanduser().resolve().name if _is_local(words) else words
    return name, from_arrays(source, arrays)


def streamed(words: str) -> dict[str, Iterator[NDArray[Any]]]:
    """Returns for each part its data in their order, some at a time, while the library downloads and forgets them.

    Arguments:
        words: As for :func:`load_huggingface`.

    Raises:
        LogpxError: As there, some of it while data are read.
    """
    source = f"{PREFIX}{words}"
    tables = _parts(source, _load(words, streaming=True))
    return {part: _stream(_where(source, part), table) for part, table in tables.items()}


def _where(source: str, part: str) -> str:
    return f"{source}: split {part!r}" if part else source


def _stream(where: str, table: _Table) -> Iterator[NDArray[Any]]:
    features = table.features or _first_features(where, table)
    column = _column(where, features)
    read, count = images if _is_image(features[column]) else numbers, 0
    for batch in _batches(where, table.select_columns(column), _STREAMED_AT_ONCE):
        # rows are counted from the first of the batch
        found = f"{where}, {count} rows on" if count else where
        yield read(found, batch, column).read(np.arange(len(batch)))
        count += len(batch)
    if not count:
        raise _empty(where)


def _batches(where: str, table: _Table, size: int) -> Iterator[_Table]:
    """Yields Arrow tables; what ends the stream too early is an error of ours."""
    try:
        yield from table.with_format("arrow").iter(size)
    except Exception as error:
        reason = " ".join(str(error).split()).removesuffix(".") or type(error).__name__
        raise LogpxError(
            f"{where}: expected the stream to go on to its end, received: {reason}; where the network failed, give the "
            "same command again, and else load the set without a stream."
        ) from error


def _first_features(where: str, table: _Table) -> dict[str, Any]:
    """Returns the columns of a stream that does not know them beforehand, as parquet files without a card do."""
    import datasets

    first = next(_batches(where, table, 1), None)
    if first is None:
        raise _empty(where)
    features: dict[str, Any] = datasets.Features.from_arrow_schema(first.schema)
    return features


def _empty(where: str) -> LogpxError:
    return LogpxError(f"{where}: expected at least one datum, received an empty split; leave it out.")


def _is_local(words: str) -> bool:
    return Path(words).expanduser().exists() or words.startswith((".", "/", "~"))


def _load(words: str, streaming: bool = False) -> _Tables:
    """Returns the splits by the names that the data set gives them; what `save_to_disk` wrote is mapped anyway."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise LogpxError(
            f"{PREFIX}{words}: expected the library datasets, received an installation without it; "
            "pip install 'logpx[datasets]'."
        ) from error
    path = Path(words).expanduser()
    try:
        with _quiet():
            if path.is_dir() and any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
                found = datasets.load_from_disk(str(path))
            elif _is_local(words):
                found = datasets.load_dataset(str(path), streaming=streaming)
            else:
                owner_name, config = words.split("/")[:2], words.split("/")[2:]
                found = datasets.load_dataset("/".join(owner_name), "/".join(config) or None, streaming=streaming)
    except Exception as error:
        raise _not_had(words, error) from error
    return dict(found) if isinstance(found, dict) else {"train": found}


def _not_had(words: str, error: Exception) -> LogpxError:
    reason = " ".join(str(error).split()).removesuffix(".")
    cure = (
        "give a folder of parquet files or images, or one that save_to_disk wrote"
        if _is_local(words)
        else "check the network and the name, hf:OWNER/NAME or hf:OWNER/NAME/CONFIG, or give a local folder"
    )
    return LogpxError(f"{PREFIX}{words}: expected a data set that `datasets` can load, received: {reason}; {cure}.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within the block the library writes no progress where nobody looks, and of retries only the last error."""
    import datasets
    from huggingface_hub.utils import logging

    # both are settings of the process, so they are put back
    verbosity, is_off = logging.get_verbosity(), datasets.utils.are_progress_bars_disabled()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if not is_off:
            datasets.enable_progress_bars()


def _parts(source: str, tables: _Tables) -> _Tables:
    """Returns the splits that are parts of ours, by our names, or the only one."""
    parts = {_NAMES[name]: table for name, table in tables.items() if name in _NAMES}
    if len(tables) == 1:
        return {"": next(iter(tables.values()))}
    if "test" not in parts and "valid" in parts:
        parts["test"] = parts.pop("valid")
    if {"train", "test"} <= parts.keys():
        return {part: parts[part] for part in ("train", "valid", "test") if part in parts}
    raise LogpxError(
        f"{source}: expected the splits train and test or validation, or a single one, received {list(tables)}; "
        "rename them, or save the one that you want by save_to_disk and give its folder."
    )


def _column(source: str, features: dict[str, Any]) -> str:
    """Returns the one column of images or, where there are none, of numbers in lists or arrays."""
    pictures = [name for name, feature in features.items() if _is_image(feature)]
    candidates = pictures or [name for name, feature in features.items() if _is_numbers(feature)]
    if len(candidates) != 1:
        columns = ", ".join(f"{name} ({_describe(feature)})" for name, feature in features.items())
        raise LogpxError(
            f"{source}: expected one column of images, or else of numbers of a fixed shape, received {columns}; keep "
            "one such column: select_columns, save_to_disk, and give that folder as hf:FOLDER."
        )
    return candidates[0]


def _describe(feature: Any) -> str:
    return getattr(feature, "dtype", None) or type(feature).__name__


def _is_image(feature: Any) -> bool:
    import datasets

    return isinstance(feature, datasets.Image) or (isinstance(feature, dict) and feature.keys() == {"bytes", "path"})


def _is_numbers(feature: Any) -> bool:
    import datasets

    is_list, dtype = False, getattr(feature, "dtype", None)
    while isinstance(feature, datasets.List):
        is_list, feature = True, feature.feature
        dtype = getattr(feature, "dtype", None)
    arrays = (datasets.Array2D, datasets.Array3D)
    is_number = isinstance(dtype, str) and dtype.startswith(("bool", "int", "uint", "float"))
    return is_number and (isinstance(feature, arrays) or (is_list and isinstance(feature, datasets.Value)))


def _stored(where: str, table: _Table, column: str) -> Stored:
    """Returns the column of a split as an array."""
    import datasets

    if not len(table):
        raise _empty(where)
    kept, feature = table.select_columns(column), table.features[column]
    if not _is_image(feature):
        return numbers(where, kept.with_format("arrow"), column)
    if isinstance(feature, datasets.Image):
        # as files, of which one header costs less than a picture
        kept = kept.cast_column(column, datasets.Image(decode=False))
    return read_ahead(images(where, kept.with_format("arrow"), column))
