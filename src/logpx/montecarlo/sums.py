r"""What is kept of the draws of an estimate of E_p[f(X)]: sums that merge, of constant size.

With weights w = p / q and terms :math:`t = f w`, the moments of the columns (t, w) give the estimate and its error;
the accumulators of the logarithms of the non-zero :math:`|t|` and of w give the diagnoses.
"""

from __future__ import annotations

__all__ = ["Sums"]

import dataclasses

import torch
from torch import Tensor

from .accumulator import LogMeanAccumulator
from .moments import MomentAccumulator


@dataclasses.dataclass(frozen=True)
class Sums:
    """Sufficient statistics of draws; plain Monte Carlo has no weights.

    Arguments:
        moments: Of the columns (f w, w) with weights, and (f, c_1, ..., c_k) or (f w, w, c_1 w, ..., c_k w) with
            controls c of mean zero.
        terms: Of log |f w| over the draws where it is not zero.
        weights: Of log w, or None for plain Monte Carlo.
        has_negative: Whether a term was negative.
        is_boolean: Whether f returned booleans.
        only_ones: Whether f was 1 wherever it was not 0.
    """

    moments: MomentAccumulator
    terms: LogMeanAccumulator
    weights: LogMeanAccumulator | None
    has_negative: bool
    is_boolean: bool
    only_ones: bool

    @classmethod
    def empty(cls, weighted: bool) -> Sums:
        """Returns the sums of no draws, which merge with any."""
        weights = LogMeanAccumulator.empty(1) if weighted else None
        return cls(MomentAccumulator.empty(0), LogMeanAccumulator.empty(1), weights, False, True, True)

    @classmethod
    def of(cls, f: Tensor, log_w: Tensor | None = None, controls: Tensor | None = None, epsilon: float = 0.0) -> Sums:
        """Returns the sums of draws.

        Arguments:
            f: The values of f, with shape (S,).
            log_w: The log-weights, in nats, with shape (S,), or None where all are 0.
            controls: Functions of mean zero, with shape (S, k).
            epsilon: The machine epsilon of the densities that log_w comes from, where it is above that of float64.
        """
        is_boolean, f = f.dtype == torch.bool, f.double()
        columns = [f] if log_w is None else [f, torch.ones_like(f)]
        columns = columns if controls is None else [*columns, *controls.double().unbind(-1)]
        nonzero = f != 0 if log_w is None else (f != 0) & (log_w > -torch.inf)
        values = f[nonzero]
        log_terms = values.abs().log() if log_w is None else values.abs().log() + log_w[nonzero]
        terms = LogMeanAccumulator.empty(1).update(log_terms.unsqueeze(-1))
        return cls(
            moments=MomentAccumulator.of(torch.stack(columns, -1), log_w),
            terms=dataclasses.replace(terms, epsilon=max(terms.epsilon, epsilon)),
            weights=None if log_w is None else LogMeanAccumulator.empty(1).update(log_w.unsqueeze(-1)),
            has_negative=bool((values < 0).any()),
            is_boolean=is_boolean,
            only_ones=bool((values == 1).all()),
        )

    @classmethod
    def of_hits(cls, hits: int, count: int) -> Sums:
        """Returns the sums of `count` booleans without weights, of which `hits` are true: they need no pass over f."""
        share = torch.tensor([hits / count], dtype=torch.float64)
        # sum of (f - h / n)^2 = h (1 - h / n)
        moments = MomentAccumulator(count, torch.zeros(1).double(), share, (hits * (1 - share)).unsqueeze(0))
        terms = LogMeanAccumulator.empty(1).update(torch.zeros(hits, 1, dtype=torch.float64))
        return cls(moments, terms, None, has_negative=False, is_boolean=True, only_ones=True)

    def merged(self, other: Sums) -> Sums:
        """Returns the sums of both streams together."""
        weights = self.weights
        if weights is not None and other.weights is not None:
            weights = weights.merged(other.weights)
        return Sums(
            moments=self.moments.merged(other.moments),
            terms=self.terms.merged(other.terms),
            weights=weights,
            has_negative=self.has_negative or other.has_negative,
            is_boolean=self.is_boolean and other.is_boolean,
            only_ones=self.only_ones and other.only_ones,
        )

    @property
    def is_indicator(self) -> bool:
        """Whether f is 0 or 1: that of booleans is sure, that of numbers is seen by their ones."""
        return self.is_boolean or (self.only_ones and self.terms.count > 0)

    @property
    def count(self) -> int:
        """The number of draws."""
        return self.moments.count
