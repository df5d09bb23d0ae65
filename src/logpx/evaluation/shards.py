"""The finished blocks of an evaluation, kept in files until its record is written: one that is killed loses seconds.

    key.json                              all that decides the numbers
    data-00000032-0123456789abcdef.part   blocks of data, here from number 32 on
    control-...                           likewise of the pass that is the control variate of a subset

A file holds as many blocks as were finished in a few seconds, as a safetensors file of the estimates per datum and the
number of the block that each datum is in. Its name ends in the hash of its content: another content is not read. Which
process made which blocks is of no account, so that an evaluation can go on with another number of them.
"""

from __future__ import annotations

__all__ = ["Shards"]

import dataclasses
import hashlib
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ..evidence import Evidence
from ..files import read_json, write_bytes, write_json
from ..processes import Processes

# Blocks that are finished within so many seconds go to one file.
WRITE_EVERY = 5.0
FIELDS = tuple(field.name for field in dataclasses.fields(Evidence))


class Shards:
    """Where an evaluation keeps its finished blocks.

    Arguments:
        folder: The folder of the files, made when the first of them is written.
        model: What tells the model from others, such as the hash of its weights.
    """

    def __init__(self, folder: Path, model: str) -> None:
        self.folder, self.model = folder, model
        self._key: dict[str, Any] = {}
        self._before, self._started = 0.0, time.perf_counter()
        self._waiting: dict[str, dict[int, Evidence]] = {}
        self._written = self._started

    def open(self, key: Mapping[str, Any], processes: Processes) -> None:
        """Says which evaluation it is, and removes what is there of another one.

        Arguments:
            key: All but the model that decides the numbers, fit for JSON.
            processes: The processes that write to the folder; the first alone removes, before the others begin.
        """
        self._key = {"model": self.model, "fields": list(FIELDS), **key}
        processes.by_first(partial(self._clear, processes.count > 1))

    @property
    def seconds(self) -> float:
        """The seconds spent since the evaluation began, those of interrupted runs included up to their last file."""
        return self._before + time.perf_counter() - self._started

    def read(self, name: str) -> dict[int, Evidence]:
        """Returns the finished blocks of a pass by their numbers; files that are damaged count as absent.

        Arguments:
            name: The name of the pass.
        """
        found: dict[int, Evidence] = {}
        for path in sorted(self.folder.glob(f"{name}-*.part")):
            content = path.read_bytes()
            if path.stem.endswith(_digest(content)):
                found |= self._unpacked(safetensors.torch.load(content))
        return found

    def add(self, name: str, number: int, evidence: Evidence) -> None:
        """Takes a finished block, and writes those that wait when the last file is some seconds old.

        Arguments:
            name: The name of the pass.
            number: The number of the block.
            evidence: The estimates of its data.
        """
        self._waiting.setdefault(name, {})[number] = evidence
        if time.perf_counter() - self._written > WRITE_EVERY:
            self.write()

    def write(self) -> None:
        """Writes the finished blocks that wait."""
        for name, blocks in self._waiting.items():
            if self._stored_key() != self._key:
                write_json(self.folder / "key.json", self._key)
            content = safetensors.torch.save(self._packed(blocks))
            write_bytes(self.folder / f"{name}-{min(blocks):08d}-{_digest(content)}.part", content)
        self._waiting, self._written = {}, time.perf_counter()

    def remove(self) -> None:
        """Removes all files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Within the block an interrupt writes what is finished, and says that the evaluation can go on."""
        try:
            yield
        except KeyboardInterrupt as interrupt:
            self.write()
            raise KeyboardInterrupt(
                "Interrupted; what is finished is kept, and the same command goes on."
            ) from interrupt

    def _clear(self, is_shared: bool) -> None:
        if self._stored_key() != self._key:
            self.remove()
            if is_shared:
                # so that no two of them write it at once
                write_json(self.folder / "key.json", self._key)

    def _packed(self, blocks: Mapping[int, Evidence]) -> dict[str, Tensor]:
        together = Evidence.cat(list(blocks.values()))
        numbers = [torch.full((len(each.log_evidence),), number) for number, each in blocks.items()]
        tensors = {name: getattr(together, name).contiguous() for name in FIELDS}
        return {**tensors, "block": torch.cat(numbers), "seconds": torch.tensor(self.seconds, dtype=torch.float64)}

    def _unpacked(self, tensors: dict[str, Tensor]) -> dict[int, Evidence]:
        together, block = Evidence(**{name: tensors[name] for name in FIELDS}), tensors["block"]
        self._before = max(self._before, tensors["seconds"].item())
        return {number: together.take((block == number).nonzero().flatten()) for number in block.unique().tolist()}

    def _stored_key(self) -> Any:
        try:
            return read_json(self.folder / "key.json")
        except (OSError, ValueError):
            return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
