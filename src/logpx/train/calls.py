"""The calls: a new fit of data, or one that goes on.

A fit is a function of (settings, data): batches, draws and dropout are keyed by (seed, epoch or step), so an
interrupted run that is resumed reaches the same weights, bit for bit on one CPU, as one that was left alone. Several
processes, or several parts of a batch, compute the same step to rounding; what one decides, all decide.
"""

from __future__ import annotations

__all__ = ["fit", "mean_of", "resume"]

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data import DataSet, Split, load_data
from ..data.catalogue import CATALOGUE, PREFIX
from ..lock import held
from ..model import as_model
from ..processes import Processes, launched
from ..run import Run, check_free
from ..settings import Settings
from ..train_em import fit_by_em
from ..weights import build_model, check_given
from .loop import train_by_steps
from .refusals import check_batches, checked_model, rehearse, rehearse_em, require_divisible, require_one_process
from .step import precision_of

MEAN_BATCH = 500


def fit(
    data: str | Path | DataSet = "digits",
    *,
    model: nn.Module | str | None = None,
    out: str | Path | None = None,
    recipe: str | None = None,
    settings: Settings | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
    devices: int | None = None,
    num_nodes: int | None = None,
    **overrides: Any,
) -> Run:
    """Fits a latent-variable model to data and keeps the result in a run folder.

    A VAE, or a model of one's own, is fitted by maximizing a bound of log p(x); a model that knows its log p(x), by
    expectation maximization.

    Arguments:
        data: The name of a data set, a path to an array or a folder of images, "hf:" and a data set of Hugging
            Face, or a data set in memory.
        model: A module of one's own with the methods prior, encoder and decoder, or the name of a model, such as
            "bernoulli-mixture"; by default that of the settings, mostly a VAE.
        out: The run folder; by default runs/ and the name of the data, and that of the model where it is no VAE.
        recipe: The name of a recipe; by default that of the data set.
        settings: Full settings, in place of a recipe.
        overwrite: Whether an earlier run in the folder may be replaced.
        progress: Whether to show a progress bar; by default only on a terminal.
        devices: How many processes each machine has, each with a device of its own; by default 1, or as many as
            torchrun has started. They change how a result is computed, not what it is. A script is run by each of them.
        num_nodes: How many machines, likewise; all see the run folder.
        overrides: Single settings by name, such as `epochs=3` or `latent_dim=2`.

    Returns:
        The run, its model and data in memory.

    Raises:
        TypeError: If the model is no torch module.
        ValueError: If a setting is unknown, does not go with the data, or would do nothing where it is given by name.
        LogpxError: If the data cannot be had, the folder holds something already, another process writes to it, or the
            loss is not finite.
    """
    name = _stored_name(data)
    if settings is not None and recipe is not None:
        raise ValueError("Give settings or a recipe, not both: settings are complete in themselves.")
    if isinstance(model, str):
        overrides, model = {"model": model, **overrides}, None
    settings = (settings or Settings.from_recipe(name, recipe)).override(**{"name": name, **overrides})
    is_em = model is None and settings.model.model != "vae"
    with launched(settings.device, devices, num_nodes, precision_of(settings)) as processes:
        data_set = data if isinstance(data, DataSet) else processes.first_first(partial(_load, settings))
        train = data_set.split("train", settings.data.binarization, settings.data.data_seed)
        if settings.data.flip and not is_em:
            # refused here, before an earlier run is removed
            data_set.split("train", flip=True)
        built = checked_model(model) if model is not None else _build(settings, data_set, train)
        if is_em:
            rehearse_em(built, settings, data_set, train, processes)
        else:
            check_given(overrides, settings, train.kind, is_own=model is not None)
            check_batches(built, len(train), settings.train.batch_size)
            rehearse(built, settings, data_set, train, processes)
        stem = f"{Path(name).stem}-{settings.model.model}" if is_em else Path(name).stem
        path, own = Path(out or Path("runs") / stem), model is not None
        processes.by_first(partial(check_free, path, overwrite))
        with _held(path, processes):
            create = partial(Run.create, path, settings, data_set, train.kind, built, own=own, overwrite=overwrite)
            processes.by_first(create)
            run = Run(path, as_model(built) if own else None, data_set)
            if is_em:
                return fit_by_em(run, settings, built, progress)
            return train_by_steps(run, settings, built, progress, processes)


