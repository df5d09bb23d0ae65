"""Data that stay on disk: the same numbers as in memory, without the memory."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, assert_same_result, run_command
from numpy.typing import NDArray
from torch import Tensor

import logpx
from logpx.data import Batch, DataSet, Split, load_data, rows, stored
from logpx.data.rows import Rows
from logpx.utils import LogpxError

FEW: dict[str, Any] = {**TINY, "epochs": 1, "batch_size": 10, "validate_on": "none"}
GREYS = np.random.default_rng(0).integers(0, 256, (60, 6, 5), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (40, 4, 6, 3), dtype=np.uint8)
needs_preadv = pytest.mark.skipif(not hasattr(os, "preadv"), reason="without preadv all arrays are read into memory")
pytestmark = needs_preadv


@pytest.fixture
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "MAPPED_FROM", 0)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of files that were read."""
    found: list[int] = []
    read = stored._FileRows.read

    def noted(self: Any, index: NDArray[np.int64]) -> NDArray[Any]:
        found.extend(index.tolist())
        return read(self, index)

    monkeypatch.setattr(stored._FileRows, "read", noted)
    return found


def saved(path: Path, array: NDArray[Any]) -> Path:
    np.save(path, array)
    return path


def both(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[DataSet, DataSet]:
    """Returns the same data in memory and on disk."""
    in_memory = load_data(path)
    monkeypatch.setattr(stored, "MAPPED_FROM", 0)
    return in_memory, load_data(path)


def everything(split: Split) -> Tensor:
    return split.batch(torch.arange(len(split))).x


# A fit on few data goes first, so that what it imports and keeps does not count; writing 5 forgets the peak so far.
FIT_AND_MEASURE = """
import sys
from pathlib import Path
from logpx.cli import main

def mebibytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024

few, many, out, *words = sys.argv[1:]
assert main(["fit", few, "--out", out + "/few", *words]) == 0
Path("/proc/self/clear_refs").write_text("5")
before = mebibytes("VmRSS")
assert main(["fit", many, "--out", out + "/many", *words]) == 0
print(mebibytes("VmHWM") - before, file=sys.stderr)
"""
SMALL = ["--epochs", "1", "--hidden", "4", "--latent-dim", "2", "--batch-size", "100", "--binarization", "threshold"]


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
def test_a_fit_takes_less_memory_than_an_eighth_of_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the real command, with an allocator that gives back at once what is freed."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    some = np.random.default_rng(0).integers(0, 256, (1500, 3, 32, 32), dtype=np.uint8)
    few, many = saved(tmp_path / "few.npy", some), tmp_path / "many.npy"
    large = np.lib.format.open_memmap(many, "w+", np.uint8, (90_000, *some.shape[1:]))
    for start in range(0, len(large), len(some)):
        large[start : start + len(some)] = some
    large.flush()
    assert large.nbytes >= stored.MAPPED_FROM
    done = run_command(few, many, tmp_path, *SMALL, python=FIT_AND_MEASURE)
    many.unlink()
    assert done.returncode == 0, done.stderr
    assert float(done.stderr.split()[-1]) < large.nbytes / 8 / 2**20


REAL = np.random.default_rng(2).normal(size=(60, 7))


@pytest.mark.parametrize(
    "array, options",
    [
        (GREYS, {"flip": True, "binarization": "threshold"}),
        (COLOURS, {"likelihood": "categorical"}),
        (REAL, {}),
        (GREYS > 128, {}),
    ],
    ids=["thresholded and flipped", "colours, channels last", "float64", "bool"],
)
def test_fits_and_evaluations_of_data_on_disk_and_in_memory_are_bit_identical(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, array: NDArray[Any], options: dict[str, Any]
) -> None:
    path, results = saved(tmp_path / "own.npy", array), []
    for name, mapped_from in (("memory", 1 << 28), ("disk", 0)):
        monkeypatch.setattr(stored, "MAPPED_FROM", mapped_from)
        run = logpx.fit(path, out=tmp_path / name, **{**TINY, "epochs": 2, "batch_size": 16, **options})
        assert isinstance(run.load_split("train").values, Rows if name == "disk" else Tensor)
        results.append(run.evaluate(estimator="importance", num_samples=20))
    assert_same_result(tmp_path / "memory", tmp_path / "disk")
    assert torch.equal(results[0].evidence.log_evidence, results[1].evidence.log_evidence)
    assert results[0].record["data"] == results[1].record["data"]


def test_parts_hashes_and_batches_are_those_of_data_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = both(saved(tmp_path / "own.npy", COLOURS), monkeypatch)
    assert (a.kind, a.levels, a.event_shape, a.hash) == (b.kind, b.levels, b.event_shape, b.hash)
    for part in a.parts:
        assert torch.equal(a.rows[part], b.rows[part])
        x, y = (data.split(part, flip=True).epoch(3) for data in (a, b))
        index = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        for size in (3, 100):
            pairs = zip(x.batches(size, order=index), y.batches(size, order=index), strict=True)
            assert all(torch.equal(p.x, q.x) and torch.equal(p.index, q.index) for p, q in pairs)
        assert torch.equal(everything(x.take(2)), everything(y.take(2)))


def test_only_the_rows_of_the_share_of_a_process_are_read(
    tmp_path: Path, nothing_is_small: None, asked: list[int]
) -> None:
    data = load_data(saved(tmp_path / "own.npy", GREYS))
    split = data.split("train")
    asked.clear()
    split, order = split.to("cpu").epoch(1).take(40), torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert not asked
    share = torch.cat([batch[1::2] for batch in order.split(8)])
    assert sum(len(batch.x) for batch in split.batches(4, order=share)) == 20
    assert asked == data.rows["train"][share].tolist()


def test_batches_are_announced_before_they_are_read(
    tmp_path: Path, nothing_is_small: None, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    announced: list[int] = []
    monkeypatch.setattr(stored._FileRows, "announce", lambda self, index: announced.extend(index.tolist()))
    data = load_data(saved(tmp_path / "own.npy", GREYS))
    split = data.split("train", "dynamic").epoch(1)
    batches, order = split.batches(4, order=torch.arange(10)), data.rows["train"].tolist()[:10]
    for start in (0, 4, 8):
        asked.clear(), announced.clear()
        next(batches)
        assert (asked, announced) == (order[start : start + 4], order[start + 4 : start + 8])


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_fit_announces_the_parts_of_the_next_batch_as_it_will_read_them(
    tmp_path: Path, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, announced, batch = list[list[int]](), list[list[int]](), Split.batch
    monkeypatch.setattr(Split, "announce", lambda self, index: announced.append(index.tolist()))

    def noted(self: Split, index: Tensor, device: torch.device | str = "cpu") -> Batch:
        read.append(index.tolist())
        return batch(self, index, device)

    monkeypatch.setattr(Split, "batch", noted)
    path = saved(tmp_path / "own.npy", GREYS)
    logpx.fit(path, out=tmp_path / "run", accumulate=accumulate, **FEW)
    assert len(announced) > 1
    assert announced == read[-len(announced) :]


def test_announced_rows_are_read_ahead_by_another_thread_and_others_when_they_are_asked_for() -> None:
    readers: list[str] = []

    def read(index: NDArray[np.int64]) -> NDArray[Any]:
        readers.append(threading.current_thread().name)
        return GREYS[index]

    ahead = stored.read_ahead(stored.Stored(GREYS.shape, GREYS.dtype, read))
    ours, batches = threading.current_thread().name, np.random.default_rng(0).permutation(60).reshape(10, 6)
    for batch, later in itertools.pairwise(batches):
        ahead.announce(later)
        assert np.array_equal(ahead.read(batch), GREYS[batch])
    assert np.array_equal(ahead.read(batches[-1]), GREYS[batches[-1]])
    assert [name == ours for name in sorted(readers, key=ours.__ne__)] == [True] + 9 * [False]


@pytest.mark.parametrize("num_parts", [1, 4, 20])
def test_parts_of_the_next_batch_do_not_drive_out_those_of_this_one(num_parts: int) -> None:
    """As a step does it that computes its batch in parts: it announces the next one before it reads its own."""
    readers: list[str] = []

    def read(index: NDArray[np.int64]) -> NDArray[Any]:
        readers.append(threading.current_thread().name)
        return GREYS[index]

    ahead = stored.read_ahead(stored.Stored(GREYS.shape, GREYS.dtype, read))
    batches = np.array_split(np.arange(60), 3)
    for batch, later in itertools.pairwise([*batches, batches[0]]):
        for part in np.array_split(later, num_parts):
            ahead.announce(part)
        for part in np.array_split(batch, num_parts):
            ahead.read(part)
    assert readers.count(threading.current_thread().name) == len(np.array_split(batches[0], num_parts))


def test_of_announced_rows_that_nobody_asks_for_few_are_kept() -> None:
    ahead = stored.read_ahead(stored.in_memory(GREYS))
    for row in range(2 * stored._MOST_AHEAD):
        ahead.announce(np.array([row % 60, row // 60]))
    assert len(ahead.announce.__self__.waiting) == stored._MOST_AHEAD
    assert np.array_equal(ahead.read(np.arange(3)), GREYS[:3])


def test_an_error_of_rows_that_are_read_ahead_is_that_of_who_asks_for_them() -> None:
    ahead = stored.read_ahead(stored.in_memory(GREYS))
    ahead.announce(np.array([60]))
    assert np.array_equal(ahead.read(np.array([1])), GREYS[[1]])
    with pytest.raises(IndexError, match="index 60 is out of bounds"):
        ahead.read(np.array([60]))


def test_draws_of_an_epoch_depend_on_the_datum_alone(tmp_path: Path, nothing_is_small: None) -> None:
    split = load_data(saved(tmp_path / "own.npy", GREYS)).split("train", "dynamic", seed=5)
    first, second = everything(split.epoch(1)), everything(split.epoch(2))
    assert not torch.equal(first, second)
    for batch in split.epoch(1).take(30).batches(7, order=torch.arange(30).flip(0)):
        assert torch.equal(batch.x, first[batch.index])
    again = load_data(tmp_path / "own.npy").split("train", "dynamic", seed=5)
    assert torch.equal(everything(again.epoch(1)), first)
    assert not torch.equal(everything(load_data(tmp_path / "own.npy").split("train", "dynamic", 6).epoch(1)), first)


def test_draws_of_equal_data_differ(tmp_path: Path, nothing_is_small: None) -> None:
    np.save(tmp_path / "own.npy", np.full((10, 40), 128, dtype=np.uint8))
    x = everything(load_data(tmp_path / "own.npy").split("train", "dynamic"))
    # two of 8 rows of 40 fair coins agree with a chance of 3e-11
    assert len(x.unique(dim=0)) == len(x)


def test_draws_have_the_greys_as_their_mean(tmp_path: Path, nothing_is_small: None) -> None:
    data = load_data(saved(tmp_path / "own.npy", GREYS))
    split, greys = data.split("train", "dynamic"), everything(data.split("train"))
    mean = torch.stack([everything(split.epoch(epoch)) for epoch in range(200)]).mean(0)
    # each mean is within 6 standard errors: a false alarm in one of 1,440 values has a chance of 3e-6
    assert ((mean - greys).abs() <= 6 * (greys * (1 - greys) / 200).sqrt() + 1e-6).all()


def test_valid_and_static_draws_are_the_same_in_every_epoch(tmp_path: Path, nothing_is_small: None) -> None:
    data = load_data(saved(tmp_path / "own.npy", GREYS))
    for split in (data.split("valid", "dynamic"), data.split("train", "static")):
        x = everything(split)
        assert torch.equal(x, everything(split.epoch(4))) and x.unique().tolist() == [0.0, 1.0]


def test_a_folder_of_arrays_keeps_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[int]) -> None:
    saved(tmp_path / "train.npy", GREYS), saved(tmp_path / "test.npy", GREYS[:9])
    saved(tmp_path / "valid.npy", GREYS[:8])
    # train is on disk, the others in memory
    monkeypatch.setattr(stored, "MAPPED_FROM", GREYS.nbytes)
    data = load_data(tmp_path)
    assert [type(data.parts[part]) for part in ("train", "valid", "test")] == [Rows, Tensor, Tensor]
    # once for the kind, once for the hash, in the order of the file
    assert data.hash and asked == 2 * list(range(60))
    assert torch.equal(everything(data.split("train"))[:, 0], torch.from_numpy(GREYS / np.float32(255)))
    joined = load_data(tmp_path, num_valid=0)
    wanted = torch.from_numpy(np.concatenate([GREYS, GREYS[:8]]) / np.float32(255))
    order = torch.randperm(68, generator=torch.Generator().manual_seed(0))
    assert torch.equal(joined.split("train").batch(order).x[:, 0], wanted[order])
    (tmp_path / "test.npy").unlink()
    with pytest.raises(LogpxError, match="expected the keys train and test"):
        load_data(tmp_path)


BROKEN = {
    "not finite": (np.where(np.arange(420).reshape(60, 7) == 401, np.nan, REAL), r"received nan at index \(57, 2\)"),
    "too large": (np.where(np.arange(420).reshape(60, 7) == 401, 256, 5), r"with 256 at index \(57, 2\)"),
    "many levels": (np.arange(120).reshape(60, 2) % 256, "integers up to 119"),
    "five axes": (np.zeros((3, 2, 2, 2, 2)), "expected the shape"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_on_disk_is_told_as_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    array, message = BROKEN[case]
    path, errors = saved(tmp_path / "own.npy", array), []
    # small pieces, so that the place is not in the first one
    monkeypatch.setattr(stored, "_PIECE_BYTES", 16)
    monkeypatch.setattr(rows, "_PIECE_VALUES", 16)
    for mapped_from in (1 << 28, 0):
        monkeypatch.setattr(stored, "MAPPED_FROM", mapped_from)
        with pytest.raises(LogpxError, match=message) as caught:
            load_data(path)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


def test_probabilities_on_disk_are_checked_before_they_are_drawn(tmp_path: Path, nothing_is_small: None) -> None:
    data = load_data(saved(tmp_path / "own.npy", np.linspace(0, 1.5, 60, dtype=np.float32)[:, None]))
    with pytest.raises(ValueError, match=r"expected values in \[0, 1\] for binarization 'static'"):
        data.split("train", "static")


def test_a_file_shorter_than_its_header_says_is_refused(tmp_path: Path, nothing_is_small: None) -> None:
    path = saved(tmp_path / "own.npy", GREYS)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(LogpxError, match="NumPy cannot read"):
        load_data(path)


def test_a_file_that_is_cut_off_in_use_is_one_error(tmp_path: Path, nothing_is_small: None) -> None:
    path = saved(tmp_path / "own.npy", GREYS)
    split = load_data(path).split("train")
    os.truncate(path, 1000)
    with pytest.raises(LogpxError, match="cut off while it was in use"):
        list(split.batches(10))


def test_arrays_by_columns_are_read_into_memory(tmp_path: Path, nothing_is_small: None) -> None:
    data = load_data(saved(tmp_path / "own.npy", np.asfortranarray(REAL)))
    assert all(isinstance(values, Tensor) for values in data.parts.values())
