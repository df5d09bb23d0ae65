"""Work survives: processes that are killed at any moment, full disks, short memory, and two processes on one run.

The commands are real ones, run by a process that forks with torch imported, because to start Python with torch takes
seconds; one of each kind starts anew.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import assert_same_result, command, contents, environment, run_command

from logpx.files import LEFTOVER, read_json

LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs the processor time of other processes")
PATIENCE = 300.0  # seconds until a process that should have ended is given up
FIT = [
    *("--hidden", "8", "--latent-dim", "2", "--epochs", "3", "--batch-size", "16", "--encoder-dropout", "0.1"),
    *("--center", "true", "--ema", "0.9", "--schedule", "cosine", "--warmup-steps", "10"),
]
EVALUATE = ["--split", "train", "--estimator", "importance", "--num-samples", "40"]
WRITE_ALWAYS = "import logpx.evaluation.shards as shards; shards.WRITE_EVERY = -1.0\n"
COUNT_BLOCKS = """
from logpx.evidence import Estimator
call, count = Estimator.__call__, 0
def counted(self, block):
    global count
    count += 1
    return call(self, block)
Estimator.__call__ = counted
"""
TELL_BLOCKS = "import sys; print(count, file=sys.stderr)"
# A process kills itself at its n-th change of a file: before it is forced to the disk, renamed or removed, and after it
# was opened, when it is empty yet.
KILL_AT = """
import io, os, signal
left = {n}
def step():
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
def before(function, counts=lambda *args, **kwargs: True):
    def call(*args, **kwargs):
        if counts(*args, **kwargs):
            step()
        return function(*args, **kwargs)
    return call
def opened(*args, open=io.open, **kwargs):
    file = open(*args, **kwargs)
    if "w" in file.mode:
        step()
    return file
io.open = opened
os.fsync, os.replace, os.rmdir = map(before, (os.fsync, os.replace, os.rmdir))
os.unlink = before(os.unlink, lambda path, **kwargs: kwargs or os.path.lexists(path))
"""


class Done(NamedTuple):
    code: int
    output: str
    errors: str


class Zygote:
    """Forks a process for each command; see zygote.py."""

    def __init__(self, folder: Path) -> None:
        line = [sys.executable, str(Path(__file__).with_name("zygote.py"))]
        self.process = subprocess.Popen(
            line, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=folder
        )
        self.output, self.errors = folder / "output", folder / "errors"

    def start(self, *words: str | Path, before: str = "", after: str = "") -> int:
        """Starts a command and returns the number of its process."""
        request = {"words": list(map(str, words)), "output": str(self.output), "errors": str(self.errors)}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({**request, "before": before, "after": after}) + "\n")
        return self._answer()

    def wait(self) -> Done:
        code = self._answer()
        return Done(code, self.output.read_text(), self.errors.read_text())

    def run(self, *words: str | Path, before: str = "", after: str = "") -> Done:
        self.start(*words, before=before, after=after)
        return self.wait()

    def killed_after(self, seconds: float, *words: str | Path, before: str = "") -> Done:
        """Runs a command and kills it when it has computed so long, which does not depend on other processes."""
        process = self.start(*words, before=before)
        while not self._is_answered(time.monotonic() + 0.001) and computed(process) < seconds:
            pass
        if not self._is_answered(0.0):
            os.kill(process, signal.SIGKILL)
        return self.wait()

    def _answer(self) -> int:
        assert self.process.stdout is not None
        assert self._is_answered(time.monotonic() + PATIENCE)
        return int(self.process.stdout.readline())

    def _is_answered(self, stop: float) -> bool:
        return bool(select.select([self.process.stdout], [], [], max(0.0, stop - time.monotonic()))[0])


def computed(process: int) -> float:
    """Returns the processor time of a process, in seconds."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


TELL_SECONDS = "import sys, time; print(time.process_time(), file=sys.stderr)"


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    zygote = Zygote(tmp_path_factory.mktemp("zygote"))
    with zygote.process:
        yield zygote
        zygote.process.kill()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "binary.npy"
    np.save(path, (np.random.default_rng(0).random((240, 12)) > np.linspace(0.1, 0.9, 12)).astype(np.uint8))
    return path


class Reference(NamedTuple):
    path: Path
    seconds: float


