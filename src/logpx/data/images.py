"""Data sets from folders of images."""

from __future__ import annotations

__all__ = ["load_images"]

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..utils import LogpxError
from ._parts import Raw, from_parts, from_whole
from .pictures import NO_PICTURE, open_picture

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_CHANNELS = {"L": 1, "RGB": 3}
_PARTS = ("train", "valid", "test")


def load_images(folder: Path) -> Raw:
    """Reads all PNG, JPEG and WebP images below a folder, in the order of their paths.

    The sub-folders train, test and perhaps valid, where there are any, are the parts. Grey images become
    (1, H, W) and colour images (3, H, W); the two are never mixed by themselves.

    Arguments:
        folder: The folder.

    Raises:
        LogpxError: If there is no image, one cannot be read, or they differ in size or mode.
    """
    names = [name for name in _PARTS if (folder / name).is_dir()]
    if names and not {"train", "test"} <= set(names):
        raise LogpxError(
            f"{folder}: expected the sub-folders train and test (and perhaps valid), received {names} only; "
            "add the other, or rename it."
        )
    paths = {name: _image_paths(folder / name) for name in names or [""]}
    first = next(iter(paths.values()))[0]
    form = _form(first)
    parts = {name: _read_all(some, first, form) for name, some in paths.items()}
    if names:
        return from_parts("8-bit", 256, parts, str(folder))
    return from_whole("8-bit", 256, parts[""], str(folder))


def _image_paths(folder: Path) -> list[Path]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    paths = sorted(path for path in files if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise LogpxError(f"{folder}: expected images ({', '.join(_SUFFIXES)}), received an empty set; add some.")
    return paths


def _form(path: Path) -> tuple[str, tuple[int, int]]:
    """Returns mode and size (width, height) of the first image, which are those of all."""
    _, mode, size = _open(path)
    if mode not in _CHANNELS:
        raise LogpxError(
            f"{path}: expected a grey (L) or colour (RGB) image, received mode {mode}; convert the images to L or RGB."
        )
    return mode, size


def _read_all(paths: list[Path], first: Path, form: tuple[str, tuple[int, int]]) -> Tensor:
    mode, (width, height) = form
    images = torch.empty((len(paths), _CHANNELS[mode], height, width), dtype=torch.uint8)
    for image, path in zip(images, paths, strict=True):
        pixels, *received = _open(path)
        if tuple(received) != form:
            raise LogpxError(
                f"{path}: expected mode {mode} and {width}x{height} pixels as in {first}, received mode "
                f"{received[0]} and {received[1][0]}x{received[1][1]}; convert or resize the images alike."
            )
        image.copy_(torch.from_numpy(pixels.reshape(height, width, -1)).permute(2, 0, 1))
    return images


def _open(path: Path) -> tuple[np.ndarray, str, tuple[int, int]]:
    """Returns pixels, mode and size (width, height)."""
    try:
        with open_picture(path.read_bytes()) as image:
            return np.array(image), image.mode, image.size
    except NO_PICTURE as error:
        raise LogpxError(
            f"{path}: expected a readable image, received the error {error}; mend or delete the file."
        ) from error
