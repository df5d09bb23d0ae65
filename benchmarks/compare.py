"""How often a comparison of two models errs: exact models, 1,000 resampled test sets, with and without sampling noise.

Pairs of factor analysis models, of which each knows its log p(x), and the truth that the data are drawn from:

- equal: the truth with its mean moved by v and by -v, so that by symmetry both have the same expected log p(x);
- different: the same with shifts of different lengths, so that the expected log p(x) differs by 0.5 nats and the
  differences have a standard deviation of 5 nats.

Each test set has 1,000 data, drawn afresh. The paired interval should say "no difference shown" of the equal pair in
95% of them (93% to 97% is asked for), and find the difference of the other in at least 80%. Rows with draws replace
log p(x) by an importance-sampling estimate with a proposal of 1.1 times the posterior's scale; that with a small
standard deviation shows an interval of which both error sources are a good part. Run `python benchmarks/compare.py`.
"""

import math
import time

import numpy as np
import torch

from logpx import FactorAnalysis
from logpx.comparison import Comparison, paired
from logpx.evidence import importance
from logpx.utils import keyed_rng

NUM_SETS, NUM_DATA, NUM_SAMPLES = 1000, 1000, 8
NUM_DIMS, NUM_LATENTS = 8, 2
DIFFERENCE, SPREAD, CLOSE = 0.5, 5.0, 0.1
PROPOSAL_SCALE = 1.1


def main() -> None:
    print(f"{NUM_SETS} test sets of {NUM_DATA} data; shares with one standard error")
    print(
        "models     log p(x)                difference      sd   MC part  no difference   covers the truth    seconds"
    )
    print(row("equal", equal(SPREAD), 0.0, 0))
    print(row("equal", equal(SPREAD), 0.0, NUM_SAMPLES))
    print(row("equal", equal(CLOSE), 0.0, NUM_SAMPLES))
    print(row("different", different(), DIFFERENCE, 0))
    print(row("different", different(), DIFFERENCE, NUM_SAMPLES))


def row(name: str, models: tuple[FactorAnalysis, FactorAnalysis], truth: float, num_samples: int) -> str:
    started = time.perf_counter()
    results = [compared(models, seed, num_samples) for seed in range(NUM_SETS)]
    means, errors = (np.array([getattr(r, key) for r in results]) for key in ("difference", "error"))
    noise = np.mean([r.monte_carlo_error**2 / r.error**2 for r in results])
    silent, covered = share([not r.is_shown for r in results]), share([r.low <= truth <= r.high for r in results])
    how = f"importance, {num_samples} draws" if num_samples else "exact"
    spread, seconds = math.sqrt(NUM_DATA) * errors.mean(), time.perf_counter() - started
    return (
        f"{name:<9}  {how:<22}  {means.mean():+.3f} ± {means.std() / math.sqrt(NUM_SETS):.3f}  {spread:5.2f}  "
        f"{noise:7.1%}  {silent}  {covered}  {seconds:9.1f}"
    )


def compared(models: tuple[FactorAnalysis, FactorAnalysis], seed: int, num_samples: int) -> Comparison:
    """Draws one test set and compares the two models on it."""
    with keyed_rng(seed, "test set"):
        truth = factor_analysis(torch.zeros(NUM_DIMS))
        x = truth.decoder(truth.prior().sample((NUM_DATA,))).sample()
    (a, error_a), (b, error_b) = (scores(model, x, 2 * seed + i, num_samples) for i, model in enumerate(models))
    return paired(a, b, error_a, error_b)


def scores(model: FactorAnalysis, x: torch.Tensor, seed: int, num_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns log p(x) per datum, or its estimate, and the standard errors."""
    if not num_samples:
        return model.log_evidence(x).numpy(), np.zeros(len(x))
    evidence = importance(model, x, num_samples, seed=seed)
    return evidence.log_evidence.numpy(), evidence.standard_error.numpy()


def equal(spread: float) -> tuple[FactorAnalysis, FactorAnalysis]:
    """Two models mirrored around the truth: their expected log p(x) are equal."""
    shift = direction(spread / 2)
    return factor_analysis(shift), factor_analysis(-shift)


def different() -> tuple[FactorAnalysis, FactorAnalysis]:
    """Two models whose differences of log p(x) have the mean and standard deviation that are asked for."""
    # with shifts s u and -t u, where u' C^-1 u = 1: E[d] = (t^2 - s^2) / 2 and Var(d) = (s + t)^2
    t = SPREAD / 2 + DIFFERENCE / SPREAD
    return factor_analysis(direction(SPREAD - t)), factor_analysis(-direction(t))


def direction(length: float) -> torch.Tensor:
    """Returns a shift v of the mean with v' C^-1 v = length^2, where C is the covariance of x."""
    truth = factor_analysis(torch.zeros(NUM_DIMS))
    covariance = truth.loading @ truth.loading.T + torch.diag(truth.noise_scale**2)
    u = torch.linspace(-1, 1, NUM_DIMS)
    return length * u / (u @ torch.linalg.solve(covariance, u)).sqrt()


def factor_analysis(mean: torch.Tensor) -> FactorAnalysis:
    generator = torch.Generator().manual_seed(0)
    loading = torch.randn(NUM_DIMS, NUM_LATENTS, generator=generator)
    return FactorAnalysis(loading, mean, torch.full((NUM_DIMS,), 0.8), PROPOSAL_SCALE)


def share(values: list[bool]) -> str:
    p = float(np.mean(values))
    return f"{p:6.1%} ± {math.sqrt(max(p * (1 - p), 1e-9) / len(values)):.1%}"


if __name__ == "__main__":
    main()
