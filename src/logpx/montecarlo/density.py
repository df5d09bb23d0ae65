"""Densities that are asked about any point: outside of the support they are zero, not an error."""

from __future__ import annotations

__all__ = [
    "LogDensity",
    "ceiling",
    "event_size",
    "is_discrete",
    "log_density",
    "require_comparable",
    "require_support",
    "require_unbatched",
]

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, TransformedDistribution

from .draws import keyed_draws

LogDensity = Distribution | Callable[[Tensor], Tensor]
NUM_PILOT = 1024


def log_density(p: LogDensity, x: Tensor) -> Tensor:
    r"""Returns :math:`\log p(x)` in nats, with shape (S,); :math:`-\infty` where x is outside of the support.

    Raises:
        ValueError: If the density returns another shape.
    """
    if isinstance(p, Distribution):
        inside = _inside(p, x)
        if bool(inside.all()):
            return p.log_prob(x)
        if not bool(inside.any()):
            return torch.full(inside.shape, -torch.inf)
        log_inside = p.log_prob(x[inside])
        return torch.full(inside.shape, -torch.inf, dtype=log_inside.dtype).masked_scatter(inside, log_inside)
    log_p = p(x)
    if not isinstance(log_p, Tensor) or log_p.shape != x.shape[:1]:
        got = tuple(log_p.shape) if isinstance(log_p, Tensor) else type(log_p).__name__
        raise ValueError(f"A log-density must have shape {tuple(x.shape[:1])}, but got {got}: sum over the event.")
    return log_p


def require_unbatched(name: str, p: Distribution) -> None:
    """Raises a ValueError if a distribution has a batch shape, and a TypeError if it is none."""
    if not isinstance(p, Distribution):
        raise TypeError(f"The {name} must be a torch Distribution, but is a {type(p).__name__}: build one.")
    if p.batch_shape != torch.Size():
        raise ValueError(
            f"The {name} must have batch shape (), but has {tuple(p.batch_shape)}: wrap it in "
            f"torch.distributions.Independent(..., {len(p.batch_shape)})."
        )


def ceiling(nominal: LogDensity, normalized: bool = False) -> float:
    """Returns the largest mean of an indicator: 1, or infinity for a function that need not be normalised."""
    return 1.0 if isinstance(nominal, Distribution) or normalized else torch.inf


def is_discrete(q: Distribution) -> bool | None:
    """Returns whether a distribution has a probability mass function, or None where it does not say."""
    try:
        return None if q.support is None else bool(q.support.is_discrete)
    except NotImplementedError:
        return None


def require_comparable(nominal: LogDensity, proposal: Distribution) -> None:
    """Raises a ValueError if a density would be divided by a mass function, or events differ in shape."""
    if not isinstance(nominal, Distribution):
        return
    if nominal.event_shape != proposal.event_shape:
        shapes = f"{tuple(nominal.event_shape)} and {tuple(proposal.event_shape)}"
        raise ValueError(f"Nominal distribution and proposal must share an event shape, but have {shapes}: match them.")
    if {is_discrete(nominal), is_discrete(proposal)} == {True, False}:
        raise ValueError(
            "Nominal distribution and proposal must both be discrete or both continuous, but one is and the other is "
            "not: choose a proposal of the same kind."
        )


def event_size(p: Distribution) -> int:
    """Returns the number of numbers in one draw."""
    return p.event_shape.numel()


def require_support(
    f: Callable[[Tensor], Tensor], nominal: LogDensity, proposal: Distribution, seed: int, normalized: bool
) -> None:
    r"""Draws from the nominal distribution and looks whether the proposal can draw where :math:`f p \neq 0`.

    Where weights are normalised their mean is an estimate too, which needs all of p.

    Raises:
        ValueError: If it cannot, with such an x.
    """
    if not isinstance(nominal, Distribution):
        return
    with keyed_draws(seed, "support"):
        try:
            x = nominal.sample((NUM_PILOT,))
        except NotImplementedError:
            return
        missed = x[log_density(proposal, x) == -torch.inf]
        missed = missed[f(missed) != 0] if len(missed) and not normalized else missed
    if len(missed):
        raise ValueError(
            f"The proposal must be positive wherever f p is not 0, but it is 0 for {len(missed)} of {NUM_PILOT:,} "
            f"draws of the nominal distribution, such as x = {missed[0].tolist()}: widen it, or mix the nominal "
            "distribution in with defensive()."
        )


def _inside(p: Distribution, x: Tensor) -> Tensor:
    """Returns whether x is in the support, with shape (S,) + the batch shape of p."""
    if isinstance(p, Independent):
        inside = _inside(p.base_dist, x)
        return inside.flatten(-p.reinterpreted_batch_ndims).all(-1) if p.reinterpreted_batch_ndims else inside
    try:
        inside = p.support.check(x)  # type: ignore[union-attr]
    except NotImplementedError:
        return torch.ones(x.shape[:1] + p.batch_shape, dtype=torch.bool)
    if isinstance(p, TransformedDistribution):
        # torch knows the range of the last transform alone: a shifted exponential seems to have all reals
        y = x
        for transform in reversed(p.transforms):
            y = transform.inv(y)
        inside = inside & _inside(p.base_dist, y)
    return inside
