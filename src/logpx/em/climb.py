r"""One ascent of the likelihood, iteration by iteration.

An E-step at the parameters :math:`\theta_t` gives both their log-likelihood and the sums that the M-step turns into
:math:`\theta_{t+1}`, so an iteration passes over the data once.
"""

from __future__ import annotations

__all__ = ["Climb"]

import dataclasses
import functools
import math
import operator
from collections import Counter
from typing import Any, Generic, cast

import torch
from torch import Tensor, nn

from ..exact import Mend, Mixture, Statistics
from ..utils import LogpxError, generator
from .passes import Passes
from .record import Iteration, ModelT

# How often an empty component starts anew before it stays empty.
MAX_RESEEDS = 5
# An empty component starts anew at the least probable of so many random data.
CANDIDATES = 100
# Step sizes are (t + DELAY)^-power, so that the first batches do not wash the start away.
DELAY = 10
FIELDS = dataclasses.fields(Statistics)


class Climb(Generic[ModelT]):
    """EM from one start, with its history.

    Arguments:
        model: The model, which is changed.
        start: The number of the start, from 0.
        passes: The data.
        sample: Some of the data, among which empty components start anew.
        num_data: The number N of data.
        mends: What was mended at the start.
    """

    def __init__(
        self, model: ModelT, start: int, passes: Passes, sample: Tensor, num_data: int, mends: tuple[Mend, ...] = ()
    ) -> None:
        self.model, self.start, self.passes, self.sample, self.num_data = model, start, passes, sample, num_data
        self.history: list[Iteration] = []
        self._sums: Statistics | None = None
        self._segment = self._step = 0
        self._reseeds: Counter[int] = Counter()
        self._mended: set[str] = set()
        self._events: list[str] = []
        self._report(mends)
        self._segment = 0

    def state(self) -> dict[str, Any]:
        """Returns all that the climb goes on from, as tensors and plain values."""
        sums = None if self._sums is None else {f.name: getattr(self._sums, f.name) for f in FIELDS}
        return {
            "tensors": {name: tensor.clone() for name, tensor in self._tensors().items()},
            "history": [tuple(row) for row in self.history],
            "sums": sums,
            "segment": self._segment,
            "step": self._step,
            "reseeds": dict(self._reseeds),
            "mended": sorted(self._mended),
            "events": list(self._events),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to a state that :meth:`state` has returned."""
        for name, tensor in self._tensors().items():
            tensor.copy_(state["tensors"][name])
        self.history = [Iteration(*row) for row in state["history"]]
        self._sums = None if state["sums"] is None else Statistics(**state["sums"])
        self._segment, self._step = state["segment"], state["step"]
        self._reseeds, self._mended = Counter(state["reseeds"]), set(state["mended"])
        self._events = list(state["events"])

    def gain(self) -> float:
        """Returns the last gain of the penalized log-likelihood within a segment, in nats per datum, else infinity."""
        if len(self.history) < 2 or self.history[-1].segment != self.history[-2].segment:
            return math.inf
        return self.history[-1].penalized - self.history[-2].penalized

    def has_converged(self, tolerance: float, is_online: bool) -> bool:
        """Whether the last gain is below the tolerance; in online EM, which may also lose, its size."""
        gain = self.gain()
        return (abs(gain) if is_online else gain) < tolerance

    def iterate(self) -> Iteration:
        """Takes the M-step for the last E-step, if there was one, and the E-step over all data."""
        before = None
        if self._sums is not None:
            self._maximize(self._sums)
            before = self._elbo(self._sums)
        parts = (self.model.statistics(x) for x in self.passes.in_order())
        self._sums = functools.reduce(operator.add, parts)
        mean = (self._sums.log_evidence / self._sums.num_data).item()
        return self._record(len(self.history), mean, before, self._elbo(self._sums))

    def iterate_online(self, batch_size: int, power: float) -> Iteration:
        r"""Takes both steps for each batch, on running means of the sums.

        .. math:: \bar s_t = (1 - \gamma_t)\, \bar s_{t-1} + \gamma_t\, s_t, \qquad \gamma_t = (t + 10)^{-\kappa}

        References:
            On-line expectation-maximization algorithm for latent data models (Cappé and Moulines, 2009).

        Arguments:
            batch_size: The largest number of data in a batch.
            power: How fast the step sizes fall, :math:`\kappa`.
        """
        epoch = len(self.history)
        running = self._sums or _per_datum(self.model.statistics(self.sample))
        log_evidence = elbo = count = 0.0
        for x in self.passes.shuffled(batch_size, epoch):
            sums = self.model.statistics(x)
            log_evidence, elbo = log_evidence + sums.log_evidence.item(), elbo + len(x) * self._elbo(sums)
            count += len(x)
            step = (self._step + DELAY) ** -power
            running = running * (1 - step) + _per_datum(sums) * step
            running = _per_datum(self._maximize(running * self.num_data))
            self._step += 1
        self._sums = running
        return self._record(epoch + 1, log_evidence / count, None, elbo / count)

    def _tensors(self) -> dict[str, Tensor]:
        """Returns the parameters and all buffers, those that are no weights, too."""
        model = cast(nn.Module, self.model)
        return dict(model.named_parameters()) | dict(model.named_buffers())

    def _maximize(self, sums: Statistics) -> Statistics:
        """Takes the M-step; returns the sums behind it, in which empty components have started anew."""
        if isinstance(self.model, Mixture):
            sums = self._refilled(self.model, sums)
        self._report(self.model.maximize(sums))
        return sums

    def _refilled(self, model: Mixture, sums: Statistics) -> Statistics:
        empty = model.empty_components(sums)
        again = [k for k in empty if self._reseeds[k] < MAX_RESEEDS]
        self._report(tuple(_left_empty(k) for k in empty if k not in again))
        if not again:
            return sums
        seeds = self._improbable(len(again))
        self._reseeds.update(again)
        self._events += [f"Component {k} was empty and starts anew at a datum that is explained badly." for k in again]
        self._segment += 1
        return model.reseed(sums, again, seeds)

    def _report(self, mends: tuple[Mend, ...]) -> None:
        """Keeps the first report of each kind, which opens a new segment, and counts those beside it."""
        new = [mend for mend in mends if mend.key not in self._mended]
        if not new:
            return
        self._mended.update(mend.key for mend in new)
        others = f" So it is in {len(new) - 1} more components." if len(new) > 1 else ""
        self._events.append(new[0].sentence + others)
        self._segment += 1

    def _improbable(self, num: int) -> Tensor:
        """Draws data at random and returns the least probable of them."""
        draws = generator(self.passes.seed, "em", "reseed", self.start, sum(self._reseeds.values()))
        candidates = self.sample[torch.randperm(len(self.sample), generator=draws)[: max(num, CANDIDATES)]]
        order = self.model.log_evidence(candidates).argsort()
        return candidates[order[torch.arange(num) % len(order)]]

    def _elbo(self, sums: Statistics) -> float:
        """Returns the ELBO of the present parameters under the posterior of the sums, in nats per datum."""
        # E_r[log p(x, z)] + H(r)
        return ((self.model.expected_log_joint(sums) + sums.entropy) / sums.num_data).item()

    def _record(self, iteration: int, log_evidence: float, before: float | None, after: float) -> Iteration:
        if not math.isfinite(log_evidence):
            raise LogpxError(
                f"The mean log p(x) is {log_evidence} after {iteration} iterations of EM from start {self.start + 1}: "
                "rescale the data to a range of about 1, or raise the model's variance_floor or pseudo_count."
            )
        penalized = log_evidence + self.model.log_penalty().item() / self.num_data
        events = tuple(self._events)
        self._events = []
        row = Iteration(self.start, iteration, self._segment, penalized, log_evidence, before, after, events)
        self.history.append(row)
        return row


def _per_datum(sums: Statistics) -> Statistics:
    return sums * (1 / sums.num_data)


def _left_empty(k: int) -> Mend:
    sentence = f"Component {k} was empty again after {MAX_RESEEDS} new starts and stays so: use fewer components."
    return Mend(f"empty {k}", sentence)
