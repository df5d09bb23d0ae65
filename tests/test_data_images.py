"""Folders of images: every pixel arrives, and whatever is broken is one error that names the file."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from logpx.data import load_data
from logpx.utils import LogpxError


def write_images(
    folder: Path, n: int, *, mode: str = "L", size: tuple[int, int] = (3, 2), suffix: str = "png"
) -> np.ndarray:
    """Writes images of width x height pixels whose names sort in the order of the array that it returns."""
    shape = (n, size[1], size[0]) + ((3,) if mode == "RGB" else ())
    pixels = np.random.default_rng(n).integers(0, 256, shape, dtype=np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i:02}.{suffix}")
    return pixels


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", "png"), ("RGB", "PNG"), ("RGB", "webp"), ("L", "jpg"), ("RGB", "jpeg")]
)
def test_a_folder_of_images(tmp_path: Path, mode: str, suffix: str) -> None:
    pixels = write_images(tmp_path / "sub" / "faces", 10, mode=mode, suffix=suffix)
    (tmp_path / "notes.txt").write_text("not an image")
    data = load_data(tmp_path)
    assert (data.kind, data.levels, data.event_shape) == ("8-bit", 256, (3 if mode == "RGB" else 1, 2, 3))
    assert [len(data.parts[name]) for name in ("train", "valid", "test")] == [8, 1, 1]
    if suffix == "png":
        rows = torch.cat([data.rows[name] for name in data.parts])
        assert np.array_equal(torch.cat(list(data.parts.values())).numpy()[:, 0], pixels[rows.numpy()])
    if suffix == "PNG":
        test = data.parts["test"][0].permute(1, 2, 0).numpy()
        assert np.array_equal(test, pixels[int(data.rows["test"][0])])


def test_sub_folders_are_the_parts(tmp_path: Path) -> None:
    written = {name: write_images(tmp_path / name, n) for name, n in (("train", 5), ("valid", 2), ("test", 3))}
    data = load_data(tmp_path)
    for name, pixels in written.items():
        assert np.array_equal(data.parts[name][:, 0].numpy(), pixels)


BAD_IMAGES = {
    "another size": ("03.png", (4, 2), "L", "mode L and 3x2 pixels as in .*00.png, received mode L and 4x2"),
    "another mode": ("03.png", (3, 2), "RGB", "mode L and 3x2 .*, received mode RGB and 3x2"),
    "first with alpha": ("00.png", (3, 2), "RGBA", "received mode RGBA; convert"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_unlike_images_are_one_error(tmp_path: Path, case: str) -> None:
    name, size, mode, message = BAD_IMAGES[case]
    write_images(tmp_path, 5)
    Image.new(mode, size).save(tmp_path / name)
    check_error(message, tmp_path / name, lambda _: load_data(tmp_path))


def test_an_unreadable_image_is_one_error(tmp_path: Path) -> None:
    write_images(tmp_path, 5)
    for content in (b"not an image", (tmp_path / "01.png").read_bytes()[:-25]):
        (tmp_path / "02.png").write_bytes(content)
        check_error("expected a readable image", tmp_path / "02.png", lambda _: load_data(tmp_path))


def test_an_image_that_says_it_is_huge_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """A PNG of a few bytes whose header promises 5,000 x 5,000 pixels."""
    write_images(tmp_path, 4)
    path = tmp_path / "02.png"
    content = path.read_bytes()
    header = b"IHDR" + struct.pack(">II", 5000, 5000) + content[24:29]
    path.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])
    with pytest.raises(LogpxError, match=r"02.png: .* it has 5000x5000 pixels, more than 16,777,216"):
        load_data(tmp_path)


def test_an_image_of_another_format_than_its_name_is_refused(tmp_path: Path) -> None:
    """Pillow reads many formats, and some of its readers believe whatever a header says."""
    write_images(tmp_path, 4)
    Image.new("L", (3, 2)).save(tmp_path / "02.png", format="GIF")
    with pytest.raises(LogpxError, match=r"02.png: expected a readable image"):
        load_data(tmp_path)


def test_a_folder_without_images_or_without_test_is_one_error(tmp_path: Path) -> None:
    check_error("received an empty set", tmp_path, load_data)
    write_images(tmp_path / "train", 3)
    check_error(r"train and test .* received \['train'\] only", tmp_path, load_data)


def check_error(message: str, path: Path, call: Any) -> None:
    """Checks that the call raises one line that names the file and matches the message."""
    with pytest.raises(LogpxError, match=message) as caught:
        call(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
