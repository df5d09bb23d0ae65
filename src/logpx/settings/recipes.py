"""Recipes: complete settings, each in a YAML file with a name."""

from __future__ import annotations

__all__ = ["default_recipe", "known_recipes", "recipe_path"]

from pathlib import Path

from ..data.catalogue import CATALOGUE
from ._checks import unknown

RECIPES = Path(__file__).parents[1] / "recipes"


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
        raise ValueError(unknown("recipe", name, known_recipes()))
    return RECIPES / f"{name}.yaml"
