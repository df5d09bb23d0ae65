"""What a run was fitted to and with, made anew from its settings and its run.json: the data and the model."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..data import DataSet, Split, load_data
from ..files import first_line
from ..likelihoods import LIKELIHOODS
from ..model import LatentVariableModel
from ..settings import Settings
from ..utils import LogpxError
from ..weights import build_model, likelihood_of
from ._reading import read_settings


def find_data(
    path: Path, settings: Settings, info: dict[str, Any], root: str | Path | None, given: DataSet | None
) -> DataSet:
    """Returns the data of the fit, those given or else by their name, and checks that their content is the same."""
    wanted = settings.data
    data = given or load_data(wanted.name, data_root=root or wanted.data_root, num_valid=wanted.num_valid)
    if data.hash != info["data"]["hash"]:
        raise LogpxError(
            f"The data {wanted.name!r} ({data.source}) have hash {data.hash}, but {path} was fitted to "
            f"{info['data']['hash']:.80}: give the same data by --data-root."
        )
    return data


def part_of(path: Path, data: DataSet, name: str, settings: Settings, info: dict[str, Any], flip: bool) -> Split:
    """Returns a part of any data as the model sees them."""
    fitted = info["data"]
    binarization = "none" if data.kind == "binary" else settings.data.binarization
    split = data.split(name, binarization, settings.data.data_seed, flip)
    if list(data.event_shape) != fitted["event_shape"] or split.kind != fitted["model_kind"]:
        shape = reprlib.repr(tuple(fitted["event_shape"]))
        raise ValueError(
            f"The model of {path} is for {fitted['model_kind']} data of shape {shape}, but "
            f"{data.name!r} are {split.kind} data of shape {data.event_shape}: give data like those of the fit, or "
            "where these are, restore its config.yaml and run.json."
        )
    return split


def rebuilt_model(path: Path, info: dict[str, Any]) -> LatentVariableModel:
    """Returns the model that a run's settings describe, without its weights; one of somebody's own is refused."""
    if info["model"] != "settings":
        raise LogpxError(
            f"{path} was fitted with a model of your own ({info['model']:.200}): hand it over, as in "
            f"logpx.load({str(path)!r}, model=YourModel())."
        )
    data, settings = info["data"], read_settings(path / "config.yaml")
    with _building(path):
        return build_model(settings, data["event_shape"], data["model_kind"], data["levels"])


def has_relaxed_likelihood(path: Path, info: dict[str, Any]) -> bool:
    """Returns whether the likelihood of a run's settings is relaxed for the data as the model sees them."""
    kind, settings = info["data"]["model_kind"], read_settings(path / "config.yaml")
    with _building(path):
        return kind in LIKELIHOODS[likelihood_of(settings.model, kind)].relaxed_kinds


@contextmanager
def _building(path: Path) -> Iterator[None]:
    """Within the block, an error says that a run describes no model."""
    try:
        yield
    except (ArithmeticError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise LogpxError(
            f"{path} describes a model that cannot be built ({first_line(error)}): restore its config.yaml "
            "and run.json, or fit again."
        ) from error
