"""Hostile files: whatever a file holds, it is read, or refused in one line that names it, in little memory.

The files are random bytes, and valid files that were cut, spliced, overwritten and given lying numbers, also within
their compression. The suite tries the same few of each kind every time; `make fuzz` sets LOGPX_FUZZ_SECONDS, and then
every kind gets its share of so many seconds, from a random seed that is printed.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gzip
import io
import json
import os
import random
import resource
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

import logpx
from logpx.checkpoint import WeightAverage, restore
from logpx.comparison import compare, matched, rows
from logpx.data import load_data
from logpx.data.amat import read_amat
from logpx.data.cifar import read_cifar
from logpx.data.idx import read_idx
from logpx.data.mat import read_mat
from logpx.project import read_project
from logpx.run import Run
from logpx.settings import Settings
from logpx.utils import LogpxError

SECONDS = float(os.environ.get("LOGPX_FUZZ_SECONDS", "0"))
SEED = random.SystemRandom().randrange(2**32) if SECONDS else 0
# What a reader may fill beside what the process has filled before: far more than the files, far less than what a header
# may promise; and what it may ask for, so that a reader that fails does not take the machine with it.
FILLED, ASKED = 2**28, 2**31

Content = st.SearchStrategy[bytes]
NUMBERS = (0, 1, 2**7, 2**8, 2**31 - 1, 2**31, 2**32 - 1, 2**63)
WORDS = (
    *(b"-1", b"1e999", b"NaN", b"Infinity", b"99999999999999999999", b"1" * 5000, b"null", b"''", b'""', b"[]", b"{}"),
    *(b"\0", b"\n", b",", b";", b'"', b":", b"\xef\xbb\xbf", b"\xff\xfe", b"\xe9", b"[" * 3000, b"{a: " * 3000),
    *(b"&a [*a]", b"*a", b"&a ", b"<<: *a", b"!!python/object/apply:os.getcwd []", b"!!timestamp x", b"!!bool x"),
    *(b"!!int ''", b"? [1]\n: 2", b"2001-99-99", b"- ", b"  ", b"(", b")", b"1_0", b"0x", b"1:99", b".inf", b"~"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 10**9, 10**30, 10**400, 0.5, -1e308, float("nan"), float("inf"), "", "a", "NaN", "1"),
    *([], [1], [0, 0], [10**9, 10**9], [-1, 8, 8], ["a"], [[1]], [None], {}, {"a": 1}, {"mean": "a"}, "test", "binary"),
)


@st.composite
def spoiled(draw: st.DrawFn, valid: tuple[bytes, ...]) -> bytes:
    """Valid files after up to three accidents."""
    content = draw(st.sampled_from(valid))
    for _ in range(draw(st.integers(1, 3))):
        start, stop = sorted(draw(st.integers(0, len(content))) for _ in range(2))
        number = draw(st.sampled_from(NUMBERS)).to_bytes(8, draw(st.sampled_from(["little", "big"])))
        other = draw(st.sampled_from(valid))
        content = draw(
            st.sampled_from(
                [
                    content[:start],
                    content[:start] + bytes([draw(st.integers(0, 255))]) + content[start + 1 :],
                    content[:start] + content[stop:],
                    content[:stop] + content[start:],
                    content[:start] + other[stop:],
                    content[:start] + number + content[start + 8 :],
                    content[:start] + number[-4:] + content[start + 4 :],
                    content[:start] + number[:4] + content[start + 4 :],
                    content[:start] + draw(st.sampled_from(WORDS)) + content[draw(st.sampled_from([start, stop])) :],
                    content.decode("latin-1").encode("utf-16"),
                ]
            )
        )
    return content


def files(*valid: bytes, within: Callable[[bytes], bytes] | None = None) -> Content:
    """Random bytes and spoiled files; the latter also within a container that is whole."""
    some = st.binary(max_size=200) | spoiled(valid)
    return some if within is None else some | spoiled(valid).map(within)


@st.composite
def nested(draw: st.DrawFn, valid: Any) -> Any:
    """Nested mappings and lists after up to three changes of values that somewhere stand in them."""
    changed = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        place, keys = changed, list(_keys(changed))
        while keys:
            key = draw(st.sampled_from(keys))
            keys = list(_keys(place[key]))
            if not keys or draw(st.booleans()):
                break
            place = place[key]
        else:
            return copy.deepcopy(draw(st.sampled_from(VALUES)))
        if draw(st.integers(0, 4)):
            place[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
        else:
            del place[key]
    return changed


def _keys(value: Any) -> list[Any]:
    return list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def as_yaml(value: Any) -> bytes:
    return yaml.safe_dump(value, sort_keys=False).encode()


def bytes_of(write: Callable[[io.BytesIO], object]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    return bytes_of(lambda stream: np.save(stream, array))


def zipped(content: bytes, name: str = "x.npy") -> bytes:
    def write(stream: io.BytesIO) -> None:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, content)

    return bytes_of(write)


def rezipped(archive: bytes, member: str, content: bytes) -> bytes:
    """An archive in which the content of one member is another."""

    def write(stream: io.BytesIO) -> None:
        with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(stream, "w") as new:
            for info in old.infolist():
                new.writestr(info.filename, content if info.filename.endswith(member) else old.read(info))

    return bytes_of(write)


def tar(form: int) -> bytes:
    def write(stream: io.BytesIO) -> None:
        with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
            for name in ("f/a", "f/" + 120 * "x", "f/b"):
                info = tarfile.TarInfo(name)
                info.size = 8
                archive.addfile(info, io.BytesIO(bytes(8)))

    return bytes_of(write)


def compressed_element(content: bytes) -> bytes:
    """A MATLAB file whose only array, after the header of 128 bytes, is compressed."""
    inner = zlib.compress(content[128:])
    return content[:128] + (15).to_bytes(4, "little") + len(inner).to_bytes(4, "little") + inner


PIXELS = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
IDX = bytes.fromhex("00000803 00000004 00000003 00000002") + PIXELS.tobytes()
AMAT = b"0 1 1\n1 0 0 \r\n0 0 1\n1 1 1\n"
ARRAYS = [np.arange(20.0).reshape(5, 4), np.zeros((4, 2, 2, 3), np.uint8), np.ones((4, 3), bool)]
MAT = bytes_of(lambda stream: savemat(stream, {"X": np.zeros((3, 3, 3, 2), np.uint8), "y": np.ones((2, 1))}))
PROJECT = b"""name: house
unit: days
deadline: 30
tasks:
- {id: a, duration: 4, name: dig}
- {id: b, duration: "triangular(2, 3, 7)", predecessors: [a]}
- {id: c, duration: "lognormal(mean=4, sd=2)", predecessors: "a, b"}
"""
TABLE = b'id,name,predecessors,duration\n1,dig,,4\n2,"lay, flat",1,"pert(2, 3, 7)"\n3,,"1;2",exponential(4)\n'


BLACK = Image.fromarray(np.zeros((5, 4, 3), np.uint8))
PICTURES = [bytes_of(lambda stream, form=form: BLACK.save(stream, form)) for form in ("png", "jpeg", "webp")]


@dataclasses.dataclass(frozen=True)
class Reader:
    """A name for the file, what it may hold, and who reads it."""

    name: str
    contents: Content
    read: Callable[[Path], object]

    def refuses(self, path: Path) -> Path:
        """What its errors name: the file, or the folder that is read as a whole."""
        return path.parent if self.read is read_folder else path


def read_folder(path: Path) -> object:
    for name in ("b.png", "c.png", "d.png"):
        (path.parent / name).write_bytes(PICTURES[0])
    return load_data(path.parent)


READERS = {
    "idx": Reader("a.idx", files(IDX, within=gzip.compress), lambda path: read_idx(path, (4, 3, 2))),
    "amat": Reader("a.amat", files(AMAT, within=gzip.compress), lambda path: read_amat(path, (4, 3))),
    "npy": Reader("a.npy", files(*map(npy, ARRAYS)), load_data),
    "npz": Reader("a.npz", files(*map(npy, ARRAYS), within=zipped) | files(zipped(npy(ARRAYS[0]))), load_data),
    "mat": Reader("a.mat", files(MAT, within=compressed_element), lambda path: read_mat(path, (2, 3, 3, 3))),
    "cifar": Reader(
        "a.tar",
        files(tar(tarfile.PAX_FORMAT), tar(tarfile.GNU_FORMAT), within=gzip.compress),
        lambda path: read_cifar(path, ("f/a", "f/b"), (4, 3, 1, 1)),
    ),
    "image": Reader("a.png", files(*PICTURES), read_folder),
    "settings": Reader(
        "a.yaml",
        files(Settings().to_yaml().encode()) | nested(Settings().to_dict()).map(as_yaml),
        Settings.from_file,
    ),
    "project.yaml": Reader("a.yaml", files(PROJECT), read_project),
    "project.csv": Reader("a.csv", files(TABLE), read_project),
}


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Checks that the block fills little memory, and lets it ask for not much more."""
    asked, before = resource.getrlimit(resource.RLIMIT_AS), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ASKED, asked[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, asked)
        filled = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        assert filled < FILLED, f"{filled / 2**20:.0f} MiB were filled"


