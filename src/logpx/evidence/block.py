"""A block of data under a model, and what every way of weighing it needs to know."""

from __future__ import annotations

__all__ = ["Block"]

import dataclasses

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..model import LatentVariableModel, Terms, call, log_densities, log_joint, log_likelihood, propose, weigh
from ..utils import MEMORY_BUDGET, keyed_rng


@dataclasses.dataclass(frozen=True)
class Block:
    """Data under a model; all random numbers for them are keyed by the seed and the block's number.

    Arguments:
        model: The model, in evaluation mode.
        x: The data, with shape (B,) + the event shape.
        context: Labels or covariates, with shape (B, *).
        mask: True where x is observed, with the shape of x.
        seed: The seed of all draws.
        number: Which block of the data set this is; other blocks get other draws.
        memory_budget: The memory for the decoder's outputs, in bytes, as a rough guide; it changes no result.
    """

    model: LatentVariableModel
    x: Tensor
    context: Tensor | None = None
    mask: Tensor | None = None
    seed: int = 0
    number: int = 0
    memory_budget: int = MEMORY_BUDGET

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Tensor) -> Block:
        """Returns some of the data, with the same seed and number."""
        context = None if self.context is None else self.context[rows]
        mask = None if self.mask is None else self.mask[rows]
        return dataclasses.replace(self, x=self.x[rows], context=context, mask=mask)

    def prior(self) -> Distribution:
        """Returns p(z), with batch shape () or (B,)."""
        p: Distribution = call(self.model.prior, context=self.context)
        return p

    def encoder(self) -> Distribution:
        """Returns q(z | x), with batch shape (B,); an encoder that draws at random always draws the same."""
        with keyed_rng(self.seed, "encoder", self.number, device=self.x.device):
            return propose(self.model, self.x, None, self.context)

    def decoder(self, z: Tensor) -> Distribution:
        """Returns p(x | z), with batch shape (S, B)."""
        p: Distribution = call(self.model.decoder, z, context=self.context)
        return p

    def log_joint(self, z: Tensor) -> Tensor:
        """Returns log p(x, z), in nats, with shape (S, B)."""
        return log_joint(self.model, self.x, z, self.context, self.mask)

    def gradient(self, z: Tensor) -> Tensor:
        r"""Returns :math:`\nabla_z \log p(x, z)`, with the shape of z: one pass forward and one backward."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.log_joint(z).sum(), z)
        return gradient

    def log_likelihood(self, z: Tensor) -> Tensor:
        """Returns log p(x | z), in nats, with shape (S, B)."""
        return log_likelihood(self.model, self.x, z, self.context, self.mask)

    def log_densities(self, z: Tensor, q: Distribution) -> tuple[Tensor, Tensor]:
        """Returns log p(z) and log q(z) of draws from q, in nats, each with shape (S, B)."""
        return log_densities(self.model, z, q, self.context)

    def weigh(self, z: Tensor, q: Distribution) -> Terms:
        """Returns the terms of the log-weights of draws from q."""
        return weigh(self.model, self.x, z, q, self.context, self.mask)
