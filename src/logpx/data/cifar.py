"""The binary format of CIFAR-10: per image a byte with its label, then the planes of its colours."""

from __future__ import annotations

__all__ = ["read_cifar"]

import math
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from ..utils import LogpxError
from ._files import opened, read_prefix

_LABEL_BYTES = 1


def read_cifar(path: Path, members: tuple[str, ...], shape: tuple[int, ...]) -> Tensor:
    """Reads the images, without their labels, from an archive or from the folder that it unpacks to.

    Arguments:
        path: The archive, a tar file, plain or gzipped; or the folder.
        members: The files in the archive, by their names there, each of which holds as many images as the others.
        shape: The shape (N, C, H, W) of all images together; memory is bounded by it.

    Returns:
        The images, of shape `shape`, uint8.

    Raises:
        LogpxError: If a file is damaged, absent, or of another size.
    """
    num_images, num_values = shape[0] // len(members), math.prod(shape[1:])
    size = num_images * (_LABEL_BYTES + num_values)
    images = np.empty((len(members), num_images, num_values), dtype=np.uint8)
    missing = set(members)
    for name, content in (_unpacked if path.is_dir() else _archived)(path, members, size + 1):
        if len(content) != size:
            received = f"more than {size}" if len(content) > size else len(content)
            raise LogpxError(
                f"{path}: expected {size} bytes for {num_images} images in {name}, received {received}; "
                "delete it and get it again."
            )
        images[members.index(name)] = np.frombuffer(content, np.uint8).reshape(num_images, -1)[:, _LABEL_BYTES:]
        missing.discard(name)
    if missing:
        raise LogpxError(f"{path}: expected the files {sorted(missing)} in it, received none; get the right archive.")
    return torch.from_numpy(images.reshape(shape))


def _unpacked(folder: Path, members: tuple[str, ...], size: int) -> Iterator[tuple[str, bytes | bytearray]]:
    """Yields the names of the members and at most `size` bytes of each."""
    for name in members:
        yield name, read_prefix(folder.parent / name, size)


def _archived(path: Path, members: tuple[str, ...], size: int) -> Iterator[tuple[str, bytes | bytearray]]:
    """Yields the same in the order of the archive, in one pass and to memory only."""
    try:
        with opened(path) as stream, tarfile.open(fileobj=stream, mode="r|", bufsize=1 << 20) as archive:
            files = ((str(PurePosixPath(info.name)), info) for info in archive if info.isreg())
            for name, info in islice((file for file in files if file[0] in members), len(members)):
                if (content := archive.extractfile(info)) is not None:
                    yield name, content.read(size)
    except tarfile.TarError as error:
        raise LogpxError(
            f"{path}: expected a complete tar archive, received one that cannot be read ({error}); "
            "delete it and get it again."
        ) from error
