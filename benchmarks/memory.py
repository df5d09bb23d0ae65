"""Peak memory of importance sampling with 10^3, 10^4, 10^5 and 10^6 samples per datum, each in a fresh process.

A VAE 784-200-20 with random weights, 8 binary data.

    python benchmarks/memory.py
"""

from __future__ import annotations

import resource
import subprocess
import sys

from _timing import goal, parser, write

SIZES = (1_000, 10_000, 100_000, 1_000_000)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--of", type=int, help="only measure this process with so many samples, in MiB")
    given = options.parse_args()
    if given.of is not None:
        print(measure(given.of))
        return
    print("samples per datum  peak resident memory")
    peaks = {}
    for size in SIZES:
        done = subprocess.run([sys.executable, __file__, "--of", str(size)], capture_output=True, text=True, check=True)
        peaks[size] = float(done.stdout)
        print(f"{size:17,d}  {peaks[size]:12.1f} MiB", flush=True)
    met = [goal(6, "largest / smallest peak memory", max(peaks.values()) / min(peaks.values()), 1.05)]
    write(given.json, {"mebibytes": peaks, "goals": met})


def measure(num_samples: int) -> float:
    import torch

    from logpx import mlp_vae
    from logpx.evidence import importance

    torch.manual_seed(0)
    model = mlp_vae((784,), hidden=(200,), latent_dim=20).eval()
    importance(model, (torch.rand(8, 784) > 0.5).float(), num_samples)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