@pytest.fixture(scope="module")
def whole(zygote: Zygote, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A run that nobody killed, and how long its fit computed."""
    path = tmp_path_factory.mktemp("whole") / "run"
    done = zygote.run("fit", data, *FIT, "--out", path, after=TELL_SECONDS)
    assert done.code == 0, done.errors
    return Reference(path, float(done.errors))


def go_on(run: Path, data: Path) -> list[str | Path]:
    """Returns the words that go on with a fit, which are the first ones where it had not yet made a run."""
    return ["fit", "--resume", run] if (run / "run.json").exists() else ["fit", data, *FIT, "--out", run]


def leftovers(run: Path) -> list[Path]:
    return [path for path in run.rglob("*") if LEFTOVER.search(path.name)]


def names(run: Path) -> set[str]:
    return {path.name for path in run.iterdir()}


@LINUX
def test_a_fit_that_is_killed_at_any_moment_is_resumed_to_the_same_bits(
    zygote: Zygote, data: Path, whole: Reference, tmp_path: Path
) -> None:
    """At 20 random moments, counted in processor time, of which a few may come after the end."""
    moments, num_killed = random.Random(0), 0
    for number in range(20):
        run = tmp_path / str(number)
        killed = zygote.killed_after(moments.random() * whole.seconds, "fit", data, *FIT, "--out", run)
        num_killed += killed.code == -signal.SIGKILL
        done = zygote.run(*go_on(run, data))
        assert done.code == 0, done.errors
        assert_same_result(run, whole.path)
        assert names(run) == names(whole.path)
    assert num_killed >= 12


def test_a_fit_that_is_killed_at_every_change_of_a_file_reaches_the_same_bits(
    zygote: Zygote, data: Path, whole: Reference, tmp_path: Path
) -> None:
    """The n-th process dies at its n-th change, so that each goes on with what the one before left."""
    run, number, code = tmp_path / "run", 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        number += 1
        code, _, errors = zygote.run(*go_on(run, data), before=KILL_AT.format(n=number))
        assert code in (0, -signal.SIGKILL), errors
        assert len(leftovers(run)) <= 1
    assert number >= 15
    assert_same_result(run, whole.path)
    assert names(run) == names(whole.path)


def test_a_run_that_is_being_replaced_can_be_replaced_after_a_kill(
    zygote: Zygote, data: Path, whole: Reference, tmp_path: Path
) -> None:
    run, words = tmp_path / "run", ["fit", data, *FIT, "--epochs", "1", "--out", tmp_path / "run", "--overwrite"]
    assert zygote.run(*words).code == 0
    reference = contents(run)
    for number in range(4, 13, 2):
        assert zygote.run(*words, before=KILL_AT.format(n=number)).code == -signal.SIGKILL
        done = zygote.run(*words)
        assert done.code == 0, done.errors
        assert contents(run)["best.safetensors"] == reference["best.safetensors"]


def evaluation(run: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the record without what no two evaluations share, and the scores."""
    record = read_json(run / "evaluation.json")
    del record["provenance"]
    with np.load(run / "evaluation.npz") as arrays:
        return record, dict(arrays)


def assert_same_evaluation(a: Path, b: Path) -> None:
    (record_a, scores_a), (record_b, scores_b) = evaluation(a), evaluation(b)
    assert record_a == record_b
    for name in scores_a | scores_b:
        np.testing.assert_array_equal(scores_a[name], scores_b[name])


@pytest.mark.parametrize("options", [[], ["--subset", "70"]])
def test_an_evaluation_that_is_killed_at_every_change_of_a_file_goes_on_with_its_finished_blocks(
    options: list[str], zygote: Zygote, whole: Reference
) -> None:
    """180 training data are 6 blocks; a subset of 70 are 3 more."""
    run, words = whole.path, ["evaluate", whole.path, *EVALUATE, *options]
    done = zygote.run(*words, before=COUNT_BLOCKS, after=TELL_BLOCKS)
    total = int(done.errors)
    assert total == (9 if options else 6)
    reference = evaluation(run)
    number, code = 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        number += 3
        kept = len(list((run / "evaluation.parts").glob("*.part")))
        hooks = WRITE_ALWAYS + COUNT_BLOCKS + KILL_AT.format(n=number)
        code, _, errors = zygote.run(*words, before=hooks, after=TELL_BLOCKS)
    assert code == 0, errors
    assert int(errors) == total - kept
    assert kept >= 3
    for left, right in zip(evaluation(run), reference, strict=True):
        np.testing.assert_equal(left, right)
    assert not (run / "evaluation.parts").exists()
    assert not leftovers(run)
