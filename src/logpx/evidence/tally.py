"""Draws from a proposal, weighed in blocks, and what is kept of them."""

from __future__ import annotations

__all__ = ["SAMPLE_BLOCK", "Tally", "is_random", "rows_at_once", "tally"]

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..model import Terms, observed_log_prob
from ..montecarlo import LogMeanAccumulator
from ..montecarlo.draws import map_blocks
from ..utils import MEMORY_BUDGET, chunks, keyed_rng, num_at_once, rng_state
from .block import Block
from .results import Evidence

SAMPLE_BLOCK = 128
PARTS_AT_ONCE = 8
RANDOM_BLOCK = 8
# The memory for the draws of parts that are weighed at the same time, in bytes, as a rough guide.
MEMORY_OF_DRAWS = 2**27


@dataclasses.dataclass
class Tally:
    """Sums over draws.

    Arguments:
        weights: The statistics of the log-weights.
        rate: The sums of log q(z) - log p(z), in nats, with shape (B,).
        distortion: The sums of -log p(x | z), in nats, with shape (B,).
        latent: The sums of z, with shape (B, L); L is 0 where there are no real vectors.
    """

    weights: LogMeanAccumulator
    rate: Tensor
    distortion: Tensor
    latent: Tensor | None = None

    @classmethod
    def empty(cls, x: Tensor) -> Tally:
        """Returns the sums over no draws for the data x."""
        rate, distortion = torch.zeros(2, len(x), dtype=torch.float64, device=x.device)
        return cls(LogMeanAccumulator.empty(len(x), x.device), rate, distortion)

    def add_costs(self, terms: Terms) -> None:
        """Adds what draws cost, and where they are; their log-weights are for the caller to add."""
        self.rate += _sum(terms.log_proposal - terms.log_prior)
        self.distortion -= _sum(terms.log_likelihood)
        latent = _sum(_vectors(terms))
        self.latent = latent if self.latent is None else self.latent + latent

    def take(self, rows: Tensor) -> Tally:
        """Returns the sums of some of the data.

        Arguments:
            rows: Which data, with shape (R,).
        """
        latent = None if self.latent is None else self.latent[rows]
        return Tally(self.weights.take(rows), self.rate[rows], self.distortion[rows], latent)

    def merged(self, other: Tally) -> Tally:
        """Returns the sums over the draws of both."""
        weights = self.weights.merged(other.weights)
        latent = torch.as_tensor(self.latent) + torch.as_tensor(other.latent)
        return Tally(weights, self.rate + other.rate, self.distortion + other.distortion, latent)

    @property
    def num_samples(self) -> int:
        """The number S of draws per datum."""
        return self.weights.count

    @property
    def has_real_latents(self) -> bool:
        """Whether z is made of real vectors or maps."""
        return self.latent is not None and self.latent.shape[-1] > 0

    def evidence(self, q: Distribution, method: str, num_passes: float) -> Evidence:
        """Returns the estimates.

        Arguments:
            q: The proposals that were drawn from.
            method: What they are called, one of METHODS.
            num_passes: The passes spent per datum.
        """
        n = self.num_samples
        return Evidence.of(self.weights, self.rate / n, self.distortion / n, self.latent_mean(q), method, num_passes)

    def latent_mean(self, q: Distribution) -> Tensor:
        """Returns the mean of q, with shape (B, L), or the mean of the draws where q does not know its own."""
        sample_mean = torch.as_tensor(self.latent) / self.num_samples
        try:
            mean = q.mean
        except NotImplementedError:
            return sample_mean
        return mean.double().reshape(sample_mean.shape) if self.has_real_latents else sample_mean


@torch.no_grad()
def tally(block: Block, q: Distribution, num_samples: int, *key: int | str) -> Tally:
    """Weighs draws from q, in parts of 128 that are keyed by seed, block, key and part.

    Where log p(x | z) is itself random, as under dequantization, 8 draws are weighed at a time, keyed by their place.

    Arguments:
        block: The data under a model.
        q: The proposals, with batch shape (B,).
        num_samples: The number S of draws per datum.
        key: What the draws are for.
    """
    name = ("evidence", block.number, *key)
    parts = _parts(block, q, num_samples, name)
    first = next(parts)
    how = _How.of(block, q, first.z, name)
    sums, waiting = Tally.empty(block.x), list[Tensor]()
    for terms in map_blocks(how.weigh, chain([first], parts), how.num_workers):
        sums.add_costs(terms)
        waiting.append(terms.log_weights)
        # sorting out the largest weights of many draws at once takes a fraction of the time
        if len(waiting) == PARTS_AT_ONCE:
            sums.weights.update(torch.cat(waiting))
            waiting.clear()
    if waiting:
        sums.weights.update(torch.cat(waiting))
    return sums


