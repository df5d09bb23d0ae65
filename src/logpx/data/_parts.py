"""From what a source holds to train, valid and test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..utils import LogpxError
from .catalogue import Kind
from .dataset import DataSet
from .rows import Values, join, select

_SPLIT_SEED = 0


@dataclass(frozen=True)
class Raw:
    """What a source holds, before it is divided.

    Arguments:
        kind: The kind of the values.
        levels: How many integer levels they have, or None.
        train: The training data, of shape (N, *event_shape); where there is no valid, its end becomes that.
        valid: The validation data, or None where the source has none of its own.
        test: The test data.
        default_num_valid: How many data to take from the end of train unless told otherwise.
        source: Where it was found.
        rows: The rows of the source in train and in test, where they are not in its order.
    """

    kind: Kind
    levels: int | None
    train: Values
    valid: Values | None
    test: Values
    default_num_valid: int
    source: str
    rows: tuple[Tensor, Tensor] | None = None


def divide(name: str, raw: Raw, num_valid: int | None) -> DataSet:
    """Makes a data set with the wanted number of validation data.

    Arguments:
        name: The name of the data set.
        raw: What the source holds.
        num_valid: How many of the training data to validate on, taken from their end; None for the default.
            Where the source has validation data of its own, 0 appends these to train.

    Raises:
        ValueError: If `num_valid` is not possible.
    """
    train, valid = _train_valid(name, raw, num_valid)
    rows = {}
    if raw.rows is not None:
        rows = {"train": raw.rows[0][: len(train)], "valid": raw.rows[0][len(train) :], "test": raw.rows[1]}
    event_shape = tuple(train.shape[1:])
    parts = {"train": train, "valid": valid, "test": raw.test}
    return DataSet(name, raw.kind, raw.levels, event_shape, parts, raw.source, rows)


def from_whole(kind: Kind, levels: int | None, values: Values, source: str, *, num_test: int | None = None) -> Raw:
    """Divides data without parts by a fixed permutation: the last tenth is test, the one before valid.

    Arguments:
        kind: The kind of the values.
        levels: How many integer levels they have, or None.
        values: The data, of shape (N, *event_shape).
        source: Where they were found.
        num_test: How many data are for testing, and by default for validation; a tenth unless told otherwise.

    Raises:
        LogpxError: If there are fewer than 3 data.
    """
    if len(values) < 3:
        raise LogpxError(
            f"{source}: expected at least 3 data to divide into train, valid and test, "
            f"received {len(values)}; add some."
        )
    held_out = max(1, len(values) // 10) if num_test is None else num_test
    order, note = _permutation(len(values), source)
    rows = (order[:-held_out], order[-held_out:])
    train, test = (select(values, some) for some in rows)
    return Raw(kind, levels, train, None, test, held_out, note, rows)


def from_parts(kind: Kind, levels: int | None, parts: Mapping[str, Values], source: str) -> Raw:
    """Keeps the parts of the source; without valid, train is permuted so that its last tenth can be that.

    Arguments:
        kind: The kind of the values.
        levels: How many integer levels they have, or None.
        parts: The data of "train", "test" and perhaps "valid", each of shape (N, *event_shape).
        source: Where they were found.
    """
    train, test = parts["train"], parts["test"]
    if "valid" in parts:
        return Raw(kind, levels, train, parts["valid"], test, 0, source)
    order, note = _permutation(len(train), f"{source}, its train")
    held_out = min(max(1, len(train) // 10), len(train) - 1)
    rows = (order, torch.arange(len(test)))
    return Raw(kind, levels, select(train, order), None, test, held_out, note, rows)


def _permutation(size: int, source: str) -> tuple[Tensor, str]:
    """Returns a fixed permutation; NumPy promises that the stream of RandomState never changes."""
    order = torch.from_numpy(np.random.RandomState(_SPLIT_SEED).permutation(size))
    return order.long(), f"{source} permuted by numpy.random.RandomState({_SPLIT_SEED})"


def _train_valid(name: str, raw: Raw, num_valid: int | None) -> tuple[Values, Values]:
    _check_num_valid(name, raw, num_valid)
    if raw.valid is None:
        cut = len(raw.train) - (raw.default_num_valid if num_valid is None else num_valid)
        return raw.train[:cut], raw.train[cut:]
    if num_valid == 0:
        return join(raw.train, raw.valid), raw.valid[:0]
    return raw.train, raw.valid


def _check_num_valid(name: str, raw: Raw, num_valid: int | None) -> None:
    if num_valid is None:
        return
    if raw.valid is None and not 0 <= num_valid < len(raw.train):
        raise ValueError(
            f"{name}: expected num_valid from 0 to {len(raw.train) - 1}, because it is taken from the "
            f"{len(raw.train)} training data, received {num_valid}; pass a number in this range."
        )
    if raw.valid is not None and num_valid not in (0, len(raw.valid)):
        raise ValueError(
            f"{name}: expected num_valid to be 0 (append to train) or {len(raw.valid)} (keep), because the "
            f"set has validation data of its own, received {num_valid}; pass one of these."
        )
