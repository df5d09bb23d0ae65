"""Settings of a fit: typed, with one line of help each; recipes are complete named sets of them. Imports no torch."""

from __future__ import annotations

__all__ = [
    "DataSettings",
    "EMSettings",
    "ModelSettings",
    "ObjectiveSettings",
    "Settings",
    "TrainSettings",
    "default_recipe",
    "known_recipes",
    "recipe_path",
]

import dataclasses
import difflib
import functools
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from .data.catalogue import CATALOGUE

RECIPES = Path(__file__).parent / "recipes"
# Longer texts and lists are no settings; 4,096 is the longest path of most systems.
LONGEST = 4096
# What PyYAML raises of files, tags and values that it cannot make sense of.
_NO_YAML = (
    *(ArithmeticError, AttributeError, LookupError, OSError),
    *(RecursionError, TypeError, ValueError, yaml.YAMLError),
)


def _setting(default: Any, help: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": help})


def _require_range(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise ValueError(f"{name} must be at least {least}, but is {value}: set it to {least} or more.")


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Which data, and how a model sees them."""

    name: str = _setting("digits", "name of a data set, a .npy or .npz file, a folder of images, or hf:OWNER/NAME")
    data_root: str | None = _setting(None, "folder to look for named data in, before LOGPX_DATA and the user's cache")
    num_valid: int | None = _setting(None, "number of training data held out for validation; null: the data's own")
    binarization: Literal["none", "threshold", "static", "dynamic"] = _setting(
        "none", "how greys become binary: not, at one half, by one fixed draw, or by fresh draws each epoch"
    )
    flip: bool = _setting(False, "mirror a random half of the training images, afresh each epoch")
    data_seed: int = _setting(0, "seed of these draws, apart from the fit's, so that all fits see the same test data")


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """A VAE of multilayer perceptrons or of convolutional networks, or a model whose log p(x) is known."""

    model: Literal["vae", "bernoulli-mixture", "gaussian-mixture", "factor-analysis", "ppca"] = _setting(
        "vae",
        "a variational autoencoder; or a model that knows its log p(x) and is fitted by expectation maximization (EM): "
        "bernoulli-mixture for binary data; gaussian-mixture, factor-analysis or ppca for real ones",
    )
    components: int = _setting(50, "mixtures: number of components")
    covariance: Literal["full", "diagonal", "tied"] = _setting(
        "full", "gaussian-mixture: a covariance matrix per component, variances alone, or one matrix for all"
    )
    pseudo_count: float = _setting(
        1.0, "bernoulli-mixture: how often each component is taken to have seen each pixel on, and off, beforehand"
    )
    variance_floor: float = _setting(
        1e-6, "gaussian-mixture, factor-analysis and ppca: smallest variance, in squared units of the data"
    )
    likelihood: str = _setting(
        "auto",
        "auto (by the kind of data), bernoulli, discretized-logistic-mixture, categorical, discretized-gaussian, "
        "dequantized-gaussian, poisson, negative-binomial, gaussian, continuous-bernoulli or relaxed-bernoulli",
    )
    num_mixtures: int = _setting(5, "components of a discretized logistic mixture")
    log_scale_bound: float = _setting(5.0, "how far log-scales of levels can go from where they start, either way")
    latent_dim: int = _setting(20, "number of latents, where they are a vector; also of factor-analysis and ppca")
    latent_channels: int | None = _setting(None, "conv and resnet: channels of latent maps; null: a vector of latents")
    network: Literal["mlp", "residual", "conv", "resnet"] = _setting(
        "mlp", "multilayer perceptrons (plain or with residual blocks), or convolutions (plain or with residual blocks)"
    )
    hidden: tuple[int, ...] = _setting(
        (500, 500), "mlp and residual: widths of the hidden layers from x to z; the decoder reverses them"
    )
    channels: tuple[int, ...] = _setting(
        (32, 64, 96), "conv and resnet: channels at each resolution from x to z; each resolution is half the one before"
    )
    num_blocks: int = _setting(1, "conv and resnet: blocks at each resolution")
    activation: str = _setting("relu", "relu, leaky-relu, elu, silu, gelu, softplus or tanh")
    normalization: Literal["none", "batch", "group"] = _setting("group", "conv and resnet: what normalizes activations")
    weight_norm: bool = _setting(False, "conv and resnet: split each weight into a magnitude and a direction")
    upsampling: Literal["nearest", "shuffle"] = _setting(
        "nearest", "conv and resnet: repeat pixels and convolve, or convolve and lay channels out as pixels"
    )
    encoder_dropout: float = _setting(0.0, "probability that a hidden unit of the encoder is dropped in training")
    decoder_dropout: float = _setting(0.0, "the same for the decoder")
    prior: Literal["normal", "maf"] = _setting(
        "normal", "N(0, I), or a masked autoregressive flow learned with the rest"
    )
    center: bool = _setting(False, "subtract the training mean before the encoder, and start the decoder at it")

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

    bound: Literal["elbo", "iwae"] = _setting("elbo", "evidence lower bound, or the tighter importance-weighted bound")
    num_samples: int = _setting(1, "draws of z per datum in a training step")
    gradient: Literal["reparam", "stl", "dreg"] = _setting("reparam", "reparam; stl for elbo; dreg for iwae")
    beta: float = _setting(1.0, "weight of the KL term; only 1 gives a bound")
    beta_warmup_epochs: float = _setting(0.0, "epochs over which beta rises from 0")
    free_bits: float = _setting(0.0, "floor of each latent's KL, in nats; 0 turns it off")

    def __post_init__(self) -> None:
        _require_range("num_samples", self.num_samples, 1)
        for name in ("beta", "beta_warmup_epochs", "free_bits"):
            _require_range(name, getattr(self, name), 0)
        if self.bound == "iwae" and self.free_bits:
            raise ValueError("free_bits go with bound elbo alone, because iwae has no separate KL: set free_bits 0.")


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """How the bound is maximized."""

    epochs: int = _setting(50, "passes over the training data")
    batch_size: int = _setting(128, "data per step, over all processes together")
    accumulate: int = _setting(1, "parts in which a step's data are computed one after another, to save memory")
    optimizer: Literal["adam", "adamw", "adamax"] = _setting(
        "adam", "adam, adamw with decoupled weight decay, or adamax, whose steps heed the largest gradients"
    )
    learning_rate: float = _setting(1e-3, "peak learning rate")
    weight_decay: float = _setting(0.0, "weight decay")
    schedule: Literal["constant", "cosine"] = _setting(
        "constant", "learning rate after warm-up: constant, or cosine to 0"
    )
    warmup_steps: int = _setting(0, "steps over which the learning rate rises from 0")
    precision: Literal["32-true", "bf16-mixed"] = _setting(
        "32-true", "float32, or bfloat16 within networks, about 1.7 times as fast where the machine has it"
    )
    clip_norm: float | None = _setting(None, "largest norm of the gradient; null: no clipping")
    ema: float = _setting(
        0.0, "decay per step of an exponential average of the weights, which is then what is kept; 0: off"
    )
    validate_on: Literal["valid", "test", "none"] = _setting(
        "valid",
        "split whose bound is shown each epoch; the best weights are chosen on valid alone, never on test",
    )
    patience: int | None = _setting(None, "epochs without a better validation bound before stopping; null: never")
    on_nonfinite: Literal["stop", "skip"] = _setting("stop", "at a loss that is not finite: stop, or skip the batch")
    tensorboard: bool = _setting(False, "also write TensorBoard events (needs the tensorboard extra)")

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

    max_iterations: int = _setting(500, "largest number of iterations from one start, each a pass over the data")
    tolerance: float = _setting(1e-4, "gain per iteration below which it has converged, in nats per datum")
    restarts: int = _setting(3, "random starts, of which the best after ten iterations goes on")

    def __post_init__(self) -> None:
        for name, least in (("max_iterations", 1), ("tolerance", 0), ("restarts", 1)):
            _require_range(name, getattr(self, name), least)


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides the result of a fit."""

    data: DataSettings = dataclasses.field(default_factory=DataSettings)
    model: ModelSettings = dataclasses.field(default_factory=ModelSettings)
    objective: ObjectiveSettings = dataclasses.field(default_factory=ObjectiveSettings)
    train: TrainSettings = dataclasses.field(default_factory=TrainSettings)
    em: EMSettings = dataclasses.field(default_factory=EMSettings)
    seed: int = _setting(0, "seed of weights, batches and draws")
    device: Literal["auto", "cpu", "cuda"] = _setting("auto", "where to compute")

    @classmethod
    def from_dict(cls, nested: Mapping[str, Any]) -> Settings:
        """Builds settings from nested mappings, as a YAML file gives them; what is absent has its default.

        Arguments:
            nested: The sections data, model, objective, train and em, and seed and device.

        Raises:
            ValueError: If a key is unknown or a value has another type or range.
        """
        if not isinstance(nested, Mapping):
            raise ValueError(f"settings must be a mapping, but are {reprlib.repr(nested)}: see --print-config.")
        _check_keys(nested, cls, "settings")
        _check_not_none(nested, cls, "")
        for name, value in nested.items():
            if name in SECTIONS:
                _check_section(name, value)
            else:
                _check_plain(name, value)
        return _typed(nested)

    @classmethod
    def from_recipe(cls, data: str = "digits", recipe: str | None = None) -> Settings:
        """Returns the settings of a recipe, by default that of a named data set.

        Arguments:
            data: The name or path of the data.
            recipe: The name of a recipe.

        Raises:
            ValueError: If there is no such recipe.
        """
        recipe = recipe or default_recipe(data)
        return cls.from_file(recipe_path(recipe) if recipe else None).override(name=data)

    @classmethod
    def from_file(cls, path: str | Path | None) -> Settings:
        """Reads settings from a YAML file, as `logpx fit --print-config` writes it; None gives the defaults.

        Arguments:
            path: The file.

        Raises:
            ValueError: If the file is no YAML mapping, or as for :meth:`from_dict`; the message names the file.
        """
        if path is None:
            return cls()
        try:
            nested = yaml.safe_load(Path(path).read_text())
        except _NO_YAML as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"{path} cannot be read as YAML ({reason}): mend the file.") from error
        try:
            return cls.from_dict(nested)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def override(self, **values: Any) -> Settings:
        """Returns the settings with some values replaced, each by its own name, such as `epochs=3`.

        Arguments:
            values: The values by the names of their settings.

        Raises:
            ValueError: If a name is unknown, or the model has no such setting.

        Example:
            >>> Settings().override(epochs=3, seed=1).train.epochs
            3
        """
        nested = self.to_dict()
        for name, value in values.items():
            home = next((s for s, section in SECTIONS.items() if name in _names(section)), None)
            if home is None and (name in SECTIONS or name not in _names(Settings)):
                known = [n for section in SECTIONS.values() for n in _names(section)] + ["seed", "device"]
                raise ValueError(_unknown("setting", name, known))
            (nested[home] if home else nested)[name] = value
        settings = Settings.from_dict(nested)
        for name in values:
            _require_model_with(name, settings.model.model)
        return settings

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as nested plain values, fit for YAML and JSON."""
        nested = dataclasses.asdict(self)
        for name in ("hidden", "channels"):
            nested["model"][name] = list(getattr(self.model, name))
        return nested

    def to_yaml(self) -> str:
        """Returns the settings as YAML, fit for --config."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


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


def known_recipes() -> list[str]:
    """Returns the names of the recipes, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def default_recipe(data: str) -> str | None:
    """Returns the recipe of a named data set, or None for anybody's own data."""
    return CATALOGUE[data].default_recipe if data in CATALOGUE else None


def recipe_path(name: str) -> Path:
    """Returns the file of a recipe.

    Raises:
        ValueError: If there is no such recipe.
    """
    if name not in known_recipes():
        raise ValueError(_unknown("recipe", name, known_recipes()))
    return RECIPES / f"{name}.yaml"


def _check_section(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{name} must be a mapping of settings, but is {reprlib.repr(value)}: write one setting per line below it."
        )
    _check_keys(value, SECTIONS[name], name)
    _check_not_none(value, SECTIONS[name], f"{name}.")
    for key, setting in value.items():
        _check_plain(f"{name}.{key}", setting)


def _check_plain(name: str, value: Any) -> None:
    """Refuses what no setting can be, and what would fill a message: aliases make much of few lines."""
    each = value if isinstance(value, list | tuple) else [value]
    is_long = len(each) > LONGEST or any(isinstance(one, str) and len(one) > LONGEST for one in each)
    if is_long or not all(one is None or isinstance(one, bool | int | float | str) for one in each):
        raise ValueError(
            f"{name} must be a number, a text or a list of numbers, but is {reprlib.repr(value)}: give such a value."
        )


def _typed(nested: Mapping[str, Any]) -> Settings:
    """Builds the settings after checking the type of every value against its annotation."""
    from jsonargparse import ArgumentError

    parser = _parser()
    try:
        parsed = parser.parse_object({"settings": dict(nested)})
    except ArgumentError as error:
        text = " ".join(str(error).replace('Parser key "settings.', '"').split())
        raise ValueError(_explained(text)) from error
    settings: Settings = parser.instantiate(parsed).settings
    return settings


@functools.cache
def _parser() -> Any:
    """Returns the parser of settings; making it takes longer than using it."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--settings", type=Settings)
    return parser


def _explained(text: str) -> str:
    """Says in our words what the parser says of a value."""
    found = re.fullmatch(r'"([\w.]+)": Expected a (<class .\w+.>|typing\.Literal\[.*\])\. Got value: (.*)', text)
    if found is None:
        return f"Settings do not fit: {text.rstrip('.')}: give a value of the type that is expected."
    name, kind, value = found.groups()
    expected = kind.removeprefix("<class '").removesuffix("'>").replace("typing.Literal", "one of ")
    return f"{name} must be {expected}, but is {value}: give such a value."


def _check_not_none(nested: Mapping[str, Any], section: type, where: str) -> None:
    """Refuses null where a value is needed, which the type checker lets pass."""
    for field in dataclasses.fields(section):
        if field.name in SECTIONS:
            continue
        if field.name in nested and nested[field.name] is None and "None" not in str(field.type):
            name = where + field.name
            raise ValueError(f"{name} must be of type {field.type}, but is None: give a value, or drop the line.")


def _require_model_with(name: str, model: str) -> None:
    """Refuses a setting that is given by name and would do nothing, because another model has it."""
    if name in ("model", "seed", "device") or (name in _names(DataSettings) and name != "flip"):
        return
    with_it = [other for other, own in SETTINGS_OF.items() if name in own or name in _names(EMSettings)]
    if not with_it or name == "latent_dim":
        with_it = ["vae", *with_it]
    if model not in with_it:
        raise ValueError(
            f"{name} is a setting of model {' or '.join(with_it)}, but the model is {model}: leave it out, or choose "
            "another model."
        )


def _check_keys(nested: Mapping[str, Any], section: type, where: str) -> None:
    for key in nested:
        if key not in _names(section):
            raise ValueError(_unknown(f"key in {where}", key, _names(section)))


def _names(section: type) -> list[str]:
    return [field.name for field in dataclasses.fields(section)]


def _unknown(what: str, name: Any, known: list[str]) -> str:
    close = difflib.get_close_matches(str(name)[:LONGEST], known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}."
    return f"Unknown {what} {reprlib.repr(name)}: {hint}"
