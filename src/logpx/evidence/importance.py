r"""Importance sampling of log p(x), streaming over draws.

.. math:: \log \hat p(x) = \log \frac{1}{S} \sum_{s=1}^S \frac{p(x | z_s) p(z_s)}{q(z_s)}, \qquad z_s \sim q.

p-hat is unbiased, so its logarithm is a stochastic lower bound: it understates log p(x) on average, the less the more
samples. Draws are keyed by (seed, block of data, block of samples), so that chunks do not change a result.
"""

from __future__ import annotations

__all__ = ["importance"]

import torch
from torch import Tensor

from ..model import LatentVariableModel, Proposal, propose
from ..utils import MEMORY_BUDGET, keep_freed_memory, keyed_rng
from .block import Block
from .estimator import Estimator
from .results import Evidence
from .tally import tally


@torch.no_grad()
def importance(
    model: LatentVariableModel,
    x: Tensor,
    num_samples: int,
    *,
    proposal: Proposal | None = None,
    context: Tensor | None = None,
    mask: Tensor | None = None,
    seed: int = 0,
    block: int = 0,
    memory_budget: int = MEMORY_BUDGET,
) -> Evidence:
    """Estimates log p(x) per datum by importance sampling.

    The proposal is called once; draws come in blocks of 128, and the decoder sees as many of them at a time as fit the
    memory budget. Memory does not grow with the number of samples.

    References:
        Importance Weighted Autoencoders (Burda, Grosse and Salakhutdinov, 2016).

    Arguments:
        model: The model, in evaluation mode.
        x: The data, with shape (B,) + the event shape.
        num_samples: The number S of draws per datum.
        proposal: A callable x -> q; by default the encoder.
        context: Labels or covariates, with shape (B, *).
        mask: True where x is observed, with the shape of x.
        seed: The seed of the draws.
        block: Which block of data this is; other blocks get other draws.
        memory_budget: The memory for the decoder's outputs, in bytes, as a rough guide.

    Returns:
        Estimate, standard error and diagnosis per datum.

    Raises:
        ValueError: If `num_samples` is not positive or a term has a wrong shape.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, but is {num_samples}: draw more samples.")
    data = Block(model, x, context, mask, seed, block, memory_budget)
    if proposal is None:
        return Estimator("importance", num_samples=num_samples)(data)
    keep_freed_memory()
    with keyed_rng(seed, "proposal", block, device=x.device):
        q = propose(model, x, proposal, context)
    return tally(data, q, num_samples).evidence(q, "given", num_samples)
