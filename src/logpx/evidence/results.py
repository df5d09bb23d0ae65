"""What an estimator says of each datum."""

from __future__ import annotations

__all__ = ["METHODS", "Evidence"]

import dataclasses
import math

import torch
from torch import Tensor

from ..montecarlo import LogMeanAccumulator

# How an estimate was made: by draws from a proposal, by annealing, by the model's own weights, or exactly.
METHODS = (
    "encoder",
    "prior",
    "widened",
    "refined",
    "laplace",
    "curvature",
    "defensive",
    "given",
    "annealed",
    "own",
    "exact",
)
CURVES = ("curve_samples", "curve", "curve_error")
ESTIMATED = ("log_evidence", "standard_error", "ess", "pareto_k", "num_samples", "jackknife", *CURVES, "method")


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
        curve_samples: The numbers of samples of the curve, with shape (C, N).
        curve: The mean estimates at those numbers, in nats, with shape (C, N).
        curve_error: Their Monte Carlo errors, in nats, with shape (C, N).
        latent_mean: The mean of z under the proposal, with shape (N, L); L is 0 where there are no real vectors.
        num_passes: The passes spent, pilots and fits included: forward 1, backward 2, Jacobian-vector product 2.
        method: Which of METHODS made the estimate.
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
    num_passes: Tensor
    method: Tensor

    @classmethod
    def of(
        cls,
        weights: LogMeanAccumulator,
        rate: Tensor,
        distortion: Tensor,
        latent_mean: Tensor,
        method: str = "encoder",
        num_passes: float = 0.0,
    ) -> Evidence:
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
            curve_samples=curve_samples.to(rate).unsqueeze(-1).expand_as(curve).clone(),
            curve=curve,
            curve_error=curve_error,
            latent_mean=latent_mean,
            num_passes=torch.full_like(rate, num_passes),
            method=torch.full_like(rate, METHODS.index(method), dtype=torch.int64),
        )

    @classmethod
    def exact(cls, log_evidence: Tensor) -> Evidence:
        """Returns what is known in closed form; of weights, which there are none, nothing is said.

        Arguments:
            log_evidence: log p(x), in nats, with shape (N,), in float64.
        """
        zero, unknown = torch.zeros_like(log_evidence), torch.full_like(log_evidence, math.nan)
        empty = log_evidence.new_empty(0, len(zero))
        return cls(
            log_evidence=log_evidence,
            standard_error=zero,
            num_samples=zero,
            **dict.fromkeys(("ess", "pareto_k", "elbo", "rate", "distortion", "jackknife"), unknown),
            **dict.fromkeys(CURVES, empty),
            latent_mean=empty.mT,
            num_passes=zero,
            method=torch.full_like(zero, METHODS.index("exact"), dtype=torch.int64),
        )

    @classmethod
    def cat(cls, blocks: list[Evidence]) -> Evidence:
        """Puts blocks of data behind one another."""
        return cls(
            **{
                field.name: torch.cat([getattr(b, field.name) for b in blocks], dim=int(field.name in CURVES))
                for field in dataclasses.fields(cls)
            }
        )

    def take(self, rows: Tensor) -> Evidence:
        """Returns the estimates of some of the data.

        Arguments:
            rows: Which data, with shape (R,).
        """
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(Evidence)}
        return Evidence(**{name: v[:, rows] if name in CURVES else v[rows] for name, v in values.items()})

    def put(self, rows: Tensor, better: Evidence) -> Evidence:
        """Returns the same with the estimates of some data replaced, and the passes that these cost added.

        ELBO, rate, distortion and the mean of z stay those of the encoder.

        Arguments:
            rows: Which data, with shape (R,).
            better: Their estimates.
        """
        values = {field.name: getattr(self, field.name).clone() for field in dataclasses.fields(Evidence)}
        for name in ESTIMATED:
            values[name][..., rows] = getattr(better, name).to(values[name])
        values["num_passes"][rows] += better.num_passes
        return Evidence(**values)

    def cpu(self) -> Evidence:
        """Returns the same on the CPU."""
        return Evidence(**{f.name: getattr(self, f.name).cpu() for f in dataclasses.fields(self)})
