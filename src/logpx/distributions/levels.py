r"""What all distributions over the integer levels 0..levels-1 share: the support, the check, exact mean and mode.

A level is a number of width one: level x owns the interval :math:`[x - 1/2, x + 1/2)` of intensities, the lowest
also all that is below, the highest all above. Locations and scales are in the unit of levels.
"""

from __future__ import annotations

__all__ = ["Levels", "check_num_levels", "full_precision", "require_levels", "stepped"]

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints


class Levels(Distribution):
    r"""A distribution of one integer among 0..levels-1, which knows its :math:`\log P(x)` and :math:`P(X \leq x)`.

    Arguments:
        levels: The number L of levels.
        parameter: Any parameter, for its dtype and device.
        batch_shape: The batch shape.
        validate_args: Whether to check the parameters.

    Raises:
        ValueError: If `levels` is below 2, or a parameter is invalid.
    """

    has_rsample = False

    def __init__(
        self, levels: int, parameter: Tensor, batch_shape: torch.Size, validate_args: bool | None = None
    ) -> None:
        check_num_levels(levels)
        self.levels = levels
        self._zero = parameter.new_zeros(())
        super().__init__(batch_shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The integers 0..levels-1."""
        return constraints.integer_interval(0, self.levels - 1)

    @property
    def mean(self) -> Tensor:
        r"""The exact mean :math:`E[X] = \sum_{j=0}^{L-2} P(X > j)` of the L levels, with the batch shape."""
        mean = 1 - self.cdf(self._zero)
        for level in range(1, self.levels - 1):
            mean = mean + (1 - self.cdf(self._zero + level))
        return mean

    @property
    def mode(self) -> Tensor:
        """The most probable level, the lowest of equals, with the batch shape; every level is tried."""
        with torch.no_grad():
            best = self.log_prob(self._zero)
            mode = torch.zeros_like(best)
            for level in range(1, self.levels):
                log_p = self.log_prob(self._zero + level)
                mode[log_p > best] = level
                best = torch.maximum(best, log_p)
        return mode


def check_num_levels(levels: int) -> None:
    """Refuses fewer than 2 levels.

    Arguments:
        levels: The number L of levels.

    Raises:
        ValueError: If it is below 2.
    """
    if levels < 2:
        raise ValueError(f"levels must be at least 2, but is {levels}: give the number of values that data can take.")


def require_levels(x: Tensor, levels: int) -> None:
    """Refuses data that are not integer levels.

    Arguments:
        x: The data, of any shape.
        levels: The number L of levels.

    Raises:
        ValueError: If a value is not among 0..levels-1; it is named.
    """
    # bytes would wrap around in comparisons with larger numbers
    x = x if x.is_floating_point() else x.long()
    known = (x >= 0) & (x < levels) & (x % 1 == 0)
    if not known.all():
        odd, top = x[~known][0].item(), levels - 1
        raise ValueError(
            f"Data must be whole levels from 0 to {top}, but one is {odd:.6g}: wrap the distribution in "
            f"OnUnitInterval(..., levels={levels}) where data are k / {top}, as logpx gives them to models, or give it "
            "as many levels as the data have."
        )


def full_precision(parameter: Tensor) -> Tensor:
    """Returns a parameter in float32 where it comes in half precision, else as it is."""
    return parameter.float() if parameter.dtype in (torch.bfloat16, torch.float16) else parameter


def stepped(cumulative: Tensor, x: Tensor, levels: int) -> Tensor:
    r"""Returns :math:`P(X \leq x)` from the mass below the upper edge of x: 0 below the levels, 1 from the highest on.

    Arguments:
        cumulative: The mass below the upper edge, with the batch shape.
        x: Any reals, broadcast with it.
        levels: The number L of levels.
    """
    x = x.to(cumulative.dtype)
    inside = torch.where(x >= levels - 1, torch.ones_like(cumulative), cumulative)
    return torch.where(x < 0, torch.zeros_like(inside), inside)
