"""Time and peak memory of a coupled mixture of discretized logistics beside the customary PixelCNN++ formula.

One log_prob and its gradient in a network's output, (64, 3, 32, 32) images and K = 10 by default. Both get the same
output in the units of PixelCNN++ (intensities in [-1, 1]); what either needs to make its parameters of it is timed. The
formula is the usual torch port: sigmoids of both edges, their difference where it exceeds 1e-5, else the density at the
middle times the width, chosen by `where`. Repetitions alternate, so that a busy machine slows both.

Memory is the rise of the peak resident memory of a fresh process over its inputs, once with gradients and once without;
beside it stand the bytes that autograd keeps for the backward pass, which do not depend on the allocator.

Prints a table; run it with `python benchmarks/discretized_logistic.py`.
"""

from __future__ import annotations

import argparse
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from _timing import goal, write
from torch import Tensor

from logpx.distributions import CoupledLogisticMixture

MIDDLE = 127.5


def main() -> None:
    arguments = parse()
    if arguments.peak:
        print(peak_memory(arguments))
        return
    torch.set_num_threads(arguments.threads)
    x, y = make_inputs(arguments)
    times = measure_times(x, y, arguments)
    heads = ("forward", "backward", "both", "no grad", "kept", "peak", "no grad")
    print(f"{'log-probability':<20}" + "".join(f"{head:>10}" for head in heads))
    rows = {}
    for name, variant in VARIANTS.items():
        peaks = [peak_of_process(name, grad) for grad in ("grad", "no-grad")]
        rows[name] = [*times[name], kept_bytes(variant, x, y), *peaks]
        cells = [f"{1e3 * s:.0f} ms" for s in rows[name][:4]] + [f"{m / 2**20:.0f} MiB" for m in rows[name][4:]]
        print(f"{name:<20}" + "".join(f"{cell:>10}" for cell in cells))
    ratios = [ours / theirs for ours, theirs in zip(rows["logpx"], rows["PixelCNN++ formula"], strict=True)]
    print(f"{'ratio':<20}" + "".join(f"{ratio:10.2f}" for ratio in ratios))
    met = [
        goal("logistic", "time of the discretized logistic / PixelCNN++ formula", ratios[2], 1.0),
        goal("logistic", "peak memory of the discretized logistic / PixelCNN++ formula", ratios[5], 1.5),
    ]
    write(arguments.json, {"columns": heads, "rows": rows, "goals": met})
    gap = (exact(x, y) - pixelcnn(x, y)).abs().max() / x[0].numel()
    print(f"Largest difference of an image's log-probability: {gap:.1e} nats per dimension.")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--components", type=int, default=10)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--peak", nargs=2, metavar=("VARIANT", "GRAD"), help=argparse.SUPPRESS)
    return parser.parse_args()


