"""Settings of a fit: typed, with one line of help each; recipes are complete named sets of them. Imports no torch."""

__all__ = [
    "SECTIONS",
    "SETTINGS_OF",
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

from .recipes import default_recipe, known_recipes, recipe_path
from .sections import (
    SECTIONS,
    SETTINGS_OF,
    DataSettings,
    EMSettings,
    ModelSettings,
    ObjectiveSettings,
    TrainSettings,
)
from .settings import Settings
