"""Proposals side by side on one VAE: bias, error, effective sample size and cost of log p(x), and the default's.

The truth of each image is a large importance sample from the curvature proposal, in float64 sums, and is confirmed by
annealed importance sampling. Errors are against it, image by image; "cover" is the share of nominal 95% intervals that
hold it, among those that are marked reliable (k-hat below 0.5). A pass is one evaluation of the decoder for one draw:
forward 1, backward 2, Jacobian-vector product 2, and fits and pilots count.

    logpx fit mnist --latent-dim 40 --hidden 400 --epochs 20 --out runs/vae40
    python benchmarks/proposals.py runs/vae40
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from logpx.evidence import PROPOSALS, Block, Estimator, Evidence
from logpx.model import evaluating
from logpx.run import Run
from logpx.utils import chunks

BLOCK = 32
TRUTH_SEED, CHECK_SEED = 101, 202


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    run = Run.open(options.run)
    run.data_root = options.data_root
    model, split = run.load_model(), run.load_split("test")
    index = torch.linspace(0, len(split) - 1, options.num_data).round().long()
    blocks = [split.batch(index[start:stop]).x for start, stop in chunks(len(index), BLOCK)]
    with evaluating(model):
        truth = measure(model, blocks, Estimator("importance", "curvature", options.truth), TRUTH_SEED)
        print(
            f"truth: {truth.log_evidence.mean():.4f} nats, error {rms(truth.standard_error):.4f} nats per image (RMS)"
        )
        chains = Estimator("annealed", "curvature", options.chains, num_temperatures=options.temperatures)
        check = measure(model, blocks, chains, CHECK_SEED)
        difference = (check.log_evidence - truth.log_evidence).mean().item()
        error = math.sqrt((check.standard_error.square() + truth.standard_error.square()).sum().item()) / len(index)
        print(f"annealed - truth: {difference:+.4f} ± {error:.4f} nats on average")
        rows = [row("default", measure_timed(model, blocks, Estimator()), truth)]
        for name in PROPOSALS:
            for size in options.samples:
                estimator = Estimator("importance", name, size)
                rows.append(row(f"{name}, S = {size}", measure_timed(model, blocks, estimator), truth))
    record = {"truth": truth.log_evidence.mean().item(), "annealed": [difference, error], "rows": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a fitted run")
    parser.add_argument("--num-data", type=int, default=200, help="test images, spread over the test set")
    parser.add_argument("--truth", type=int, default=200_000, help="draws per image for the truth")
    parser.add_argument("--chains", type=int, default=64, help="annealed chains per image")
    parser.add_argument("--temperatures", type=int, default=100)
    parser.add_argument("--samples", type=int, nargs="+", default=[50, 500, 5000])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-root", help="folder to look for the data in, before LOGPX_DATA")
    parser.add_argument("--out", type=Path, default=Path("runs/proposals.json"))
    return parser.parse_args()


def measure(model: Any, blocks: list[Tensor], estimator: Estimator, seed: int = 0) -> Evidence:
    parts = [estimator(Block(model, x, seed=seed, number=i)) for i, x in enumerate(blocks)]
    return Evidence.cat(parts)


def measure_timed(model: Any, blocks: list[Tensor], estimator: Estimator) -> tuple[Evidence, float]:
    started = time.process_time()
    evidence = measure(model, blocks, estimator)
    return evidence, (time.process_time() - started) / len(evidence.log_evidence)


def row(name: str, measured: tuple[Evidence, float], truth: Evidence) -> dict[str, Any]:
    """Compares estimates with the truth, and prints a line."""
    evidence, seconds = measured
    error = evidence.log_evidence - truth.log_evidence
    wide = 1.96 * (evidence.standard_error.square() + truth.standard_error.square()).sqrt()
    reliable = evidence.pareto_k < 0.5
    covers = (error.abs() < wide)[reliable].double().mean().item() if reliable.any() else math.nan
    values = {
        "name": name,
        "bias": error.mean().item(),
        "rms": rms(error),
        "ess_share": (evidence.ess / evidence.num_samples).median().item(),
        "reliable": reliable.double().mean().item(),
        "unusable": (evidence.pareto_k >= 0.7).double().mean().item(),
        "cover": covers,
        "passes": evidence.num_passes.mean().item(),
        "milliseconds": 1e3 * seconds,
    }
    print(
        f"{name:22} bias {values['bias']:+.4f}, RMS {values['rms']:.4f} nats; ESS/S {values['ess_share']:.4f}; "
        f"k-hat < 0.5 {values['reliable']:.0%} (cover {covers:.1%}), >= 0.7 {values['unusable']:.0%}; "
        f"{values['passes']:,.0f} passes, {values['milliseconds']:.1f} ms of one core per image",
        flush=True,
    )
    return values


def rms(values: Tensor) -> float:
    return values.square().mean().sqrt().item()


if __name__ == "__main__":
    main()
