"""Peak memory of importance sampling with 10^3, 10^4, 10^5 and 10^6 samples per datum, each in a fresh process.

A VAE 784-200-20 with random weights, 8 binary data. Prints a table; run it with `python benchmarks/memory.py`.
"""

import resource
import subprocess
import sys

SIZES = (1_000, 10_000, 100_000, 1_000_000)


def main() -> None:
    print("samples per datum  peak resident memory")
    for size in SIZES:
        done = subprocess.run([sys.executable, __file__, str(size)], capture_output=True, text=True, check=True)
        print(f"{size:17,d}  {int(done.stdout) / 1024:12.1f} MiB")


def measure(num_samples: int) -> int:
    import torch

    from logpx import mlp_vae
    from logpx.evidence import importance

    torch.manual_seed(0)
    model = mlp_vae((784,), hidden=(200,), latent_dim=20).eval()
    importance(model, (torch.rand(8, 784) > 0.5).float(), num_samples)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(measure(int(sys.argv[1])))
    else:
        main()
