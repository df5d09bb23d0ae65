"""Work survives: processes that are killed at any moment, full disks, short memory, and two processes on one run.

The commands are real ones, run by a process that forks with torch imported, because to start Python with torch takes
seconds; one of each kind starts anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers import assert_same_result, command, contents, environment, metrics

import logpx
from logpx import LogpxError, checkpoint, cli
from logpx.checkpoint import State
from logpx.files import LEFTOVER, machine, read_json, remove_leftovers, write_text
from logpx.lock import HOLDER, LOCK, held
from logpx.train import loop

LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs the processor time of other processes")
PATIENCE = 300.0  # seconds until a process that should have ended is given up
FIT = [
    *("--hidden", "8", "--latent-dim", "2", "--epochs", "2", "--batch-size", "16", "--encoder-dropout", "0.1"),
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
        # between its end and the answer it may be gone
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
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
    """At 20 random moments, counted in processor time; a fit that ended before its moment is only compared."""
    moments, num_killed, seconds = random.Random(0), 0, whole.seconds
    for number in range(60):
        run = tmp_path / str(number)
        # every second one is saved on the way through its epochs
        often = "import logpx.train.loop as loop; loop.SAVE_EVERY = 0.02" if number % 2 else ""
        moment = moments.random() * seconds
        killed = zygote.killed_after(moment, "fit", data, *FIT, "--out", run, before=often)
        assert killed.code in (0, -signal.SIGKILL), killed.errors
        if killed.code == 0:
            seconds = moment
        else:
            num_killed += 1
            done = zygote.run(*go_on(run, data))
            assert done.code == 0, done.errors
        assert_same_result(run, whole.path)
        assert names(run) == names(whole.path)
        if num_killed == 20:
            break
    assert num_killed == 20


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
        kept = len(list((run / "evaluation.parts").glob("[!.]*.part")))
        hooks = WRITE_ALWAYS + COUNT_BLOCKS + KILL_AT.format(n=number)
        code, _, errors = zygote.run(*words, before=hooks, after=TELL_BLOCKS)
    assert code == 0, errors
    assert int(errors) == total - kept
    assert kept >= 3
    for left, right in zip(evaluation(run), reference, strict=True):
        np.testing.assert_equal(left, right)
    assert not (run / "evaluation.parts").exists()
    assert not leftovers(run)


@LINUX
def test_an_evaluation_that_is_killed_at_any_moment_goes_on_to_the_same_record(
    zygote: Zygote, whole: Reference
) -> None:
    """Each of 20 processes that are killed goes on with what those before left."""
    run, words = whole.path, ["evaluate", whole.path, *EVALUATE]
    done = zygote.run(*words, after=TELL_SECONDS)
    seconds, reference, moments, num_killed = float(done.errors), evaluation(run), random.Random(0), 0
    while num_killed < 20:
        done = zygote.killed_after(moments.random() * seconds, *words, before=WRITE_ALWAYS)
        assert done.code in (0, -signal.SIGKILL), done.errors
        num_killed += done.code != 0
        if (run / "evaluation.json").exists():
            np.testing.assert_equal(evaluation(run), reference)
    assert zygote.run(*words).code == 0
    np.testing.assert_equal(evaluation(run), reference)
    assert not (run / "evaluation.parts").exists()


def test_scores_and_record_are_of_one_evaluation_whenever_it_is_killed(zygote: Zygote, whole: Reference) -> None:
    """An earlier evaluation with another seed is there while the next one takes its place."""
    run = whole.path
    found = set()
    for number in range(1, 30):
        assert zygote.run("evaluate", run, *EVALUATE, "--seed", "1").code == 0
        code = zygote.run("evaluate", run, *EVALUATE, "--seed", "2", before=KILL_AT.format(n=number)).code
        record = read_json(run / "evaluation.json") if (run / "evaluation.json").exists() else None
        found.add((code, None if record is None else record["seed"]))
        if record is not None:
            with np.load(run / "evaluation.npz") as scores:
                assert scores["log_evidence"].mean() == pytest.approx(record["log_evidence"]["mean"], abs=1e-12)
        if code == 0:
            break
    assert found == {(-signal.SIGKILL, 1), (-signal.SIGKILL, None), (-signal.SIGKILL, 2), (0, 2)}


UNPAINTED = "import logpx.page.run as page; page.png = lambda figure: b''\n"


@LINUX
def test_a_report_that_is_killed_is_whole_or_absent_and_the_next_one_works(zygote: Zygote, whole: Reference) -> None:
    run = whole.path
    assert zygote.run("evaluate", run, *EVALUATE).code == 0
    done = zygote.run("report", run, before=UNPAINTED, after=TELL_SECONDS)
    seconds, reference, moments = float(done.errors), (run / "report.html").read_bytes(), random.Random(0)
    num_killed = 0
    while num_killed < 20:
        (run / "report.html").unlink(missing_ok=True)
        killed = zygote.killed_after(moments.random() * seconds, "report", run, before=UNPAINTED)
        assert killed.code in (0, -signal.SIGKILL), killed.errors
        num_killed += killed.code != 0
        assert not (run / "report.html").exists() or (run / "report.html").read_bytes() == reference
    (run / "report.html").unlink(missing_ok=True)
    code, number = -signal.SIGKILL, 0
    while code == -signal.SIGKILL:
        number += 5
        assert not (run / "report.html").exists()
        code = zygote.run("report", run, before=UNPAINTED + KILL_AT.format(n=number)).code
        assert len(leftovers(run)) <= 1
    assert (code, (run / "report.html").read_bytes(), leftovers(run)) == (0, reference, [])


def test_two_processes_on_one_run_the_second_is_told_who_holds_it(
    zygote: Zygote, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    process = zygote.start("fit", data, *FIT, "--epochs", "1000000", "--out", run)
    wait_for(lambda: (run / "training.pt").exists())
    assert cli.main(["fit", str(data), *FIT, "--out", str(run), "--overwrite"]) == 1
    told, command_line = capsys.readouterr(), " ".join(["logpx", "fit", str(data), *FIT, "--epochs", "1000000"])
    assert told.out == ""
    assert told.err.startswith(f"logpx: {run} is held by process {process} on ")
    assert f" ({command_line} --out {run}) since 20" in told.err
    assert told.err.endswith(": wait until it ends, or stop it, and then give the command again.\n")
    before = (run / "run.json").read_bytes()
    held_run = logpx.Run.open(run)
    for use in (lambda: logpx.resume(run), held_run.evaluate, held_run.sandwich):
        with pytest.raises(LogpxError, match=f"is held by process {process}"):
            use()
    # a reader needs nobody's leave
    logpx.load(run, weights="last")
    assert (run / "run.json").read_bytes() == before
    os.kill(process, signal.SIGKILL)
    assert zygote.wait().code == -signal.SIGKILL
    logpx.Run.open(run).evaluate(**QUICK)
    assert (run / ".lock").exists() and not (run / ".holder.json").exists()


QUICK: dict[str, Any] = {"estimator": "importance", "num_samples": 40}


def wait_for(condition: Callable[[], bool]) -> None:
    stop = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < stop
        time.sleep(0.01)


def test_a_folder_that_is_no_run_gets_no_lock(data: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(LogpxError, match="is no run folder"):
        logpx.fit(data, out=tmp_path)
    assert names(tmp_path) == {"notes.txt"}


def test_a_lock_of_two_in_one_process_is_refused_and_let_go_by_an_error(tmp_path: Path) -> None:
    with held(tmp_path):
        with pytest.raises(LogpxError, match=f"is held by process {os.getpid()} on"), held(tmp_path):
            pytest.fail("held twice")
        (tmp_path / HOLDER).unlink()
        with pytest.raises(LogpxError, match="is held by another process: wait"), held(tmp_path):
            pytest.fail("held twice")
    with pytest.raises(ZeroDivisionError), held(tmp_path):
        raise ZeroDivisionError
    with held(tmp_path):
        pass
    assert names(tmp_path) == {LOCK}


def test_files_that_living_processes_write_are_not_leftovers(tmp_path: Path) -> None:
    here, dead = machine(), 2**22 + 1
    writers = [f"{os.getpid()}@{here}", f"1@{here}", f"{dead}@01234567", f"{dead}@{here}", f"{dead}"]
    files = [tmp_path / f".weights.{writer}.tmp.safetensors" for writer in writers]
    for path in files:
        path.touch()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == {path.name for path in files[:3]}


def test_odd_names_of_machines_and_folders_that_cannot_be_listed_stop_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "gethostname", lambda: "a/b.1@c" + 200 * "d")
    monkeypatch.setattr(os, "open", refuse)
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    (tmp_path / f".b.{2**22 + 1}@{machine()}.tmp.txt").write_text("")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == {"a.txt"}


LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"


@pytest.mark.parametrize("size", [700, 1500, 16000])
def test_a_fit_on_a_full_disk_ends_in_one_line_and_goes_on_when_there_is_space(
    size: int, zygote: Zygote, data: Path, whole: Reference, tmp_path: Path
) -> None:
    """It fails at the settings, at the weights and at the state of the fit, each larger than the one before."""
    run = tmp_path / "run"
    done = zygote.run("fit", data, *FIT, "--out", run, before=LIMITED.format(size=size))
    assert (done.code, done.output, done.errors.count("\n")) == (1, "", 1)
    assert "cannot be written because it would be larger than files may be here; " in done.errors
    assert "go on with a fit by 'logpx fit --resume' and its folder." in done.errors
    assert not leftovers(run)
    assert zygote.run(*go_on(run, data)).code == 0
    assert_same_result(run, whole.path)


def test_a_checkpoint_survives_a_disk_that_is_full_later(
    zygote: Zygote, data: Path, whole: Reference, tmp_path: Path
) -> None:
    run, prolonged = tmp_path / "run", ["fit", "--resume", tmp_path / "run", "--epochs", "5"]
    assert zygote.run("fit", data, *FIT, "--schedule", "constant", "--out", run).code == 0
    before = contents(run)
    limit = max(path.stat().st_size for path in run.glob("*.safetensors")) + 100
    done = zygote.run(*prolonged, before=LIMITED.format(size=limit))
    assert f"{run / 'training.pt'} cannot be written" in done.errors
    assert "the earlier file is intact" in done.errors
    assert contents(run)["training.pt"] == before["training.pt"]
    assert zygote.run(*prolonged).code == 0


# From its first block of data on a process gets so many bytes of memory more than it has.
SHORT = """
import resource
from logpx.evidence import Estimator
call, is_first = Estimator.__call__, True
def limited(self, block):
    global is_first
    if is_first:
        with open("/proc/self/statm") as file:
            size = int(file.read().split()[0]) * resource.getpagesize() + {more}
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        is_first = False
    return call(self, block)