class _Part(NamedTuple):
    number: int
    z: Tensor


def _parts(block: Block, q: Distribution, num_samples: int, name: tuple[int | str, ...]) -> Iterator[_Part]:
    for number, (start, stop) in enumerate(chunks(num_samples, SAMPLE_BLOCK)):
        with keyed_rng(block.seed, *name, number, device=block.x.device):
            z = q.sample(torch.Size((stop - start,)))
        yield _Part(number, z)


@dataclasses.dataclass(frozen=True)
class _How:
    """How parts of the draws are weighed: how many are decoded at once, and by how many threads.

    A thread that has a part to itself need not wait for others after every operation, as the threads within one do. But
    random numbers that a model draws meanwhile could not be keyed, so that only one that says so is weighed by several.
    """

    block: Block
    q: Distribution
    name: tuple[int | str, ...]
    rows: int
    num_workers: int
    autocast: torch.dtype | None

    @classmethod
    def of(cls, block: Block, q: Distribution, z: Tensor, name: tuple[int | str, ...]) -> _How:
        rows, is_safe = rows_at_once(block, z[:1]), getattr(block.model, "is_thread_safe", False)
        # where memory has run out before, one thread takes the least
        is_ample = block.memory_budget >= MEMORY_BUDGET
        may_divide = is_safe and is_ample and z.device.type == "cpu" and not is_random(block, z[:1])
        fitting = max(1, MEMORY_OF_DRAWS // (z.numel() * z.element_size()))
        workers = min(torch.get_num_threads(), fitting) if may_divide and len(z) == SAMPLE_BLOCK else 1
        # threads do not inherit it
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        return cls(block, q, name, rows, workers, dtype)

    @torch.no_grad()
    def weigh(self, part: _Part) -> Terms:
        """Weighs a part in pieces that fit the memory; what one thread draws meanwhile is keyed by its place."""
        terms = []
        for place, z in enumerate(part.z.split(self.rows)):
            with self._keyed(part.number, place), self._as_outside():
                terms.append(self.block.weigh(z, self.q))
        return Terms(part.z, *(torch.cat(pieces) for pieces in list(zip(*terms, strict=True))[1:]))

    def _keyed(self, part: int, place: int) -> AbstractContextManager[None]:
        if self.num_workers > 1:
            return nullcontext()
        return keyed_rng(self.block.seed, *self.name, part, place, device=self.block.x.device)

    def _as_outside(self) -> AbstractContextManager[None]:
        return nullcontext() if self.autocast is None else torch.autocast("cpu", self.autocast)


def rows_at_once(block: Block, z: Tensor) -> int:
    """Returns how many draws are weighed at once: what fits the memory, unless log p(x | z) of one draw is random.

    Arguments:
        block: The data under a model.
        z: One draw per datum, with shape (1, B) + the event shape.
    """
    p, is_random = _decoded(block, z)
    return RANDOM_BLOCK if is_random else num_at_once(p, block.memory_budget)


def is_random(block: Block, z: Tensor) -> bool:
    """Whether log p(x | z) is itself random, as under dequantization.

    Arguments:
        block: The data under a model.
        z: One draw per datum, with shape (1, B) + the event shape.
    """
    return _decoded(block, z)[1]


def _decoded(block: Block, z: Tensor) -> tuple[Distribution, bool]:
    with keyed_rng(block.seed, "evidence", "rows", device=block.x.device):
        before = rng_state(block.x.device)
        p = block.decoder(z)
        observed_log_prob(p, block.x, block.mask)
        return p, not torch.equal(rng_state(block.x.device), before)


def _sum(term: Tensor) -> Tensor:
    return term.double().sum(0)


def _vectors(terms: Terms) -> Tensor:
    """Returns the latents with shape (S, B, L), or (S, B, 0) where they are not real."""
    z = terms.z.flatten(2) if terms.z.dim() > 2 else terms.z.unsqueeze(-1)
    return z if z.is_floating_point() else z.new_empty(*z.shape[:2], 0, dtype=torch.float32)
