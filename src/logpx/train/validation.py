"""The bound of held-out data, by the same draws each time, its blocks divided over the processes."""

from __future__ import annotations

__all__ = ["VALIDATION_BATCH", "validate"]

import math

import torch

from ..data import Split
from ..model import as_model, call
from ..processes import Processes
from ..utils import chunks, keyed_rng, num_at_once
from .step import Objective

VALIDATION_BATCH = 500


@torch.no_grad()
def validate(objective: Objective, split: Split | None, seed: int, processes: Processes) -> float:
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


def _validated_at_once(objective: Objective, split: Split, seed: int, device: torch.device) -> int:
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
