r"""Annealed importance sampling of log p(x), forward and reverse.

Between an initial distribution q and log p(x, z) lie :math:`\log f_\beta = (1 - \beta) \log q + \beta \log p(x, z)` at
inverse temperatures :math:`0 = \beta_0 < \dots < \beta_T = 1`. A chain starts at :math:`z_0 \sim q`, a transition that
leaves :math:`f_{\beta_t}` invariant leads from :math:`z_{t-1}` to :math:`z_t`, and

.. math:: \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \left(\log p(x, z_{t-1}) - \log q(z_{t-1})\right), \qquad
          \mathbb{E}[w] = p(x).

Run backwards from an exact posterior sample :math:`z_{T-1} \sim p(z | x)`, the same sum has
:math:`\mathbb{E}[1 / w] = 1 / p(x)`. Schedule and step sizes are found on pilot chains and then frozen: a chain that
looked for its own step size would not leave anything invariant.
"""

from __future__ import annotations

__all__ = [
    "NUM_LEAPFROG",
    "SPACINGS",
    "Run",
    "Schedule",
    "annealed",
    "annealed_log_weights",
    "path_from",
    "sigmoid_schedule",
    "tune",
]

import dataclasses
import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..montecarlo import LogMeanAccumulator
from ..utils import LogpxError, keyed_rng
from .block import Block
from .fit import Fit, precision_of, require_real_latents
from .hmc import Path, State, transition
from .results import Evidence
from .tally import is_random

NUM_LEAPFROG = 3
# Pilot chains, the number of their inverse temperatures, and how often they run to find step sizes.
PILOT_CHAINS, PILOT_STEPS, PILOT_ROUNDS = 8, 10, 2
ACCEPTANCE = 0.75
FIRST_STEP = 0.5
SHARPNESS = 4.0
SPACINGS = ("adaptive", "sigmoid")
# Fewer chains have too short a tail to look at.
MANY_CHAINS, LEAST_K = 100, 0.5


@dataclasses.dataclass(frozen=True)
class Schedule:
    r"""What is fixed before the chains run.

    Arguments:
        betas: The inverse temperatures :math:`\beta_0 = 0, \dots, \beta_T = 1` of each datum, with shape (T + 1, B).
        step_sizes: The step sizes of the transitions at :math:`\beta_1, \dots, \beta_{T-1}`, with shape (T - 1, B).
        num_passes: The passes per datum that were spent on finding them.
    """

    betas: Tensor
    step_sizes: Tensor
    num_passes: int = 0

    @property
    def cost(self) -> int:
        """The passes of one chain: forward 1, backward 2."""
        return 3 * (1 + NUM_LEAPFROG * len(self.step_sizes))


def sigmoid_schedule(num_steps: int, batch_size: int = 1, step_size: float = FIRST_STEP) -> Schedule:
    r"""Returns :math:`\beta_t = (\sigma(\delta (2t/T - 1)) - \sigma(-\delta)) / (\sigma(\delta) - \sigma(-\delta))`.

    References:
        Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse, Ghahramani and Adams, 2015).

    Arguments:
        num_steps: The number T of steps.
        batch_size: The number B of data.
        step_size: The step size of all transitions.
    """
    s = torch.sigmoid(torch.linspace(-SHARPNESS, SHARPNESS, num_steps + 1, dtype=torch.float64))
    betas = ((s - s[0]) / (s[-1] - s[0])).float().unsqueeze(-1).repeat(1, batch_size)
    return Schedule(betas, torch.full((num_steps - 1, batch_size), step_size))


