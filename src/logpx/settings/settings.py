"""All settings of a fit: from defaults, mappings, recipes and files, and back."""

from __future__ import annotations

__all__ = ["Settings"]

import dataclasses
import functools
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from ..yaml_loader import BoundedLoader
from ._checks import check_keys, check_not_none, check_plain, check_section, names, require_model_with, unknown
from ._parsing import typed
from .recipes import default_recipe, recipe_path
from .sections import SECTIONS, DataSettings, EMSettings, ModelSettings, ObjectiveSettings, TrainSettings, setting

# What PyYAML raises of files, tags and values that it cannot make sense of.
_NO_YAML = (
    *(ArithmeticError, AttributeError, LookupError, OSError),
    *(TypeError, ValueError, yaml.YAMLError),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides the result of a fit."""

    data: DataSettings = dataclasses.field(default_factory=DataSettings)
    model: ModelSettings = dataclasses.field(default_factory=ModelSettings)
    objective: ObjectiveSettings = dataclasses.field(default_factory=ObjectiveSettings)
    train: TrainSettings = dataclasses.field(default_factory=TrainSettings)
    em: EMSettings = dataclasses.field(default_factory=EMSettings)
    seed: int = setting(0, "seed of weights, batches and draws")
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "where to compute")

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
        check_keys(nested, cls, "settings")
        check_not_none(nested, cls, "")
        for name, value in nested.items():
            if name in SECTIONS:
                check_section(name, value)
            else:
                check_plain(name, value)
        return typed(cls, nested)

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
            text = Path(path).read_text()
        except _NO_YAML as error:
            raise _no_yaml(path, error) from error
        return _from_text(text, str(path))

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
            home = next((s for s, section in SECTIONS.items() if name in names(section)), None)
            if home is None and (name in SECTIONS or name not in names(Settings)):
                known = [n for section in SECTIONS.values() for n in names(section)] + ["seed", "device"]
                raise ValueError(unknown("setting", name, known))
            (nested[home] if home else nested)[name] = value
        settings = Settings.from_dict(nested)
        for name in values:
            require_model_with(name, settings.model.model)
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


# A command asks for the settings of its run up to 14 times, and reading them takes 25 ms.
@functools.lru_cache(maxsize=8)
def _from_text(text: str, path: str) -> Settings:
    try:
        nested = yaml.load(text, Loader=BoundedLoader)
    except _NO_YAML as error:
        raise _no_yaml(path, error) from error
    try:
        return Settings.from_dict(nested)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _no_yaml(path: str | Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ValueError(f"{path} cannot be read as YAML ({reason}): mend the file.")