def check(read: Callable[[], object], named: Path) -> None:
    """Reads, and where that is refused, checks how."""
    refusal = None
    try:
        with little_memory():
            read()
    except (LogpxError, ValueError) as error:
        if type(error) not in (LogpxError, ValueError):
            raise
        refusal = str(error)
    if refusal is not None:
        assert str(named) in refusal, "the file is named"
        assert "\n" not in refusal
        assert len(refusal) < 3000


def fuzz(contents: Content, num_examples: int, num_kinds: int, holds: Callable[[bytes], None]) -> None:
    """Tries the same examples every time, or others for a share of the seconds."""
    options: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
    if not SECONDS:
        hypothesis.settings(max_examples=num_examples, derandomize=True, **options)(given(contents)(holds))()
        return
    end, seed = time.monotonic() + SECONDS / num_kinds, SEED
    while time.monotonic() < end:
        print(f"seed {seed}")
        attempt = given(contents)(lambda content: holds(content))
        hypothesis.seed(seed)(hypothesis.settings(max_examples=num_examples, **options)(attempt))()
        seed += 1


# warnings of NumPy and Pillow about odd files are for people to see
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", READERS)
def test_a_hostile_file_is_read_or_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    reader = READERS[kind]
    path = tmp_path / reader.name

    def holds(content: bytes) -> None:
        path.write_bytes(content)
        check(lambda: reader.read(path), reader.refuses(path))

    fuzz(reader.contents, 50, len(READERS) + len(RUN_FILES), holds)


