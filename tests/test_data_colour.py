"""Colour data: CIFAR-10 whatever the order of its images, SVHN, folders of colour images, and mirrored images."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from PIL import Image
from scipy.io import savemat
from torch import Tensor

from logpx.cli import main
from logpx.data import DataSet, Split, known_data, load_data
from logpx.data.catalogue import CATALOGUE, Known
from logpx.data.cifar import read_cifar
from logpx.data.find import find_file
from logpx.data.mat import read_mat
from logpx.utils import LogpxError

ROOTS = [os.environ.get("LOGPX_DATA"), Path(__file__).parents[2] / "shared" / "data"]
BATCHES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
FOLDER = "cifar-10-batches-bin"
ARCHIVE = "cifar-10-binary.tar.gz"


def colours(n: int, seed: int = 0, size: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, size, size), dtype=np.uint8)


TRAIN, TEST = colours(20), colours(4, seed=1)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shrinks the sets to a few images of their format, and lets nothing be found outside tmp_path."""

    def no_network(*args: Any, **kwargs: Any) -> None:
        raise requests.exceptions.ConnectionError("no network in tests")

    monkeypatch.setitem(CATALOGUE, "cifar10", small(CATALOGUE["cifar10"], hash_of_set))
    monkeypatch.setitem(CATALOGUE, "svhn", small(CATALOGUE["svhn"], lambda images: ""))
    monkeypatch.setattr("logpx.data.find.user_cache", lambda: tmp_path / "cache")
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    monkeypatch.setattr(requests, "get", no_network)
    monkeypatch.delenv("LOGPX_DATA", raising=False)
    return tmp_path / "cache"


def small(known: Known, hash_of: Any) -> Known:
    images = {"train": TRAIN, "test": TEST}
    files = [
        replace(file, shape=images[file.part].shape, sha256=hash_of(images[file.part].reshape(-1, 3072)))
        for file in known.files
    ]
    return replace(known, files=tuple(files), sizes={"train": 17, "valid": 3, "test": 4})


def hash_of_set(images: np.ndarray) -> str:
    """What the catalogue says that the hash is, written out anew."""
    digests = sorted(hashlib.sha256(image.tobytes()).hexdigest() for image in images)
    return hashlib.sha256(bytes.fromhex("".join(digests))).hexdigest()


def batch_files(train: np.ndarray = TRAIN, test: np.ndarray = TEST) -> dict[str, bytes]:
    """The six files: per image its label, then the red, the green and the blue plane, each row by row."""
    batches = zip(BATCHES, [*np.split(train, 5), test], strict=True)
    return {
        name: b"".join(bytes([i % 10]) + b"".join(plane.tobytes() for plane in image) for i, image in enumerate(images))
        for name, images in batches
    }


def put_folder(root: Path, files: dict[str, bytes]) -> Path:
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (root / FOLDER / name).write_bytes(content)
    return root


