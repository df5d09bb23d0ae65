"""The loop of a fit, on Lightning Fabric: it reads from top to bottom."""

from __future__ import annotations

__all__ = ["train_by_steps"]

import dataclasses
import math
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import WeightAverage, restore, save, save_epoch
from ..data import Split
from ..interrupt import interruptible
from ..model import as_model
from ..processes import Processes
from ..progress import track
from ..run import Run
from ..settings import Settings, TrainSettings
from ..utils import LogpxError, generator
from .schedules import beta_at, learning_rate_at
from .step import Objective, Step
from .validation import validate

# A fit is saved after each epoch, when it is interrupted, and after so many seconds of an epoch.
SAVE_EVERY = 600.0


def train_by_steps(run: Run, settings: Settings, model: nn.Module, progress: bool | None, processes: Processes) -> Run:
    """Fits a model by gradient steps, from its last saved state, and returns the run with the best weights.

    Arguments:
        run: The run, whose folder the first process holds.
        settings: The settings of the fit.
        model: The model.
        progress: Whether to show a progress bar; by default only on a terminal.
        processes: What computes the steps.

    Raises:
        LogpxError: If the bound or its gradient is not finite and the settings do not skip such batches.
        KeyboardInterrupt: After an interrupt, when the state is saved.
    """
    options, device = settings.train, processes.fabric.device
    train = run.split_of(run.load_data(), "train", flip=settings.data.flip).to(device)
    valid = None if options.validate_on == "none" else run.load_split(options.validate_on).to(device)
    step = Step(model, settings, train, processes)
    plain = Objective(model, dataclasses.replace(settings.objective, free_bits=0.0))
    average = WeightAverage(model, options.ema)
    state = restore(run, model, step.optimizer, average)
    keep = partial(processes.by_first, partial(save, run, state, model, step.optimizer, average))
    loggers = _loggers(run, options) if processes.is_first else []
    steps_per_epoch = math.ceil(len(train) / options.batch_size)
    num_steps = options.epochs * steps_per_epoch
    if state.step < num_steps:
        processes.by_first(run.forget_evaluation)
    started = time.perf_counter() - state.seconds

    with track("fit", num_steps, progress if processes.is_first else False) as show, interruptible() as interrupted:
        for epoch in range(state.step // steps_per_epoch, options.epochs):
            if options.patience is not None and epoch - state.best_epoch >= options.patience:
                break
            model.train()
            values, due = train.epoch(epoch), time.perf_counter() + SAVE_EVERY
            for index, later in _rest_of_epoch(values, settings, epoch, state.step - epoch * steps_per_epoch):
                step.announce(values, later)
                beta = beta_at(settings.objective, state.step / steps_per_epoch)
                learning_rate = learning_rate_at(options, state.step, num_steps)

                bound = step.gradient(values, index, state.step, beta)
                norm = step.norm()

                bound, late = processes.sums([bound, time.perf_counter() > due])
                if math.isfinite(bound) and math.isfinite(norm):
                    step.take(learning_rate)
                    average.update()
                    state.add(bound, len(index))
                elif options.on_nonfinite == "skip":
                    state.skipped += 1
                else:
                    keep()
                    raise LogpxError(_nonfinite(run, index, epoch, state.step, bound))
                state.step += 1
                show(state.step, state.note(epoch, options.epochs))
                if state.step % steps_per_epoch == 0 or processes.any(interrupted()):
                    break
                if late:
                    state.seconds = time.perf_counter() - started
                    keep()
                    due = time.perf_counter() + SAVE_EVERY

            state.seconds = time.perf_counter() - started
            if state.step % steps_per_epoch == 0:
                with average.in_place():
                    valid_bound = validate(plain, valid, settings.seed, processes)
                row = state.finish_epoch(epoch + 1, valid_bound, learning_rate, beta)
                chooses = options.validate_on == "valid" and bool(valid)
                processes.by_first(partial(save_epoch, run, state, average, chooses))
                state.best, state.best_epoch = processes.from_first((state.best, state.best_epoch))
                for logger in loggers:
                    logger.log_metrics({key: row[key] for key in ("train", "valid", "learning_rate")}, step=epoch + 1)
                show(state.step, state.note(epoch, options.epochs))
            keep()
            if processes.any(interrupted()):
                how = f"logpx.resume({str(run.path)!r}, model=...)" if run.is_own else f"logpx fit --resume {run.path}"
                raise KeyboardInterrupt(f"Interrupted and saved; continue with: {how}")

    for logger in loggers:
        logger.finalize("success")
    run.model = as_model(model)
    run.load_model()
    return run


def _rest_of_epoch(split: Split, settings: Settings, epoch: int, done: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the batches of an epoch after those that are done, each with the next, as seed and epoch order them."""
    order = torch.randperm(len(split), generator=generator(settings.seed, "order", epoch))
    size = settings.train.batch_size
    for start in range(done * size, len(split), size):
        yield order[start : start + size], order[start + size : start + 2 * size]


def _loggers(run: Run, options: TrainSettings) -> list[Any]:
    if not options.tensorboard:
        return []
    from lightning_fabric.loggers import TensorBoardLogger

    try:
        return [TensorBoardLogger(run.path, name="tensorboard", version="")]
    except ModuleNotFoundError as error:
        raise LogpxError(
            "TensorBoard is not installed: pip install 'logpx[tensorboard]', or drop --tensorboard."
        ) from error


def _nonfinite(run: Run, index: Tensor, epoch: int, step: int, bound: float) -> str:
    shown = ", ".join(str(i) for i in index[:8].tolist()) + (", ..." if len(index) > 8 else "")
    return (
        f"The bound ({bound:.6g} nats) or its gradient is not finite in epoch {epoch + 1}, step {step + 1}, on "
        f"training data {shown}: the last good weights are saved in {run.path}; fit again with a lower learning rate, "
        "a clipped gradient (--clip-norm 100), or without such batches (--on-nonfinite skip)."
    )
