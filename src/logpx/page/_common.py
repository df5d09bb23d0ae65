"""What all pages share: the template environment, images as data URIs, and how numbers are written."""

from __future__ import annotations

__all__ = ["as_float", "brief", "inline", "named", "number", "percent", "png", "render", "sentence", "with_error"]

import base64
import importlib.resources
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, FunctionLoader, Undefined
from matplotlib.figure import Figure

from ..files import first_line
from ..plots import numbers


def render(template: str, **context: Any) -> str:
    """Returns a page from a template of this folder."""
    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "with_error": with_error,
        "brief": brief,
        "percent": percent,
        "sentence": sentence,
        "probability_interval": numbers.probability_interval,
        "probability_with_error": numbers.probability_with_error,
        "one_in": numbers.one_in,
        "scientific": numbers.scientific,
        "given": numbers.given,
        "short": numbers.short,
    }
    return environment.get_template(template).render(**context)


def _source(name: str) -> str:
    return (importlib.resources.files(__package__) / name).read_text(encoding="utf-8")


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Within the block, a ValueError of a model or a figure is one line that names the run."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path} cannot be pictured: {first_line(error)}.") from error


def png(figure: Figure) -> bytes:
    """Returns a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi)
    return buffer.getvalue()


def inline(figure: Figure, image: bytes) -> dict[str, str]:
    """Returns an image as a data URI, and its title as the text for those who cannot see it."""
    alt = figure.get_suptitle().replace("\n", " ").replace(r"$\hat{k}$", "k-hat")
    return {"src": "data:image/png;base64," + base64.b64encode(image).decode(), "alt": alt}


def number(value: Any, digits: int = 2) -> str:
    """Formats a number with thousands separated; what is missing is a dash."""
    x = as_float(value)
    if x is None:
        return "–"
    if not math.isfinite(x):
        return "undefined" if math.isnan(x) else "∞" if x > 0 else "−∞"
    return f"{x:,.{digits}f}".replace("-", "−")


def with_error(mean: Any, error: Any) -> str:
    """Formats a mean and its standard error, both to the error's second significant digit."""
    x, e = as_float(mean), as_float(error)
    if x is None or e is None or not math.isfinite(x):
        return number(mean)
    digits = numbers.decimals(e)
    return f"{number(x, digits)} ± {number(e, digits)}"


def brief(value: Any) -> str:
    """Formats a small number, such as an error, to two significant digits."""
    x = as_float(value)
    tiny = x is not None and 0 < abs(x) < 1e-4
    return f"{x:.1e}".replace("-", "−") if tiny else number(x, numbers.decimals(x or 0.0))


def sentence(text: str) -> str:
    """Gives a reason a capital letter and a full stop."""
    return text[:1].upper() + text[1:].rstrip(".") + "."


def percent(value: Any) -> str:
    """Formats a share."""
    x = as_float(value)
    return "–" if x is None else f"{x:.1%}"


def as_float(value: Any) -> float | None:
    """Returns a number of a record, or None where it is null or absent."""
    return None if value is None or isinstance(value, Undefined) else float(value)
