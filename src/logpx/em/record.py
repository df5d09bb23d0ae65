"""What EM asks of a model, and what it tells of a fit."""

from __future__ import annotations

__all__ = ["EMFit", "EMModel", "Iteration"]

import dataclasses
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from ..exact import Mend, Statistics


@runtime_checkable
class EMModel(Protocol):
    """A module whose expected log p(x, z) under its exact posterior is linear in sums over data."""

    def initialize(self, x: Tensor, seed: int = 0, attempt: int = 0) -> tuple[Mend, ...]:
        """Sets the parameters to a start that depends on data, the seed and the number of the attempt."""

    def statistics(self, x: Tensor) -> Statistics:
        """Takes the E-step and returns the sums over these data."""

    def maximize(self, statistics: Statistics) -> tuple[Mend, ...]:
        """Takes the M-step and returns what had to be mended."""

    def expected_log_joint(self, statistics: Statistics) -> Tensor:
        """Returns the sum over data of the expected log p(x, z), in nats."""

    def log_evidence(self, x: Tensor) -> Tensor:
        """Returns log p(x), in nats, with shape (B,)."""

    def log_penalty(self) -> Tensor:
        """Returns the log prior density of the parameters up to a constant, in nats."""


ModelT = TypeVar("ModelT", bound=EMModel)


class Iteration(NamedTuple):
    r"""One E-step over all data, at the parameters of the M-step before it; all bounds in nats per datum.

    Arguments:
        start: The number of the start, from 0; words count from 1.
        iteration: The number of M-steps since the start.
        segment: The number of times that something was mended since the start; within a segment the penalized
            log-likelihood of a fit to all data never falls.
        penalized: The mean of log p(x) plus the log prior density of the parameters divided by N.
        log_evidence: The mean of log p(x). In an online fit, each batch has it from before its own M-step.
        elbo_before: The mean of the ELBO of these parameters under the posterior of the parameters before, or None
            where there is none: :math:`\mathbb{E}_{r_{t-1}}[\log p_t(x, z)] + H(r_{t-1})`.
        elbo_after: The mean of the ELBO under their own posterior, which touches log p(x).
        events: What was mended between the iteration before and this one, in sentences.
    """

    start: int
    iteration: int
    segment: int
    penalized: float
    log_evidence: float
    elbo_before: float | None
    elbo_after: float
    events: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class EMFit(Generic[ModelT]):
    """A fitted model and how it came about.

    Arguments:
        model: The model of the best start.
        history: The iterations of each start together, those of the best last; the last is of the model as it is.
        converged: Whether the last change of the penalized log-likelihood was below the tolerance.
        num_data: The number N of data.
        was_told_to_end: Whether it ended because it was told to, before it converged or reached its limit.
        state: What a later fit goes on from: tensors and plain values in nested mappings and lists.
    """

    model: ModelT
    history: tuple[Iteration, ...]
    converged: bool
    num_data: int
    was_told_to_end: bool
    state: dict[str, Any] = dataclasses.field(repr=False)

    @property
    def events(self) -> tuple[str, ...]:
        """What was mended, each with its start and iteration."""
        rows = self.history
        return tuple(f"Start {i.start + 1}, iteration {i.iteration}: {event}" for i in rows for event in i.events)

    def __str__(self) -> str:
        last = self.history[-1]
        return (
            f"{type(self.model).__name__} after {last.iteration} iterations of start {last.start + 1}, "
            f"{'converged' if self.converged else 'not converged'}: mean log p(x) of {self.num_data} data "
            f"{last.log_evidence:.4f} nats"
        )
