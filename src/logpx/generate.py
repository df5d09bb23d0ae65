r"""From a model to tensors that can be looked at: samples, reconstructions, codes, traversals, the manifold.

A picture of a datum is the mean of the likelihood where it has one and a draw where it has none; the code of
a datum is the mean of the approximate posterior :math:`q(z | x)`, or a draw where the mean is unknown or not
a value that z can take.
"""

from __future__ import annotations

__all__ = [
    "active_latents",
    "encode",
    "encode_all",
    "has_mean",
    "has_real_latents",
    "manifold",
    "predict",
    "reconstruct",
    "sample",
    "traverse",
]

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from .data import Split
from .model import LatentVariableModel, call, evaluating
from .utils import chunks, keyed_rng, num_at_once

DECODED_AT_ONCE = 500
TRAVERSAL = tuple(0.6 * i for i in range(-5, 6))


def sample(
    model: LatentVariableModel,
    num_samples: int,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    mean: bool = True,
) -> Tensor:
    r"""Generates data from a model, :math:`z \sim p(z)` and then :math:`x` from :math:`p(x | z)`.

    Arguments:
        model: A model with a prior and a decoder, on `device`.
        num_samples: The number of data N.
        seed: The result is a function of the seed and the model alone.
        device: Where numbers are drawn.
        mean: Whether x is the mean of the likelihood (where it has one) or a draw from it.

    Returns:
        The data, with shape (N, \*event).

    Raises:
        ValueError: If `num_samples` is below 1 or the prior is a batch of distributions.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, but is {num_samples}: ask for one or more.")
    with evaluating(model), keyed_rng(seed, "sample", device=device):
        z = _drawn(_prior(model), (num_samples,)).to(device)
        return _decode(model, z, mean=mean)


def reconstruct(model: LatentVariableModel, x: Tensor, *, seed: int = 0, mean: bool = True) -> Tensor:
    r"""Encodes data and decodes them again, from the posterior mean to the mean of the likelihood or a draw from it.

    Arguments:
        model: A model with an encoder and a decoder, on the device of `x`.
        x: The data, with shape (B, \*event).
        seed: The seed of draws, and of codes where the posterior has no mean.
        mean: Whether the result is the mean of the likelihood (where it has one) or a draw from it.

    Returns:
        The reconstructions, with shape (B, \*event).
    """
    if len(x) == 0:
        raise ValueError("Reconstructions need data: give at least 1 datum.")
    with evaluating(model), keyed_rng(seed, "reconstruct", device=x.device):
        return _decode(model, _code(model, x), mean=mean)


def predict(model: LatentVariableModel, x: Tensor, *, seed: int = 0) -> Distribution:
    r"""Encodes data and returns what the decoder says of each, the likelihood :math:`p(x | z)` at its code z.

    Arguments:
        model: A model with an encoder and a decoder, on the device of `x`.
        x: The data, with shape (B, \*event), few enough to be decoded at once.
        seed: The seed of codes, where the posterior has no mean.

    Returns:
        The distribution of which :func:`reconstruct` gives the mean, with batch shape (1, B).
    """
    with evaluating(model), keyed_rng(seed, "reconstruct", device=x.device):
        return model.decoder(_code(model, x)[None])


def encode(
    model: LatentVariableModel,
    split: Split,
    *,
    batch_size: int = 500,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> dict[str, np.ndarray]:
    r"""Encodes every datum of a split.

    Arguments:
        model: A model with an encoder, on `device`.
        split: The data, a :class:`logpx.data.Split`.
        batch_size: The number of data that the encoder sees at once.
        device: Where the encoder computes.
        seed: The seed of the draws that stand in for the mean, for an encoder without one.

    Returns:
        "mean" with shape (N, \*latent), "scale" (the standard deviation; left out for an encoder
        without one) with the same shape, and "index" with shape (N,), the positions in the split.
    """
    split = split.epoch(0)
    parts: list[dict[str, Tensor]] = []
    with evaluating(model):
        for start, stop in chunks(len(split), batch_size):
            batch = split.batch(torch.arange(start, stop), device=device)
            q = call(model.encoder, batch.x, context=batch.context)
            with keyed_rng(seed, "encode", start, device=device):
                part = {"mean": _mean_or_sample(q), "scale": _moment(q, "stddev"), "index": batch.index}
            parts.append({key: value.cpu() for key, value in part.items() if value is not None})
    return {key: torch.cat([part[key] for part in parts]).numpy() for key in parts[0]} if parts else {}


def encode_all(
    model: LatentVariableModel,
    splits: Mapping[str, Split],
    *,
    rows: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    r"""Encodes every part of a data set, in the order of its source.

    Arguments:
        model: A model with an encoder.
        splits: The parts by name.
        rows: For each part the rows of the source that it holds, as in `DataSet.rows`; empty where the source has
            parts of its own, which then stay behind one another.
        seed: As for :func:`encode`.

    Returns:
        "mean" and "scale" as for :func:`encode`, each with N rows, "part" with the names of the parts, and "index", the
        rows of the source or, where it has parts, the positions within them.
    """
    codes = {name: encode(model, split, seed=seed) for name, split in splits.items() if len(split)}
    for name, code in codes.items():
        code["part"] = np.full(len(code["index"]), name)
        code["index"] = rows[name].numpy() if rows else code["index"]
    first = next(iter(codes.values()))
    merged = {key: np.concatenate([code[key] for code in codes.values()]) for key in first}
    order = np.argsort(merged["index"]) if rows else slice(None)
    return {key: column[order] for key, column in merged.items()}


def active_latents(model: LatentVariableModel, x: Tensor, num_latents: int, *, seed: int = 0) -> Tensor:
    r"""Finds the latents whose posterior means vary most over a batch of data.

    Arguments:
        model: A model with an encoder and latents of event shape (L,).
        x: The data, with shape (B, \*event).
        num_latents: How many to return, at most; L is the limit.
        seed: The seed of draws, for an encoder without a mean.

    Returns:
        The positions of the latents, the most active first, with shape (min(num_latents, L),).
    """
    with evaluating(model), keyed_rng(seed, "traverse", device=x.device):
        variance = _code(model, x).var(0, correction=0)
    return variance.argsort(descending=True, stable=True)[:num_latents]


def traverse(
    model: LatentVariableModel,
    x: Tensor,
    *,
    num_latents: int = 8,
    values: Sequence[float] = TRAVERSAL,
    seed: int = 0,
) -> Tensor:
    r"""Decodes what happens when one latent moves and the others stay at the first datum's posterior mean.

    Arguments:
        model: A model with an encoder, a decoder and real latents of event shape (L,).
        x: The data, with shape (B, \*event): the first is traversed, all say which latents are active.
        num_latents: The number of latents, the most active first, at most L.
        values: The V values that each latent takes.
        seed: The seed of draws, where a mean is missing.

    Returns:
        The decoded data, with shape (min(num_latents, L), V, \*event).

    Raises:
        ValueError: If the latents are not real vectors.
    """
    _require_real(model)
    latents = active_latents(model, x, num_latents, seed=seed)
    with evaluating(model), keyed_rng(seed, "traverse", device=x.device):
        z = _code(model, x)[0].repeat(len(latents), len(values), 1)
        for row, latent in enumerate(latents.tolist()):
            z[row, :, latent] = torch.tensor(list(values), dtype=z.dtype, device=z.device)
        return _decode(model, z.flatten(0, 1)).unflatten(0, z.shape[:2])


def manifold(model: LatentVariableModel, *, num: int = 20, seed: int = 0, device: torch.device | str = "cpu") -> Tensor:
    r"""Decodes a grid over two latents, spaced so that the prior puts equal mass between neighbours.

    Arguments:
        model: A model with a decoder and L = 2 real latents, on `device`.
        num: The number of grid lines per latent.
        seed: The seed of draws, for a decoder without a mean.
        device: Where the decoder computes.

    Returns:
        The decoded data, with shape (num, num, \*event): the first latent grows to the right, the second up.

    Raises:
        ValueError: If the model has not two real latents.
    """
    _require_real(model)
    prior = _prior(model)
    if prior.event_shape != (2,):
        raise ValueError(f"A manifold needs 2 latents, but the prior has {prior.event_shape[0]}: use traverse instead.")
    # normal quantiles z_i = mean + scale * Phi^-1((i + 1/2) / num)
    quantile = torch.special.ndtri((torch.arange(num, device=device) + 0.5) / num)
    upwards, rightwards = torch.meshgrid(quantile.flip(0), quantile, indexing="ij")
    z = torch.stack([rightwards, upwards], dim=-1)
    with evaluating(model), keyed_rng(seed, "manifold", device=device):
        mean, scale = _moment(prior, "mean"), _moment(prior, "stddev")
        if mean is not None and scale is not None:
            z = mean + scale * z
        return _decode(model, z.flatten(0, 1)).unflatten(0, (num, num))


def has_mean(distribution: Distribution) -> bool:
    """Returns whether a distribution knows its mean; where it does not, a draw stands in for it."""
    return _moment(distribution, "mean") is not None


def has_real_latents(model: LatentVariableModel) -> bool:
    """Returns whether the latents are real vectors, event shape (L,), which can be moved one by one."""
    prior = _prior(model)
    with keyed_rng(0, "support", device="cuda" if torch.cuda.is_available() else "cpu"), torch.no_grad():
        z = prior.sample()
    if z.dim() != 1 or not z.is_floating_point():
        return False
    try:
        support: Any = prior.support
    except NotImplementedError:
        support = None
    ends = (torch.full_like(z, value) for value in (min(TRAVERSAL), max(TRAVERSAL)))
    return support is None or (not support.is_discrete and all(bool(support.check(end).all()) for end in ends))


def _prior(model: LatentVariableModel) -> Distribution:
    prior: Distribution = model.prior()
    if prior.batch_shape != ():
        shape = tuple(prior.batch_shape)
        raise ValueError(f"model.prior() must have batch shape (), but has {shape}: wrap it in Independent.")
    return prior


def _require_real(model: LatentVariableModel) -> None:
    if not has_real_latents(model):
        prior = _prior(model)
        got = f"{type(prior).__name__} of event shape {tuple(prior.event_shape)}"
        raise ValueError(
            f"Moving one latent needs real latents of event shape (L,), but the prior is a {got}: use sample."
        )


def _decode(model: LatentVariableModel, z: Tensor, *, mean: bool = True) -> Tensor:
    """Decodes codes of shape (N, *latent) to data of shape (N, *event), as many at once as the memory has room for."""
    parts, size = [], min(DECODED_AT_ONCE, num_at_once(model.decoder(z[None, :1])))
    for start, stop in chunks(len(z), size):
        likelihood = model.decoder(z[None, start:stop])
        x = _mean_or_sample(likelihood) if mean else _drawn(likelihood)
        if x.shape[:2] != (1, stop - start):
            expected = f"(1, {stop - start})"
            raise ValueError(
                f"model.decoder(z) must keep the leading shape {expected} of z, but gave {tuple(x.shape)}."
            )
        parts.append(x[0])
    return torch.cat(parts)


def _code(model: LatentVariableModel, x: Tensor) -> Tensor:
    """Returns the posterior mean, or a draw where z is discrete: a mean of discrete codes is no code."""
    q = model.encoder(x)
    try:
        discrete = q.support is not None and q.support.is_discrete
    except NotImplementedError:
        discrete = False
    code: Tensor = _drawn(q) if discrete else _mean_or_sample(q)
    return code


def _mean_or_sample(distribution: Any) -> Tensor:
    mean = _moment(distribution, "mean")
    return _drawn(distribution) if mean is None else mean


def _drawn(distribution: Distribution, shape: tuple[int, ...] = ()) -> Tensor:
    # from such parameters torch draws what it likes, or fails without saying so
    if not _has_numbers(distribution):
        raise _no_numbers(distribution)
    draw: Tensor = distribution.sample(torch.Size(shape))
    if torch.isnan(draw).any():
        raise _no_numbers(distribution)
    return draw


def _has_numbers(distribution: Any) -> bool:
    """Whether the parameters that a distribution names, and those of distributions within it, are numbers."""
    held, names = getattr(distribution, "__dict__", {}), getattr(type(distribution), "arg_constraints", {})
    named = [held[name] for name in names if name in held] if isinstance(names, dict) else []
    inner = [value for value in held.values() if isinstance(value, Distribution)]
    is_odd = any(isinstance(value, Tensor) and torch.isnan(value).any() for value in named)
    return not is_odd and all(map(_has_numbers, inner))


def _no_numbers(distribution: Any) -> ValueError:
    name = type(distribution).__name__
    return ValueError(f"A {name} has parameters that are not numbers: restore the weights, or fit again.")


def _moment(distribution: Any, name: str) -> Tensor | None:
    """Returns the mean or stddev, or None where there is none: absent, not implemented, or all NaN."""
    try:
        value: Tensor = getattr(distribution, name)
    except (NotImplementedError, AttributeError):
        return None
    return None if torch.isnan(value).all() else value
