"""What settings may be called and hold, before and beside their types."""

from __future__ import annotations

import dataclasses
import difflib
import reprlib
from collections.abc import Mapping
from typing import Any

from .sections import SECTIONS, SETTINGS_OF, DataSettings, EMSettings

# Longer texts and lists are no settings; 4,096 is the longest path of most systems.
LONGEST = 4096
# Larger integers overflow where they become floating-point numbers or sizes.
LARGEST = 2**63


def check_section(name: str, value: Any) -> None:
    """Refuses a section that is no mapping, or has other settings than those of its name."""
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{name} must be a mapping of settings, but is {reprlib.repr(value)}: write one setting per line below it."
        )
    check_keys(value, SECTIONS[name], name)
    check_not_none(value, SECTIONS[name], f"{name}.")
    for key, setting in value.items():
        check_plain(f"{name}.{key}", setting)


def check_plain(name: str, value: Any) -> None:
    """Refuses what no setting can be, and what would fill a message: aliases make much of few lines."""
    each = value if isinstance(value, list | tuple) else [value]
    is_long = len(each) > LONGEST or any(isinstance(one, str) and len(one) > LONGEST for one in each)
    if is_long or not all(one is None or isinstance(one, bool | int | float | str) for one in each):
        raise ValueError(
            f"{name} must be a number, a text or a list of numbers, but is {reprlib.repr(value)}: give such a value."
        )
    if any(isinstance(one, int) and abs(one) >= LARGEST for one in each):
        raise ValueError(f"{name} must lie between -2^63 and 2^63, but is {reprlib.repr(value)}: give such a number.")


def check_not_none(nested: Mapping[str, Any], section: type, where: str) -> None:
    """Refuses null where a value is needed, which the type checker lets pass."""
    for field in dataclasses.fields(section):
        if field.name in SECTIONS:
            continue
        if field.name in nested and nested[field.name] is None and "None" not in str(field.type):
            name = where + field.name
            raise ValueError(f"{name} must be of type {field.type}, but is None: give a value, or drop the line.")


def require_model_with(name: str, model: str) -> None:
    """Refuses a setting that is given by name and would do nothing, because another model has it."""
    if name in ("model", "seed", "device") or (name in names(DataSettings) and name != "flip"):
        return
    with_it = [other for other, own in SETTINGS_OF.items() if name in own or name in names(EMSettings)]
    if not with_it or name == "latent_dim":
        with_it = ["vae", *with_it]
    if model not in with_it:
        raise ValueError(
            f"{name} is a setting of model {' or '.join(with_it)}, but the model is {model}: leave it out, or choose "
            "another model."
        )


def check_keys(nested: Mapping[str, Any], section: type, where: str) -> None:
    """Refuses names of settings that a section has not."""
    for key in nested:
        if key not in names(section):
            raise ValueError(unknown(f"key in {where}", key, names(section)))


def names(section: type) -> list[str]:
    """Returns the names of the settings of a section."""
    return [field.name for field in dataclasses.fields(section)]


def unknown(what: str, name: Any, known: list[str]) -> str:
    """Says that a name is unknown, and which one may be meant."""
    close = difflib.get_close_matches(str(name)[:LONGEST], known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}."
    return f"Unknown {what} {reprlib.repr(name)}: {hint}"
