"""Likelihoods of colours side by side at equal training time: bits/dim, speed, memory, samples, grids.

Each variant trains the same small residual VAE for the same number of seconds, counted around the steps alone, on the
same batches in the same order: one, five or ten logistics per pixel, or a softmax over 256 levels. Steps differ in
length, so that a dearer likelihood sees fewer images; and as time decides when to stop, numbers repeat only nearly.
Time is the processor's by default, which for one thread is that of an idle core and suffers less from other work.

`vanilla-logistic` is what a first attempt looks like: one logistic, hardly a bound on scales, a vector of 512 latents,
plain convolutions: the model of the recipe of that name, trained as the others here. A published number for one like it
is 9.60 bits/dim, worse than the 8 of a uniform code. The code behind that number was not seen; what may have made it so
bad is tried here one cause at a time, at the same training time. "at start" is the ELBO of the first batch, "by prior"
reads the trained model with latents drawn from the prior.

Every variant runs in a process of its own, so that peaks of memory do not mix. "step" is by how much the peak resident
memory of a training step is above the memory before it, "kept" what autograd keeps in it for the backward pass.

A grid is seen by the mean absolute difference of neighbouring pixels across the borders between blocks of 2 (of 4),
over that within blocks (across borders between blocks of 2 that are not between those of 4), in decoded means, over
the same ratio of the data: 1 is no grid.

Prints tables, writes them to a JSON file and samples to a PNG beside it; run it on idle cores with
`python benchmarks/likelihoods.py`, the causes with `python benchmarks/likelihoods.py --variants causes`.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from discretized_logistic import status
from torch import Tensor, nn
from torch.distributions import Independent

from logpx import VAE, conv_vae, elbo, evaluate, reconstruct, sample
from logpx.data import Batch, Split, load_data
from logpx.distributions import DiscretizedLogistic
from logpx.likelihoods import CategoricalLikelihood, Likelihood, LogisticMixtureLikelihood
from logpx.likelihoods.levels import DiscretizedGaussianLikelihood, LevelsLikelihood
from logpx.plots import traversal_grid
from logpx.utils import bits_per_dim, chunks, generator, keyed_rng, spread

EVENT = (3, 32, 32)
NUM_DIMS = math.prod(EVENT)
CLIP_NORM, WARMUP_STEPS = 50_000.0, 100
COLUMNS = 10
MIB = 2**20
CLOCKS = {"cpu": time.process_time, "wall": time.perf_counter}
GRIDS = {"across, 2": (-1, 2), "across, 4": (-1, 4), "down, 2": (-2, 2), "down, 4": (-2, 4)}


@dataclasses.dataclass(frozen=True)
class IndependentLogisticLikelihood(DiscretizedGaussianLikelihood):
    """One discretized logistic for each colour of each pixel, apart from the others."""

    def distribution(self, parameters: Tensor) -> Independent:
        a, c = parameters.float().unbind(-len(self.event_shape) - 1)
        return self._independent(DiscretizedLogistic(self._loc(a), self._scale(c), self.levels, validate_args=False))


@dataclasses.dataclass(frozen=True)
class SharedScaleLikelihood(LevelsLikelihood):
    """One discretized logistic for each colour of each pixel, of one scale for all pixels of all images.

    The scale is e^log_scale for data in [0, 1]; a parameter in the place of `log_scale` is learned.
    """

    log_scale: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(()))

    @property
    def parameter_shape(self) -> tuple[int, ...]:
        return self.event_shape

    def distribution(self, parameters: Tensor) -> Independent:
        # s = (L - 1) e^c
        scale = (self.levels - 1) * torch.exp(self.log_scale)
        return self._independent(DiscretizedLogistic(self._loc(parameters), scale, self.levels, validate_args=False))

    def bias(self, mean: Tensor) -> Tensor:
        return 2 * mean - 1


RESNET: dict[str, Any] = {
    "network": "resnet",
    "channels": (16, 32, 64),
    "num_blocks": 1,
    "latent_channels": 16,
    "activation": "silu",
    "normalization": "none",
    "weight_norm": True,
}
PLAIN: dict[str, Any] = {
    "network": "conv",
    "channels": (32, 64, 128),
    "num_blocks": 1,
    "latent_dim": 512,
    "activation": "relu",
    "normalization": "batch",
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """A likelihood, and how the network around it is built and trained."""

    meaning: str
    likelihood: Likelihood
    network: dict[str, Any] = dataclasses.field(default_factory=lambda: PLAIN)
    start: float | None = None  # where log-scales start, by the bias of the one logistic
    learning_rate: float | None = None
    beta: float = 1.0
    warms_up: bool = True
    num_train: int | None = None


def logistics(num_mixtures: int, **options: Any) -> LogisticMixtureLikelihood:
    return LogisticMixtureLikelihood(EVENT, num_mixtures=num_mixtures, **options)


def learned_scale() -> SharedScaleLikelihood:
    return SharedScaleLikelihood(EVENT, log_scale=nn.Parameter(torch.zeros(())))


WIDE: dict[str, Any] = {"log_scale_bound": 14.0}
SIDE_BY_SIDE: dict[str, Variant] = {
    "logistic-1": Variant("one logistic", logistics(1), RESNET),
    "logistic-5": Variant("five logistics", logistics(5), RESNET),
    "logistic-10": Variant("ten logistics", logistics(10), RESNET),
    "categorical": Variant("softmax over 256 levels", CategoricalLikelihood(EVENT), RESNET),
}
VANILLA = "vanilla-logistic"
CAUSES: dict[str, Variant] = {
    VANILLA: Variant("one logistic, wide scales, 512 latents", logistics(1, **WIDE)),
    "shared-fixed": Variant("one scale for all, fixed at 1 for data in [0, 1]", SharedScaleLikelihood(EVENT)),
    "shared-slow": Variant("one scale for all, learned from 1 at rate 1e-4", learned_scale(), learning_rate=1e-4),
    "shared-learned": Variant("one scale for all, learned from 1", learned_scale()),
    # masses of every other of 511 bins, or of every fourth of 1021
    "half-bins": Variant("bins of 1/255 for data in [-1, 1]", logistics(1, levels=511, **WIDE)),
    "quarter-bins": Variant("bins of 1/255 for data over their SD of 1/4", logistics(1, levels=1021, **WIDE)),
    "tiny-scales": Variant("scales start at 0.1 level", logistics(1, **WIDE), start=-5.0),
    "independent": Variant("colours not coupled", IndependentLogisticLikelihood(EVENT, **WIDE)),
    "no-warm-up": Variant("KL with its full weight from the start", logistics(1, **WIDE), warms_up=False),
    "collapsed": Variant("KL weighs 100-fold: latents say nothing", logistics(1, **WIDE), beta=100.0),
    "few-images": Variant("trained on 500 images", logistics(1, **WIDE), num_train=500),
}
VARIANTS = SIDE_BY_SIDE | CAUSES
GROUPS = {"side-by-side": [*SIDE_BY_SIDE], "causes": [*CAUSES], "all": [*VARIANTS]}


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    if options.worker:
        work(options, *options.worker)
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results, tiles, figure = dict[str, dict[str, Any]](), dict[str, np.ndarray](), options.out.with_suffix(".png")
    record = {"options": vars(options) | {"out": str(options.out)}, "torch": torch.__version__, "results": results}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.variants:
            line = [sys.executable, __file__, *sys.argv[1:], "--worker", name, folder]
            if code := subprocess.run(line).returncode:
                print(f"{name}: left out, because its process ended with {code}", flush=True)
                continue
            results[name] = result = json.loads(Path(folder, f"{name}.json").read_text())
            tiles[name] = np.load(Path(folder, f"{name}.npy"))
            print(f"{name}: {result['bits']:.3f} bits/dim, {VARIANTS[name].meaning}", flush=True)
            # after each, so that an end before its time loses nothing
            options.out.write_text(json.dumps(record, indent=2))
            draw(tiles, figure)
    show_speed(results)
    show_bits(results)
    show_grids(results)
    print(f"\nSamples: {figure}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = f"{', '.join(GROUPS)}, or some of {', '.join(VARIANTS)}"
    default = [*SIDE_BY_SIDE, VANILLA]
    parser.add_argument("--variants", nargs="+", default=default, metavar="NAME", help=known)
    parser.add_argument("--seconds", type=float, default=300.0, help="training time of each variant")
    parser.add_argument("--warmup", type=float, default=0.05, help="share of it in which the KL gains its weight")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--num-test", type=int, default=500, help="test images, spread over the test set")
    parser.add_argument("--num-samples", type=int, default=32, help="draws per test image for log p(x)")
    parser.add_argument("--clock", choices=CLOCKS, default="cpu", help="cpu, which adds threads up, or wall")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-root", help="folder to look for cifar10 in, before LOGPX_DATA")
    parser.add_argument("--out", type=Path, default=Path("runs/likelihoods.json"))
    parser.add_argument("--worker", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.variants = list(dict.fromkeys(n for name in options.variants for n in GROUPS.get(name, [name])))
    if unknown := [name for name in options.variants if name not in VARIANTS]:
        parser.error(f"unknown variants {', '.join(unknown)}: name {known}.")
    return options


def work(options: argparse.Namespace, name: str, folder: str) -> None:
    """Trains and measures one variant; leaves its numbers and samples in the folder."""
    variant = VARIANTS[name]
    # before data are loaded, so that their memory does not hide the step's
    result: dict[str, Any] = measure_memory(variant, options)
    data = load_data("cifar10", data_root=options.data_root)
    train_split = data.split("train") if variant.num_train is None else data.split("train").take(variant.num_train)
    test = data.split("test")
    test = dataclasses.replace(test, values=test.values[spread(len(test), options.num_test)])
    mean = sum(part.float().sum(0) for part in train_split.values.split(500)) / (255 * len(train_split))
    model = build(variant, mean, options.seed)
    result |= {"parameters": sum(p.numel() for p in model.parameters() if p.requires_grad)}
    result |= train(model, train_split, variant, options)
    result |= measure_log_prob(model, test, options) | measure_bits(model, test, variant, options)
    if isinstance(variant.likelihood, SharedScaleLikelihood):
        result["shared_scale"] = variant.likelihood.log_scale.exp().item()
    result["grids"] = measure_grids(model, test)
    Path(folder, f"{name}.json").write_text(json.dumps(result))
    x = test.batch(spread(len(test), COLUMNS)).x
    rows = [x, reconstruct(model, x), *(sample(model, COLUMNS, seed=options.seed, mean=m) for m in (True, False))]
    np.save(Path(folder, f"{name}.npy"), torch.stack(rows).numpy())


def build(variant: Variant, mean: Tensor, seed: int) -> VAE:
    with keyed_rng(seed, "weights"):
        model = conv_vae(EVENT, likelihood=variant.likelihood, data_mean=mean, **variant.network)
    if variant.start is not None:
        # a logit, three locations, then three log-scales
        model.decoder.body.last.bias.data[4:7] = variant.start
    if isinstance(variant.likelihood, SharedScaleLikelihood) and variant.likelihood.log_scale.requires_grad:
        model.decoder.log_scale = variant.likelihood.log_scale
    return model


def train(model: VAE, split: Split, variant: Variant, options: argparse.Namespace) -> dict[str, Any]:
    """Ascends the ELBO until the steps have taken the given seconds, the rate falling to 0 as half a cosine in time."""
    peak, clock = variant.learning_rate or options.learning_rate, CLOCKS[options.clock]
    optimizer = torch.optim.Adamax(model.parameters(), lr=peak)
    spent, steps, images, skipped, recent, curve = 0.0, 0, 0, 0, list[float](), list[tuple[float, float]]()
    model.train()
    at_start = first_bits(model, split, options)
    for batch in endless(split, options):
        done = spent / options.seconds
        if done >= 1:
            break
        beta = variant.beta * (min(1.0, done / max(options.warmup, 1e-9)) if variant.warms_up else 1.0)
        rate = peak * min(1.0, (steps + 1) / WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * done))

        started = clock()
        optimizer.param_groups[0]["lr"] = rate
        with keyed_rng(options.seed, "train", steps):
            bound = elbo(model, batch.x, beta=beta).mean()
        skipped += not step(model, optimizer, bound)
        spent += clock() - started

        steps, images = steps + 1, images + len(batch.x)
        recent.append(bound.item())
        if spent / options.seconds >= (len(curve) + 1) / 20:
            curve.append((spent, bits(statistics.mean(recent))))
            recent.clear()
    counts = {"seconds": spent, "steps": steps, "images": images, "skipped": skipped}
    return counts | {"images_per_second": images / spent, "bits_at_start": at_start, "curve": curve}


@torch.no_grad()
def first_bits(model: VAE, split: Split, options: argparse.Namespace) -> float:
    with keyed_rng(options.seed, "train", 0):
        return bits(elbo(model, next(endless(split, options)).x).mean().item())


def step(model: nn.Module, optimizer: torch.optim.Optimizer, bound: Tensor) -> bool:
    """Takes a step, unless the bound or its gradient is not finite."""
    optimizer.zero_grad(set_to_none=True)
    (-bound).backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    is_finite = math.isfinite(bound.item()) and math.isfinite(norm.item())
    if is_finite:
        optimizer.step()
    return is_finite


def endless(split: Split, options: argparse.Namespace) -> Iterator[Batch]:
    for epoch in itertools.count():
        order = torch.randperm(len(split), generator=generator(options.seed, "order", epoch))
        yield from split.batches(options.batch_size, order=order)


def measure_memory(variant: Variant, options: argparse.Namespace) -> dict[str, float]:
    model = build(variant, torch.full(EVENT, 0.5), options.seed).train()
    optimizer = torch.optim.Adamax(model.parameters(), lr=1e-6)
    shape = (options.batch_size, *EVENT)
    x = torch.randint(0, 256, shape, generator=generator(options.seed, "memory")) / 255
    # a small step first, which loads libraries and makes the optimizer's state
    step(model, optimizer, elbo(model, x[:1]).mean())
    before = status("VmRSS")
    step(model, optimizer, elbo(model, x).mean())
    peak = status("VmHWM") - before
    return {"step_mib": peak / MIB, "kept_mib": kept_bytes(model, x) / MIB}


def kept_bytes(model: nn.Module, x: Tensor) -> int:
    """Returns the bytes of all storages that autograd keeps for the backward pass, besides the parameters."""
    kept: dict[int, int] = {}

    def pack(saved: Tensor) -> Tensor:
        kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        bound = elbo(model, x).mean()
    del bound
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return sum(size for pointer, size in kept.items() if pointer not in own)


def measure_log_prob(model: VAE, test: Split, options: argparse.Namespace) -> dict[str, float]:
    """Returns the median milliseconds of log p(x | z) of a batch from the network's outputs, and with its gradient."""
    clock, x = CLOCKS[options.clock], test.batch(torch.arange(min(options.batch_size, len(test)))).x
    with torch.no_grad():
        outputs = model.decoder.body(model.encoder(x).mean)
    times: list[tuple[float, float]] = []
    for _ in range(6):
        ticks = [clock()]
        with torch.no_grad():
            model.decoder.likelihood(outputs).log_prob(x)
        ticks.append(clock())
        model.decoder.likelihood(outputs.requires_grad_()).log_prob(x).sum().backward()
        ticks.append(clock())
        times.append((1e3 * (ticks[1] - ticks[0]), 1e3 * (ticks[2] - ticks[1])))
    # the first round only warms up
    forward, both = (statistics.median(column) for column in zip(*times[1:], strict=True))
    return {"log_prob_ms": forward, "log_prob_and_gradient_ms": both}


