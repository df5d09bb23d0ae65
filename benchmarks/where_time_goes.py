"""Where the time of a training step and of 1,000 draws goes, on one thread: a figure, and the same in words.

A VAE 784-400-20 on random greys, or binary data, of MNIST's shape. torch's profiler says how long each operator itself
takes; what is left of the time on the clock, measured without the profiler, is Python and dispatch.

    python benchmarks/where_time_goes.py --out docs/figures/where-time-goes.png
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure
from torch.profiler import ProfilerActivity, profile

import logpx
from logpx import mlp_vae
from logpx.data import DataSet
from logpx.evidence import Block, Estimator
from logpx.plots._style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, chart, finish, styled

BATCH, STEPS, BLOCK, DRAWS = 128, 200, 32, 5120
# what operators do, by what their names begin with; the first that fits
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "matrix products": (BLUE, ("aten::addmm", "aten::mm", "aten::bmm")),
    "softplus and its gradient": (ORANGE, ("aten::softplus", "aten::sigmoid", "aten::prod", "aten::abs", "aten::log_")),
    "optimizer": (GREEN, ("aten::_fused_adam", "aten::_foreach", "aten::linalg_vector_norm", "Optimizer")),
    "fetching data": (PURPLE, ("aten::index", "aten::_to_copy", "aten::copy_", "aten::div")),
    "other operators": (SKY, ("aten::", "autograd", "")),
}
REST = "Python and dispatch"
COLOURS = {**{name: colour for name, (colour, _) in KINDS.items()}, REST: "#C4C4C4"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/where-time-goes.png"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    parts = {
        f"training step,\n{BATCH} images": shares(training_steps(), STEPS),
        "1,000 draws\nof log p(x)": shares(draws(), BLOCK * DRAWS / 1000),
    }
    for name, part in parts.items():
        total = sum(part.values())
        words = ", ".join(f"{kind} {milliseconds / total:.0%}" for kind, milliseconds in part.items())
        print(f"{' '.join(name.split())}: {total:.2f} ms: {words}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure(parts).savefig(options.out)
    print(f"Figure: {options.out}")


def training_steps() -> Callable[[], float]:
    """Returns a function that fits for two epochs and gives the seconds of the second one's steps."""
    greys = torch.randint(0, 256, (BATCH * STEPS, 1, 28, 28), dtype=torch.uint8)
    parts = {"train": greys, "valid": greys[:0], "test": greys[:BATCH]}
    data = DataSet("random greys", "8-bit", 256, (1, 28, 28), parts, "drawn")

    def fit() -> float:
        with tempfile.TemporaryDirectory() as folder:
            settings = {"epochs": 2, "validate_on": "none", "progress": False}
            seconds = logpx.fit(data, recipe="grey-bce", out=Path(folder) / "run", **settings).metrics()["seconds"]
        return float(seconds[1] - seconds[0])

    return fit


def draws() -> Callable[[], float]:
    """Returns a function that weighs a block of data and gives the seconds."""
    model = mlp_vae((784,), hidden=(400,), latent_dim=20).eval()
    block = Block(model, (torch.rand(BLOCK, 784) > 0.8).float())

    def weigh() -> float:
        started = time.perf_counter()
        Estimator("importance", num_samples=DRAWS)(block)
        return time.perf_counter() - started

    return weigh


def shares(work: Callable[[], float], count: float) -> dict[str, float]:
    """Returns the milliseconds of each kind of operator, and of the rest, per step or per 1,000 draws."""
    work()
    seconds = min(work() for _ in range(3))
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        profiled_seconds = work()
    del profiled_seconds
    return by_kind(profiled, seconds, count)


def by_kind(profiled: profile, seconds: float, count: float) -> dict[str, float]:
    milliseconds = dict.fromkeys(KINDS, 0.0)
    for event in profiled.key_averages():
        kind = next(name for name, (_, starts) in KINDS.items() if event.key.startswith(starts))
        milliseconds[kind] += event.self_cpu_time_total / 1000
    # a fit has two epochs, of which the second one was timed
    epochs = 2 if any(event.key.startswith("Optimizer") for event in profiled.key_averages()) else 1
    each = {kind: value / count / epochs for kind, value in milliseconds.items()}
    return {**each, REST: max(1000 * seconds / count - sum(each.values()), 0.0)}


@styled
def figure(parts: dict[str, dict[str, float]]) -> Figure:
    drawn, ax = chart("Where the time goes, on one thread", "milliseconds", "", height=2.7)
    for place, part in enumerate(parts.values()):
        left, total = 0.0, sum(part.values())
        for kind, value in part.items():
            ax.barh(place, value, left=left, height=0.55, color=COLOURS[kind], label=kind if not place else None)
            if value > 0.07 * total:
                white = kind in ("matrix products", "optimizer", "fetching data")
                text = f"{value / total:.0%}"
                ax.text(left + value / 2, place, text, ha="center", va="center", color="white" if white else "#222222")
            left += value
        ax.text(left, place, f"  {total:.1f} ms", va="center", color=GREY)
    ax.set_yticks(range(len(parts)), parts)
    ax.set_xlim(0, 1.15 * max(sum(part.values()) for part in parts.values()))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    return finish(drawn, ax, [], ncols=3)


if __name__ == "__main__":
    matplotlib.use("Agg")
    main()
