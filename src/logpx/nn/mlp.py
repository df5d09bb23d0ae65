"""Multilayer perceptrons, plain and residual."""

from __future__ import annotations

__all__ = ["MLP", "ResidualMLP"]

import math
from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from ._checks import check_choice, check_dropout
from .activations import ACTIVATIONS


class MLP(nn.Sequential):
    """A multilayer perceptron from tensors of shape (*, event shape) to (*, out_features).

    Arguments:
        in_shape: The event shape that is flattened at the entrance.
        out_features: The number of outputs.
        hidden: The widths of the hidden layers; none makes a linear map.
        activation: One of the names in `ACTIVATIONS`.
        dropout: The probability with which a hidden unit is dropped in training.

    Raises:
        ValueError: If the activation is unknown or the dropout outside [0, 1).

    Example:
        >>> import torch
        >>> MLP((1, 28, 28), 10, hidden=(64,))(torch.zeros(5, 3, 1, 28, 28)).shape
        torch.Size([5, 3, 10])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_features: int,
        hidden: Sequence[int] = (500, 500),
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        _check(activation, dropout)
        layers: list[nn.Module] = []
        width = math.prod(in_shape)
        for size in hidden:
            layers += [nn.Linear(width, size), ACTIVATIONS[activation]()]
            layers += [nn.Dropout(dropout)] if dropout > 0 else []
            width = size
        super().__init__(*layers, nn.Linear(width, out_features))
        self.in_ndims = len(in_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the outputs, with shape (*, out_features)."""
        y: Tensor = super().forward(x.flatten(-self.in_ndims))  # type: ignore[no-untyped-call]
        return y

    @property
    def last(self) -> nn.Linear:
        """The last layer, whose bias is where the outputs start."""
        return cast(nn.Linear, self[-1])


class ResidualMLP(nn.Sequential):
    r"""A multilayer perceptron of residual blocks :math:`h + W_2 \phi(W_1 \mathrm{LayerNorm}(h))`, pre-normalized.

    References:
        Identity Mappings in Deep Residual Networks (He, Zhang, Ren and Sun, 2016).

    Arguments:
        in_shape: The event shape that is flattened at the entrance.
        out_features: The number of outputs.
        hidden: One width per block, all equal.
        activation: One of the names in `ACTIVATIONS`.
        dropout: The probability with which a hidden unit of a block is dropped in training.

    Raises:
        ValueError: If the widths are not equal, or as for :class:`MLP`.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_features: int,
        hidden: Sequence[int] = (500, 500),
        activation: str = "silu",
        dropout: float = 0.0,
    ) -> None:
        _check(activation, dropout)
        if len(set(hidden)) != 1:
            raise ValueError(
                f"A residual network needs equal widths, one per block, but hidden is {tuple(hidden)}: repeat one."
            )
        width = hidden[0]
        blocks = [_ResidualBlock(width, activation, dropout) for _ in hidden]
        ends = [nn.LayerNorm(width), ACTIVATIONS[activation](), nn.Linear(width, out_features)]
        super().__init__(nn.Linear(math.prod(in_shape), width), *blocks, *ends)
        self.in_ndims = len(in_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the outputs, with shape (*, out_features)."""
        y: Tensor = super().forward(x.flatten(-self.in_ndims))  # type: ignore[no-untyped-call]
        return y

    @property
    def last(self) -> nn.Linear:
        """The last layer, whose bias is where the outputs start."""
        return cast(nn.Linear, self[-1])


class _ResidualBlock(nn.Sequential):
    def __init__(self, width: int, activation: str, dropout: float) -> None:
        drop = [nn.Dropout(dropout)] if dropout > 0 else []
        first = [nn.LayerNorm(width), nn.Linear(width, width), ACTIVATIONS[activation]()]
        super().__init__(*first, *drop, nn.Linear(width, width))

    def forward(self, h: Tensor) -> Tensor:
        """Returns h plus the block's correction."""
        y: Tensor = h + super().forward(h)  # type: ignore[no-untyped-call]
        return y


def _check(activation: str, dropout: float) -> None:
    check_choice("activation", activation, ACTIVATIONS)
    check_dropout(dropout)
