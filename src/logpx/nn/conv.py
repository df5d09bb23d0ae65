"""Convolutional bodies: from images to latents and back, at any size, plain and residual."""

from __future__ import annotations

__all__ = ["ConvDecoder", "ConvEncoder", "latent_shape"]

import itertools
import math
from collections.abc import Sequence
from typing import cast, get_args

from torch import Tensor, nn

from ._checks import check_choice, check_image_shape, check_sizes
from .blocks import Block, Layers, Normalization, Upsampling


class _ConvBody(nn.Sequential):
    def __init__(self, layers: Sequence[nn.Module], in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> None:
        super().__init__(*layers)
        self.in_shape, self.out_shape = in_shape, out_shape

    def forward(self, x: Tensor) -> Tensor:
        """Returns the outputs, with shape (*,) + out_shape.

        Raises:
            ValueError: If the shape of x does not end in in_shape.
        """
        num_dims = len(self.in_shape)
        if tuple(x.shape[-num_dims:]) != self.in_shape:
            raise ValueError(
                f"x must have shape (*, {', '.join(map(str, self.in_shape))}), but has {tuple(x.shape)}: reshape it, "
                "or build the body for this shape."
            )
        y: Tensor = super().forward(x.reshape(-1, *self.in_shape))  # type: ignore[no-untyped-call]
        return y.reshape(*x.shape[:-num_dims], *self.out_shape).contiguous()

    @property
    def last(self) -> nn.Conv2d | nn.Linear:
        """The last layer, whose bias is where the outputs start."""
        return cast(nn.Conv2d | nn.Linear, self[-1])


class ConvEncoder(_ConvBody):
    r"""A convolutional network from images of shape (\*, C, H, W) to maps (\*, out_channels, h, w), or to vectors.

    With n + 1 levels, of `channels` each, it is a 3x3 convolution, `num_blocks` blocks, then n times a 3x3 convolution
    of stride 2 and `num_blocks` blocks of which the first changes the number of channels, and a last 3x3 convolution,
    before which a residual body is normalized and activated. So each entry of `channels` after the first halves the
    resolution:

    .. math:: h = \lceil H / 2^n \rceil, \qquad w = \lceil W / 2^n \rceil, \qquad n = \mathrm{len(channels)} - 1.

    Any size does: a side of odd size is padded with zeros at its end too, as convolutions pad every side, and an even
    one only at its start.

    All leading dimensions are one batch within: batch normalization in training takes its statistics over all of them.

    References:
        Identity Mappings in Deep Residual Networks (He, Zhang, Ren and Sun, 2016).
        Group Normalization (Wu and He, 2018).
        Weight Normalization (Salimans and Kingma, 2016).

    Arguments:
        in_shape: The shape (C, H, W) of an image.
        out_channels: The number of output channels, or of outputs if `flat`.
        flat: Whether the last layer is linear, from all of the last level to vectors of shape (\*, out_channels).
        channels: The number of channels of each level, from the image on.
        num_blocks: The number of blocks of each level.
        block: "residual" for pre-activated blocks that start as the identity, or "plain" for single convolutions, each
            followed by normalization and activation.
        activation: One of the names in `ACTIVATIONS`.
        normalization: "group" for at most 8 groups of at least 4 channels, "batch", or "none".
        weight_norm: Whether each weight is split into a magnitude per output channel and a direction.
        dropout: The probability with which an activation within a block is dropped in training.

    Raises:
        ValueError: If a name is unknown, a size is not positive, or the dropout outside [0, 1).

    Example:
        >>> import torch
        >>> body = ConvEncoder((1, 28, 28), 16, channels=(8, 16, 16), num_blocks=1)
        >>> body.out_shape
        (16, 7, 7)
        >>> body(torch.zeros(5, 2, 1, 28, 28)).shape
        torch.Size([5, 2, 16, 7, 7])
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        out_channels: int,
        *,
        flat: bool = False,
        channels: Sequence[int] = (64, 128),
        num_blocks: int = 2,
        block: Block = "residual",
        activation: str = "silu",
        normalization: Normalization = "group",
        weight_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        check_image_shape("in_shape", in_shape)
        check_sizes(out_channels=out_channels, channels=channels, num_blocks=num_blocks)
        made = Layers(block, activation, normalization, weight_norm, dropout)
        layers = made.stem(in_shape[0], channels[0])
        for level, (before, width) in enumerate(itertools.pairwise((channels[0], *channels))):
            layers += made.down(before) if level else []
            layers += made.blocks([before] + num_blocks * [width])
        layers += made.finish(channels[-1])
        features = latent_shape(in_shape, channels, channels[-1])
        if flat:
            layers += [nn.Flatten(), made.last(nn.Linear(math.prod(features), out_channels))]
        else:
            layers += [made.last(nn.Conv2d(channels[-1], out_channels, 3, padding=1))]
        super().__init__(layers, tuple(in_shape), (out_channels,) if flat else (out_channels, *features[1:]))


class ConvDecoder(_ConvBody):
    r"""A convolutional network from maps of shape (\*, in_channels, h, w), or from vectors, to images (\*, C', H, W).

    It is the mirror image of :class:`ConvEncoder`: a 3x3 convolution, `num_blocks` blocks, then n times an upsampling
    by 2 and `num_blocks` blocks, and a last 3x3 convolution; the last block of each level changes the number of
    channels for the next. Where H is no multiple of :math:`2^n`, each level is cut at the bottom to the size that the
    encoder's level has, :math:`\lceil H / 2^k \rceil`, and W at the right.

    Arguments:
        in_channels: The number of input channels, or of inputs if `flat`.
        out_shape: The shape (C', H, W) of an output, C' the number of parameters per pixel.
        flat: Whether the first layer is linear, from vectors of shape (\*, in_channels) to the first level.
        channels: The number of channels of each level, from the latents on: the encoder's in reverse.
        num_blocks: As for :class:`ConvEncoder`, and so are the arguments that follow.
        block: "residual" or "plain".
        activation: One of the names in `ACTIVATIONS`.
        normalization: "group", "batch" or "none".
        weight_norm: Whether each weight is split into a magnitude per output channel and a direction.
        dropout: The probability with which an activation within a block is dropped in training.
        upsampling: "nearest" to repeat pixels and convolve, or "shuffle" for sub-pixel convolutions; neither starts
            with a checkerboard, see :class:`~logpx.nn.blocks.Upsample`.

    Raises:
        ValueError: If a name is unknown, a size is not positive, or the dropout outside [0, 1).

    Example:
        >>> import torch
        >>> body = ConvDecoder(16, (1, 28, 28), channels=(16, 16, 8), num_blocks=1)
        >>> body.in_shape
        (16, 7, 7)
        >>> body(torch.zeros(5, 2, 16, 7, 7)).shape
        torch.Size([5, 2, 1, 28, 28])
    """

    def __init__(
        self,
        in_channels: int,
        out_shape: Sequence[int],
        *,
        flat: bool = False,
        channels: Sequence[int] = (128, 64),
        num_blocks: int = 2,
        block: Block = "residual",
        activation: str = "silu",
        normalization: Normalization = "group",
        weight_norm: bool = False,
        dropout: float = 0.0,
        upsampling: Upsampling = "nearest",
    ) -> None:
        check_image_shape("out_shape", out_shape)
        check_sizes(in_channels=in_channels, channels=channels, num_blocks=num_blocks)
        check_choice("upsampling", upsampling, get_args(Upsampling))
        made = Layers(block, activation, normalization, weight_norm, dropout)
        sizes = [latent_shape(out_shape, channels[level:], 1)[1:] for level in range(len(channels))]
        if flat:
            layers = made.dense_stem(in_channels, (channels[0], *sizes[0]))
        else:
            layers = made.stem(in_channels, channels[0])
        for level, (width, after) in enumerate(itertools.pairwise((*channels, channels[-1]))):
            layers += made.blocks(num_blocks * [width] + [after])
            layers += made.up(after, sizes[level + 1], upsampling) if level + 1 < len(sizes) else []
        layers += made.finish(channels[-1])
        layers += [made.last(nn.Conv2d(channels[-1], out_shape[0], 3, padding=1))]
        super().__init__(layers, (in_channels,) if flat else (in_channels, *sizes[0]), tuple(out_shape))


def latent_shape(in_shape: Sequence[int], channels: Sequence[int], latent_channels: int) -> tuple[int, int, int]:
    r"""Returns the shape of the latents between :class:`ConvEncoder` and :class:`ConvDecoder`.

    Arguments:
        in_shape: The shape (C, H, W) of an image.
        channels: The number of channels of each of n + 1 levels.
        latent_channels: The number of latent channels.

    Returns:
        (latent_channels, :math:`\lceil H / 2^n \rceil`, :math:`\lceil W / 2^n \rceil`).

    Example:
        >>> latent_shape((3, 32, 32), (64, 128, 128), 8)
        (8, 8, 8)
    """
    factor = 2 ** (len(channels) - 1)
    height, width = (-(-side // factor) for side in in_shape[-2:])
    return latent_channels, height, width
