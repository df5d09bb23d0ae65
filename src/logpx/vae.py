"""The variational autoencoder: a prior, an encoder, a decoder."""

from __future__ import annotations

__all__ = ["VAE", "mlp_vae"]

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from .conditional import DECODERS, GaussianEncoder, StandardNormal
from .nn import MLP, ResidualMLP

BODIES: dict[str, type[MLP] | type[ResidualMLP]] = {"mlp": MLP, "residual": ResidualMLP}


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


def mlp_vae(
    event_shape: Sequence[int],
    *,
    likelihood: str = "bernoulli",
    latent_dim: int = 20,
    network: str = "mlp",
    hidden: Sequence[int] = (500, 500),
    activation: str = "relu",
    encoder_dropout: float = 0.0,
    decoder_dropout: float = 0.0,
    prior: Literal["normal", "maf"] = "normal",
    data_mean: Tensor | None = None,
) -> VAE:
    """Builds a VAE of multilayer perceptrons, with a diagonal Gaussian encoder.

    Arguments:
        event_shape: The shape of one datum.
        likelihood: A name in `DECODERS`.
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
            f"Sizes must be positive, but latent_dim is {latent_dim} and hidden {tuple(hidden)}: mend them."
        )
    if likelihood not in DECODERS:
        raise ValueError(f"likelihood must be one of {', '.join(DECODERS)}, but is {likelihood!r}: choose one.")
    if network not in BODIES:
        raise ValueError(f"network must be one of {', '.join(BODIES)}, but is {network!r}: choose one.")
    Decoder, Body, num_dims = DECODERS[likelihood], BODIES[network], math.prod(event_shape)
    encode = Body(event_shape, 2 * latent_dim, hidden, activation, encoder_dropout)
    decode = Body((latent_dim,), Decoder.num_parameters * num_dims, hidden[::-1], activation, decoder_dropout)
    # without data the buffer still has the event shape, so that saved weights fit
    center = torch.zeros(tuple(event_shape)) if data_mean is None else data_mean
    if data_mean is not None:
        _output_bias(decode).data.copy_(Decoder.bias(data_mean))
    return VAE(_prior(prior, latent_dim), GaussianEncoder(encode, center), Decoder(decode, event_shape))


def _output_bias(body: MLP | ResidualMLP) -> Tensor:
    last = body[-1]
    return last.bias  # type: ignore[return-value]


def _prior(name: str, latent_dim: int) -> nn.Module:
    if name == "normal":
        return StandardNormal(latent_dim)
    if name == "maf":
        return _zuko().flows.MAF(latent_dim, transforms=2, hidden_features=[256])
    raise ValueError(f"prior must be normal or maf, but is {name!r}: choose one.")


def _zuko() -> ModuleType:
    """Imports zuko, which takes a second, so that only those who use a flow wait for it."""
    validates = Distribution._validate_args
    import zuko

    # zuko turns the checks of all of torch's distributions off when it is imported
    Distribution.set_default_validate_args(validates)
    return zuko
