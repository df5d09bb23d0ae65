r"""Annealed importance sampling of log p(x), forward and reverse, with Hamiltonian transitions.

Between an initial distribution :math:`f_0 = q_0(z)` and :math:`f_1 = p(x, z)` lie the densities

.. math:: \log f_\beta(z) = (1 - \beta) \log q_0(z) + \beta \log p(x, z), \qquad 0 = \beta_0 < \dots < \beta_T = 1.

A chain starts at :math:`z_0 \sim q_0`; step t adds :math:`\log f_{\beta_t}(z) - \log f_{\beta_{t-1}}(z)` to its log-weight
and then moves z by a transition that leaves :math:`f_{\beta_t}` invariant. The weight is unbiased for p(x). Started at an exact
posterior sample and run backwards, its reciprocal is unbiased for 1 / p(x), so that minus the mean log-weight is a stochastic
upper bound.
"""

from __future__ import annotations

__all__ = ["Schedule", "annealed", "sigmoid_schedule", "tune"]

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..model import LatentVariableModel, log_joint
from ..utils import keyed_rng

Potential = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class Schedule:
    r"""What is fixed before the chains run: inverse temperatures and step sizes.

    Arguments:
        betas: The inverse temperatures, rising from 0 to 1, with shape (T + 1,).
        step_sizes: The step sizes of the transitions at betas[1:], with shape (T, B).
        num_leapfrog: The number of leapfrog steps of a transition.
    """

    betas: Tensor
    step_sizes: Tensor
    num_leapfrog: int


def sigmoid_schedule(num_steps: int, sharpness: float = 4.0) -> Tensor:
    r"""Returns :math:`\beta_t \propto \sigma(\delta (2 t / T - 1))`, shifted and scaled to run from 0 to 1.

    References:
        Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse, Ghahramani and Adams, 2015).
    """
    s = torch.sigmoid(torch.linspace(-sharpness, sharpness, num_steps + 1, dtype=torch.float64))
    return ((s - s[0]) / (s[-1] - s[0])).float()


class Target:
    """The two ends of the path for one batch of data, and preconditioning: z = loc + root u."""

    def __init__(self, model, x, initial: Distribution, context=None, mask=None) -> None:
        self.model, self.x, self.initial, self.context, self.mask = model, x, initial, context, mask

    def ends(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.initial.log_prob(z), log_joint(self.model, self.x, z, self.context, self.mask)

    def with_gradient(self, z: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
        """Returns log f_0, log f_1 with shape (S, B) and the gradient of log f_beta."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            start, end = self.ends(z)
            (gradient,) = torch.autograd.grad(((1 - beta) * start + beta * end).sum(), z)
        return start.detach(), end.detach(), gradient


def annealed(
    target: Target,
    z: Tensor,
    schedule: Schedule,
    *,
    reverse: bool = False,
    seed: int = 0,
    key: tuple[int | str, ...] = (),
    inverse_mass: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs chains along the path; returns log-weights (S, B), the last z, and acceptance rates (T, B)."""
    betas, steps = schedule.betas.tolist(), list(range(1, len(schedule.betas)))
    log_w = torch.zeros(z.shape[:2], dtype=torch.float64)
    accepted = []
    start, end = (each.double() for each in target.ends(z))
    for t in reversed(steps) if reverse else steps:
        before, after = betas[t - 1], betas[t]
        with keyed_rng(seed, "annealed", *key, t, device=z.device):
            if reverse:
                z, start, end, accept = hmc(target, z, betas[t], schedule.step_sizes[t - 1], schedule.num_leapfrog)
            # log f_{beta_t} - log f_{beta_{t-1}} = (beta_t - beta_{t-1}) (log f_1 - log f_0)
            log_w += (after - before) * (end - start).double()
            if not reverse and t < len(betas) - 1 + 1:
                z, start, end, accept = hmc(target, z, betas[t], schedule.step_sizes[t - 1], schedule.num_leapfrog)
        accepted.append(accept.mean(0))
    return log_w, z, torch.stack(accepted)


def hmc(target: Target, z: Tensor, beta: float, step_size: Tensor, num_leapfrog: int):
    """One Hamiltonian transition that leaves f_beta invariant."""
    eps = step_size.unsqueeze(-1)
    start0, end0, gradient = target.with_gradient(z, beta)
    v = torch.randn_like(z)
    y, u = z, v + 0.5 * eps * gradient
    for i in range(num_leapfrog):
        y = y + eps * u
        start, end, gradient = target.with_gradient(y, beta)
        u = u + (eps if i + 1 < num_leapfrog else 0.5 * eps) * gradient
    log_f0, log_f1 = (1 - beta) * start0 + beta * end0, (1 - beta) * start + beta * end
    log_ratio = (log_f1 - log_f0) - 0.5 * (u.square().sum(-1) - v.square().sum(-1))
    accept = torch.rand_like(log_ratio).log() < log_ratio
    keep = accept.unsqueeze(-1)
    return torch.where(keep, y, z), torch.where(accept, start, start0), torch.where(accept, end, end0), accept.float()
