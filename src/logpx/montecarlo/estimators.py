r"""Plain Monte Carlo and importance sampling: :math:`\mu = E_p[f(X)]`, with an error, an interval and a diagnosis.

.. math:: \hat\mu = \frac{1}{n} \sum_i f(x_i) w_i, \qquad w_i = \frac{p(x_i)}{q(x_i)}, \qquad x_i \sim q

is unbiased for a fixed proposal q that is positive wherever f p is not 0, and has the variance

.. math:: \frac{\sigma_q^2}{n}, \qquad \sigma_q^2 = \int \frac{(f p - \mu q)^2}{q} \, dx,

which is 0 for :math:`q \propto f p \geq 0`. Plain Monte Carlo is q = p. Draws come in blocks, each keyed by the seed
and its place, so that beyond rounding a result depends neither on the chunks of memory nor on the number of threads.
"""

from __future__ import annotations

__all__ = ["Function", "expectation", "importance_sampling"]

import dataclasses
import math
import numbers
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..progress import track
from ..utils import chunks
from .density import (
    LogDensity,
    ceiling,
    event_size,
    log_density,
    require_comparable,
    require_support,
    require_unbatched,
)
from .draws import FIRST_BLOCK, block_ends, keyed_draws, largest_block, map_blocks
from .estimate import FEW, Estimate, Trace
from .solve import Method
from .sums import Sums

Function = Callable[[Tensor], Tensor]
DEFAULT_SAMPLES = 100_000
DEFAULT_CAP = 100_000_000
# A target is first looked at after this many draws.
FIRST_LOOK = 4096


def expectation(
    f: Function,
    nominal: Distribution,
    *,
    num_samples: int | None = None,
    relative_error: float | None = None,
    standard_error: float | None = None,
    max_samples: int = DEFAULT_CAP,
    controls: Function | None = None,
    control_means: Sequence[float] | Tensor | float = 0.0,
    confidence: float = 0.95,
    seed: int = 0,
    chunk_size: int | None = None,
    num_workers: int | None = None,
    trace: Sequence[int] = (),
    progress: bool | None = None,
) -> Estimate:
    r"""Estimates :math:`\mu = E_p[f(X)]` by plain Monte Carlo, :math:`\hat\mu = \frac{1}{n} \sum_i f(x_i)`.

    For a fixed number of samples it is unbiased. With a target it is not quite, because stopping depends on the draws;
    nor with control variates, whose coefficients come from the same draws: then
    :math:`\hat\mu = \bar f - \hat\beta^\top (\bar h - \theta)` with a bias of order 1/n.

    References:
        Monte Carlo theory, methods and examples (Owen, 2013).

    Arguments:
        f: A function of draws, with shape (S, \*event), that returns values of shape (S,); booleans for the probability
            of an event. Several threads call it at the same time.
        nominal: The distribution p, with batch shape ().
        num_samples: The number n of draws; by default 100,000 where there is no target.
        relative_error: Go on until the standard error is at most this share of the estimate.
        standard_error: Go on until the standard error is at most this, in the unit of f.
        max_samples: The cap on the draws of a target.
        controls: Control variates h: a function of draws that returns (S,) or (S, k).
        control_means: Their known means :math:`\theta` under p, one number or k.
        confidence: The coverage of the interval.
        seed: The seed of the draws.
        chunk_size: The number of draws that f gets at once, at most; it bounds the memory.
        num_workers: The number of threads; by default as many as torch uses.
        trace: Numbers of samples at which the running estimate is kept.
        progress: Whether to show a bar; by default only on a terminal.

    Raises:
        ValueError: If an argument is out of range, or f returns another shape, NaN or an infinity.

    Example:
        >>> from torch.distributions import Normal
        >>> expectation(lambda x: x > 1.6449, Normal(0.0, 1.0), num_samples=100_000).interval
        (0.0...)
    """
    require_unbatched("nominal distribution", nominal)
    stop = _Stop.of(num_samples, relative_error, standard_error, max_samples)
    draw = _Draw(f, nominal, None, nominal, controls, control_means)
    engine = _Engine(draw, "plain", confidence, seed, chunk_size, num_workers, tuple(trace))
    return engine.run(stop, progress)