Estimator.__call__ = limited
"""
WIDE = ["--hidden", "100", "--latent-dim", "2", "--epochs", "1"]


@LINUX
def test_an_evaluation_goes_on_with_less_memory_to_the_same_numbers(zygote: Zygote, tmp_path: Path) -> None:
    path, run = tmp_path / "wide.npy", tmp_path / "run"
    np.save(path, (np.random.default_rng(0).random((160, 3000)) > 0.5).astype(np.uint8))
    assert zygote.run("fit", path, *WIDE, "--out", run).code == 0
    words = ["evaluate", run, "--estimator", "importance", "--num-samples", "300"]
    assert zygote.run(*words).code == 0
    (record, scores), note = evaluation(run), "Memory ran out, so that fewer draws were decoded at once"
    assert not any(note in flag for flag in record["flags"])
    for threads in (1, 2):
        with_threads = f"import torch; torch.set_num_threads({threads})\n"
        done = zygote.run(*words, before=with_threads + SHORT.format(more=2**20))
        assert done.code == 0, done.errors
        (short, short_scores) = evaluation(run)
        assert [note in flag for flag in short["flags"]].count(True) == 1
        # in float32, log-weights of 2,000 nats are 1.2e-4 nats apart, and other chunks round them otherwise
        for name in ("log_evidence", "standard_error", "elbo", "num_samples"):
            rtol = 1e-3 if name == "standard_error" else 1e-6
            np.testing.assert_allclose(short_scores[name], scores[name], rtol=rtol)
    hopeless = zygote.run(
        "evaluate", run, "--estimator", "annealed", "--num-samples", "2000", before=SHORT.format(more=0)
    )
    assert hopeless.code == 1
    assert "There is too little memory on cpu to evaluate 16 data of shape (3000,)" in hopeless.errors
    assert "evaluate with fewer chains (--num-samples)" in hopeless.errors


def test_a_disk_that_fills_up_keeps_the_last_state(
    zygote: Zygote, data: Path, whole: Reference, tmp_path: Path
) -> None:
    """A real one of 52 kB, which a second state of 17 kB beside the first does not fit."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=52k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("a disk may not be mounted here")
    try:
        done = zygote.run("fit", data, *FIT, "--out", disk / "run")
        assert (done.code, done.errors.count("\n")) == (1, 1)
        assert "training.pt cannot be written because the disk is full; the earlier file is intact: free" in done.errors
        subprocess.run(["mount", "-o", "remount,size=400k", disk], check=True)
        assert len(metrics(disk / "run")) >= 1
        assert zygote.run("fit", "--resume", disk / "run").code == 0
        assert_same_result(disk / "run", whole.path)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_processes_that_start_anew_survive_kills_as_well(zygote: Zygote, data: Path, whole: Reference) -> None:
    run, words = whole.path, ["evaluate", str(whole.path), *EVALUATE]
    assert zygote.run(*words).code == 0
    reference = evaluation(run)
    program = f"{WRITE_ALWAYS}import logpx.cli; logpx.cli.main({words})"
    with subprocess.Popen([sys.executable, "-c", program], env=environment()) as process:
        wait_for(lambda: any((run / "evaluation.parts").glob("data-*")))
        process.kill()
    assert zygote.run(*words).code == 0
    np.testing.assert_equal(evaluation(run), reference)
    shutil.rmtree(run / "figures", ignore_errors=True)
    with subprocess.Popen(command("report", run), env=environment()) as process:
        wait_for(lambda: (run / "figures").exists())
        process.kill()
    assert zygote.run("report", run, before=UNPAINTED).code == 0
    assert (run / "report.html").read_text().rstrip().endswith("</html>")


def test_a_long_epoch_is_saved_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    def save(run: logpx.Run, state: State, *rest: Any) -> None:
        steps.append(state.step)
        checkpoint.save(run, state, *rest)

    monkeypatch.setattr(loop, "save", save)
    options = {"hidden": (8,), "epochs": 1, "batch_size": 300}
    logpx.fit("digits", out=tmp_path / "run", **options)
    assert steps == [4]
    monkeypatch.setattr(loop, "SAVE_EVERY", -1.0)
    logpx.fit("digits", out=tmp_path / "often", **options)
    assert steps == [4, 1, 2, 3, 4]
