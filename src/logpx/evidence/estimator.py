"""The ways to log p(x), by name: what is asked for once, and then done for each block of data."""

from __future__ import annotations

__all__ = ["ESTIMATORS", "Estimator", "has_own_weights"]

import dataclasses
import math
from typing import Any

import torch

from ..model import call, log_weights
from ..montecarlo import LogMeanAccumulator
from ..utils import chunks, keep_freed_memory, keyed_rng
from .adaptive import adaptive
from .annealed import SPACINGS, annealed
from .block import Block
from .proposals import PROPOSALS
from .results import Evidence
from .tally import SAMPLE_BLOCK, tally

# estimator -> the number of samples, or chains, per datum by default
ESTIMATORS: dict[str, int | None] = {"auto": 3500, "importance": 5000, "annealed": 32, "exact": None}


@dataclasses.dataclass(frozen=True)
class Estimator:
    """How log p(x) is estimated.

    Arguments:
        name: "auto", which adapts its effort to each datum; "importance", with a fixed number of draws; "annealed",
            with chains; or "exact", for a model with a method `log_evidence(x)`.
        proposal: What importance sampling draws from, or where chains start: a key of PROPOSALS.
        num_samples: The number of draws, or chains, per datum; of "auto", the largest per proposal.
        target_error: The standard error that "auto" aims at, in nats per datum.
        num_temperatures: The number of steps of "annealed".
        schedule: How these are laid out: "adaptive" or "sigmoid".

    Raises:
        ValueError: If a name is unknown or a number is out of range.
    """

    name: str = "auto"
    proposal: str = "encoder"
    num_samples: int | None = None
    target_error: float = 0.05
    num_temperatures: int = 50
    schedule: str = "adaptive"

    def __post_init__(self) -> None:
        for what, value, known in (
            ("estimator", self.name, ESTIMATORS),
            ("proposal", self.proposal, PROPOSALS),
            ("schedule", self.schedule, SPACINGS),
        ):
            if value not in known:
                raise ValueError(f"{what} must be one of {', '.join(known)}, but is {value!r}: choose one.")
        for what, least in (("num_samples", 1), ("num_temperatures", 2)):
            value = getattr(self, what)
            if value is not None and value < least:
                raise ValueError(f"{what} must be at least {least}, but is {value}: give a larger number.")

    @property
    def size(self) -> int | None:
        """The number of draws or chains per datum."""
        return self.num_samples or ESTIMATORS[self.name]

    @torch.no_grad()
    def __call__(self, block: Block) -> Evidence:
        """Returns the estimates of a block of data."""
        size = self.size or 0
        if self.name == "exact":
            return _exact(block)
        keep_freed_memory()
        if self.name == "annealed":
            fit = PROPOSALS[self.proposal](block)
            return annealed(block, fit, num_chains=size, num_temperatures=self.num_temperatures, spacing=self.schedule)
        if has_own_weights(block.model) and (self.name == "auto" or self.proposal == "encoder"):
            return _own(block, size)
        if self.name == "auto":
            return adaptive(block, target_error=self.target_error, num_samples=size)
        fit = PROPOSALS[self.proposal](block)
        return tally(block, fit.q, size).evidence(fit.q, self.proposal, fit.num_passes + size)


def has_own_weights(model: object) -> bool:
    """Whether a model brings its own log-weights."""
    return getattr(model, "log_weights", None) is not None


def _own(block: Block, num_samples: int) -> Evidence:
    """Weighs by the model's own log-weights, whose latents nobody sees."""
    weights = LogMeanAccumulator.empty(len(block), block.x.device)
    for part, (start, stop) in enumerate(chunks(num_samples, SAMPLE_BLOCK)):
        with keyed_rng(block.seed, "evidence", block.number, part, device=block.x.device):
            weights.update(log_weights(block.model, block.x, stop - start, None, block.context, block.mask))
    unknown = torch.full((len(block),), math.nan, dtype=torch.float64, device=block.x.device)
    return Evidence.of(weights, unknown, unknown, unknown.new_empty(len(block), 0), "own", num_samples)


def _exact(block: Block) -> Evidence:
    """Asks the model for log p(x): there are no weights, and so nothing is said of them."""
    model: Any = block.model
    log_p = call(model.log_evidence, block.x, context=block.context).double()
    if tuple(log_p.shape) != (len(block),):
        raise ValueError(
            f"model.log_evidence(x) must have shape ({len(block)},), but has {tuple(log_p.shape)}: sum over the "
            "dimensions of one datum."
        )
    return Evidence.exact(log_p)
