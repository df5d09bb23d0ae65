"""Cost per image against latents, samples, image size and processes, on random images and untrained networks.

Milliseconds of one thread per image, the best of three; processes are those of `logpx fit --devices N`, with one thread
each.
What is measured here is extrapolated in docs/performance.md to sets of images that no test machine holds.

    python benchmarks/scaling.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _timing import parser, write

from logpx import conv_vae, mlp_vae, objectives
from logpx.evidence import Block, Estimator
from logpx.run import Run

BLOCK = 32
STEPS = 40


def main() -> None:
    given = parser(__doc__, repetitions=3).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    record = {
        "latents": table("latents L (784-400-L)", (8, 32, 128, 512), by_latents, given.repetitions),
        "samples": table("samples S (784-400-20)", (100, 1000, 10_000), by_samples, given.repetitions),
        "image size": table("side of a colour image (residual convolutions)", (16, 32, 64), by_size, given.repetitions),
        "processes": table("processes (784-500-500-20)", (1, 2), by_processes, 1),
    }
    write(given.json, record)


def table(
    name: str, values: Iterable[int], measure: Callable[[int], dict[str, Callable[[], float]]], repetitions: int
) -> dict[int, dict[str, float]]:
    """Measures for each value what can be done with it, and prints a table of milliseconds per image."""
    rows, head = {}, True
    print(f"\n{name}")
    for value in values:
        works = measure(value)
        rows[value] = {what: min(work() for _ in range(repetitions)) for what, work in works.items()}
        if head:
            print(f"{'':>8}" + "".join(f"{what:>28}" for what in works))
        head = False
        print(f"{value:8,d}" + "".join(f"{ms:25.3f} ms" for ms in rows[value].values()), flush=True)
    return rows


def by_latents(latents: int) -> dict[str, Callable[[], float]]:
    model = mlp_vae((784,), hidden=(400,), latent_dim=latents)
    x = (torch.rand(BLOCK, 784) > 0.8).float()
    return {
        "training": trained(model, (torch.rand(128, 784) > 0.8).float()),
        "1,000 draws, encoder": weighed(model, x, Estimator("importance", num_samples=1000)),
        "fit of curvature, 1 draw": weighed(model, x, Estimator("importance", "curvature", 1)),
    }


def by_samples(size: int) -> dict[str, Callable[[], float]]:
    model = mlp_vae((784,), hidden=(400,), latent_dim=20)
    x = (torch.rand(BLOCK, 784) > 0.8).float()
    return {"draws, encoder": weighed(model, x, Estimator("importance", num_samples=size))}


def by_size(side: int) -> dict[str, Callable[[], float]]:
    model = conv_vae((3, side, side), latent_channels=16, channels=(32, 64, 128), num_blocks=1)
    x = torch.randint(0, 256, (BLOCK, 3, side, side)) / 255
    few = Estimator("importance", num_samples=16)
    return {"training": trained(model, x), "16 draws, encoder": weighed(model, x[:8], few)}


def by_processes(number: int) -> dict[str, Callable[[], float]]:
    return {"training, --devices": lambda: fitted(number)}


def trained(model: Any, x: torch.Tensor) -> Callable[[], float]:
    optimizer = torch.optim.Adam(model.parameters(), fused=True)

    def steps() -> float:
        model.train()
        started = time.perf_counter()
        for _ in range(STEPS):
            optimizer.zero_grad()
            (-objectives.elbo(model, x).mean()).backward()
            optimizer.step()
        return 1000 * (time.perf_counter() - started) / STEPS / len(x)

    return steps


def weighed(model: Any, x: torch.Tensor, estimator: Estimator) -> Callable[[], float]:
    def weigh() -> float:
        model.eval()
        started = time.perf_counter()
        estimator(Block(model, x))
        return 1000 * (time.perf_counter() - started) / len(x)

    return weigh


def fitted(number: int) -> float:
    """Returns the milliseconds per image of the second epoch of a fit by several processes, with one thread each."""
    with tempfile.TemporaryDirectory() as folder:
        images = np.random.default_rng(0).integers(0, 2, (12_800, 784), dtype=np.uint8)
        np.savez(Path(folder) / "images.npz", train=images, valid=images[:10], test=images[:10])
        words = ["fit", f"{folder}/images.npz", "--out", f"{folder}/run", "--epochs", "2", "--validate-on", "none"]
        command = [sys.executable, "-m", "logpx", *words, "--batch-size", "512", "--devices", str(number)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        seconds = Run.open(Path(folder) / "run").metrics()["seconds"]
        return 1000 * float(seconds[1] - seconds[0]) / len(images)


if __name__ == "__main__":
    main()
