"""The evaluation of a model on data, block by block."""

from __future__ import annotations

__all__ = ["DATA_BLOCK", "evaluate"]

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..data import Batch, Split
from ..distributions import relaxation
from ..evidence import Block, Estimator, Evidence, inspect_model
from ..model import LatentVariableModel, as_model, call, evaluating, propose
from ..progress import track
from ..subset import CONTROL_SAMPLES, draw_subset
from ..utils import MEMORY_BUDGET, choose_device, chunks, generator, keyed_rng
from .record import Asked, record_of
from .result import Evaluation

DATA_BLOCK = 32


def evaluate(
    model: LatentVariableModel,
    split: Split,
    *,
    estimator: str = "auto",
    proposal: str | None = None,
    num_samples: int | None = None,
    target_error: float = 0.05,
    num_temperatures: int = 50,
    schedule: str = "adaptive",
    limit: int | None = None,
    subset: int | None = None,
    seed: int = 0,
    device: str = "auto",
    memory_budget: int = MEMORY_BUDGET,
    progress: bool | None = None,
) -> Evaluation:
    """Estimates log p(x) of data under any model with the three methods, or asks a model that knows it.

    Arguments:
        model: The model; a module is put into evaluation mode meanwhile.
        split: The data, as `DataSet.split` gives them.
        estimator: "auto": exact where the model has a method `log_evidence(x)` that returns log p(x), in nats, with
            shape (B,), and else an effort that adapts to each datum; "importance", a fixed number of draws from one
            proposal; "annealed", chains from a proposal to the posterior; or "exact".
        proposal: What importance sampling draws from, or where chains start: encoder (the default), prior, widened,
            refined, laplace, curvature or defensive.
        num_samples: The number of draws per datum, by default 5000; of chains, by default 32; of "auto" the largest
            number per proposal, by default 3500.
        target_error: The standard error that "auto" aims at, in nats per datum.
        num_temperatures: The number of steps of "annealed".
        schedule: How these are laid out: "adaptive", with a constant conditional effective sample size, or "sigmoid".
        limit: Evaluate the first data only; by default all.
        subset: Estimate the mean over all data from so many of them, drawn at random by the seed, with the ELBO of all,
            by 8 draws for each, as control variate.
        seed: The seed of the draws.
        device: "auto" (CUDA where there is one, for a module), or a torch device.
        memory_budget: The memory for the decoder's outputs, in bytes, as a rough guide; it changes no result.
        progress: Whether to show a progress bar; by default only on a terminal.

    Returns:
        The record and the evidence per datum.

    Raises:
        ValueError: If an option is unknown, there are no data, or a term of the model has a wrong shape, is finite
            nowhere in the first block of data, or is random because layers were left in training mode.
    """
    wanted = Estimator(estimator, proposal or "encoder", num_samples, target_error, num_temperatures, schedule)
    how = _chosen(model, wanted, proposal is not None)
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, but is {limit}: leave it out to take all data.")
    if subset is not None:
        _check_subset(how, limit)
    split = split if limit is None else split.take(limit)
    if len(split) == 0:
        raise ValueError(f"The {split.name} split is empty: choose another split.")
    index = torch.arange(len(split)) if subset is None else draw_subset(subset, len(split), seed)
    target = choose_device(device if isinstance(as_model(model), nn.Module) or device != "auto" else "cpu")
    started = time.perf_counter()
    with _placed(model, target), evaluating(model):
        found = [] if how.name == "exact" else inspect_model(_first_block(model, split.to(target), seed))
        control = None if subset is None else _control(model, split, seed, target, memory_budget, progress)
        evidence, relaxed = _estimate(model, split, index, how, seed, target, memory_budget, progress)
    asked = Asked(model, split, how, seed, target, time.perf_counter() - started)
    return Evaluation(record_of(asked, evidence, relaxed, control, index, found), evidence, index)


def _estimate(
    model: LatentVariableModel,
    split: Split,
    index: Tensor,
    estimator: Estimator,
    seed: int,
    device: torch.device,
    memory_budget: int,
    progress: bool | None,
) -> tuple[Evidence, str | None]:
    blocks, relaxed = [], None
    split = split.to(device)
    with track("evaluate", len(index), progress) as show:
        for number, (start, stop) in enumerate(chunks(len(index), DATA_BLOCK)):
            batch = split.batch(index[start:stop].to(device), device)
            if number == 0:
                relaxed = _relaxation(model, batch, split.kind, seed)
            block = Block(model, batch.x, batch.context, batch.mask, seed, number, memory_budget)
            blocks.append(estimator(block).cpu())
            show(stop, f"log p(x) {torch.cat([b.log_evidence for b in blocks]).mean():.2f} nats")
    return Evidence.cat(blocks), relaxed


def _control(
    model: LatentVariableModel,
    split: Split,
    seed: int,
    device: torch.device,
    memory_budget: int,
    progress: bool | None,
) -> Evidence:
    """Estimates the ELBO of all data by a few draws of the encoder, which no other estimate shares."""
    everything, own_seed = torch.arange(len(split)), generator(seed, "control").initial_seed()
    few = Estimator("importance", num_samples=CONTROL_SAMPLES)
    return _estimate(model, split, everything, few, own_seed, device, memory_budget, progress)[0]


def _check_subset(estimator: Estimator, limit: int | None) -> None:
    if limit is not None:
        raise ValueError(
            f"subset stands for all data, but limit {limit} was given beside it: leave out one of the two."
        )
    if estimator.name == "exact":
        raise ValueError("A model that knows its log p(x) needs no subset: leave it out, and all data are evaluated.")


def _chosen(model: object, estimator: Estimator, is_proposal_given: bool) -> Estimator:
    """Returns the estimator, after checking that the model has what it needs."""
    name, is_known = estimator.name, callable(getattr(model, "log_evidence", None))
    if name in ("auto", "exact") and is_proposal_given:
        raise ValueError(
            f"Estimator {name} takes no proposal, but got {estimator.proposal}: choose estimator importance or "
            "annealed with it."
        )
    if name == "exact" and not is_known:
        raise ValueError(
            f"Estimator exact needs a model with a method log_evidence, but {type(model).__name__} has none: choose "
            "estimator auto."
        )
    return dataclasses.replace(estimator, name="exact") if name == "auto" and is_known else estimator


def _first_block(model: LatentVariableModel, split: Split, seed: int) -> Block:
    device = split.values.device
    batch = split.batch(torch.arange(min(DATA_BLOCK, len(split)), device=device), device)
    return Block(model, batch.x, batch.context, batch.mask, seed)


def _relaxation(model: LatentVariableModel, batch: Batch, kind: str, seed: int) -> str | None:
    """Asks the decoder's distribution whether it is a likelihood of such data."""
    with keyed_rng(seed, "relaxation", device=batch.x.device):
        z = propose(model, batch.x, context=batch.context).sample((1,))
        return relaxation(call(model.decoder, z, context=batch.context), kind, batch.x)


@contextmanager
def _placed(model: object, device: torch.device) -> Iterator[None]:
    """Within the block a module is on the device, afterwards where it was."""
    if not isinstance(model, nn.Module):
        yield
        return
    before = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), device)
    try:
        model.to(device)
        yield
    finally:
        model.to(before)
