"""What an estimator says of each datum."""

from __future__ import annotations

__all__ = ["Evidence"]

import dataclasses

import torch
from torch import Tensor

from ..montecarlo import LogMeanAccumulator


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Estimates of log p(x) per datum, each with shape (N,) unless said otherwise.

    Arguments:
        log_evidence: The estimates of log p(x), in nats.
        standard_error: Their Monte Carlo standard errors by the delta method, in nats; 0 for constant weights.
        ess: The effective sample sizes, in samples.
        pareto_k: The shapes of the weights' tails; -inf for constant weights.
        num_samples: The number of samples spent.
        elbo: The mean log-weights, in nats.
        rate: The mean of log q(z) - log p(z), in nats; NaN where a model has log-weights alone.
        distortion: The mean of -log p(x | z), in nats; NaN likewise.
        jackknife: The estimates less their leading finite-sample bias, in nats.
        curve_samples: The numbers of samples of the curve, with shape (C,).
        curve: The mean estimates at those numbers, in nats, with shape (C, N).
        curve_error: Their Monte Carlo errors, in nats, with shape (C, N).
        latent_mean: The mean of z under the proposal, with shape (N, L); L is 0 where there are no real vectors.
    """

    log_evidence: Tensor
    standard_error: Tensor
    ess: Tensor
    pareto_k: Tensor
    num_samples: Tensor
    elbo: Tensor
    rate: Tensor
    distortion: Tensor
    jackknife: Tensor
    curve_samples: Tensor
    curve: Tensor
    curve_error: Tensor
    latent_mean: Tensor

    @classmethod
    def of(cls, weights: LogMeanAccumulator, rate: Tensor, distortion: Tensor, latent_mean: Tensor) -> Evidence:
        """Reads off the estimates of a block of data from their accumulated weights."""
        curve_samples, curve, curve_error = weights.curve()
        return cls(
            log_evidence=weights.log_mean(),
            standard_error=weights.standard_error(),
            ess=weights.ess(),
            pareto_k=weights.pareto_k(),
            num_samples=torch.full_like(rate, weights.count),
            elbo=weights.mean_log(),
            rate=rate,
            distortion=distortion,
            jackknife=weights.jackknife(),
            curve_samples=curve_samples,
            curve=curve,
            curve_error=curve_error,
            latent_mean=latent_mean,
        )

    @classmethod
    def cat(cls, blocks: list[Evidence]) -> Evidence:
        """Puts blocks of data behind one another."""
        names = [field.name for field in dataclasses.fields(cls)]
        merged = {
            name: torch.cat([getattr(b, name) for b in blocks], dim=int(name in ("curve", "curve_error")))
            for name in names
        }
        return cls(**{**merged, "curve_samples": blocks[0].curve_samples})

    def cpu(self) -> Evidence:
        """Returns the same on the CPU."""
        return Evidence(**{f.name: getattr(self, f.name).cpu() for f in dataclasses.fields(self)})
