"""Named data sets: where they are looked for, how they are divided, downloaded and checked."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch

from logpx.data import known_data, load_data
from logpx.data.catalogue import CATALOGUE, File, Known
from logpx.utils import LogpxError

ROOTS = [os.environ.get("LOGPX_DATA"), Path(__file__).parents[2] / "shared" / "data"]
REAL = next((Path(root) for root in ROOTS if root and (Path(root) / "mnist").is_dir()), None)
needs_real_data = pytest.mark.skipif(
    REAL is None, reason="the real data are neither in $LOGPX_DATA nor in ../shared/data"
)

TRAIN = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
TEST = np.random.default_rng(1).integers(0, 256, (6, 28, 28), dtype=np.uint8)
BITS = {
    part: np.random.default_rng(n).integers(0, 2, (n, 784), dtype=np.uint8)
    for part, n in (("train", 9), ("valid", 4), ("test", 3))
}


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def idx_bytes(images: np.ndarray) -> bytes:
    return struct.pack(">4I", 0x0803, *images.shape) + images.tobytes()


def amat_bytes(bits: np.ndarray) -> bytes:
    return "".join(" ".join(map(str, row)) + " \n" for row in bits.tolist()).encode()


def small(known: Known, arrays: dict[str, np.ndarray], num_valid: int) -> Known:
    files = tuple(
        File(
            file.part,
            file.name,
            arrays[file.part].shape,
            hashlib.sha256(arrays[file.part].tobytes()).hexdigest(),
        )
        for file in known.files
    )
    return replace(known, files=files, sizes={**known.sizes, "valid": num_valid})


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Small sets under the known names, an empty user cache, and no network."""
    monkeypatch.setitem(CATALOGUE, "mnist", small(CATALOGUE["mnist"], {"train": TRAIN, "test": TEST}, 4))
    monkeypatch.setitem(CATALOGUE, "binarized-mnist", small(CATALOGUE["binarized-mnist"], BITS, 4))
    monkeypatch.setattr("logpx.data.find.user_cache", lambda: tmp_path / "cache")
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    monkeypatch.setattr(requests, "get", no_network)
    monkeypatch.delenv("LOGPX_DATA", raising=False)
    return tmp_path / "cache"


def no_network(*args: Any, **kwargs: Any) -> None:
    raise requests.exceptions.ConnectionError("no network in tests")


def put_mnist(folder: Path, train: np.ndarray = TRAIN, level: int = 6) -> Path:
    write(folder / "train-images-idx3-ubyte.gz", gzip.compress(idx_bytes(train), level))
    write(folder / "t10k-images-idx3-ubyte.gz", gzip.compress(idx_bytes(TEST), level))
    return folder


def serve(monkeypatch: pytest.MonkeyPatch, folder: Path, failures: int = 0) -> list[str]:
    """Lets pooch's downloader copy from a folder after some failures; returns the list of requests."""
    asked: list[str] = []

    def fetch(self: Any, url: str, output_file: str, pup: Any) -> None:
        asked.append(url)
        if len(asked) <= failures:
            write(Path(output_file), b"half of")
            raise requests.exceptions.ChunkedEncodingError("broken off")
        shutil.copy(folder / url.rsplit("/", 1)[1], output_file)

    monkeypatch.setattr("pooch.HTTPDownloader.__call__", fetch)
    return asked


def sizes(data: Any) -> list[int]:
    return [len(data.parts[name]) for name in ("train", "valid", "test")]


def test_the_last_training_data_are_for_validation(tmp_path: Path) -> None:
    put_mnist(tmp_path / "mnist")
    data = load_data("mnist", data_root=tmp_path)
    assert (data.name, data.kind, data.levels, data.event_shape) == ("mnist", "8-bit", 256, (1, 28, 28))
    assert np.array_equal(data.parts["valid"][:, 0].numpy(), TRAIN[16:])
    assert np.array_equal(data.parts["test"][:, 0].numpy(), TEST)
    assert data.source == str(tmp_path / "mnist")
    assert sizes(load_data("mnist", data_root=tmp_path, num_valid=0)) == [20, 0, 6]
    assert load_data("mnist", data_root=tmp_path, num_valid=7).hash == data.hash