def run_contents(name: str, fitted: Path) -> Content:
    """What a file of a run may hold."""
    valid = (fitted / name).read_bytes()
    if name.endswith(".json"):
        return files(valid) | nested(json.loads(valid)).map(as_json)
    if name.endswith(".yaml"):
        return files(valid) | nested(yaml.safe_load(valid)).map(as_yaml)
    if name.endswith((".npz", ".pt")):
        with zipfile.ZipFile(io.BytesIO(valid)) as archive:
            member = next(info for info in archive.namelist() if info.endswith(("log_evidence.npy", "data.pkl")))
            inner = archive.read(member)
        return files(valid) | files(inner, within=lambda content: rezipped(valid, member, content))
    return files(valid)


RUN_FILES = (
    *("run.json", "config.yaml", "metrics.csv", "best.safetensors", "training.pt"),
    *("evaluation.json", "evaluation.npz", "sandwich.json"),
)


def uses(folder: Path, data: Any) -> Iterator[Callable[[], object]]:
    """Everything that reads a run, what the file does not concern left out by none."""
    run = Run.open(folder, data=data)
    yield lambda: (run.config, run.is_em, run.is_relaxed)
    yield lambda: (run.metrics(), run.events())
    yield lambda: run.load_model()
    yield lambda: resumed(run)
    yield lambda: compared(run)
    yield lambda: run.load_split("test")
    yield lambda: logpx.report(run)


def resumed(run: Run) -> None:
    model = run.build_model()
    assert isinstance(model, torch.nn.Module)
    restore(run, model, torch.optim.Adam(model.parameters()), WeightAverage(model, 0.0))


def compared(run: Run) -> None:
    a, b = matched(run.evaluated(), run.evaluated())
    rows(a, b, compare(a, b))


@pytest.fixture(scope="module")
def bounded(fitted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(shutil.copytree(fitted, tmp_path_factory.mktemp("runs") / "bounded"))
    Run.open(folder).sandwich(num_data=2, num_chains=2, num_temperatures=(2, 3))
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize("name", RUN_FILES)
def test_a_hostile_file_in_a_run_is_read_or_refused_in_one_line(bounded: Path, tmp_path: Path, name: str) -> None:
    folder, data = Path(shutil.copytree(bounded, tmp_path / "run")), load_data("digits")

    def holds(content: bytes) -> None:
        (folder / name).write_bytes(content)
        opened: list[Callable[[], object]] = []
        check(lambda: opened.extend(uses(folder, data)), folder)
        for use in opened:
            check(use, folder)

    fuzz(run_contents(name, bounded), 4, len(READERS) + len(RUN_FILES), holds)
