"""The model that settings describe, and its weights in a file that cannot execute code."""

from __future__ import annotations

__all__ = ["build_model", "load_weights", "save_weights"]

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from .files import first_line, write_atomically
from .likelihoods import choose_likelihood, make_likelihood
from .model import LatentVariableModel, as_model
from .settings import Settings
from .utils import LogpxError, keyed_rng
from .vae import BLOCKS, conv_vae, mlp_vae

# The settings of a model that the builders take under the same names.
SHARED = ("latent_dim", "network", "activation", "encoder_dropout", "decoder_dropout", "prior")
MLP = ("hidden",)
CONV = ("latent_channels", "channels", "num_blocks", "normalization", "weight_norm", "upsampling")


def build_model(
    settings: Settings,
    event_shape: list[int] | tuple[int, ...],
    kind: str,
    levels: int | None = None,
    data_mean: torch.Tensor | None = None,
) -> LatentVariableModel:
    """Builds the model that the settings describe, its initial weights a function of the seed.

    Arguments:
        settings: The settings.
        event_shape: The shape of one datum.
        kind: The kind of the data as the model sees them: binary, 8-bit or real.
        levels: The number of levels of 8-bit data.
        data_mean: The mean of the training data, with the event shape, for models that are centred.

    Raises:
        ValueError: If the likelihood does not go with the data, or a size is wrong.
    """
    model = settings.model
    likelihood = make_likelihood(
        choose_likelihood(model.likelihood, kind),
        event_shape,
        levels=levels,
        num_mixtures=model.num_mixtures,
        log_scale_bound=model.log_scale_bound,
    )
    shared: dict[str, Any] = {"likelihood": likelihood, "data_mean": data_mean if model.center else None}
    shared |= {name: getattr(model, name) for name in SHARED}
    is_conv = model.network in BLOCKS
    build, own = (conv_vae, CONV) if is_conv else (mlp_vae, MLP)
    with keyed_rng(settings.seed, "weights"):
        vae = build(event_shape, **shared, **{name: getattr(model, name) for name in own})
    return as_model(vae)


def save_weights(state: dict[str, torch.Tensor], path: Path) -> None:
    """Writes weights to a safetensors file, whole or not at all.

    Arguments:
        state: The weights by name.
        path: The file.
    """
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    write_atomically(path, lambda tmp: tmp.write_bytes(safetensors.torch.save(tensors)))


def load_weights(model: nn.Module, path: Path) -> None:
    """Reads weights from a safetensors file into a model.

    Arguments:
        model: The module that takes the weights.
        path: The file.

    Raises:
        LogpxError: If the file is missing, damaged, or holds the weights of another architecture.
    """
    if not path.exists():
        raise LogpxError(
            f"{path} is not there: the fit has not come so far; try the last weights, or continue the fit."
        )
    try:
        state = safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise LogpxError(f"{path} cannot be read as weights ({first_line(error)}): restore it or fit again.") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise LogpxError(
            f"{path} holds weights of another architecture: {first_line(error, 1)}; use the model of the run."
        ) from error
