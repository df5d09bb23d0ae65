"""Variational autoencoders of pythae as models with three methods."""

from __future__ import annotations

__all__ = ["from_pythae"]

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from ..utils import LogpxError
from ._foreign import load_library
from .networks import Adapted, adapt

# These have the prior N(0, I) and a Gaussian encoder; others of pythae's models differ in one of the two.
KINDS = ("VAE", "BetaVAE", "IWAE")


def from_pythae(model: Any) -> Adapted:
    r"""Makes a model of a VAE of pythae.

    A model with reconstruction loss "bce" is a Bernoulli likelihood of binary data. One with "mse" is a Gaussian,

    .. math:: p(x | z) = \mathcal{N}(x; \mu(z), I),

    whose standard deviation of 1 in each dimension was chosen by nobody: on data in [0, 1] its log p(x) says little,
    and of 8-bit data it is no log-probability.

    References:
        Pythae: Unifying Generative Autoencoders in Python (Chadebec, Vincent and Allassonnière, 2022).

    Arguments:
        model: A `pythae.models.VAE`, or a BetaVAE or IWAE.

    Raises:
        LogpxError: If pythae is not installed.
        TypeError: If the model is of another kind.
    """
    kinds = tuple(getattr(load_library("pythae.models", "pythae"), name) for name in KINDS)
    if type(model) not in kinds:
        raise TypeError(
            f"from_pythae takes pythae's {', '.join(KINDS)}, but got {type(model).__name__}, whose prior or encoder "
            "may be another: write its three methods, or use logpx.adapt."
        )
    shape, loss = tuple(model.model_config.input_dim), model.model_config.reconstruction_loss

    def encode(x: Tensor) -> tuple[Tensor, Tensor]:
        if tuple(x.shape[1:]) != shape:
            raise ValueError(
                f"The model is for data of shape {shape}, but a datum has shape {tuple(x.shape[1:])}: reshape the data."
            )
        output = model.encoder(x)
        return output["embedding"], output["log_covariance"]

    def decode(z: Tensor) -> Tensor:
        reconstruction: Tensor = model.decoder(z)["reconstruction"]
        return reconstruction

    def gaussian(means: Tensor) -> Distribution:
        mean = means.unflatten(-1, shape)
        return Independent(Normal(mean, torch.ones_like(mean), validate_args=False), len(shape), validate_args=False)

    if loss == "bce":
        return adapt(encode, decode, "bernoulli", outputs="probabilities", event_shape=shape)
    if loss == "mse":
        return adapt(encode, decode, gaussian, event_shape=shape)
    raise LogpxError(f"from_pythae knows the reconstruction losses bce and mse, but got {loss!r}: use logpx.adapt.")