def importance_sampling(
    f: Function,
    nominal: LogDensity,
    proposal: Distribution,
    *,
    normalized: bool = False,
    num_samples: int | None = None,
    relative_error: float | None = None,
    standard_error: float | None = None,
    max_samples: int = DEFAULT_CAP,
    controls: Function | None = None,
    control_means: Sequence[float] | Tensor | float = 0.0,
    confidence: float = 0.95,
    seed: int = 0,
    chunk_size: int | None = None,
    num_workers: int | None = None,
    trace: Sequence[int] = (),
    progress: bool | None = None,
) -> Estimate:
    r"""Estimates :math:`\mu = E_p[f(X)]` from draws of q, :math:`\hat\mu = \frac{1}{n} \sum_i f(x_i) p(x_i) / q(x_i)`.

    For a fixed proposal and number of samples it is unbiased. It is not with `normalized=True`, where
    :math:`\hat\mu = \sum f w / \sum w` has a bias of order 1/n, nor with a target or estimated control variates.

    References:
        Monte Carlo theory, methods and examples (Owen, 2013).

    Arguments:
        f: A function of draws, with shape (S, \*event), that returns values of shape (S,); booleans for the probability
            of an event. Several threads call it at the same time.
        nominal: The distribution p, with batch shape (), or a function that returns :math:`\log p(x)`, with shape (S,);
            up to a constant if `normalized` is true.
        proposal: The importance distribution q, with batch shape (). It must be positive wherever f p is not 0.
        normalized: Whether to divide by the mean weight, for p that is known up to a constant.
        num_samples: The number n of draws; by default 100,000 where there is no target.
        relative_error: Go on until the standard error is at most this share of the estimate.
        standard_error: Go on until the standard error is at most this, in the unit of f.
        max_samples: The cap on the draws of a target.
        controls: Control variates h: a function of draws that returns (S,) or (S, k); they enter as (h - theta) p / q.
        control_means: Their known means :math:`\theta` under p, one number or k.
        confidence: The coverage of the interval.
        seed: The seed of the draws.
        chunk_size: The number of draws that f gets at once, at most; it bounds the memory.
        num_workers: The number of threads; by default as many as torch uses.
        trace: Numbers of samples at which the running estimate is kept.
        progress: Whether to show a bar; by default only on a terminal.

    Raises:
        ValueError: If an argument is out of range, f or a weight is NaN or infinite, or the proposal misses draws of p
            where f is not 0.
        LogpxError: If self-normalised weights are all zero.

    Example:
        >>> from torch.distributions import Normal
        >>> p, q = Normal(0.0, 1.0), Normal(4.0, 1.0)
        >>> result = importance_sampling(lambda x: x > 4.0, p, q, num_samples=100_000)  # truth: 3.167e-05
        >>> f"{result.estimate:.1e}"
        '3.2e-05'
    """
    require_unbatched("proposal", proposal)
    if isinstance(nominal, Distribution):
        require_unbatched("nominal distribution", nominal)
    if normalized and controls is not None:
        raise ValueError("Control variates need normalised densities, but normalized=True was given: drop one of them.")
    require_comparable(nominal, proposal)
    require_support(f, nominal, proposal, seed, normalized)
    stop = _Stop.of(num_samples, relative_error, standard_error, max_samples)
    draw = _Draw(f, proposal, proposal, nominal, controls, control_means)
    method: Method = "self-normalised importance" if normalized else "importance"
    engine = _Engine(draw, method, confidence, seed, chunk_size, num_workers, tuple(trace))
    return engine.run(stop, progress)


