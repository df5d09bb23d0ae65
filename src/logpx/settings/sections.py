"""The sections of the settings: which data, the model, the bound, and how it is maximized."""

from __future__ import annotations

__all__ = [
    "SECTIONS",
    "SETTINGS_OF",
    "DataSettings",
    "EMSettings",
    "ModelSettings",
    "ObjectiveSettings",
    "TrainSettings",
    "setting",
]

import dataclasses
from typing import Any, Literal


def setting(default: Any, help: str) -> Any:
    """Returns a field of a section, with its help."""
    return dataclasses.field(default=default, metadata={"help": help})


def _require_range(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise ValueError(f"{name} must be at least {least}, but is {value}: set it to {least} or more.")


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which data, and how a model sees them."""

    name: str = setting("digits", "name of a data set, a .npy or .npz file, a folder of images, or hf:OWNER/NAME")
    data_root: str | None = setting(None, "folder to look for named data in, before LOGPX_DATA and the user's cache")
    num_valid: int | None = setting(None, "number of training data held out for validation; null: the data's own")
    binarization: Literal["none", "threshold", "static", "dynamic"] = setting(
        "none", "how greys become binary: not, at one half, by one fixed draw, or by fresh draws each epoch"
    )
    flip: bool = setting(False, "mirror a random half of the training images, afresh each epoch")
    data_seed: int = setting(0, "seed of these draws, apart from the fit's, so that all fits see the same test data")


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """A VAE of multilayer perceptrons or of convolutional networks, or a model whose log p(x) is known."""

    model: Literal["vae", "bernoulli-mixture", "gaussian-mixture", "factor-analysis", "ppca"] = setting(
        "vae",
        "a variational autoencoder; or a model that knows its log p(x) and is fitted by expectation maximization (EM): "
        "bernoulli-mixture for binary data; gaussian-mixture, factor-analysis or ppca for real ones",
    )
    components: int = setting(50, "mixtures: number of components")
    covariance: Literal["full", "diagonal", "tied"] = setting(
        "full", "gaussian-mixture: a covariance matrix per component, variances alone, or one matrix for all"
    )
    pseudo_count: float = setting(
        1.0, "bernoulli-mixture: how often each component is taken to have seen each pixel on, and off, beforehand"
    )
    variance_floor: float = setting(
        1e-6, "gaussian-mixture, factor-analysis and ppca: smallest variance, in squared units of the data"
    )
    likelihood: str = setting(
        "auto",
        "auto (by the kind of data), bernoulli, discretized-logistic-mixture, categorical, discretized-gaussian, "
        "dequantized-gaussian, poisson, negative-binomial, gaussian, continuous-bernoulli or relaxed-bernoulli",
    )
    num_mixtures: int = setting(5, "components of a discretized logistic mixture")
    log_scale_bound: float = setting(5.0, "how far log-scales of levels can go from where they start, either way")
    latent_dim: int = setting(20, "number of latents, where they are a vector; also of factor-analysis and ppca")
    latent_channels: int | None = setting(None, "conv and resnet: channels of latent maps; null: a vector of latents")
    network: Literal["mlp", "residual", "conv", "resnet"] = setting(
        "mlp", "multilayer perceptrons (plain or with residual blocks), or convolutions (plain or with residual blocks)"
    )
    hidden: tuple[int, ...] = setting(
        (500, 500), "mlp and residual: widths of the hidden layers from x to z; the decoder reverses them"
    )
    channels: tuple[int, ...] = setting(
        (32, 64, 96), "conv and resnet: channels at each resolution from x to z; each resolution is half the one before"
    )
    num_blocks: int = setting(1, "conv and resnet: blocks at each resolution")
    activation: str = setting("relu", "relu, leaky-relu, elu, silu, gelu, softplus or tanh")
    normalization: Literal["none", "batch", "group"] = setting("group", "conv and resnet: what normalizes activations")
    weight_norm: bool = setting(False, "conv and resnet: split each weight into a magnitude and a direction")
    upsampling: Literal["nearest", "shuffle"] = setting(
        "nearest", "conv and resnet: repeat pixels and convolve, or convolve and lay channels out as pixels"
    )
    encoder_dropout: float = setting(0.0, "probability that a hidden unit of the encoder is dropped in training")
    decoder_dropout: float = setting(0.0, "the same for the decoder")
    prior: Literal["normal", "maf"] = setting(
        "normal", "N(0, I), or a masked autoregressive flow learned with the rest"
    )
    center: bool = setting(False, "subtract the training mean before the encoder, and start the decoder at it")

    def __post_init__(self) -> None:
        for name in ("components", "num_mixtures", "latent_dim", "num_blocks"):
            _require_range(name, getattr(self, name), 1)
        _require_range("pseudo_count", self.pseudo_count, 0)
        if not 0 < self.variance_floor < float("inf"):
            raise ValueError(f"variance_floor must be above 0, but is {self.variance_floor}: mend the setting.")
        if not 0 < self.log_scale_bound <= 20:
            raise ValueError(
                f"log_scale_bound must be above 0 and at most 20, but is {self.log_scale_bound}: the default is 5."
            )
        if self.latent_channels is not None:
            _require_range("latent_channels", self.latent_channels, 1)
        for name in ("hidden", "channels"):
            for width in getattr(self, name):
                _require_range(name, width, 1)


@dataclasses.dataclass(frozen=True)
class ObjectiveSettings:
    """The bound that is maximized."""

    bound: Literal["elbo", "iwae"] = setting("elbo", "evidence lower bound, or the tighter importance-weighted bound")
    num_samples: int = setting(1, "draws of z per datum in a training step")
    gradient: Literal["reparam", "stl", "dreg"] = setting("reparam", "reparam; stl for elbo; dreg for iwae")
    beta: float = setting(1.0, "weight of the KL term; only 1 gives a bound")
    beta_warmup_epochs: float = setting(0.0, "epochs over which beta rises from 0")
    free_bits: float = setting(0.0, "floor of each latent's KL, in nats; 0 turns it off")

    def __post_init__(self) -> None:
        _require_range("num_samples", self.num_samples, 1)
        for name in ("beta", "beta_warmup_epochs", "free_bits"):
            _require_range(name, getattr(self, name), 0)
        if self.bound == "iwae" and self.free_bits:
            raise ValueError("free_bits go with bound elbo alone, because iwae has no separate KL: set free_bits 0.")


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """How the bound is maximized."""

    epochs: int = setting(50, "passes over the training data")
    batch_size: int = setting(128, "data per step, over all processes together")
    accumulate: int = setting(1, "parts in which a step's data are computed one after another, to save memory")
    optimizer: Literal["adam", "adamw", "adamax"] = setting(
        "adam", "adam, adamw with decoupled weight decay, or adamax, whose steps heed the largest gradients"
    )
    learning_rate: float = setting(1e-3, "peak learning rate")
    weight_decay: float = setting(0.0, "weight decay")
    schedule: Literal["constant", "cosine"] = setting(
        "constant", "learning rate after warm-up: constant, or cosine to 0"
    )
    warmup_steps: int = setting(0, "steps over which the learning rate rises from 0")
    precision: Literal["32-true", "bf16-mixed"] = setting(
        "32-true", "float32, or bfloat16 within networks, about 1.7 times as fast where the machine has it"
    )
    clip_norm: float | None = setting(None, "largest norm of the gradient; null: no clipping")
    ema: float = setting(
        0.0, "decay per step of an exponential average of the weights, which is then what is kept; 0: off"
    )
    validate_on: Literal["valid", "test", "none"] = setting(
        "valid",
        "split whose bound is shown each epoch; the best weights are chosen on valid alone, never on test",
    )
    patience: int | None = setting(None, "epochs without a better validation bound before stopping; null: never")
    on_nonfinite: Literal["stop", "skip"] = setting("stop", "at a loss that is not finite: stop, or skip the batch")
    tensorboard: bool = setting(False, "also write TensorBoard events (needs the tensorboard extra)")

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            _require_range(name, getattr(self, name), 1)
        for name in ("learning_rate", "weight_decay", "warmup_steps", "ema"):
            _require_range(name, getattr(self, name), 0)
        if self.clip_norm is not None:
            _require_range("clip_norm", self.clip_norm, 0)
        if self.patience is not None:
            _require_range("patience", self.patience, 1)


@dataclasses.dataclass(frozen=True)
class EMSettings:
    """How expectation maximization climbs, for models that know their log p(x)."""

    max_iterations: int = setting(500, "largest number of iterations from one start, each a pass over the data")
    tolerance: float = setting(1e-4, "gain per iteration below which it has converged, in nats per datum")
    restarts: int = setting(3, "random starts, of which the best after ten iterations goes on")

    def __post_init__(self) -> None:
        for name, least in (("max_iterations", 1), ("tolerance", 0), ("restarts", 1)):
            _require_range(name, getattr(self, name), least)


SECTIONS: dict[str, type] = {
    "data": DataSettings,
    "model": ModelSettings,
    "objective": ObjectiveSettings,
    "train": TrainSettings,
    "em": EMSettings,
}
# The settings of each model that EM fits, beside data, seed, device and those of EM; all others are a VAE's.
SETTINGS_OF = {
    "bernoulli-mixture": ("components", "pseudo_count"),
    "gaussian-mixture": ("components", "covariance", "variance_floor"),
    "factor-analysis": ("latent_dim", "variance_floor"),
    "ppca": ("latent_dim", "variance_floor"),
}
