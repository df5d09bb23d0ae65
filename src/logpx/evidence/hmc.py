r"""Hamiltonian transitions on the path between a proposal and log p(x, z), for many chains at once.

For :math:`\log f_\beta(z) = (1 - \beta) \log q(z) + \beta \log p(x, z)` and a momentum
:math:`v \sim \mathcal{N}(0, I)` in coordinates in which the precision :math:`\Lambda` is I, with
:math:`\Lambda^{-1} = C C^\top`, leapfrog steps

.. math:: v \leftarrow v + \tfrac{\epsilon}{2} C^\top \nabla \log f_\beta(z), \quad
          z \leftarrow z + \epsilon\, C v, \quad
          v \leftarrow v + \tfrac{\epsilon}{2} C^\top \nabla \log f_\beta(z)

and a Metropolis test leave :math:`f_\beta` invariant.
"""

from __future__ import annotations

__all__ = ["Path", "State", "transition"]

import dataclasses

import torch
from torch import Tensor
from torch.distributions import Distribution

from .block import Block
from .precision import Precision
from .tally import rows_at_once


@dataclasses.dataclass(frozen=True)
class State:
    """Chains at rest, with what is known of both ends of the path there.

    Arguments:
        z: The latents, with shape (C, B) + the event shape.
        log_q: log q(z) of the initial distribution, in nats, with shape (C, B).
        log_p: log p(x, z), in nats, with shape (C, B).
        grad_q: The gradient of log q, with the shape of z.
        grad_p: The gradient of log p, with the shape of z.
    """

    z: Tensor
    log_q: Tensor
    log_p: Tensor
    grad_q: Tensor
    grad_p: Tensor

    def log_f(self, beta: Tensor) -> Tensor:
        """Returns log f at inverse temperatures beta, of shape (B,), in nats, with shape (C, B)."""
        return (1 - beta) * self.log_q + beta * self.log_p

    def grad_f(self, beta: Tensor) -> Tensor:
        """Returns its gradient, flattened to (C, B, L)."""
        share = beta.unsqueeze(-1)
        return (1 - share) * self.grad_q.flatten(2) + share * self.grad_p.flatten(2)

    def where(self, chosen: Tensor, other: State) -> State:
        """Returns this state where a mask of shape (C, B) holds, and the other elsewhere."""
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(State)]
        return State(*(torch.where(chosen.reshape(chosen.shape + (1,) * (a.dim() - 2)), a, b) for a, b in pairs))


@dataclasses.dataclass(frozen=True)
class Path:
    """The two ends of the path for one block of data, and the coordinates in which chains move.

    Arguments:
        block: The data, under a model with real latents.
        q: The initial distribution, with batch shape (B,) and a differentiable density.
        precision: The precision that shapes the steps.
    """

    block: Block
    q: Distribution
    precision: Precision

    def at(self, z: Tensor) -> State:
        """Returns the state of chains at z: one pass forward and one backward per chain."""
        # a gradient keeps about twice as much alive as a value
        rows = max(1, rows_at_once(self.block, z[:1]) // 2)
        parts = [self._at(part) for part in z.split(rows)]
        columns = zip(*([getattr(p, f.name) for f in dataclasses.fields(State)] for p in parts), strict=True)
        return State(*(torch.cat(column) for column in columns))

    def _at(self, z: Tensor) -> State:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_q = self.q.log_prob(z)
            log_p = self.block.log_joint(z)
            (grad_q,) = torch.autograd.grad(log_q.sum(), z)
            (grad_p,) = torch.autograd.grad(log_p.sum(), z)
        return State(z.detach(), log_q.detach().to(z.dtype), log_p.detach(), grad_q, grad_p)


def transition(path: Path, state: State, beta: Tensor, step_size: Tensor, num_leapfrog: int) -> tuple[State, Tensor]:
    r"""Moves every chain once; costs `num_leapfrog` gradients.

    References:
        MCMC using Hamiltonian dynamics (Neal, 2011).

    Arguments:
        path: The path.
        state: Where the chains are.
        beta: The inverse temperatures :math:`\beta`, with shape (B,).
        step_size: The step sizes :math:`\epsilon`, with shape (B,).
        num_leapfrog: The number of leapfrog steps.

    Returns:
        Where the chains are next, and the probabilities with which they were to move, with shape (C, B).
    """
    eps = step_size.unsqueeze(-1)
    start, now = torch.randn_like(state.z.flatten(2)), state
    v = start + 0.5 * eps * path.precision.pull(now.grad_f(beta))
    for i in range(num_leapfrog):
        now = path.at(now.z + (eps * path.precision.colour(v)).reshape(now.z.shape))
        v = v + (eps if i + 1 < num_leapfrog else 0.5 * eps) * path.precision.pull(now.grad_f(beta))
    # log f(z') - log f(z) - (|v'|^2 - |v|^2) / 2; a point of density zero is never accepted
    log_ratio = now.log_f(beta) - state.log_f(beta) - 0.5 * (v.square().sum(-1) - start.square().sum(-1))
    log_ratio = torch.nan_to_num(log_ratio, nan=-torch.inf, posinf=0.0).clamp(max=0.0)
    accepted = torch.rand_like(log_ratio).log() < log_ratio
    return now.where(accepted, state), log_ratio.exp()
