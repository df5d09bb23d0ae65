"""The fit loop, on Lightning Fabric: it reads from top to bottom.

A fit is a function of (settings, data): batches, draws and dropout are keyed by (seed, epoch or step), so an
interrupted run that is resumed reaches the same weights, bit for bit on one CPU, as one that was left alone. Several
processes, or several parts of a batch, compute the same step to rounding; what one decides, all decide.
"""

from __future__ import annotations

__all__ = ["fit", "resume"]

import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import MixedPrecision, Precision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from . import objectives
from .checkpoint import State, WeightAverage, restore, save, save_epoch
from .data import Batch, DataSet, Split, load_data
from .data.catalogue import CATALOGUE, PREFIX
from .interrupt import interruptible
from .lock import held
from .model import as_model, call, evaluating
from .processes import Processes, launched
from .progress import track
from .run import Run, check_free
from .settings import ObjectiveSettings, Settings, TrainSettings
from .shares import Draw, random_draws, shares_of
from .train_em import fit_by_em
from .utils import LogpxError, choose_device, chunks, generator, keyed_rng, num_at_once
from .weights import build_model, check_given

VALIDATION_BATCH = 500
# A fit is saved after each epoch, when it is interrupted, and after so many seconds of an epoch.
SAVE_EVERY = 600.0


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
    with launched(settings.device, devices, num_nodes, _precision(settings)) as processes:
        data_set = data if isinstance(data, DataSet) else processes.first_first(partial(_load, settings))
        train = data_set.split("train", settings.data.binarization, settings.data.data_seed)
        if settings.data.flip and not is_em:
            # refused here, before an earlier run is removed
            data_set.split("train", flip=True)
        built = _checked_model(model) if model is not None else _build(settings, data_set, train)
        if is_em:
            _rehearse_em(built, settings, data_set, train, processes)
        else:
            check_given(overrides, settings, train.kind, is_own=model is not None)
            _check_batches(built, len(train), settings.train.batch_size)
            _rehearse(built, settings, data_set, train, processes)
        stem = f"{Path(name).stem}-{settings.model.model}" if is_em else Path(name).stem
        path, own = Path(out or Path("runs") / stem), model is not None
        processes.by_first(partial(check_free, path, overwrite))
        with _held(path, processes):
            create = partial(Run.create, path, settings, data_set, train.kind, built, own=own, overwrite=overwrite)
            processes.by_first(create)
            run = Run(path, as_model(built) if own else None, data_set)
            if is_em:
                return fit_by_em(run, settings, built, progress)
            return _train(run, settings, built, progress, processes)


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
    with launched(run.settings.device, devices, num_nodes, _precision(run.settings)) as processes:
        train = processes.first_first(partial(run.load_split, "train"))
        # where nothing was saved yet, the weights start as those of the fit did: from the data's mean, too
        is_built = run.model is None and not run.is_own
        built = _build(run.settings, run.load_data(), train) if is_built else _checked_model(run.build_model())
        given = {"epochs": epochs, "max_iterations": max_iterations}
        with _held(run.path, processes):
            if prolonged := {name: number for name, number in given.items() if number is not None}:
                processes.by_first(partial(run.write_settings, run.settings.override(**prolonged)))
            if run.is_em:
                _require_one_process(run.settings, processes)
                return fit_by_em(run, run.settings, built, progress)
            _require_divisible(built, run.settings, train, processes)
            return _train(run, run.settings, built, progress, processes)


def _held(path: Path, processes: Processes) -> AbstractContextManager[None]:
    """Within the block the first process alone writes to the run folder."""
    return held(path) if processes.is_first else nullcontext()