def test_another_compression_is_the_same_data(tmp_path: Path) -> None:
    put_mnist(tmp_path / "a" / "mnist", level=1)
    put_mnist(tmp_path / "b" / "mnist", level=9)
    write(tmp_path / "c" / "train-images-idx3-ubyte", idx_bytes(TRAIN))
    write(tmp_path / "c" / "t10k-images-idx3-ubyte", idx_bytes(TEST))
    assert len({load_data("mnist", data_root=tmp_path / root).hash for root in "abc"}) == 1


@pytest.mark.parametrize("num_valid", [-1, 20])
def test_an_impossible_num_valid_is_one_error(tmp_path: Path, num_valid: int) -> None:
    put_mnist(tmp_path)
    with pytest.raises(ValueError, match=f"from 0 to 19, .* received {num_valid};"):
        load_data("mnist", data_root=tmp_path, num_valid=num_valid)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_binarized_mnist_has_validation_data_of_its_own(tmp_path: Path, suffix: str) -> None:
    for part, bits in BITS.items():
        content = gzip.compress(amat_bytes(bits)) if suffix else amat_bytes(bits)
        write(tmp_path / f"binarized_mnist_{part}.amat{suffix}", content)
    data = load_data("binarized-mnist", data_root=tmp_path)
    assert (data.kind, data.levels, sizes(data)) == ("binary", 2, [9, 4, 3])
    assert np.array_equal(data.parts["valid"].reshape(4, 784).numpy(), BITS["valid"])
    joined = load_data("binarized-mnist", data_root=tmp_path, num_valid=0)
    assert sizes(joined) == [13, 0, 3]
    assert joined.hash == data.hash
    with pytest.raises(ValueError, match=r"0 \(append to train\) or 4 \(keep\), .* received 3"):
        load_data("binarized-mnist", data_root=tmp_path, num_valid=3)


def test_the_search_order_is_argument_environment_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_mnist(cache / "mnist")
    assert load_data("mnist").source == str(cache / "mnist")
    monkeypatch.setenv("LOGPX_DATA", str(put_mnist(tmp_path / "environment")))
    assert load_data("mnist").source == str(tmp_path / "environment")
    put_mnist(tmp_path / "argument")
    assert load_data("mnist", data_root=tmp_path / "argument").source == str(tmp_path / "argument")
    put_mnist(tmp_path / "argument" / "mnist")
    assert load_data("mnist", data_root=tmp_path / "argument").source == str(tmp_path / "argument" / "mnist")
    assert load_data("mnist", data_root=tmp_path / "nowhere").source == str(tmp_path / "environment")


def test_known_data_says_where_each_was_found(tmp_path: Path) -> None:
    put_mnist(tmp_path / "mnist")
    found = {data.name: data for data in known_data(tmp_path)}
    assert found["digits"].found == "scikit-learn"
    assert found["mnist"].found == str(tmp_path / "mnist")
    assert found["fashion-mnist"].found is None
    assert found["fashion-mnist"].how_to_get.startswith("downloaded from http")
    assert found["binarized-mnist"].default_recipe == "static-default"


def test_a_download_is_tried_again_and_kept(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(monkeypatch, put_mnist(tmp_path / "server"), failures=2)
    assert sizes(load_data("mnist")) == [16, 4, 6]
    assert len(asked) == 4
    assert asked[0] == CATALOGUE["mnist"].url + "train-images-idx3-ubyte.gz"
    assert sorted(path.name for path in (cache / "mnist").iterdir()) == sorted(
        file.name for file in CATALOGUE["mnist"].files
    )
    assert sizes(load_data("mnist", download=False)) == [16, 4, 6]


def test_a_download_goes_to_the_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, put_mnist(tmp_path / "server"))
    assert load_data("mnist", data_root=tmp_path / "root").source == str(tmp_path / "root" / "mnist")


