r"""Sufficient statistics: all that an M-step needs to know of the data.

For the models of this room the expected complete-data log-likelihood :math:`\mathbb{E}_{p(z | x)}[\log p(x, z)]` is
linear in sums over data, so the sums of two parts of the data, from two batches or two machines, add.
"""

from __future__ import annotations

__all__ = ["Mend", "Statistics"]

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Mend(NamedTuple):
    """What an M-step had to mend.

    Arguments:
        key: What was mended, the same for every iteration that mends it again.
        sentence: What happened and what cures it, for a person to read.
    """

    key: str
    sentence: str


@dataclasses.dataclass(frozen=True)
class Statistics:
    r"""Sums over data under the exact posterior of the parameters that computed them, each in float64.

    Arguments:
        num_data: The number of data, with shape ().
        log_evidence: The sum of log p(x), in nats, with shape ().
        entropy: The sum of the posterior entropies :math:`H(p(z | x))`, in nats, with shape ().
        moments: The model's own sums by name.
        origin: The point around which moments are taken, with shape (D,), or () for 0; so those of data far from 0 keep
            their digits.

    Raises:
        ValueError: When sums around different points are added.
    """

    num_data: Tensor
    log_evidence: Tensor
    entropy: Tensor
    moments: dict[str, Tensor]
    origin: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Statistics:
        """Returns the statistics with a function applied to each sum, for instance a sum over machines."""
        moments = {name: function(moment) for name, moment in self.moments.items()}
        sums = (function(self.num_data), function(self.log_evidence), function(self.entropy))
        return Statistics(*sums, moments, self.origin)

    def __add__(self, other: Statistics) -> Statistics:
        if not torch.equal(self.origin, other.origin):
            raise ValueError("Sums around different origins do not add: take them with one model or copies of it.")
        moments = {name: moment + other.moments[name] for name, moment in self.moments.items()}
        return Statistics(
            self.num_data + other.num_data,
            self.log_evidence + other.log_evidence,
            self.entropy + other.entropy,
            moments,
            self.origin,
        )

    def __mul__(self, factor: Tensor | float) -> Statistics:
        return self.map(lambda total: total * factor)
