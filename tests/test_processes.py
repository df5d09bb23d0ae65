"""Several processes, or several parts of a batch, reach what one process reaches: real commands, gloo on the CPU."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from helpers import Toy, command, contents, environment, metrics, picture_data, toy_data, weights
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Gamma, Normal
from torch.nn import functional

from logpx import shares
from logpx.data import DataSet
from logpx.processes import Processes, launched
from logpx.settings import Settings
from logpx.shares import Share, random_draws, shares_of
from logpx.train import fit, resume
from logpx.train.refusals import require_divisible, require_one_process
from logpx.utils import keyed_rng

# 1,257 training data in 20 steps; the last batch has 22, the others 65, so that two processes have uneven shares.
TRAIN: dict[str, Any] = {
    "hidden": (16,),
    "latent_dim": 2,
    "batch_size": 65,
    "encoder_dropout": 0.2,
    "ema": 0.5,
    "schedule": "constant",
    "warmup_steps": 0,
}
WORDS = [
    *("--hidden", "16", "--latent-dim", "2", "--batch-size", "65", "--encoder-dropout", "0.2", "--ema", "0.5"),
    *("--schedule", "constant", "--warmup-steps", "0"),
]
# Weights after 20 or 40 steps of Adam at rate 1e-3. In float32 sums in another order move them by 1.2e-7 at most, noise
# that is not of the whole batch by 1e-2. In bfloat16 a few move by 4e-3, and all by 2.3e-5 on average, against 5.5e-3.
TOLERANCE = 1e-6
MEAN_BFLOAT16 = 2e-4
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


def distances(a: Path, b: Path, name: str = "last") -> Tensor:
    one, other = weights(a, name), weights(b, name)
    assert one.keys() == other.keys()
    return torch.cat([(one[key].double() - other[key].double()).abs().flatten() for key in one])


def distance(a: Path, b: Path, name: str = "last") -> float:
    return float(distances(a, b, name).max())


def run(*line: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**environment(), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run([*map(str, line)], env=env, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit of 20 steps by one process."""
    return fit("digits", out=tmp_path_factory.mktemp("alone") / "run", epochs=1, **TRAIN).path