def tar_bytes(files: dict[str, bytes], prefix: str = f"{FOLDER}/") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(prefix + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def sizes(data: DataSet) -> list[int]:
    return [len(data.parts[name]) for name in ("train", "valid", "test")]


def check_error(message: str, call: Any, *parts: str, error: type[Exception] = LogpxError) -> None:
    """Checks that the call raises one line that matches the message and holds the parts."""
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


# CIFAR-10


def test_cifar_images_arrive_plane_by_plane_without_their_labels(tmp_path: Path, cache: Path) -> None:
    files = batch_files()
    data = load_data("cifar10", data_root=put_folder(tmp_path, files))
    assert (data.kind, data.levels, data.event_shape, sizes(data)) == ("8-bit", 256, (3, 32, 32), [17, 3, 4])
    channel, row, column = 2, 5, 7
    byte = 3 * 3073 + 1 + channel * 1024 + row * 32 + column
    assert data.parts["train"][7, channel, row, column] == files["data_batch_2.bin"][byte]
    assert np.array_equal(torch.cat([data.parts["train"], data.parts["valid"]]).numpy(), TRAIN)
    assert np.array_equal(data.parts["test"].numpy(), TEST)


def test_cifar_is_found_as_the_archive_or_as_what_it_unpacks_to(tmp_path: Path, cache: Path) -> None:
    tar, others = tar_bytes(batch_files()), {"readme.html": b"<html>", **batch_files()}
    put_folder(tmp_path / "a", batch_files())
    put_folder(tmp_path / "b" / "cifar10", others)
    put(tmp_path / "c" / ARCHIVE, gzip.compress(tar))
    put(tmp_path / "d" / "cifar10" / "cifar-10-binary.tar", tar)
    put(tmp_path / "e" / ARCHIVE, gzip.compress(tar_bytes(dict(reversed(others.items())), prefix=f"./{FOLDER}/")))
    places = {"a": f"a/{FOLDER}", "b": f"b/cifar10/{FOLDER}", "c": "c", "d": "d/cifar10", "e": "e"}
    hashes = set()
    for root, place in places.items():
        data = load_data("cifar10", data_root=tmp_path / root, download=False)
        assert data.source == str(tmp_path / place)
        assert {known.name: known.found for known in known_data(tmp_path / root)}["cifar10"] == data.source
        hashes.add(data.hash)
    assert len(hashes) == 1


def test_cifar_in_another_order_is_as_good_but_has_another_hash(tmp_path: Path, cache: Path) -> None:
    rng = np.random.default_rng(0)
    orders = [np.arange(20), *(rng.permutation(20) for _ in range(3))]
    hashes = []
    for i, order in enumerate(orders):
        root = put_folder(tmp_path / str(i), batch_files(TRAIN[order], TEST[::-1] if i == 1 else TEST))
        data = load_data("cifar10", data_root=root)
        assert np.array_equal(data.parts["valid"].numpy(), TRAIN[order[17:]])
        hashes.append(data.hash)
    assert len(set(hashes)) == len(orders)


def _changed(values: np.ndarray, *index: int) -> np.ndarray:
    changed = values.copy()
    changed[index] ^= 1
    return changed


OTHER_CIFAR = {
    "one pixel": lambda: batch_files(_changed(TRAIN, 11, 1, 31, 31)),
    "one pixel of test": lambda: batch_files(test=_changed(TEST, 3, 0, 0, 0)),
    "one image twice and one absent": lambda: batch_files(TRAIN[[0, *range(19)]]),
    "one image mirrored": lambda: batch_files(np.concatenate([TRAIN[:1, :, :, ::-1], TRAIN[1:]])),
    "train and test exchange an image": lambda: batch_files(
        np.concatenate([TEST[:1], TRAIN[1:]]), np.concatenate([TRAIN[:1], TEST[1:]])
    ),
}


@pytest.mark.parametrize("case", OTHER_CIFAR)
def test_other_images_are_refused(tmp_path: Path, cache: Path, case: str) -> None:
    root = put_folder(tmp_path, OTHER_CIFAR[case]())
    cure = "delete it and get it again from https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz."
    check_error("sha256", lambda: load_data("cifar10", data_root=root), str(root / FOLDER), cure)


def test_how_often_an_image_occurs_counts(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, first_twice, second_twice = CATALOGUE["cifar10"], TRAIN[[0, *range(19)]], TRAIN[[1, *range(19)]]
    train = replace(known.files[0], sha256=hash_of_set(first_twice))
    monkeypatch.setitem(CATALOGUE, "cifar10", replace(known, files=(train, known.files[1])))
    load_data("cifar10", data_root=put_folder(tmp_path / "a", batch_files(first_twice[::-1])))
    root = put_folder(tmp_path / "b", batch_files(second_twice))
    check_error("sha256", lambda: load_data("cifar10", data_root=root))


def _link() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("f/a")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    return stream.getvalue()


TWO = {"a": bytes(2 * 4), "b": bytes(2 * 4)}
BAD_ARCHIVES = {
    "truncated gzip": (gzip.compress(tar_bytes(TWO, "f/"))[:-90], "breaks off or is damaged after byte"),
    "truncated tar": (tar_bytes(TWO, "f/")[:515], r"complete tar archive, .*\(unexpected end of data\)"),
    "no tar": (b"<html>" + bytes(600), "complete tar archive, .* delete it"),
    "empty": (b"", r"complete tar archive, .*empty file"),
    "no such file": (tar_bytes({"a": TWO["a"], "c": b""}, "f/"), r"expected the files \['f/b'\] in it, received none"),
    "a link": (_link(), r"expected the files \['f/a', 'f/b'\]"),
    "too short": (tar_bytes({**TWO, "b": bytes(7)}, "f/"), "8 bytes for 2 images in f/b, received 7"),
    "too long": (tar_bytes({**TWO, "b": bytes(10**6)}, "f/"), "8 bytes for 2 images in f/b, received more than 8"),
}


@pytest.mark.parametrize("case", BAD_ARCHIVES)
def test_a_broken_archive_is_one_error(tmp_path: Path, case: str) -> None:
    content, message = BAD_ARCHIVES[case]
    path = put(tmp_path / "images.tar", content)
    check_error(message, lambda: read_cifar(path, ("f/a", "f/b"), (4, 3, 1, 1)), str(path))


def test_an_incomplete_folder_is_passed_over_and_the_files_are_named(tmp_path: Path, cache: Path) -> None:
    put_folder(tmp_path, {name: content for name, content in batch_files().items() if name != "data_batch_3.bin"})
    asked = f"expected the files {ARCHIVE} (or the folder {FOLDER} in it) under {tmp_path}"
    for download, reason in ((True, "no connection"), (False, "downloading is switched off")):
        check_error(reason, lambda d=download: load_data("cifar10", data_root=tmp_path, download=d), asked)
    put(cache / ARCHIVE, gzip.compress(tar_bytes(batch_files())))
    assert load_data("cifar10", data_root=tmp_path).source == str(cache)


def serve(monkeypatch: pytest.MonkeyPatch, contents: list[bytes]) -> list[str]:
    """Lets pooch's downloader write one content after the other; returns the list of requests."""
    asked: list[str] = []

    def fetch(self: Any, url: str, output_file: str, pup: Any) -> None:
        asked.append(url)
        Path(output_file).write_bytes(contents[min(len(asked), len(contents)) - 1])

    monkeypatch.setattr("pooch.HTTPDownloader.__call__", fetch)
    return asked


def test_the_archive_is_downloaded_once_and_kept_only_if_all_its_parts_are_right(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = gzip.compress(tar_bytes(batch_files()))
    wrong_test = gzip.compress(tar_bytes(batch_files(test=_changed(TEST, 0, 0, 0, 0))))
    asked = serve(monkeypatch, [wrong_test, right])
    assert sizes(load_data("cifar10")) == [17, 3, 4]
    assert asked == 2 * [f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"]
    assert [path.name for path in (cache / "cifar10").iterdir()] == [ARCHIVE]
    assert sizes(load_data("cifar10", download=False)) == [17, 3, 4]


def real_cifar() -> Path | None:
    """Returns where the real CIFAR-10 is, whatever LOGPX_DATA is in a test."""
    known = CATALOGUE["cifar10"]
    roots = [Path(root) / folder for root in ROOTS if root for folder in ("cifar10", "")]
    return next((root for root in roots if find_file(known, known.files[0], [root])), None)


REAL = real_cifar()


@pytest.mark.skipif(REAL is None, reason="CIFAR-10 is neither in $LOGPX_DATA nor in ../shared/data")
def test_the_real_cifar_has_the_mean_and_deviation_that_are_published() -> None:
    """The means and deviations of the 50,000 training images in RGB, as commonly quoted to 8 digits."""
    data = load_data("cifar10", data_root=REAL, download=False)
    assert sizes(data) == [45_000, 5_000, 10_000]
    train = torch.cat([data.parts["train"], data.parts["valid"]]).transpose(0, 1).reshape(3, -1)
    counts = torch.stack([torch.bincount(plane, minlength=256) for plane in train]).double() / train.shape[1]
    level = torch.arange(256, dtype=torch.float64) / 255
    mean = counts @ level
    deviation = (counts @ level**2 - mean**2).sqrt()
    assert [round(x, 8) for x in mean.tolist()] == [0.49139968, 0.48215841, 0.44653091]
    assert [round(x, 8) for x in deviation.tolist()] == [0.24703223, 0.24348513, 0.26158784]
    assert int(data.parts["test"].sum()) == 3_733_375_634


# SVHN


def put_svhn(root: Path, train: np.ndarray = TRAIN, *, compress: bool = True) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for part, images in (("train", train), ("test", TEST)):
        x = np.empty((32, 32, 3, len(images)), dtype=np.uint8)
        for n, image in enumerate(images):
            for channel in range(3):
                x[:, :, channel, n] = image[channel]
        savemat(root / f"{part}_32x32.mat", {"X": x, "y": np.ones((len(images), 1))}, do_compression=compress)
    return root


@pytest.mark.parametrize("compress", [False, True])
def test_svhn_images_arrive_channels_first(tmp_path: Path, cache: Path, compress: bool) -> None:
    data = load_data("svhn", data_root=put_svhn(tmp_path / "svhn", compress=compress).parent)
    assert (data.kind, data.levels, data.event_shape, sizes(data)) == ("8-bit", 256, (3, 32, 32), [17, 3, 4])
    assert np.array_equal(data.parts["valid"].numpy(), TRAIN[17:])
    assert np.array_equal(data.parts["test"].numpy(), TEST)
    plain = tmp_path / "svhn" / "train_32x32.mat"
    put(tmp_path / "gz" / "train_32x32.mat.gz", gzip.compress(plain.read_bytes()))
    shutil.copy(tmp_path / "svhn" / "test_32x32.mat", tmp_path / "gz")
    assert load_data("svhn", data_root=tmp_path / "gz").hash == data.hash


def mat_bytes(arrays: dict[str, np.ndarray], **options: Any) -> bytes:
    stream = io.BytesIO()
    savemat(stream, arrays, **options)
    return stream.getvalue()


X = np.arange(54, dtype=np.uint8).reshape(3, 3, 3, 2)
HDF = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF" + bytes(200)
BAD_MATS = {
    "fewer images": (mat_bytes({"X": X[..., :1]}), r"\(3, 3, 3, 2\) \(uint8\), received 'X' of shape \(3, 3, 3, 1\)"),
    "other type": (mat_bytes({"X": X.astype(np.int16)}), r"received 'X' of shape \(3, 3, 3, 2\) \(int16\)"),
    "complex": (mat_bytes({"X": X + 1j}), r"received 'X' of shape \(3, 3, 3, 2\)"),
    "signed bytes called uint8": (
        mat_bytes({"X": X}).replace(b"\x02\0\0\0\x36\0\0\0", b"\x01\0\0\0\x36\0\0\0"),
        r"received 'X' of shape \(3, 3, 3, 2\) \(int8\)",
    ),
    "values of no known type": (
        mat_bytes({"X": X}).replace(b"\x02\0\0\0\x36\0\0\0", b"\x7f\0\0\0\x36\0\0\0"),
        "the values of X are not stored as bytes",
    ),
    "short header": (mat_bytes({"X": X})[:126], "SciPy cannot read"),
    "other name": (mat_bytes({"x": X}), r"received 'x' of shape"),
    "no array": (mat_bytes({}), "received none; get the right file"),
    "truncated": (mat_bytes({"X": X})[:-9], "SciPy cannot read"),
    "truncated in compression": (mat_bytes({"X": X}, do_compression=True)[:-9], "SciPy cannot read"),
    "damaged compression": (mat_bytes({"X": X}, do_compression=True)[:-9] + bytes(9), "SciPy cannot read"),
    "empty": (b"", "SciPy cannot read"),
    "a web page": (b"<html>" + bytes(200), "SciPy cannot read|received none"),
    "version 7.3": (HDF, "up to version 7, .* SciPy cannot read"),
}


@pytest.mark.parametrize("case", BAD_MATS)
def test_a_broken_mat_file_is_one_error(tmp_path: Path, case: str) -> None:
    content, message = BAD_MATS[case]
    path = put(tmp_path / "a.mat", content)
    check_error(message, lambda: read_mat(path, (2, 3, 3, 3)), str(path))


def test_where_no_hash_is_known_the_content_is_taken_and_this_is_said(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = put_svhn(tmp_path, _changed(TRAIN, 0, 0, 0, 0))
    assert load_data("svhn", data_root=root).hash != load_data("svhn", data_root=put_svhn(tmp_path / "b")).hash
    unchecked = {known.name for known in known_data() if "hash not known" in known.description}
    assert (
        unchecked == {name for name, known in CATALOGUE.items() if any(not f.sha256 for f in known.files)} == {"svhn"}
    )
    assert main(["data", "--data-root", str(root)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "(Netzer et al., 2011); hash not known, so only shape and type are checked 8-bit, 3x32x32;" in text
    assert f"found: {root}" in text


def test_the_colour_sets_are_listed_with_their_sizes_and_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("logpx.data.find.user_cache", lambda: tmp_path / "cache")
    monkeypatch.delenv("LOGPX_DATA", raising=False)
    assert main(["data", "--data-root", str(tmp_path)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for sentence in (
        "3x32x32; train 45,000, valid 5,000, test 10,000; recipe resnet-dmol",
        "3x32x32; train 68,257, valid 5,000, test 26,032; recipe svhn",
        f"put {ARCHIVE} (or the folder {FOLDER} in it) into {tmp_path / 'cifar10'} svhn",
        f"put train_32x32.mat, test_32x32.mat into {tmp_path / 'svhn'}",
    ):
        assert sentence in text


@pytest.mark.parametrize("name", [name for name, known in CATALOGUE.items() if known.files])
def test_the_sizes_in_the_catalogue_agree_with_its_files(name: str) -> None:
    known = CATALOGUE[name]
    assert sum(file.shape[0] for file in known.files) == sum(known.sizes.values())
    assert {math.prod(file.shape[1:]) for file in known.files} == {math.prod(known.event_shape)}


# Folders


def put_image(path: Path, image: np.ndarray) -> None:
    """Writes an image of shape (C, H, W) or, grey, (H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.moveaxis(image, 0, -1) if image.ndim == 3 else image).save(path, lossless=True)


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_a_folder_of_colour_images_keeps_every_pixel_of_every_channel(tmp_path: Path, suffix: str) -> None:
    written = {part: colours(n, n, size=5)[:, :, :4] for part, n in (("train", 6), ("valid", 2), ("test", 3))}
    for part, images in written.items():
        for i, image in enumerate(images):
            put_image(tmp_path / part / f"{i}.{suffix}", image)
    data = load_data(tmp_path)
    assert (data.kind, data.levels, data.event_shape) == ("8-bit", 256, (3, 4, 5))
    for part, images in written.items():
        assert np.array_equal(data.parts[part].numpy(), images)


GREY = colours(1, 9, size=4)[0, 0]
UNLIKE = {
    "grey among colour": (GREY, "mode RGB and 4x4 pixels as in .*00.png, received mode L and 4x4; convert"),
    "alpha among colour": (np.zeros((4, 4, 4), np.uint8), "mode RGB and 4x4 .*, received mode RGBA"),
    "another size": (np.zeros((3, 5, 4), np.uint8), "mode RGB and 4x4 .*, received mode RGB and 4x5; .*resize"),
}


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("case", UNLIKE)
def test_images_unlike_the_first_colour_image_are_one_error(tmp_path: Path, case: str, part: str) -> None:
    image, message = UNLIKE[case]
    for i, colour in enumerate(colours(3, size=4)):
        for folder in ("train", "test"):
            put_image(tmp_path / folder / f"{i:02}.png", colour)
    put_image(tmp_path / part / "02.png", image)
    check_error(message, lambda: load_data(tmp_path), str(tmp_path / part / "02.png"))


# Mirrored images


def data_set(n: int = 40, **changes: Any) -> DataSet:
    parts = {name: torch.from_numpy(colours(n, seed, size=4)[:, :, :2]) for seed, name in enumerate(("train", "test"))}
    fields = {"name": "colours", "kind": "8-bit", "levels": 256, "event_shape": (3, 2, 4), "source": "here"}
    return DataSet(**{**fields, "parts": {**parts, "valid": parts["test"]}, **changes})


def everything(split: Split) -> Tensor:
    return split.batch(torch.arange(len(split))).x


def test_each_image_of_train_is_as_it_was_or_mirrored_left_to_right() -> None:
    data = data_set()
    plain, split = everything(data.split("train")), data.split("train", flip=True)
    for epoch in range(4):
        x = everything(split.epoch(epoch))
        is_plain, is_mirrored = (x == plain).flatten(1).all(1), (x == plain.flip(-1)).flatten(1).all(1)
        assert torch.equal(is_mirrored, ~is_plain)
        assert torch.equal(is_mirrored, split.epoch(epoch).mirrored)
        assert 0 < is_mirrored.sum() < len(x)


def test_a_fair_coin_decides_for_each_image_and_epoch() -> None:
    """z-tests at 5 standard errors of the shares of all, of 40 images and of 400 epochs, and of the agreement of 780
    pairs of images and of successive epochs: false alarm below 1 in 1,000 in all; the seed is fixed."""
    split, epochs = data_set().split("train", flip=True, seed=3), 400
    coins = torch.stack([split.epoch(epoch).mirrored.double() for epoch in range(epochs)]) * 2 - 1
    images = coins.shape[1]
    assert abs(coins.mean()) < 5 / math.sqrt(epochs * images)
    assert coins.mean(0).abs().max() < 5 / math.sqrt(epochs)
    assert coins.mean(1).abs().max() < 5 / math.sqrt(images)
    between_images = coins.T @ coins / epochs - torch.eye(images, dtype=torch.float64)
    assert between_images.abs().max() < 5 / math.sqrt(epochs)
    assert abs((coins[1:] * coins[:-1]).mean()) < 5 / math.sqrt(images * (epochs - 1))


def test_mirrorings_are_a_function_of_seed_and_epoch() -> None:
    data = data_set()
    split = data.split("train", flip=True)
    assert torch.equal(everything(split), everything(split.epoch(0)))
    assert torch.equal(everything(split.epoch(7).epoch(2)), everything(data.split("train", flip=True).epoch(2)))
    others = [split.epoch(1), data.split("train", seed=1, flip=True)]
    assert all(not torch.equal(other.mirrored, split.mirrored) for other in others)


def test_valid_and_test_are_never_mirrored_and_nothing_is_unless_asked_for() -> None:
    data = data_set()
    for part in ("valid", "test"):
        split = data.split(part, flip=True)
        assert not split.flip
        assert split.epoch(3) is split
        assert torch.equal(everything(split), data.parts[part] / 255)
    assert data.split("train", flip=True).flip
    plain = data.split("train")
    assert not plain.flip
    assert plain.epoch(3) is plain
    assert torch.equal(everything(plain), data.parts["train"] / 255)


def test_mirrorings_do_not_change_the_draws_of_dynamic_binarization() -> None:
    data = data_set()
    drawn, split = data.split("train", "dynamic"), data.split("train", "dynamic", flip=True)
    for epoch in (0, 1, 5):
        values, now = everything(drawn.epoch(epoch)), split.epoch(epoch)
        where = now.mirrored.reshape(-1, 1, 1, 1)
        assert torch.equal(everything(now), torch.where(where, values.flip(-1), values))
    assert torch.equal(split.epoch(1).mirrored, data.split("train", flip=True).epoch(1).mirrored)


@pytest.mark.parametrize("binarization", ["none", "dynamic"])
def test_the_first_data_are_mirrored_as_in_the_full_split(binarization: Any) -> None:
    split = data_set().split("train", binarization, flip=True)
    for epoch in (0, 3):
        for n in (3, 17):
            assert torch.equal(everything(split.take(n).epoch(epoch)), everything(split.epoch(epoch))[:n])
            assert torch.equal(everything(split.epoch(epoch).take(n)), everything(split.epoch(epoch))[:n])


def test_batches_in_any_order_hold_the_mirrored_images_of_their_index() -> None:
    split = data_set().split("train", flip=True).epoch(2)
    x, order = everything(split), torch.tensor([5, 39, 5, 0, 12])
    batches = list(split.batches(2, order=order))
    assert torch.equal(torch.cat([batch.x for batch in batches]), x[order])
    assert torch.equal(torch.cat([batch.index for batch in batches]), order)


def test_an_epoch_of_mirrorings_copies_no_image_and_follows_to_a_device() -> None:
    data = data_set()
    split = data.split("train", flip=True)
    assert split.epoch(1).values.data_ptr() == data.parts["train"].data_ptr()
    moved = split.to("meta")
    assert {part.mirrored.device.type for part in (moved, moved.epoch(1))} == {"meta"}
    assert moved.batch(torch.arange(3), device="meta").x.shape == (3, 3, 2, 4)
    assert torch.equal(everything(split.to("cpu").epoch(1)), everything(split.epoch(1)))


def test_rows_of_numbers_cannot_be_mirrored() -> None:
    rows = torch.rand(9, 6)
    data = data_set(kind="real", levels=None, event_shape=(6,), parts=dict.fromkeys(("train", "valid", "test"), rows))
    for part in ("train", "test"):
        check_error(
            r"images of shape \(C, H, W\) to flip, received data of shape \(6,\); leave flip off",
            lambda part=part: data.split(part, flip=True),
            error=ValueError,
        )
