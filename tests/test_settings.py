"""Settings are typed, complete, survive a round trip, and say what is wrong with them."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from logpx.cli import main
from logpx.data.catalogue import CATALOGUE
from logpx.settings import (
    SECTIONS,
    SETTINGS_OF,
    ModelSettings,
    Settings,
    default_recipe,
    known_recipes,
    recipe_path,
)
from logpx.weights import check_given
from logpx.yaml_loader import BoundedLoader

# For each setting a value other than its default, and other than that of the recipe of digits.
OTHER: dict[str, Any] = {
    "data_root": "/elsewhere",
    "num_valid": 7,
    "binarization": "static",
    "flip": True,
    "likelihood": "gaussian",
    "model": "factor-analysis",
    "components": 7,
    "covariance": "tied",
    "pseudo_count": 0.5,
    "variance_floor": 1e-3,
    "max_iterations": 20,
    "tolerance": 0.01,
    "restarts": 5,
    "num_mixtures": 3,
    "log_scale_bound": 7.5,
    "latent_dim": 3,
    "latent_channels": 6,
    "network": "resnet",
    "hidden": (7, 7),
    "channels": (7, 9),
    "num_blocks": 2,
    "activation": "elu",
    "normalization": "batch",
    "weight_norm": True,
    "upsampling": "shuffle",
    "encoder_dropout": 0.1,
    "decoder_dropout": 0.2,
    "prior": "maf",
    "center": False,
    "bound": "iwae",
    "num_samples": 4,
    "gradient": "stl",
    "beta": 0.5,
    "beta_warmup_epochs": 2.5,
    "free_bits": 0.25,
    "epochs": 9,
    "batch_size": 11,
    "accumulate": 2,
    "optimizer": "adamax",
    "learning_rate": 3e-4,
    "weight_decay": 0.01,
    "schedule": "constant",
    "warmup_steps": 5,
    "precision": "bf16-mixed",
    "clip_norm": 2.0,
    "ema": 0.9,
    "validate_on": "test",
    "patience": 4,
    "on_nonfinite": "skip",
    "tensorboard": True,
    "data_seed": 3,
    "seed": 5,
    "device": "cpu",
}


# The models that have the settings that a VAE has not.
MODEL_OF = {
    **dict.fromkeys(("components", "covariance", "variance_floor"), "gaussian-mixture"),
    **dict.fromkeys(("pseudo_count", "max_iterations", "tolerance", "restarts"), "bernoulli-mixture"),
}


def given(name: str) -> dict[str, Any]:
    """A setting, and with it the model that has it."""
    return {"model": MODEL_OF.get(name, "vae"), name: OTHER[name]}


def flat(settings: Settings) -> dict[str, Any]:
    sections = {name: getattr(settings, name) for name in SECTIONS}
    values = {f.name: getattr(s, f.name) for s in sections.values() for f in dataclasses.fields(s)}
    return {**values, "seed": settings.seed, "device": settings.device}


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["fit", *words, "--print-config"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_the_names_of_settings_are_unique_so_that_each_can_be_overridden_alone() -> None:
    names = [f.name for section in SECTIONS.values() for f in dataclasses.fields(section)] + ["seed", "device"]
    assert len(set(names)) == len(names)
    assert set(OTHER) == set(names) - {"name"}


@pytest.mark.parametrize("recipe", known_recipes())
def test_a_recipe_is_settings_of_which_each_line_counts(recipe: str) -> None:
    nested = yaml.safe_load(recipe_path(recipe).read_text())
    assert nested
    resolved = Settings.from_recipe("digits", recipe).to_dict()
    for section, values in nested.items():
        for name, value in values.items():
            assert resolved[section][name] == value


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_known_data_set_has_a_recipe(name: str) -> None:
    recipe = default_recipe(name)
    assert recipe in known_recipes()
    settings = Settings.from_recipe(name)
    assert settings.data.name == name
    assert settings == Settings.from_recipe(name, recipe)


@pytest.mark.parametrize("name", CATALOGUE)
def test_only_photographs_of_things_are_mirrored(name: str) -> None:
    assert Settings.from_recipe(name).data.flip == (name == "cifar10")


def test_data_of_ones_own_have_the_defaults() -> None:
    assert Settings.from_recipe("own.npy") == Settings().override(name="own.npy")


@pytest.mark.parametrize("settings", [Settings(), *(Settings.from_recipe("digits", name) for name in known_recipes())])
def test_yaml_brings_back_equal_settings(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(settings.to_yaml())
    back = Settings.from_file(path)
    assert back == settings
    assert hash(back) == hash(settings)


@pytest.mark.parametrize("name", OTHER)
def test_any_setting_is_overridden_by_its_own_name_and_nothing_else_changes(name: str) -> None:
    before = Settings.from_recipe("digits").override(model=given(name)["model"] if name != "model" else "vae")
    after = before.override(**{name: OTHER[name]})
    assert {key: value for key, value in flat(after).items() if value != flat(before)[key]} == {name: OTHER[name]}
    assert Settings.from_dict(yaml.safe_load(after.to_yaml())) == after


@pytest.mark.parametrize("name", OTHER)
def test_the_command_line_beats_the_recipe_in_any_setting(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = []
    for key, value in given(name).items():
        values = value if isinstance(value, tuple) else [value]
        words += ["--" + key.replace("_", "-"), *(str(v).lower() if isinstance(v, bool) else str(v) for v in values)]
    text = printed(capsys, "digits", *words)
    assert Settings.from_dict(yaml.safe_load(text)) == Settings.from_recipe("digits").override(**given(name))


@pytest.mark.parametrize(
    "model, name, words",
    [
        ("vae", "components", "bernoulli-mixture or gaussian-mixture, but the model is vae"),
        ("vae", "covariance", "gaussian-mixture, but the model is vae"),
        ("vae", "pseudo_count", "bernoulli-mixture, but"),
        ("vae", "max_iterations", "bernoulli-mixture or gaussian-mixture or factor-analysis or ppca, but"),
        ("bernoulli-mixture", "variance_floor", "gaussian-mixture or factor-analysis or ppca, but"),
        ("bernoulli-mixture", "latent_dim", "vae or factor-analysis or ppca, but the model is bernoulli-mixture"),
        ("bernoulli-mixture", "hidden", "vae, but the model is bernoulli-mixture: leave it out"),
        ("gaussian-mixture", "likelihood", "vae, but"),
        ("factor-analysis", "epochs", "vae, but"),
        ("ppca", "num_samples", "vae, but"),
        ("ppca", "components", "bernoulli-mixture or gaussian-mixture, but the model is ppca"),
        ("ppca", "flip", "vae, but"),
    ],
)
def test_a_setting_that_the_model_has_not_is_refused_where_it_is_given_by_name(
    model: str, name: str, words: str
) -> None:
    settings = Settings.from_recipe("digits").override(model=model)
    for values in ({name: OTHER[name]}, {name: OTHER[name], "model": model}):
        with pytest.raises(ValueError, match=f"^{name} is a setting of model.*{words}"):
            settings.override(**values)
    # complete settings hold those of all models
    assert Settings.from_dict(settings.to_dict()) == settings


def test_the_settings_of_each_model_are_all_its_own() -> None:
    for model in ("vae", *SETTINGS_OF):
        settings = Settings().override(model=model)
        for name in ("data_root", "binarization", "seed", "device", *SETTINGS_OF.get(model, ("hidden", "epochs"))):
            assert flat(settings.override(**{name: OTHER[name]}))[name] == OTHER[name]


def test_print_config_is_the_resolved_settings_and_config_reads_them_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--epochs", "3", "--hidden", "8", "4", "--seed", "2"]
    text = printed(capsys, "mnist", "--recipe", "grey-bce", *words)
    wanted = Settings.from_recipe("mnist", "grey-bce").override(epochs=3, hidden=(8, 4), seed=2)
    assert text == wanted.to_yaml()
    path = tmp_path / "config.yaml"
    path.write_text(text)
    assert printed(capsys, "mnist", "--config", str(path)) == text
    assert yaml.safe_load(printed(capsys, "mnist", "--config", str(path), "--epochs", "4"))["train"]["epochs"] == 4


@pytest.mark.parametrize("name", ["clip_norm", "patience", "num_valid", "latent_channels"])
def test_what_may_be_absent_is_taken_away_by_the_word_of_its_help(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {f.name: f for section in SECTIONS.values() for f in dataclasses.fields(section)}
    found = re.search(r"; (\w+): ", fields[name].metadata["help"])
    assert found is not None
    text = printed(capsys, "digits", "--" + name.replace("_", "-"), found[1])
    assert flat(Settings.from_dict(yaml.safe_load(text)))[name] is None


def test_a_file_is_parsed_once_and_again_when_it_holds_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []

    def load(text: str) -> BoundedLoader:
        parsed.append(text)
        return BoundedLoader(text)

    monkeypatch.setattr("logpx.settings.settings.BoundedLoader", load)
    path = tmp_path / "config.yaml"
    for seed in (3, 3, 4):
        path.write_text(f"seed: {seed}")
        os.utime(path, (0, 0))
        assert Settings.from_file(path) == Settings.from_file(path) == Settings(seed=seed)
    assert parsed == ["seed: 3", "seed: 4"]


@pytest.mark.parametrize(
    "nested, words",
    [
        ({"trian": {}}, ["settings", "'trian'", "did you mean 'train'"]),
        ({"train": {"epoch": 3}}, ["key in train", "'epoch'", "did you mean 'epochs'"]),
        ({"model": {"qqq": 3}}, ["key in model", "'qqq'", "known are", "latent_dim"]),
        ({"train": 3}, ["train must be a mapping", "3"]),
        ({"train": None}, ["train must be a mapping", "None"]),
        ({"train": {"epochs": "many"}}, ["train.epochs", "int", "many"]),
        ({"train": {"epochs": 2.5}}, ["train.epochs", "int", "2.5"]),
        ({"train": {"tensorboard": "perhaps"}}, ["train.tensorboard", "bool", "perhaps"]),
        ({"train": {"optimizer": "sgd"}}, ["train.optimizer", "adam", "sgd"]),
        ({"data": {"binarization": "random"}}, ["data.binarization", "dynamic", "random"]),
        ({"model": {"hidden": "wide"}}, ["model.hidden", "wide"]),
        ({"model": {"hidden": [8, 0]}}, ["hidden must be at least 1", "0"]),
        ({"model": {"latent_dim": 0}}, ["latent_dim must be at least 1", "0"]),
        ({"model": {"latent_channels": 0}}, ["latent_channels must be at least 1", "0"]),
        ({"model": {"channels": [8, 0]}}, ["channels must be at least 1", "0"]),
        ({"model": {"num_blocks": 0}}, ["num_blocks must be at least 1", "0"]),
        ({"model": {"num_mixtures": 0}}, ["num_mixtures must be at least 1", "0"]),
        ({"model": {"log_scale_bound": -1.0}}, ["log_scale_bound must be", "-1.0"]),
        ({"model": {"log_scale_bound": 0.0}}, ["log_scale_bound must be", "0.0"]),
        ({"model": {"log_scale_bound": 50.0}}, ["log_scale_bound must be", "50.0"]),
        ({"model": {"model": "mixture"}}, ["model.model", "bernoulli-mixture", "but is mixture"]),
        ({"model": {"components": 0}}, ["components must be at least 1", "0"]),
        ({"model": {"covariance": "round"}}, ["model.covariance", "diagonal", "round"]),
        ({"model": {"pseudo_count": -1.0}}, ["pseudo_count must be at least 0", "-1.0"]),
        ({"model": {"variance_floor": 0.0}}, ["variance_floor must be above 0", "0.0"]),
        ({"model": {"variance_floor": float("inf")}}, ["variance_floor must be above 0", "inf"]),
        ({"em": {"max_iterations": 0}}, ["max_iterations must be at least 1", "0"]),
        ({"em": {"tolerance": float("nan")}}, ["tolerance must be at least 0", "nan"]),
        ({"em": {"restarts": 0}}, ["restarts must be at least 1", "0"]),
        ({"model": {"network": "cnn"}}, ["model.network", "resnet", "cnn"]),
        ({"model": {"normalization": "layer"}}, ["model.normalization", "group", "layer"]),
        ({"model": {"upsampling": "linear"}}, ["model.upsampling", "shuffle", "linear"]),
        ({"model": {"weight_norm": "perhaps"}}, ["model.weight_norm", "bool", "perhaps"]),
        ({"train": {"precision": "16-mixed"}}, ["train.precision", "bf16-mixed", "16-mixed"]),
        ({"data": {"flip": "left"}}, ["data.flip", "bool", "left"]),
        ({"data": {"flips": True}}, ["key in data", "'flips'", "did you mean 'flip'"]),
        ({"model": {"num_mixture": 3}}, ["key in model", "'num_mixture'", "did you mean 'num_mixtures'"]),
        ({"objective": {"beta": -1.0}}, ["beta must be at least 0", "-1.0"]),
        ({"objective": {"num_samples": 0}}, ["num_samples must be at least 1", "0"]),
        ({"train": {"epochs": 0}}, ["epochs must be at least 1", "0"]),
        ({"train": {"learning_rate": float("nan")}}, ["learning_rate must be at least 0", "nan"]),
        ({"train": {"clip_norm": -1.0}}, ["clip_norm must be at least 0", "-1.0"]),
        ({"device": "tpu"}, ["device", "cuda", "tpu"]),
        ({"seed": None}, ["seed", "None"]),
        ({"train": {"epochs": None}}, ["train.epochs", "None"]),
        ({"train": {"learning_rate": 10**400}}, ["train.learning_rate must lie between -2^63 and 2^63"]),
        ({"model": {"hidden": [8, -(2**63)]}}, ["model.hidden must lie between -2^63 and 2^63"]),
        ({"train": {"learning_rate": "1" * 400}}, ["int too large to convert to float"]),
        ({"model": {"hidden": None}}, ["model.hidden", "None"]),
    ],
)
def test_wrong_settings_are_refused_with_name_value_and_hint(nested: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        Settings.from_dict(nested)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_message_about_a_long_text_is_short() -> None:
    with pytest.raises(ValueError, match=r"^train\.epochs must be int, but is xx.* \.\.\. .*xx: give") as caught:
        Settings.from_dict({"train": {"epochs": "x" * 4096}})
    assert len(str(caught.value)) < 1100


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: Settings().override(epoch=3), "Unknown setting 'epoch': did you mean 'epochs'"),
        (lambda: Settings().override(train={}), "Unknown setting 'train'"),
        (lambda: Settings.from_recipe("digits", "mnits"), "Unknown recipe 'mnits': did you mean 'mnist'"),
        (
            lambda: Settings.from_recipe("digits", "qqq"),
            f"Unknown recipe 'qqq': known are {', '.join(known_recipes())}",
        ),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_known_one(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


MIXTURE = "choose likelihood discretized-logistic-mixture."
SCALED = "choose likelihood discretized-logistic-mixture or discretized-gaussian or dequantized-gaussian."


@pytest.mark.parametrize(
    "recipe, given, kind, words",
    [
        ("resnet-dmol", {"latent_dim": 5}, "8-bit", ["latent_channels 64", "set latent_channels null for a vector."]),
        ("digits", {"latent_channels": 4}, "binary", ["network mlp", "choose network conv or resnet."]),
        ("mnist-dmol", {"channels": (8, 8)}, "8-bit", ["network residual", "choose network conv or resnet."]),
        ("mnist-dmol", {"num_blocks": 2}, "8-bit", ["network residual", "choose network conv or resnet."]),
        ("mnist-dmol", {"normalization": "batch"}, "8-bit", ["network residual", "choose network conv or resnet."]),
        ("mnist-dmol", {"weight_norm": True}, "8-bit", ["network residual", "choose network conv or resnet."]),
        ("mnist-dmol", {"upsampling": "shuffle"}, "8-bit", ["network residual", "choose network conv or resnet."]),
        ("resnet-dmol", {"hidden": (8, 8)}, "8-bit", ["network resnet", "choose network mlp or residual."]),
        ("vanilla-logistic", {"hidden": (8, 8)}, "8-bit", ["network conv", "choose network mlp or residual."]),
        ("digits", {"num_mixtures": 3}, "binary", ["likelihood bernoulli", MIXTURE]),
        ("digits", {"num_mixtures": 3, "likelihood": "poisson"}, "8-bit", ["likelihood poisson", MIXTURE]),
        ("digits", {"log_scale_bound": 3.0, "likelihood": "categorical"}, "8-bit", ["likelihood categorical", SCALED]),
    ],
    ids=str,
)
def test_a_setting_that_would_do_nothing_is_refused_where_it_is_given_by_name(
    recipe: str, given: dict[str, Any], kind: str, words: list[str]
) -> None:
    settings = Settings.from_recipe("own", recipe).override(**given)
    with pytest.raises(ValueError, match=f"^{next(iter(given))} does nothing with ") as caught:
        check_given(given, settings, kind)
    assert all(word in str(caught.value) for word in words)
    check_given([], settings, kind)


@pytest.mark.parametrize(
    "recipe, given, kind",
    [
        ("resnet-dmol", {"latent_dim": 5, "latent_channels": None}, "8-bit"),
        ("resnet-dmol", {"latent_dim": 5, "network": "mlp"}, "8-bit"),
        ("resnet-dmol", {"network": "residual", "latent_channels": None, "hidden": (8, 8)}, "8-bit"),
        ("digits", {"network": "conv", "channels": (8, 8), "latent_channels": 2}, "binary"),
        ("digits", {"num_mixtures": 3}, "8-bit"),
        ("digits", {"log_scale_bound": 3.0, "likelihood": "dequantized-gaussian"}, "8-bit"),
        ("digits", {"epochs": 3, "seed": 1, "binarization": "none", "prior": "maf"}, "8-bit"),
    ],
    ids=str,
)
def test_a_setting_that_does_something_may_be_given(recipe: str, given: dict[str, Any], kind: str) -> None:
    check_given(given, Settings.from_recipe("own", recipe).override(**given), kind)


def test_a_model_of_ones_own_reads_no_settings_of_models() -> None:
    for field in dataclasses.fields(ModelSettings):
        with pytest.raises(ValueError, match=f"^{field.name} does nothing for a model of your own: leave it out"):
            check_given([field.name, "epochs"], Settings(), "8-bit", is_own=True)
    check_given(["epochs", "seed", "binarization"], Settings(), "8-bit", is_own=True)


@pytest.mark.parametrize("content", [b"epochs: [", b"- 1\n- 2\n", b"", b"\xff\xfe\x00", None])
def test_a_file_that_holds_no_settings_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.yaml") as caught:
        Settings.from_file(path)
    assert "\n" not in str(caught.value)


def test_yaml_cannot_execute_code(tmp_path: Path) -> None:
    path, trace = tmp_path / "config.yaml", tmp_path / "trace"
    path.write_text(f"seed: !!python/object/apply:os.system ['touch {trace}']\n")
    with pytest.raises(ValueError, match="cannot be read as YAML"):
        Settings.from_file(path)
    assert not trace.exists()


def test_numbers_may_be_written_as_people_write_them_in_yaml(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("train:\n  learning_rate: 1e-3\n  weight_decay: 0\n")
    train = Settings.from_file(path).train
    assert train.learning_rate == 0.001
    assert isinstance(train.weight_decay, float)
