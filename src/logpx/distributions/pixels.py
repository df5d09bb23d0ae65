r"""What a likelihood of images says of each value, given the channels before it in its pixel.

.. math:: \log p(x | z) = \sum_c \log p(x_c \mid x_1, \dots, x_{c-1}, z), \qquad
          \log p(x_c \mid x_1, \dots, x_{c-1}, z) = \sum_{ij} \log p(x_{cij} \mid x_{1ij}, \dots, x_{c-1,ij}, z),

where pixels are independent given z. Where channels are so too, those before say nothing.
"""

from __future__ import annotations

__all__ = ["level_masses", "log_prob_per_channel"]

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from .bernoulli import IndependentBernoulli
from .coupled import CoupledLogisticMixture
from .unit import OnUnitInterval

LEVELS_AT_ONCE = 16


def log_prob_per_channel(p: Distribution, x: Tensor) -> Tensor | None:
    r"""Returns :math:`\log p(x_c \mid x_1, \dots, x_{c-1}, z)` of images, in nats, which sum over c to log p(x | z).

    Arguments:
        p: The likelihood p(x | z), with batch shape (\*) and event shape (C, H, W).
        x: The images, with shape (\*, C, H, W).

    Returns:
        The terms with shape (\*, C), or None where p is no likelihood of images, or is neither `Independent` nor a
        coupled mixture.

    Raises:
        ValueError: If a value lies outside the support of a likelihood that is strict.

    Example:
        >>> p = IndependentBernoulli(torch.zeros(5, 2, 1, 3), event_ndims=3)
        >>> (log_prob_per_channel(p, torch.ones(2, 1, 3)) / torch.tensor(2.0).log())[0].tolist()
        [-3.0, -3.0]
    """
    if isinstance(p, IndependentBernoulli):
        p.check(x)
    each = _each_value(p, x) if len(p.event_shape) == 3 else None
    return None if each is None else each.log_prob(x).sum((-2, -1))


def level_masses(p: Distribution, x: Tensor) -> Tensor | None:
    r"""Returns :math:`P(k \mid x_1, \dots, x_{c-1}, z)` of every level k at every place, given the channels before it.

    Over the levels they sum to one; for a likelihood of counts, which knows more than L of them, to less.

    Arguments:
        p: The likelihood p(x | z), with batch shape (\*) and event shape (C, H, W).
        x: The images, with shape (\*, C, H, W).

    Returns:
        The masses with shape (\*, L, C, H, W), or None where p is no likelihood of images of levels on the unit
        interval, or knows a bound of their masses only.

    Example:
        >>> from logpx.distributions import LevelsCategorical
        >>> p = Independent(OnUnitInterval(LevelsCategorical(torch.zeros(1, 8, 8, 4)), levels=4), 3)
        >>> level_masses(p, torch.zeros(1, 8, 8))[:, 0, 0, 0].tolist()
        [0.25, 0.25, 0.25, 0.25]
    """
    each = _each_value(p, x) if len(p.event_shape) == 3 else None
    if not isinstance(each, OnUnitInterval) or getattr(each.base, "is_bound", False):
        return None
    levels = torch.arange(each.levels, dtype=x.dtype, device=x.device).reshape(-1, *(1 for _ in each.batch_shape))
    # a few at a time, because a mixture is larger than its masses
    parts = [each.base.log_prob(some).exp() for some in levels.split(LEVELS_AT_ONCE)]
    return torch.cat(parts).movedim(0, -4)


def _each_value(p: Distribution, x: Tensor) -> Distribution | None:
    r"""Returns the distributions of the values of images, with batch shape (\*, C, H, W), or None for other types."""
    if isinstance(p, CoupledLogisticMixture):
        return p.channels_given(x)
    if isinstance(p, OnUnitInterval) and p.event_shape:
        each = _each_value(p.base, (x * (p.levels - 1)).round())
        return None if each is None else OnUnitInterval(each, p.levels)
    if isinstance(p, Independent):
        return _each_value(p.base_dist, x)
    return None if p.event_shape else p
