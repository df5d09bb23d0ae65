"""The forms of a run's records: what must be where in files that anybody may have changed.

A form is a type or a tuple of types, a set of the values that are allowed, a mapping of names to forms, or a list of
one form for every item; a :class:`Null` may be null, and a :class:`Maybe` also absent; :class:`Columns` have one
length, and a :class:`Shape` has sizes. What a form does not name is not looked at.
"""

from __future__ import annotations

__all__ = ["BOUNDS", "RECORD", "RUN", "Maybe", "Null", "require_columns", "require_form", "require_scores"]

import dataclasses
import math
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

# Larger integers overflow where they become floating-point numbers or sizes.
LARGEST = 2**63
NUMBER = (int, float)


@dataclasses.dataclass(frozen=True)
class Maybe:
    """What may be null or absent, and otherwise has a form."""

    form: Any


@dataclasses.dataclass(frozen=True)
class Null:
    """What must be there, where it may be null, and otherwise has a form."""

    form: Any


@dataclasses.dataclass(frozen=True)
class Columns:
    """A mapping of names to lists of one length, each with a form."""

    form: dict[str, list]


class Shape:
    """A list of the sizes of data, each at least 1."""


KINDS = {"binary", "8-bit", "real"}
DATA = {"kind": KINDS, "levels": Null(int), "event_shape": Shape(), "hash": str}
RUN = {"model": str, "data": {**DATA, "model_kind": KINDS}}
MEAN = Maybe({"mean": Maybe(NUMBER), "error": Maybe(NUMBER)})
RECORD = {
    "data": {
        **DATA,
        # earlier records do not tell
        "levels": Maybe(int),
        "name": Null(str),
        "split": {"train", "valid", "test"},
        "num_data": int,
        "binarization": str,
        "seed": Null(int),
    },
    "model": str,
    "estimator": str,
    "proposal": Maybe(str),
    "samples": Maybe({"mean": NUMBER, "maximum": NUMBER}),
    "passes": Maybe({"mean": NUMBER}),
    "methods": Maybe(dict),
    "target_error": Maybe(NUMBER),
    "share_above_target": Maybe(NUMBER),
    "seed": Maybe(int),
    "relaxed": Null(str),
    "log_evidence": {
        "mean": NUMBER,
        "error": NUMBER,
        "monte_carlo_error": Maybe(NUMBER),
        "test_set_error": Maybe(NUMBER),
    },
    "subset": Maybe({"num_data": int, "num_all": int, "control_samples": int, "error": NUMBER}),
    "bits_per_dim": MEAN,
    **{name: Maybe(NUMBER) for name in ("elbo", "rate", "distortion", "active_units", "num_latents", "num_nonfinite")},
    "jackknife": Maybe({"mean": NUMBER, "bias": NUMBER}),
    "pareto_k": Maybe({"share_above_05": Maybe(NUMBER), "share_above_07": Maybe(NUMBER), "sentence": str}),
    "ess": Maybe({"median": NUMBER, "minimum": NUMBER}),
    "curve": Maybe(Columns({"num_samples": [NUMBER], "mean": [NUMBER], "error": [NUMBER]})),
    "extrapolation": Maybe({"mean": Maybe(NUMBER), "error": Maybe(NUMBER), "sentence": str}),
    "flags": Maybe([str]),
    "provenance": Maybe(dict),
}
ROW = dict.fromkeys(("num_temperatures", "lower", "upper", "gap", "gap_error", "num_passes", "acceptance"), NUMBER)
BOUNDS = {"num_data": int, "num_chains": int, "proposal": str, "seed": int, "relaxed": Maybe(str), "rows": [ROW]}
COLUMNS = {
    "epoch": ("epoch", "train", "valid", "skipped", "seconds"),
    "start": ("start", "iteration", "log_evidence", "elbo_before", "elbo_after", "gain", "seconds"),
}
SCORES = ("index", "log_evidence", "standard_error")


def require_columns(metrics: Mapping[str, np.ndarray]) -> None:
    """Raises a ValueError unless the metrics of a fit, where there are any, have the columns that are read."""
    needed = COLUMNS["start" if "start" in metrics else "epoch"] if metrics else ()
    if missing := [name for name in needed if name not in metrics]:
        raise ValueError(f"it lacks the column {missing[0]!r}")


def require_scores(scores: Mapping[str, np.ndarray]) -> None:
    """Raises a ValueError unless the numbers per datum are vectors of one size, "index" whole numbers from 0."""
    if missing := [name for name in SCORES if name not in scores]:
        raise ValueError(f"it lacks the array {missing[0]!r}")
    for name, column in scores.items():
        kinds = "iu" if name == "index" else "U" if name == "method" else "fiu"
        if column.dtype.kind not in kinds or column.shape != (scores["index"].size,):
            raise ValueError(f"its array {name!r} is no vector of numbers, one per datum")
    if (scores["index"] < 0).any():
        raise ValueError("its array 'index' holds negative numbers")


def require_form(value: Any, form: Any, name: str) -> None:
    """Raises unless a value has a form.

    Arguments:
        value: The value, as it was read.
        form: The form.
        name: What the value is called.

    Raises:
        ValueError: If a part is missing, or is something else; it is named by dots.

    Example:
        >>> require_form({"mean": 1.0, "rows": [2, "a"]}, {"mean": NUMBER, "rows": [NUMBER]}, "record")
        Traceback (most recent call last):
        ...
        ValueError: record.rows.1 must be a number, but is 'a'
    """
    if isinstance(form, Maybe | Null):
        if value is not None:
            require_form(value, form.form, name)
        return
    if isinstance(form, Shape):
        require_form(value, [int], name)
        if min(value, default=1) < 1 or math.prod(value) >= LARGEST:
            raise ValueError(f"{name} must be sizes of at least 1 and below 2^63 in all, but is {reprlib.repr(value)}")
        return
    if isinstance(form, Columns):
        require_form(value, form.form, name)
        if len({len(value[key]) for key in form.form}) > 1:
            raise ValueError(f"{name} must have lists of one length, but has {_lengths(value, form.form)}")
        return
    if not _is_of(value, form):
        raise ValueError(f"{name} must be {_words(form)}, but is {reprlib.repr(value)}")
    if isinstance(form, dict):
        for key, inner in form.items():
            if isinstance(inner, Null) and key not in value:
                raise ValueError(f"{name} lacks {key!r}")
            require_form(value.get(key), inner, f"{name}.{key}")
    elif isinstance(form, list):
        for index, item in enumerate(value):
            require_form(item, form[0], f"{name}.{index}")


def _is_of(value: Any, form: Any) -> bool:
    if isinstance(form, set):
        return isinstance(value, str) and value in form
    if isinstance(form, dict | list):
        return isinstance(value, type(form))
    is_flag = isinstance(value, bool) and form is not bool
    return isinstance(value, form) and not is_flag and not (isinstance(value, int) and abs(value) >= LARGEST)


def _lengths(value: Mapping[str, list], names: Iterable[str]) -> str:
    return ", ".join(f"{len(value[name])} in {name}" for name in names)


def _words(form: Any) -> str:
    if isinstance(form, set):
        return f"one of {', '.join(sorted(form))}"
    return {dict: "a mapping", list: "a list", str: "a text", int: "a whole number"}.get(
        form if isinstance(form, type) else type(form), "a number"
    )
