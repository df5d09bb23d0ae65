"""The form in which data travel."""

from __future__ import annotations

__all__ = ["Batch"]

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Some data of one split, and where in the split they stand.

    Arguments:
        x: The data, of shape (B, *event_shape), float32.
        index: Their positions in the split, of shape (B,), int64.
        context: What the model is conditioned on, of shape (B, ...), or None.
        mask: True where a value was observed, of shape (B, *event_shape), or None where all were.
    """

    x: Tensor
    index: Tensor  # type: ignore[assignment]  # a tuple's method of this name is hidden
    context: Tensor | None = None
    mask: Tensor | None = None
