"""The model that settings describe, and its weights in a file that cannot execute code."""

from __future__ import annotations

__all__ = ["build_model", "likelihood_of", "load_weights", "save_weights"]

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from .exact import BernoulliMixture, FactorAnalysis, GaussianMixture, ProbabilisticPCA
from .files import first_line, write_atomically
from .likelihoods import LIKELIHOODS, choose_likelihood, make_likelihood
from .model import LatentVariableModel, as_model
from .settings import ModelSettings, Settings
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

    Models that EM fits are blank: EM starts them from the data.

    Arguments:
        settings: The settings.
        event_shape: The shape of one datum.
        kind: The kind of the data as the model sees them: binary, 8-bit or real.
        levels: The number of levels of 8-bit data.
        data_mean: The mean of the training data, with the event shape, for models that are centred.

    Raises:
        ValueError: If the model or its likelihood does not go with the data, or a size is wrong.
    """
    model, name = settings.model, likelihood_of(settings.model, kind)
    if model.model != "vae":
        return as_model(_blank(model, event_shape))
    likelihood = make_likelihood(
        name,
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


def likelihood_of(model: ModelSettings, kind: str) -> str:
    """Returns the name of the likelihood p(x | z) of the settings' model, after checking that it goes with the data.

    Arguments:
        model: The settings of the model.
        kind: The kind of the data as the model sees them: binary, 8-bit or real.

    Raises:
        ValueError: If the model or its likelihood does not go with such data.
    """
    if model.model == "vae":
        return choose_likelihood(model.likelihood, kind)
    name = "bernoulli" if model.model == "bernoulli-mixture" else "gaussian"
    likelihood = LIKELIHOODS[name]
    if kind not in likelihood.exact_kinds + likelihood.relaxed_kinds:
        cure = {
            "bernoulli": "choose model gaussian-mixture, or binarize the data (binarization static)",
            "gaussian": "choose model bernoulli-mixture, or leave greys as they are (binarization none)",
        }[name]
        raise ValueError(f"model {model.model!r} is not for {kind} data: {cure}.")
    return name


def _blank(model: ModelSettings, event_shape: Sequence[int]) -> nn.Module:
    shape, floor = tuple(event_shape), model.variance_floor
    if model.model == "bernoulli-mixture":
        return BernoulliMixture.blank(model.components, shape, model.pseudo_count)
    if model.model == "gaussian-mixture":
        return GaussianMixture.blank(model.components, shape, model.covariance, floor)
    linear = FactorAnalysis if model.model == "factor-analysis" else ProbabilisticPCA
    return linear.blank(model.latent_dim, shape, floor)


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