def _train(run: Run, settings: Settings, model: nn.Module, progress: bool | None, processes: Processes) -> Run:
    options, fabric = settings.train, processes.fabric
    loggers = _loggers(run, options) if processes.is_first else []
    objective = _Objective(model, settings.objective)
    plain = _Objective(model, dataclasses.replace(settings.objective, free_bits=0.0))
    optimizer = _optimizer(model, options)
    step_module, step_optimizer = fabric.setup(objective, optimizer)
    average = WeightAverage(model, options.ema)
    state = restore(run, model, optimizer, average)
    keep = partial(_save, processes, run, state, model, optimizer, average)

    train = run.split_of(run.load_data(), "train", flip=settings.data.flip).to(fabric.device)
    valid = None if options.validate_on == "none" else run.load_split(options.validate_on).to(fabric.device)
    steps_per_epoch = math.ceil(len(train) / options.batch_size)
    num_steps = options.epochs * steps_per_epoch
    draws = _draws(objective, train, settings, processes)
    started = time.perf_counter() - state.seconds
    if state.step < num_steps:
        processes.by_first(run.forget_evaluation)

    due = time.perf_counter() + SAVE_EVERY

    with track("fit", num_steps, progress if processes.is_first else False) as show, interruptible() as interrupted:
        for epoch in range(state.step // steps_per_epoch, options.epochs):
            if options.patience is not None and epoch - state.best_epoch >= options.patience:
                break
            model.train()
            values = train.epoch(epoch)
            for index in _rest_of_epoch(len(train), settings, epoch, state.step - epoch * steps_per_epoch):
                beta = _beta(settings.objective, state.step / steps_per_epoch)
                learning_rate = _learning_rate(options, state.step, num_steps)
                _set_learning_rate(optimizer, learning_rate)

                optimizer.zero_grad(set_to_none=True)
                shares = shares_of(len(index), processes.rank, processes.count, options.accumulate)
                bound = torch.zeros((), device=fabric.device)
                for share in shares:
                    batch = values.batch(index[share.start : share.stop], fabric.device)
                    with fabric.no_backward_sync(step_module, enabled=share is not shares[-1]):
                        with keyed_rng(settings.seed, "train", state.step, device=fabric.device), share.noise(draws):
                            part = step_module(batch, beta).mean() * share.weight
                        # Fabric averages the gradients of the processes, but the bound is their sum
                        fabric.backward(-part * processes.count)
                    bound += part.detach()
                norm = nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm or math.inf)

                [value] = processes.sums([bound.item()])
                if math.isfinite(value) and math.isfinite(norm.item()):
                    step_optimizer.step()
                    average.update()
                    state.add(value, len(index))
                else:
                    if options.on_nonfinite == "stop":
                        keep()
                        raise LogpxError(_nonfinite(run, index, epoch, state.step, value))
                    state.skipped += 1
                state.step += 1
                show(state.step, state.note(epoch, options.epochs))
                if processes.any(interrupted()) and state.step % steps_per_epoch:
                    break
                if time.perf_counter() > due and state.step % steps_per_epoch:
                    state.seconds = time.perf_counter() - started
                    save(run, state, model, optimizer, average)
                    due = time.perf_counter() + SAVE_EVERY

            state.seconds = time.perf_counter() - started
            if state.step % steps_per_epoch == 0:
                with average.in_place():
                    valid_bound = _validate(plain, valid, settings.seed, processes)
                row = state.finish_epoch(epoch + 1, valid_bound, learning_rate, beta)
                chooses = options.validate_on == "valid" and bool(valid)
                processes.by_first(partial(save_epoch, run, state, average, chooses))
                state.best, state.best_epoch = processes.from_first((state.best, state.best_epoch))
                for logger in loggers:
                    logger.log_metrics({key: row[key] for key in ("train", "valid", "learning_rate")}, step=epoch + 1)
                show(state.step, state.note(epoch, options.epochs))
            keep()
            due = time.perf_counter() + SAVE_EVERY
            if processes.any(interrupted()):
                how = f"logpx.resume({str(run.path)!r}, model=...)" if run.is_own else f"logpx fit --resume {run.path}"
                raise KeyboardInterrupt(f"Interrupted and saved; continue with: {how}")

    for logger in loggers:
        logger.finalize("success")
    run.model = as_model(model)
    run.load_model()
    return run


def _save(
    processes: Processes, run: Run, state: State, model: nn.Module, optimizer: Optimizer, average: WeightAverage
) -> None:
    processes.by_first(partial(save, run, state, model, optimizer, average))


