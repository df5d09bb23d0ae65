r"""Random durations: how they are written, the law of each, and the joint law of independent ones.

A duration is written as a number or as a family with its parameters, such as `triangular(2, 3, 7)`. The joint law
draws and scores all tasks of one family in one vectorised call, because that is where the time of a study goes.
"""

from __future__ import annotations

__all__ = [
    "Duration",
    "Durations",
    "ScaledBeta",
    "Triangular",
    "exponential_draws",
    "parse_duration",
    "uniform_draws",
]

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Beta,
    Distribution,
    Exponential,
    Gamma,
    LogNormal,
    TransformedDistribution,
    Uniform,
    constraints,
)
from torch.distributions.utils import broadcast_all
from torch.types import _size

from ..montecarlo.density import log_density

# The share of its value by which a fixed duration may be off: the rounding of float32.
FIXED_TOLERANCE = 1e-6
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


class Triangular(Distribution):
    r"""The triangular distribution, whose density rises linearly from low to mode and falls linearly to high.

    .. math:: p(x) = \frac{2}{b - a} \min\left(\frac{x - a}{m - a}, \frac{b - x}{b - m}\right), \qquad a \leq x \leq b

    Arguments:
        low: The lower end a.
        mode: The peak m, from a to b.
        high: The upper end b, above a.
        validate_args: Whether to check arguments and values; by default as torch does.

    Raises:
        ValueError: If the three are not in order.

    Example:
        >>> Triangular(torch.tensor(2.0), torch.tensor(3.0), torch.tensor(7.0)).mean.item()
        4.0
    """

    arg_constraints = {"low": constraints.real, "mode": constraints.real, "high": constraints.real}  # noqa: RUF012

    def __init__(
        self, low: Tensor | float, mode: Tensor | float, high: Tensor | float, validate_args: bool | None = None
    ) -> None:
        self.low, self._mode, self.high = broadcast_all(low, mode, high)
        super().__init__(self.low.shape, validate_args=validate_args)
        ordered = (self.low <= self._mode) & (self._mode <= self.high) & (self.low < self.high)
        if self._validate_args and not bool(ordered.all()):
            got = f"{self.low.tolist()}, {self._mode.tolist()}, {self.high.tolist()}"
            raise ValueError(f"Triangular needs low <= mode <= high and low < high, but got {got}: correct them.")

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> Triangular:
        """Returns the distribution with its batch shape expanded."""
        low, mode, high = (value.expand(torch.Size(batch_shape)) for value in (self.low, self._mode, self.high))
        return Triangular(low, mode, high, validate_args=False)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        """The interval from low to high."""
        return constraints.interval(self.low, self.high)

    @property
    def mode(self) -> Tensor:
        """The peak m."""
        return self._mode

    @property
    def mean(self) -> Tensor:
        """The mean (a + m + b) / 3."""
        return (self.low + self._mode + self.high) / 3

    @property
    def variance(self) -> Tensor:
        """The variance, (r^2 + r f + f^2) / 18 for a rise over r = m - a and a fall over f = b - m."""
        rise, fall = self._mode - self.low, self.high - self._mode
        return (rise**2 + rise * fall + fall**2) / 18

    def sample(self, sample_shape: _size = torch.Size()) -> Tensor:  # noqa: B008
        """Returns draws, with shape (*sample shape, *batch shape)."""
        return _triangular_draws(self, self._extended_shape(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(x), with the batch shape.

        Raises:
            ValueError: If arguments are validated and a value lies outside of the support.
        """
        if self._validate_args:
            self._validate_sample(value)
        # where a side has no width, its ratio is 0 / 0 at the peak and fmin takes the other
        rise, fall = (value - self.low) / (self._mode - self.low), (self.high - value) / (self.high - self._mode)
        return torch.fmin(rise, fall).log() + math.log(2) - (self.high - self.low).log()

    def cdf(self, value: Tensor) -> Tensor:
        """Returns P(X <= x), with the batch shape."""
        x, width = torch.clamp(value, self.low, self.high), self.high - self.low
        rise, fall = width * (self._mode - self.low), width * (self.high - self._mode)
        below, above = (x - self.low) ** 2 / rise, 1 - (self.high - x) ** 2 / fall.clamp_min(1e-30)
        return torch.where(x < self._mode, below, above)

    def icdf(self, value: Tensor) -> Tensor:
        """Returns the quantile of a probability, with the batch shape."""
        width = self.high - self.low
        rise, fall = width * (self._mode - self.low), width * (self.high - self._mode)
        below, above = self.low + (value * rise).sqrt(), self.high - ((1 - value) * fall).sqrt()
        return torch.where(value * width < self._mode - self.low, below, above)


class ScaledBeta(TransformedDistribution):
    r"""A Beta variable moved to an interval, :math:`X = a + (b - a) Y`, :math:`Y \sim \mathrm{Beta}(\alpha, \beta)`.

    torch's Beta and AffineTransform make the same draws, but know neither the support nor the moments of the result.

    Arguments:
        alpha: The shape :math:`\alpha`, positive: the density rises from a as :math:`(x - a)^{\alpha - 1}`.
        beta: The shape :math:`\beta`, positive: it falls to b as :math:`(b - x)^{\beta - 1}`.
        low: The lower end a.
        high: The upper end b, above a.
        validate_args: Whether to check arguments and values; by default as torch does.
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(
        self, alpha: Tensor, beta: Tensor, low: Tensor, high: Tensor, validate_args: bool | None = None
    ) -> None:
        self.alpha, self.beta, self.low, self.high = broadcast_all(alpha, beta, low, high)
        base = Beta(self.alpha, self.beta, validate_args=validate_args)
        super().__init__(base, AffineTransform(self.low, self.high - self.low), validate_args=validate_args)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> ScaledBeta:
        """Returns the distribution with its batch shape expanded."""
        shape = torch.Size(batch_shape)
        alpha, beta = self.alpha.expand(shape), self.beta.expand(shape)
        return ScaledBeta(alpha, beta, self.low.expand(shape), self.high.expand(shape), validate_args=False)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        """The interval from low to high."""
        return constraints.interval(self.low, self.high)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.low + (self.high - self.low) * self.alpha / (self.alpha + self.beta)

    @property
    def variance(self) -> Tensor:
        """The variance."""
        total = self.alpha + self.beta
        return (self.high - self.low) ** 2 * self.alpha * self.beta / (total**2 * (total + 1))

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(x), with the batch shape.

        Raises:
            ValueError: If arguments are validated and a value lies outside of the support.
        """
        if self._validate_args:
            self._validate_sample(value)
        # log p = (alpha - 1) log(x - a) + (beta - 1) log(b - x) - (alpha + beta - 1) log(b - a) - log B(alpha, beta)
        total = self.alpha + self.beta
        log_beta = torch.lgamma(self.alpha) + torch.lgamma(self.beta) - torch.lgamma(total)
        kernel = torch.xlogy(self.alpha - 1, value - self.low) + torch.xlogy(self.beta - 1, self.high - value)
        return kernel - (total - 1) * (self.high - self.low).log() - log_beta


class Durations(Distribution):
    r"""The joint law of the independent durations of n tasks, with event shape (n,) and batch shape ().

    .. math:: p(x) = \prod_{i\ \mathrm{random}} p_i(x_i)

    A fixed task has no density and adds nothing; x with another value for it is outside of the support.

    Arguments:
        components: For each task a distribution with batch and event shape (), or a number where it is fixed.
        dtype: The precision of draws, float32 or float64.

    Raises:
        ValueError: If there is no task, or a distribution has another shape.

    Example:
        >>> p = Durations([Exponential(torch.tensor(0.25)), 4.0])
        >>> p.sample((3,))[:, 1].tolist(), round(p.log_prob(torch.tensor([4.0, 4.0])).item(), 4)
        ([4.0, 4.0, 4.0], -2.3863)
    """

    arg_constraints = {}  # noqa: RUF012

    def __init__(self, components: Sequence[Distribution | float], dtype: torch.dtype = torch.float32) -> None:
        self.components, self.dtype = tuple(components), dtype
        if not self.components:
            raise ValueError("Durations must have at least one component, but have none: give one for each task.")
        random: dict[object, list[int]] = {}
        for i, component in enumerate(self.components):
            if isinstance(component, Distribution):
                random.setdefault(_kind(i, component), []).append(i)
        fixed = [i for i, component in enumerate(self.components) if not isinstance(component, Distribution)]
        self._fixed = _rows(fixed)
        self._values = torch.tensor([[self.components[i]] for i in fixed], dtype=dtype).reshape(-1, 1)
        self._groups = [
            (_rows(tasks), _stacked([self.components[i] for i in tasks], dtype)) for tasks in random.values()
        ]
        super().__init__(event_shape=torch.Size([len(self.components)]), validate_args=False)

    @property
    def support(self) -> Any:
        """The durations that can occur; its check returns one boolean per draw and never raises."""
        return _Support(self)

    @torch.no_grad()
    def sample(self, sample_shape: _size = torch.Size()) -> Tensor:  # noqa: B008
        """Returns draws, with shape (*sample shape, n); each task's draws lie side by side in memory."""
        shape = torch.Size(sample_shape)
        x = torch.empty(len(self.components), shape.numel(), dtype=self.dtype)
        for tasks, law in self._groups:
            # numpy copies whole rows several times faster than torch
            x.numpy()[tasks] = _draws(law, shape.numel()).numpy()
        x.numpy()[self._fixed] = self._values.numpy()
        return x.T.reshape(*shape, len(self.components))

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns log p(x), with shape (\*sample shape,); minus infinity outside of the support.

        Raises:
            ValueError: If the last dimension is not n.
        """
        x = self._columns(value)
        log_p, inside = x.new_zeros(x.shape[1]), self._inside(x)
        for tasks, law in self._groups:
            log_p = log_p + _scores(law, _at(x, tasks))
        if not bool(inside.all()):
            log_p = log_p.masked_fill(~inside, -torch.inf)
        return log_p.reshape(value.shape[:-1])

    def _inside(self, x: Tensor) -> Tensor:
        off = (_at(x, self._fixed) - self._values).abs() - FIXED_TOLERANCE * self._values
        inside = off.amax(0) <= 0 if len(self._values) else torch.ones(x.shape[1], dtype=torch.bool)
        for tasks, law in self._groups:
            inside = inside & _inside(law, _at(x, tasks))
        return inside

    def _columns(self, value: Tensor) -> Tensor:
        """Returns the durations with shape (n, S)."""
        if value.shape[-1:] != self.event_shape:
            expected = f"(..., {len(self.components)})"
            raise ValueError(f"Durations must have shape {expected}, but have {tuple(value.shape)}: one per task.")
        return value.reshape(-1, len(self.components)).T


class _Support(constraints.Constraint):
    """Where a joint law of durations is positive."""

    event_dim = 1

    def __init__(self, law: Durations) -> None:
        self.law = law

    def check(self, value: Tensor) -> Tensor:
        return self.law._inside(self.law._columns(value)).reshape(value.shape[:-1])


# The parameters of the families that are drawn and scored together.
_PARAMETERS: dict[type, tuple[str, ...]] = {
    Exponential: ("rate",),
    Gamma: ("concentration", "rate"),
    LogNormal: ("loc", "scale"),
    Uniform: ("low", "high"),
    Triangular: ("low", "mode", "high"),
    ScaledBeta: ("alpha", "beta", "low", "high"),
}


def _kind(index: int, component: Distribution) -> object:
    """Returns what components must share to be drawn together."""
    if component.batch_shape or component.event_shape:
        shapes = f"batch shape {tuple(component.batch_shape)} and event shape {tuple(component.event_shape)}"
        raise ValueError(f"The duration of a task must be one number, but component {index} has {shapes}: split it up.")
    kind = type(_plain(component))
    return kind if kind in _PARAMETERS else index


def _plain(component: Any) -> Any:
    """Returns a Beta distribution that was moved by torch's means as one of ours, and others as they are."""
    if type(component) is not TransformedDistribution or not isinstance(component.base_dist, Beta):
        return component
    match component.transforms:
        case [AffineTransform(loc=low, scale=width)] if bool(torch.as_tensor(width) > 0):
            beta = component.base_dist
            return ScaledBeta(
                beta.concentration1, beta.concentration0, torch.as_tensor(low), torch.as_tensor(low + width)
            )
        case _:
            return component


def _stacked(components: Sequence[Any], dtype: torch.dtype) -> Any:
    """Returns one law for components of one kind, with parameters of shape (k, 1)."""
    plain = [_plain(component) for component in components]
    kind: Any = type(plain[0])
    if kind not in _PARAMETERS:
        return plain[0]
    values = [torch.stack([getattr(each, name).to(dtype) for each in plain]) for name in _PARAMETERS[kind]]
    return kind(*(value.unsqueeze(-1) for value in values), validate_args=False)


def _rows(tasks: Sequence[int]) -> slice | list[int]:
    """Returns an index of rows; a slice where it can be, which copies nothing."""
    if tasks and tasks[-1] - tasks[0] + 1 == len(tasks):
        return slice(tasks[0], tasks[-1] + 1)
    return list(tasks)


def _at(x: Tensor, rows: slice | list[int]) -> Tensor:
    return x[rows] if isinstance(rows, slice) else x.index_select(0, torch.tensor(rows, dtype=torch.long))


@singledispatch
def _draws(law: Any, num: int) -> Tensor:
    """Returns `num` draws of each of k tasks, with shape (k, num)."""
    draws: Tensor = law.sample((num,))
    return draws.unsqueeze(0)


@_draws.register
def _(law: Exponential, num: int) -> Tensor:
    return exponential_draws((len(law.rate), num), law.rate.dtype).div_(law.rate)


@_draws.register
def _(law: LogNormal, num: int) -> Tensor:
    return torch.empty(len(law.loc), num, dtype=law.loc.dtype).normal_().mul_(law.scale).add_(law.loc).exp_()


@_draws.register
def _(law: Gamma, num: int) -> Tensor:
    return _gamma_draws(law.concentration, num).div_(law.rate)


@_draws.register
def _(law: ScaledBeta, num: int) -> Tensor:
    first, second = _gamma_draws(law.alpha, num), _gamma_draws(law.beta, num)
    return _within(law, first.div_(second.add_(first)).mul_(law.high - law.low).add_(law.low))


@_draws.register
def _(law: Uniform, num: int) -> Tensor:
    return _within(law, uniform_draws((len(law.low), num), law.low.dtype).mul_(law.high - law.low).add_(law.low))


@_draws.register
def _(law: Triangular, num: int) -> Tensor:
    return _within(law, _triangular_draws(law, torch.Size([len(law.low), num])))


@singledispatch
def _scores(law: Any, x: Tensor) -> Tensor:
    """Returns the sum over k tasks of log p(x), with shape (S,), for x of shape (k, S); anything outside."""
    return law.log_prob(x).sum(0) if type(law) in _PARAMETERS else log_density(law, x[0])


@_scores.register
def _(law: Exponential, x: Tensor) -> Tensor:
    # sum log p = sum log r_i - r . x
    return law.rate.log().sum() - law.rate.squeeze(-1).to(x.dtype) @ x


@_scores.register
def _(law: LogNormal, x: Tensor) -> Tensor:
    # log p = -((log x - mu) / sigma)^2 / 2 - log x - log(sigma sqrt(2 pi))
    log_x = x.log()
    z = (log_x - law.loc) / law.scale
    return -(z.square().div(2) + log_x).sum(0) - (law.scale.log() + math.log(2 * math.pi) / 2).sum()


@_scores.register
def _(law: Uniform, x: Tensor) -> Tensor:
    return -(law.high - law.low).log().sum().to(x.dtype).expand(x.shape[1])


@singledispatch
def _inside(law: Any, x: Tensor) -> Tensor:
    """Returns whether all of k durations can occur, with shape (S,), for x of shape (k, S)."""
    return _scores(law, x) > -torch.inf


@_inside.register(Exponential)
@_inside.register(Gamma)
def _(law: Exponential | Gamma, x: Tensor) -> Tensor:
    # the smallest of a row is found many times faster than a row of booleans is reduced
    return x.amin(0) >= 0


@_inside.register
def _(law: LogNormal, x: Tensor) -> Tensor:
    return x.amin(0) > 0


@_inside.register(Uniform)
@_inside.register(Triangular)
@_inside.register(ScaledBeta)
def _(law: Uniform | Triangular | ScaledBeta, x: Tensor) -> Tensor:
    return ((x - law.low).amin(0) >= 0) & ((law.high - x).amin(0) >= 0)


def exponential_draws(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    r"""Returns draws of the exponential distribution with mean 1, :math:`E = -\log U`.

    torch's own `exponential_` takes 8 times as long on a CPU.
    """
    return uniform_draws(shape, dtype).log_().neg_()


def uniform_draws(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    r"""Returns draws between 0 and 1, neither of them included: :math:`U = (k + \frac{1}{2}) 2^{-b}`.

    k has b = 31 bits in float32 and 53 in float64. Near 0 the numbers are finer than a float32 generator of 24 bits has
    them, so that :math:`-\log U` reaches 22; a tail probability of :math:`c\,2^{-31}` is right to a relative 1 / 2c.
    """
    count, single = math.prod(shape), dtype == torch.float32
    bits = _generator().integers(0, 2**64, (count + single) // (1 + single), dtype=np.uint64)
    k = torch.from_numpy(bits.view(np.int32 if single else np.int64)[:count])
    num_bits = 31 if single else 53
    k.bitwise_and_(2**num_bits - 1)
    # k + 1/2 may round up to 2^b, so that the factor is one unit below 2^-b: U < 1 and E > 0 always
    factor = 2.0**-num_bits * (1 - torch.finfo(dtype).eps / 2)
    return k.to(dtype).add_(0.5).mul_(factor).reshape(tuple(shape))


def _generator() -> np.random.Generator:
    """Returns a generator of numpy, which is faster than torch's, seeded by torch's: who keys that keys this."""
    return np.random.Generator(np.random.SFC64(int(torch.randint(2**63 - 1, ()))))


def _gamma_draws(concentration: Tensor, num: int) -> Tensor:
    """Returns draws of Gamma(concentration, 1), with shape (k, num); numpy makes them 3 times as fast as torch."""
    rng, draws = _generator(), torch.empty(len(concentration), num, dtype=concentration.dtype)
    for shape, row in zip(concentration.squeeze(-1).tolist(), draws.numpy(), strict=True):
        rng.standard_gamma(shape, dtype=row.dtype, out=row)
    return draws.clamp_(min=torch.finfo(draws.dtype).tiny)


def _triangular_draws(law: Triangular, shape: torch.Size) -> Tensor:
    """Returns a + (m - a) max(U, V) + (b - m) min(U, V), which needs no root (Stein and Keblis, 2009)."""
    u, v = uniform_draws(shape, law.low.dtype), uniform_draws(shape, law.low.dtype)
    low, mode, high = law.low, law.mode, law.high
    return torch.maximum(u, v).mul_(mode - low).add_(torch.minimum(u, v).mul_(high - mode)).add_(low)


def _within(law: Uniform | Triangular | ScaledBeta, x: Tensor) -> Tensor:
    """Moves draws that were rounded to an end of the support, where a density can be 0, to the next number inside."""
    return x.clamp_(torch.nextafter(law.low, law.high), torch.nextafter(law.high, law.low))