@dataclasses.dataclass(frozen=True)
class _Stop:
    """When to stop: after `num_samples`, or before, once a target is reached."""

    num_samples: int
    relative_error: float | None
    standard_error: float | None

    @classmethod
    def of(
        cls, num_samples: int | None, relative_error: float | None, standard_error: float | None, max_samples: int
    ) -> _Stop:
        targets = {"relative_error": relative_error, "standard_error": standard_error}
        for name, target in targets.items():
            if target is not None and not target > 0:
                raise ValueError(f"{name} must be positive, but is {target}: give the error that is good enough.")
        given = [name for name, target in targets.items() if target is not None]
        if num_samples is not None and given:
            raise ValueError(f"Give num_samples or {given[0]}, not both: max_samples caps the draws of a target.")
        cap = max_samples if given else DEFAULT_SAMPLES if num_samples is None else num_samples
        if not isinstance(cap, numbers.Integral):
            raise TypeError(f"The number of samples must be an integer, but is {cap!r}: write int({cap!r}).")
        if cap < 1:
            raise ValueError(f"The number of samples must be positive, but is {cap}: draw at least one.")
        return cls(cap, relative_error, standard_error)

    @property
    def has_target(self) -> bool:
        return self.relative_error is not None or self.standard_error is not None

    def excess(self, estimate: Estimate) -> float:
        """Returns by how much the error exceeds the target, as a factor; infinite for too few terms to know."""
        if estimate.num_nonzero < FEW and estimate.num_nonzero < estimate.num_samples:
            return math.inf
        error, relative = estimate.standard_error, estimate.relative_error
        low, high = estimate.interval
        if error == 0 and low < high:
            # all terms are equal so far, as for an event that always happened: the interval shows what may come
            error = (high - low) / 4
            relative = error / high
        by_relative = 0.0 if self.relative_error is None else relative / self.relative_error
        by_absolute = 0.0 if self.standard_error is None else error / self.standard_error
        return max(by_relative, by_absolute)

    def next_look(self, count: int, excess: float) -> int:
        """Returns the number of draws to have before the target is looked at again: what is needed, in steps."""
        needed = 4 * count if excess > 2 else math.ceil(1.02 * count * excess**2)
        return min(self.num_samples, max(needed, count + 1))


@dataclasses.dataclass(frozen=True)
class _Draw:
    """What is done with each draw: its value, its weight, its controls."""

    f: Function
    source: Distribution
    proposal: Distribution | None
    nominal: LogDensity
    controls: Function | None
    control_means: Sequence[float] | Tensor | float

    def sums(self, x: Tensor, f: Tensor) -> Sums:
        log_w, epsilon = (None, 0.0) if self.proposal is None else self._log_weights(x, self.proposal)
        f = self._checked(f, x, log_w)
        if f.dtype == torch.bool and log_w is None and self.controls is None:
            return Sums.of_hits(int(f.sum()), len(f))
        return Sums.of(f, log_w, self._control_values(x, log_w), epsilon)

    def _log_weights(self, x: Tensor, proposal: Distribution) -> tuple[Tensor, float]:
        """Returns the log-weights in float64, and the machine epsilon of the densities."""
        log_p, log_q = log_density(self.nominal, x), log_density(proposal, x)
        log_w = torch.where(log_p == -math.inf, -math.inf, log_p.double() - log_q.double())
        _require(~(torch.isnan(log_w) | (log_w == math.inf)), "The weight p(x) / q(x)", log_w.exp(), x)
        return log_w, max(torch.finfo(log_p.dtype).eps, torch.finfo(log_q.dtype).eps)

    def _checked(self, f: Tensor, x: Tensor, log_w: Tensor | None) -> Tensor:
        if not isinstance(f, Tensor) or f.shape != x.shape[:1]:
            got = tuple(f.shape) if isinstance(f, Tensor) else type(f).__name__
            raise ValueError(f"f must return shape {tuple(x.shape[:1])}, but got {got}: one value per draw.")
        if log_w is not None:
            # f need not be defined where p is 0
            f = torch.where(log_w > -math.inf, f, torch.zeros_like(f))
        if f.is_floating_point():
            _require(torch.isfinite(f), "f(x)", f, x)
        return f

    def _control_values(self, x: Tensor, log_w: Tensor | None) -> Tensor | None:
        if self.controls is None:
            return None
        h = self.controls(x)
        if h.shape[:1] != x.shape[:1] or h.dim() > 2:
            shape = f"({len(x)},) or ({len(x)}, k)"
            raise ValueError(f"controls must return shape {shape}, but got {tuple(h.shape)}: one row per draw.")
        h, means = h.double().reshape(len(x), -1), torch.as_tensor(self.control_means, dtype=torch.float64)
        if means.shape not in (torch.Size(), h.shape[1:]):
            raise ValueError(
                f"control_means must be one number or {h.shape[1]}, one per control, but has shape "
                f"{tuple(means.shape)}: give as many means as controls."
            )
        h = h - means
        h = h if log_w is None else torch.where((log_w > -math.inf).unsqueeze(-1), h, 0.0)
        _require(torch.isfinite(h).all(-1), "A control variate h(x)", h.sum(-1), x)
        return h


