r"""Mixtures of distributions of any families as proposals, :math:`q(x) = \sum_j \alpha_j q_j(x)`.

With draws of all components, weights p / q are the balance heuristic: with :math:`n_j` draws of component j, no other
way to combine them has, for :math:`f \geq 0`, a variance that is smaller by more than :math:`\mu^2 / \min_j n_j`
(Optimally combining sampling techniques for Monte Carlo rendering, Veach and Guibas, 1995; Safe and effective
importance sampling, Owen and Zhou, 2000).
"""

from __future__ import annotations

__all__ = ["Mixture", "defensive", "widened"]

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Gamma,
    Independent,
    LogNormal,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
    constraints,
)

from .density import is_discrete, log_density, require_unbatched


class Mixture(Distribution):
    r"""The mixture :math:`q(x) = \sum_{j=1}^J \alpha_j q_j(x)` of components that may differ in family and support.

    A component counts as 0 outside of its own support, so that any point may be asked for, and there is no `support`.
    Log-densities are summed in float64 and returned so.

    References:
        Optimally combining sampling techniques for Monte Carlo rendering (Veach and Guibas, 1995).
        Safe and effective importance sampling (Owen and Zhou, 2000).

    Arguments:
        components: The J distributions :math:`q_j`, with batch shape () and one event shape.
        weights: The J mixing weights :math:`\alpha_j`, non-negative; they are divided by their sum.

    Raises:
        TypeError: If a component is no distribution.
        ValueError: If the components or weights do not fit together.

    Example:
        >>> from torch.distributions import Exponential, Normal
        >>> q = Mixture([Normal(0.0, 1.0), Exponential(1.0)], [0.5, 0.5])
        >>> round(q.log_prob(torch.tensor([-1.0])).exp().item(), 6), round(0.5 * 0.2419707, 6)
        (0.120985, 0.120985)
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(self, components: Sequence[Distribution], weights: Sequence[float] | Tensor) -> None:
        self.components = tuple(components)
        _require_alike(self.components)
        self.weights = _shares(weights, len(self.components))
        super().__init__(torch.Size(), self.components[0].event_shape)

    def __repr__(self) -> str:
        terms = [f"{w:.3g} {q}" for w, q in zip(self.weights.tolist(), self.components, strict=True)]
        return f"Mixture({' + '.join(terms)})"

    @property
    def mean(self) -> Tensor:
        r"""The mean :math:`\sum_j \alpha_j m_j`, with the event shape."""
        return self._average([q.mean for q in self.components])

    @property
    def variance(self) -> Tensor:
        r"""The variance :math:`\sum_j \alpha_j (v_j + (m_j - m)^2)`, with the event shape."""
        return self._average([q.variance + (q.mean - self.mean) ** 2 for q in self.components])

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        r"""Returns independent draws, with shape (\*sample_shape, \*event)."""
        shape = torch.Size(sample_shape)
        n = shape.numel()
        # one draw at least, here and below: torch refuses to draw none, and types are promoted over all components
        which = torch.multinomial(self.weights, max(n, 1), replacement=True)[:n]
        counts = torch.bincount(which, minlength=len(self.components)).tolist()
        parts = [q.sample((max(k, 1),))[:k] for q, k in zip(self.components, counts, strict=True)]
        place = torch.argsort(which.to(torch.int16), stable=True)
        order = torch.empty_like(place).index_copy_(0, place, torch.arange(n))
        return _gathered(parts, order).reshape(shape + self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns :math:`\log \sum_j \alpha_j q_j(x)` in nats, with the shape of the draws, in float64."""
        return torch.logsumexp(self.log_terms(value), 0)

    def log_terms(self, x: Tensor) -> Tensor:
        r"""Returns :math:`\log \alpha_j q_j(x)` in nats, with shape (J, \*draws), in float64."""
        log_alpha = self.weights.log().tolist()
        # float64, because p / q must not exceed 1 / alpha_j by the rounding of large log-densities of p = q_j
        return torch.stack([log_density(q, x).double() + a for q, a in zip(self.components, log_alpha, strict=True)])

    def _average(self, values: list[Tensor]) -> Tensor:
        return torch.stack([w * v for w, v in zip(self.weights.tolist(), values, strict=True)]).sum(0)


