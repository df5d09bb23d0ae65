r"""Objectives: lower bounds of log p(x) per datum, and their gradient estimators.

.. math:: \mathrm{ELBO} = \mathbb{E}_q[\log p(x | z)] - \mathrm{KL}(q(z | x) \| p(z)), \qquad
          L_K = \mathbb{E}_q \log \frac{1}{K} \sum_{k=1}^K w_k, \qquad \mathrm{ELBO} = L_1 \le L_K \le \log p(x).

Each function returns shape (B,), in nats, larger is better; a training step ascends its mean.
"""

from __future__ import annotations

__all__ = ["Objective", "elbo", "iwae"]

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from .model import LatentVariableModel, Proposal, Terms, call, log_likelihood, log_weights, propose, weigh
from .utils import log_mean_exp

Objective: TypeAlias = Callable[..., Tensor]


def elbo(
    model: LatentVariableModel,
    x: Tensor,
    *,
    num_samples: int = 1,
    beta: float = 1.0,
    free_bits: float = 0.0,
    gradient: Literal["reparam", "stl"] = "reparam",
    kl: Literal["auto", "sampled"] = "auto",
    proposal: Proposal | None = None,
    context: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Returns the evidence lower bound :math:`\mathbb{E}_q[\log p(x | z)] - \beta\, \mathrm{KL}(q \| p)`.

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014).
        beta-VAE (Higgins et al., 2017).
        Improved Variational Inference with Inverse Autoregressive Flow (Kingma et al., 2016), for free bits.
        Sticking the Landing (Roeder, Wu and Duvenaud, 2017).

    Arguments:
        model: The model.
        x: The data, with shape (B,) + the event shape.
        num_samples: The number S of draws that the expectation is averaged over.
        beta: The weight of the KL term; only 1 gives a bound.
        free_bits: The floor of each latent's KL term per datum, in nats; 0 turns it off. Needs an analytic KL between
            independent latents.
        gradient: "reparam", or "stl" for the path derivative alone, whose variance vanishes at the exact posterior.
        kl: "auto" is analytic where torch knows it, and sampled otherwise and for "stl".
        proposal: A callable x -> q; by default the encoder.
        context: Labels or covariates, with shape (B, *).
        mask: True where x is observed, with the shape of x.

    Returns:
        The bound, in nats, with shape (B,).

    Raises:
        ValueError: If an option is unknown, or cannot be had for this model.
    """
    _check_choice("gradient", gradient, ("reparam", "stl"))
    _check_choice("kl", kl, ("auto", "sampled"))
    if _has_own_weights(model, proposal):
        if beta != 1 or free_bits or gradient != "reparam":
            raise ValueError("A model with its own log_weights has no separate KL: use beta 1, no free bits, reparam.")
        return log_weights(model, x, num_samples, None, context, mask).mean(0)
    q = _differentiable(propose(model, x, proposal, context))
    z = q.rsample((num_samples,)) if q.has_rsample else q.sample((num_samples,))
    p = call(model.prior, context=context)
    each = _analytic_kl(q, p) if kl == "auto" and gradient == "reparam" else None
    if free_bits and (each is None or each.dim() < 2):
        raise ValueError("free_bits needs an analytic KL between independent latents: set free_bits 0 for this model.")
    if each is None:
        terms = _weigh(model, x, z, q, context, mask, path=gradient == "stl")
        return (terms.log_likelihood + beta * (terms.log_prior - terms.log_proposal)).mean(0)
    floored = each.clamp(min=free_bits) if free_bits else each
    divergence = floored.flatten(1).sum(1) if floored.dim() > 1 else floored
    expected = log_likelihood(model, x, z, context, mask).mean(0)
    return expected - beta * divergence


def iwae(
    model: LatentVariableModel,
    x: Tensor,
    *,
    num_samples: int = 5,
    beta: float = 1.0,
    gradient: Literal["reparam", "dreg", "stl"] = "reparam",
    proposal: Proposal | None = None,
    context: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Returns the importance-weighted bound :math:`L_K = \log \frac{1}{K} \sum_k w_k`, one draw of it per datum.

    References:
        Importance Weighted Autoencoders (Burda, Grosse and Salakhutdinov, 2016).
        Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives (Tucker et al., 2018).

    Arguments:
        model: The model.
        x: The data, with shape (B,) + the event shape.
        num_samples: The number K of draws.
        beta: The weight of log p(z) - log q(z) within the log-weights, for warm-up; only 1 gives a bound.
        gradient: "reparam", or "dreg" for the doubly reparameterized gradient of the proposal. "stl" is biased for
            more than one draw (Tucker et al., 2018) and refused.
        proposal: A callable x -> q; by default the encoder.
        context: Labels or covariates, with shape (B, *).
        mask: True where x is observed, with the shape of x.

    Returns:
        The bound, in nats, with shape (B,).

    Raises:
        ValueError: If an option is unknown or refused, or cannot be had for this model.
    """
    if gradient == "stl":
        raise ValueError("gradient 'stl' is biased for iwae (Tucker et al., 2018): use 'dreg' or 'reparam'.")
    _check_choice("gradient", gradient, ("reparam", "dreg"))
    if _has_own_weights(model, proposal):
        if beta != 1 or gradient != "reparam":
            raise ValueError("A model with its own log_weights has no separate q: use beta 1 and gradient 'reparam'.")
        return log_mean_exp(log_weights(model, x, num_samples, None, context, mask))
    q = _differentiable(propose(model, x, proposal, context))
    z = q.rsample((num_samples,)) if q.has_rsample else q.sample((num_samples,))
    terms = _weigh(model, x, z, q, context, mask, path=gradient == "dreg")
    log_w = terms.log_likelihood + beta * (terms.log_prior - terms.log_proposal)
    return _doubly_reparameterized(log_w, z) if gradient == "dreg" else log_mean_exp(log_w)