class _Objective(nn.Module):
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


@torch.no_grad()
def _validate(objective: _Objective, split: Split | None, seed: int, processes: Processes) -> float:
    """Returns the mean bound of the split's data at beta 1, in nats, by the same draws each time; NaN without data."""
    if split is None or len(split) == 0:
        return math.nan
    objective.eval()
    device = processes.fabric.device
    blocks = list(chunks(len(split), _validated_at_once(objective, split, seed, device)))
    sums = [0.0] * len(blocks)
    for block in range(processes.rank, len(blocks), processes.count):
        batch = split.batch(torch.arange(*blocks[block]), device)
        with keyed_rng(seed, "validate", block, device=device):
            sums[block] = objective(batch, 1.0).double().sum().item()
    return sum(processes.sums(sums)) / len(split)


def _draws(objective: nn.Module, split: Split, settings: Settings, processes: Processes) -> list[Draw] | None:
    """Returns what a step draws at random, where its batch is divided over processes or parts; else None."""
    if processes.count * settings.train.accumulate == 1:
        return None
    objective.train()
    return random_draws(partial(_rehearsed, objective, split, settings, processes))


def _rehearsed(objective: nn.Module, split: Split, settings: Settings, processes: Processes, num_data: int) -> Tensor:
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


def _validated_at_once(objective: _Objective, split: Split, seed: int, device: torch.device) -> int:
    """Returns how many data are validated at once: fewer where the decoder gives so much that the memory is short."""
    model = as_model(objective.model)
    if getattr(model, "log_weights", None) is not None:
        # what such a model decodes nobody sees
        return VALIDATION_BATCH
    context = split.batch(torch.zeros(1, dtype=torch.int64), device).context
    with keyed_rng(seed, "validate", device=device):
        prior = call(model.prior, context=context)
        z = prior.sample((objective.num_samples, *(() if prior.batch_shape else (1,))))
        return min(VALIDATION_BATCH, num_at_once(call(model.decoder, z, context=context)))


def _rest_of_epoch(num_data: int, settings: Settings, epoch: int, done: int) -> Iterator[Tensor]:
    """Yields the data of the batches of an epoch after those that are done, in an order that seed and epoch decide."""
    order = torch.randperm(num_data, generator=generator(settings.seed, "order", epoch))
    size = settings.train.batch_size
    return iter(order[done * size :].split(size))


def _beta(settings: ObjectiveSettings, epochs_done: float) -> float:
    """Rises linearly to the settings' beta over the warm-up."""
    if settings.beta_warmup_epochs == 0:
        return settings.beta
    return settings.beta * min(1.0, epochs_done / settings.beta_warmup_epochs)


def _learning_rate(options: TrainSettings, step: int, num_steps: int) -> float:
    """Rises linearly over the warm-up, then stays, or falls to 0 as half a cosine."""
    warm = min(1.0, (step + 1) / max(options.warmup_steps, 1))
    cosine = 0.5 * (1 + math.cos(math.pi * step / num_steps))
    return options.learning_rate * warm * (cosine if options.schedule == "cosine" else 1.0)


def _set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def _optimizer(model: nn.Module, options: TrainSettings) -> Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(f"A fit needs parameters, but {type(model).__name__} has none that require a gradient.")
    rates: dict[str, Any] = {"lr": options.learning_rate, "weight_decay": options.weight_decay}
    if options.optimizer == "adamax":
        return torch.optim.Adamax(parameters, **rates)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[options.optimizer]
    return kind(parameters, **rates, fused=True)


def _precision(settings: Settings) -> Precision:
    """Returns the precision as an object, because of one that it is told by name Lightning prints a line."""
    if settings.train.precision == "bf16-mixed":
        return MixedPrecision("bf16-mixed", choose_device(settings.device).type)
    return Precision()


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
    mean = _mean(train) if settings.model.center and settings.model.model == "vae" else None
    return _checked_model(build_model(settings, data.event_shape, train.kind, train.levels, mean))


