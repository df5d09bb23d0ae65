"""The evaluation of a model on data, block by block.

Of n processes the r-th takes the blocks r, r + n, ... of each pass over data; all put them together in their order.
"""

from __future__ import annotations

__all__ = ["DATA_BLOCK", "evaluate"]

import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Split
from ..distributions import relaxation
from ..evidence import Block, Estimator, Evidence, inspect_model
from ..model import LatentVariableModel, as_model, evaluating, propose
from ..processes import Processes, divided
from ..progress import track
from ..subset import CONTROL_SAMPLES, draw_subset
from ..utils import MEMORY_BUDGET, choose_device, generator, keyed_rng
from ..version import __version__
from .memory import Memory, refused
from .record import Asked, describe, record_of
from .result import Evaluation
from .shards import Shards

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
    devices: int | None = None,
    num_nodes: int | None = None,
    shards: Shards | None = None,
    processes: Processes | None = None,
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
        memory_budget: The memory for the decoder's outputs, in bytes, as a rough guide; it changes no result. It is
            halved where memory runs out.
        progress: Whether to show a progress bar; by default only on a terminal.
        devices: How many processes each machine has, each with a device of its own; by default 1, or as many as
            torchrun has started. They take whole blocks of data, so that the numbers are those of one process with as
            many threads as each of them. A script is run by each of them, and each gets the result.
        num_nodes: How many machines, likewise.
        shards: Where finished blocks are kept, so that an evaluation that was interrupted goes on; by default nowhere.
        processes: The processes, where they are launched already.

    Returns:
        The record and the evidence per datum.

    Raises:
        ValueError: If an option is unknown, there are no data, or a term of the model has a wrong shape, is finite
            nowhere in the first block of data, or is random because layers were left in training mode.
        LogpxError: If memory is too short for one draw at a time, there are fewer devices, or another process has ended
            without a word.
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
    started, memory = time.perf_counter(), Memory(memory_budget)
    with divided(target.type, devices, num_nodes) if processes is None else nullcontext(processes) as processes:
        target = _own_device(target, processes)
        work = _Work(model, split.to(target), target, memory, progress, shards, processes)
        if shards is not None:
            shards.open(_key(split, how, seed, subset, target), processes)
        with _placed(model, target), evaluating(model), nullcontext() if shards is None else shards.kept():
            found, relaxed = _inspected(work, how, index, seed)
            control = None if subset is None else _control(work, seed)
            evidence = _estimate(work, "data", index, how, seed)
        memory.is_short = processes.any(memory.is_short)
    seconds = time.perf_counter() - started if shards is None else shards.seconds
    asked = Asked(model, split, how, seed, target, processes.count, seconds)
    notes = [*found, *memory.notes()]
    return Evaluation(record_of(asked, evidence, relaxed, control, index, notes), evidence, index)


def _own_device(device: torch.device, processes: Processes) -> torch.device:
    """Returns the device of this process: of several each has its own."""
    return processes.fabric.device if processes.count > 1 and device.type == "cuda" else device


def _key(split: Split, estimator: Estimator, seed: int, subset: int | None, device: torch.device) -> dict[str, Any]:
    """Returns all but the model that decides the estimates of the blocks, fit for JSON."""
    return {
        "data": describe(split),
        "estimator": {**dataclasses.asdict(estimator), "num_samples": estimator.size},
        "seed": seed,
        "subset": subset,
        "data_block": DATA_BLOCK,
        "device": device.type,
        "versions": {"logpx": __version__, "torch": torch.__version__},
    }


@dataclasses.dataclass(frozen=True)
class _Work:
    """What all passes over data share."""

    model: LatentVariableModel
    split: Split
    device: torch.device
    memory: Memory
    progress: bool | None
    shards: Shards | None
    processes: Processes


def _estimate(work: _Work, name: str, index: Tensor, estimator: Estimator, seed: int) -> Evidence:
    """Returns the estimates of some of the data, with those of blocks that are finished already, in all processes."""
    finished, own, processes = {} if work.shards is None else work.shards.read(name), {}, work.processes
    num_blocks = math.ceil(len(index) / DATA_BLOCK)
    with track("evaluate", len(index), work.progress if processes.is_first else False) as show:
        for number in range(processes.rank, num_blocks, processes.count):
            processes.require_all()
            if number in finished:
                own[number] = finished[number]
            else:
                own[number] = work.memory.estimate(estimator, _block(work, index, number, seed)).cpu()
                if work.shards is not None:
                    work.shards.add(name, number, own[number])
            # the others are about as far
            done = min((number + processes.count) * DATA_BLOCK, len(index))
            show(done, f"log p(x) {torch.cat([b.log_evidence for b in own.values()]).mean():.2f} nats")
    blocks = {number: block for part in processes.from_all(own) for number, block in part.items()}
    return Evidence.cat([blocks[number] for number in range(num_blocks)])


def _control(work: _Work, seed: int) -> Evidence:
    """Estimates the ELBO of all data by a few draws of the encoder, which no other estimate shares."""
    everything, own_seed = torch.arange(len(work.split)), generator(seed, "control").initial_seed()
    few = Estimator("importance", num_samples=CONTROL_SAMPLES)
    return _estimate(work, "control", everything, few, own_seed)


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


def _block(work: _Work, index: Tensor, number: int, seed: int) -> Block:
    """Returns a block of those data that an index tells."""
    places = index[number * DATA_BLOCK : (number + 1) * DATA_BLOCK].to(work.device)
    batch = work.split.batch(places, work.device)
    return Block(work.model, batch.x, batch.context, batch.mask, seed, number)


def _inspected(work: _Work, estimator: Estimator, index: Tensor, seed: int) -> tuple[list[str], str | None]:
    """Returns what a look at a few draws found, and why the likelihood is relaxed, if it is."""
    all_data, block = torch.arange(len(work.split)), _block(work, index, 0, seed)
    with refused(estimator, block):
        found = [] if estimator.name == "exact" else inspect_model(_block(work, all_data, 0, seed))
        return found, _relaxation(block, work.split.kind)


def _relaxation(block: Block, kind: str) -> str | None:
    """Asks the decoder's distribution whether it is a likelihood of such data."""
    with keyed_rng(block.seed, "relaxation", device=block.x.device):
        z = propose(block.model, block.x, context=block.context).sample((1,))
        return relaxation(block.decoder(z), kind, block.x)


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
