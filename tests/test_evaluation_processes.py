"""Several processes evaluate to exactly the numbers of one: real commands, gloo on the CPU, one thread each."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import environment

import logpx
from logpx.cli import main
from logpx.evaluation import Shards
from logpx.evidence import Block, Estimator, Evidence
from logpx.files import read_json
from logpx.run import Run

QUICK: dict[str, Any] = {"estimator": "importance", "num_samples": 40}
WORDS = ["--estimator", "importance", "--num-samples", "40"]
# The test data of digits are 300, in blocks of 32.
WAYS: dict[str, dict[str, Any]] = {
    "five blocks": {**QUICK, "limit": 130},
    "more processes than blocks": {**QUICK, "limit": 20},
    "a subset, with the ELBO of all": {**QUICK, "subset": 70},
    "auto": {"estimator": "auto", "num_samples": 256, "limit": 70},
    "annealed": {"estimator": "annealed", "num_samples": 4, "num_temperatures": 5, "limit": 40},
}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run(*line: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*map(str, line)], env=environment(), cwd=cwd, capture_output=True, text=True, timeout=240, check=False
    )


def kept(path: Path) -> tuple[dict[str, Any], str, dict[str, np.ndarray]]:
    """Returns the provenance of an evaluation, all else that its record says, and the numbers per datum."""
    record = read_json(path / "evaluation.json")
    provenance = record.pop("provenance")
    with np.load(path / "evaluation.npz") as arrays:
        return provenance, json.dumps(record), dict(arrays)


def assert_same_numbers(several: Path, one: Path) -> None:
    (provenance, record, scores), (provenance_of_one, record_of_one, scores_of_one) = kept(several), kept(one)
    assert (provenance["processes"], provenance_of_one["processes"]) == (2, 1)
    assert record == record_of_one
    assert_same_arrays(scores, scores_of_one)


def assert_same_arrays(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name, values in a.items():
        np.testing.assert_array_equal(values, b[name], err_msg=name)


class Counting:
    """Counts the blocks that are estimated, and interrupts at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop: int = 0) -> None:
        self.calls, call = 0, Estimator.__call__

        def counted(estimator: Estimator, block: Block) -> Evidence:
            self.calls += 1
            if self.calls == stop:
                raise KeyboardInterrupt
            return call(estimator, block)

        monkeypatch.setattr(Estimator, "__call__", counted)


OWN = """
import sys
sys.path.insert(0, {tests!r})
from helpers import Toy as load
"""

# A script of one's own, which each of two processes runs: it evaluates copies of a run in several ways, says how many
# blocks each of them took, and each keeps what it got; then it gives commands.
SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from logpx.cli import main
from logpx.evidence import Estimator
from logpx import processes
from logpx.run import Run

count, call = 0, Estimator.__call__
def counted(estimator, block):
    global count
    count += 1
    return call(estimator, block)
Estimator.__call__ = counted

folder, counts = Path(sys.argv[1]), {}
for name, options in json.loads(sys.argv[2]).items():
    count = 0
    evaluation = Run.open(folder / name).evaluate(**options)
    counts[name] = count
