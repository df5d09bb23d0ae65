"""log p(x) of 200 binary test images under a VAE 784-400-20, S = 5,000: logpx beside what one would otherwise use.

- pythae 0.1.2's `get_nll`, at the fastest of several batch sizes.
- A loop over data, written out: one image at a time, all its draws at once.
- The floor: the decoder's matrix products and one softplus pass over the logits, alone.
- logpx with networks in bfloat16, which changes the model: its bias is measured, and it is not offered.

Versions run in turns in one process, each round on other images; ratios are medians over rounds. Then the time to an
error of 0.2 nats per image: the error of the encoder's draws falls so slowly that it is extrapolated by its own slope.
The VAE is trained here, for some epochs on freshly binarized MNIST.

    python benchmarks/evidence.py
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from _timing import goal, in_turns, medians, parser, ratios, show, write
from _vae import LATENTS, PlainVAE, pythae_vae
from torch import Tensor

import logpx
from logpx.data import load_data
from logpx.evidence import Block, Estimator, Evidence
from logpx.model import evaluating

BLOCK, TRUTH = 32, 20_000
WANTED = 0.2


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--num-data", type=int, default=200)
    options.add_argument("--num-samples", type=int, default=5000)
    options.add_argument("--epochs", type=int, default=5, help="of training")
    options.add_argument("--data-root", help="folder to look for MNIST in, before LOGPX_DATA")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    model, x = trained(given.data_root, given.epochs, given.num_data)
    with evaluating(model):
        seconds, means = throughput(model, x, given.num_samples, given.repetitions)
        curves = errors(model, x[:64])
    per_round = len(x) / given.repetitions * given.num_samples
    print(f"Evidence, {len(x)} images, S = {given.num_samples:,}, {given.threads} threads")
    show(seconds, "logpx", "us per draw", per=per_round / 1e6)
    met = judge(seconds, curves)
    record = {"seconds": seconds, "medians": medians(seconds), "means": means, "errors": curves, "goals": met}
    write(given.json, record)


def judge(seconds: dict[str, list[float]], curves: dict[str, Any]) -> list[dict[str, object]]:
    def times(other: str) -> float:
        return ratios(seconds, other, "logpx")[1]

    gain = curves["encoder"]["seconds_to_wanted"] / curves["curvature"]["seconds_to_wanted"]
    return [
        goal(4, "pythae / logpx", times("pythae get_nll"), 3.5, at_most=False),
        goal(5, "logpx / floor", 1 / times("products and softplus alone"), 1.3),
        goal(7, f"encoder / curvature, time to {WANTED} nats per image", gain, 50, at_most=False),
    ]


def trained(data_root: str | None, epochs: int, num_data: int) -> tuple[Any, Tensor]:
    """Returns a fitted VAE, and binary test images spread over the test set."""
    data = load_data("mnist", data_root=data_root)
    settings = {"hidden": (400,), "latent_dim": LATENTS, "network": "mlp", "activation": "relu", "center": False}
    with tempfile.TemporaryDirectory() as folder:
        run = logpx.fit(data, out=Path(folder) / "run", epochs=epochs, progress=False, **settings)
        split = run.load_split("test")
        return run.load_model(), split.batch(torch.linspace(0, len(split) - 1, num_data).long()).x


def throughput(
    model: Any, x: Tensor, num_samples: int, repetitions: int
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Times all versions, each round on its share of the images; returns also the mean of log p(x) by each, in nats."""
    plain = PlainVAE().take_weights(model)
    parts = x.chunk(repetitions)
    estimates: dict[str, list[float]] = {}

    def noted(name: str, estimate: Callable[[Tensor], float]) -> Callable[[int], None]:
        def version(number: int) -> None:
            # round 0 warms up
            part = parts[number - 1] if number else parts[0][:8]
            value = estimate(part)
            if number:
                estimates.setdefault(name, []).append(value)

        return version

    known = pythae_vae(plain).eval()
    size = fastest(known, x[:4], num_samples)
    versions = {
        f"pythae get_nll, batches of {size}": lambda part: known.get_nll(part, num_samples, size),
        "loop over data": lambda part: loop(plain, part, num_samples),
        "logpx": lambda part: weighed(model, part, num_samples),
        "logpx, bf16 networks": lambda part: in_bfloat16(model, part, num_samples),
        "products and softplus alone": lambda part: floor(plain, len(part) * num_samples),
    }
    seconds = in_turns({name: noted(name, version) for name, version in versions.items()}, repetitions)
    means = {name: sum(values) / len(values) for name, values in estimates.items()}
    for name, value in list(means.items())[:-1]:
        print(f"mean log p(x), {name}: {value:.3f} nats")
    seconds["pythae get_nll"] = seconds.pop(f"pythae get_nll, batches of {size}")
    return seconds, {**means, "bfloat16 bias": bias(model, x, num_samples)}