@pytest.fixture(scope="module")
def alone_twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same fit, 40 steps long."""
    return fit("digits", out=tmp_path_factory.mktemp("alone") / "run", epochs=2, **TRAIN).path


DRAWS: dict[str, Callable[[int], Tensor]] = {
    "a normal draw of each parameter": lambda n: Normal(torch.arange(2.0 * n).view(n, 2), 1.0).rsample((3,)),
    "as many draws as data in a share": lambda n: torch.randn(4, n, 2),
    "levels": lambda n: Categorical(logits=torch.zeros(n, 5)).sample((3,)),
    "coins": lambda n: Bernoulli(torch.linspace(0.1, 0.9, 3).expand(n, 3)).sample(),
    "units left out": lambda n: functional.dropout(torch.ones(n, 4), 0.5),
    "channels left out of draws and data in one dimension": lambda n: functional.dropout2d(
        torch.ones(3, n, 4, 2, 2).flatten(0, 1), 0.5
    ).unflatten(0, (3, n)),
    "two kinds": lambda n: torch.rand_like(torch.zeros(n, 2)) + torch.zeros(n, 2).exponential_(),
    "none by data": lambda n: torch.randn(7).expand(n, 7),
}


@pytest.mark.parametrize("name", DRAWS)
def test_the_draws_of_shares_are_the_rows_of_the_draws_of_the_whole(name: str) -> None:
    work = DRAWS[name]
    draws, axis = random_draws(work), 1 if work(9).shape[0] != 9 else 0
    with keyed_rng(0, name):
        whole = work(9)
    for num_parts in (2, 3, 9):
        parts = []
        for share in shares_of(9, num_parts=num_parts):
            # coins and normal draws have the parameters of their own rows
            with keyed_rng(0, name), share.noise(draws):
                parts.append(work(share.stop - share.start))
        together = torch.cat(parts, axis)
        if name == "a normal draw of each parameter":
            together = together - own_locations(9, num_parts) + torch.arange(18.0).view(9, 2)
            torch.testing.assert_close(together, whole, rtol=0, atol=2e-6)
        else:
            assert torch.equal(together, whole)


def own_locations(total: int, num_parts: int) -> Tensor:
    sizes = [share.stop - share.start for share in shares_of(total, num_parts=num_parts)]
    return torch.cat([torch.arange(2.0 * size).view(size, 2) for size in sizes])


def test_shares_cover_a_batch_once_and_in_order() -> None:
    for total in range(1, 12):
        for processes in (1, 2, 3):
            for parts in (1, 2, 5):
                own = [s for rank in range(processes) for s in shares_of(total, rank, processes, parts)]
                rows = [row for s in own if s.weight for row in range(s.start, s.stop)]
                assert rows == list(range(total))
                assert sum(s.weight for s in own) == pytest.approx(1)
                assert {s for s in own if not s.weight} <= {Share(0, 1, total, 0.0)}


def test_draws_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(ValueError, match=r"_standard_gamma draws depends on its arguments.*fit by one process"):
        random_draws(lambda n: Gamma(torch.ones(n), 1.0).sample())
    with pytest.raises(ValueError, match=r"Draws of shape \(2, 2\) for 2 data and \(3, 3\) for 3 do not count data in"):
        random_draws(lambda n: torch.randn(n, n))
    with pytest.raises(ValueError, match="differ in kind"):
        random_draws(lambda n: [torch.randn(1) for _ in range(n)])
    with (
        shares_of(4, num_parts=2)[1].noise(random_draws(lambda n: torch.rand(n))),
        pytest.raises(ValueError, match="A step draws by randn what it did not at first"),
    ):
        torch.randn(2)
    assert random_draws(lambda n: Gamma(torch.ones(5), 1.0).sample()) == [
        shares.Draw("_standard_gamma", [None], [None])
    ]


FITS: dict[str, tuple[str | DataSet, dict[str, Any]]] = {
    "many draws and a flow": (
        "digits",
        {**TRAIN, "bound": "iwae", "num_samples": 3, "gradient": "dreg", "prior": "maf"},
    ),
    "convolutions": (
        picture_data((1, 8, 8)),
        {"network": "conv", "channels": (4, 8), "latent_dim": 2, "batch_size": 7, "num_samples": 2, "flip": True},
    ),
    "bfloat16": ("digits", {**TRAIN, "precision": "bf16-mixed", "clip_norm": 1.0}),
}


@pytest.mark.parametrize("name", FITS)
def test_a_batch_in_parts_gives_the_step_of_the_whole(name: str, tmp_path: Path) -> None:
    data, settings = FITS[name]
    paths = [fit(data, out=tmp_path / str(n), epochs=1, accumulate=n, **settings).path for n in (1, 3)]
    if name == "bfloat16":
        assert distances(*paths).mean() < MEAN_BFLOAT16
    else:
        assert distance(*paths) < TOLERANCE
    assert float(metrics(paths[0])[0]["valid"]) == pytest.approx(float(metrics(paths[1])[0]["valid"]), rel=1e-3)


def test_without_the_noise_of_the_whole_the_parts_lead_elsewhere(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Share, "noise", lambda self, draws: nullcontext())
    other = fit("digits", out=tmp_path / "run", epochs=1, accumulate=2, **TRAIN).path
    assert distance(alone, other) > 1000 * TOLERANCE


def test_two_processes_reach_what_one_reaches_and_either_goes_on_for_the_other(
    alone: Path, alone_twice: Path, tmp_path: Path
) -> None:
    two = tmp_path / "two"
    done = run(*command("fit", "digits", *WORDS, "--epochs", "1", "--accumulate", "2", "--out", two, "--devices", "2"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Fitted in") == 1
    assert distance(alone, two) < TOLERANCE
    assert distance(alone, two, "best") < TOLERANCE
    for name, cell in metrics(alone)[0].items():
        assert float(metrics(two)[0][name]) == pytest.approx(float(cell), rel=1e-6)
    assert {path.name for path in two.iterdir()} == {path.name for path in alone.iterdir()}
    resume(two, epochs=2)
    assert distance(alone_twice, two) < TOLERANCE


def test_torchrun_starts_the_processes_and_they_go_on_for_one(alone: Path, alone_twice: Path, tmp_path: Path) -> None:
    other = shutil.copytree(alone, tmp_path / "run")
    done = run(*TORCHRUN, "logpx", "fit", "--resume", other, "--epochs", "2")
    assert (done.returncode, done.stdout.count("Fitted in")) == (0, 1), done.stderr
    assert distance(alone_twice, other) < TOLERANCE


def test_slurm_starts_the_processes_which_compute_in_bfloat16(tmp_path: Path) -> None:
    one = fit("digits", out=tmp_path / "one", epochs=1, precision="bf16-mixed", **TRAIN).path
    line = command("fit", "digits", *WORDS, "--epochs", "1", "--precision", "bf16-mixed", "--out", tmp_path / "two")
    job = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODEID": "0", "SLURM_JOB_NAME": "logpx"}
    job |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(find_free_network_port()), "OMP_NUM_THREADS": "1"}
    tasks = []
    for rank in ("0", "1"):
        env = {**environment(), **job, "SLURM_PROCID": rank, "SLURM_LOCALID": rank}
        tasks.append(subprocess.Popen([*line, "--devices", "2"], env=env, stdout=subprocess.PIPE, text=True))
    said = [task.communicate(timeout=240)[0] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0]
    assert ("Fitted in" in said[0], said[1]) == (True, "")
    assert distances(one, tmp_path / "two").mean() < MEAN_BFLOAT16


def test_what_the_first_process_refuses_ends_all_with_one_message(alone: Path) -> None:
    before = contents(alone)
    done = run(*command("fit", "digits", *WORDS, "--out", alone, "--devices", "2"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"logpx: {alone} holds a run already")
    assert len(done.stderr.splitlines()) == 1
    assert contents(alone) == before


# A script of one's own, which every process runs: first a fit that skips a batch because of a datum in one share, then
# one in which something happens to the second process alone.
SCRIPT = """
import os, signal, sys
from contextlib import contextmanager
sys.path.insert(0, {tests!r})
from helpers import POISON, Toy, toy_data
from logpx import fit
from logpx.train import loop
from logpx.processes import is_first_process

