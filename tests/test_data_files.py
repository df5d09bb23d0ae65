"""The file formats: what is written is read, and what is broken is one error that names file and position."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from logpx.data import load_data
from logpx.data.amat import read_amat
from logpx.data.idx import read_idx
from logpx.utils import LogpxError


def idx_bytes(array: np.ndarray, magic: int | None = None) -> bytes:
    magic = 0x0800 + array.ndim if magic is None else magic
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


def amat_bytes(array: np.ndarray, end: str = " \n") -> bytes:
    return "".join(" ".join(map(str, row)) + end for row in array.tolist()).encode()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


bytes_arrays = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, max_side=6))


@given(array=bytes_arrays, compress=st.booleans())
def test_idx_round_trip(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, compress: bool) -> None:
    content = gzip.compress(idx_bytes(array)) if compress else idx_bytes(array)
    path = write(tmp_path_factory.mktemp("idx") / "images", content)
    assert np.array_equal(read_idx(path, array.shape).numpy(), array)


@given(
    array=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.integers(0, 1)),
    end=st.sampled_from([" \n", "\n", "\r\n"]),
    block=st.sampled_from([1, 20, 1 << 20]),
)
def test_amat_round_trip(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, end: str, block: int) -> None:
    path = write(tmp_path_factory.mktemp("amat") / "t.amat", gzip.compress(amat_bytes(array, end)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("logpx.data.amat._BLOCK", block)
        assert np.array_equal(read_amat(path, array.shape).numpy(), array)
    unfinished = write(path, amat_bytes(array, end).rstrip())
    assert np.array_equal(read_amat(unfinished, array.shape).numpy(), array)


IMAGES = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
BAD_IDX = {
    "truncated gzip": (gzip.compress(idx_bytes(IMAGES))[:-12], "breaks off or is damaged after byte"),
    "damaged gzip": (gzip.compress(idx_bytes(IMAGES))[:-8] + b"\0" * 8, "damaged after byte 40.*CRC"),
    "wrong magic number": (idx_bytes(IMAGES, 0x0801), "0x00000803 at byte 0, received 0x00000801"),
    "short header": (idx_bytes(IMAGES)[:9], "ends at byte 9"),
    "other shape": (idx_bytes(IMAGES[:3]), r"\(4, 3, 2\) in the header at byte 4, received \(3, 3, 2\)"),
    "lying header": (
        struct.pack(">4I", 0x0803, *(3 * [0xFFFFFFFF])),
        "in the header at byte 4, received .4294967295",
    ),
    "too short": (idx_bytes(IMAGES)[:-1], "expected 40 bytes .* received 39"),
    "too long": (idx_bytes(IMAGES) + b"\0", "expected 40 bytes .* received more than 40"),
    "gzip bomb": (gzip.compress(idx_bytes(IMAGES) + bytes(10**6)), "received more than 40"),
}


@pytest.mark.parametrize("case", BAD_IDX)
def test_a_broken_idx_file_is_one_error(tmp_path: Path, case: str) -> None:
    content, message = BAD_IDX[case]
    check_error(message, write(tmp_path / "images.gz", content), lambda path: read_idx(path, (4, 3, 2)))


def test_a_folder_instead_of_a_file_is_one_error(tmp_path: Path) -> None:
    check_error("expected a readable file", tmp_path, lambda path: read_idx(path, (4, 3, 2)))


BITS = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 1], [1, 1, 1]])
TEXT = amat_bytes(BITS)
BAD_AMAT = {
    "not a digit": (TEXT.replace(b"1 0 0", b"1 0 2"), r"received '2' in line 2 \(byte 11\)"),
    "two digits in one": (TEXT.replace(b"0 0 1", b"0 01 "), r"received '1' in line 3 \(byte 17\)"),
    "a web page": (b"<html>\n", r"received '<' in line 1 \(byte 0\)"),
    "short line": (TEXT.replace(b"0 0 1", b"0 0"), r"3 values in line 3 \(from byte 14\), received 2"),
    "long line": (TEXT.replace(b"0 0 1", b"0 0 1 1"), r"3 values in line 3 .* received 4"),
    "empty line": (TEXT.replace(b"\n", b"\n\n", 1), "3 values in line 2 .* received 0"),
    "fewer lines": (amat_bytes(BITS[:2]), "4 lines of 3 values, received 2 lines"),
    "no lines": (b"", "4 lines of 3 values, received 0 lines"),
    "more lines": (TEXT + TEXT, "4 lines of 3 values, received more"),
    "truncated gzip": (gzip.compress(TEXT)[:-9], "breaks off"),
}


@pytest.mark.parametrize("block", [8, 1 << 20])
@pytest.mark.parametrize("case", BAD_AMAT)
def test_a_broken_amat_file_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, block: int
) -> None:
    monkeypatch.setattr("logpx.data.amat._BLOCK", block)
    content, message = BAD_AMAT[case]
    check_error(message, write(tmp_path / "bits.amat", content), lambda path: read_amat(path, (4, 3)))


SHAPES = {
    "rows": ((10, 5), (5,)),
    "grey": ((10, 4, 5), (1, 4, 5)),
    "channels last": ((10, 4, 5, 3), (3, 4, 5)),
    "channels first": ((10, 3, 4, 5), (3, 4, 5)),
    "both": ((10, 3, 4, 1), (1, 3, 4)),
}


@pytest.mark.parametrize("case", SHAPES)
def test_an_array_becomes_channels_first_and_every_row_is_kept(tmp_path: Path, case: str) -> None:
    shape, event_shape = SHAPES[case]
    array = np.random.default_rng(0).integers(2, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "faces.npy", array)
    data = load_data(tmp_path / "faces.npy")
    assert (data.name, data.kind, data.levels, data.event_shape) == ("faces", "8-bit", 256, event_shape)
    assert {name: len(part) for name, part in data.parts.items()} == {"train": 8, "valid": 1, "test": 1}
    rows = torch.cat([data.rows[name] for name in data.parts])
    values = torch.cat(list(data.parts.values()))[rows.argsort()]
    channels_last = values if len(shape) == 2 or case == "channels first" else values.permute(0, 2, 3, 1)
    assert np.array_equal(channels_last.reshape(shape).numpy(), array)
    assert torch.equal(load_data(tmp_path / "faces.npy").rows["test"], data.rows["test"])


KINDS = {
    "uint8": (np.uint8([[0], [1], [2]]), "8-bit"),
    "uint8 bits": (np.uint8([[0], [1], [1]]), "binary"),
    "bool": (np.array([[True], [False], [True]]), "binary"),
    "integer bits": (np.array([[0], [1], [1]]), "binary"),
    "float bits": (np.float64([[0], [1], [1]]), "binary"),
    "float": (np.float64([[0.5], [-1], [1]]), "real"),
    "big-endian half": (np.array([[0.5], [-1], [1]], dtype=">f2"), "real"),
}


@pytest.mark.parametrize("case", KINDS)
def test_the_kind_follows_from_the_values(tmp_path: Path, case: str) -> None:
    array, kind = KINDS[case]
    np.save(tmp_path / "a.npy", array)
    data = load_data(str(tmp_path / "a.npy"))
    assert data.kind == kind
    total = sum(part.double().sum().item() for part in data.parts.values())
    assert total == array.astype(float).sum()


def test_npz_parts_are_kept_in_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = {
        "train": rng.normal(size=(9, 2)),
        "valid": rng.normal(size=(3, 2)),
        "test": rng.normal(size=(4, 2)),
    }
    np.savez_compressed(tmp_path / "a.npz", **parts)
    data = load_data(tmp_path / "a.npz")
    assert data.rows == {}
    for name, part in parts.items():
        assert np.array_equal(data.parts[name].numpy(), part.astype(np.float32))
    np.savez(tmp_path / "b.npz", **parts)
    assert load_data(tmp_path / "b.npz").hash == data.hash
    assert load_data(tmp_path / "b.npz", num_valid=0).hash == data.hash


def test_npz_without_valid_takes_it_from_the_permuted_train(tmp_path: Path) -> None:
    train = np.arange(20, dtype=np.float32)[:, None]
    np.savez(tmp_path / "a.npz", train=train, test=train[:4])
    data = load_data(tmp_path / "a.npz", num_valid=5)
    assert [len(data.parts[name]) for name in ("train", "valid", "test")] == [15, 5, 4]
    assert torch.equal(data.parts["valid"][:, 0].long(), data.rows["valid"])
    assert np.array_equal(data.parts["test"].numpy(), train[:4])
    assert load_data(tmp_path / "a.npz").hash == data.hash


@pytest.mark.parametrize("names", [{"x", "labels"}, {"data", "other"}, {"anything"}])
def test_npz_of_one_array(tmp_path: Path, names: set[str]) -> None:
    arrays = {name: np.ones((5, 2)) if name in ("x", "data", "anything") else np.zeros(5) for name in names}
    np.savez(tmp_path / "a.npz", **arrays)
    assert load_data(tmp_path / "a.npz").event_shape == (2,)


def npy_bytes(array: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def npz_bytes(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def with_value(value: float, dtype: Any = np.float64) -> np.ndarray:
    array = np.full((4, 3), 2, dtype=dtype)
    array[2, 1] = value
    return array


def lying_npz() -> bytes:
    header = npy_bytes(np.zeros((3, 7))).replace(b"(3, 7), }       ", b"(3999999999999,)}")[:128]
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x.npy", header)
    return stream.getvalue()


LYING_NPY = npy_bytes(np.zeros((3, 7))).replace(b"(3, 7), }         ", b"(399999999999, 7)}")
BAD_ARRAYS = {
    "nan": ("a.npy", npy_bytes(with_value(np.nan)), r"finite float32 values, received nan at index \(2, 1\)"),
    "too large": ("a.npy", npy_bytes(with_value(1e300)), r"received inf at index \(2, 1\)"),
    "nan in a part": ("a.npz", npz_bytes(train=np.ones((2, 3)), test=with_value(np.nan)), "'test': .*nan"),
    "out of range": ("a.npy", npy_bytes(with_value(256, np.int16)), r"0 to 255.*256 at index \(2, 1\)"),
    "wide integers": (
        "a.npy",
        npy_bytes(with_value(7, np.int64)),
        "int64 with integers up to 7; save .* as uint8",
    ),
    "text": ("a.npy", npy_bytes(np.full((2, 2), "a")), "floating-point values, received <U1"),
    "object array": ("a.npy", npy_bytes(np.full((2, 2), None), allow_pickle=True), "without objects"),
    "pickle": ("a.npy", pickle.dumps([1]), "cannot read"),
    "empty file": ("a.npy", b"", "cannot read"),
    "truncated": ("a.npy", npy_bytes(np.zeros((3, 7)))[:-1], "cannot read"),
    "lying header": ("a.npy", LYING_NPY, "cannot read"),
    "truncated archive": ("a.npz", npz_bytes(x=np.zeros((3, 7)))[:-30], "cannot read"),
    "lying archive": ("a.npz", lying_npz(), "cannot read"),
    "empty set": ("a.npy", npy_bytes(np.zeros((0, 3))), r"empty set of shape \(0, 3\)"),
    "two data": ("a.npy", npy_bytes(np.zeros((2, 3))), "at least 3 data .* received 2"),
    "one dimension": ("a.npy", npy_bytes(np.zeros(5)), r"received \(5,\)"),
    "two channels": ("a.npy", npy_bytes(np.zeros((4, 2, 2, 2))), r"received \(4, 2, 2, 2\)"),
    "no test": ("a.npz", npz_bytes(train=np.zeros((4, 2))), r"train and test .* received \['train'\]"),
    "which one": ("a.npz", npz_bytes(a=np.zeros((4, 2)), b=np.zeros(4)), r"received \['a', 'b'\]"),
    "unlike parts": ("a.npz", npz_bytes(train=np.zeros((4, 2)), test=np.zeros((4, 3))), "parts of one shape"),
    "another type": ("a.csv", b"1,2", "another type"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_a_broken_array_file_is_one_error(tmp_path: Path, case: str) -> None:
    name, content, message = BAD_ARRAYS[case]
    check_error(message, write(tmp_path / name, content), load_data)


def check_error(message: str, path: Path, call: Any) -> None:
    """Checks that the call raises one line that names the file and matches the message."""
    with pytest.raises(LogpxError, match=message) as caught:
        call(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
