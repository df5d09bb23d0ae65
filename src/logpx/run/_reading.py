"""What is read from a run folder: whole and of the right form, or refused with the file's name and the cure."""

from __future__ import annotations

import csv
import reprlib
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..files import first_line, read_arrays, read_json
from ..forms import RUN, require_columns, require_form, require_scores
from ..settings import Settings
from ..utils import LogpxError
from .folder import SCHEMA


def require_run(path: str | Path) -> None:
    """Refuses a folder that holds no run, or one of another schema."""
    file = Path(path) / "run.json"
    if not file.is_file():
        raise LogpxError(f"{path} is no run folder (it has no run.json): make one with 'logpx fit DATA --out {path}'.")
    info = read_record(file, dict) or {}
    if (schema := info.get("schema")) != SCHEMA:
        raise LogpxError(
            f"{path}/run.json has schema {reprlib.repr(schema)}, but this logpx reads {SCHEMA}: use a matching version."
        )
    if missing := {"model", "data"} - info.keys():
        raise LogpxError(f"{path}/run.json lacks {' and '.join(sorted(missing))}: restore it or fit again.")
    read_record(file, RUN)


def read_settings(path: Path) -> Settings:
    """Returns the settings in a config.yaml."""
    try:
        return Settings.from_file(path)
    except ValueError as error:
        reason = first_line(error).removeprefix(f"{path}: ")
        raise LogpxError(f"{path} holds no settings ({reason}): restore it or fit again.") from error


def read_record(path: Path, form: Any) -> dict[str, Any] | None:
    """Returns the content of a JSON file that has a form, or None where there is no file."""
    if not path.exists():
        return None
    try:
        record = read_json(path)
    except (OSError, ValueError) as error:
        raise LogpxError(f"{path} is not valid JSON ({first_line(error)}): restore it or make it again.") from error
    try:
        require_form(record, form, "it")
    except ValueError as error:
        raise LogpxError(f"{path} holds another record ({error}): restore it or make it again.") from error
    return cast(dict[str, Any], record)


def read_metrics(path: Path) -> dict[str, np.ndarray]:
    """Returns the columns of numbers in a metrics.csv; an empty cell is NaN."""
    rows = _rows(path)
    names = [name for name in (rows[0] if rows else ()) if name != "events"]
    try:
        metrics = {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}
        require_columns(metrics)
        return metrics
    except (ValueError, TypeError) as error:
        raise _unreadable(path, error) from error


def read_events(path: Path) -> list[str]:
    """Returns what EM had to mend by a metrics.csv, in sentences."""
    rows = [row for row in _rows(path) if row.get("events")]
    try:
        return [f"Start {int(row['start']) + 1}, iteration {row['iteration']}: {row['events']}" for row in rows]
    except (ValueError, TypeError, KeyError) as error:
        raise _unreadable(path, error) from error


def read_scores(path: Path) -> dict[str, np.ndarray] | None:
    """Returns the numbers per datum in an evaluation.npz, or None where there is no file."""
    if not path.exists():
        return None
    try:
        scores = read_arrays(path)
        require_scores(scores)
        return scores
    except ValueError as error:
        raise LogpxError(f"{path} cannot be read ({first_line(error)}): run 'logpx evaluate {path.parent}'.") from error


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> LogpxError:
    return LogpxError(f"{path} holds no metrics ({first_line(error)}): restore it or fit again.")
