r"""The softmax over all levels, which assumes nothing about their order."""

from __future__ import annotations

__all__ = ["LevelsCategorical"]

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, constraints
from torch.types import _size

from .levels import Levels, full_precision, require_levels, stepped


class LevelsCategorical(Levels):
    r"""A probability of its own for each level, :math:`P(x) = e^{a_x} / \sum_j e^{a_j}`.

    Unlike torch's `Categorical`, draws have the floating dtype of the parameters, as pixels do, and there are a mean, a
    cumulative distribution and a strict check of the data.

    References:
        Pixel recurrent neural networks (van den Oord, Kalchbrenner and Kavukcuoglu, 2016).

    Arguments:
        logits: The logits a, with shape (\*, levels).
        validate_args: Whether to check the parameters; data are always checked.

    Raises:
        ValueError: If a parameter is invalid, or there are fewer than 2 levels.

    Example:
        >>> p = LevelsCategorical(torch.tensor([0.0, 0.0, 0.0, 0.0]))
        >>> p.mean.item(), round(p.log_prob(torch.tensor(3)).exp().item(), 6)
        (1.5, 0.25)
    """

    arg_constraints: ClassVar = {"logits": constraints.real_vector}

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = full_precision(logits)
        super().__init__(logits.shape[-1] if logits.ndim else 0, self.logits, logits.shape[:-1], validate_args)

    @property
    def mean(self) -> Tensor:
        r"""The mean :math:`\sum_x x P(x)`, with the batch shape."""
        return (torch.softmax(self.logits, -1) * torch.arange(self.levels, device=self.logits.device)).sum(-1)

    @property
    def mode(self) -> Tensor:
        """The most probable level, with the batch shape."""
        return self.logits.argmax(-1).to(self.logits.dtype)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> LevelsCategorical:
        """Returns the distribution with its batch shape expanded."""
        return type(self)(self.logits.expand(*batch_shape, -1), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log P(x), in nats, with the batch shape.

        Raises:
            ValueError: If a value is not a level.
        """
        require_levels(value, self.levels)
        return self._at(self.logits, value) - torch.logsumexp(self.logits, -1)

    def cdf(self, value: Tensor) -> Tensor:
        r"""Returns :math:`P(X \leq x)` of any reals, with the batch shape."""
        cumulative = torch.softmax(self.logits, -1).cumsum(-1)
        return stepped(self._at(cumulative, value.floor().clamp(0, self.levels - 1)), value, self.levels)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Returns draws with shape sample_shape + batch shape."""
        with torch.no_grad():
            draws = Categorical(logits=self.logits, validate_args=True).sample(sample_shape)
            return draws.to(self.logits.dtype)

    def _at(self, table: Tensor, x: Tensor) -> Tensor:
        """Returns the entries of (*, levels) at the levels x, broadcast with the batch shape."""
        shape = torch.broadcast_shapes(x.shape, self.batch_shape)
        index = x.long().expand(shape).unsqueeze(-1)
        return table.expand(*shape, -1).gather(-1, index).squeeze(-1)
