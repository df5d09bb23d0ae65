"""The state of a fit: where it stands, its weights and their average, saved so that a resume goes on exactly."""

from __future__ import annotations

__all__ = [
    "State",
    "WeightAverage",
    "load_state",
    "restore",
    "resuming_from",
    "save",
    "save_epoch",
    "write_rows",
    "write_state",
]

import csv
import dataclasses
import math
import pickle
import reprlib
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .files import first_line, write_atomically
from .run import Run
from .utils import LogpxError
from .weights import save_weights

# What torch, its unpickler and its modules raise of a file that is not what it should be.
_DAMAGED = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError),
    *(RuntimeError, TypeError, ValueError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error),
)


@dataclasses.dataclass
class State:
    """Where a fit stands, beside the weights."""

    step: int = 0
    bound_sum: float = 0.0  # over the data of this epoch so far, in nats
    bound_count: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    skipped: int = 0
    seconds: float = 0.0
    rows: list[dict[str, float]] = dataclasses.field(default_factory=list)

    def add(self, bound: float, count: int) -> None:
        """Books a step with a mean bound, in nats, over a number of data."""
        self.bound_sum += bound * count
        self.bound_count += count

    def finish_epoch(self, epoch: int, valid: float, learning_rate: float, beta: float) -> dict[str, float]:
        """Books an epoch and returns its row of metrics; bounds are in nats per datum."""
        row = {
            "epoch": epoch,
            "step": self.step,
            "train": self.bound_sum / self.bound_count if self.bound_count else math.nan,
            "valid": valid,
            "learning_rate": learning_rate,
            "beta": beta,
            "skipped": self.skipped,
            "seconds": round(self.seconds, 3),
        }
        self.rows.append(row)
        self.bound_sum, self.bound_count = 0.0, 0
        return row

    def note(self, epoch: int, epochs: int) -> str:
        """Says in a few words where the fit stands."""
        last = self.rows[-1] if self.rows else {"train": math.nan, "valid": math.nan}
        train = self.bound_sum / self.bound_count if self.bound_count else last["train"]
        valid = "" if math.isnan(last["valid"]) else f", valid {last['valid']:.2f}"
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"epoch {epoch + 1}/{epochs}, train {train:.2f}{valid} nats{skipped}"


class WeightAverage:
    r"""The weights that are kept: the model's own, or their exponential average.

    :math:`\bar\theta \leftarrow d_t \bar\theta + (1 - d_t) \theta` after step t. The decay starts low,
    :math:`d_t = \min(d, (1 + t) / (10 + t))`, so that the first weights are soon forgotten.

    Arguments:
        model: The model.
        decay: The decay d per step; 0 keeps the model's own weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"ema must be in [0, 1), but is {decay}: 0 turns it off, 0.999 averages over 1,000 steps.")
        self.model, self.decay, self.count = model, decay, 0
        self.average = {k: p.detach().clone() for k, p in model.named_parameters()} if decay else {}

    @torch.no_grad()
    def update(self) -> None:
        """Follows a step of the model's weights."""
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        if self.average:
            parameters = [p.detach() for p in self.model.parameters()]
            torch._foreach_lerp_(list(self.average.values()), parameters, 1 - decay)

    def weights(self) -> dict[str, Tensor]:
        """Returns the weights that are kept, buffers included, by name."""
        with self.in_place():
            return {name: value.clone() for name, value in self.model.state_dict().items()}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the model has the weights that are kept."""
        if not self.average:
            yield
            return
        own = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.model.load_state_dict(self.average, strict=False)
        try:
            yield
        finally:
            self.model.load_state_dict(own, strict=False)


def save(run: Run, state: State, model: nn.Module, optimizer: Optimizer, average: WeightAverage) -> None:
    """Writes last.safetensors, and training.pt from which :func:`restore` goes on.

    Arguments:
        run: The run.
        state: Where the fit stands.
        model: The model.
        optimizer: The optimizer.
        average: The weights that are kept.
    """
    content = {
        "state": dataclasses.asdict(state),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.average,
        "average_count": average.count,
    }
    # the state comes last: what a crash between the two leaves undone, a resume does again
    save_weights(average.weights(), run.path / "last.safetensors")
    write_state(run, content)


def write_state(run: Run, content: Mapping[str, Any]) -> None:
    """Writes training.pt.

    Arguments:
        run: The run.
        content: All that a resume needs, in tensors and plain values.
    """
    write_atomically(run.path / "training.pt", partial(_save_content, content))


def _save_content(content: Mapping[str, Any], path: Path) -> None:
    # by a file of Python's, because torch's own do not say that the disk is full
    with path.open("wb") as file:
        torch.save(content, file)


def save_epoch(run: Run, state: State, average: WeightAverage, chooses: bool) -> None:
    """Writes metrics.csv, and best.safetensors when the epoch is the best so far or there is nothing to choose by.

    Arguments:
        run: The run.
        state: Where the fit stands, the epoch's row booked.
        average: The weights that are kept.
        chooses: Whether the validation bound chooses the best weights.
    """
    valid = state.rows[-1]["valid"]
    if not chooses or valid > state.best or state.best_epoch == 0:
        state.best = valid if chooses and valid > state.best else state.best
        state.best_epoch = int(state.rows[-1]["epoch"])
        save_weights(average.weights(), run.path / "best.safetensors")
    write_rows(run, state.rows)


def restore(run: Run, model: nn.Module, optimizer: Optimizer, average: WeightAverage) -> State:
    """Loads the state that :func:`save` wrote into model, optimizer and average; a fresh one where there is none.

    Arguments:
        run: The run.
        model: The model.
        optimizer: The optimizer.
        average: The weights that are kept.

    Raises:
        LogpxError: If the file is damaged or belongs to another model.
    """
    path = run.path / "training.pt"
    if not path.exists():
        return State()
    with resuming_from(path):
        content = load_state(path, "cpu")
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
        for name, value in content["average"].items():
            average.average[name].copy_(value)
        average.count = content["average_count"]
        return _state(content["state"])


def _state(values: Mapping[str, Any]) -> State:
    """Returns the state, whose values are numbers but for the rows of metrics."""
    state = State(**values)
    numbers = [value for name, value in values.items() if name != "rows"]
    for value in numbers + [value for row in state.rows for value in row.values()]:
        if not isinstance(value, int | float):
            raise TypeError(f"its state must hold numbers, but holds {reprlib.repr(value)}")
    return state


def load_state(path: Path, device: torch.device | str) -> Any:
    """Returns what a file of `torch.save` holds, after checking it against its checksums, which torch does not.

    Arguments:
        path: The file.
        device: Where the tensors go.

    Raises:
        ValueError: If the file is damaged, or packed, as torch packs none, so that it could fill the memory.
    """
    with zipfile.ZipFile(path) as archive:
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise ValueError("it is packed")
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"{damaged} in it is damaged")
    return torch.load(path, map_location=device, weights_only=True)


@contextmanager
def resuming_from(path: Path) -> Iterator[None]:
    """Within the block, an error says that a saved state is damaged or belongs to another model.

    Arguments:
        path: The file of the state.

    Raises:
        LogpxError: In place of the error.
    """
    try:
        yield
    except _DAMAGED as error:
        raise LogpxError(
            f"{path} cannot be resumed from ({first_line(error)}): fit again into another folder."
        ) from error


def write_rows(run: Run, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes metrics.csv; a NaN and None are empty cells.

    Arguments:
        run: The run.
        rows: The values by the names of their columns, the same in every row.
    """
    write_atomically(run.path / "metrics.csv", partial(_write_table, rows))


def _write_table(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows
        )
