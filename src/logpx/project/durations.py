r"""Random durations as they are written: a number, or a family with its parameters, such as `triangular(2, 3, 7)`."""

from __future__ import annotations

__all__ = ["Duration", "parse_duration"]

import dataclasses
import inspect
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.distributions import Distribution, Exponential, Gamma, LogNormal, Uniform

from .laws import ScaledBeta, Triangular

# Sums of larger numbers might overflow in float32.
LARGEST = 1e30
_CALL = re.compile(r"(\w+)\s*\((.*)\)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Duration:
    """The duration of a task: a family and its parameters, in the unit of the project.

    Arguments:
        family: fixed, exponential, uniform, triangular, pert, lognormal or gamma.
        parameters: What the family needs, in the order in which :func:`parse_duration` names it.

    Raises:
        ValueError: If the family is unknown or the parameters do not fit it.

    Example:
        >>> Duration("pert", (2, 3, 7)).mean
        3.5
    """

    family: str
    parameters: tuple[float, ...]

    def __post_init__(self) -> None:
        family = _family(self.family)
        object.__setattr__(self, "parameters", tuple(map(float, self.parameters)))
        if len(self.parameters) != len(family.names):
            count = f"{len(family.names)} parameters, but got {len(self.parameters)}"
            raise ValueError(f"{_form(self.family)} needs {count}: give exactly these.")
        if not all(abs(value) < LARGEST for value in self.parameters):
            raise ValueError(f"A duration must have numbers below {LARGEST:g}, but is {self}: correct them.")
        if not family.holds(*self.parameters):
            raise ValueError(f"{_form(self.family)} needs {family.needs}, but got {self}: correct the numbers.")

    @property
    def mean(self) -> float:
        """The mean duration."""
        return _family(self.family).mean(*self.parameters)

    @property
    def is_fixed(self) -> bool:
        """Whether the duration is not random."""
        return self.family == "fixed"

    @property
    def upper(self) -> float:
        """The upper end of the range; infinite where it has none."""
        is_bounded = self.is_fixed or "high" in _family(self.family).names
        return self.parameters[-1] if is_bounded else math.inf

    def distribution(self, dtype: torch.dtype = torch.float32) -> Distribution:
        """Returns the law of a random duration, with batch and event shape ().

        Raises:
            ValueError: If the duration is fixed.
        """
        if self.is_fixed:
            raise ValueError(f"A fixed duration has no density, but {self} was asked for one: use its mean.")
        kind, *values = _family(self.family).law(*self.parameters)
        law: Distribution = kind(*(torch.tensor(value, dtype=dtype) for value in values))
        return law

    def __str__(self) -> str:
        numbers = [repr(value).removesuffix(".0") for value in self.parameters]
        if self.is_fixed:
            return numbers[0]
        names = _family(self.family).names
        if "sd" in names:
            numbers = [f"{name}={number}" for name, number in zip(names, numbers, strict=True)]
        return f"{self.family}({', '.join(numbers)})"


def parse_duration(text: str | float) -> Duration:
    """Reads a duration: a number, or a family with parameters by position or by name.

    `4` is fixed; `exponential(4)` has its mean; `uniform(2, 5)` has low and high; `triangular(2, 3, 7)` and
    `pert(2, 3, 7)` have low, mode and high; `lognormal(mean=4, sd=2)` and `gamma(mean=4, sd=2)` speak for themselves.

    References:
        Application of a technique for research and development program evaluation (Malcolm, Roseboom, Clark and Fazar,
        1959), for PERT: a Beta distribution on low to high, with shape parameters that add up to 6.

    Raises:
        ValueError: If the text is none of these, or the parameters do not fit.

    Example:
        >>> duration = parse_duration("lognormal(mean=4, sd=2)")
        >>> duration.mean, str(duration)
        (4.0, 'lognormal(mean=4, sd=2)')
    """
    number = _number(text)
    if number is not None:
        return Duration("fixed", (number,))
    call = _CALL.fullmatch(str(text).strip())
    if call is None:
        raise ValueError(f"A duration must be a number or a family, but is {str(text)!r}: write {_known()}.")
    name = call[1].lower()
    return Duration(name, _arguments(name, call[2]))


class _Family(NamedTuple):
    """What a family's parameters are called and must fulfil, their mean, and the distribution with its arguments."""

    names: tuple[str, ...]
    needs: str
    holds: Callable[..., bool]
    mean: Callable[..., float]
    law: Callable[..., tuple[Any, ...]]


def _pert(low: float, mode: float, high: float) -> tuple[Any, ...]:
    alpha, beta = 1 + 4 * (mode - low) / (high - low), 1 + 4 * (high - mode) / (high - low)
    return ScaledBeta, alpha, beta, low, high


def _lognormal(mean: float, sd: float) -> tuple[Any, ...]:
    # sigma^2 = log(1 + (sd / mean)^2), mu = log(mean) - sigma^2 / 2
    variance = math.log1p((sd / mean) ** 2)
    return LogNormal, math.log(mean) - variance / 2, math.sqrt(variance)


_LOW_MODE_HIGH = (
    ("low", "mode", "high"),
    "0 <= low <= mode <= high and low < high",
    lambda low, mode, high: 0 <= low <= mode <= high and low < high,
)
_MEAN_SD = (
    ("mean", "sd"),
    "mean > 0 and sd > 0",
    lambda mean, sd: mean > 0 and sd > 0,
    lambda mean, sd: mean,
)
_FAMILIES = {
    "fixed": _Family(("value",), "value >= 0", lambda value: value >= 0, lambda value: value, lambda value: ()),
    "exponential": _Family(("mean",), "mean > 0", lambda m: m > 0, lambda m: m, lambda m: (Exponential, 1 / m)),
    "uniform": _Family(
        ("low", "high"),
        "0 <= low < high",
        lambda low, high: 0 <= low < high,
        lambda low, high: (low + high) / 2,
        lambda low, high: (Uniform, low, high),
    ),
    "triangular": _Family(*_LOW_MODE_HIGH, lambda a, m, b: (a + m + b) / 3, lambda a, m, b: (Triangular, a, m, b)),
    "pert": _Family(*_LOW_MODE_HIGH, lambda a, m, b: (a + 4 * m + b) / 6, _pert),
    "lognormal": _Family(*_MEAN_SD, _lognormal),
    "gamma": _Family(*_MEAN_SD, lambda mean, sd: (Gamma, (mean / sd) ** 2, mean / sd**2)),
}


def _family(name: str) -> _Family:
    if name not in _FAMILIES:
        raise ValueError(f"The family of a duration must be known, but is {name!r}: write {_known()}.")
    return _FAMILIES[name]


def _form(name: str) -> str:
    return "A fixed duration" if name == "fixed" else f"{name}({', '.join(_family(name).names)})"


def _known() -> str:
    *forms, last = [_form(name) for name in _FAMILIES if name != "fixed"]
    return f"a number, {', '.join(forms)} or {last}"


def _number(text: object) -> float | None:
    if isinstance(text, bool):
        return None
    try:
        return float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _arguments(name: str, text: str) -> tuple[float, ...]:
    """Returns the numbers within the brackets, in the order of the family's parameters."""
    names = _family(name).names
    by_place, by_name = [], {}
    for part in text.split(",") if text.strip() else []:
        key, equals, word = part.rpartition("=")
        number = _number(word.strip())
        if number is None:
            raise ValueError(f"{_form(name)} needs numbers, but got {part.strip()!r}: correct it.")
        if not equals:
            by_place.append(number)
        elif key.strip() in by_name:
            raise ValueError(f"{_form(name)} needs each number once, but got {key.strip()!r} twice: drop one.")
        else:
            by_name[key.strip()] = number
    signature = inspect.Signature([inspect.Parameter(each, inspect.Parameter.POSITIONAL_OR_KEYWORD) for each in names])
    try:
        bound = signature.bind(*by_place, **by_name)
    except TypeError as error:
        raise ValueError(f"{_form(name)} needs exactly these numbers, but got {text.strip()!r}: {error}.") from None
    return tuple(bound.arguments[each] for each in names)
