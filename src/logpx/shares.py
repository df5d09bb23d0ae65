"""A batch computed in shares, each with its own rows of the noise of the whole batch.

Where a batch is divided over processes, or into parts one after another, its gradient must not depend on how. Sums
see to that for all but the noise: draws for 64 data are not the first 64 of draws for 128. So every random operation
of a share is made for the whole batch, by the same generator, and the share keeps its rows. Which dimension of a draw
counts data is not guessed but seen: the same computation with 2 and with 3 data draws numbers of two shapes, and what
differs is the batch. Where S draws for each of B data have become one dimension, it is taken to be in the order (S, B).
"""

from __future__ import annotations

__all__ = ["Share", "random_draws", "shares_of"]

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# How many numbers of the generator these take depends on shapes alone, not on their arguments' values.
_BY_SHAPE = {
    *("rand", "randn", "randint", "rand_like", "randn_like", "randint_like", "normal", "bernoulli", "multinomial"),
    *("normal_", "uniform_", "exponential_", "cauchy_", "geometric_", "log_normal_", "bernoulli_", "random_"),
    "native_dropout",
}
FEW, MORE = 2, 3
CURE = "fit by one process with accumulate 1"


class Axis(NamedTuple):
    """Where a tensor counts data: the dimension, and how many values it holds there for each of them."""

    dim: int
    fold: int


class Draw(NamedTuple):
    """A random operation: its name, and where its arguments and its results count data; None where they do not."""

    name: str
    inputs: list[Axis | None]
    outputs: list[Axis | None]


class Share(NamedTuple):
    """The rows [start, stop) of a batch of `total` data, and their weight in its mean.

    A share without data computes the first datum, with weight 0, so that it can take part.
    """

    start: int
    stop: int
    total: int
    weight: float

    def noise(self, draws: list[Draw] | None) -> AbstractContextManager[Any]:
        """Within the block random operations draw for the whole batch and keep the rows of the share.

        Arguments:
            draws: What :func:`random_draws` saw; None where no batch is divided.
        """
        return nullcontext() if draws is None else _Divided(draws, self)


def shares_of(total: int, rank: int = 0, num_processes: int = 1, num_parts: int = 1) -> list[Share]:
    """Returns the parts of a batch that a process computes: contiguous, in order, of sizes that differ by one at most.

    Arguments:
        total: The number of data in the batch, B.
        rank: The number of the process.
        num_processes: How many processes divide the batch.
        num_parts: How many parts each process computes one after another; fewer where it has fewer data.

    Example:
        >>> [(s.start, s.stop, s.weight) for s in shares_of(10, rank=1, num_processes=2, num_parts=2)]
        [(5, 7, 0.2), (7, 10, 0.3)]
    """
    edges = [total * part // (num_processes * num_parts) for part in range(num_processes * num_parts + 1)]
    own = edges[rank * num_parts : (rank + 1) * num_parts + 1]
    shares = [Share(a, b, total, (b - a) / total) for a, b in pairwise(own) if b > a]
    return shares or [Share(0, 1, total, 0.0)]


def random_draws(work: Callable[[int], object]) -> list[Draw]:
    """Returns the random operations of a computation in their order, and where each counts data.

    Arguments:
        work: The computation; it is given a number of data.

    Raises:
        ValueError: If its draws cannot be divided by data.
    """
    few, more = _watched(work, FEW), _watched(work, MORE)
    if [name for name, *_ in few] != [name for name, *_ in more]:
        raise ValueError(f"The draws for {FEW} data and for {MORE} differ in kind, so no batch can be divided: {CURE}.")
    draws = [
        Draw(name, [*map(_axis, a_in, b_in)], [*map(_axis, a_out, b_out)])
        for (name, a_in, a_out), (_, b_in, b_out) in zip(few, more, strict=True)
    ]
    for draw in draws:
        if draw.name not in _BY_SHAPE and any(draw.inputs + draw.outputs):
            raise ValueError(
                f"How many numbers {draw.name} draws depends on its arguments, so it cannot be drawn for a share of a "
                f"batch as for the whole: {CURE}."
            )
    return draws


class _Watching(TorchDispatchMode):
    """Writes down every random operation with the shapes of its arguments and results."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[str, list[tuple[int, ...] | None], list[tuple[int, ...] | None]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            results = result if isinstance(result, tuple) else (result,)
            self.seen.append((_name(func), [*map(_shape, args)], [*map(_shape, results)]))
        return result


def _watched(work: Callable[[int], object], num_data: int) -> list[Any]:
    with _Watching() as mode:
        work(num_data)
    return mode.seen


class _Divided(TorchDispatchMode):
    """Makes random operations for the whole batch and returns the rows of a share."""

    def __init__(self, draws: list[Draw], share: Share) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.share, self.size, self.waiting = share, share.stop - share.start, iter(draws)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        draw = next(self.waiting, None)
        if draw is None or draw.name != _name(func):
            raise ValueError(f"A step draws by {_name(func)} what it did not at first, so no batch is divided: {CURE}.")
        whole = func(*map(self._widened, args, draw.inputs), **kwargs)
        if func._schema.is_mutable:
            return args[0].copy_(self._own(whole, draw.inputs[0]))
        if isinstance(whole, tuple):
            return tuple(map(self._own, whole, draw.outputs))
        return self._own(whole, draw.outputs[0])

    def _widened(self, value: Any, axis: Axis | None) -> Any:
        """Returns an argument for the whole batch: the rows that are not of the share repeat some that are."""
        if axis is None:
            return value
        if not isinstance(value, Tensor):
            return [*value[: axis.dim], axis.fold * self.share.total, *value[axis.dim + 1 :]]
        parts = value.unflatten(axis.dim, (axis.fold, self.size))
        rows = (torch.arange(self.share.total, device=value.device) - self.share.start).clamp(0, self.size - 1)
        return parts.index_select(axis.dim + 1, rows).flatten(axis.dim, axis.dim + 1)

    def _own(self, whole: Tensor, axis: Axis | None) -> Tensor:
        if axis is None:
            return whole
        parts = whole.unflatten(axis.dim, (axis.fold, self.share.total))
        return parts.narrow(axis.dim + 1, self.share.start, self.size).flatten(axis.dim, axis.dim + 1).contiguous()


def _name(func: Any) -> str:
    return str(func._schema.name).removeprefix("aten::")


def _shape(value: Any) -> tuple[int, ...] | None:
    """Returns the shape of a tensor, or of one that is to be made; None for anything else."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    return tuple(value) if isinstance(value, list | tuple) else None


def _axis(few: tuple[int, ...] | None, more: tuple[int, ...] | None) -> Axis | None:
    if few is None or more is None or few == more:
        return None
    differing = [(dim, *sizes) for dim, sizes in enumerate(zip(few, more, strict=False)) if sizes[0] != sizes[1]]
    dim, size_few, size_more = differing[0] if differing else (0, 0, 0)
    fold = size_few // FEW
    is_counted = len(few) == len(more) and len(differing) == 1 and (size_few, size_more) == (FEW * fold, MORE * fold)
    if not is_counted:
        raise ValueError(
            f"Draws of shape {few} for {FEW} data and {more} for {MORE} do not count data in one dimension, so no "
            f"batch can be divided: {CURE}."
        )
    return Axis(dim, fold)
