"""Proposals: callables x -> q with batch shape (B,), from which importance sampling draws the latents."""

from __future__ import annotations

__all__ = ["ESTIMATORS", "encoder_proposal", "prior_proposal"]

from collections.abc import Callable

from torch import Tensor
from torch.distributions import Distribution

from ..model import LatentVariableModel, Proposal, call


def encoder_proposal(model: LatentVariableModel, context: Tensor | None = None) -> Proposal:
    """Returns the model's encoder as importance distribution, z ~ q(z | x).

    Arguments:
        model: The model.
        context: Labels or covariates, with shape (B, *).
    """
    return lambda x: call(model.encoder, x, context=context)


def prior_proposal(model: LatentVariableModel, context: Tensor | None = None) -> Proposal:
    """Returns the model's prior as importance distribution, z ~ p(z): plain Monte Carlo, for comparison.

    Arguments:
        model: The model.
        context: Labels or covariates, with shape (B, *).
    """

    def propose(x: Tensor) -> Distribution:
        p: Distribution = call(model.prior, context=context)
        return p if len(p.batch_shape) == 1 else p.expand((len(x),))

    return propose


# estimator -> (proposal's name, proposal); None lets a model with log_weights of its own use them
ESTIMATORS: dict[str, tuple[str, Callable[..., Proposal] | None]] = {
    "importance": ("encoder", None),
    "prior": ("prior", prior_proposal),
}
