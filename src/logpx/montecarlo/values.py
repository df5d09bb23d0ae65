"""Checks of what functions of draws return: one value per draw, and finite wherever it counts."""

from __future__ import annotations

__all__ = ["Function", "checked_values", "require_finite"]

from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]


def checked_values(f: Tensor, x: Tensor, counts: Tensor | None = None) -> Tensor:
    """Returns the values of f, with those that do not count set to 0: f need not be defined where p is 0.

    Arguments:
        f: What f returned, which should have shape (S,).
        x: The draws, with shape (S,) + the event shape.
        counts: Whether p is positive, with shape (S,); by default everywhere.

    Raises:
        ValueError: If the shape is another, or a value that counts is NaN or infinite.
    """
    if not isinstance(f, Tensor) or f.shape != x.shape[:1]:
        got = tuple(f.shape) if isinstance(f, Tensor) else type(f).__name__
        raise ValueError(f"f must return shape {tuple(x.shape[:1])}, but got {got}: one value per draw.")
    if counts is not None:
        f = torch.where(counts, f, torch.zeros_like(f))
    if f.is_floating_point():
        require_finite(torch.isfinite(f), "f(x)", f, x)
    return f


def require_finite(good: Tensor, what: str, values: Tensor, x: Tensor) -> None:
    """Raises a ValueError with the first draw at fault, unless all are good."""
    if not bool(good.all()):
        first = int((~good).nonzero()[0])
        raise ValueError(
            f"{what} must be finite, but is {values[first].item()} at x = {x[first].tolist()} (and at "
            f"{int((~good).sum()) - 1} more of {len(x):,} draws): mend the function, or choose a proposal that "
            "covers p."
        )
