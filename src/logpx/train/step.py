"""One step of a fit: the objective, its gradient wherever the shares of a batch are computed, and the optimizer."""

from __future__ import annotations

__all__ = ["Objective", "Step", "draws_of_a_step", "make_optimizer", "precision_of", "rehearsed"]

import math
from functools import partial
from typing import Any

import torch
from lightning_fabric.plugins import MixedPrecision, Precision
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import objectives
from ..data import Batch, Split
from ..processes import Processes
from ..settings import ObjectiveSettings, Settings, TrainSettings
from ..shares import Draw, Share, random_draws, shares_of
from ..utils import choose_device, keyed_rng


class Objective(nn.Module):
    """The objective as a module, so that Fabric can wrap it: a batch in, the bound per datum out, in nats.

    It is NaN where a model's distributions refuse their parameters as invalid.
    """

    def __init__(self, model: nn.Module, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.model = model
        self.num_samples = settings.num_samples
        options: dict[str, Any] = {"num_samples": settings.num_samples, "gradient": settings.gradient}
        if settings.bound == "elbo":
            options["free_bits"] = settings.free_bits
        self.bound = partial(getattr(objectives, settings.bound), model, **options)

    def forward(self, batch: Batch, beta: float) -> Tensor:
        """Returns the bound per datum, in nats, with shape (B,)."""
        try:
            value: Tensor = self.bound(batch.x, beta=beta, context=batch.context, mask=batch.mask)
        except ValueError as error:
            if "invalid values" not in str(error):
                raise
            return self._undefined(len(batch.x))
        return value

    def _undefined(self, size: int) -> Tensor:
        """Returns NaN as a function of all parameters: other processes wait for the gradient of each."""
        zero = sum((p.sum() * 0 for p in self.parameters() if p.requires_grad), torch.zeros(()))
        return (zero + math.nan).expand(size)


class Step:
    """The steps of a fit.

    Arguments:
        model: The model.
        settings: The settings of the fit.
        split: The training data.
        processes: What computes them.
    """

    def __init__(self, model: nn.Module, settings: Settings, split: Split, processes: Processes) -> None:
        self.settings, self.processes = settings, processes
        self.objective = Objective(model, settings.objective)
        self.optimizer = make_optimizer(model, settings.train)
        self.module, self.stepper = processes.fabric.setup(self.objective, self.optimizer)
        # Fabric's wrapper looks through every argument for tensors to convert, which one process can spare
        self.forward = self.module if processes.count > 1 else self.objective
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.draws = draws_of_a_step(self.objective, split, settings, processes)

    def gradient(self, values: Split, index: Tensor, number: int, beta: float) -> float:
        """Computes the gradient of the mean bound of a batch, and returns what this process adds to it, in nats.

        Arguments:
            values: The data of the epoch.
            index: Which of them are the batch, with shape (B,).
            number: The number of the step, which keys its noise.
            beta: The weight of the KL term.
        """
        for parameter in self.parameters:
            parameter.grad = None
        processes, fabric, shares = self.processes, self.processes.fabric, self._shares(len(index))
        bound = torch.zeros((), device=fabric.device)
        for share in shares:
            batch = values.batch(index[share.start : share.stop], fabric.device)
            with fabric.no_backward_sync(self.module, enabled=share is not shares[-1]):
                mean = self._mean(batch, share, number, beta)
                # Fabric averages the gradients of the processes, but the bound is their sum
                fabric.backward(mean * -(share.weight * processes.count))
            bound += mean.detach() * share.weight
        return bound.item()

    def announce(self, values: Split, index: Tensor) -> None:
        """Says which data the next step will ask for.

        Arguments:
            values: The data of the epoch.
            index: Which of them are the next batch, with shape (B,); none after the last one.
        """
        for share in self._shares(len(index)) if len(index) else ():
            values.announce(index[share.start : share.stop])

    def _shares(self, size: int) -> list[Share]:
        return shares_of(size, self.processes.rank, self.processes.count, self.settings.train.accumulate)

    def _mean(self, batch: Batch, share: Share, number: int, beta: float) -> Tensor:
        fabric, seed = self.processes.fabric, self.settings.seed
        with keyed_rng(seed, "train", number, device=fabric.device), share.noise(self.draws), fabric.autocast():
            bound: Tensor = self.forward(batch, beta)
        return bound.mean()

    def norm(self) -> float:
        """Clips the gradient, where the settings say so, and returns the norm that it had."""
        norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self.settings.train.clip_norm:
            nn.utils.clip_grads_with_norm_(self.parameters, self.settings.train.clip_norm, norm)
        return norm.item()

    def take(self, learning_rate: float) -> None:
        """Lets the optimizer step along the gradient."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.stepper.step()


def draws_of_a_step(objective: nn.Module, split: Split, settings: Settings, processes: Processes) -> list[Draw] | None:
    """Returns what a step draws at random, where its batch is divided over processes or parts; else None."""
    if processes.count * settings.train.accumulate == 1:
        return None
    objective.train()
    return random_draws(partial(rehearsed, objective, split, settings, processes))


def rehearsed(objective: nn.Module, split: Split, settings: Settings, processes: Processes, num_data: int) -> Tensor:
    """Returns the mean bound of a few data, computed as in a step; nothing else changes."""
    device = split.values.device
    buffers = [(buffer, buffer.clone()) for buffer in objective.buffers()]
    batch = split.batch(torch.arange(num_data) % len(split), device)
    with keyed_rng(settings.seed, "rehearsal", device=device), processes.fabric.autocast():
        bound: Tensor = objective(batch, settings.objective.beta).mean()
    for buffer, before in buffers:
        # to write to one that has not changed would spoil the gradient
        if not torch.equal(buffer, before):
            buffer.copy_(before)
    return bound


def make_optimizer(model: nn.Module, options: TrainSettings) -> Optimizer:
    """Returns the optimizer of the settings over the parameters that require a gradient.

    Raises:
        ValueError: If there are none.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(f"A fit needs parameters, but {type(model).__name__} has none that require a gradient.")
    rates: dict[str, Any] = {"lr": options.learning_rate, "weight_decay": options.weight_decay}
    if options.optimizer == "adamax":
        return torch.optim.Adamax(parameters, **rates)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[options.optimizer]
    return kind(parameters, **rates, fused=True)


def precision_of(settings: Settings) -> Precision:
    """Returns the precision as an object, because of one that it is told by name Lightning prints a line."""
    if settings.train.precision == "bf16-mixed":
        return MixedPrecision("bf16-mixed", choose_device(settings.device).type)
    return Precision()