def _require(good: Tensor, what: str, values: Tensor, x: Tensor) -> None:
    if not bool(good.all()):
        first = int((~good).nonzero()[0])
        raise ValueError(
            f"{what} must be finite, but is {values[first].item()} at x = {x[first].tolist()} (and at "
            f"{int((~good).sum()) - 1} more of {len(x):,} draws): mend the function, or choose a proposal that "
            "covers p."
        )


@dataclasses.dataclass(frozen=True)
class _Engine:
    """Draws block after block until the end is reached, and keeps nothing but sums."""

    draw: _Draw
    method: Method
    confidence: float
    seed: int
    chunk_size: int | None
    num_workers: int | None
    trace: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must be between 0 and 1, but is {self.confidence}: 0.95 is customary.")
        for name in ("chunk_size", "num_workers"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name} must be positive, but is {size}: leave it out for a sensible one.")

    def run(self, stop: _Stop, progress: bool | None) -> Estimate:
        sums, trace = Sums.empty(weighted=self.method != "plain"), list[Trace]()
        look = min(stop.num_samples, FIRST_LOOK) if stop.has_target else stop.num_samples
        note = ""
        with track("samples", look, progress) as update:
            while True:
                for end, piece in self._pieces(_blocks(sums.count, look, stop.num_samples, self._largest)):
                    sums = sums.merged(piece)
                    if end in self.trace:
                        trace.append(self._traced(sums))
                    update(sums.count, note, look)
                estimate = self._estimate(sums, trace)
                excess = stop.excess(estimate) if stop.has_target else 0.0
                if not stop.has_target or excess <= 1 or estimate.num_samples >= stop.num_samples:
                    return dataclasses.replace(estimate, reached=excess <= 1 if stop.has_target else None)
                look, note = stop.next_look(estimate.num_samples, excess), f"± {estimate.relative_error:.1%}"

    def _pieces(self, blocks: Iterator[tuple[int, int]]) -> Iterator[tuple[int, Sums]]:
        """Yields the sums of the draws of blocks, in order, and after how many draws they end."""
        for pieces in map_blocks(self._block, blocks, self.num_workers):
            yield from pieces

    @property
    def _largest(self) -> int:
        return largest_block(event_size(self.draw.source))

    @torch.no_grad()
    def _block(self, block: tuple[int, int]) -> list[tuple[int, Sums]]:
        start, stop = block
        with keyed_draws(self.seed, "draw", start):
            # a block is always drawn whole: fewer draws at once would be other draws
            x = self.draw.source.sample((min(self._largest, max(start, FIRST_BLOCK)),))[: stop - start]
            values = [self.draw.f(x[a:b]) for a, b in self._cuts(start, stop)]
        cuts = zip(self._cuts(start, stop), values, strict=True)
        return [(start + b, self.draw.sums(x[a:b], f)) for (a, b), f in cuts]

    def _cuts(self, start: int, stop: int) -> list[tuple[int, int]]:
        marks = [0, *(n - start for n in sorted(set(self.trace)) if start < n < stop), stop - start]
        size = self.chunk_size or stop - start
        return [(a + i, a + j) for a, b in pairwise(marks) for i, j in chunks(b - a, size)]

    def _estimate(self, sums: Sums, trace: list[Trace]) -> Estimate:
        return Estimate.of(
            sums,
            self.method,
            (self.seed,),
            confidence=self.confidence,
            trace=tuple(trace),
            ceiling=ceiling(self.draw.nominal, self.method == "self-normalised importance"),
        )

    def _traced(self, sums: Sums) -> Trace:
        if self.method == "self-normalised importance" and not sums.moments.mean[1] > 0:
            return Trace(sums.count, math.nan, math.inf, (-math.inf, math.inf))
        now = self._estimate(sums, [])
        return Trace(now.num_samples, now.estimate, now.standard_error, now.interval)


def _blocks(done: int, look: int, cap: int, largest: int) -> Iterator[tuple[int, int]]:
    """Yields the blocks behind `done` that reach `look`; only the cap cuts a block."""
    start = 0
    for end in block_ends(largest):
        if start >= look:
            return
        if start >= done:
            yield start, min(end, cap)
        start = end
