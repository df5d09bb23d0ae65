"""Coverage of nominal 95% intervals on a linear-Gaussian model whose log p(x) is known.

Factor analysis with 10 latents and 64 observed dimensions, 2,000 data drawn from it, S = 5000; the proposal is the
exact posterior with its scale multiplied. Prints a table; run it with `python benchmarks/coverage.py`.
"""

import time

import torch

from logpx import FactorAnalysis
from logpx.evidence import importance
from logpx.utils import chunks

NUM_DATA, NUM_SAMPLES, NUM_LATENTS, NUM_DIMS, BLOCK = 2000, 5000, 10, 64, 32


def main() -> None:
    print("scale  covered  largest error  largest standard error  median k-hat  k-hat >= 0.7  seconds")
    for scale in (1.0, 1.1, 0.9, 0.5):
        print(row(scale))


def row(scale: float) -> str:
    model = make_model(scale)
    x = make_data(model)
    started = time.perf_counter()
    blocks = [importance(model, x[a:b], NUM_SAMPLES, block=i) for i, (a, b) in enumerate(chunks(NUM_DATA, BLOCK))]
    estimate, error, k = (
        torch.cat([getattr(b, n) for b in blocks]) for n in ("log_evidence", "standard_error", "pareto_k")
    )
    miss = (estimate - model.log_evidence(x)).abs()
    covered = "exact" if error.max() == 0 else f"{(miss <= 1.96 * error).double().mean():.1%}"
    alarm, seconds = (k >= 0.7).double().mean(), time.perf_counter() - started
    return (
        f"{scale:5.1f}  {covered:>7}  {miss.max():9.2e} nats  {error.max():18.2e} nats  {k.median():12.2f}  "
        f"{alarm:12.1%}  {seconds:7.1f}"
    )


def make_model(posterior_scale: float) -> FactorAnalysis:
    generator = torch.Generator().manual_seed(0)
    loading = 0.3 * torch.randn(NUM_DIMS, NUM_LATENTS, generator=generator)
    return FactorAnalysis(loading, torch.zeros(NUM_DIMS), torch.full((NUM_DIMS,), 0.8), posterior_scale)


def make_data(model: FactorAnalysis) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(NUM_DATA, NUM_LATENTS, generator=generator)
    return z @ model.loading.T + 0.8 * torch.randn(NUM_DATA, NUM_DIMS, generator=generator)


if __name__ == "__main__":
    main()
