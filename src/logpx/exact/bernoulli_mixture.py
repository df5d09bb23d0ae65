"""The mixture of Bernoulli vectors: the exact model of binary images."""

from __future__ import annotations

__all__ = ["BernoulliMixture"]

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..distributions import IndependentBernoulli
from ..utils import generator
from ._checks import flat
from .mixture import Mixture
from .statistics import Mend, Statistics

# The M-step keeps probabilities this far from 0 and 1, where a single pixel would make log p(x) infinite.
BOUND = 1e-6


class BernoulliMixture(Mixture):
    r"""A mixture of Bernoulli vectors, :math:`p(x) = \sum_k \pi_k \prod_d p_{kd}^{x_d} (1 - p_{kd})^{1 - x_d}`.

    EM maximizes the likelihood times a prior :math:`\mathrm{Beta}(1 + a, 1 + a)` on every probability, as if each
    component had seen every pixel a times on and a times off: so a pixel that is never on in the training data does not
    make test data impossible. The M-step is :math:`\pi_k = N_k / N` and
    :math:`p_{kd} = (\sum_x r_k(x)\, x_d + a) / (N_k + 2 a)`.

    References:
        On the use of Bernoulli mixture models for text classification (Juan and Vidal, 2002).
        Pattern Recognition and Machine Learning, section 9.3.3 (Bishop, 2006).

    Arguments:
        weights: The weights :math:`\pi`, with shape (K,).
        probabilities: The probabilities p of a 1, strictly between 0 and 1, with shape (K,) + the event shape.
        pseudo_count: The pseudo-count a, in data; 0 gives maximum likelihood with probabilities within
            [1e-6, 1 - 1e-6].

    Raises:
        ValueError: If the shapes disagree or a value lies outside its range.

    Example:
        >>> model = BernoulliMixture(torch.tensor([0.5, 0.5]), torch.tensor([[0.9, 0.9], [0.1, 0.1]]))
        >>> round(model.log_evidence(torch.ones(1, 2)).exp().item(), 4)
        0.41
    """

    probabilities: Tensor

    def __init__(self, weights: Tensor, probabilities: Tensor, pseudo_count: float = 1.0) -> None:
        super().__init__(weights)
        _check(weights, probabilities, pseudo_count)
        self.register_buffer("probabilities", probabilities)
        self.pseudo_count = pseudo_count

    @classmethod
    def blank(
        cls, num_components: int, event_shape: int | Sequence[int], pseudo_count: float = 1.0
    ) -> BernoulliMixture:
        """Returns a mixture of equal components, in float64, for EM to start from data.

        Arguments:
            num_components: The number K of components.
            event_shape: The shape of one datum, or its number of dimensions.
            pseudo_count: The pseudo-count a, in data.
        """
        shape = (event_shape,) if isinstance(event_shape, int) else tuple(event_shape)
        weights = torch.full((num_components,), 1 / max(num_components, 1), dtype=torch.float64)
        return cls(weights, torch.full((num_components, *shape), 0.5, dtype=torch.float64), pseudo_count)

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one datum."""
        return self.probabilities.shape[1:]

    @property
    def logits(self) -> Tensor:
        """The logits of the probabilities, with shape (K,) + the event shape."""
        return torch.logit(self.probabilities)

    def decoder(self, z: Tensor) -> IndependentBernoulli:
        """Returns p(x | z) with batch shape z.shape[:-1], from one-hot z of shape (S, B, K)."""
        return IndependentBernoulli(self.logits[z.argmax(-1)], len(self.event_shape))

    def log_penalty(self) -> Tensor:
        r"""Returns :math:`a \sum_{kd} \log p_{kd} + \log(1 - p_{kd})`, in nats, with shape ()."""
        p = self.probabilities.double()
        return self.pseudo_count * (p.log() + torch.log1p(-p)).sum()

    @torch.no_grad()
    def initialize(self, x: Tensor, seed: int = 0, attempt: int = 0) -> tuple[Mend, ...]:
        """Places each component halfway between the mean of the data and a softened datum drawn from them.

        Arguments:
            x: Data, or a random part of them, with shape (n,) + the event shape.
            seed: The seed of the draws.
            attempt: The number of the start; others give other draws.
        """
        values = flat(x, self.event_shape)
        self._check_data(values)
        draws = generator(seed, "em", "start", attempt)
        # without replacement while the data last
        rounds = range(math.ceil(self.num_components / len(values)))
        rows = torch.cat([torch.randperm(len(values), generator=draws) for _ in rounds])[: self.num_components]
        chosen = _softened(values[rows.to(values.device)].double(), values.double().mean(0))
        self.weights.fill_(1 / self.num_components)
        self.probabilities.copy_(chosen.reshape(self.probabilities.shape))
        return ()

    def _for_sums(self, values: Tensor) -> Tensor:
        return values if values.is_floating_point() else values.to(torch.float32)

    def _check_data(self, values: Tensor) -> None:
        self._check_support(values)

    def _check_support(self, values: Tensor) -> None:
        # x - x^2 is 0 for 0 and 1 alone, and NaN where x is not finite: one pass where the strict check takes three
        if values.is_floating_point() and not torch.addcmul(values, values, values, value=-1).any():
            return
        IndependentBernoulli(values.new_zeros(values.shape[-1:], dtype=torch.float32), 1).check(values)

    def _log_likelihoods(self, values: Tensor) -> Tensor:
        p = self.probabilities.flatten(1)
        # log p(x | k) = sum_d x_d a_kd + log(1 - p_kd)
        return values @ torch.logit(p).to(values.dtype).T + torch.log1p(-p).sum(1).to(values.dtype)

    def _moments(self, values: Tensor, r: Tensor) -> dict[str, Tensor]:
        return {"ones": (r.T @ values).double()}

    def _maximize(self, statistics: Statistics, alive: Tensor) -> tuple[Mend, ...]:
        counts, a = statistics.moments["counts"].unsqueeze(-1), self.pseudo_count
        best = (statistics.moments["ones"] + a) / (counts + 2 * a)
        held = ((best < BOUND) | (best > 1 - BOUND)) & alive.unsqueeze(-1)
        best = torch.where(alive.unsqueeze(-1), best, self.probabilities.flatten(1).double()).clamp(BOUND, 1 - BOUND)
        self.probabilities.copy_(best.reshape(self.probabilities.shape))
        return tuple(_mend(k, num, best.shape[1]) for k, num in enumerate(held.sum(1).tolist()) if num)

    def _expected_log_likelihood(self, statistics: Statistics) -> Tensor:
        moments, p = statistics.moments, self.probabilities.flatten(1).double()
        return (moments["ones"] * torch.logit(p)).sum() + moments["counts"] @ torch.log1p(-p).sum(1)

    def _seed(self, statistics: Statistics, k: int, values: Tensor, count: Tensor) -> None:
        moments = statistics.moments
        mean = moments["ones"].sum(0) / moments["counts"].sum()
        moments["ones"][k] = count * _softened(values, mean.clamp(0, 1))


def _softened(x: Tensor, mean: Tensor) -> Tensor:
    """Returns probabilities between the mean and the data, within [1/8, 7/8]."""
    return 0.5 * mean + 0.125 + 0.25 * x


def _mend(k: int, num: int, num_dims: int) -> Mend:
    sentence = (
        f"Component {k} has {num} of {num_dims} probabilities at the bounds {BOUND:g} and 1 - {BOUND:g}, because it "
        "saw only one of 0 and 1 there: give a pseudo_count above 0."
    )
    return Mend(f"bound of component {k}", sentence)


def _check(weights: Tensor, probabilities: Tensor, pseudo_count: float) -> None:
    if probabilities.dim() < 2 or len(probabilities) != len(weights):
        raise ValueError(
            "A Bernoulli mixture needs weights of shape (K,) and probabilities of shape (K,) + the event shape, but "
            f"got {tuple(weights.shape)} and {tuple(probabilities.shape)}: mend the parameters."
        )
    if not ((probabilities > 0) & (probabilities < 1)).all():
        odd = probabilities[~((probabilities > 0) & (probabilities < 1))][0].item()
        raise ValueError(
            f"The probabilities must lie strictly between 0 and 1, but one is {odd:.6g}, which makes log p(x) of some "
            "data -inf: clamp them, or fit with a pseudo_count."
        )
    if not (pseudo_count >= 0 and math.isfinite(pseudo_count)):
        raise ValueError(f"pseudo_count must be 0 or more data, but is {pseudo_count}: use 1, or 0 for none.")
