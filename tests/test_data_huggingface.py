"""Data sets of Hugging Face's `datasets`, from local folders; of the hub, what is said without a network."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, assert_same_result, command, environment
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

import logpx
from logpx.data import huggingface, load_data, save_data, stored
from logpx.data.rows import Rows
from logpx.files import machine
from logpx.utils import LogpxError

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

GREYS = np.random.default_rng(0).integers(0, 256, (30, 4, 5), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (12, 4, 6, 3), dtype=np.uint8)
REAL = np.random.default_rng(2).normal(size=(30, 6)).astype(np.float32)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def png(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def files(images: NDArray[np.uint8]) -> Any:
    return [{"bytes": png(image), "path": None} for image in images]


def table(path: Path, **columns: Any) -> Path:
    """Writes a parquet file and returns its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path)
    return path.parent


def tensor(path: Path, array: NDArray[Any], **features: Any) -> Path:
    """Writes an array as a column that knows its shape, and a label, and returns the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = datasets.Features(
        {"x": datasets.Array2D(array.shape[1:], str(array.dtype)), "label": datasets.Value("int8")}
    )
    made = datasets.Dataset.from_dict({"x": list(array), "label": [1] * len(array)}, features=kind)
    parquet.write_table(made.data.table, path)
    return path.parent


def image_folder(folder: Path, **parts: NDArray[np.uint8]) -> Path:
    for part, images in parts.items():
        (folder / part).mkdir(parents=True)
        for i, image in enumerate(images):
            Image.fromarray(image).save(folder / part / f"{i:02}.png")
    return folder


def saved(folder: Path, array: NDArray[Any]) -> Path:
    features = datasets.Features({"x": datasets.List(datasets.Value("float32"), length=array.shape[1])})
    made = datasets.Dataset.from_dict({"x": array.tolist()}, features=features)
    progress = datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    made.save_to_disk(str(folder))
    if not progress:
        datasets.enable_progress_bars()
    return folder


def two_columns(folder: Path) -> Path:
    return table(folder / "a.parquet", a=files(GREYS), b=files(GREYS), y=[1] * 30)


SOURCES = {
    "an array in parquet": (lambda folder: tensor(folder / "a.parquet", GREYS), GREYS),
    "lists in parquet": (lambda folder: table(folder / "a.parquet", v=REAL.tolist(), y=[1.0] * 30), REAL.astype("f8")),
    "images in parquet": (lambda folder: table(folder / "a.parquet", image=files(GREYS), y=[1] * 30), GREYS),
    "a folder of images": (lambda folder: image_folder(folder, all=COLOURS), COLOURS),
    "a saved data set": (lambda folder: saved(folder, REAL), REAL),
}


@pytest.mark.parametrize("mapped_from", [1 << 28, 0], ids=["in memory", "on disk"])
@pytest.mark.parametrize("case", SOURCES)
def test_a_single_split_is_what_the_same_array_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, mapped_from: int
) -> None:
    write, array = SOURCES[case]
    np.save(tmp_path / "own.npy", array)
    wanted = load_data(tmp_path / "own.npy")
    monkeypatch.setattr(stored, "MAPPED_FROM", mapped_from)
    data = load_data(f"hf:{write(tmp_path / 'own')}")
    assert isinstance(data.parts["train"], Tensor if mapped_from else Rows)
    assert (data.name, data.kind, data.hash) == ("own", wanted.kind, wanted.hash)
    a, b = wanted.split("train"), data.split("train")
    order = torch.randperm(len(a), generator=torch.Generator().manual_seed(0))
    for x, y in zip(a.batches(7, order=order), b.batches(7, order=order), strict=True):
        assert torch.equal(x.x, y.x)
    if isinstance(rows := data.parts["train"], Rows):
        # what begins and ends as neighbours would
        assert torch.equal(rows.read(np.array([4, 6, 5, 7])), rows.read(np.arange(4, 8))[[0, 2, 1, 3]])


@pytest.mark.parametrize("at_once", [7, 256])
@pytest.mark.parametrize("case", SOURCES)
def test_a_streamed_copy_is_what_the_same_array_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, at_once: int
) -> None:
    monkeypatch.setattr(huggingface, "_STREAMED_AT_ONCE", at_once)
    write, array = SOURCES[case]
    (path,) = save_data(f"hf:{write(tmp_path / 'own')}", tmp_path / "copy")
    assert path == tmp_path / "copy" / "data.npy"
    copy = np.load(path)
    assert copy.dtype == array.dtype and np.array_equal(copy, array)
    assert load_data(path).hash == load_data(f"hf:{tmp_path / 'own'}").hash
    assert not list((tmp_path / "copy").glob(".*"))


def test_a_streamed_copy_has_the_same_parts(tmp_path: Path) -> None:
    for part, start, stop in (("train", 0, 20), ("validation", 20, 23), ("test", 23, 30)):
        table(tmp_path / "all" / f"{part}.parquet", v=REAL[start:stop].tolist())
    paths = save_data(f"hf:{tmp_path / 'all'}", tmp_path / "copy")
    assert [path.name for path in paths] == ["train.npy", "valid.npy", "test.npy"]
    assert load_data(tmp_path / "copy").hash == load_data(f"hf:{tmp_path / 'all'}").hash


def test_a_stream_that_breaks_off_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "_STREAMED_AT_ONCE", 10)
    source = f"hf:{table(tmp_path / 'own' / 'a.parquet', v=REAL.tolist())}"
    read, left = datasets.IterableDataset.iter, [2]

    def broken(self: Any, size: int) -> Any:
        for batch in read(self, size):
            if not left[0]:
                raise ConnectionError("the line is dead.")
            left[0] -= 1
            yield batch

    monkeypatch.setattr(datasets.IterableDataset, "iter", broken)
    with pytest.raises(
        LogpxError, match="received: the line is dead; where the network failed, give the same command again"
    ):
        save_data(source, tmp_path / "copy")
    assert not list((tmp_path / "copy").iterdir())


def test_the_files_of_a_copy_appear_together_or_not_at_all(tmp_path: Path) -> None:
    table(tmp_path / "own" / "train.parquet", v=REAL.tolist())
    table(tmp_path / "own" / "test.parquet", v=[[1.0, 2.0]] * 256 + [[1.0]])
    with pytest.raises(LogpxError, match=r"received \(1,\) float64 from row 256 on"):
        save_data(f"hf:{tmp_path / 'own'}", tmp_path / "copy")
    assert not list((tmp_path / "copy").iterdir())


def test_a_folder_that_holds_a_set_is_not_mixed_with_another(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / f".data.{2**22 + 1}@{machine()}.tmp.npy").write_text("left by a kill")
    source = f"hf:{table(tmp_path / 'own' / 'a.parquet', v=REAL.tolist())}"
    save_data(source, tmp_path / "copy")
    assert [path.name for path in (tmp_path / "copy").iterdir()] == ["data.npy"]
    assert load_data(tmp_path / "copy").hash == load_data(source).hash
    with pytest.raises(LogpxError, match=r"copy holds data.npy already: choose another folder"):
        save_data(source, tmp_path / "copy")


def test_images_that_a_stream_names_by_their_place_are_read_from_there(tmp_path: Path) -> None:
    """As those of the hub are, whose places are URLs; here within an archive."""
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for i, image in enumerate(GREYS):
            archive.writestr(f"{i}.png", png(image))
    places = [{"bytes": None, "path": f"zip://{i}.png::{tmp_path / 'all.zip'}"} for i in range(len(GREYS))]
    (path,) = save_data(f"hf:{table(tmp_path / 'own' / 'a.parquet', image=places)}", tmp_path / "copy")
    assert np.array_equal(np.load(path), GREYS)


@pytest.mark.parametrize(
    "stream",
    [
        datasets.Dataset.from_dict({"v": []}, features=datasets.Features({"v": datasets.List(datasets.Value("int8"))})),
        datasets.IterableDataset.from_generator(lambda: iter(())),
    ],
    ids=["with columns", "without"],
)
def test_a_stream_of_nothing_is_one_error(stream: Any) -> None:
    with pytest.raises(LogpxError, match="own: expected at least one datum, received an empty split; leave it out"):
        list(huggingface._stream("own", stream))


def test_only_the_column_of_data_is_streamed(tmp_path: Path) -> None:
    """The members of a tar file of pictures and texts, whose tables differ in the texts."""
    (tmp_path / "own").mkdir()
    with tarfile.open(tmp_path / "own" / "train-0.tar", "w") as archive:
        for i, image in enumerate(GREYS):
            for name, content in (
                (f"{i:02}.png", png(image)),
                (f"{i:02}.json", json.dumps({"a": i} if i else {}).encode()),
            ):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    (path,) = save_data(f"hf:{tmp_path / 'own'}", tmp_path / "copy")
    assert np.array_equal(np.load(path), GREYS)


STREAMS_REFUSED = {
    "a huge image": (
        lambda folder: table(folder / "a.parquet", image=files(np.zeros((2, 4097, 4096), np.uint8))),
        "it has 4096x4097 pixels, more than 16,777,216 in row 0",
    ),
    "a change of shape": (
        lambda folder: table(folder / "a.parquet", v=[[1.0, 2.0]] * 256 + [[1.0]]),
        r"received \(1,\) float64 from row 256 on after \(2,\) float64",
    ),
    "no image": (
        lambda folder: table(folder / "a.parquet", image=[*files(GREYS[[0] * 256]), {"bytes": b"1", "path": None}]),
        "own, 256 rows on: column 'image': expected a readable image, received the error .* in row 0",
    ),
    "two columns": (two_columns, r"received a \(dict\), b \(dict\), y \(int64\); keep one such column"),
}


@pytest.mark.parametrize("case", STREAMS_REFUSED)
def test_a_stream_that_cannot_be_used_is_one_error(tmp_path: Path, case: str) -> None:
    write, message = STREAMS_REFUSED[case]
    with pytest.raises(LogpxError, match=message):
        save_data(f"hf:{write(tmp_path / 'own')}", tmp_path / "copy")
    assert not list((tmp_path / "copy").iterdir())


def test_splits_are_our_parts_and_validation_is_test_where_there_is_none(tmp_path: Path) -> None:
    for part, start, stop in (("train", 0, 20), ("validation", 20, 23), ("test", 23, 30)):
        table(tmp_path / "all" / f"{part}.parquet", v=REAL[start:stop].tolist())
    data = load_data(f"hf:{tmp_path / 'all'}")
    assert [len(data.parts[part]) for part in ("train", "valid", "test")] == [20, 3, 7]
    assert torch.equal(data.parts["test"][:], torch.from_numpy(REAL[23:]))
    (tmp_path / "all" / "test.parquet").unlink()
    data = load_data(f"hf:{tmp_path / 'all'}")
    assert [len(data.parts[part]) for part in ("train", "valid", "test")] == [18, 2, 3]
    assert torch.equal(data.parts["test"][:], torch.from_numpy(REAL[20:23]))


def ragged(folder: Path) -> Path:
    return table(folder / "a.parquet", v=[[1.0, 2.0]] * 20 + [[1.0]])


def two_sizes(folder: Path) -> Path:
    return table(folder / "a.parquet", image=[*files(GREYS), *files(COLOURS[:1, ..., 0])])


def palette(folder: Path) -> Path:
    image_folder(folder, a=GREYS[:3])
    Image.new("P", (5, 4)).save(folder / "a" / "00.png")
    return folder


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


REFUSED = {
    "two columns": (
        two_columns,
        r"received a \(dict\), b \(dict\), y \(int64\); keep one such column",
    ),
    "no column": (lambda folder: table(folder / "a.parquet", y=[1] * 30), r"received y \(int64\)"),
    "ragged": (ragged, "received 1 values in place of 2 in row 20 of column 'v'"),
    "a gap": (lambda folder: table(folder / "a.parquet", v=[[1.0, None]] * 5), "received none in places of 'v'"),
    "two sizes": (
        two_sizes,
        "expected mode L and 5x4 pixels as in the first image, received mode L and 6x4 pixels in row",
    ),
    "no image": (
        lambda folder: table(folder / "a.parquet", image=[*files(GREYS[:2]), {"bytes": b"1", "path": None}]),
        "expected a readable image, received the error .* in row 2",
    ),
    "palette": (
        palette,
        r"expected grey \(L\) or colour \(RGB\) images, received mode P",
    ),
    "no files": (
        empty,
        "doesn't contain any data files; give a folder of parquet",
    ),
    "no folder": (lambda folder: folder, "expected a data set that `datasets` can load"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_one_error_with_the_cure(tmp_path: Path, case: str) -> None:
    write, message = REFUSED[case]
    with pytest.raises(LogpxError, match=message):
        load_data(f"hf:{write(tmp_path / 'own')}")


def test_splits_of_other_names_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        table(tmp_path / "own" / name / "0.parquet", v=REAL.tolist())
    files_of = "- {split: a, path: a/*}\n  - {split: b, path: b/*}"
    card = f"---\nconfigs:\n- config_name: default\n  data_files:\n  {files_of}\n---\n"
    (tmp_path / "own" / "README.md").write_text(card)
    with pytest.raises(LogpxError, match=r"expected the splits train and test .*, received \['a', 'b'\]"):
        load_data(f"hf:{tmp_path / 'own'}")


def test_without_the_library_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(LogpxError, match=r"pip install 'logpx\[datasets\]'"):
        load_data("hf:ylecun/mnist")


def test_a_name_on_the_hub_fails_with_one_line_when_offline(tmp_path: Path) -> None:
    done = subprocess.run(
        command("fit", "hf:nobody/nothing/config", "--out", tmp_path / "run"),
        env={**environment(), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "Couldn't reach 'nobody/nothing' on the Hub" in done.stderr and "check the network" in done.stderr


def test_a_fit_to_images_on_disk_is_found_again_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(tmp_path / "own" / "a.parquet", image=files(GREYS))
    monkeypatch.chdir(tmp_path)
    options = {**TINY, "epochs": 1, "binarization": "threshold", "batch_size": 8}
    logpx.fit("hf:own", out="memory", **options)
    monkeypatch.setattr(stored, "MAPPED_FROM", 0)
    run = logpx.fit("hf:own", out="disk", **options)
    assert_same_result(tmp_path / "memory", tmp_path / "disk")
    monkeypatch.chdir(os.sep)
    again = logpx.Run.open(run.path.resolve() if run.path.is_absolute() else tmp_path / run.path)
    assert again.settings.data.name == f"hf:{tmp_path / 'own'}" and len(again.load_split("test")) == 3


def test_the_library_is_left_as_it_was(tmp_path: Path) -> None:
    from huggingface_hub.utils import logging

    before = (logging.get_verbosity(), datasets.utils.are_progress_bars_disabled())
    load_data(f"hf:{table(tmp_path / 'own' / 'a.parquet', v=REAL.tolist())}")
    assert (logging.get_verbosity(), datasets.utils.are_progress_bars_disabled()) == before
