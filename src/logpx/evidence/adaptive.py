r"""Adaptive effort: samples go where the weights vary, and a better proposal where more samples would not help.

Every datum begins with the encoder. Where its weights vary too much, a proposal with curvature is fitted, and where
that leaves too large an error or too heavy a tail, annealing follows. In each stage pilot draws say how many samples an
error of :math:`\epsilon` nats needs,

.. math:: S = \frac{1}{\epsilon^2} \left( \frac{S_0}{\mathrm{ESS}_0} - 1 \right),

half as many more to be safe, and only draws made after that enter the estimate, so that it stays unbiased.
"""

from __future__ import annotations

__all__ = ["adaptive"]

import dataclasses
import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..montecarlo import LogMeanAccumulator
from ..utils import keyed_rng
from .annealed import annealed
from .block import Block
from .curvature import fit_curvature
from .fisher import knows_fisher
from .fit import Fit, take
from .mixture import defensive_mixture
from .refined import fit_refined
from .results import Evidence
from .tally import tally

PILOT = 128
FIT_PILOT = 256
LEAST, STEP = 256, 256
# The encoder serves where so many of its draws are enough: beyond, a fit is cheaper and safer.
ENCODER_DRAWS = 1000
RELIABLE_K, USABLE_K = 0.5, 0.7
# Annealing costs several times as many passes as all before it, so it is kept for errors of twice the target.
PATIENCE = 2.0
# A pilot sees few of the large weights, so that it asks for too little.
MARGIN = 1.5
CHAINS, TEMPERATURES = 32, 30

# What some of a block's data are drawn from; the rows are their places in the block that was fitted.
Propose: TypeAlias = Callable[[Block, Tensor], Distribution]


@torch.no_grad()
def adaptive(block: Block, *, target_error: float = 0.05, num_samples: int = 3500) -> Evidence:
    """Estimates log p(x) per datum to a given error, with as good a proposal as that takes.

    Arguments:
        block: The data under a model.
        target_error: The Monte Carlo standard error that each datum's estimate should have, in nats.
        num_samples: The largest number of draws per datum that one proposal gets.

    Returns:
        Estimate, standard error, diagnosis, method and passes per datum.

    Raises:
        ValueError: If `target_error` or `num_samples` is not positive, or a term has a wrong shape.
    """
    effort = _Effort(target_error, num_samples)
    q = block.encoder()
    pilot = tally(block, q, PILOT, "encoder", "pilot")
    result, wanted = pilot.evidence(q, "encoder", 1 + PILOT), effort.wanted(pilot.weights)
    serves = (pilot.weights.pareto_k() < RELIABLE_K) & (wanted <= ENCODER_DRAWS)
    if not pilot.has_real_latents:
        # there is nothing to differentiate, so the encoder must do
        serves = torch.ones_like(serves)
    rows = _where(serves)
    if len(rows):
        result = result.put(rows, _spend(block.take(rows), _encoder, wanted[rows], "encoder", effort))
    rows = _where(~serves | effort.is_poor(result)) if pilot.has_real_latents else rows[:0]
    return _escalate(block.take(rows), rows, result, effort) if len(rows) else result


@dataclasses.dataclass(frozen=True)
class _Effort:
    """What is asked for: an error in nats per datum, and the largest number of draws."""

    target_error: float
    num_samples: int

    def __post_init__(self) -> None:
        if not self.target_error > 0:
            raise ValueError(f"target_error must be positive, but is {self.target_error}: 0.05 nats is customary.")
        if self.num_samples < LEAST:
            raise ValueError(
                f"num_samples of estimator auto must be at least {LEAST}, but is {self.num_samples}: draw "
                "more, or choose estimator importance."
            )

    def wanted(self, weights: LogMeanAccumulator) -> Tensor:
        """Returns the numbers of draws by which the target would be met, in steps and up to the largest."""
        # S = (S_0 / ESS_0 - 1) / epsilon^2
        need = MARGIN * (weights.count / weights.ess().clamp(min=1e-9) - 1) / self.target_error**2
        steps = torch.ceil(torch.nan_to_num(need, nan=math.inf) / STEP) * STEP
        return steps.clamp(LEAST, self.num_samples).long()

    def is_poor(self, result: Evidence) -> Tensor:
        """Whether estimates are unreliable, or far from the target."""
        reliable = (result.pareto_k < USABLE_K) & (result.standard_error <= PATIENCE * self.target_error)
        return torch.logical_not(reliable)


def _escalate(block: Block, rows: Tensor, result: Evidence, effort: _Effort) -> Evidence:
    """Fits a proposal to each of the data, and anneals from it where that is not enough."""
    fit, name = _fitted(block)

    def fitted(some: Block, rows: Tensor) -> Distribution:
        # what the fit lost, the encoder and the prior may know
        return defensive_mixture(take(fit.q, rows), some.encoder(), some.prior())

    pilot = tally(block, fitted(block, _everything(block)), FIT_PILOT, name, "pilot")
    better = _spend(block, fitted, effort.wanted(pilot.weights), name, effort)
    better = dataclasses.replace(better, num_passes=better.num_passes + fit.num_passes + FIT_PILOT)
    result = result.put(rows, better)
    poor = _where(effort.is_poor(better))
    return result.put(rows[poor], _annealed(block.take(poor), take(fit.q, poor))) if len(poor) else result


def _fitted(block: Block) -> tuple[Fit, str]:
    """Fits the best proposal that the decoder allows, and returns its name."""
    with keyed_rng(block.seed, "fisher", block.number, device=block.x.device):
        z = block.encoder().sample(torch.Size((1,)))
    if knows_fisher(block.decoder(z)):
        return fit_curvature(block), "curvature"
    return fit_refined(block), "refined"


def _spend(block: Block, propose: Propose, wanted: Tensor, method: str, effort: _Effort) -> Evidence:
    """Draws as often for each datum as is wanted, the same number for many at once."""
    groups = [_where(wanted == size) for size in wanted.unique()]
    parts = [_drawn(block, propose, rows, int(wanted[rows[0]]), method, effort) for rows in groups]
    return Evidence.cat(parts).take(torch.cat(groups).argsort())


def _drawn(block: Block, propose: Propose, rows: Tensor, size: int, method: str, effort: _Effort) -> Evidence:
    """Draws so often for some of the data, and up to the largest number where that turns out to be too little."""
    some = block.take(rows)
    q = propose(some, rows)
    sums = tally(some, q, size, method, size)
    result = sums.evidence(q, method, size)
    # further draws join the first: to replace those that look bad would favour small weights
    short, rest = _where(effort.is_poor(result)), effort.num_samples - size
    if not len(short) or rest <= 0:
        return result
    few = some.take(short)
    q = propose(few, rows[short])
    more = sums.take(short).merged(tally(few, q, rest, method, size, "more"))
    return result.put(short, more.evidence(q, method, rest))


def _encoder(block: Block, rows: Tensor) -> Distribution:
    return block.encoder()


def _annealed(block: Block, q: Distribution) -> Evidence:
    return annealed(block, Fit(q, 0), num_chains=CHAINS, num_temperatures=TEMPERATURES)


def _everything(block: Block) -> Tensor:
    return torch.arange(len(block), device=block.x.device)


def _where(chosen: Tensor) -> Tensor:
    return chosen.nonzero().flatten()