def measure_bits(model: VAE, test: Split, variant: Variant, options: argparse.Namespace) -> dict[str, Any]:
    common: dict[str, Any] = {"num_samples": options.num_samples, "seed": options.seed}
    common |= {"device": "cpu", "progress": False}
    record = evaluate(model, test, **common).record
    result = {
        "bits": record["bits_per_dim"]["mean"],
        "bits_error": record["bits_per_dim"]["error"],
        "nats": record["log_evidence"]["mean"],
        "elbo_bits": bits(record["elbo"]),
        "rate": record["rate"],
        "active_units": record["active_units"],
        "num_latents": record["num_latents"],
        "pareto_k_above_07": record["pareto_k"]["share_above_07"],
        "num_nonfinite": record["num_nonfinite"],
    }
    if variant.network is PLAIN:
        result["bits_by_prior"] = evaluate(model, test, estimator="prior", **common).record["bits_per_dim"]["mean"]
    return result


def measure_grids(model: VAE, test: Split) -> dict[str, dict[str, tuple[float, float]]]:
    """Returns the ratio of each grid, and its standard error, in data, mean reconstructions and mean samples."""
    x = test.batch(torch.arange(len(test))).x
    parts = list(enumerate(chunks(len(x), 50)))
    images = {
        "data": x,
        "reconstructions": torch.cat([reconstruct(model, x[a:b]) for _, (a, b) in parts]),
        "samples": torch.cat([sample(model, b - a, seed=i) for i, (a, b) in parts]),
    }
    return {what: {g: border_ratio(y, *place) for g, place in GRIDS.items()} for what, y in images.items()}


