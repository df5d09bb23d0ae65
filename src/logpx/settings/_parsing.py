"""Settings from nested values: the type of every value is checked against its annotation."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

# Of a longer message the middle is left out.
LONGEST_MESSAGE = 1000


def typed(kind: type, nested: Mapping[str, Any]) -> Any:
    """Builds settings of a kind after checking the type of every value against its annotation."""
    from jsonargparse import ArgumentError

    parser = _parser(kind)
    try:
        parsed = parser.parse_object({"settings": dict(nested)})
    # the latter where a text holds a whole number that is too large
    except (ArgumentError, OverflowError) as error:
        text = " ".join(str(error).replace('Parser key "settings.', '"').split())
        raise ValueError(_shortened(_explained(text))) from error
    return parser.instantiate(parsed).settings


@functools.cache
def _parser(kind: type) -> Any:
    """Returns the parser of settings; making it takes longer than using it."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--settings", type=kind)
    return parser


def _explained(text: str) -> str:
    """Says in our words what the parser says of a value."""
    found = re.fullmatch(r'"([\w.]+)": Expected a (<class .\w+.>|typing\.Literal\[.*\])\. Got value: (.*)', text)
    if found is None:
        return f"Settings do not fit: {text.rstrip('.')}: give a value of the type that is expected."
    name, kind, value = found.groups()
    expected = kind.removeprefix("<class '").removesuffix("'>").replace("typing.Literal", "one of ")
    return f"{name} must be {expected}, but is {value}: give such a value."


def _shortened(message: str) -> str:
    half = LONGEST_MESSAGE // 2
    return message if len(message) <= 2 * half else f"{message[:half]} ... {message[-half:]}"
