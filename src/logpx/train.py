"""The fit loop, on Lightning Fabric: it reads from top to bottom.

A fit is a function of (settings, data): batches, draws and dropout are keyed by (seed, epoch or step), so an
interrupted run that is resumed reaches the same weights, bit for bit on one CPU, as one that was left alone.
"""

from __future__ import annotations

__all__ = ["fit", "resume"]

import dataclasses
import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision, Precision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from . import objectives
from .checkpoint import WeightAverage, restore, save, save_epoch
from .data import Batch, DataSet, Split, load_data
from .data.catalogue import CATALOGUE, PREFIX
from .interrupt import interruptible
from .lock import held
from .model import as_model, call, evaluating
from .progress import track
from .run import Run, check_free
from .settings import ObjectiveSettings, Settings, TrainSettings
from .train_em import fit_by_em
from .utils import LogpxError, choose_device, generator, keyed_rng, num_at_once
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
    data_set = data if isinstance(data, DataSet) else _load(settings)
    train = data_set.split("train", settings.data.binarization, settings.data.data_seed)
    if settings.data.flip and not is_em:
        # refused here, before an earlier run is removed
        data_set.split("train", flip=True)
    built = _checked_model(model) if model is not None else _build(settings, data_set, train)
    if is_em:
        _rehearse_em(built, settings, data_set, train)
    else:
        check_given(overrides, settings, train.kind, is_own=model is not None)
        _check_batches(built, len(train), settings.train.batch_size)
        _rehearse(built, settings, data_set, train)
    stem = f"{Path(name).stem}-{settings.model.model}" if is_em else Path(name).stem
    path = Path(out or Path("runs") / stem)
    check_free(path, overwrite)
    with held(path):
        run = Run.create(path, settings, data_set, train.kind, built, own=model is not None, overwrite=overwrite)
        return (fit_by_em if is_em else _train)(run, settings, built, progress)


def resume(
    path: str | Path,
    *,
    model: nn.Module | None = None,
    data: DataSet | None = None,
    epochs: int | None = None,
    max_iterations: int | None = None,
    progress: bool | None = None,
) -> Run:
    """Continues a fit from its last saved state, to the weights that it would have reached uninterrupted.

    Arguments:
        path: The run folder.
        model: The module of one's own, where the run was fitted with one.
        data: The data set, where the run was fitted to one in memory.
        epochs: Another number of epochs, to prolong a fit.
        max_iterations: Another largest number of iterations of EM, likewise.
        progress: Whether to show a progress bar; by default only on a terminal.

    Returns:
        The run, its model and data in memory.

    Raises:
        LogpxError: If the folder holds no run or no state to resume from, or another process writes to it.
    """
    run = Run.open(path, None if model is None else as_model(model), data)
    train = run.load_split("train")
    # where nothing was saved yet, the weights start as those of the fit did: from the data's mean, too
    is_built = run.model is None and not run.is_own
    built = _build(run.settings, run.load_data(), train) if is_built else _checked_model(run.build_model())
    prolonged = {name: n for name, n in {"epochs": epochs, "max_iterations": max_iterations}.items() if n is not None}
    with held(run.path):
        if prolonged:
            run.write_settings(run.settings.override(**prolonged))
        return (fit_by_em if run.is_em else _train)(run, run.settings, built, progress)