def defensive(nominal: Distribution, proposal: Distribution, alpha: float = 0.1) -> Mixture:
    r"""Mixes the nominal distribution into a proposal, :math:`\alpha p + (1 - \alpha) q`.

    Its importance weights are at most :math:`1 / \alpha`, so that an estimate of a bounded f has a finite variance
    even where q is far too narrow.

    References:
        Weighted average importance sampling and defensive mixture distributions (Hesterberg, 1995).

    Arguments:
        nominal: The distribution p, with batch shape ().
        proposal: The importance distribution q, with batch shape ().
        alpha: The share :math:`\alpha` of draws from p, between 0 and 1.

    Raises:
        ValueError: If alpha is not between 0 and 1, or the event shapes differ.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, but is {alpha}: 0.1 is customary.")
    return Mixture([nominal, proposal], [alpha, 1 - alpha])


@functools.singledispatch
def widened(proposal: Distribution, nominal: Distribution) -> Distribution:
    r"""Returns a proposal of which no tail is lighter than the nominal distribution's, where both are of one family.

    A proposal that is narrower than p has weights p / q that grow without bound, and a normal one of less than
    :math:`1 / \sqrt 2` of its scale has weights of infinite variance. For Normal, LogNormal and MultivariateNormal
    the scale is raised to that of p in every direction in which it is less, for Gamma the rate is lowered to that of
    p and the mean kept; Independent, TransformedDistribution and Mixture are widened part by part. Other families, of
    one parameter, of bounded support or with power-law tails, are returned as they are: their weights grow slowly.

    For a family of your own, write a function of the same arguments and register it with `widened.register`.

    Arguments:
        proposal: The importance distribution q.
        nominal: The distribution p.

    Example:
        >>> widened(Normal(4.2, 0.2), Normal(0.0, 1.0))
        Normal(loc: 4.199999809265137, scale: 1.0)
    """
    return proposal


@widened.register
def _(proposal: Normal, nominal: Distribution) -> Distribution:
    if type(proposal) is not Normal or type(nominal) is not Normal:
        return proposal
    return Normal(proposal.loc, torch.maximum(proposal.scale, nominal.scale))


@widened.register
def _(proposal: LogNormal, nominal: Distribution) -> Distribution:
    if type(proposal) is not LogNormal or type(nominal) is not LogNormal:
        return proposal
    return LogNormal(proposal.loc, torch.maximum(proposal.scale, nominal.scale))


@widened.register
def _(proposal: Gamma, nominal: Distribution) -> Distribution:
    if type(proposal) is not Gamma or type(nominal) is not Gamma:
        return proposal
    rate = torch.minimum(proposal.rate, nominal.rate)
    return Gamma(proposal.mean * rate, rate)


@widened.register
def _(proposal: MultivariateNormal, nominal: Distribution) -> Distribution:
    if type(proposal) is not MultivariateNormal or type(nominal) is not MultivariateNormal:
        return proposal
    # the scales of q in the coordinates in which p is standard normal
    p_tril, q_tril = nominal.scale_tril.double(), proposal.scale_tril.double()
    axes, scales, _ = torch.linalg.svd(torch.linalg.solve_triangular(p_tril, q_tril, upper=False))
    root = p_tril @ (axes * scales.clamp(min=1).unsqueeze(-2))
    return MultivariateNormal(proposal.loc, scale_tril=torch.linalg.cholesky(root @ root.mT).to(proposal.loc))


@widened.register
def _(proposal: Independent, nominal: Distribution) -> Distribution:
    if type(proposal) is not Independent or type(nominal) is not Independent:
        return proposal
    base = widened(proposal.base_dist, nominal.base_dist)
    same = base is proposal.base_dist
    return proposal if same else Independent(base, proposal.reinterpreted_batch_ndims)


@widened.register
def _(proposal: TransformedDistribution, nominal: Distribution) -> Distribution:
    if type(proposal) is not TransformedDistribution or type(nominal) is not TransformedDistribution:
        return proposal
    if proposal.transforms != nominal.transforms:
        return proposal
    base = widened(proposal.base_dist, nominal.base_dist)
    return proposal if base is proposal.base_dist else TransformedDistribution(base, proposal.transforms)


@widened.register
def _(proposal: Mixture, nominal: Distribution) -> Distribution:
    wide = [widened(q, nominal) for q in proposal.components]
    same = all(a is b for a, b in zip(wide, proposal.components, strict=True))
    return proposal if same else Mixture(wide, proposal.weights)


def _gathered(parts: list[Tensor], order: Tensor) -> Tensor:
    """Joins draws of several components and puts them in order; draws that lie by coordinate in memory stay so."""
    if all(part.stride(0) == 1 for part in parts):
        joined = torch.cat([part.movedim(0, -1) for part in parts], -1)
        return joined.index_select(-1, order).movedim(-1, 0)
    return torch.cat(parts).index_select(0, order)


def _require_alike(components: tuple[Distribution, ...]) -> None:
    if not components:
        raise ValueError("A mixture must have at least one component, but has none: give a distribution.")
    for j, q in enumerate(components):
        require_unbatched(f"component number {j}", q)
    shapes = sorted({tuple(q.event_shape) for q in components})
    if len(shapes) > 1:
        raise ValueError(f"Components must share an event shape, but have {shapes[0]} and {shapes[1]}: reshape one.")
    if len({is_discrete(q) for q in components} - {None}) > 1:
        raise ValueError(
            "Components must be all discrete or all continuous, but are mixed: their densities do not add up; "
            "estimate the parts apart."
        )


def _shares(weights: Sequence[float] | Tensor, count: int) -> Tensor:
    alpha = torch.as_tensor(weights, dtype=torch.float64)
    if alpha.shape != (count,):
        raise ValueError(f"A mixture needs one weight per component, ({count},), but got {tuple(alpha.shape)}.")
    if not bool((torch.isfinite(alpha) & (alpha >= 0)).all() and alpha.sum() > 0):
        raise ValueError(
            f"Mixing weights must be non-negative, finite and not all 0, but are {alpha.tolist()}: "
            "give the share of the draws that each component gets."
        )
    return alpha / alpha.sum()