def fastest(known: Any, x: Tensor, num_samples: int) -> int:
    """Returns the batch size with which get_nll takes the least time, the best of two each."""

    def seconds(size: int) -> float:
        started = time.perf_counter()
        known.get_nll(x, num_samples, size)
        return time.perf_counter() - started

    sizes = (100, 250, 500, 1000, 2500, 5000)
    times = {size: min(seconds(size), seconds(size)) for size in sizes if num_samples % size == 0}
    return min(times, key=times.__getitem__)


def loop(plain: PlainVAE, x: Tensor, num_samples: int) -> float:
    estimates = []
    for datum in x.flatten(1):
        mu, log_variance = plain.posterior(datum.unsqueeze(0))
        noise = torch.randn(num_samples, LATENTS)
        z = mu + torch.exp(0.5 * log_variance) * noise
        logits = plain.logits(z)
        target = datum.expand_as(logits)
        log_likelihood = -F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1)
        log_ratio = -0.5 * z.square().sum(1) + 0.5 * (noise.square() + log_variance).sum(1)
        estimates.append(torch.logsumexp(log_likelihood + log_ratio, 0) - math.log(num_samples))
    return torch.stack(estimates).mean().item()


def weighed(model: Any, x: Tensor, num_samples: int) -> float:
    return estimate(model, x, Estimator("importance", num_samples=num_samples))[0].log_evidence.mean().item()


def in_bfloat16(model: Any, x: Tensor, num_samples: int) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        return weighed(model, x, num_samples)


def bias(model: Any, x: Tensor, num_samples: int) -> float:
    """Returns what bfloat16 adds to log p(x) on average, in nats, by the same seeds."""
    difference = in_bfloat16(model, x, num_samples) - weighed(model, x, num_samples)
    print(f"bfloat16 networks change the mean log p(x) by {difference:+.3f} nats")
    return difference


def floor(plain: PlainVAE, num_draws: int, rows: int = 1024) -> float:
    z, h, logits = torch.randn(rows, LATENTS), torch.empty(rows, 400), torch.empty(rows, 784)
    for _ in range(-(-num_draws // rows)):
        torch.addmm(plain.decode.bias, z, plain.decode.weight.t(), out=h)
        torch.addmm(plain.out.bias, h, plain.out.weight.t(), out=logits)
        F.softplus(logits)
    return math.nan


def estimate(model: Any, x: Tensor, estimator: Estimator, seed: int = 0) -> tuple[Evidence, float]:
    """Returns estimates and seconds."""
    started = time.perf_counter()
    parts = [estimator(Block(model, part, seed=seed, number=i)) for i, part in enumerate(x.split(BLOCK))]
    return Evidence.cat(parts), time.perf_counter() - started


def errors(model: Any, x: Tensor) -> dict[str, Any]:
    """Returns for both proposals the error per image over numbers of draws, and the time to the wanted one."""
    truth = estimate(model, x, Estimator("importance", "curvature", TRUTH), seed=1)[0]
    worst = truth.standard_error.square().mean().sqrt().item()
    print(f"truth: curvature proposal, {TRUTH:,} draws, standard error {worst:.3f} nats per image (RMS)")
    curves = {}
    for name, sizes in (("encoder", (50, 160, 500, 1600, 5000)), ("curvature", (8, 16, 32, 64, 128, 256))):
        rows = [measured(model, x, Estimator("importance", name, size), truth) for size in sizes]
        curves[name] = {"rows": rows, **reached(rows)}
        print(f"{name}: {curves[name]['sentence']}")
    return curves


def measured(model: Any, x: Tensor, estimator: Estimator, truth: Evidence) -> dict[str, float]:
    evidence, seconds = estimate(model, x, estimator)
    rms = (evidence.log_evidence - truth.log_evidence).square().mean().sqrt().item()
    return {"num_samples": float(estimator.size or 0), "rms": rms, "seconds": seconds / len(x)}


def reached(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Returns the seconds per image to the wanted error: measured, or extrapolated by slopes in log-log scale."""
    within = [row for row in rows if row["rms"] <= WANTED]
    if within:
        row = within[0]
        text = f"RMS error {row['rms']:.3f} nats with {row['num_samples']:.0f} draws, {row['seconds']:.4f} s per image"
        return {"seconds_to_wanted": row["seconds"], "extrapolated": False, "sentence": text}
    size, rms, seconds = (np.log([row[key] for row in rows]) for key in ("num_samples", "rms", "seconds"))
    slope = np.polyfit(size, rms, 1)[0]
    factor = math.exp((math.log(WANTED) - rms[-1]) / slope)
    wanted = factor * math.exp(seconds[-1])
    last = rows[-1]
    text = (
        f"RMS error {last['rms']:.3f} nats with {last['num_samples']:.0f} draws, which falls as S^{slope:.2f}: "
        f"{WANTED} nats would take {factor:.3g} times as many, {wanted:.3g} s per image (extrapolated)"
    )
    return {"seconds_to_wanted": wanted, "extrapolated": True, "slope": slope, "sentence": text}


if __name__ == "__main__":
    main()
