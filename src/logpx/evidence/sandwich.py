r"""Bidirectional Monte Carlo: log p(x) of simulated data between two bounds.

Data drawn from the model itself, :math:`z^* \sim p(z)`, :math:`x \sim p(x | z^*)`, come with one exact posterior
sample, :math:`z^* \sim p(z | x)`. Chains of annealed importance sampling that run forward give
:math:`\mathbb{E}[\hat p] = p(x)`, and chains that run backward from :math:`z^*` give
:math:`\mathbb{E}[\hat r] = 1 / p(x)`, so that by Jensen's inequality

.. math:: \mathbb{E}[\log \hat p] \leq \log p(x) \leq \mathbb{E}[-\log \hat r].

Both hold on average over data, not for each of them. Backward chains of a datum share their first point, so that their
spread is no standard error; that of the data is. Proposal, schedule and step sizes are fitted without :math:`z^*`.
"""

from __future__ import annotations

__all__ = ["Sandwich", "sandwich", "simulate"]

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from ..model import LatentVariableModel, call, evaluating
from ..utils import MEMORY_BUDGET, chunks, keyed_rng
from .annealed import Run, Schedule, annealed_log_weights, path_from, tune
from .block import Block
from .hmc import Path
from .proposals import PROPOSALS

DATA_BLOCK = 32


@dataclasses.dataclass(frozen=True)
class Sandwich:
    """Bounds of log p(x) for simulated data, at rising numbers of temperatures.

    Arguments:
        num_temperatures: The numbers T of steps, with shape (R,).
        lower: Forward estimates, stochastic lower bounds, in nats, with shape (R, N).
        upper: Backward estimates, stochastic upper bounds, in nats, with shape (R, N).
        num_passes: The passes per datum of each row, fits and pilots included, with shape (R,).
        acceptance: The mean acceptance of the transitions of each row, with shape (R,).
        num_chains: The number of chains per datum and direction.
        proposal: Where forward chains start.
        seed: The seed of data and chains.
    """

    num_temperatures: Tensor
    lower: Tensor
    upper: Tensor
    num_passes: Tensor
    acceptance: Tensor
    num_chains: int
    proposal: str
    seed: int

    @property
    def gap(self) -> Tensor:
        """The widths of the sandwich, upper - lower on average over data, in nats, with shape (R,)."""
        return (self.upper - self.lower).mean(1)

    def record(self) -> dict[str, Any]:
        """Returns the averages over data and how they were made, fit for JSON, in nats."""
        rows = zip(
            self.num_temperatures.tolist(),
            *((column.mean(1).tolist()) for column in (self.lower, self.upper)),
            self.gap.tolist(),
            self.gap_error.tolist(),
            self.num_passes.tolist(),
            self.acceptance.tolist(),
            strict=True,
        )
        names = ("num_temperatures", "lower", "upper", "gap", "gap_error", "num_passes", "acceptance")
        about = {"num_data": self.lower.shape[1], "num_chains": self.num_chains, "proposal": self.proposal}
        return {**about, "seed": self.seed, "rows": [dict(zip(names, row, strict=True)) for row in rows]}

    @property
    def gap_error(self) -> Tensor:
        """Their standard errors over data, in nats, with shape (R,)."""
        return (self.upper - self.lower).std(1) / math.sqrt(self.lower.shape[1])


def simulate(model: LatentVariableModel, num_data: int, seed: int = 0, block: int = 0) -> tuple[Tensor, Tensor]:
    """Draws data from the model; returns x with shape (N,) + the event shape, and the latents behind them.

    Arguments:
        model: The model, without context.
        num_data: The number N of data.
        seed: The seed of the draws.
        block: Which block of data this is.
    """
    prior = call(model.prior)
    with keyed_rng(seed, "simulate", block), torch.no_grad():
        z = prior.sample(torch.Size((num_data,)))
        return call(model.decoder, z.unsqueeze(0)).sample().squeeze(0), z


