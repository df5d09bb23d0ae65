r"""Distributions of levels, spoken of as numbers in [0, 1]: the form in which models see 8-bit data.

A level k of 0..L-1 stands at :math:`x = k / (L - 1)`. The mass of x is that of its level, so that code lengths are
those of the levels. Of a base that knows more than the L levels, such as counts, the mass beyond the highest is lost to
`log_prob`, so that probabilities sum to less than one; draws, mean and mode beyond it are moved to it.
"""

from __future__ import annotations

__all__ = ["OnUnitInterval"]

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.types import _size

# By how much of a level a number may be off: the rounding of x (L - 1) in float32, and then some.
TOLERANCE = 1e-3


class OnUnitInterval(Distribution):
    r"""The distribution of :math:`x = k / (L - 1)` for a distribution of levels k, :math:`\log P(x) = \log P(k)`.

    Arguments:
        base: The distribution of the levels 0..L-1, of any event shape.
        levels: The number L of levels, at least 2.

    Raises:
        ValueError: If there are fewer than 2 levels.

    Example:
        >>> from logpx.distributions import DiscretizedLogistic
        >>> p = OnUnitInterval(DiscretizedLogistic(torch.tensor(100.0), torch.tensor(9.0)), levels=256)
        >>> p.log_prob(torch.tensor(100 / 255)) == p.base.log_prob(torch.tensor(100.0))
        tensor(True)
    """

    has_rsample = False
    arg_constraints: ClassVar = {}

    def __init__(self, base: Distribution, levels: int) -> None:
        if levels < 2:
            raise ValueError(f"There must be at least 2 levels, but there are {levels}: give 256 for 8-bit data.")
        self.base, self.levels = base, levels
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """The numbers k / (L - 1) up to rounding, with the event dimensions of the base."""
        return _Grid(self.levels, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """The mean, in [0, 1], with the shape of the base's; where a base has mass beyond, its own mean, at most 1."""
        return (self.base.mean / (self.levels - 1)).clamp(max=1)

    @property
    def mode(self) -> Tensor:
        """The mode, in [0, 1], with the shape of the base's."""
        return (self.base.mode / (self.levels - 1)).clamp(max=1)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> OnUnitInterval:
        """Returns the distribution with its batch shape expanded."""
        return OnUnitInterval(self.base.expand(batch_shape), self.levels)

    def sample(self, sample_shape: _size = torch.Size()) -> Tensor:  # noqa: B008
        r"""Returns draws in [0, 1], with shape (\*sample shape, \*batch shape, \*event shape); 1 for those beyond."""
        return self.base.sample(sample_shape).clamp(max=self.levels - 1) / (self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns :math:`\log P(x)` in nats, with the batch shape.

        Raises:
            ValueError: If a value is no level divided by L - 1.
        """
        good = _Grid(self.levels, 0).check(value)
        if not bool(good.all()):
            odd = value[~good].flatten()[0].item()
            raise ValueError(
                f"Values must be k / {self.levels - 1} for an integer k of 0..{self.levels - 1}, but one is {odd:.6g}: "
                f"divide levels by {self.levels - 1}, or choose a likelihood for such data."
            )
        return self.base.log_prob((value * (self.levels - 1)).round())


class _Grid(constraints.Constraint):
    """The levels on the unit interval."""

    is_discrete = True

    def __init__(self, levels: int, event_dim: int) -> None:
        self.levels, self.event_dim = levels, event_dim

    def check(self, value: Tensor) -> Tensor:
        level = value * (self.levels - 1)
        near = (level - level.round()).abs() <= TOLERANCE
        inside = near & (level > -0.5) & (level < self.levels - 0.5)
        return inside.flatten(-self.event_dim).all(-1) if self.event_dim else inside
