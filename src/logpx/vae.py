"""The variational autoencoder: a prior, an encoder, a decoder."""

from __future__ import annotations

__all__ = ["VAE", "conv_vae", "mlp_vae"]

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from .conditional import Decoder, GaussianEncoder, StandardNormal
from .likelihoods import Likelihood, make_likelihood
from .nn import MLP, ConvDecoder, ConvEncoder, ResidualMLP, latent_shape

Prior = Literal["normal", "maf"]
SAFE = {"logpx", "torch", "zuko"}
MLPS: dict[str, type[MLP] | type[ResidualMLP]] = {"mlp": MLP, "residual": ResidualMLP}
BLOCKS: dict[str, Literal["plain", "residual"]] = {"conv": "plain", "resnet": "residual"}


class VAE(nn.Module):
    r"""A latent-variable model :math:`p(x) = \int p(x | z) p(z) dz` with an amortized posterior q(z | x).

    References:
        Auto-Encoding Variational Bayes (Kingma and Welling, 2014).

    Arguments:
        prior: A module without arguments that returns p(z), for instance :class:`StandardNormal` or a zuko flow.
        encoder: A module that returns q(z | x).
        decoder: A module that returns p(x | z).
    """

    def __init__(self, prior: nn.Module, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.prior = prior
        self.encoder = encoder
        self.decoder = decoder

    @property
    def is_thread_safe(self) -> bool:
        """Whether threads may weigh draws at the same time, as where every part is of logpx, torch or zuko.

        Of anybody's own parts nobody knows whether they keep or draw something.
        """
        packages = {type(module).__module__.split(".")[0] for module in self.modules()}
        likelihoods = [module.likelihood for module in self.modules() if isinstance(module, Decoder)]
        return packages <= SAFE and all(type(each).__module__.split(".")[0] in SAFE for each in likelihoods)


def mlp_vae(
    event_shape: Sequence[int],
    *,
    likelihood: str | Likelihood = "bernoulli",
    latent_dim: int = 20,
    network: str = "mlp",
    hidden: Sequence[int] = (500, 500),
    activation: str = "relu",
    encoder_dropout: float = 0.0,
    decoder_dropout: float = 0.0,
    prior: Prior = "normal",
    data_mean: Tensor | None = None,
) -> VAE:
    """Builds a VAE of multilayer perceptrons, with a diagonal Gaussian encoder.

    Arguments:
        event_shape: The shape of one datum.
        likelihood: A likelihood, or a name in `LIKELIHOODS` for one with its default options.
        latent_dim: The number of latents L.
        network: "mlp" for :class:`MLP`, or "residual" for :class:`ResidualMLP`.
        hidden: The encoder's widths from x to z; the decoder has them in reverse.
        activation: A name in `nn.ACTIVATIONS`.
        encoder_dropout: The probability with which a hidden unit of the encoder is dropped in training.
        decoder_dropout: The same for the decoder.
        prior: "normal" for N(0, I), or "maf" for a masked autoregressive flow that is learned with the rest.
        data_mean: The mean of the training data, with the event shape: the encoder then sees centred data, and the
            decoder starts at the mean.

    Raises:
        ValueError: If a name is unknown or a size is not positive.
    """
    if latent_dim < 1 or any(width < 1 for width in hidden):
        raise ValueError(
            f"Sizes must be positive, but latent_dim is {latent_dim} and hidden {tuple(hidden)}: give 1 or more."
        )
    if network not in MLPS:
        raise ValueError(f"network must be one of {', '.join(MLPS)}, but is {network!r}: choose one.")
    likelihood, Body = _likelihood(likelihood, event_shape), MLPS[network]
    encode = Body(event_shape, 2 * latent_dim, hidden, activation, encoder_dropout)
    decode = Body((latent_dim,), likelihood.num_parameters, hidden[::-1], activation, decoder_dropout)
    if data_mean is not None:
        decode.last.bias.data.copy_(likelihood.bias(data_mean).flatten())
    return VAE(_prior(prior, (latent_dim,)), _encoder(encode, event_shape, data_mean), Decoder(decode, likelihood))


def conv_vae(
    event_shape: Sequence[int],
    *,
    likelihood: str | Likelihood = "discretized-logistic-mixture",
    latent_dim: int = 20,
    latent_channels: int | None = None,
    network: str = "resnet",
    channels: Sequence[int] = (32, 64, 96),
    num_blocks: int = 1,
    activation: str = "silu",
    normalization: Literal["none", "batch", "group"] = "group",
    weight_norm: bool = False,
    upsampling: Literal["nearest", "shuffle"] = "nearest",
    encoder_dropout: float = 0.0,
    decoder_dropout: float = 0.0,
    prior: Prior = "normal",
    data_mean: Tensor | None = None,
) -> VAE:
    r"""Builds a VAE of convolutional networks for images, with a diagonal Gaussian encoder.

    Arguments:
        event_shape: The shape (C, H, W) of an image.
        likelihood: A likelihood, or a name in `LIKELIHOODS` for one with its default options.
        latent_dim: The number of latents L, where they are a vector.
        latent_channels: The number of channels of latent maps, whose sides are those of the image divided by 2 for each
            entry of `channels` after the first; by default the latents are a vector.
        network: "resnet" for residual blocks, or "conv" for plain convolutions; see :class:`ConvEncoder`.
        channels: The encoder's channels at each resolution from x to z; the decoder has them in reverse.
        num_blocks: The number of blocks at each resolution.
        activation: A name in `nn.ACTIVATIONS`.
        normalization: "group", "batch" or "none".
        weight_norm: Whether each weight is split into a magnitude per output channel and a direction.
        upsampling: "nearest" or "shuffle"; see :class:`ConvDecoder`.
        encoder_dropout: The probability with which an activation of the encoder is dropped in training.
        decoder_dropout: The same for the decoder.
        prior: "normal" for N(0, I), or "maf" for a masked autoregressive flow of a vector, learned with the rest.
        data_mean: The mean of the training data, with the event shape: the encoder then sees centred data, and the
            decoder starts at the mean colour.

    Raises:
        ValueError: If a name is unknown, a size is not positive, or the data are no images.
    """
    if network not in BLOCKS:
        raise ValueError(f"network must be one of {', '.join(BLOCKS)}, but is {network!r}: choose one.")
    likelihood, is_flat = _likelihood(likelihood, event_shape), latent_channels is None
    num_latents = latent_dim if latent_channels is None else latent_channels
    options: dict[str, Any] = {
        "flat": is_flat,
        "num_blocks": num_blocks,
        "block": BLOCKS[network],
        "activation": activation,
        "normalization": normalization,
        "weight_norm": weight_norm,
    }
    encode = ConvEncoder(event_shape, 2 * num_latents, channels=channels, dropout=encoder_dropout, **options)
    shape = (num_latents,) if is_flat else latent_shape(event_shape, channels, num_latents)
    mirrored: dict[str, Any] = {"channels": channels[::-1], "dropout": decoder_dropout, "upsampling": upsampling}
    decode = ConvDecoder(num_latents, likelihood.map_shape, **mirrored, **options)
    if data_mean is not None and decode.last.bias is not None:
        bias = likelihood.bias(data_mean).reshape(likelihood.map_shape)
        decode.last.bias.data.copy_(bias.mean((-2, -1)))
    return VAE(_prior(prior, shape), _encoder(encode, event_shape, data_mean), Decoder(decode, likelihood))


def _likelihood(likelihood: str | Likelihood, event_shape: Sequence[int]) -> Likelihood:
    return make_likelihood(likelihood, event_shape) if isinstance(likelihood, str) else likelihood


def _encoder(body: nn.Module, event_shape: Sequence[int], data_mean: Tensor | None) -> GaussianEncoder:
    # without data the buffer still has the event shape, so that saved weights fit
    return GaussianEncoder(body, torch.zeros(tuple(event_shape)) if data_mean is None else data_mean)


def _prior(name: str, shape: Sequence[int]) -> nn.Module:
    if name == "normal":
        return StandardNormal(shape)
    if name != "maf":
        raise ValueError(f"prior must be normal or maf, but is {name!r}: choose one.")
    if len(shape) != 1:
        raise ValueError(
            f"prior maf is for a vector of latents, but they are maps of shape {tuple(shape)}: set prior normal, or "
            "leave latent_channels out."
        )
    return _zuko().flows.MAF(math.prod(shape), transforms=2, hidden_features=[256])


def _zuko() -> ModuleType:
    """Imports zuko, which takes a second, so that only those who use a flow wait for it."""
    validates = Distribution._validate_args
    import zuko

    # zuko turns the checks of all of torch's distributions off when it is imported
    Distribution.set_default_validate_args(validates)
    return zuko
