r"""Fisher information of the families that decoders return, as roots that multiply derivatives of parameters.

With F the Fisher information of a distribution's parameters :math:`\theta`, a root W has :math:`W^\top W = F`; then
:math:`W \, \partial\theta` is all that a Gauss-Newton precision needs. It is known in closed form for some families.
For the others scores of draws serve, one dimension (or one pixel) at a time,

.. math:: F_d = \mathbb{E}_{x \sim p}[s_d s_d^\top] \approx \frac{1}{M} \sum_m s_{dm} s_{dm}^\top, \qquad
          s_{dm} = \nabla_{\theta_d} \log p(x_{dm} | \theta_d),

whose chance averages out over the dimensions.
"""

from __future__ import annotations

__all__ = ["Whiten", "fisher_root", "knows_fisher", "parameters_of", "register_fisher", "register_scores"]

import copy
import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, NegativeBinomial, Normal, Poisson

from ..distributions import (
    CoupledLogisticMixture,
    Dequantized,
    DiscretizedGaussian,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    LevelsCategorical,
    OnUnitInterval,
    SafeContinuousBernoulli,
)
from ..utils import LogpxError

NUM_SCORES = 4

P = TypeVar("P", bound=Distribution)

Parameters: TypeAlias = tuple[Tensor, ...]
Whiten: TypeAlias = Callable[[Parameters], Tensor]

# families are looked up by type, so that what is stored for one is only ever called with it
_KNOWN: dict[type[Distribution], tuple[Callable[[Any], Parameters], Callable[[Any], Whiten]]] = {}


def register_fisher(kind: type[P], parameters: Callable[[P], Parameters], root: Callable[[P], Whiten]) -> None:
    r"""Makes the Fisher information of a family known, in closed form.

    Arguments:
        kind: The family, of scalars or of events; `Independent` is looked through.
        parameters: Returns the parameters of a distribution, each with shape (\*, ...).
        root: Takes a distribution with batch shape (S, B) and returns a function that is linear in derivatives of its
            parameters, which have a further first dimension, (T, S, B, ...): W times the derivatives. The sum of
            squares of what it returns, over all dimensions after these three, is the quadratic form of F.
    """
    _KNOWN[kind] = parameters, root


def register_scores(kind: type[Distribution], **axes: tuple[int, ...]) -> None:
    """Makes the Fisher information of a family known by the scores of draws.

    Arguments:
        kind: The family; its parameters are attributes, which `log_prob` reads.
        axes: For each parameter's name the axes, counted from the last, over which it belongs to one dimension of the
            data, such as that of the components of a mixture. A parameter that is None is left out.
    """

    def present(p: Distribution) -> dict[str, Tensor]:
        return {name: getattr(p, name) for name in axes if getattr(p, name) is not None}

    def root(p: Distribution) -> Whiten:
        theta = present(p)
        return _score_root(p, theta, [axes[name] for name in theta])

    register_fisher(kind, lambda p: tuple(present(p).values()), root)


def fisher_root(p: Distribution) -> Whiten:
    """Returns the root of the Fisher information of a distribution's parameters, at those that it has.

    Arguments:
        p: The distribution, with batch shape (S, B).

    Raises:
        LogpxError: If nothing is known of the family.
    """
    return _lookup(_base(p))[1](_base(p))


def parameters_of(p: Distribution) -> Parameters:
    """Returns the parameters whose Fisher information :func:`fisher_root` is about."""
    return _lookup(_base(p))[0](_base(p))


def knows_fisher(p: Distribution) -> bool:
    """Whether the Fisher information of the family is known."""
    return any(kind in _KNOWN for kind in type(_base(p)).__mro__)


def _lookup(p: Distribution) -> tuple[Callable[[Any], Parameters], Callable[[Any], Whiten]]:
    for kind in type(p).__mro__:
        if kind in _KNOWN:
            return _KNOWN[kind]
    known = ", ".join(sorted(kind.__name__ for kind in _KNOWN))
    raise LogpxError(
        f"The Fisher information of {type(p).__name__} is not known (known are {known}): make it so with "
        "logpx.evidence.register_fisher, or use the proposal refined."
    )


def _base(p: Distribution) -> Distribution:
    """Looks through what only sums over dimensions, or moves the levels or dequantizes them."""
    while True:
        match p:
            case Independent():
                p = p.base_dist
            case OnUnitInterval():
                p = p.base
            case Dequantized():
                p = p.density
            case _:
                return p


def _score_root(p: Distribution, theta: dict[str, Tensor], axes: list[tuple[int, ...]]) -> Whiten:
    x = p.sample((NUM_SCORES,))
    with torch.enable_grad():
        # a copy of the parameters for each draw, so that one backward pass gives the scores of all
        copies = {name: _repeated(value) for name, value in theta.items()}
        twin = copy.copy(p)
        twin.__dict__.update(copies)
        scores = torch.autograd.grad(twin.log_prob(x).sum(), list(copies.values()))

    def whiten(tangents: Parameters) -> Tensor:
        # s_m' dtheta / sqrt M, with shape (T, M, S, B, ...) -> (T, S, B, ..., M)
        products = [s * t.unsqueeze(1) for s, t in zip(scores, tangents, strict=True)]
        parts = [each.sum(over) if over else each for each, over in zip(products, axes, strict=True)]
        return torch.stack(parts).sum(0).movedim(1, -1) / math.sqrt(NUM_SCORES)

    return whiten


def _repeated(parameter: Tensor) -> Tensor:
    return parameter.detach().expand(NUM_SCORES, *parameter.shape).clone().requires_grad_()


def _bernoulli(p: Bernoulli) -> Whiten:
    # F = p (1 - p) for the logit
    probability = torch.sigmoid(p.logits)
    root = torch.sqrt(probability * (1 - probability))
    return lambda tangents: tangents[0] * root


def _normal(p: Normal) -> Whiten:
    # F = 1 / sigma^2 for the mean, 2 / sigma^2 for sigma
    return lambda tangents: torch.stack([tangents[0] / p.scale, math.sqrt(2) * tangents[1] / p.scale], -1)


def _categorical(p: Categorical | LevelsCategorical) -> Whiten:
    # F = diag(p) - p p' = sum_k p_k (e_k - p) (e_k - p)'
    shares = torch.softmax(p.logits, -1)
    return lambda tangents: shares.sqrt() * (tangents[0] - (shares * tangents[0]).sum(-1, keepdim=True))


def _poisson(p: Poisson) -> Whiten:
    # F = 1 / lambda for the rate
    root = torch.rsqrt(p.rate)
    return lambda tangents: tangents[0] * root


register_fisher(Bernoulli, lambda p: (p.logits,), _bernoulli)
register_fisher(Normal, lambda p: (p.loc, p.scale), _normal)
register_fisher(Categorical, lambda p: (p.logits,), _categorical)
register_fisher(LevelsCategorical, lambda p: (p.logits,), _categorical)
register_fisher(Poisson, lambda p: (p.rate,), _poisson)
register_scores(NegativeBinomial, total_count=(), logits=())
register_scores(SafeContinuousBernoulli, logits=())
register_scores(DiscretizedGaussian, loc=(), scale=())
register_scores(DiscretizedLogistic, loc=(), scale=())
register_scores(DiscretizedLogisticMixture, logits=(-1,), loc=(-1,), scale=(-1,))
register_scores(CoupledLogisticMixture, logits=(-3,), loc=(-4, -3), scale=(-4, -3), coupling=(-4, -3))
