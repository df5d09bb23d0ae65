"""The curse of dimensionality: log p(x) by draws of the prior and by draws of the encoder, over the number of latents.

On the left VAEs with L latents are fitted to data, and log p(x) of test data is estimated with S draws per datum, by
plain Monte Carlo from the prior and by importance sampling from the encoder. The truth is not known; as both understate
it on average, the largest mean estimate for each L is the best there is.

On the right the truth is known: factor analysis of 64 dimensions with L latents, each of which the data tell as much
(its posterior standard deviation is 1/3), on data drawn from it. The encoder is the exact posterior, its scale widened
by a tenth, because with the exact one nothing is left to estimate.

About e^KL(p(z | x) || p(z)) draws of the prior are needed (The sample size required in importance sampling, Chatterjee
and Diaconis, 2018). The tables give this KL, its mean over the data; for a VAE that of its encoder stands for it. It
need not grow with L: a VAE leaves latents unused that its data do not pay for, so the number of active ones is given.

Prints tables and writes a PNG, with the numbers in a JSON file beside it; run it with `python benchmarks/curse.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from logpx import FactorAnalysis, evaluate, fit
from logpx.evidence import encoder_proposal, importance, prior_proposal
from logpx.plots import decimals
from logpx.plots._style import BLUE, CHART_DPI, INK, ORANGE, nats, styled
from logpx.utils import generator, spread

SIZES = (100, 1000, 10_000)
LINES = {100: (":", "v"), 1000: ("--", "s"), 10_000: ("-", "o")}
ESTIMATORS = {"prior": ("prior", ORANGE, prior_proposal), "importance": ("encoder", BLUE, encoder_proposal)}
NUM_DIMS, SIGNAL, WIDENED = 64, 8.0, 1.1
Row = dict[str, Any]


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    print(f"VAEs on {options.data}, mean over {options.num_test} test data, nats")
    vae = table(vae_rows, options, {"log_evidence": "log p(x)", "below_best": "below best"})
    print(f"\nFactor analysis, whose log p(x) is known, {options.num_exact} data, nats")
    exact = table(exact_rows, options, {"error": "mean error", "rms_error": "RMS error"})
    options.out.with_suffix(".json").write_text(json.dumps({"vae": vae, "exact": exact}, indent=2))
    figure(vae, exact, options.data).savefig(options.out)
    print(f"\nFigure: {options.out}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("digits", "mnist"), default="digits", help="binarized afresh each epoch")
    parser.add_argument("--latents", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64], help="at most 64")
    parser.add_argument("--epochs", type=int, help="of each fit; by default those of the recipe of the data")
    parser.add_argument("--num-test", type=int, default=100, help="test data, spread over the test set")
    parser.add_argument("--num-exact", type=int, default=100, help="data drawn from factor analysis")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/curse.png"))
    return parser.parse_args()


def table(make_rows: Callable[..., list[Row]], options: argparse.Namespace, columns: dict[str, str]) -> list[Row]:
    """Prints a line for each L and S as it is had, the estimators side by side; returns a row for each of them."""
    names = [f"{name}: {head}" for name, _, _ in ESTIMATORS.values() for head in (*columns.values(), "ESS share")]
    print(f"{'L':>3}{'active':>8}{'KL':>8}{'S':>8}" + "".join(f"{name:>21}" for name in names))
    rows: list[Row] = []
    for num_latents in options.latents:
        rows += (new := make_rows(num_latents, options))
        for size in SIZES:
            line = f"{num_latents:3}{new[0]['active']:8}{new[0]['kl']:8.1f}{size:8,}"
            for row in (row for row in new if row["num_samples"] == size):
                cells = [f"{row[key]:z.{4 if abs(row[key]) < 1 else 2}f}" for key in columns]
                line += "".join(f"{cell:>21}" for cell in (*cells, f"{row['ess_share']:.2g}"))
            print(line, flush=True)
    return rows


def vae_rows(num_latents: int, options: argparse.Namespace) -> list[Row]:
    overrides = {"latent_dim": num_latents, "seed": options.seed, "binarization": "dynamic"}
    overrides |= {} if options.epochs is None else {"epochs": options.epochs}
    common: dict[str, Any] = {"seed": options.seed, "device": "cpu", "progress": False}
    with tempfile.TemporaryDirectory() as folder:
        run = fit(options.data, recipe=options.data, out=Path(folder, "run"), progress=False, **overrides)
        model, test = run.load_model(), run.load_split("test")
    test = dataclasses.replace(test, values=test.values[spread(len(test), options.num_test)])
    rows = []
    for estimator in ESTIMATORS:
        for size in SIZES:
            record = evaluate(model, test, estimator=estimator, num_samples=size, **common).record
            row = {"num_latents": num_latents, "estimator": estimator, "num_samples": size}
            row |= {"kl": record["rate"], "active": record["active_units"]}
            row |= {"log_evidence": record["log_evidence"]["mean"], "ess_share": record["ess"]["median"] / size}
            rows.append(row | {"pareto_k_above_07": record["pareto_k"]["share_above_07"]})
    best = max(row["log_evidence"] for row in rows)
    # the estimator "prior" tells neither
    known = {key: rows[-1][key] for key in ("kl", "active")}
    return [row | {"below_best": best - row["log_evidence"]} | known for row in rows]


def exact_rows(num_latents: int, options: argparse.Namespace) -> list[Row]:
    model = factor_analysis(num_latents)
    x = data_of(model, options)
    truth, kl, rows = model.log_evidence(x), mean_kl(model, x), []
    for estimator, (_, _, propose) in ESTIMATORS.items():
        for size in SIZES:
            evidence = importance(model, x, size, proposal=propose(model), seed=options.seed)
            error = evidence.log_evidence - truth
            row = {"num_latents": num_latents, "estimator": estimator, "num_samples": size}
            row |= {"kl": kl, "active": num_latents}
            row |= {"error": error.mean().item(), "rms_error": error.square().mean().sqrt().item()}
            rows.append(row | {"ess_share": evidence.ess.median().item() / size})
    return rows


def factor_analysis(num_latents: int, widened: float = WIDENED) -> FactorAnalysis:
    """Returns a model with W'W = 8 I and unit noise: every latent's posterior variance is 1 / (1 + 8)."""
    square = torch.randn(NUM_DIMS, NUM_DIMS, dtype=torch.float64, generator=generator(0, "loading"))
    loading = math.sqrt(SIGNAL) * torch.linalg.qr(square).Q[:, :num_latents]
    zeros = torch.zeros(NUM_DIMS, dtype=torch.float64)
    return FactorAnalysis(loading, zeros, torch.ones_like(zeros), widened)


def data_of(model: FactorAnalysis, options: argparse.Namespace) -> Tensor:
    num_latents = model.loading.shape[1]
    key, shape = generator(options.seed, "data", num_latents), (options.num_exact, num_latents + NUM_DIMS)
    z, noise = torch.randn(shape, dtype=torch.float64, generator=key).split([num_latents, NUM_DIMS], 1)
    return z @ model.loading.T + noise


def mean_kl(model: FactorAnalysis, x: Tensor) -> float:
    posterior = factor_analysis(model.loading.shape[1], widened=1.0).encoder(x)
    zeros = posterior.loc.new_zeros(posterior.event_shape)
    prior = MultivariateNormal(zeros, torch.eye(len(zeros), dtype=zeros.dtype))
    return kl_divergence(posterior, prior).mean().item()


@styled
def figure(vae: list[Row], exact: list[Row], data: str) -> Figure:
    drawn = Figure(figsize=(7.5, 6.4), dpi=CHART_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(drawn)
    drawn.suptitle(title_of(exact), x=0.01, ha="left", fontsize=10)
    (left, right), (left_ess, right_ess) = drawn.subplots(2, 2, sharex=True)
    most = max(row["active"] for row in vae)
    lines(left, vae, "log_evidence", f"VAEs on {data}, at most {most} latents active", "mean log p(x) (nats)")
    best = {row["num_latents"]: row["log_evidence"] + row["below_best"] for row in vae}
    left.plot(list(best), list(best.values()), "_", color=INK, markersize=12, label="best estimate there is")
    lines(right, exact, "rms_error", "factor analysis, log p(x) known", "RMS error of log p(x) (nats)")
    right.set_yscale("log")
    for ax, rows in ((left_ess, vae), (right_ess, exact)):
        lines(ax, rows, "ess_share", "", "median ESS (share of the draws)")
        ax.set_yscale("log")
        # one draw is the least ESS
        ax.set_ylim(0.5 / max(SIZES), 1.5)
        ax.set_xlabel("latents L (log scale)")
    drawn.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=8.5)
    return drawn


def lines(ax: Axes, rows: list[Row], key: str, title: str, y_label: str) -> None:
    for estimator, (name, colour, _) in ESTIMATORS.items():
        for size, (style, marker) in LINES.items():
            own = [row for row in rows if row["estimator"] == estimator and row["num_samples"] == size]
            x, y = ([row[k] for row in own] for k in ("num_latents", key))
            ax.plot(x, y, style, marker=marker, color=colour, label=f"{name}, S = {size:,}")
    ax.set_title(title, loc="left", fontsize=9)
    ax.set_ylabel(y_label)
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def title_of(exact: list[Row]) -> str:
    most, size = max(row["num_latents"] for row in exact), max(SIZES)
    last = [row for row in exact if row["num_latents"] == most and row["num_samples"] == size]
    prior, encoder = (nats(row["rms_error"], decimals(row["rms_error"])) for row in last)
    return (
        f"With {most} latents, {size:,} draws of the prior miss a known log p(x) by {prior} nats,\n"
        f"as many of a posterior that is a tenth too wide by {encoder}."
    )


if __name__ == "__main__":
    main()
