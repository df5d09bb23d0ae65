"""The results that a run folder keeps of its weights: written together, and forgotten with them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..distributions import relaxation
from ..evaluation import Shards
from ..evidence import simulate
from ..files import arrays_writer, json_writer, staged, sync_folder
from ..model import LatentVariableModel, call, evaluating
from .folder import PARTS


def keep_evaluation(path: Path, record: Mapping[str, Any], scores: Mapping[str, np.ndarray], shards: Shards) -> None:
    """Writes a record and its scores so that the two that are read are always of the same evaluation."""
    names, writers = ("evaluation.npz", "evaluation.json"), (arrays_writer(scores), json_writer(record))
    numbers, record_path = (path / name for name in names)
    with staged(numbers, writers[0]) as new_numbers, staged(record_path, writers[1]) as new_record:
        record_path.unlink(missing_ok=True)
        sync_folder(path)
        new_numbers.replace(numbers)
        sync_folder(path)
        new_record.replace(record_path)
        sync_folder(path)
    shards.remove()


def forget_results(path: Path) -> None:
    """Removes what speaks of the weights."""
    for name in ("evaluation.json", "evaluation.npz", "sandwich.json", "report.html"):
        (path / name).unlink(missing_ok=True)
    shutil.rmtree(path / PARTS, ignore_errors=True)


def relaxation_of(model: LatentVariableModel, kind: str, evaluation: Mapping[str, Any] | None) -> str | None:
    """Returns why the model gives data of a kind no log-probability, by the evaluation or else by its own draws."""
    if known := (evaluation or {}).get("relaxed"):
        return str(known)
    with evaluating(model), torch.no_grad():
        x, z = simulate(model, 2)
        return relaxation(call(model.decoder, z.unsqueeze(0)), kind, x)