def _mean(split: Split) -> Tensor:
    """Returns the mean of the data, with the event shape, a batch at a time."""
    total = torch.zeros(split.event_shape, dtype=torch.float64)
    for batch in split.batches(VALIDATION_BATCH):
        total += batch.x.double().sum(0)
    return (total / len(split)).float()


def _checked_model(model: object) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"A fit needs a torch.nn.Module with parameters, but got a {type(model).__name__}: subclass it."
        )
    as_model(model)
    return model


def _rehearse(model: nn.Module, settings: Settings, data: DataSet, train: Split, processes: Processes) -> None:
    """Does once what each step does, so that what cannot be is refused before an earlier run is removed."""
    if settings.train.patience is not None and (settings.train.validate_on != "valid" or not len(data.parts["valid"])):
        raise ValueError("patience needs validation data to judge by: set validate_on valid and num_valid above 0.")
    _require_data(data, {"train", settings.train.validate_on} - {"none", "valid"})
    choose_device(settings.device)
    _optimizer(model, settings.train)
    WeightAverage(model, settings.train.ema)
    with evaluating(as_model(model)), keyed_rng(settings.seed, "rehearsal"):
        batch = train.batch(torch.arange(min(len(train), settings.train.batch_size)))
        _Objective(model, settings.objective)(batch, settings.objective.beta)
    _require_divisible(model, settings, train, processes)


def _rehearse_em(model: nn.Module, settings: Settings, data: DataSet, train: Split, processes: Processes) -> None:
    """Refuses likewise what EM cannot do; its steps suit all data of the model's kind."""
    _require_one_process(settings, processes)
    _require_data(data, {"train"})
    choose_device(settings.device)


def _require_one_process(settings: Settings, processes: Processes) -> None:
    if processes.count > 1:
        raise ValueError(
            f"Model {settings.model.model} is fitted by expectation maximization, by one process, but "
            f"{processes.count} were asked for: leave devices and num_nodes at 1."
        )


def _require_data(data: DataSet, parts: set[str]) -> None:
    for name in parts:
        if not len(data.parts[name]):
            raise ValueError(f"The {name} part of {data.name!r} is empty, but is needed: give data with a {name} part.")


def _require_divisible(model: nn.Module, settings: Settings, train: Split, processes: Processes) -> None:
    """Refuses a model whose batches cannot be divided, where they are to be."""
    if processes.count * settings.train.accumulate == 1:
        return
    if any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise ValueError(
            "Batch normalization needs whole batches, but each is divided by devices, num_nodes or accumulate: choose "
            "another normalization, such as group, or leave them at 1."
        )
    objective = _Objective(model, settings.objective)
    _draws(objective, train, settings, processes)
    bound = _rehearsed(objective, train, settings, processes, 1)
    own = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(bound, list(own.values()), allow_unused=True)
    unused = [name for name, gradient in zip(own, gradients, strict=True) if gradient is None]
    if unused and processes.count > 1:
        raise ValueError(
            f"Several processes wait for the gradient of every parameter, but the bound does not depend on "
            f"{', '.join(unused)}: freeze them (requires_grad_(False)), or fit by one process."
        )


def _check_batches(model: nn.Module, num_data: int, batch_size: int) -> None:
    """Refuses a last batch of one datum where batches are normalized by their own statistics."""
    if (num_data - 1) % batch_size == 0 and any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise ValueError(
            f"Batch normalization needs 2 data or more in every batch, but batch_size {batch_size} leaves 1 of "
            f"{num_data:,} training data to the last: set a batch_size that does not divide {num_data - 1:,}, or "
            "another normalization."
        )


def _nonfinite(run: Run, index: Tensor, epoch: int, step: int, bound: float) -> str:
    shown = ", ".join(str(i) for i in index[:8].tolist()) + (", ..." if len(index) > 8 else "")
    return (
        f"The bound ({bound:.6g} nats) or its gradient is not finite in epoch {epoch + 1}, step {step + 1}, on "
        f"training data {shown}: the last good weights are saved in {run.path}; fit again with a lower learning rate, "
        "a clipped gradient (--clip-norm 100), or without such batches (--on-nonfinite skip)."
    )
