"""What lies in a run folder; a new run gets one that is free.

    config.yaml           the full settings, fit for --config
    run.json              schema, versions, the data's name, kind, shape and hash
    metrics.csv           one row per epoch, or per iteration of EM
    best.safetensors      weights with the best validation bound (the last ones where there is no validation)
    last.safetensors      weights after the last epoch; for EM both are those of the best start
    training.pt           all that a resume needs
    evaluation.json       the record of `logpx evaluate`; evaluation.npz: its numbers per datum
    report.html, figures/
    evaluation.parts/     what an evaluation has finished so far, until its record is written
    .lock, .holder.json   held by the process that writes to the folder; which one that is

Nothing in it can execute code when it is loaded.
"""

from __future__ import annotations

__all__ = ["PARTS", "SCHEMA", "check_free", "clear", "description"]

import platform
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data import DataSet
from ..files import LEFTOVER
from ..lock import HOLDER, LOCK
from ..utils import LogpxError
from ..version import __version__

SCHEMA = 1
FILES = (
    "config.yaml",
    "metrics.csv",
    "training.pt",
    "best.safetensors",
    "last.safetensors",
    "evaluation.json",
    "evaluation.npz",
    "sandwich.json",
    "report.html",
    "samples.png",
    "reconstructions.png",
    # what makes the folder a run goes last, so that one that is half removed can still be replaced
    "run.json",
)
PARTS = "evaluation.parts"
FOLDERS = ("figures", "tensorboard", PARTS)


def check_free(path: Path, overwrite: bool) -> None:
    """Refuses a folder in which no new run may be made.

    Arguments:
        path: The folder.
        overwrite: Whether an earlier run in the folder may be replaced.

    Raises:
        LogpxError: If the folder holds an earlier run that may not be replaced, or something else.
    """
    if not path.exists():
        return
    if not path.is_dir() or (_foreign(path) and not (path / "run.json").exists()):
        raise LogpxError(f"{path} exists and is no run folder: give another folder by --out, or remove it yourself.")
    if (path / "run.json").exists() and not overwrite:
        raise LogpxError(
            f"{path} holds a run already: continue it with --resume {path}, give another folder by --out, or "
            "replace it with --overwrite."
        )


def clear(path: Path, overwrite: bool) -> None:
    """Removes an earlier run from a folder, and only that."""
    check_free(path, overwrite)
    for name in FOLDERS:
        shutil.rmtree(path / name, ignore_errors=True)
    for made in [*path.glob(".*.tmp*"), *(path / name for name in FILES)]:
        made.unlink(missing_ok=True)


def description(data: DataSet, kind: str, model: nn.Module, own: bool) -> dict[str, Any]:
    """Returns what run.json holds of a new run; the arguments are those of :meth:`logpx.run.Run.create`."""
    tensors = list(model.parameters()) or list(model.state_dict().values())
    return {
        "schema": SCHEMA,
        "model": f"{type(model).__module__}.{type(model).__qualname__}" if own else "settings",
        "num_parameters": sum(tensor.numel() for tensor in tensors),
        "data": _describe(data, kind),
        "versions": {
            "logpx": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def _foreign(path: Path) -> list[str]:
    """Returns what is in a folder beside that which a fit leaves that was killed before it made a run."""
    names = [each.name for each in path.iterdir()]
    return [name for name in names if name not in ("config.yaml", LOCK, HOLDER) and not LEFTOVER.search(name)]


def _describe(data: DataSet, kind: str) -> dict[str, Any]:
    return {
        "name": data.name,
        "kind": data.kind,
        "model_kind": kind,
        "levels": data.levels,
        "event_shape": list(data.event_shape),
        "sizes": {name: len(part) for name, part in data.parts.items()},
        "source": data.source,
        "hash": data.hash,
    }