def resume(
    path: str | Path,
    *,
    model: nn.Module | None = None,
    data: DataSet | None = None,
    epochs: int | None = None,
    max_iterations: int | None = None,
    progress: bool | None = None,
    devices: int | None = None,
    num_nodes: int | None = None,
) -> Run:
    """Continues a fit from its last saved state, to the weights that it would have reached uninterrupted.

    Arguments:
        path: The run folder.
        model: The module of one's own, where the run was fitted with one.
        data: The data set, where the run was fitted to one in memory.
        epochs: Another number of epochs, to prolong a fit.
        max_iterations: Another largest number of iterations of EM, likewise.
        progress: Whether to show a progress bar; by default only on a terminal.
        devices: How many processes each machine has, as for :func:`fit`; not necessarily as many as before.
        num_nodes: How many machines, likewise.

    Returns:
        The run, its model and data in memory.

    Raises:
        LogpxError: If the folder holds no run or no state to resume from, or another process writes to it.
    """
    run = Run.open(path, None if model is None else as_model(model), data)
    with launched(run.settings.device, devices, num_nodes, precision_of(run.settings)) as processes:
        train = processes.first_first(partial(run.load_split, "train"))
        # where nothing was saved yet, the weights start as those of the fit did: from the data's mean, too
        is_built = run.model is None and not run.is_own
        built = _build(run.settings, run.load_data(), train) if is_built else checked_model(run.build_model())
        given = {"epochs": epochs, "max_iterations": max_iterations}
        with _held(run.path, processes):
            if run.is_em:
                require_one_process(run.settings, processes)
            else:
                require_divisible(built, run.settings, train, processes)
            if prolonged := {name: number for name, number in given.items() if number is not None}:
                processes.by_first(partial(run.write_settings, run.settings.override(**prolonged)))
            if run.is_em:
                return fit_by_em(run, run.settings, built, progress)
            return train_by_steps(run, run.settings, built, progress, processes)


def _held(path: Path, processes: Processes) -> AbstractContextManager[None]:
    """Within the block the first process alone writes to the run folder."""
    return held(path) if processes.is_first else nullcontext()


def _stored_name(data: str | Path | DataSet) -> str:
    """Returns the name of the data for the settings: a path in full, so that it is found from another folder."""
    if isinstance(data, DataSet):
        return data.name
    if isinstance(data, str) and data.startswith(PREFIX):
        path = Path(data.removeprefix(PREFIX)).expanduser()
        return f"{PREFIX}{path.resolve()}" if path.exists() else data
    is_path = isinstance(data, Path) or (data not in CATALOGUE and Path(data).exists())
    return str(Path(data).resolve()) if is_path else str(data)


def _load(settings: Settings) -> DataSet:
    data = settings.data
    return load_data(data.name, data_root=data.data_root, num_valid=data.num_valid)


def _build(settings: Settings, data: DataSet, train: Split) -> nn.Module:
    mean = mean_of(train) if settings.model.center and settings.model.model == "vae" else None
    return checked_model(build_model(settings, data.event_shape, train.kind, train.levels, mean))


def mean_of(split: Split) -> Tensor:
    """Returns the mean of the data, with the event shape, a batch at a time.

    Arguments:
        split: The data.
    """
    total = torch.zeros(split.event_shape, dtype=torch.float64)
    for batch in split.batches(MEAN_BATCH):
        total += batch.x.double().sum(0)
    return (total / len(split)).float()
