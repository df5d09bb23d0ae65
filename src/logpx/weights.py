"""The model that settings describe, and its weights in a file that cannot execute code."""

from __future__ import annotations

__all__ = ["build_model", "check_given", "likelihood_of", "load_weights", "save_weights"]

import dataclasses
import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from .exact import BernoulliMixture, FactorAnalysis, GaussianMixture, ProbabilisticPCA
from .files import first_line, write_atomically
from .likelihoods import LIKELIHOODS, Likelihood, choose_likelihood, make_likelihood
from .model import LatentVariableModel, as_model
from .settings import ModelSettings, Settings
from .utils import LogpxError, keyed_rng
from .vae import BLOCKS, MLPS, conv_vae, mlp_vae

# Where a file of weights holds their digest, in its header.
DIGEST = "logpx.sha256"
# The settings of a model that the builders take under the same names.
SHARED = ("latent_dim", "network", "activation", "encoder_dropout", "decoder_dropout", "prior")
MLP = ("hidden",)
CONV = ("latent_channels", "channels", "num_blocks", "normalization", "weight_norm", "upsampling")
# Those that only some likelihoods have.
OPTIONS = ("num_mixtures", "log_scale_bound")


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
        **{name: getattr(model, name) for name in OPTIONS},
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


def check_given(given: Collection[str], settings: Settings, kind: str, is_own: bool = False) -> None:
    """Refuses settings of a model that were given by name and that no part of it would read.

    Arguments:
        given: The names of the settings that were given, rather than left to a recipe or a default.
        settings: All settings.
        kind: The kind of the data as the model sees them: binary, 8-bit or real.
        is_own: Whether the model is somebody's own, which reads no settings.

    Raises:
        ValueError: If a setting would do nothing.
    """
    names = {field.name for field in dataclasses.fields(ModelSettings)}
    for name in [name for name in given if name in names]:
        if is_own:
            raise ValueError(f"{name} does nothing for a model of your own: leave it out, or build the model with it.")
        if (sentence := _idle(name, settings.model, kind)) is not None:
            raise ValueError(sentence)


def _idle(name: str, model: ModelSettings, kind: str) -> str | None:
    """Returns why a setting would do nothing, or None where it does something."""
    is_conv, likelihood = model.network in BLOCKS, choose_likelihood(model.likelihood, kind)
    if name in (MLP if is_conv else CONV) and getattr(model, name) is not None:
        others = " or ".join(MLPS if is_conv else BLOCKS)
        return f"{name} does nothing with network {model.network}: leave it out, or choose network {others}."
    if name in OPTIONS and not _has(LIKELIHOODS[likelihood], name):
        others = " or ".join(other for other, each in LIKELIHOODS.items() if _has(each, name))
        return f"{name} does nothing with likelihood {likelihood}: leave it out, or choose likelihood {others}."
    if name == "latent_dim" and is_conv and model.latent_channels is not None:
        maps = f"latent_channels {model.latent_channels}, which makes maps of them"
        return f"latent_dim does nothing with {maps}: leave it out, or set latent_channels null for a vector."
    return None


def _has(likelihood: type[Likelihood], option: str) -> bool:
    return option in {field.name for field in dataclasses.fields(likelihood)}


def save_weights(state: dict[str, torch.Tensor], path: Path) -> None:
    """Writes weights to a safetensors file with their digest, whole or not at all.

    Arguments:
        state: The weights by name.
        path: The file.
    """
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    content = safetensors.torch.save(tensors, metadata={DIGEST: _digest(tensors)})
    write_atomically(path, lambda tmp: tmp.write_bytes(content))


def load_weights(model: nn.Module, path: Path) -> None:
    """Reads weights from a safetensors file into a model.

    Files of other programs, which hold no digest of ours, are not checked against one.

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
        state = _checked(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise LogpxError(f"{path} cannot be read as weights ({first_line(error)}): restore it or fit again.") from error
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise LogpxError(
            f"{path} holds weights of another architecture: {first_line(error, 1)}; use the model of the run."
        ) from error


def _checked(path: Path) -> dict[str, torch.Tensor]:
    with safetensors.safe_open(path, "pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        kept = (file.metadata() or {}).get(DIGEST)
    if kept is not None and kept != _digest(state):
        raise ValueError("its values are not those that were written")
    return state


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    """Returns a digest of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
