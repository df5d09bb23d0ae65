r"""A streaming, mergeable estimate of the logarithm of a mean of importance weights.

For weights :math:`w_s = e^{\ell_s}`, s = 1..S, kept per datum and in log space,

.. math:: \hat p = \frac{1}{S} \sum_s w_s, \qquad
          \widehat{\mathrm{se}}(\log \hat p) = \frac{1}{\hat p} \sqrt{\frac{\sum_s (w_s - \hat p)^2}{S (S - 1)}}

needs only the running maximum, the sums of w and of w^2 and the count. 32 sums over interleaved blocks of draws give
the jackknife and the curve over S, and the 1,000 largest weights give the Pareto k-hat. All of it merges, so chunks,
processes and machines give the result of one pass, and memory does not grow with the number of draws.
"""

from __future__ import annotations

__all__ = ["LogMeanAccumulator"]

import dataclasses
import math

import torch
from torch import Tensor

from ..utils import LogpxError
from .pareto import pareto_k, tail_length

NUM_BLOCKS = 32
NUM_LARGEST = 1000
# Log-weights that agree within this many units in the last place are constant: their spread is arithmetic, not chance.
ROUNDING_UNITS = 64


@dataclasses.dataclass
class LogMeanAccumulator:
    r"""The sufficient statistics of a batch of B streams of log-weights.

    Sums are kept in float64 relative to the running maximum. A log-weight of :math:`-\infty` is a weight of zero and
    counts; NaN and :math:`+\infty` are counted apart and make the estimate of their datum NaN.

    Arguments:
        batch_size: The number B of data, each with a stream of its own.
        device: Where the statistics live.

    Example:
        >>> acc = LogMeanAccumulator.empty(1).update(torch.log(torch.tensor([[1.0], [3.0]])))
        >>> round(acc.log_mean().exp().item(), 6), acc.count
        (2.0, 2)
    """

    count: int
    maximum: Tensor  # (B,) running maximum m of the log-weights
    minimum: Tensor  # (B,)
    block_sums: Tensor  # (32, B) sums of exp(l - m) over the draws s with s mod 32 = block
    block_counts: Tensor  # (32,)
    square_sum: Tensor  # (B,) sum of exp(2 (l - m))
    log_sum: Tensor  # (B,) sum of l
    largest: Tensor  # (min(S, 1000), B) largest log-weights
    num_invalid: Tensor  # (B,) number of NaN and +inf
    epsilon: float  # machine epsilon of the log-weights as they came

    @classmethod
    def empty(cls, batch_size: int, device: torch.device | str = "cpu") -> LogMeanAccumulator:
        """Returns the statistics of no draws."""
        zeros = torch.zeros(batch_size, dtype=torch.float64, device=device)
        return cls(
            count=0,
            maximum=zeros - math.inf,
            minimum=zeros + math.inf,
            block_sums=zeros.repeat(NUM_BLOCKS, 1),
            block_counts=torch.zeros(NUM_BLOCKS, dtype=torch.float64, device=device),
            square_sum=zeros.clone(),
            log_sum=zeros.clone(),
            largest=zeros.new_empty(0, batch_size),
            num_invalid=zeros.clone(),
            epsilon=0.0,
        )

    def update(self, log_w: Tensor) -> LogMeanAccumulator:
        """Adds the log-weights of further draws and returns itself.

        Arguments:
            log_w: The log-weights, in nats, with shape (S, B).

        Raises:
            ValueError: If the shape is not (S, B).
        """
        if log_w.dim() != 2 or log_w.shape[1] != len(self.maximum):
            expected = f"(S, {len(self.maximum)})"
            raise ValueError(f"log_w must have shape {expected}, but has {tuple(log_w.shape)}: one row per draw.")
        if log_w.shape[0] == 0:
            return self
        new = self._from_draws(log_w.detach())
        return self._assign(self.merged(new))

    def merged(self, other: LogMeanAccumulator) -> LogMeanAccumulator:
        """Returns the statistics of both streams together; the order does not matter beyond rounding.

        Raises:
            ValueError: If the two cover different numbers of data.
        """
        if len(self.maximum) != len(other.maximum):
            sizes = f"{len(self.maximum)} and {len(other.maximum)}"
            raise ValueError(f"Accumulators must cover the same data, but cover {sizes}: merge equal blocks of data.")
        maximum = torch.maximum(self.maximum, other.maximum)
        a, b = _rescale(self.maximum, maximum), _rescale(other.maximum, maximum)
        largest = torch.cat([self.largest, other.largest])
        return LogMeanAccumulator(
            count=self.count + other.count,
            maximum=maximum,
            minimum=torch.minimum(self.minimum, other.minimum),
            block_sums=self.block_sums * a + other.block_sums * b,
            block_counts=self.block_counts + other.block_counts,
            square_sum=self.square_sum * a**2 + other.square_sum * b**2,
            log_sum=self.log_sum + other.log_sum,
            largest=largest.topk(min(NUM_LARGEST, len(largest)), dim=0).values,
            num_invalid=self.num_invalid + other.num_invalid,
            epsilon=max(self.epsilon, other.epsilon),
        )

    def log_mean(self) -> Tensor:
        r"""Returns :math:`\log \hat p = \log \frac{1}{S} \sum_s w_s`, in nats, with shape (B,)."""
        self._require(1)
        log_mean = self.maximum + self.block_sums.sum(0).log() - math.log(self.count)
        return self._or_nan(torch.where(self._all_zero, -math.inf, log_mean))

    def mean_log(self) -> Tensor:
        r"""Returns the mean log-weight :math:`\frac{1}{S} \sum_s \ell_s`, an ELBO, in nats, with shape (B,)."""
        self._require(1)
        return self._or_nan(self.log_sum / self.count)

    def standard_error(self) -> Tensor:
        r"""Returns the delta-method standard error of :math:`\log \hat p`, in nats, with shape (B,).

        It is 0 for constant weights, and infinite when every weight so far is zero or there is one draw.
        """
        self._require(1)
        # se^2 = (S sum w^2 / (sum w)^2 - 1) / (S - 1)
        ratio = self.square_sum / self.block_sums.sum(0) ** 2
        variance = (self.count * ratio - 1).clamp(min=0) / max(self.count - 1, 1)
        error = torch.where(self.is_constant, 0.0, variance.sqrt())
        unknown = self._all_zero | torch.full_like(self._all_zero, self.count < 2)
        return self._or_nan(torch.where(unknown, math.inf, error))

    def ess(self) -> Tensor:
        r"""Returns the effective sample size :math:`(\sum w)^2 / \sum w^2`, in samples, with shape (B,)."""
        self._require(1)
        ess = self.block_sums.sum(0) ** 2 / self.square_sum
        return self._or_nan(torch.where(self._all_zero, 0.0, torch.where(self.is_constant, float(self.count), ess)))

    def pareto_k(self) -> Tensor:
        r"""Returns the Pareto shape :math:`\hat k` of the largest weights, with shape (B,); see :func:`pareto_k`.

        It is :math:`-\infty` for constant weights and NaN below 25 draws, where there is no tail to look at.
        """
        self._require(1)
        tail = min(tail_length(self.count), NUM_LARGEST - 1)
        if tail < 5:
            khat = torch.full_like(self.maximum, math.nan)
        else:
            khat = pareto_k(self.largest[: tail + 1])
        khat = torch.where(self._all_zero, math.inf, khat)
        return self._or_nan(torch.where(self.is_constant, -math.inf, khat))

    def jackknife(self) -> Tensor:
        r"""Returns the estimate of :math:`\log p` less its leading finite-S bias, in nats, with shape (B,).

        Deleting one of G blocks at a time gives :math:`G \log\hat p - \frac{G - 1}{G} \sum_g \log\hat p_{(-g)}`
        (Debiasing Evidence Approximations: On Importance-weighted Autoencoders and Jackknife Variational Inference,
        Nowozin, 2018, with blocks in place of single draws). NaN where one block holds the whole sum.
        """
        used = self.block_counts > 0
        sums, counts = self.block_sums[used], self.block_counts[used].unsqueeze(-1)
        g = len(sums)
        if g < 2:
            return torch.full_like(self.maximum, math.nan)
        rest = (sums.sum(0) - sums).clamp(min=0)
        log_rest = self.maximum + torch.log(rest / (self.count - counts))
        estimate = g * self.log_mean() - (g - 1) * log_rest.mean(0)
        return torch.where(torch.isfinite(estimate), estimate, math.nan)

    def curve(self) -> tuple[Tensor, Tensor]:
        r"""Returns the numbers of samples (C,) and, with shape (C, B), the mean estimate at each, in nats.

        The estimate at S / g is the average over the g disjoint groups of blocks of draws, for g = 32, 16, ..., 1: by
        Jensen's inequality it rises with the number of samples, in expectation.
        """
        self._require(1)
        sizes, means = [], []
        groups = NUM_BLOCKS
        while groups >= 1:
            sums = self.block_sums.unflatten(0, (groups, -1)).sum(1)
            counts = self.block_counts.unflatten(0, (groups, -1)).sum(1)
            if (counts > 0).all():
                log_means = self.maximum + torch.log(sums / counts.unsqueeze(-1))
                sizes.append(self.count / groups)
                means.append(log_means.mean(0))
            groups //= 2
        return torch.tensor(sizes, dtype=torch.float64), torch.stack(means)

    @property
    def is_constant(self) -> Tensor:
        """Whether all weights of a datum are equal up to rounding, with shape (B,)."""
        scale = self.maximum.abs().clamp(min=1.0)
        return (self.maximum - self.minimum) <= ROUNDING_UNITS * self.epsilon * scale

    @property
    def _all_zero(self) -> Tensor:
        return self.maximum == -math.inf

    def _from_draws(self, log_w: Tensor) -> LogMeanAccumulator:
        invalid = torch.isnan(log_w) | (log_w == math.inf)
        ell = log_w.double().masked_fill(invalid, -math.inf)
        new = LogMeanAccumulator.empty(ell.shape[1], ell.device)
        new.count, new.epsilon = len(ell), torch.finfo(log_w.dtype).eps
        new.maximum, new.minimum = ell.amax(0), ell.amin(0)
        weights = torch.exp(ell - new.maximum).nan_to_num(0.0)
        block = torch.arange(self.count, self.count + len(ell), device=ell.device) % NUM_BLOCKS
        new.block_sums.index_add_(0, block, weights)
        new.block_counts.index_add_(0, block, torch.ones_like(block, dtype=torch.float64))
        new.square_sum, new.log_sum = weights.square().sum(0), ell.sum(0)
        new.largest = ell.topk(min(NUM_LARGEST, len(ell)), dim=0).values
        new.num_invalid = invalid.sum(0).double()
        return new

    def _assign(self, other: LogMeanAccumulator) -> LogMeanAccumulator:
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(other, field.name))
        return self

    def _or_nan(self, value: Tensor) -> Tensor:
        return torch.where(self.num_invalid > 0, math.nan, value)

    def _require(self, count: int) -> None:
        if self.count < count:
            raise LogpxError(f"An estimate needs at least {count} draw, but got {self.count}: call update first.")


def _rescale(old: Tensor, new: Tensor) -> Tensor:
    """Returns exp(old - new) with 0 where the old sum is empty."""
    return torch.where(old == -math.inf, 0.0, torch.exp(old - new))
