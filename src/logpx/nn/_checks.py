"""Checks of the arguments of bodies."""

from __future__ import annotations

__all__ = ["check_choice", "check_dropout", "check_image_shape", "check_sizes"]

from collections.abc import Iterable, Sequence


def check_choice(name: str, value: str, known: Iterable[str]) -> None:
    """Raises unless the value is one of the known ones."""
    if value not in (known := tuple(known)):
        raise ValueError(f"{name} must be one of {', '.join(known)}, but is {value!r}: choose one.")


def check_dropout(dropout: float) -> None:
    """Raises unless the probability is in [0, 1)."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be in [0, 1), but is {dropout}: 0 turns it off.")


def check_sizes(**sizes: int | Sequence[int]) -> None:
    """Raises unless every size is positive; a sequence needs at least one."""
    for name, value in sizes.items():
        values = (value,) if isinstance(value, int) else tuple(value)
        if not values or min(values) < 1:
            raise ValueError(f"{name} must be positive, but is {value}: give sizes of at least 1.")


def check_image_shape(name: str, shape: Sequence[int]) -> None:
    """Raises unless the shape is that of an image."""
    if len(shape) != 3:
        raise ValueError(
            f"{name} must be (channels, height, width), but is {tuple(shape)}: give an image's shape, or use an MLP."
        )
    check_sizes(**{name: tuple(shape)})