def border_ratio(x: Tensor, dim: int, period: int) -> tuple[float, float]:
    """Returns the ratio of mean absolute differences across the two kinds of borders, and its error over images."""
    difference = x.double().diff(dim=dim).abs()
    place = torch.arange(difference.shape[dim]) % period
    # d_i is across the border of i and i + 1, that of two blocks if i + 1 is a multiple of the period
    across, within = (
        difference.index_select(dim, (place == i).nonzero().flatten()).flatten(1).mean(1)
        for i in (period - 1, period // 2 - 1)
    )
    ratio = across.mean() / within.mean()
    error = (across - ratio * within).std() / (within.mean() * math.sqrt(len(x)))
    return ratio.item(), error.item()


def show_speed(results: dict[str, dict[str, Any]]) -> None:
    heads = ("parameters", "images/s", "images", "step MiB", "kept MiB", "log_prob ms", "+ gradient", "skipped")
    print(f"\n{'variant':18}" + "".join(f"{head:>13}" for head in heads))
    for name, r in results.items():
        cells = [f"{r['parameters']:,}", f"{r['images_per_second']:.1f}", f"{r['images']:,}", f"{r['step_mib']:.0f}"]
        cells += [f"{r[key]:.1f}" for key in ("kept_mib", "log_prob_ms", "log_prob_and_gradient_ms")]
        print(f"{name:18}" + "".join(f"{cell:>13}" for cell in (*cells, str(r["skipped"]))))


def show_bits(results: dict[str, dict[str, Any]]) -> None:
    heads = ("at start", "ELBO", "log p(x)", "±", "- vanilla", "above 8", "by prior", "KL, nats", "active", "k >= 0.7")
    print(f"\n{'bits/dim':18}" + "".join(f"{head:>10}" for head in heads))
    vanilla = results.get(VANILLA, {}).get("bits")
    for name, r in results.items():
        cells = [f"{r['bits_at_start']:.2f}", f"{r['elbo_bits']:.3f}", f"{r['bits']:.3f}", f"{r['bits_error']:.3f}"]
        cells += ["" if vanilla is None else f"{r['bits'] - vanilla:+.3f}", "yes" if r["bits"] > 8 else "no"]
        cells += [f"{r['bits_by_prior']:.2f}" if "bits_by_prior" in r else "", f"{r['rate']:.0f}"]
        share = r["pareto_k_above_07"]
        cells += [f"{r['active_units']}/{r['num_latents']}", "" if share is None else f"{share:.0%}"]
        print(f"{name:18}" + "".join(f"{cell:>10}" for cell in cells) + f"  {VARIANTS[name].meaning}")


def show_grids(results: dict[str, dict[str, Any]]) -> None:
    heads = [f"{what[:5]} {grid}" for what in ("reconstructions", "samples") for grid in GRIDS]
    print(f"\n{'grid / data':18}" + "".join(f"{head:>17}" for head in heads))
    for name, r in results.items():
        cells = []
        for what, grid in itertools.product(("reconstructions", "samples"), GRIDS):
            (ratio, error), (data, data_error) = r["grids"][what][grid], r["grids"]["data"][grid]
            relative = math.hypot(error / ratio, data_error / data)
            cells.append(f"{ratio / data:.3f} ± {relative * ratio / data:.3f}")
        print(f"{name:18}" + "".join(f"{cell:>17}" for cell in cells))


def draw(tiles: dict[str, np.ndarray], path: Path) -> None:
    rows, labels = [next(iter(tiles.values()))[0]], ["data"]
    for name, (_, reconstructed, means, draws) in tiles.items():
        rows += [reconstructed, means, draws]
        label = textwrap.fill(name, 11)
        labels += [f"{label}\n{what}" for what in ("recon.", "means", "draws")]
    title = (
        "Data; for each likelihood the means that reconstruct them; samples of the prior as means, and below each a "
        "draw of x by the same z."
    )
    traversal_grid(np.stack(rows), labels, title=title).savefig(path)


def bits(nats: float) -> float:
    return float(bits_per_dim(nats, NUM_DIMS))


if __name__ == "__main__":
    main()
