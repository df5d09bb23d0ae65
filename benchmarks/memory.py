"""Peak memory of importance sampling with 10^3, 10^4, 10^5 and 10^6 samples per datum, each in fresh processes.

A VAE 784-200-20 with random weights, 8 binary data. The sizes run in turns and the medians count, because what the
allocator keeps differs from process to process by a few mebibytes.

    python benchmarks/memory.py
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

import torch
from _timing import goal, parser, write

SIZES = (1_000, 10_000, 100_000, 1_000_000)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--of", type=int, help="only measure this process with so many samples, in MiB")
    given = options.parse_args()
    if given.of is not None:
        torch.set_num_threads(given.threads)
        print(measure(given.of))
        return
    peaks: dict[int, list[float]] = {size: [] for size in SIZES}
    for _ in range(given.repetitions):
        for size, found in peaks.items():
            found.append(fresh(size, given.threads))
    middle = {size: statistics.median(found) for size, found in peaks.items()}
    print(f"samples per datum   peak resident memory, {given.threads} threads")
    for size, found in peaks.items():
        print(f"{size:17,d}  {middle[size]:8.1f} MiB ({min(found):.1f} to {max(found):.1f})")
    met = [goal(6, "largest / smallest peak memory", max(middle.values()) / min(middle.values()), 1.05)]
    write(given.json, {"mebibytes": peaks, "medians": middle, "goals": met})


def fresh(size: int, threads: int) -> float:
    """Returns what a process of its own measures."""
    words = [sys.executable, __file__, "--of", str(size), "--threads", str(threads)]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def measure(num_samples: int) -> float:
    from logpx import mlp_vae
    from logpx.evidence import importance

    torch.manual_seed(0)
    model = mlp_vae((784,), hidden=(200,), latent_dim=20).eval()
    importance(model, (torch.rand(8, 784) > 0.5).float(), num_samples)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
