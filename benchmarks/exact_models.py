"""Estimators of log p(x) against the truth, on models where it is known.

Factor analysis with 2, 10 and 50 latents and a mixture of Bernoullis know log p(x) in closed form, and a VAE with one
latent by quadrature. Encoders are wrong on purpose: the exact posterior of factor analysis is made a tenth wider and
the mixture draws from its prior. For each estimator: the bias and its error over the data, in nats, and how many
nominal 95% intervals hold the truth among those whose k-hat is below 0.5. Then bidirectional Monte Carlo on data drawn
from the model: the mean lower bound, the mean truth and the mean upper bound. Run it with `python
benchmarks/exact_models.py`.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal

from logpx.evidence import Block, Estimator, Evidence, sandwich, simulate
from logpx.exact import BernoulliMixture, FactorAnalysis
from logpx.model import LatentVariableModel
from logpx.utils import chunks

BLOCK = 50
ESTIMATORS = {
    "auto": Estimator("auto"),
    "importance, encoder": Estimator("importance", "encoder", 2000),
    "importance, widened": Estimator("importance", "widened", 2000),
    "importance, refined": Estimator("importance", "refined", 2000),
    "importance, laplace": Estimator("importance", "laplace", 2000),
    "importance, curvature": Estimator("importance", "curvature", 2000),
    "importance, defensive": Estimator("importance", "defensive", 2000),
    "importance, prior": Estimator("importance", "prior", 2000),
    "annealed, widened": Estimator("annealed", "widened", 128, num_temperatures=40),
    "annealed, prior": Estimator("annealed", "prior", 128, num_temperatures=100),
}
# What needs no gradient in z, and what is no use in ten dimensions and more.
FIT_FREE = ("auto", "importance, encoder", "importance, prior")
FROM_PRIOR = ("importance, prior", "annealed, prior")


class OneLatent(nn.Module):
    """A VAE with one latent and twenty pixels, whose weights are random and whose encoder is too wide."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 20))
            for parameter in self.parameters():
                nn.init.normal_(parameter, std=1.5)

    def prior(self) -> Distribution:
        return Independent(Normal(torch.zeros(1), torch.ones(1)), 1)

    def decoder(self, z: Tensor) -> Distribution:
        return Independent(Bernoulli(logits=self.body(z)), 1)

    def encoder(self, x: Tensor) -> Distribution:
        return Independent(Normal(torch.zeros(len(x), 1), torch.full((len(x), 1), 1.2)), 1)

    def log_p(self, x: Tensor) -> Tensor:
        """Returns log p(x) by the trapezoidal rule on 8,001 points."""
        z = torch.linspace(-8, 8, 8001, dtype=torch.float64)
        body = self.body.double()
        log_joint = Bernoulli(logits=body(z.reshape(-1, 1, 1))).log_prob(x.double()).sum(-1)
        body.float()
        return torch.logsumexp(log_joint + Normal(0.0, 1.0).log_prob(z).unsqueeze(-1), 0) + math.log(16 / 8000)


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    record: dict[str, Any] = {}
    for name, (model, truth) in models().items():
        x, _ = simulate(model, options.num_data, seed=1)
        exact = torch.cat([truth(x[a:b]) for a, b in chunks(len(x), 500)]).double()
        print(f"\n{name}: mean log p(x) {exact.mean():.4f} nats over {len(x):,} data")
        chosen = [n for n in ESTIMATORS if suits(n, model)]
        record[name] = {n: row(n, measure(Hidden(model), x, ESTIMATORS[n]), exact) for n in chosen}
        if not isinstance(model, BernoulliMixture):
            record[name]["sandwich"] = bounds(model, truth, options.num_simulated)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1))


def suits(estimator: str, model: Any) -> bool:
    if isinstance(model, BernoulliMixture):
        return estimator in FIT_FREE
    is_large = isinstance(model, FactorAnalysis) and model.loading.shape[1] >= 10
    return not (is_large and estimator in FROM_PRIOR)


class Hidden:
    """A model that does not say what it knows of log p(x)."""

    def __init__(self, model: Any) -> None:
        self.prior, self.encoder, self.decoder = model.prior, model.encoder, model.decoder


def models() -> dict[str, tuple[LatentVariableModel, Callable[[Tensor], Tensor]]]:
    known: dict[str, Any] = {f"factor analysis, L = {n}": factor_analysis(n) for n in (2, 10, 50)}
    draws = torch.Generator().manual_seed(0)
    means = torch.rand(10, 30, generator=draws)
    known["mixture of 10 Bernoullis"] = BernoulliMixture(torch.full((10,), 0.1), means)
    pairs = {name: (model, model.log_evidence) for name, model in known.items()}
    one = OneLatent()
    return {**pairs, "VAE with one latent": (one, one.log_p)}


def factor_analysis(num_latents: int) -> FactorAnalysis:
    draws = torch.Generator().manual_seed(num_latents)
    loading = torch.randn(64, num_latents, generator=draws) * (0.9 / math.sqrt(num_latents))
    return FactorAnalysis(loading, torch.zeros(64), torch.full((64,), 0.8), posterior_scale=1.1)


@torch.no_grad()
def measure(model: Any, x: Tensor, estimator: Estimator) -> Evidence:
    parts = [estimator(Block(model, x[a:b], seed=3, number=i)) for i, (a, b) in enumerate(chunks(len(x), BLOCK))]
    return Evidence.cat(parts)


def row(name: str, evidence: Evidence, exact: Tensor) -> dict[str, float]:
    error = evidence.log_evidence - exact
    reliable = ~(evidence.pareto_k >= 0.5)
    inside = (error.abs() <= 1.96 * evidence.standard_error + 1e-4)[reliable]
    share = inside.double().mean().item() if len(inside) else math.nan
    values = {
        "bias": error.mean().item(),
        "bias_error": error.std().item() / math.sqrt(len(error)),
        "rms": error.square().mean().sqrt().item(),
        "reliable": int(reliable.sum()),
        "cover": share,
        "passes": evidence.num_passes.mean().item(),
    }
    print(
        f"  {name:22} bias {values['bias']:+.5f} ± {values['bias_error']:.5f}, RMS {values['rms']:.4f} nats; "
        f"{share:.1%} of {values['reliable']:,} intervals hold the truth; {values['passes']:,.0f} passes",
        flush=True,
    )
    return values


def bounds(model: Any, truth: Callable[[Tensor], Tensor], num_data: int) -> dict[str, float]:
    result = sandwich(Hidden(model), num_data=num_data, num_temperatures=(10,), proposal="prior", seed=5)
    x = torch.cat([simulate(model, b - a, 5, i)[0] for i, (a, b) in enumerate(chunks(num_data, 32))])
    exact = truth(x).double()
    low, high = (result.lower[0] - exact).double(), (result.upper[0] - exact).double()
    values = {"lower": low.mean().item(), "upper": high.mean().item()}
    values |= {"lower_error": _error(low), "upper_error": _error(high)}
    print(
        f"  sandwich, 10 steps from the prior: lower - truth {values['lower']:+.4f} ± {values['lower_error']:.4f}, "
        f"upper - truth {values['upper']:+.4f} ± {values['upper_error']:.4f} nats over {num_data} data",
        flush=True,
    )
    return values


def _error(values: Tensor) -> float:
    return values.std().item() / math.sqrt(len(values))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-data", type=int, default=2000)
    parser.add_argument("--num-simulated", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path("runs/exact_models.json"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
