r"""The Gauss-Newton precision of a decoder, :math:`J^\top F J`: how sharply one datum's likelihood speaks of z.

J is the Jacobian of the decoder's parameters in z, and F their Fisher information, so that :math:`J^\top F J` is the
Fisher information of z in a datum drawn from :math:`p(x | z)`: positive semidefinite wherever it is taken, and the
expected Hessian of :math:`-\log p(x | z)`. J is never held: derivatives in the direction of one latent at a time
(forward mode) are multiplied by a root of F at once.
"""

from __future__ import annotations

__all__ = ["gauss_newton", "register_fisher"]

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal, Poisson

from ..distributions import OnUnitInterval
from ..model import LatentVariableModel, call
from ..utils import LogpxError, chunks

Parameters = tuple[Tensor, ...]
Extract = Callable[[Distribution], Parameters]
Whiten = Callable[[Distribution, Parameters], Tensor]

_KNOWN: dict[type[Distribution], tuple[Extract, Whiten]] = {}


def register_fisher(kind: type[Distribution], parameters: Extract, whitened: Whiten) -> None:
    r"""Makes a family of distributions known to :func:`gauss_newton`.

    Arguments:
        kind: The family, of scalars or of events; `Independent` is looked through.
        parameters: Returns the parameters of a distribution, each with shape (\*, ...).
        whitened: Takes a distribution and a derivative of each parameter, with further leading dimensions, and returns
            :math:`F^{\top / 2}` times the derivative, with the leading dimensions kept and the event's dimensions of
            any number and size: sums of products over them are :math:`J^\top F J`.
    """
    _KNOWN[kind] = parameters, whitened


@torch.no_grad()
def gauss_newton(
    model: LatentVariableModel, z: Tensor, context: Tensor | None = None, memory_budget: int = 2**28
) -> Tensor:
    r"""Returns :math:`J^\top F J` of the decoder at each z, with shape (S, B, L, L).

    It costs one pass of the decoder and L Jacobian-vector products per z.

    References:
        New Insights and Perspectives on the Natural Gradient Method (Martens, 2020).

    Arguments:
        model: The model.
        z: The latents, with shape (S, B, L).
        context: Labels or covariates, with shape (B, \*).
        memory_budget: The memory for the derivatives, in bytes, as a rough guide.

    Raises:
        LogpxError: If the Fisher information of the decoder's distribution is not known.
    """
    num_samples, _, num_latents = z.shape
    p = _base(call(model.decoder, z, context=context))
    extract, whiten = _lookup(p)

    def parameters(z: Tensor) -> Parameters:
        return extract(_base(call(model.decoder, z, context=context)))

    eye = torch.eye(num_latents, dtype=z.dtype, device=z.device)
    size = max(1, memory_budget // (32 * sum(each.numel() for each in extract(p))))
    rows = []
    for start, stop in chunks(num_latents, size):
        # directions are further draws: (T, S, B, L) -> (T S, B, L)
        repeated = z.repeat(stop - start, 1, 1)
        direction = eye[start:stop, None, None].expand(-1, *z.shape).flatten(0, 1)
        _, tangents = torch.func.jvp(parameters, (repeated,), (direction.contiguous(),))
        tangents = tuple(each.unflatten(0, (-1, num_samples)) for each in tangents)
        rows.append(whiten(p, tangents).flatten(3))
    root = torch.cat(rows).movedim(0, 2)
    return root @ root.mT


def _base(p: Distribution) -> Distribution:
    while isinstance(p, Independent | OnUnitInterval):
        p = p.base_dist if isinstance(p, Independent) else p.base
    return p


def _lookup(p: Distribution) -> tuple[Extract, Whiten]:
    for kind in type(p).__mro__:
        if kind in _KNOWN:
            return _KNOWN[kind]
    known = ", ".join(sorted(kind.__name__ for kind in _KNOWN))
    raise LogpxError(
        f"The Fisher information of a {type(p).__name__} is not known (known are {known}): register it with "
        "logpx.evidence.register_fisher, or use the refined proposal."
    )


def _bernoulli(p: Distribution, tangents: Parameters) -> Tensor:
    # F = p (1 - p) for the logit
    probability = torch.sigmoid(p.logits)
    return tangents[0] * torch.sqrt(probability * (1 - probability))


def _normal(p: Distribution, tangents: Parameters) -> Tensor:
    # F = 1 / sigma^2 for the mean, 2 / sigma^2 for sigma
    loc, scale = tangents
    return torch.stack([loc / p.scale, math.sqrt(2) * scale / p.scale], -1)


def _categorical(p: Distribution, tangents: Parameters) -> Tensor:
    # F = diag(p) - p p' = sum_k p_k (e_k - p) (e_k - p)'
    mean = (p.probs * tangents[0]).sum(-1, keepdim=True)
    return torch.sqrt(p.probs) * (tangents[0] - mean)


def _poisson(p: Distribution, tangents: Parameters) -> Tensor:
    # F = 1 / lambda for the rate
    return tangents[0] * torch.rsqrt(p.rate)


register_fisher(Bernoulli, lambda p: (p.logits,), _bernoulli)
register_fisher(Normal, lambda p: (p.loc, p.scale), _normal)
register_fisher(Categorical, lambda p: (p.logits,), _categorical)
register_fisher(Poisson, lambda p: (p.rate,), _poisson)
