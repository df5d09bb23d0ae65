r"""What all mixtures share: a discrete latent, the exact posterior, and the two steps of EM.

.. math:: p(x) = \sum_{k=1}^K \pi_k\, p(x | k), \qquad r_k(x) = p(k | x) = \pi_k\, p(x | k) / p(x).
"""

from __future__ import annotations

__all__ = ["EMPTY", "Mixture"]

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, OneHotCategorical

from ._checks import check_finite, check_weights, flat
from .statistics import Mend, Statistics

# A component that explains less than this many data has nothing to estimate its parameters from.
EMPTY = 0.01


class Mixture(nn.Module):
    r"""The part of a mixture that does not depend on its components; z is a one-hot vector of event shape (K,).

    A subclass brings `event_shape`, `decoder`, `initialize` and the private methods at the end.

    Arguments:
        weights: The weights :math:`\pi`, with shape (K,).
    """

    weights: Tensor

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        check_weights(weights)
        self.register_buffer("weights", weights / weights.sum())

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one datum."""
        raise NotImplementedError

    @property
    def num_components(self) -> int:
        """The number K of components."""
        return len(self.weights)

    def prior(self) -> OneHotCategorical:
        """Returns p(z) with event shape (K,)."""
        return OneHotCategorical(logits=self.weights.log())

    def encoder(self, x: Tensor) -> OneHotCategorical:
        """Returns the exact posterior p(z | x) with batch shape (B,) and event shape (K,)."""
        return OneHotCategorical(logits=self._log_joint(self._exactly(x)))

    def decoder(self, z: Tensor) -> Distribution:
        """Returns p(x | z) with batch shape z.shape[:-1], from one-hot z of shape (S, B, K)."""
        raise NotImplementedError

    def log_evidence(self, x: Tensor) -> Tensor:
        """Returns log p(x), in nats, with shape (B,)."""
        # log p(x) = log sum_k pi_k p(x | k)
        return torch.logsumexp(self._log_joint(self._exactly(x)), -1)

    @torch.no_grad()
    def statistics(self, x: Tensor) -> Statistics:
        r"""Takes the E-step: the sums over data of :math:`r_k(x)` and of the moments that it weighs.

        Arguments:
            x: The data, with shape (B,) + the event shape.

        Raises:
            ValueError: If the shape is another, or a value is none that the components can give.
        """
        values = self._for_sums(flat(x, self.event_shape))
        self._check_data(values)
        joint = self._log_joint(values)
        log_p = torch.logsumexp(joint, -1)
        r = torch.exp(joint - log_p.unsqueeze(-1))
        moments = {"counts": r.double().sum(0), **self._moments(values, r)}
        return Statistics(
            torch.tensor(float(len(x)), dtype=torch.float64, device=x.device),
            log_p.double().sum(),
            torch.special.entr(r).double().sum(),
            moments,
            self._origin,
        )

    @torch.no_grad()
    def maximize(self, statistics: Statistics) -> tuple[Mend, ...]:
        """Takes the M-step: sets the parameters to the best for these statistics; empty components stay as they are.

        Returns:
            What had to be mended.
        """
        counts = statistics.moments["counts"]
        self.weights.copy_(counts / counts.sum())
        return self._maximize(statistics, counts >= EMPTY)

    @torch.no_grad()
    def expected_log_joint(self, statistics: Statistics) -> Tensor:
        r"""Returns :math:`\sum_x \mathbb{E}[\log p(x, z)]` under the posterior of the statistics, in nats, shape ()."""
        # sum_k N_k log pi_k + sum_x sum_k r_k(x) log p(x | k)
        of_latents = torch.xlogy(statistics.moments["counts"], self.weights.double()).sum()
        return of_latents + self._expected_log_likelihood(statistics)

    def log_penalty(self) -> Tensor:
        """Returns the logarithm of the parameters' prior density up to a constant, in nats, with shape ()."""
        return self.weights.new_zeros((), dtype=torch.float64)

    def empty_components(self, statistics: Statistics) -> list[int]:
        """Returns the components that explain less than a hundredth of a datum."""
        return (statistics.moments["counts"] < EMPTY).nonzero().flatten().tolist()

    @torch.no_grad()
    def reseed(self, statistics: Statistics, components: list[int], x: Tensor) -> Statistics:
        """Returns the statistics as if each of these components explained one datum, repeated N / K times.

        Arguments:
            statistics: The statistics of N data.
            components: The components.
            x: A datum for each, with shape (len(components),) + the event shape.
        """
        new = replace(statistics, moments={name: moment.clone() for name, moment in statistics.moments.items()})
        count = statistics.num_data / self.num_components
        for k, values in zip(components, self._for_sums(flat(x, self.event_shape)).double(), strict=True):
            new.moments["counts"][k] = count
            self._seed(new, k, values, count)
        return new

    def _log_joint(self, values: Tensor) -> Tensor:
        """Returns log pi_k + log p(x | k) of data of shape (*, D), in nats, with shape (*, K), in their dtype."""
        return self.weights.log().to(values.dtype) + self._log_likelihoods(values)

    @property
    def _origin(self) -> Tensor:
        """The point around which moments are taken, by default 0."""
        return self.weights.new_zeros((), dtype=torch.float64)

    def _exactly(self, x: Tensor) -> Tensor:
        values = flat(x, self.event_shape).to(self.weights.dtype)
        self._check_support(values)
        return values

    def _for_sums(self, values: Tensor) -> Tensor:
        """Returns the data in the dtype of the E-step's products, by default that of the parameters."""
        return values.to(self.weights.dtype)

    def _check_data(self, values: Tensor) -> None:
        check_finite(values)

    def _check_support(self, values: Tensor) -> None:
        """Refuses data outside the support; by default there is none but the reals."""

    def _log_likelihoods(self, values: Tensor) -> Tensor:
        raise NotImplementedError

    def _moments(self, values: Tensor, r: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def _maximize(self, statistics: Statistics, alive: Tensor) -> tuple[Mend, ...]:
        raise NotImplementedError

    def _expected_log_likelihood(self, statistics: Statistics) -> Tensor:
        raise NotImplementedError

    def _seed(self, statistics: Statistics, k: int, values: Tensor, count: Tensor) -> None:
        raise NotImplementedError