def test_a_wrong_download_leaves_nothing_behind(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(monkeypatch, put_mnist(tmp_path / "server", train=TRAIN ^ 1))
    with pytest.raises(LogpxError, match="expected content with the sha256"):
        load_data("mnist")
    assert len(asked) == 4
    assert list((cache / "mnist").iterdir()) == []


def test_offline_and_absent_is_one_line_that_says_what_to_do(cache: Path) -> None:
    for download, reason in ((True, "no connection"), (False, "downloading is switched off")):
        with pytest.raises(LogpxError, match=reason) as caught:
            load_data("mnist", download=download)
        message = str(caught.value)
        assert "train-images-idx3-ubyte.gz, t10k-images-idx3-ubyte.gz" in message
        assert f"put them into {cache / 'mnist'}" in message
        assert "\n" not in message


def test_changed_content_is_one_error(tmp_path: Path) -> None:
    put_mnist(tmp_path, train=TRAIN ^ 1)
    with pytest.raises(LogpxError, match=r"sha256 .* received .*; delete it and get it again from https") as caught:
        load_data("mnist", data_root=tmp_path)
    assert str(tmp_path / "train-images-idx3-ubyte.gz") in str(caught.value)


def test_the_content_of_another_set_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = small(CATALOGUE["fashion-mnist"], {"train": TRAIN ^ 1, "test": TEST ^ 1}, 4)
    monkeypatch.setitem(CATALOGUE, "fashion-mnist", other)
    put_mnist(tmp_path)
    with pytest.raises(
        LogpxError, match="which is that of mnist; keep the two apart in folders named mnist and fashion-mnist"
    ):
        load_data("fashion-mnist", data_root=tmp_path)


def test_an_unknown_name_suggests_the_closest() -> None:
    with pytest.raises(LogpxError, match=r"digits, mnist, .* received 'minst'; did you mean 'mnist'"):
        load_data("minst")
    with pytest.raises(LogpxError, match=r"received '\./nowhere\.npy'; pass one of these"):
        load_data("./nowhere.npy")


def test_a_path_object_is_never_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LogpxError, match="expected a path that exists"):
        load_data(Path("mnist"))


def test_digits_are_divided_by_a_fixed_permutation() -> None:
    data = load_data("digits")
    assert (data.kind, data.levels, data.event_shape, data.num_dims) == ("8-bit", 17, (1, 8, 8), 64)
    assert sizes(data) == [1197, 300, 300]
    assert data.hash == "sha256:d518accf1fba2eed"
    rows = torch.cat([data.rows[name] for name in data.parts])
    assert torch.equal(rows.sort().values, torch.arange(1797))
    assert sum(int(part.sum()) for part in data.parts.values()) == 561_718
    assert load_data("digits", num_valid=0).hash == data.hash


REAL_SETS = {
    "mnist": ([50_000, 10_000, 10_000], 1_567_298_545, 264_923_200, "sha256:02e40ed9ac108c74"),
    "fashion-mnist": ([50_000, 10_000, 10_000], 3_431_114_169, 573_469_082, "sha256:bb914832ed77433e"),
    "binarized-mnist": ([50_000, 10_000, 10_000], 6_146_077, 1_038_896, "sha256:2135bd86c4b8dc77"),
}


@needs_real_data
@pytest.mark.parametrize("name", REAL_SETS)
def test_the_real_data(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.undo()
    data = load_data(name, data_root=REAL, download=False)
    expected_sizes, train_sum, test_sum, content_hash = REAL_SETS[name]
    assert sizes(data) == expected_sizes
    assert int(data.parts["train"].sum() + data.parts["valid"].sum()) == train_sum
    assert int(data.parts["test"].sum()) == test_sum
    assert data.hash == content_hash