@torch.no_grad()
def tune(
    path: Path, num_steps: int, *, spacing: str = "adaptive", seed: int = 0, key: tuple[int | str, ...] = ()
) -> Schedule:
    r"""Finds step sizes on pilot chains, and a schedule of constant conditional effective sample size.

    The conditional ESS of a small step is :math:`1 / (1 + (\Delta\beta)^2 \mathrm{Var}_\beta[\log p - \log q])`: so
    steps are laid out at equal parts of :math:`\int \mathrm{sd}_\beta \, d\beta`, for each datum.

    References:
        Toward Automatic Model Comparison: An Adaptive Sequential Monte Carlo Approach (Zhou, Johansen and Aston, 2016).

    Arguments:
        path: The path.
        num_steps: The number T of steps.
        spacing: "adaptive", or "sigmoid" for the same schedule for all data.
        seed: The seed of the pilot chains.
        key: For which data.
    """
    batch_size = len(path.block)
    pilot = sigmoid_schedule(PILOT_STEPS, batch_size)
    pilot = Schedule(pilot.betas.to(path.block.x.device), pilot.step_sizes.to(path.block.x.device))
    for turn in range(PILOT_ROUNDS):
        with keyed_rng(seed, "pilot", *key, turn, device=path.block.x.device):
            z = path.q.sample(torch.Size((PILOT_CHAINS,)))
        run = annealed_log_weights(path, z, pilot, seed=seed, key=("pilot", *key, turn))
        # acceptance 0.75 is log eps + 0
        step_sizes = pilot.step_sizes * torch.exp(2 * (run.acceptance - ACCEPTANCE))
        pilot = Schedule(pilot.betas, step_sizes)
    betas = _equal_parts(pilot.betas, run.spread, num_steps)
    if spacing == "sigmoid":
        betas = sigmoid_schedule(num_steps, batch_size).betas.to(betas)
    sizes = _interpolated(betas[1:-1], pilot.betas[1:-1], pilot.step_sizes)
    return Schedule(betas, sizes, PILOT_ROUNDS * PILOT_CHAINS * pilot.cost)


@dataclasses.dataclass(frozen=True)
class Run:
    """What chains leave behind.

    Arguments:
        log_weights: The log-weights, in nats, with shape (C, B), in float64.
        acceptance: The mean acceptance of each transition, with shape (T - 1, B).
        spread: The standard deviation of log p - log q over the chains before each step, in nats, with shape (T, B).
        z: The last latents, with shape (C, B) + their event shape.
    """

    log_weights: Tensor
    acceptance: Tensor
    spread: Tensor
    z: Tensor


@torch.no_grad()
def annealed_log_weights(
    path: Path,
    z: Tensor,
    schedule: Schedule,
    *,
    reverse: bool = False,
    seed: int = 0,
    key: tuple[int | str, ...] = (),
) -> Run:
    r"""Runs chains along the path.

    References:
        Annealed Importance Sampling (Neal, 2001).

    Arguments:
        path: The path.
        z: The first latents, draws from q, or in reverse exact posterior samples, with shape (C, B) + the event shape.
        schedule: Inverse temperatures and step sizes.
        reverse: Whether to run from :math:`\beta = 1` down to 0.
        seed: The seed of the transitions.
        key: For which data.

    Returns:
        The log-weights, in both directions the sum that is given above, and diagnoses of the chains.
    """
    num_steps = len(schedule.betas) - 1
    with keyed_rng(seed, "start", *key, int(reverse), device=z.device):
        state = path.at(z)
    log_w = torch.zeros_like(state.log_p, dtype=torch.float64)
    acceptance, spread = [], []
    for t in range(num_steps, 0, -1) if reverse else range(1, num_steps + 1):
        height = _height(state)
        spread.append(height.std(0))
        # (beta_t - beta_{t-1}) (log p - log q)
        log_w += (schedule.betas[t] - schedule.betas[t - 1]).double() * height
        between = t - 1 if reverse else t
        if 0 < between < num_steps:
            with keyed_rng(seed, "annealed", *key, int(reverse), between, device=z.device):
                state, probability = transition(
                    path, state, schedule.betas[between], schedule.step_sizes[between - 1], NUM_LEAPFROG
                )
            acceptance.append(probability.mean(0))
    order = -1 if reverse else 1
    rates = torch.stack(acceptance[::order]) if acceptance else schedule.step_sizes.new_empty(0, len(path.block))
    return Run(log_w, rates, torch.stack(spread[::order]), state.z)