def _train(run: Run, settings: Settings, model: nn.Module, progress: bool | None) -> Run:
    options = settings.train
    device = choose_device(settings.device).type
    fabric = Fabric(accelerator=device, devices=1, plugins=_precision(options, device), loggers=_loggers(run, options))
    fabric.launch()
    objective = _Objective(model, settings.objective)
    plain = _Objective(model, dataclasses.replace(settings.objective, free_bits=0.0))
    optimizer = _optimizer(model, options)
    step_module, step_optimizer = fabric.setup(objective, optimizer)
    average = WeightAverage(model, options.ema)
    state = restore(run, model, optimizer, average)

    train = run.split_of(run.load_data(), "train", flip=settings.data.flip).to(fabric.device)
    valid = None if options.validate_on == "none" else run.load_split(options.validate_on).to(fabric.device)
    steps_per_epoch = math.ceil(len(train) / options.batch_size)
    num_steps = options.epochs * steps_per_epoch
    started = time.perf_counter() - state.seconds
    if state.step < num_steps:
        run.forget_evaluation()

    due = time.perf_counter() + SAVE_EVERY

    with track("fit", num_steps, progress) as show, interruptible() as interrupted:
        for epoch in range(state.step // steps_per_epoch, options.epochs):
            if options.patience is not None and epoch - state.best_epoch >= options.patience:
                break
            model.train()
            for batch in _rest_of_epoch(train.epoch(epoch), settings, epoch, state.step - epoch * steps_per_epoch):
                beta = _beta(settings.objective, state.step / steps_per_epoch)
                learning_rate = _learning_rate(options, state.step, num_steps)
                _set_learning_rate(optimizer, learning_rate)

                with keyed_rng(settings.seed, "train", state.step, device=fabric.device):
                    bound = _bound(step_module, batch, beta).mean()
                optimizer.zero_grad(set_to_none=True)
                fabric.backward(-bound)
                norm = nn.utils.clip_grad_norm_(model.parameters(), options.clip_norm or math.inf)

                if math.isfinite(value := bound.item()) and math.isfinite(norm.item()):
                    step_optimizer.step()
                    average.update()
                    state.add(value, len(batch.x))
                else:
                    if options.on_nonfinite == "stop":
                        save(run, state, model, optimizer, average)
                        raise LogpxError(_nonfinite(run, batch, epoch, state.step, value))
                    state.skipped += 1
                state.step += 1
                show(state.step, state.note(epoch, options.epochs))
                if interrupted() and state.step % steps_per_epoch:
                    break
                if time.perf_counter() > due and state.step % steps_per_epoch:
                    state.seconds = time.perf_counter() - started
                    save(run, state, model, optimizer, average)
                    due = time.perf_counter() + SAVE_EVERY

            state.seconds = time.perf_counter() - started
            if state.step % steps_per_epoch == 0:
                with average.in_place():
                    valid_bound = _validate(plain, valid, settings.seed, fabric.device)
                row = state.finish_epoch(epoch + 1, valid_bound, learning_rate, beta)
                save_epoch(run, state, average, chooses=options.validate_on == "valid" and bool(valid))
                fabric.log_dict({key: row[key] for key in ("train", "valid", "learning_rate")}, step=epoch + 1)
                show(state.step, state.note(epoch, options.epochs))
            save(run, state, model, optimizer, average)
            due = time.perf_counter() + SAVE_EVERY
            if interrupted():
                how = f"logpx.resume({str(run.path)!r}, model=...)" if run.is_own else f"logpx fit --resume {run.path}"
                raise KeyboardInterrupt(f"Interrupted and saved; continue with: {how}")

    run.model = as_model(model)
    run.load_model()
    return run


class _Objective(nn.Module):
    """The objective as a module, so that Fabric can wrap it: a batch in, the bound per datum out, in nats."""

    def __init__(self, model: nn.Module, settings: ObjectiveSettings) -> None:
        super().__init__()
        self.model = model
        self.num_samples = settings.num_samples
        options: dict[str, Any] = {"num_samples": settings.num_samples, "gradient": settings.gradient}
        if settings.bound == "elbo":
            options["free_bits"] = settings.free_bits
        self.bound = partial(getattr(objectives, settings.bound), model, **options)

    def forward(self, batch: Batch, beta: float) -> Tensor:
        value: Tensor = self.bound(batch.x, beta=beta, context=batch.context, mask=batch.mask)
        return value


def _bound(objective: nn.Module, batch: Batch, beta: float) -> Tensor:
    """Returns the bound per datum, in nats; NaN where a model's distributions refuse their parameters as invalid."""
    try:
        bound: Tensor = objective(batch, beta)
    except ValueError as error:
        if "invalid values" not in str(error):
            raise
        return batch.x.new_full((len(batch.x),), math.nan).requires_grad_()
    return bound


@torch.no_grad()
def _validate(objective: _Objective, split: Split | None, seed: int, device: torch.device) -> float:
    """Returns the mean bound of the split's data at beta 1, in nats, by the same draws each time; NaN without data."""
    if split is None or len(split) == 0:
        return math.nan
    objective.eval()
    total, size = 0.0, _validated_at_once(objective, split, seed, device)
    for block, batch in enumerate(split.batches(size, device=device)):
        with keyed_rng(seed, "validate", block, device=device):
            total += _bound(objective, batch, 1.0).double().sum().item()
    return total / len(split)


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


def _rest_of_epoch(split: Split, settings: Settings, epoch: int, done: int) -> Iterator[Batch]:
    """Yields the batches of an epoch after those that are done, in an order that seed and epoch decide."""
    order = torch.randperm(len(split), generator=generator(settings.seed, "order", epoch))
    size = settings.train.batch_size
    return split.batches(size, device=split.values.device, order=order[done * size :])


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


def _precision(options: TrainSettings, device: str) -> Precision:
    """Returns the precision as an object, because of one that it is told by name Lightning prints a line."""
    return MixedPrecision("bf16-mixed", device) if options.precision == "bf16-mixed" else Precision()


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


def _rehearse(model: nn.Module, settings: Settings, data: DataSet, train: Split) -> None:
    """Does once what each step does, so that what cannot be is refused before an earlier run is removed."""
    if settings.train.patience is not None and (settings.train.validate_on != "valid" or not len(data.parts["valid"])):
        raise ValueError("patience needs validation data to judge by: set validate_on valid and num_valid above 0.")
    _require_data(data, {"train", settings.train.validate_on} - {"none", "valid"})
    choose_device(settings.device)
    _optimizer(model, settings.train)
    WeightAverage(model, settings.train.ema)
    with evaluating(as_model(model)), keyed_rng(settings.seed, "rehearsal"):
        batch = train.batch(torch.arange(min(len(train), settings.train.batch_size)))
        _bound(_Objective(model, settings.objective), batch, settings.objective.beta)


def _rehearse_em(model: nn.Module, settings: Settings, data: DataSet, train: Split) -> None:
    """Refuses likewise what EM cannot do; its steps suit all data of the model's kind."""
    _require_data(data, {"train"})
    choose_device(settings.device)


def _require_data(data: DataSet, parts: set[str]) -> None:
    for name in parts:
        if not len(data.parts[name]):
            raise ValueError(f"The {name} part of {data.name!r} is empty, but is needed: give data with a {name} part.")


def _check_batches(model: nn.Module, num_data: int, batch_size: int) -> None:
    """Refuses a last batch of one datum where batches are normalized by their own statistics."""
    if (num_data - 1) % batch_size == 0 and any(isinstance(module, _BatchNorm) for module in model.modules()):
        raise ValueError(
            f"Batch normalization needs 2 data or more in every batch, but batch_size {batch_size} leaves 1 of "
            f"{num_data:,} training data to the last: set a batch_size that does not divide {num_data - 1:,}, or "
            "another normalization."
        )


def _nonfinite(run: Run, batch: Batch, epoch: int, step: int, bound: float) -> str:
    shown = ", ".join(str(i) for i in batch.index[:8].tolist()) + (", ..." if len(batch.index) > 8 else "")
    return (
        f"The bound ({bound:.6g} nats) or its gradient is not finite in epoch {epoch + 1}, step {step + 1}, on "
        f"training data {shown}: the last good weights are saved in {run.path}; fit again with a lower learning rate, "
        "a clipped gradient (--clip-norm 100), or without such batches (--on-nonfinite skip)."
    )