@contextmanager
def track(*args):
    def show(step, note):
        if step == 3 and not is_first_process():
            {happens}
    yield show

data = toy_data()
data.parts["train"][0] = POISON
out = sys.argv[1]
run = fit(data, model=Toy(), out=out + "/skip", epochs=2, batch_size=9, on_nonfinite="skip", devices=2)
print(int(run.metrics()["skipped"][-1]) if is_first_process() else "", end="")
loop.track = track
fit(toy_data(), model=Toy(), out=out + "/run", epochs=50, batch_size=9, devices=2)
"""


@pytest.mark.parametrize(
    "happens, says",
    [
        ("signal.raise_signal(signal.SIGTERM)", "KeyboardInterrupt: Interrupted and saved; continue with: "),
        ("os.kill(os.getpid(), signal.SIGKILL)", "Another process of this computation has ended without a word"),
    ],
)
def test_what_happens_to_one_process_is_decided_by_all(happens: str, says: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), happens=happens))
    done = run(sys.executable, script, tmp_path)
    assert done.returncode != 0
    # one batch in each of two epochs has the datum
    assert done.stdout == "2"
    assert done.stderr.count(says) == 1, done.stderr
    assert done.stderr.count("Traceback") <= 2, done.stderr
    if "SIGTERM" in happens:
        assert restored_step(tmp_path / "run") == 3


def restored_step(path: Path) -> int:
    return int(torch.load(path / "training.pt", weights_only=True)["state"]["step"])


def test_what_several_processes_cannot_do_is_refused() -> None:
    two = cast(Processes, SimpleNamespace(count=2, rank=0))
    with pytest.raises(ValueError, match="Model ppca is fitted by expectation maximization, by one process, but 2"):
        require_one_process(Settings().override(model="ppca"), two)
    with pytest.raises(ValueError, match="devices must be 1 or more, but is 0"), launched("cpu", devices=0):
        pass
    model = Toy()
    model.idle = nn.Parameter(torch.zeros(2))
    data, fabric = toy_data(), Fabric(accelerator="cpu", devices=1)
    two = cast(Processes, SimpleNamespace(count=2, rank=0, fabric=fabric))
    with pytest.raises(ValueError, match="the bound does not depend on idle: freeze them"):
        require_divisible(model, Settings(), data.split("train"), two)
    model.idle.requires_grad_(False)
    require_divisible(model, Settings(), data.split("train"), two)


def test_batches_that_cannot_be_divided_are_refused_before_a_run_is_made(tmp_path: Path) -> None:
    model = Toy()
    model.encode = cast(nn.Linear, nn.Sequential(nn.BatchNorm1d(3), model.encode))
    with pytest.raises(ValueError, match=r"Batch normalization needs whole batches.*devices, num_nodes or accumulate"):
        fit(toy_data(), model=model, out=tmp_path / "run", accumulate=2, batch_size=8)
    assert not (tmp_path / "run").exists()
