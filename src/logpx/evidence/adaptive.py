r"""Adaptive effort: samples go where the weights vary, and a better proposal where more samples would not help.

Every datum begins with the encoder. Where its weights vary too much, a proposal with curvature is fitted, and where
that leaves too large an error or too heavy a tail, annealing follows. In each stage pilot draws, which are then thrown
away, say how many samples an error of :math:`\epsilon` nats needs,

.. math:: S = \frac{1}{\epsilon^2} \left( \frac{S_0}{\mathrm{ESS}_0} - 1 \right),

half as many more to be safe, and whether the next stage is needed: what is decided so does not depend on the draws of
the estimate, which stays unbiased for p(x). One decision does depend on them: estimates whose final k-hat is 0.7 or
more are replaced by those of the next stage. As a large weight raises both k-hat and the estimate, this favours lower
estimates a little.
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
from .fit import Fit, has_real_support, take
from .mixture import defensive_mixture
from .refined import fit_refined
from .results import Evidence
from .tally import is_random, tally

PILOT = 128
FIT_PILOT = 256
LEAST, STEP = 256, 256
# The encoder serves where so many of its draws are enough: beyond, a fit is cheaper and safer.
ENCODER_DRAWS = 1000
RELIABLE_K, USABLE_K = 0.5, 0.7
# A fit stays with the encoder where the pilots say that the encoder needs less than half as many draws.
CHEAPER = 2.0
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
    result, need = pilot.evidence(q, "encoder", 1 + PILOT), effort.need(pilot.weights)
    serves = (pilot.weights.pareto_k() < RELIABLE_K) & (need <= ENCODER_DRAWS)
    # where there is nothing to step through the encoder must do, and a datum that overflows is not to end the others
    stays = torch.logical_not(torch.isfinite(result.log_evidence)) | (not has_real_support(q))
    rows = _where(serves | stays)
    if len(rows):
        result = result.put(rows, _spend(block.take(rows), _encoder, effort.rounded(need[rows]), "encoder"))
    rows = _where(torch.logical_not(stays) & (torch.logical_not(serves) | _has_heavy_tail(result)))
    # a heavy tail that a pilot sees is worse than it looks
    before = torch.where(pilot.weights.pareto_k() < RELIABLE_K, need, math.inf)
    return _escalate(block.take(rows), rows, result, before[rows], effort) if len(rows) else result


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

    def need(self, weights: LogMeanAccumulator) -> Tensor:
        """Returns the numbers of draws by which the target would be met."""
        # S = (S_0 / ESS_0 - 1) / epsilon^2
        need = MARGIN * (weights.count / weights.ess().clamp(min=1e-9) - 1) / self.target_error**2
        return torch.nan_to_num(need, nan=math.inf, posinf=math.inf)

    def rounded(self, need: Tensor) -> Tensor:
        """Returns them in steps, from the least to the largest number."""
        return (torch.ceil(need.clamp(max=self.num_samples) / STEP) * STEP).clamp(LEAST, self.num_samples).long()

    def is_beyond(self, need: Tensor) -> Tensor:
        """Whether the largest number would leave more than twice the target."""
        return need > PATIENCE**2 * MARGIN * self.num_samples


def _escalate(block: Block, rows: Tensor, result: Evidence, before: Tensor, effort: _Effort) -> Evidence:
    """Fits a proposal to each of the data, and anneals from it where that is not enough."""
    fit, name = _fitted(block)

    def fitted(some: Block, rows: Tensor) -> Distribution:
        # what the fit lost, the encoder and the prior may know
        return defensive_mixture(take(fit.q, rows), some.encoder(), some.prior())

    pilot = tally(block, fitted(block, _everything(block)), FIT_PILOT, name, "pilot")
    need = effort.need(pilot.weights)
    improves = need <= CHEAPER * before
    spent = torch.full_like(need, float(fit.num_passes + FIT_PILOT))
    result = result.put(rows, dataclasses.replace(result.take(rows), num_passes=spent))
    for chosen, propose, method, wanted in (
        (_where(improves), fitted, name, need),
        (_where(torch.logical_not(improves)), _encoder, "encoder", before),
    ):
        if len(chosen):
            part = _spend(block, propose, effort.rounded(wanted[chosen]), method, chosen)
            result = result.put(rows[chosen], part)
    poor = _where(effort.is_beyond(torch.minimum(need, before)) | _has_heavy_tail(result.take(rows)))
    if not len(poor) or _is_random(block, fit.q):
        return result
    return result.put(rows[poor], _annealed(block.take(poor), take(fit.q, poor)))


def _fitted(block: Block) -> tuple[Fit, str]:
    """Fits the best proposal that the decoder allows, and returns its name."""
    with keyed_rng(block.seed, "fisher", block.number, device=block.x.device):
        z = block.encoder().sample(torch.Size((1,)))
    if knows_fisher(block.decoder(z)):
        return fit_curvature(block), "curvature"
    return fit_refined(block), "refined"


def _spend(block: Block, propose: Propose, wanted: Tensor, method: str, chosen: Tensor | None = None) -> Evidence:
    """Draws for some of the data as often as each wants, the same number for many at once."""
    chosen = _everything(block) if chosen is None else chosen
    groups, parts = [_where(wanted == size) for size in wanted.unique()], []
    for group in groups:
        rows, size = chosen[group], int(wanted[group[0]])
        some = block.take(rows)
        q = propose(some, rows)
        parts.append(tally(some, q, size, method, size).evidence(q, method, size))
    return Evidence.cat(parts).take(torch.cat(groups).argsort())


def _encoder(block: Block, rows: Tensor) -> Distribution:
    return block.encoder()


def _annealed(block: Block, q: Distribution) -> Evidence:
    return annealed(block, Fit(q, 0), num_chains=CHAINS, num_temperatures=TEMPERATURES)


def _is_random(block: Block, q: Distribution) -> bool:
    with keyed_rng(block.seed, "random", block.number, device=block.x.device):
        return is_random(block, q.sample(torch.Size((1,))))


def _has_heavy_tail(result: Evidence) -> Tensor:
    return torch.logical_not(result.pareto_k < USABLE_K)


def _everything(block: Block) -> Tensor:
    return torch.arange(len(block), device=block.x.device)


def _where(chosen: Tensor) -> Tensor:
    return chosen.nonzero().flatten()