name = "first" if processes.is_first_process() else "second"
(folder / f"{name}.json").write_text(json.dumps(counts))
np.savez(folder / f"{name}.npz", **evaluation.scores())
# to leave is for the last command alone
processes.leave = lambda code: None
sys.exit(max(main(words) for words in json.loads(sys.argv[3])))
"""


def test_two_processes_give_exactly_the_numbers_of_one_and_go_on_for_it_also_with_ones_own_model(
    fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for name in [*WAYS, "begun by one", "command"]:
        for folder in (one, two):
            shutil.copytree(fitted, folder / name)
    for name, options in WAYS.items():
        Run.open(one / name).evaluate(**options)
    Run.open(one / "begun by one").evaluate(**QUICK)
    with monkeypatch.context() as patch:
        Counting(patch, stop=5)
        with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
            Run.open(two / "begun by one").evaluate(**QUICK)

    (tmp_path / "own.py").write_text(OWN.format(tests=str(Path(__file__).parent)))
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    own = ["evaluate", "--model", "own:load", "--data", "x.npy", "--split", "train", *WORDS]
    lines = [
        [[*own, "--output", f"{name}.json"], ["evaluate", f"{name}/command", *WORDS, "--scores", f"{name}.csv"]]
        for name in ("one", "two")
    ]
    assert [main(words) for words in lines[0]] == [0, 0]
    said = capsys.readouterr().out.replace("one.", "two.").replace("one/", "two/")

    (tmp_path / "script.py").write_text(SCRIPT)
    ways = {**WAYS, "begun by one": QUICK}
    done = run(*TORCHRUN, "script.py", two, json.dumps(ways), json.dumps(lines[1]), cwd=tmp_path)
    assert (done.returncode, without_time(done.stdout)) == (0, without_time(said)), done.stderr
    for name in [*ways, "command"]:
        assert_same_numbers(two / name, one / name)
        assert {path.name for path in (two / name).iterdir()} == {path.name for path in (one / name).iterdir()}
    first, second = (read_json(two / f"{which}.json") for which in ("first", "second"))
    # of 10 blocks 4 were finished; those of the pass over all data come before those of the subset
    assert first == {**dict(zip(WAYS, (3, 1, 5 + 2, 2, 1), strict=True)), "begun by one": 3}
    assert second == {**dict(zip(WAYS, (2, 0, 5 + 1, 1, 1), strict=True)), "begun by one": 3}
    with np.load(two / "first.npz") as a, np.load(two / "second.npz") as b:
        assert_same_arrays(dict(a), dict(b))
    record, record_of_one = (read_json(tmp_path / f"{name}.json") for name in ("two", "one"))
    assert (record.pop("provenance")["processes"], record_of_one.pop("provenance")["processes"]) == (2, 1)
    assert json.dumps(record) == json.dumps(record_of_one)
    assert (tmp_path / "two.csv").read_text() == (tmp_path / "one.csv").read_text()


def without_time(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("time ")]


# The real command, in which something happens to the second process at its third block, while the first is at its
# fourth; each block is written at once.
STRUCK = """
import os, signal, sys, time
from pathlib import Path
import logpx.cli
from logpx import processes
from logpx.evaluation import shards
from logpx.evidence import Estimator

shards.WRITE_EVERY, processes.PATIENCE = -1.0, 0.5
count, call = 0, Estimator.__call__
def struck(estimator, block):
    global count
    count += 1
    if count == 3 and not processes.is_first_process():
        Path("happens").touch()
        {happens}
    if count == 4 and processes.is_first_process():
        while not Path("happens").exists():
            time.sleep(0.01)
        time.sleep(0.3)
    return call(estimator, block)
Estimator.__call__ = struck

if __name__ == "__main__":
    sys.exit(logpx.cli.main())
"""


@pytest.mark.parametrize(
    "happens, says",
    [
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "logpx: Another process of this computation has ended without a word, perhaps for want of memory: see what "
            "its machine says of it, and go on from what is saved (a fit by logpx fit --resume RUN, an evaluation by "
            "the same command).\n",
        ),
        ("raise ValueError('Bad luck: try again.')", "logpx: Bad luck: try again.\n"),
    ],
)
def test_what_ends_one_process_ends_all_with_one_message_and_one_process_goes_on(
    happens: str, says: str, run_copy: Path, fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "script.py").write_text(STRUCK.format(happens=happens))
    line: list[str | Path] = [sys.executable, tmp_path / "script.py", "evaluate", run_copy, *WORDS, "--devices", "2"]
    done = run(*line, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", says)
    finished = Shards(run_copy / "evaluation.parts", "").read("data")
    # an error waits for the first process, a kill is seen between its blocks
    assert set(finished) == {0, 1, 2, 3, 4, 6, *([] if "SIGKILL" in happens else [8])}
    counting = Counting(monkeypatch)
    logpx.Run.open(run_copy).evaluate(**QUICK)
    assert counting.calls == 10 - len(finished)
    alone = Path(shutil.copytree(fitted, tmp_path / "alone"))
    Run.open(alone).evaluate(**QUICK)
    assert kept(run_copy)[1] == kept(alone)[1]
    assert_same_arrays(kept(run_copy)[2], kept(alone)[2])
    assert not (run_copy / "evaluation.parts").exists()
