r"""A streaming, mergeable estimate of the logarithm of a mean of importance weights.

For weights :math:`w_s = e^{\ell_s}`, s = 1..S, kept per datum and in log space,

.. math:: \hat p = \frac{1}{S} \sum_s w_s, \qquad
          \widehat{\mathrm{se}}(\log \hat p) = \frac{1}{\hat p} \sqrt{\frac{\sum_s (w_s - \hat p)^2}{S (S - 1)}}

needs only the sums of w and of w^2, as logarithms, and the count. 32 sums over interleaved blocks of draws give the
jackknife and the curve over S, and the 1,000 largest weights give the Pareto k-hat. All of it merges, so chunks,
processes and machines give the result of one pass, and memory does not grow with the number of draws.
"""

from __future__ import annotations

__all__ = ["LogMeanAccumulator"]

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils import LogpxError
from .pareto import pareto_k, tail_length

NUM_BLOCKS = 32
NUM_LARGEST = 1000
# Log-weights that agree within this many units in the last place are constant: their spread is arithmetic, not chance.
ROUNDING_UNITS = 32
# Beyond this share of the sum in one of 32 blocks, the estimate hangs on a few draws and its bias cannot be estimated.
LARGEST_SHARE = 0.5


@dataclasses.dataclass
class LogMeanAccumulator:
    r"""The sufficient statistics of a batch of B streams of log-weights.

    Sums are kept in float64, as logarithms. A log-weight of :math:`-\infty` is a weight of zero and counts; NaN
    and :math:`+\infty` are counted apart and make the estimate of their datum NaN.

    Arguments:
        batch_size: The number B of data, each with a stream of its own.
        device: Where the statistics live.

    Example:
        >>> acc = LogMeanAccumulator.empty(1).update(torch.log(torch.tensor([[1.0], [3.0]])))
        >>> round(acc.log_mean().exp().item(), 6), acc.count
        (2.0, 2)
    """

    count: int
    maximum: Tensor  # (B,) largest log-weight
    minimum: Tensor  # (B,) smallest log-weight
    block_sums: Tensor  # (32, B) log of the sum of w over the draws s with s mod 32 = block
    block_counts: Tensor  # (32,)
    square_sum: Tensor  # (B,) log of the sum of w^2
    sum_of_logs: Tensor  # (B,) sum of l
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
            block_sums=zeros.repeat(NUM_BLOCKS, 1) - math.inf,
            block_counts=torch.zeros(NUM_BLOCKS, dtype=torch.float64, device=device),
            square_sum=zeros - math.inf,
            sum_of_logs=zeros.clone(),
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
        largest = torch.cat([self.largest, other.largest])
        return LogMeanAccumulator(
            count=self.count + other.count,
            maximum=torch.maximum(self.maximum, other.maximum),
            minimum=torch.minimum(self.minimum, other.minimum),
            block_sums=torch.logaddexp(self.block_sums, other.block_sums),
            block_counts=self.block_counts + other.block_counts,
            square_sum=torch.logaddexp(self.square_sum, other.square_sum),
            sum_of_logs=self.sum_of_logs + other.sum_of_logs,
            largest=largest.topk(min(NUM_LARGEST, len(largest)), dim=0).values,
            num_invalid=self.num_invalid + other.num_invalid,
            epsilon=max(self.epsilon, other.epsilon),
        )

    def take(self, rows: Tensor) -> LogMeanAccumulator:
        """Returns the statistics of some of the data.

        Arguments:
            rows: Which data, with shape (R,).
        """
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in ("maximum", "minimum", "block_sums", "square_sum", "sum_of_logs", "largest", "num_invalid"):
            values[name] = values[name][..., rows]
        return LogMeanAccumulator(**values)

    def log_mean(self) -> Tensor:
        r"""Returns :math:`\log \hat p = \log \frac{1}{S} \sum_s w_s`, in nats, with shape (B,)."""
        self._require(1)
        return self._or_nan(self._log_sum - math.log(self.count))

    def mean_log(self) -> Tensor:
        r"""Returns the mean log-weight :math:`\frac{1}{S} \sum_s \ell_s`, an ELBO, in nats, with shape (B,)."""
        self._require(1)
        return self._or_nan(self.sum_of_logs / self.count)

    def standard_error(self) -> Tensor:
        r"""Returns the delta-method standard error of :math:`\log \hat p`, in nats, with shape (B,).

        It is 0 for constant weights, and infinite when every weight so far is zero or there is one draw.
        """
        self._require(1)
        # se^2 = (S sum w^2 / (sum w)^2 - 1) / (S - 1)
        ratio = torch.exp(self.square_sum - 2 * self._log_sum)
        variance = (self.count * ratio - 1).clamp(min=0) / max(self.count - 1, 1)
        error = torch.where(self.is_constant, 0.0, variance.sqrt())
        unknown = self._all_zero | torch.full_like(self._all_zero, self.count < 2)
        return self._or_nan(torch.where(unknown, math.inf, error))

    def ess(self) -> Tensor:
        r"""Returns the effective sample size :math:`(\sum w)^2 / \sum w^2`, in samples, with shape (B,)."""
        self._require(1)
        ess = torch.exp(2 * self._log_sum - self.square_sum)
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
        Nowozin, 2018, with blocks in place of single draws). NaN where one block holds more than half of the sum: the
        estimate then hangs on a few draws, and nothing is known of its bias.
        """
        used = self.block_counts > 0
        sums, counts = self.block_sums[used], self.block_counts[used].unsqueeze(-1)
        g = len(sums)
        share = torch.exp(sums - self._log_sum)
        # log p-hat without block g: log (sum w - sum_g w) - log (S - S_g)
        log_rest = self._log_sum + torch.log1p(-share.clamp(max=1)) - torch.log(self.count - counts)
        estimate = g * self.log_mean() - (g - 1) * log_rest.mean(0)
        return torch.where(share.amax(0) <= LARGEST_SHARE, estimate, math.nan)

    def curve(self) -> tuple[Tensor, Tensor, Tensor]:
        r"""Returns the numbers of samples (C,) and, with shape (C, B), the mean estimate at each and its error in nats.

        The estimate at S / g is the average over the g disjoint groups of blocks of draws, for g = 32, 16, ..., 1, and
        its Monte Carlo error comes from their spread: by Jensen's inequality the estimate rises with the number of
        samples, in expectation.
        """
        self._require(1)
        sizes, means, errors = [], [], []
        for g in (32, 16, 8, 4, 2, 1):
            counts = self.block_counts.unflatten(0, (g, -1)).sum(1)
            if (counts == 0).any():
                continue
            log_means = torch.logsumexp(self.block_sums.unflatten(0, (g, -1)), 1) - torch.log(counts).unsqueeze(-1)
            sizes.append(self.count / g)
            means.append(self._or_nan(log_means.mean(0)))
            errors.append(log_means.std(0) / math.sqrt(g) if g > 1 else self.standard_error())
        return torch.tensor(sizes, dtype=torch.float64), torch.stack(means), torch.stack(errors)

    @property
    def is_constant(self) -> Tensor:
        """Whether all weights of a datum are equal up to rounding, with shape (B,)."""
        scale = self.maximum.abs().clamp(min=1.0)
        spread = self.maximum - self.minimum
        return (spread <= ROUNDING_UNITS * self.epsilon * scale) & (self.count > 1)

    @property
    def _log_sum(self) -> Tensor:
        return torch.logsumexp(self.block_sums, 0)

    @property
    def _all_zero(self) -> Tensor:
        return self.maximum == -math.inf

    def _from_draws(self, log_w: Tensor) -> LogMeanAccumulator:
        invalid = torch.isnan(log_w) | (log_w == math.inf)
        ell = log_w.double().masked_fill(invalid, -math.inf)
        new = LogMeanAccumulator.empty(ell.shape[1], ell.device)
        new.count, new.epsilon = len(ell), torch.finfo(log_w.dtype).eps
        new.maximum, new.minimum = ell.amax(0), ell.amin(0)
        # draw s belongs to block s mod 32: pad with zero weights to whole rounds of 32
        before = self.count % NUM_BLOCKS
        after = -(before + len(ell)) % NUM_BLOCKS
        rounds = F.pad(ell, (0, 0, before, after), value=-math.inf).unflatten(0, (-1, NUM_BLOCKS))
        counts = F.pad(torch.ones_like(ell[:, :1]), (0, 0, before, after)).unflatten(0, (-1, NUM_BLOCKS))
        new.block_sums, new.block_counts = torch.logsumexp(rounds, 0), counts.sum((0, 2))
        new.square_sum, new.sum_of_logs = torch.logsumexp(2 * ell, 0), ell.sum(0)
        # in no order yet: merging sorts
        new.largest = ell.topk(NUM_LARGEST, dim=0).values if len(ell) > NUM_LARGEST else ell
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
