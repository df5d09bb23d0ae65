r"""The protocol of a latent-variable model, and the one seam through which everything weighs it.

A model is three methods, each of which returns a `torch.distributions.Distribution`: the prior p(z), the encoder
q(z | x) and the decoder p(x | z). Draws z from a proposal q carry the log-weights

.. math:: \ell(z) = \log p(x \mid z) + \log p(z) - \log q(z \mid x), \qquad \mathbb{E}_q[e^{\ell}] = p(x).

Their mean is the ELBO, their log-mean-exp the IWAE bound and, in the limit, log p(x).
"""

from __future__ import annotations

__all__ = [
    "LatentVariableModel",
    "Proposal",
    "Terms",
    "as_model",
    "call",
    "evaluating",
    "log_densities",
    "log_joint",
    "log_likelihood",
    "log_weight_terms",
    "log_weights",
    "observed_log_prob",
    "propose",
    "weigh",
]

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import Parameter
from typing import Any, NamedTuple, Protocol, TypeAlias, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from .distributions import IndependentBernoulli

Proposal: TypeAlias = Callable[[Tensor], Distribution]


@runtime_checkable
class LatentVariableModel(Protocol):
    """Anybody's object with these three methods; `context` may be left out of one's own when it is not used."""

    def prior(self, context: Tensor | None = None) -> Distribution:
        """Returns p(z) with batch shape () or (B,)."""

    def encoder(self, x: Tensor, context: Tensor | None = None) -> Distribution:
        """Returns q(z | x) with batch shape (B,)."""

    def decoder(self, z: Tensor, context: Tensor | None = None) -> Distribution:
        """Returns p(x | z) with batch shape (S, B), from z of shape (S, B) + the event shape of z."""


def as_model(candidate: object) -> LatentVariableModel:
    """Returns the object as a model, after checking that it has the three methods.

    Arguments:
        candidate: Anything.

    Raises:
        TypeError: If one of prior, encoder and decoder is missing.
    """
    missing = [name for name in ("prior", "encoder", "decoder") if not callable(getattr(candidate, name, None))]
    if missing:
        raise TypeError(
            f"A model needs the methods prior, encoder and decoder, but {type(candidate).__name__} lacks "
            f"{' and '.join(missing)}: each returns a torch.distributions.Distribution."
        )
    return cast(LatentVariableModel, candidate)


@contextmanager
def evaluating(model: LatentVariableModel) -> Iterator[None]:
    """Within the block nothing is differentiated and the model's modules are in evaluation mode; then as before.

    Arguments:
        model: The model: a module, or an object that holds modules.
    """
    roots = [model] if isinstance(model, nn.Module) else list(getattr(model, "__dict__", {}).values())
    before = [(m, m.training) for root in roots if isinstance(root, nn.Module) for m in root.modules()]
    try:
        for module, _ in before:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, training in before:
            module.training = training


class Terms(NamedTuple):
    """Draws from a proposal and the three terms of their log-weights, each in nats with shape (S, B)."""

    z: Tensor
    log_likelihood: Tensor
    log_prior: Tensor
    log_proposal: Tensor

    @property
    def log_weights(self) -> Tensor:
        r"""The log-weights :math:`\log p(x | z) + \log p(z) - \log q(z)`, in nats, with shape (S, B)."""
        return self.log_likelihood + self.log_prior - self.log_proposal