def make_inputs(arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Returns images in [-1, 1] and an output of a network (B, 10 K, H, W): logits, locations, log-scales, coupling."""
    generator = torch.Generator().manual_seed(0)
    shape = (arguments.batch, 3, arguments.size, arguments.size)
    x = torch.randint(0, 256, shape, generator=generator) / MIDDLE - 1
    y = torch.randn(arguments.batch, 10 * arguments.components, *shape[-2:], generator=generator)
    return x, y


def exact(x: Tensor, y: Tensor) -> Tensor:
    logits, loc, log_scale, coefficients = split(y)
    scale = MIDDLE * torch.exp(log_scale.clamp(min=-7.0))
    p = CoupledLogisticMixture(logits, MIDDLE * loc + MIDDLE, scale, torch.tanh(coefficients), validate_args=False)
    return p.log_prob(torch.round(MIDDLE * x + MIDDLE))


def pixelcnn(x: Tensor, y: Tensor) -> Tensor:
    logits, loc, log_scale, coefficients = split(y)
    log_scale, c = log_scale.clamp(min=-7.0), torch.tanh(coefficients)
    x = x.unsqueeze(1).expand_as(loc)
    green = loc[:, :, 1] + c[:, :, 0] * x[:, :, 0]
    blue = loc[:, :, 2] + c[:, :, 1] * x[:, :, 0] + c[:, :, 2] * x[:, :, 1]
    centred = x - torch.stack([loc[:, :, 0], green, blue], 2)
    inverse = torch.exp(-log_scale)
    upper, lower, middle = inverse * (centred + 1 / 255), inverse * (centred - 1 / 255), inverse * centred
    mass = torch.sigmoid(upper) - torch.sigmoid(lower)
    log_lowest, log_highest = upper - F.softplus(upper), -F.softplus(lower)
    log_density = middle - log_scale - 2 * F.softplus(middle)
    inside = torch.where(mass > 1e-5, torch.log(mass.clamp(min=1e-12)), log_density - math.log(MIDDLE))
    log_mass = torch.where(x < -0.999, log_lowest, torch.where(x > 0.999, log_highest, inside))
    return torch.logsumexp(log_mass.sum(2) + F.log_softmax(logits, 1), 1).sum((-2, -1))


def split(y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    num_components = y.shape[1] // 10
    logits, rest = y[:, :num_components], y[:, num_components:]
    loc, log_scale, coefficients = rest.unflatten(1, (3, num_components, 3)).unbind(1)
    return logits, loc, log_scale, coefficients


VARIANTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"PixelCNN++ formula": pixelcnn, "logpx": exact}


def measure_times(x: Tensor, y: Tensor, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Returns the medians of forward, backward, both, and forward without gradients, in seconds."""
    rounds: dict[str, list[tuple[float, ...]]] = {name: [] for name in VARIANTS}
    for _ in range(arguments.repetitions + 1):
        for name, variant in VARIANTS.items():
            rounds[name].append(one_round(variant, x, y))
    # the first round only warms up
    return {
        name: [statistics.median(column) for column in zip(*rows[1:], strict=True)] for name, rows in rounds.items()
    }


def one_round(variant: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[float, ...]:
    y = y.clone().requires_grad_()
    ticks = [time.perf_counter()]
    total = variant(x, y).sum()
    ticks.append(time.perf_counter())
    total.backward()
    ticks.append(time.perf_counter())
    with torch.no_grad():
        variant(x, y)
    ticks.append(time.perf_counter())
    return ticks[1] - ticks[0], ticks[2] - ticks[1], ticks[2] - ticks[0], ticks[3] - ticks[2]


def kept_bytes(variant: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> int:
    """Returns the bytes of all storages that autograd keeps for the backward pass, besides the inputs."""
    kept: dict[int, int] = {}
    y = y.clone().requires_grad_()

    def pack(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        total = variant(x, y).sum()
    del total
    return sum(size for pointer, size in kept.items() if pointer not in (x.data_ptr(), y.data_ptr()))


def peak_of_process(name: str, grad: str) -> int:
    line = [sys.executable, __file__, *sys.argv[1:], "--peak", name, grad]
    return int(subprocess.run(line, capture_output=True, text=True, check=True).stdout)


def peak_memory(arguments: argparse.Namespace) -> int:
    """Returns by how many bytes the peak resident memory rises above the inputs, in this process."""
    torch.set_num_threads(arguments.threads)
    variant, is_grad = VARIANTS[arguments.peak[0]], arguments.peak[1] == "grad"
    x, y = make_inputs(arguments)
    # a small call first, which loads libraries
    variant(x[:1], y[:1].clone().requires_grad_()).sum().backward()
    y.requires_grad_(is_grad)
    before = status("VmRSS")
    total = variant(x, y).sum()
    if is_grad:
        total.backward()
    return status("VmHWM") - before


def status(key: str) -> int:
    """Returns a number of bytes that Linux knows of this process; getrusage would see the parent's peak too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


if __name__ == "__main__":
    main()