@torch.no_grad()
def annealed(
    block: Block, fit: Fit, *, num_chains: int = 32, num_temperatures: int = 50, spacing: str = "adaptive"
) -> Evidence:
    """Estimates log p(x) per datum by annealed importance sampling.

    Arguments:
        block: The data, under a model with real latents.
        fit: Where the chains start: a fitted proposal, the encoder or the prior.
        num_chains: The number C of chains per datum.
        num_temperatures: The number T of steps from there to the posterior.
        spacing: How inverse temperatures are laid out: "adaptive" or "sigmoid".

    Returns:
        Estimate, standard error and diagnosis per datum; ELBO, rate and distortion are NaN. With fewer than 100 chains
        k-hat is given as 0.5 at least, because so few cannot show that an interval is reliable.

    Raises:
        LogpxError: If the latents are not real, or log p(x | z) is itself random.
    """
    path, key = path_from(block, fit.q), (block.number, "forward")
    schedule = tune(path, num_temperatures, spacing=spacing, seed=block.seed, key=key)
    with keyed_rng(block.seed, "chains", *key, device=block.x.device):
        z = fit.q.sample(torch.Size((num_chains,)))
    run = annealed_log_weights(path, z, schedule, seed=block.seed, key=key)
    weights = LogMeanAccumulator.empty(len(block), block.x.device).update(run.log_weights)
    unknown = torch.full((len(block),), math.nan, dtype=torch.float64, device=block.x.device)
    passes = fit.num_passes + schedule.num_passes + num_chains * schedule.cost
    result = Evidence.of(weights, unknown, unknown, unknown.new_empty(len(block), 0), "annealed", passes)
    # a tail of few chains cannot show that an interval is reliable
    k = result.pareto_k if num_chains >= MANY_CHAINS else result.pareto_k.clamp(min=LEAST_K)
    return dataclasses.replace(result, elbo=unknown, pareto_k=torch.where(result.pareto_k == -math.inf, -math.inf, k))


def path_from(block: Block, q: Distribution) -> Path:
    """Returns the path from a proposal to the posterior, in the coordinates of the proposal.

    Arguments:
        block: The data under a model.
        q: Where chains start, with batch shape (B,).

    Raises:
        LogpxError: If the latents are not real, or log p(x | z) is itself random.
    """
    require_real_latents(block.encoder())
    with keyed_rng(block.seed, "path", block.number, device=block.x.device):
        z = q.sample(torch.Size((1,)))
    if is_random(block, z):
        raise LogpxError(
            "Annealing needs a log p(x | z) that is the same each time, but this one is random, as under "
            "dequantization: use estimator importance."
        )
    return Path(block, q, precision_of(q, block))


def _height(state: State) -> Tensor:
    return state.log_p.double() - state.log_q.double()


def _equal_parts(betas: Tensor, spread: Tensor, num_steps: int) -> Tensor:
    """Returns inverse temperatures at equal parts of the integral of the spread over beta, with shape (T + 1, B)."""
    # the spread is smoothed from below, so that no step is longer than three times the mean one
    spread = torch.maximum(spread, spread.mean(0) / 3).clamp(min=1e-12)
    length = torch.cumsum(spread * betas.diff(dim=0), 0)
    length = torch.cat([torch.zeros_like(length[:1]), length]) / length[-1]
    wanted = torch.linspace(0, 1, num_steps + 1, dtype=length.dtype, device=length.device).unsqueeze(-1)
    return _interpolated(wanted.expand(-1, length.shape[1]), length, betas.to(length)).float()


def _interpolated(at: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """Returns values that are linear between places, column by column, and constant beyond the first and the last."""
    right = torch.searchsorted(places.T.contiguous(), at.T.contiguous()).T.clamp(1, len(places) - 1)
    x0, x1 = places.gather(0, right - 1), places.gather(0, right)
    y0, y1 = values.gather(0, right - 1), values.gather(0, right)
    share = ((at - x0) / (x1 - x0).clamp(min=1e-12)).clamp(0, 1)
    return y0 + share * (y1 - y0)
