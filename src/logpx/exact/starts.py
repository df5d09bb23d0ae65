"""Where EM starts: data far from one another."""

from __future__ import annotations

__all__ = ["nearest", "seed_centers"]

import torch
from torch import Tensor


def seed_centers(x: Tensor, num_centers: int, draws: torch.Generator) -> Tensor:
    r"""Draws data as centers, each with probability proportional to its squared distance from those before.

    References:
        k-means++: the advantages of careful seeding (Arthur and Vassilvitskii, 2007).

    Arguments:
        x: The data, with shape (n, D).
        num_centers: The number K of centers; where it exceeds the number of different data, centers repeat.
        draws: The generator of the draws, on the CPU.

    Returns:
        The centers, with shape (K, D).
    """
    chosen = [int(torch.randint(len(x), (1,), generator=draws))]
    distance = torch.full_like(x[:, 0], torch.inf)
    for _ in range(num_centers - 1):
        # D(x)^2, the squared distance from the nearest center
        distance = torch.minimum(distance, (x - x[chosen[-1]]).square().sum(1))
        chance = distance.cpu().double()
        chance = chance if chance.sum() > 0 else torch.ones_like(chance)
        chosen.append(_draw(chance, draws))
    return x[chosen]


def nearest(x: Tensor, centers: Tensor) -> Tensor:
    """Returns the position of the nearest center of each datum, with shape (n,)."""
    return torch.cdist(x, centers, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)


def _draw(chance: Tensor, draws: torch.Generator) -> int:
    """Draws one position with the given chances, of which there may be more than `torch.multinomial` takes."""
    cumulative = chance.cumsum(0)
    lot = torch.rand(1, generator=draws, dtype=torch.float64) * cumulative[-1]
    return min(int(torch.searchsorted(cumulative, lot, right=True)), len(chance) - 1)
