r"""What a run's page says of 8-bit images alone: where the bits go, and what is predicted for single pixels.

The ELBO of an image of C channels with H rows and W columns, in bits per dimension, falls into parts,

.. math:: -\frac{\mathrm{ELBO}}{C H W \ln 2} = \frac{1}{C} \sum_c b_c + \frac{\mathrm{KL}(q \| p)}{C H W \ln 2}, \qquad
          b_c = -\frac{\mathbb{E}_q[\log p(x_c \mid x_1, \dots, x_{c-1}, z)]}{H W \ln 2}.
"""

from __future__ import annotations

__all__ = ["code_lengths", "predictions", "versions"]

import math
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Distribution, Independent

from .. import generate, plots
from ..data import Split
from ..distributions import level_masses, log_prob_per_channel, relaxation
from ..model import LatentVariableModel, call, evaluating, propose
from ..utils import bits_per_dim, chunks, keyed_rng, spread

NUM_CODED = 500
CODED_AT_ONCE = 50
NUM_PREDICTED = 2
# images of more dimensions have masses too many for the memory
MOST_DIMS = 2**17


def versions(model: LatentVariableModel, split: Split, x: Tensor, seed: int) -> dict[str, bool]:
    """Returns which pictures of p(x | z) are shown below one another, and whether each is its mean.

    Arguments:
        model: The model, on the device of `x`.
        split: The data.
        x: Some of them, with shape (B, *event).
        seed: The seed of codes, where the posterior has no mean.

    Returns:
        "mean", where there is one, and "sample"; nothing where the data are no levels, or the likelihood is relaxed.
    """
    if split.kind != "8-bit" or not len(x):
        return {}
    p = generate.predict(model, x[:1], seed=seed)
    if relaxation(p, split.kind, x) is not None:
        return {}
    return {"mean": True, "sample": False} if generate.has_mean(p) else {"sample": False}


def code_lengths(model: LatentVariableModel, split: Split, seed: int, device: torch.device | str) -> dict[str, Any]:
    """Returns what the ELBO spends on each channel and on the latents, over data spread over a split.

    Arguments:
        model: The model, on `device`; its likelihood has masses of the data.
        split: The data.
        seed: The seed of the draws, one z for each datum.
        device: Where the model computes.

    Returns:
        "seed"; "num_data"; "channels", each with its "name", its "bits" per value and its "share" of the total; the
        "rate" and the "total". Numbers are in bits/dim but for "bits", as pairs of a mean over the data and its
        standard error. Nothing where the likelihood does not tell channels apart, or where the model knows its
        log-weights as a whole alone.
    """
    if getattr(model, "log_weights", None) is not None:
        return {}
    split, index = split.epoch(0), spread(len(split), NUM_CODED)
    parts, names = [], list[str]()
    for start, stop in chunks(len(index), CODED_AT_ONCE):
        with evaluating(model), keyed_rng(seed, "code lengths", start, device=device):
            batch = split.batch(index[start:stop], device)
            q = propose(model, batch.x, context=batch.context)
            z = q.sample((1,))
            p = call(model.decoder, z, context=batch.context)
            if (log_p := log_prob_per_channel(p, batch.x)) is None:
                return {}
            names = channel_names(p)
            rate = q.log_prob(z) - call(model.prior, context=batch.context).log_prob(z)
            parts.append(torch.cat([-log_p, rate.unsqueeze(-1)], -1)[0].double().cpu())
    each = torch.cat(parts)
    return {"seed": seed, **_table(each[:, :-1], each[:, -1], names, math.prod(split.event_shape))}


def channel_names(p: Distribution) -> list[str]:
    """Returns what the channels of images are called, and on which others a likelihood lets each of them lean.

    Arguments:
        p: The likelihood, either `Independent` or one in which a channel leans on all before it.
    """
    num = p.event_shape[0]
    known = {1: ["grey"], 3: ["red", "green", "blue"]}
    names = known.get(num, [f"channel {c}" for c in range(num)])
    if isinstance(p, Independent):
        return names
    return [names[0], *(f"{names[c]} given {' and '.join(names[:c])}" for c in range(1, num))]


def predictions(model: LatentVariableModel, x: Tensor, seed: int) -> dict[str, Figure]:
    """Draws what is predicted for a few pixels of the first and the last datum, where a likelihood knows it.

    Arguments:
        model: The model, on the device of `x`; its likelihood has masses of the data.
        x: The data, with shape (B, *event).
        seed: The seed of codes, where the posterior has no mean.
    """
    x = x[spread(len(x), NUM_PREDICTED).to(x.device)]
    p = generate.predict(model, x, seed=seed)
    masses = level_masses(p, x) if x[0].numel() <= MOST_DIMS else None
    if masses is None:
        return {}
    means = p.mean[0].cpu().numpy() if generate.has_mean(p) else None
    title = "What p(x | z) predicts for single pixels: the probability of every level."
    figure = plots.predicted_levels(
        x.cpu().numpy(), masses[0].cpu().numpy(), means=means, channels=channel_names(p), title=title
    )
    return {"predictions": figure}


def _table(distortion: Tensor, rate: Tensor, names: list[str], num_dims: int) -> dict[str, Any]:
    """Turns distortions in nats of shape (N, C) and rates of shape (N,) into bits."""
    # b_c = distortion_c / (H W ln 2), of which bits/dim count the C-th part
    bits = torch.as_tensor(bits_per_dim(-distortion, num_dims // len(names)))
    return {
        "num_data": len(rate),
        "channels": [
            {"name": name, "bits": _mean(b), "share": _mean(b / len(names))}
            for name, b in zip(names, bits.unbind(1), strict=True)
        ],
        "rate": _mean(bits_per_dim(-rate, num_dims)),
        "total": _mean(bits_per_dim(-distortion.sum(1) - rate, num_dims)),
    }


def _mean(values: Any) -> tuple[float, float]:
    """Returns the mean over the data and its standard error."""
    error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return values.mean().item(), error