def _doubly_reparameterized(log_w: Tensor, z: Tensor) -> Tensor:
    """Gives L_K the gradient sum_k w~_k d log w_k for the model and sum_k w~_k^2 (d log w_k / dz)(dz / dphi) for q."""
    normalized = torch.softmax(log_w.detach(), dim=0)
    if z.requires_grad:
        weight = normalized.reshape(normalized.shape + (1,) * (z.dim() - 2))
        z.register_hook(lambda grad: weight * grad)
    surrogate = (normalized * log_w).sum(0)
    return surrogate + (log_mean_exp(log_w) - surrogate).detach()


def _weigh(
    model: LatentVariableModel,
    x: Tensor,
    z: Tensor,
    q: Distribution,
    context: Tensor | None,
    mask: Tensor | None,
    path: bool,
) -> Terms:
    """Returns the terms; with `path`, log q has its derivative through z alone, not through its parameters."""
    terms = weigh(model, x, z, q, context, mask)
    if not path:
        return terms
    # log q(z) less (score term - its value) keeps the value and drops the derivative in the parameters
    score = q.log_prob(z.detach())
    return terms._replace(log_proposal=terms.log_proposal - (score - score.detach()))


def _analytic_kl(q: Distribution, p: Distribution) -> Tensor | None:
    """Returns KL(q || p), per latent (B, L) where both are independent, else (B,); None where torch knows none."""
    if (
        isinstance(q, Independent)
        and isinstance(p, Independent)
        and q.reinterpreted_batch_ndims == p.reinterpreted_batch_ndims
    ):
        q, p = q.base_dist, p.base_dist
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None


def _differentiable(q: Distribution) -> Distribution:
    if torch.is_grad_enabled() and not q.has_rsample:
        raise ValueError(
            f"The gradient needs a proposal with rsample, but {type(q).__name__} has none: evaluate under "
            "torch.no_grad(), or use a reparameterized proposal."
        )
    return q


def _has_own_weights(model: LatentVariableModel, proposal: Proposal | None) -> bool:
    return proposal is None and getattr(model, "log_weights", None) is not None


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be {' or '.join(choices)}, but is {value!r}: choose one.")