def log_weights(
    model: LatentVariableModel,
    x: Tensor,
    num_samples: int,
    proposal: Proposal | None = None,
    context: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Draws z from a proposal and returns :math:`\log p(x | z) + \log p(z) - \log q(z)`.

    A model that shares work between p and q brings its own `log_weights(x, num_samples, context, mask)`, which is
    used when no proposal is given.

    Arguments:
        model: The model.
        x: The data, with shape (B,) + the event shape.
        num_samples: The number S of draws per datum.
        proposal: A callable x -> q with batch shape (B,); by default the encoder.
        context: Labels or covariates, with shape (B, *).
        mask: True where x is observed, with the shape of x.

    Returns:
        The log-weights, in nats, with shape (S, B).

    Raises:
        ValueError: If a term does not have shape (S, B).
    """
    own = getattr(model, "log_weights", None)
    if proposal is None and own is not None:
        return _checked("log_weights", own(x, num_samples, context, mask), (num_samples, len(x)))
    return log_weight_terms(model, x, num_samples, proposal, context, mask).log_weights


def log_weight_terms(
    model: LatentVariableModel,
    x: Tensor,
    num_samples: int,
    proposal: Proposal | None = None,
    context: Tensor | None = None,
    mask: Tensor | None = None,
) -> Terms:
    """Draws z from a proposal and returns it with the terms of its log-weights; see :func:`log_weights`.

    Where the proposal has `rsample`, gradients flow through the draws.

    Arguments:
        model: The model.
        x: The data, with shape (B,) + the event shape.
        num_samples: The number S of draws per datum.
        proposal: A callable x -> q with batch shape (B,); by default the encoder.
        context: Labels or covariates, with shape (B, *).
        mask: True where x is observed, with the shape of x.

    Raises:
        ValueError: If a term does not have shape (S, B).
    """
    q = propose(model, x, proposal, context)
    z = q.rsample((num_samples,)) if q.has_rsample else q.sample((num_samples,))
    return weigh(model, x, z, q, context, mask)


def propose(
    model: LatentVariableModel, x: Tensor, proposal: Proposal | None = None, context: Tensor | None = None
) -> Distribution:
    """Returns q, by default the encoder's, with batch shape (B,).

    Arguments:
        model: The model.
        x: The data, with shape (B,) + the event shape.
        proposal: A callable x -> q; by default the encoder.
        context: Labels or covariates, with shape (B, *).

    Raises:
        ValueError: If the batch shape is not (B,).
    """
    q: Distribution = proposal(x) if proposal is not None else call(model.encoder, x, context=context)
    if tuple(q.batch_shape) != (len(x),):
        raise ValueError(
            f"The proposal must have batch shape ({len(x)},), but has {tuple(q.batch_shape)} and event shape "
            f"{tuple(q.event_shape)}: wrap it in torch.distributions.Independent so that z is one event per datum."
        )
    return q


def weigh(
    model: LatentVariableModel,
    x: Tensor,
    z: Tensor,
    q: Distribution,
    context: Tensor | None = None,
    mask: Tensor | None = None,
) -> Terms:
    """Returns the terms of the log-weights of draws from q.

    Arguments:
        model: The model.
        x: The data, with shape (B,) + the event shape.
        z: The draws, with shape (S, B) + their event shape.
        q: The distribution that they were drawn from, with batch shape (B,).
        context: Labels or covariates, with shape (B, *).
        mask: True where x is observed, with the shape of x.

    Raises:
        ValueError: If a term does not have shape (S, B).
    """
    return Terms(z, log_likelihood(model, x, z, context, mask), *log_densities(model, z, q, context))


def log_densities(
    model: LatentVariableModel, z: Tensor, q: Distribution, context: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Returns :math:`\log p(z)` and :math:`\log q(z)` of draws from q, in nats, each with shape (S, B).

    Arguments:
        model: The model.
        z: The draws, with shape (S, B) + their event shape.
        q: The distribution that they were drawn from, with batch shape (B,).
        context: Labels or covariates, with shape (B, *).

    Raises:
        ValueError: If a term has another shape.
    """
    shape = (len(z), q.batch_shape[0])
    log_prior = call(model.prior, context=context).log_prob(z)
    return _checked("log p(z)", log_prior, shape), _checked("log q(z)", q.log_prob(z), shape)


def log_joint(
    model: LatentVariableModel,
    x: Tensor,
    z: Tensor,
    context: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Returns :math:`\log p(x, z) = \log p(x | z) + \log p(z)`, in nats, with shape (S, B).

    Arguments:
        model: The model.
        x: The data, with shape (B,) + the event shape.
        z: The latents, with shape (S, B) + their event shape.
        context: Labels or covariates, with shape (B, *).
        mask: True where x is observed, with the shape of x.

    Raises:
        ValueError: If a term does not have shape (S, B).
    """
    log_prior = call(model.prior, context=context).log_prob(z)
    return log_likelihood(model, x, z, context, mask) + _checked("log p(z)", log_prior, (len(z), len(x)))


def log_likelihood(
    model: LatentVariableModel,
    x: Tensor,
    z: Tensor,
    context: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Returns :math:`\log p(x | z)` of the observed dimensions, in nats, with shape (S, B).

    Arguments:
        model: The model.
        x: The data, with shape (B,) + the event shape.
        z: The latents, with shape (S, B) + their event shape.
        context: Labels or covariates, with shape (B, *).
        mask: True where x is observed, with the shape of x.

    Raises:
        ValueError: If the shape is another, or values are missing and the decoder's dimensions are not independent.
    """
    p = call(model.decoder, z, context=context)
    return _checked("log p(x|z)", observed_log_prob(p, x, mask), (len(z), len(x)))


def observed_log_prob(p: Distribution, x: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Returns :math:`\log p(x | z)` of the observed dimensions under what a decoder gave, in nats.

    Arguments:
        p: The decoder's distribution.
        x: The data, with shape (B,) + the event shape.
        mask: True where x is observed, with the shape of x.

    Raises:
        ValueError: If values are missing and the decoder's dimensions are not independent.
    """
    return p.log_prob(x) if mask is None else _masked_log_prob(p, x, mask)


def call(method: Callable[..., Any], *args: Any, context: Tensor | None = None) -> Any:
    """Calls a model's method, with the context when there is one and the method takes it.

    Arguments:
        method: The method, or a module in its place.
        args: Its arguments.
        context: Labels or covariates, with shape (B, *).
    """
    if context is None:
        return method(*args)
    target = method.forward if isinstance(method, nn.Module) else method
    parameters = inspect.signature(target).parameters
    if "context" in parameters or any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values()):
        return method(*args, context=context)
    # modules of zuko call it c
    return method(*args, context) if "c" in parameters else method(*args)


def _masked_log_prob(p: Distribution, x: Tensor, mask: Tensor) -> Tensor:
    if not isinstance(p, Independent):
        raise ValueError(
            f"A mask needs a decoder whose dimensions are independent given z, but it returned {type(p).__name__}: "
            "return torch.distributions.Independent, or leave the mask out."
        )
    x = torch.where(mask, x, torch.zeros_like(x))
    if isinstance(p, IndependentBernoulli):
        p.check(x)
    each = torch.where(mask, p.base_dist.log_prob(x), 0.0)
    return each.flatten(-p.reinterpreted_batch_ndims).sum(-1)


def _checked(name: str, term: Tensor, shape: tuple[int, int]) -> Tensor:
    """Refuses a term of any other shape, because broadcasting would hide the mistake."""
    if tuple(term.shape) != shape:
        raise ValueError(
            f"{name} must have shape (S, B) = {shape}, but has {tuple(term.shape)}: sum over the dimensions of one "
            "datum, for instance by wrapping the distribution in torch.distributions.Independent."
        )
    return term
