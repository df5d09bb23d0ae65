"""Checks of data and parameters that the exact models share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def flat(x: Tensor, event_shape: Sequence[int]) -> Tensor:
    """Returns data of shape (*, event shape) with shape (*, D)."""
    shape = tuple(event_shape)
    if x.dim() < len(shape) or tuple(x.shape[x.dim() - len(shape) :]) != shape:
        raise ValueError(f"Data must have shape (B,) + {shape}, but have {tuple(x.shape)}: reshape them.")
    return x.reshape(*x.shape[: x.dim() - len(shape)], math.prod(shape))


def check_finite(x: Tensor) -> None:
    """Refuses NaN and infinite data, of shape (B, D); names the first datum that holds one."""
    finite = torch.isfinite(x)
    if not finite.all():
        row = int((~finite).any(-1).nonzero()[0])
        odd = x[row][~finite[row]][0].item()
        raise ValueError(f"Data must be finite, but datum {row} of a batch holds {odd}: mend or remove it.")


def check_weights(weights: Tensor) -> None:
    """Refuses weights that are no probabilities of K components."""
    if weights.dim() != 1 or not len(weights):
        raise ValueError(f"The weights must have shape (K,), but have {tuple(weights.shape)}: give one per component.")
    total = weights.sum().item()
    if not (weights >= 0).all() or abs(total - 1) > 1e-4:
        raise ValueError(
            f"The weights must be probabilities with sum 1, but the smallest is {weights.min().item():.6g} and their "
            f"sum {total:.6g}: divide them by their sum."
        )


def check_positive(name: str, value: float) -> None:
    """Refuses a number that is not positive and finite."""
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be positive, but is {value}: give a number above 0.")
