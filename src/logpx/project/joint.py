r"""The joint law of independent durations, which draws and scores all tasks of one family in one vectorised call.

That is where the time of a study goes: a task's draws lie side by side in memory, and no family is looked at twice.
"""

from __future__ import annotations

__all__ = ["Durations"]

import math
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

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
from torch.types import _size

from ..montecarlo.density import log_density
from .laws import (
    ScaledBeta,
    Triangular,
    exponential_draws,
    gamma_draws,
    triangular_draws,
    uniform_,
    uniform_draws,
    within,
)

# The share of its value by which a fixed duration may be off: the rounding of float32.
FIXED_TOLERANCE = 1e-6


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
            if isinstance(law, Exponential) and isinstance(tasks, slice):
                # in place: fresh memory costs as much as the draws
                uniform_(x[tasks]).log_().div_(-law.rate)
            else:
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
    return gamma_draws(law.concentration, num).div_(law.rate)


@_draws.register
def _(law: ScaledBeta, num: int) -> Tensor:
    first, second = gamma_draws(law.alpha, num), gamma_draws(law.beta, num)
    return within(law, first.div_(second.add_(first)).mul_(law.high - law.low).add_(law.low))


@_draws.register
def _(law: Uniform, num: int) -> Tensor:
    return within(law, uniform_draws((len(law.low), num), law.low.dtype).mul_(law.high - law.low).add_(law.low))


@_draws.register
def _(law: Triangular, num: int) -> Tensor:
    return within(law, triangular_draws(law, torch.Size([len(law.low), num])))


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