def sandwich(
    model: LatentVariableModel,
    *,
    num_data: int = 100,
    num_chains: int = 16,
    num_temperatures: tuple[int, ...] = (5, 20, 80),
    proposal: str = "curvature",
    seed: int = 0,
    memory_budget: int = MEMORY_BUDGET,
) -> Sandwich:
    """Bounds log p(x) of data simulated from a model from both sides.

    References:
        Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse, Ghahramani and Adams, 2015).
        On the Quantitative Analysis of Decoder-Based Generative Models (Wu, Burda, Salakhutdinov and Grosse, 2017).

    Arguments:
        model: The model, whose samplers follow their densities, with real latents and without context.
        num_data: The number N of data.
        num_chains: The number of chains per datum and direction.
        num_temperatures: The numbers of steps, each of which makes a sandwich.
        proposal: Where forward chains start, a key of PROPOSALS; "prior" is the customary choice.
        seed: The seed of data and chains.
        memory_budget: The memory for the decoder's outputs, in bytes, as a rough guide.

    Raises:
        ValueError: If a number is out of range or the proposal is unknown.
        LogpxError: If the latents are not real, or log p(x | z) is itself random.
    """
    _check(num_data, num_chains, num_temperatures, proposal)
    columns = []
    with evaluating(model):
        for number, (start, stop) in enumerate(chunks(num_data, DATA_BLOCK)):
            x, z = simulate(model, stop - start, seed, number)
            block = Block(model, x, seed=seed, number=number, memory_budget=memory_budget)
            columns.append(_block_bounds(block, z, num_chains, num_temperatures, proposal))
    lower, upper, passes, acceptance = zip(*columns, strict=True)
    return Sandwich(
        num_temperatures=torch.tensor(num_temperatures),
        lower=torch.cat(lower, 1),
        upper=torch.cat(upper, 1),
        num_passes=passes[0],
        acceptance=torch.stack(acceptance).mean(0),
        num_chains=num_chains,
        proposal=proposal,
        seed=seed,
    )


def _block_bounds(
    block: Block, z: Tensor, num_chains: int, sizes: tuple[int, ...], proposal: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns lower and upper bounds with shape (R, B), passes and acceptance with shape (R,)."""
    fit = PROPOSALS[proposal](block)
    path = path_from(block, fit.q)
    rows = []
    for size in sizes:
        schedule = tune(path, size, seed=block.seed, key=("sandwich", block.number, size))
        forward, backward = (_run(path, schedule, z, num_chains, size, reverse) for reverse in (False, True))
        lower = torch.logsumexp(forward.log_weights, 0) - math.log(num_chains)
        # -log r-hat = -log mean (1 / w)
        upper = math.log(num_chains) - torch.logsumexp(-backward.log_weights, 0)
        cost = fit.num_passes + schedule.num_passes + 2 * num_chains * schedule.cost
        rows.append((lower, upper, torch.tensor(float(cost)), forward.acceptance.mean()))
    lowers, uppers, costs, rates = (torch.stack(column) for column in zip(*rows, strict=True))
    return lowers, uppers, costs, rates


def _run(path: Path, schedule: Schedule, z: Tensor, num_chains: int, size: int, reverse: bool) -> Run:
    block, key = path.block, ("sandwich", path.block.number, size)
    if reverse:
        start = z.expand(num_chains, *z.shape)
    else:
        with keyed_rng(block.seed, "chains", *key, device=block.x.device):
            start = path.q.sample(torch.Size((num_chains,)))
    return annealed_log_weights(path, start, schedule, reverse=reverse, seed=block.seed, key=key)


def _check(num_data: int, num_chains: int, num_temperatures: tuple[int, ...], proposal: str) -> None:
    if proposal not in PROPOSALS:
        raise ValueError(f"proposal must be one of {', '.join(PROPOSALS)}, but is {proposal!r}: choose one.")
    for name, value, least in (
        ("num_data", num_data, 2),
        ("num_chains", num_chains, 1),
        ("num_temperatures", min(num_temperatures, default=0), 2),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, but is {value}: give a larger number.")
