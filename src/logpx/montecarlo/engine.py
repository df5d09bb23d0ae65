"""What all estimators from independent draws share: when to stop, what is done with a draw, and the blocks of draws."""

from __future__ import annotations

__all__ = ["DEFAULT_CAP", "Draw", "Engine", "Stop"]

import dataclasses
import math
import numbers
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..progress import track
from ..utils import chunks
from .density import LogDensity, ceiling, event_size, log_density
from .draws import FIRST_BLOCK, block_ends, keyed_draws, largest_block, map_blocks
from .estimate import FEW, Estimate, Trace
from .intervals import require_confidence
from .solve import Method
from .sums import Sums
from .values import Function, checked_values, require_finite

DEFAULT_SAMPLES = 100_000
DEFAULT_CAP = 100_000_000
# A target is first looked at after this many draws.
FIRST_LOOK = 4096


@dataclasses.dataclass(frozen=True)
class Stop:
    """When to stop: after `num_samples`, or before, once a target is reached."""

    num_samples: int
    relative_error: float | None
    standard_error: float | None

    @classmethod
    def of(
        cls, num_samples: int | None, relative_error: float | None, standard_error: float | None, max_samples: int
    ) -> Stop:
        """Returns the rule that the arguments of an estimator ask for.

        Raises:
            TypeError: If the number of samples is no integer.
            ValueError: If an argument is out of range, or a number of samples comes with a target.
        """
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
        """Whether an error is to be reached."""
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
class Draw:
    """What is done with each draw: its value, its weight, its controls."""

    f: Function
    source: Distribution
    proposal: Distribution | None
    nominal: LogDensity
    controls: Function | None
    control_means: Sequence[float] | Tensor | float

    def sums(self, x: Tensor, f: Tensor) -> Sums:
        """Returns the sums of draws x, with shape (S,) + the event shape, where f has the values f(x)."""
        log_w, epsilon = (None, 0.0) if self.proposal is None else self._log_weights(x, self.proposal)
        f = checked_values(f, x, None if log_w is None else log_w > -math.inf)
        if f.dtype == torch.bool and log_w is None and self.controls is None:
            return Sums.of_hits(int(f.sum()), len(f))
        return Sums.of(f, log_w, self._control_values(x, log_w), epsilon)

    def _log_weights(self, x: Tensor, proposal: Distribution) -> tuple[Tensor, float]:
        """Returns the log-weights in float64, and the machine epsilon of the densities."""
        log_p, log_q = log_density(self.nominal, x), log_density(proposal, x)
        log_w = torch.where(log_p == -math.inf, -math.inf, log_p.double() - log_q.double())
        require_finite(~(torch.isnan(log_w) | (log_w == math.inf)), "The weight p(x) / q(x)", log_w.exp(), x)
        return log_w, max(torch.finfo(log_p.dtype).eps, torch.finfo(log_q.dtype).eps)

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
        require_finite(torch.isfinite(h).all(-1), "A control variate h(x)", h.sum(-1), x)
        return h


@dataclasses.dataclass(frozen=True)
class Engine:
    """Draws block after block until the end is reached, and keeps nothing but sums."""

    draw: Draw
    method: Method
    confidence: float
    seed: int
    chunk_size: int | None
    num_workers: int | None
    trace: tuple[int, ...]

    def __post_init__(self) -> None:
        require_confidence(self.confidence)
        for name in ("chunk_size", "num_workers"):
            size = getattr(self, name)
            if size is not None and size < 1:
                raise ValueError(f"{name} must be positive, but is {size}: leave it out for a sensible one.")

    def run(self, stop: Stop, progress: bool | None) -> Estimate:
        """Draws until the rule says stop, and returns the estimate."""
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
