r"""Strict and relaxed Bernoulli vectors with a fused log-probability.

.. math:: \log p(x) = \sum_d x_d a_d - \log(1 + e^{a_d}), \qquad a = \mathrm{logits},

is the log-probability of binary x, and a mere loss (binary cross-entropy) of greys x in [0, 1].
"""

from __future__ import annotations

__all__ = ["IndependentBernoulli", "RelaxedBernoulli"]

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent
from torch.types import _size

from .levels import full_precision

# 2^-112 is a normal number in float32.
FACTORS = 112


class IndependentBernoulli(Independent):
    r"""A vector (or image) of independent binary variables, :math:`p(x) = \prod_d \mathcal{B}(x_d; \sigma(a_d))`.

    It is strict: data other than 0 and 1 are refused. The data are never copied to the shape of the logits.

    Arguments:
        logits: The logits a, with shape (*, event shape).
        event_ndims: The number of dimensions of one event.

    Example:
        >>> p = IndependentBernoulli(torch.zeros(5, 2), event_ndims=1)
        >>> round(p.log_prob(torch.ones(2)).exp()[0].item(), 6)
        0.25
    """

    base_dist: Bernoulli

    def __init__(self, logits: Tensor, event_ndims: int) -> None:
        super().__init__(Bernoulli(logits=logits, validate_args=False), event_ndims, validate_args=False)

    @property
    def logits(self) -> Tensor:
        """The logits a, with shape (*, event shape)."""
        return self.base_dist.logits

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> IndependentBernoulli:
        """Returns the distribution with its batch shape expanded."""
        logits = self.logits.expand(torch.Size(batch_shape) + self.event_shape)
        return type(self)(logits, self.reinterpreted_batch_ndims)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(x), in nats, with the batch shape.

        Raises:
            ValueError: If a value lies outside the support.
        """
        self.check(value)
        ndims = self.reinterpreted_batch_ndims
        a = full_precision(self.logits).flatten(-ndims)
        x = value.flatten(-ndims).to(a.dtype)
        # autocast would round the product to bfloat16, which is more than a nat of an image
        with torch.autocast(a.device.type, enabled=False):
            # log p(x) = x . a - sum_d log(1 + e^{a_d})
            return torch.linalg.vecdot(a, x) - _softplus_sum(a)

    def check(self, x: Tensor) -> None:
        """Refuses values outside the support.

        Raises:
            ValueError: If a value is neither 0 nor 1.
        """
        # x^2 = x for 0, 1 and infinity alone; several times as fast as two comparisons
        if not torch.equal(x * x, x) or (x.numel() and x.amax() > 1):
            odd = x[(x != 0) & (x != 1)][0].item()
            raise ValueError(
                f"A Bernoulli decoder needs data of 0 and 1, but got {odd:.6g}: binarize the data "
                "(for instance binarization dynamic), or ask for the relaxed-bernoulli likelihood by name."
            )


def _softplus_sum(a: Tensor) -> Tensor:
    r"""Returns :math:`\sum_d \log(1 + e^{a_d}) = \sum_d \max(a_d, 0) - \log \prod_d \sigma(|a_d|)`.

    Without a gradient the logarithm is taken of products of so many factors, each from 1/2 to 1, that none underflows:
    that takes two thirds of the time of single ones.
    """
    if torch.is_grad_enabled() and a.requires_grad:
        return F.softplus(a).sum(-1)
    factors, whole = torch.sigmoid_(a.abs()), a.shape[-1] // FACTORS
    grouped, rest = factors.split([whole * FACTORS, a.shape[-1] - whole * FACTORS], -1)
    logs = grouped.unflatten(-1, (whole, FACTORS)).prod(-1).log_().sum(-1) + rest.prod(-1).log_()
    return a.clamp(min=0).sum(-1) - logs


class RelaxedBernoulli(IndependentBernoulli):
    r"""Binary cross-entropy on greys in [0, 1], :math:`\sum_d x_d a_d - \log(1 + e^{a_d})`: not a log-probability.

    It does not integrate to one over greys, so `log_prob` is a score by which models of one kind compare at best; it
    is never turned into bits. (torch's `RelaxedBernoulli`, the concrete distribution, is another thing.)
    """

    relaxed = "binary cross-entropy on greys is a relaxed likelihood"

    def check(self, x: Tensor) -> None:
        """Refuses values outside the support.

        Raises:
            ValueError: If a value is not in [0, 1].
        """
        least, largest = x.aminmax() if x.numel() else (x.new_zeros(()), x.new_zeros(()))
        if not (least >= 0 and largest <= 1):
            odd = x[~((x >= 0) & (x <= 1))][0].item()
            raise ValueError(
                f"A relaxed Bernoulli decoder needs greys in [0, 1], but got {odd:.6g}: scale the data to [0, 1]."
            )
