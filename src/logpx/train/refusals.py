"""What a fit refuses, before an earlier run is removed: it does once what each step does."""

from __future__ import annotations

__all__ = ["check_batches", "checked_model", "rehearse", "rehearse_em", "require_divisible", "require_one_process"]

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..checkpoint import WeightAverage
from ..data import DataSet, Split
from ..model import as_model, evaluating
from ..processes import Processes
from ..settings import Settings
from ..utils import choose_device, keyed_rng
from .step import Objective, draws_of_a_step, make_optimizer, rehearsed


def checked_model(model: object) -> nn.Module:
    """Returns the model, after checking that it can be fitted.

    Raises:
        TypeError: If it is no torch module, or lacks one of the three methods.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"A fit needs a torch.nn.Module with parameters, but got a {type(model).__name__}: subclass it."
        )
    as_model(model)
    return model


def rehearse(model: nn.Module, settings: Settings, data: DataSet, train: Split, processes: Processes) -> None:
    """Does once what each step does, so that what cannot be is refused before an earlier run is removed."""
    if settings.train.patience is not None and (settings.train.validate_on != "valid" or not len(data.parts["valid"])):
        raise ValueError("patience needs validation data to judge by: set validate_on valid and num_valid above 0.")
    _require_data(data, {"train", settings.train.validate_on} - {"none", "valid"})
    choose_device(settings.device)
    make_optimizer(model, settings.train)
    WeightAverage(model, settings.train.ema)
    with evaluating(as_model(model)), keyed_rng(settings.seed, "rehearsal"):
        batch = train.batch(torch.arange(min(len(train), settings.train.batch_size)))
        Objective(model, settings.objective)(batch, settings.objective.beta)
    require_divisible(model, settings, train, processes)


def rehearse_em(model: nn.Module, settings: Settings, data: DataSet, train: Split, processes: Processes) -> None:
    """Refuses likewise what EM cannot do; its steps suit all data of the model's kind."""
    require_one_process(settings, processes)
    _require_data(data, {"train"})
    choose_device(settings.device)


def require_one_process(settings: Settings, processes: Processes) -> None:
    """Refuses several processes for expectation maximization."""
    if processes.count > 1:
        raise ValueError(
            f"Model {settings.model.model} is fitted by expectation maximization, by one process, but "
            f"{processes.count} were asked for: leave devices and num_nodes at 1."
        )


def _require_data(data: DataSet, parts: set[str]) -> None:
    for name in parts:
        if not len(data.parts[name]):
            raise ValueError(f"The {name} part of {data.name!r} is empty, but is needed: give data with a {name} part.")


def require_divisible(model: nn.Module, settings: Settings, train: Split, processes: Processes) -> None:
    """Refuses a model whose batches cannot be divided, where they are to be."""
    if processes.count * settings.train.accumulate == 1:
        return
    if any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise ValueError(
            "Batch normalization needs whole batches, but each is divided by devices, num_nodes or accumulate: choose "
            "another normalization, such as group, or leave them at 1."
        )
    objective = Objective(model, settings.objective)
    draws_of_a_step(objective, train, settings, processes)
    bound = rehearsed(objective, train, settings, processes, 1)
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(bound, list(own.values()), allow_unused=True)
    unused = [name for name, gradient in zip(own, gradients, strict=True) if gradient is None]
    if unused and processes.count > 1:
        raise ValueError(
            f"Several processes wait for the gradient of every parameter, but the bound does not depend on "
            f"{', '.join(unused)}: freeze them (requires_grad_(False)), or fit by one process."
        )


def check_batches(model: nn.Module, num_data: int, batch_size: int) -> None:
    """Refuses a last batch of one datum where batches are normalized by their own statistics."""
    if (num_data - 1) % batch_size == 0 and any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise ValueError(
            f"Batch normalization needs 2 data or more in every batch, but batch_size {batch_size} leaves 1 of "
            f"{num_data:,} training data to the last: set a batch_size that does not divide {num_data - 1:,}, or "
            "another normalization."
        )
