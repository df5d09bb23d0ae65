"""Densities that are asked about any point: outside of the support they are zero, not an error."""

from __future__ import annotations

__all__ = ["LogDensity", "ceiling", "event_size", "log_density", "require_support", "require_unbatched"]

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution, TransformedDistribution

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


def event_size(p: Distribution) -> int:
    """Returns the number of numbers in one draw."""
    return p.event_shape.numel()


def require_support(f: Callable[[Tensor], Tensor], nominal: LogDensity, proposal: Distribution, seed: int) -> None:
    r"""Draws from the nominal distribution and looks whether the proposal can draw where :math:`f p \neq 0`.

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
        missed = missed[f(missed) != 0] if len(missed) else missed
    if len(missed):
        raise ValueError(
            f"The proposal must be positive wherever f p is not 0, but it is 0 for {len(missed)} of {NUM_PILOT:,} "
            f"draws of the nominal distribution, such as x = {missed[0].tolist()}: widen it, or mix the nominal "
            "distribution in with defensive()."
        )


def _inside(p: Distribution, x: Tensor) -> Tensor:
    try:
        inside: Tensor = p.support.check(x)  # type: ignore[union-attr]
    except NotImplementedError:
        return torch.ones(x.shape[:1], dtype=torch.bool)
    if isinstance(p, TransformedDistribution) and inside.any():
        # torch knows the range of the last transform alone: a shifted exponential seems to have all reals
        y = x[inside]
        for transform in reversed(p.transforms):
            y = transform.inv(y)
        inside = inside.masked_scatter(inside, _inside(p.base_dist, y))
    return inside
