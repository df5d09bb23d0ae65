"""Distributions of N rows as distributions with batch shape (S, B), after latents were folded into one batch."""

from __future__ import annotations

__all__ = ["unfolded"]

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints
from torch.types import _size

ONE = torch.Size()


def unfolded(p: Distribution, batch_shape: tuple[int, ...], event_shape: tuple[int, ...]) -> Distribution:
    """Returns the same distribution with its N rows as another batch shape.

    Families of independent scalars are made anew from their parameters, so that whoever knows the family still does;
    any other is wrapped.

    Arguments:
        p: The distribution, with batch shape (N,); dimensions beyond belong to the event.
        batch_shape: A shape of N elements; () for one row.
        event_shape: The shape of one event, which may be arranged otherwise than in p where dimensions are independent.

    Raises:
        ValueError: If the dimensions of an event are not independent and arranged otherwise.
    """
    base = p
    while isinstance(base, Independent):
        base = base.base_dist
    names = _parameter_names(base)
    if base.event_shape == () and names and base.batch_shape.numel() == _numel(batch_shape + event_shape):
        depth = len(base.batch_shape)
        values = {name: getattr(base, name) for name in names}
        new = {name: v.reshape(*batch_shape, *event_shape, *v.shape[depth:]) for name, v in values.items()}
        return Independent(type(base)(**new, validate_args=False), len(event_shape), validate_args=False)
    if tuple(p.event_shape) != event_shape:
        raise ValueError(
            f"The model observes events of shape {tuple(p.event_shape)}, but a datum has shape {event_shape}: give "
            "data of the first shape."
        )
    return _Unfolded(p, batch_shape)


def _parameter_names(p: Distribution) -> list[str]:
    """Returns the arguments that p can be made of again, or none where that is not known."""
    known = set(p.arg_constraints)
    names = sorted(known & set(vars(p)))
    if {"probs", "logits"} <= set(names):
        # one is computed from the other, and log_prob reads the logits
        names.remove("probs")
    is_complete = known - set(names) <= {"probs", "logits"}
    return names if is_complete and all(isinstance(getattr(p, name), Tensor) for name in names) else []


class _Unfolded(Distribution):
    """A distribution with its rows arranged otherwise.

    Arguments:
        rows: The distribution, with batch shape (N,).
        batch_shape: A shape of N elements.
    """

    arg_constraints: ClassVar = {}

    def __init__(self, rows: Distribution, batch_shape: tuple[int, ...]) -> None:
        self.rows = rows
        super().__init__(torch.Size(batch_shape), rows.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws can be differentiated."""
        return self.rows.has_rsample

    @constraints.dependent_property
    def support(self) -> constraints.Constraint | None:
        """Where events lie."""
        return self.rows.support

    @property
    def mean(self) -> Tensor:
        """The mean, with the batch shape and the event shape."""
        return self.rows.mean.reshape(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """The variances, with the batch shape and the event shape."""
        return self.rows.variance.reshape(self.batch_shape + self.event_shape)

    def sample(self, sample_shape: _size = ONE) -> Tensor:
        """Returns draws."""
        return self._drawn(self.rows.sample, sample_shape)

    def rsample(self, sample_shape: _size = ONE) -> Tensor:
        """Returns draws that can be differentiated."""
        return self._drawn(self.rows.rsample, sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p, in nats, with the batch shape, after those dimensions that the value has more."""
        num_dims = len(self.event_shape)
        lead = torch.broadcast_shapes(value.shape[: value.dim() - num_dims], self.batch_shape)
        more = lead[: len(lead) - len(self.batch_shape)]
        value = value.expand(lead + self.event_shape)
        return self.rows.log_prob(value.reshape(*more, self.batch_shape.numel(), *self.event_shape)).reshape(lead)

    def _drawn(self, draw: Callable[[_size], Tensor], sample_shape: _size) -> Tensor:
        return draw(sample_shape).reshape(torch.Size(sample_shape) + self.batch_shape + self.event_shape)


def _numel(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
