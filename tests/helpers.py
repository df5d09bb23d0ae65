"""What several test modules share: tiny data and models, and ways to fit and to run a real command."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from logpx.data import DataSet, Split
from logpx.likelihoods import LIKELIHOODS
from logpx.train import loop

TINY: dict[str, Any] = {"hidden": (16,), "latent_dim": 2, "epochs": 3}
TINY_WORDS = ["--hidden", "16", "--latent-dim", "2", "--epochs", "3"]
POISON = 1000.0


class Toy(nn.Module):
    """A person's own Gaussian model of 3 reals with 2 latents; a datum that holds POISON makes its loss NaN."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encode, self.decode = nn.Linear(3, 4), nn.Linear(2, 3)

    def prior(self) -> Distribution:
        return Independent(Normal(torch.zeros(2), 1.0, validate_args=False), 1, validate_args=False)

    def encoder(self, x: Tensor) -> Distribution:
        loc, log_scale = self.encode(x).chunk(2, dim=-1)
        loc = torch.where((x == POISON).any(-1, keepdim=True), torch.nan, loc)
        return Independent(Normal(loc, log_scale.exp(), validate_args=False), 1, validate_args=False)

    def decoder(self, z: Tensor) -> Distribution:
        return Independent(Normal(self.decode(z), 1.0, validate_args=False), 1, validate_args=False)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def data_set(train: Tensor, valid: Tensor, test: Tensor, kind: Any = "real", levels: int | None = None) -> DataSet:
    parts = {"train": train, "valid": valid, "test": test}
    return DataSet("own", kind, levels, tuple(train.shape[1:]), parts, "memory")


def toy_data() -> DataSet:
    return data_set(normal(40, 3, seed=1), normal(12, 3, seed=2), normal(12, 3, seed=3))


def test_split(values: Tensor, kind: Any = "real", levels: int | None = None) -> Split:
    return data_set(values, values[:0], values, kind, levels).split("test")


test_split.__test__ = False  # type: ignore[attr-defined]


def suitable(likelihood: str, event_shape: tuple[int, ...], n: int = 4, levels: int = 256, seed: int = 0) -> Tensor:
    """Data that a likelihood is for, both ends of their range among them."""
    x = torch.rand(n, *event_shape, generator=torch.Generator().manual_seed(seed))
    x[0].view(-1)[:2] = torch.tensor([0.0, 1.0])
    kinds = LIKELIHOODS[likelihood].exact_kinds + LIKELIHOODS[likelihood].relaxed_kinds
    top = {"binary": 1, "8-bit": levels - 1}.get(kinds[0])
    return (x * top).round() / top if top else x


def pictures(n: int, event_shape: tuple[int, int, int], seed: int = 0, share: float = 1.0) -> Tensor:
    """Images of smooth colours with 256 levels, all but a share of them black."""
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = event_shape
    middle = torch.rand(n, channels, 1, 1, generator=generator)
    down, right = 0.2 * torch.randn(2, n, channels, 1, 1, generator=generator)
    x = middle + down * torch.linspace(-1, 1, height)[:, None] + right * torch.linspace(-1, 1, width)
    is_seen = torch.rand(n, 1, 1, 1, generator=generator) < share
    return (255 * x.clamp(0, 1) * is_seen).round().to(torch.uint8)


def picture_data(event_shape: tuple[int, int, int], n: int = 48, share: float = 1.0) -> DataSet:
    parts = [pictures(size, event_shape, seed, share) for seed, size in enumerate((n, 20, 20))]
    return data_set(*parts, kind="8-bit", levels=256)


def signal_at(monkeypatch: pytest.MonkeyPatch, *steps: int, number: int = signal.SIGINT) -> None:
    """Lets a signal arrive after certain steps of a fit, each time once."""
    waiting = list(steps)

    @contextmanager
    def track(*args: Any) -> Iterator[Callable[[int, str], None]]:
        def show(done: int, note: str) -> None:
            while done in waiting:
                waiting.remove(done)
                signal.raise_signal(number)

        yield show

    monkeypatch.setattr(loop, "track", track)


def weights(run: Path, name: str = "best") -> dict[str, Tensor]:
    return safetensors.torch.load_file(run / f"{name}.safetensors")


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def metrics(run: Path) -> list[dict[str, str]]:
    """Returns the rows of metrics.csv as they are written, without the seconds, which no two fits share."""
    with (run / "metrics.csv").open(newline="") as file:
        return [{key: cell for key, cell in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def assert_same_result(a: Path, b: Path) -> None:
    assert metrics(a) == metrics(b)
    for name in ("best", "last"):
        assert same(weights(a, name), weights(b, name)), name


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "logpx", *map(str, words)]


def environment() -> dict[str, str]:
    """The threads of this process, because sums over other numbers of threads differ in their last bits."""
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}


def run_command(*words: str | Path, python: str | None = None) -> subprocess.CompletedProcess[str]:
    line = command(*words) if python is None else [sys.executable, "-c", python, *map(str, words)]
    return subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=120, check=False)
