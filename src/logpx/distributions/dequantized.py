r"""Densities on the reals as models of integer levels, by noise that fills the bins.

The intensity y has a density f, and x is the level nearest to it: :math:`P(x) = \int_0^1 f(x + u - 1/2) \, du`. With a
draw u of any q(u | x) on [0, 1), Jensen's inequality gives

.. math:: \log P(x) \geq E_q[\log f(x + u - 1/2) - \log q(u \mid x)],

a bound that is tight where q follows f within the bin. Uniform q is the common choice.
"""

from __future__ import annotations

__all__ = ["Dequantized"]

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Uniform, constraints
from torch.types import _size

from .levels import check_num_levels, full_precision, require_levels


class Dequantized(Distribution):
    r"""Integer levels under a density, with a `log_prob` that is random and a lower bound of :math:`\log P(x)`.

    One draw of the noise makes one value; its mean over draws is the bound, and
    :math:`e^{\mathrm{log\_prob}}` is unbiased for :math:`P(x)`. `is_bound` says so to whoever asks.

    References:
        A note on the evaluation of generative models (Theis, van den Oord and Bethge, 2016);
        Flow++: Improving flow-based generative models with variational dequantization and architecture design
        (Ho, Chen, Srinivas, Duan and Abbeel, 2019), for a learned q.

    Arguments:
        density: The density f of intensities, in levels, with any batch and event shape.
        levels: The number L of levels.
        noise: A callable from x to q(u | x), with the shapes of x and draws in [0, 1]; by default uniform. Draws are
            reparametrised where q can, so that q may learn.

    Raises:
        ValueError: If `levels` is below 2.

    Example:
        >>> from torch.distributions import Normal
        >>> p = Dequantized(Normal(torch.tensor(100.0), 20.0))
        >>> p.log_prob(torch.tensor(90.0)).shape, p.is_bound
        (torch.Size([]), True)
    """

    has_rsample = False
    is_bound = True
    arg_constraints: ClassVar = {}

    def __init__(
        self, density: Distribution, levels: int = 256, noise: Callable[[Tensor], Distribution] | None = None
    ) -> None:
        check_num_levels(levels)
        self.density, self.levels, self.noise = density, levels, noise
        super().__init__(density.batch_shape, density.event_shape, validate_args=False)

    @constraints.dependent_property(is_discrete=True)
    def support(self) -> constraints.Constraint:
        """Events of the integers 0..levels-1."""
        levels = constraints.integer_interval(0, self.levels - 1)
        return constraints.independent(levels, len(self.event_shape))

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> Dequantized:
        """Returns the distribution with its batch shape expanded."""
        return type(self)(self.density.expand(batch_shape), self.levels, self.noise)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns a draw of :math:`\log f(x + u - 1/2) - \log q(u \mid x)`, in nats, with the batch shape.

        Raises:
            ValueError: If a value is not a level, or the noise leaves [0, 1].
        """
        require_levels(value, self.levels)
        x = full_precision(value if value.is_floating_point() else value.float())
        q = self._uniform(x) if self.noise is None else self.noise(x)
        # noise of its own for every member of the batch that shares the datum
        shape = torch.broadcast_shapes(x.shape, self.batch_shape + self.event_shape)
        lead = shape[: len(shape) - x.ndim]
        u = q.rsample(lead) if q.has_rsample else q.sample(lead)
        _check_noise(u)
        return self.density.log_prob(x + u - 0.5) - q.log_prob(u)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Returns draws of the density, rounded to the nearest level there is, with shape sample_shape + batch + event.

        So the ends take what lies beyond them, as in the other distributions; of that mass the bound knows nothing.
        """
        with torch.no_grad():
            return self.density.sample(sample_shape).round().clamp(0, self.levels - 1)

    def _uniform(self, x: Tensor) -> Distribution:
        unit = Uniform(torch.zeros_like(x), torch.ones_like(x), validate_args=False)
        return Independent(unit, len(self.event_shape), validate_args=False)


def _check_noise(u: Tensor) -> None:
    inside = (u >= 0) & (u <= 1)
    if not inside.all():
        raise ValueError(
            f"Noise must lie in [0, 1], but one draw is {u[~inside][0].item():.6g}: end it with a sigmoid."
        )
