r"""The Pareto k-hat diagnosis: how heavy is the tail of the importance weights?

The largest weights follow, above a threshold u, nearly a generalized Pareto distribution with shape k; moments of
order 1 / k and above do not exist. k < 0.5 means finite variance; k > 0.7 means that no practical number of samples
makes the estimate reliable.
"""

from __future__ import annotations

__all__ = ["pareto_k", "tail_length"]

import math

import torch
from torch import Tensor


def tail_length(num_samples: int) -> int:
    r"""Returns the number of weights that count as the tail, :math:`\lfloor \min(S / 5, 3 \sqrt{S}) \rfloor`.

    References:
        Pareto smoothed importance sampling (Vehtari, Simpson, Gelman, Yao and Gabry, 2024).

    Example:
        >>> tail_length(100), tail_length(10_000)
        (20, 300)
    """
    return int(min(num_samples / 5, 3 * math.sqrt(num_samples)))


def pareto_k(log_w: Tensor) -> Tensor:
    r"""Fits the generalized Pareto shape :math:`\hat k` to the largest importance weights.

    The profile posterior mean of :math:`b = -k / \sigma` is taken on a grid, and k is shrunk towards 0.5 by ten
    pseudo-observations.

    References:
        A new and efficient estimation method for the generalized Pareto distribution (Zhang and Stephens, 2009).
        Pareto smoothed importance sampling (Vehtari, Simpson, Gelman, Yao and Gabry, 2024).

    Arguments:
        log_w: The M + 1 largest log-weights, in nats, with shape (M + 1, B), in descending order; the last is the
            threshold. M is at least 5.

    Returns:
        The shape :math:`\hat k`, with shape (B,); infinite where the threshold or all of the tail is zero weight.

    Raises:
        ValueError: If there are fewer than 6 rows.
    """
    if len(log_w) < 6:
        raise ValueError(f"pareto_k needs at least 6 log-weights per datum, but got {len(log_w)}: draw more samples.")
    log_w = log_w.double()
    # exceedances y_i = (w_i - u) / w_max in ascending order; k does not depend on their scale
    relative = torch.exp(log_w - log_w[0])
    y = (relative[:-1] - relative[-1]).flip(0)
    khat = _shape(y.clamp(min=torch.finfo(torch.float64).tiny))
    return torch.where(torch.isfinite(khat), khat, math.inf)


def _shape(y: Tensor) -> Tensor:
    m = len(y)
    b = _grid(y)
    # profile log-likelihood: m (log(-b / k(b)) - k(b) - 1) with k(b) = mean log(1 - b y)
    k = torch.stack([torch.log1p(-b_j * y).mean(0) for b_j in b])
    profile = m * (torch.log(-b / k) - k - 1)
    weight = torch.softmax(profile, dim=0)
    weight = weight * (weight >= 10 * torch.finfo(torch.float64).eps)
    b_mean = (b * weight).sum(0) / weight.sum(0)
    k_mean = torch.log1p(-b_mean * y).mean(0)
    return (m * k_mean + 10 * 0.5) / (m + 10)


def _grid(y: Tensor) -> Tensor:
    m = len(y)
    size = 30 + int(math.sqrt(m))
    j = torch.arange(1, size + 1, dtype=y.dtype, device=y.device).unsqueeze(-1)
    quartile = y[int(m / 4 + 0.5) - 1]
    return 1 / y[-1] + (1 - torch.sqrt(size / (j - 0.5))) / (3 * quartile)
