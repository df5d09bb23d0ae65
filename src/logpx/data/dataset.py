"""A data set, and its parts as a model sees them."""

from __future__ import annotations

__all__ = ["Binarization", "DataSet", "Kind", "Split"]

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import get_args

import torch
from torch import Tensor

from ..utils import chunks, generator
from ._checks import check_index, check_parts, check_probabilities
from .batch import Batch
from .binarize import draw, draw_each, threshold, threshold_each
from .catalogue import Binarization, Kind
from .rows import Rows, Values, pieces


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set, as a model sees it: its values and mirrorings are those of one epoch.

    Arguments:
        name: The part: train, valid or test.
        kind: The kind of the values; "binary" after binarization.
        levels: How many integer levels the values have, or None for real values.
        event_shape: The shape of one datum, channels first.
        binarization: How the values were made from the raw ones.
        seed: The seed of the binarization and the mirrorings.
        values: The values of the current epoch before mirroring, of shape (N, *event_shape), uint8 or float32;
            `Rows` in the place of a tensor where they are not in memory.
        greys: The raw values from which every epoch is drawn afresh, or None where epochs do not differ.
        grey_levels: How many integer levels the greys have, or None where they are probabilities.
        current_epoch: The epoch whose values these are.
        flip: Whether each epoch mirrors a random half of the images.
        mirrored: Which images batches mirror along the last axis in the current epoch, of shape (N,), bool, or None.
        data_name: The name of the data set, for the record.
        data_hash: The hash of the raw data set, for the record.
    """

    name: str
    kind: Kind
    levels: int | None
    event_shape: tuple[int, ...]
    binarization: Binarization
    seed: int
    values: Values = field(repr=False)
    greys: Values | None = field(default=None, repr=False)
    grey_levels: int | None = None
    current_epoch: int = 0
    flip: bool = False
    mirrored: Tensor | None = field(default=None, repr=False)
    data_name: str | None = None
    data_hash: str | None = None

    def __len__(self) -> int:
        return len(self.values)

    def epoch(self, epoch: int = 0) -> Split:
        """Returns the split as it is in one epoch: fresh draws where training data are dynamic or flipped, else itself.

        Arguments:
            epoch: The number of the epoch; the same number always gives the same draws.
        """
        if epoch == self.current_epoch or (self.greys is None and not self.flip):
            return self
        device = self.values.device
        values, mirrored = self.values, self.mirrored
        if self.greys is not None:
            values = _drawn(self.greys, self.grey_levels, self.seed, self.name, epoch).to(device)
        if self.flip:
            mirrored = _draw_mirrored(len(self), self.seed, self.name, epoch).to(device)
        return replace(self, values=values, mirrored=mirrored, current_epoch=epoch)

    def take(self, n: int) -> Split:
        """Returns the first n data, or all where there are fewer, with their values in the full split.

        Arguments:
            n: How many data to keep.

        Raises:
            ValueError: If n is negative.
        """
        if n < 0:
            raise ValueError(f"expected n >= 0 data to take, received {n}; pass 0 or more.")
        greys = None if self.greys is None else self.greys[:n]
        mirrored = None if self.mirrored is None else self.mirrored[:n]
        return replace(self, values=self.values[:n], greys=greys, mirrored=mirrored)

    def to(self, device: torch.device | str) -> Split:
        """Returns the split with its values on a device, so that batches are made there.

        The draws of later epochs are made on the CPU and moved, so that they are the same on every device.

        Arguments:
            device: The device.
        """
        mirrored = None if self.mirrored is None else self.mirrored.to(device)
        return replace(self, values=self.values.to(device), mirrored=mirrored)

    def batch(self, index: Tensor, device: torch.device | str = "cpu") -> Batch:
        """Returns some data as float32: binary 0. or 1., a level as level / (levels - 1), real as they are.

        Arguments:
            index: The positions in the split, of shape (B,), int64.
            device: The device of the batch.

        Raises:
            TypeError: If the index is not int64.
            ValueError: If the index is not of shape (B,) or points outside the split.
        """
        check_index(index, len(self))
        stored = index.to(self.values.device)
        # of a tensor ten times as fast as values[stored]
        x = self.values.index_select(0, stored) if isinstance(self.values, Tensor) else self.values[stored]
        if self.mirrored is not None:
            x = torch.where(self.mirrored[stored].reshape(-1, *(1 for _ in self.event_shape)), x.flip(-1), x)
        x = x.to(device).to(torch.float32)
        if self.kind == "8-bit" and self.levels is not None:
            x = x / (self.levels - 1)
        return Batch(x, index.to(device))

    def batches(self, size: int, *, device: torch.device | str = "cpu", order: Tensor | None = None) -> Iterator[Batch]:
        """Yields the data in batches; the last may be smaller.

        Arguments:
            size: The number of data per batch.
            device: The device of the batches.
            order: The positions to yield, of shape (M,), int64; all in their order unless told otherwise.

        Raises:
            ValueError: If the size is below 1, or the order is not as in `batch`.
        """
        if size < 1:
            raise ValueError(f"expected a batch size of 1 or more, received {size}; pass a positive number.")
        order = torch.arange(len(self)) if order is None else order
        for start, stop in chunks(len(order), size):
            batch = self.batch(order[start:stop], device)
            self.announce(order[stop : stop + size])
            yield batch

    def announce(self, index: Tensor) -> None:
        """Says that some data will be asked for soon: those on disk are fetched or decoded while others are in use.

        Arguments:
            index: Their positions in the split, of shape (B,), int64.

        Raises:
            TypeError: If the index is not int64.
            ValueError: If it is not of shape (B,) or points outside the split.
        """
        if isinstance(self.values, Rows):
            check_index(index, len(self))
            self.values.announce(index)


@dataclass(frozen=True, eq=False)
class DataSet:
    """The raw values of a data set, divided into train, valid and test; nothing changes them.

    Arguments:
        name: The name in the catalogue, or the stem of the path.
        kind: The kind of the raw values.
        levels: 2 for binary values, the number of integer levels 0..levels-1 for "8-bit", None for real ones.
        event_shape: The shape of one datum, channels first.
        parts: For "train", "valid" and "test" the values, of shape (N, *event_shape), uint8 or float32, in memory
            or not; valid may be empty.
        source: Where it was found, for a person to read.
        rows: For each part the rows of the source that it holds, of shape (N,), int64; empty where the source
            has parts of its own and the parts keep its order.

    Raises:
        ValueError: If the parts do not agree with the kind, levels and event shape, or hold values outside
            their range.
    """

    name: str
    kind: Kind
    levels: int | None
    event_shape: tuple[int, ...]
    parts: Mapping[str, Values] = field(repr=False)
    source: str
    rows: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_parts(self.name, self.kind, self.levels, self.event_shape, self.parts)

    @property
    def num_dims(self) -> int:
        """The number of dimensions of one datum."""
        return math.prod(self.event_shape)

    @cached_property
    def hash(self) -> str:
        """A hash of kind, levels, shapes and bytes; it does not depend on where train ends and valid begins."""
        train, valid, test = (self.parts[name] for name in ("train", "valid", "test"))
        shapes = (len(train) + len(valid), len(test), *self.event_shape)
        usual = {"binary": 2, "8-bit": 256, "real": None}[self.kind]
        levels = "" if self.levels == usual else f" in {self.levels} levels"
        digest = hashlib.sha256(f"{self.kind}{levels} {shapes}".encode())
        for part in (train, valid, test):
            for _, piece in pieces(part):
                digest.update(piece.contiguous().numpy().data)
        return f"sha256:{digest.hexdigest()[:16]}"

    def split(self, name: str, binarization: Binarization = "none", seed: int = 0, flip: bool = False) -> Split:
        """Returns one part as a model sees it; a training split holds the draws of epoch 0.

        "threshold" cuts at half of the range; "static" draws once for every part; "dynamic" draws afresh in
        every epoch of train, and once for valid and test.

        Arguments:
            name: The part: train, valid or test.
            binarization: How values become 0 or 1.
            seed: The seed of the draws; with the name and, for dynamic or flipped train, the epoch it fixes them.
            flip: Whether each epoch of train mirrors a random half of the images; valid and test are never mirrored.

        Raises:
            ValueError: If the part or the binarization is unknown, or these data cannot be binarized or mirrored.
        """
        self._check_split(name, binarization, flip)
        split = self._binarized(name, binarization, seed)
        if flip and name == "train":
            split = replace(split, flip=True, mirrored=_draw_mirrored(len(split), seed, name, epoch=0))
        return replace(split, data_name=self.name, data_hash=self.hash)

    def _binarized(self, name: str, binarization: Binarization, seed: int) -> Split:
        raw = self.parts[name]
        if binarization == "none":
            return Split(name, self.kind, self.levels, self.event_shape, binarization, seed, raw)
        is_fresh = binarization == "dynamic" and name == "train"
        if binarization == "threshold":
            values = _thresholded(raw, self.levels)
        else:
            key = (name, 0) if is_fresh else (name,)
            values = _drawn(raw, self.levels, seed, *key)
        greys = (raw, self.levels) if is_fresh else (None, None)
        return Split(name, "binary", 2, self.event_shape, binarization, seed, values, *greys)

    def _check_split(self, name: str, binarization: Binarization, flip: bool) -> None:
        if name not in self.parts:
            raise ValueError(
                f"{self.name}: expected a split among {list(self.parts)}, received {name!r}; pass one of these."
            )
        if binarization not in get_args(Binarization):
            raise ValueError(
                f"{self.name}: expected a binarization among {list(get_args(Binarization))}, received "
                f"{binarization!r}; pass one of these."
            )
        if binarization != "none" and self.kind == "binary":
            raise ValueError(
                f"{self.name}: expected binarization 'none' because the data are binary already, received "
                f"{binarization!r}; pass 'none'."
            )
        if binarization != "none" and self.kind == "real":
            check_probabilities(self.name, name, self.parts[name], binarization)
        if flip and len(self.event_shape) != 3:
            raise ValueError(
                f"{self.name}: expected images of shape (C, H, W) to flip, received data of shape "
                f"{self.event_shape}; leave flip off."
            )


def _thresholded(values: Values, levels: int | None) -> Values:
    return threshold_each(values, levels) if isinstance(values, Rows) else threshold(values, levels)


def _drawn(values: Values, levels: int | None, seed: int, *key: int | str) -> Values:
    if isinstance(values, Rows):
        return draw_each(values, levels, seed, "binarize", *key)
    return draw(values, levels, generator(seed, "binarize", *key))


def _draw_mirrored(size: int, seed: int, name: str, epoch: int) -> Tensor:
    """Returns for each datum whether it is mirrored in an epoch, by the toss of a fair coin."""
    return draw(torch.full((size,), 0.5), None, generator(seed, "flip", name, epoch)).bool()
