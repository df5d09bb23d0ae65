r"""Importance sampling of log p(x), streaming over draws.

.. math:: \log \hat p(x) = \log \frac{1}{S} \sum_{s=1}^S \frac{p(x | z_s) p(z_s)}{q(z_s)}, \qquad z_s \sim q.

p-hat is unbiased, so its logarithm is a stochastic lower bound: it understates log p(x) on average, the less the more
samples. Draws are keyed by (seed, block of data, block of samples), so that chunks do not change a result. Where
log p(x | z) is random itself, as under dequantization, a fixed number of draws is weighed at once, keyed by place.
"""

from __future__ import annotations

__all__ = ["SAMPLE_BLOCK", "importance"]

import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from ..model import LatentVariableModel, Proposal, Terms, call, log_weights, observed_log_prob, propose, weigh
from ..montecarlo import LogMeanAccumulator
from ..utils import chunks, keyed_rng, num_at_once, rng_state
from .results import Evidence

SAMPLE_BLOCK = 128
RANDOM_BLOCK = 8


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
    memory_budget: int = 2**28,
) -> Evidence:
    """Estimates log p(x) per datum by importance sampling.

    The proposal is called once; draws come in blocks of 128, and the decoder sees as many of them at a time as fit the
    memory budget, or 8 where log p(x | z) is random. Memory does not grow with the number of samples.

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
    if proposal is None and getattr(model, "log_weights", None) is not None:
        return _importance_of_own(model, x, num_samples, context, mask, seed, block)
    weights = LogMeanAccumulator.empty(len(x), x.device)
    rate, distortion = torch.zeros(2, len(x), dtype=torch.float64, device=x.device)
    latent_sum: Tensor | float = 0.0
    with keyed_rng(seed, "evidence", block, "proposal", device=x.device):
        q = propose(model, x, proposal, context)
    rows = 0
    for part, (start, stop) in enumerate(chunks(num_samples, SAMPLE_BLOCK)):
        z_block = _draw(q, stop - start, seed, block, part, x.device)
        if not rows:
            rows = _num_rows(model, x, z_block[:1], context, mask, seed, memory_budget)
        for place, z in enumerate(z_block.split(rows)):
            with keyed_rng(seed, "evidence", block, part, place, device=x.device):
                terms = weigh(model, x, z, q, context, mask)
            weights.update(terms.log_weights)
            rate += _sum(terms.log_proposal - terms.log_prior)
            distortion -= _sum(terms.log_likelihood)
            latent_sum = latent_sum + _sum(_vectors(terms))
    latent_mean = _posterior_mean(q, torch.as_tensor(latent_sum) / num_samples)
    return Evidence.of(weights, rate / num_samples, distortion / num_samples, latent_mean)


def _importance_of_own(
    model: LatentVariableModel,
    x: Tensor,
    num_samples: int,
    context: Tensor | None,
    mask: Tensor | None,
    seed: int,
    block: int,
) -> Evidence:
    """Does the same for a model that brings its own log-weights, whose latents nobody sees."""
    weights = LogMeanAccumulator.empty(len(x), x.device)
    for part, (start, stop) in enumerate(chunks(num_samples, SAMPLE_BLOCK)):
        with keyed_rng(seed, "evidence", block, part, device=x.device):
            weights.update(log_weights(model, x, stop - start, None, context, mask))
    unknown = torch.full((len(x),), math.nan, dtype=torch.float64, device=x.device)
    return Evidence.of(weights, unknown, unknown, unknown.new_empty(len(x), 0))


def _draw(q: Distribution, num_samples: int, seed: int, block: int, part: int, device: torch.device) -> Tensor:
    with keyed_rng(seed, "evidence", block, part, device=device):
        return q.sample((num_samples,))


def _num_rows(
    model: LatentVariableModel,
    x: Tensor,
    z: Tensor,
    context: Tensor | None,
    mask: Tensor | None,
    seed: int,
    memory_budget: int,
) -> int:
    """Returns how many draws are weighed at once: what fits the memory, unless log p(x | z) of one draw is random."""
    with keyed_rng(seed, "evidence", "rows", device=x.device):
        before = rng_state(x.device)
        p = call(model.decoder, z, context=context)
        observed_log_prob(p, x, mask)
        is_random = not torch.equal(rng_state(x.device), before)
    return RANDOM_BLOCK if is_random else num_at_once(p, memory_budget)


def _sum(term: Tensor) -> Tensor:
    return term.double().sum(0)


def _vectors(terms: Terms) -> Tensor:
    """Returns the latents with shape (S, B, L), or (S, B, 0) where they are not real."""
    z = terms.z.flatten(2) if terms.z.dim() > 2 else terms.z.unsqueeze(-1)
    return z if z.is_floating_point() else z.new_empty(*z.shape[:2], 0, dtype=torch.float32)


def _posterior_mean(q: Distribution, sample_mean: Tensor) -> Tensor:
    """Returns the mean of q, with shape (B, L), or the mean of the draws where q does not know its own."""
    try:
        mean = q.mean
    except NotImplementedError:
        return sample_mean
    return mean.double().reshape(sample_mean.shape) if mean.is_floating_point() else sample_mean
