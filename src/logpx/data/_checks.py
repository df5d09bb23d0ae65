"""Checks of data sets, and of the positions asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .catalogue import Kind
from .rows import Values, pieces

_PARTS = ("train", "valid", "test")


def check_index(index: Tensor, size: int) -> None:
    """Raises unless the index is a vector of positions below `size`; values on a GPU are not looked at."""
    if index.dtype != torch.int64:
        raise TypeError(f"expected an index of dtype torch.int64, received {index.dtype}; convert it with .long().")
    if index.ndim != 1:
        raise ValueError(f"expected an index of shape (B,), received {tuple(index.shape)}; flatten it.")
    if index.device.type != "cpu" or not len(index):
        return
    low, high = int(index.min()), int(index.max())
    if low < 0 or high >= size:
        raise ValueError(
            f"expected positions from 0 to {size - 1}, received {low} to {high}; keep the index inside the split."
        )


def check_parts(
    name: str, kind: Kind, levels: int | None, event_shape: tuple[int, ...], parts: Mapping[str, Values]
) -> None:
    """Raises unless the parts are what the kind, the levels and the event shape say.

    Values that are not in memory were checked when they were found, and are not read once more.
    """
    _check_kind(name, kind, levels)
    if set(parts) != set(_PARTS):
        raise ValueError(f"{name}: expected the parts {list(_PARTS)}, received {list(parts)}; give exactly these.")
    dtype = torch.float32 if kind == "real" else torch.uint8
    for part, values in parts.items():
        where = f"{name}: part {part!r}"
        if values.dtype != dtype or tuple(values.shape[1:]) != event_shape:
            raise ValueError(
                f"{where}: expected {dtype} values of shape (N, {', '.join(map(str, event_shape))}), "
                f"received {values.dtype} of shape {tuple(values.shape)}; convert and reshape them."
            )
        if not values.numel() and (part != "valid" or 0 in event_shape):
            raise ValueError(f"{where}: expected at least one value, received an empty set; give it some data.")
        if isinstance(values, Tensor):
            check_range(where, values, levels)


def check_range(where: str, values: Values, levels: int | None) -> None:
    """Raises unless all values are levels below `levels`, or finite where that is None; names the first."""
    if levels == 256 or not values.numel():
        return
    found = _first(values, lambda x: ~torch.isfinite(x) if levels is None else x >= levels)
    if found:
        index, value = found
        expected = "finite float32 values" if levels is None else f"levels from 0 to {levels - 1}"
        raise ValueError(f"{where}: expected {expected}, received {value} at index {index}; mend or remove this datum.")


def check_probabilities(name: str, part: str, values: Values, binarization: str) -> None:
    """Raises unless all real values are in [0, 1] and so can be binarized; names the first that is not."""
    found = _first(values, lambda x: (x < 0) | (x > 1))
    if found:
        index, value = found
        raise ValueError(
            f"{name}: expected values in [0, 1] for binarization {binarization!r}, received {value} at "
            f"index {index} of {part!r}; rescale the data or pass 'none'."
        )


def _check_kind(name: str, kind: Kind, levels: int | None) -> None:
    allowed = {"binary": range(2, 3), "8-bit": range(2, 257), "real": (None,)}
    if kind not in allowed:
        raise ValueError(f"{name}: expected a kind among {list(allowed)}, received {kind!r}; pass one of these.")
    if levels not in allowed[kind]:
        raise ValueError(
            f"{name}: expected levels to be 2 for 'binary', 2 to 256 for '8-bit' and None for 'real', "
            f"received {levels} for {kind!r}; correct it."
        )


def _first(values: Values, is_wrong: Callable[[Tensor], Tensor]) -> tuple[tuple[int, ...], float] | None:
    """Returns the place of the first wrong value, and the value, or None where all are right."""
    for start, piece in pieces(values):
        wrong = is_wrong(piece)
        if wrong.any():
            first, *rest = (int(i) for i in wrong.nonzero()[0])
            return (start + first, *rest), piece[(first, *rest)].item()
    return None
