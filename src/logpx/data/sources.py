"""From a name or a path to a data set."""

from __future__ import annotations

__all__ = ["known_data", "load_data"]

import difflib
import hashlib
from pathlib import Path

import torch
from torch import Tensor

from ..utils import LogpxError
from ._parts import Raw, divide, from_whole
from .amat import read_amat
from .arrays import load_arrays
from .catalogue import CATALOGUE, PREFIX, File, Known
from .cifar import read_cifar
from .dataset import DataSet
from .download import download, first_writable
from .find import file_names, find_file, folder_of, known_data, search_roots
from .huggingface import load_huggingface
from .idx import read_idx
from .images import load_images
from .mat import read_mat


def load_data(
    name_or_path: str | Path,
    *,
    data_root: str | Path | None = None,
    num_valid: int | None = None,
    download: bool = True,
) -> DataSet:
    """Loads a data set by its name, from a .npy or .npz file or a folder of images, or by Hugging Face's `datasets`.

    A named set is looked for under `data_root`, $LOGPX_DATA and the user's cache, then downloaded to the
    first of these that can be written to; its content is checked against its hash, where that is known.

    Arguments:
        name_or_path: A known name, or a path, or "hf:" and OWNER/NAME, OWNER/NAME/CONFIG or a local folder; a `Path`,
            or a string such as "./mnist", is always a path.
        data_root: The folder to look in first for a named set.
        num_valid: How many of the last training data to validate on; None for the default. Where the set has
            validation data of its own, 0 appends these to train.
        download: Whether a named set that was not found may be downloaded.

    Raises:
        LogpxError: If the set is unknown, absent, or damaged.
        ValueError: If `num_valid` is not possible.

    Example:
        >>> data = load_data("digits")
        >>> data.event_shape, data.kind, [len(part) for part in data.parts.values()]
        ((1, 8, 8), '8-bit', [1197, 300, 300])
    """
    if isinstance(name_or_path, str) and name_or_path in CATALOGUE:
        known = CATALOGUE[name_or_path]
        raw = _load_files(known, data_root, download) if known.files else _load_digits(known)
        return divide(known.name, raw, num_valid)
    if isinstance(name_or_path, str) and name_or_path.startswith(PREFIX):
        return divide(*load_huggingface(name_or_path.removeprefix(PREFIX)), num_valid)
    path = Path(name_or_path).expanduser()
    return divide(path.name if path.is_dir() else path.stem, _load_path(path, str(name_or_path)), num_valid)


def _load_path(path: Path, received: str) -> Raw:
    if path.is_dir():
        has_arrays = any((path / name).is_file() for name in ("train.npy", "data.npy"))
        return load_arrays(path) if has_arrays else load_images(path)
    if path.is_file() and path.suffix in (".npy", ".npz"):
        return load_arrays(path)
    if path.is_file():
        raise LogpxError(
            f"{path}: expected a .npy or .npz file or a folder of images, received a file of another type; convert it."
        )
    closest = difflib.get_close_matches(received, CATALOGUE, n=1, cutoff=0.5)
    hint = f"did you mean {closest[0]!r}?" if closest else "pass one of these."
    raise LogpxError(
        f"expected a path that exists or a data set among {', '.join(CATALOGUE)}, received {received!r}; {hint}"
    )


def _load_digits(known: Known) -> Raw:
    from sklearn.datasets import load_digits

    images = torch.from_numpy(load_digits().images).to(torch.uint8)[:, None]
    return from_whole(known.kind, known.levels, images, "scikit-learn", num_test=known.sizes["test"])


def _load_files(known: Known, data_root: str | Path | None, may_download: bool) -> Raw:
    roots = search_roots(data_root)
    paths = {
        file.part: find_file(known, file, roots) or _fetch(known, file, roots, may_download) for file in known.files
    }
    parts = {
        file.part: read_known(known, file, paths[file.part]).reshape(-1, *known.event_shape) for file in known.files
    }
    return Raw(
        known.kind,
        known.levels,
        train=parts["train"],
        valid=parts.get("valid"),
        test=parts["test"],
        default_num_valid=known.sizes["valid"],
        source=folder_of(paths["train"]),
    )


def read_known(known: Known, file: File, path: Path) -> Tensor:
    """Reads a part of a named set and checks its content.

    Arguments:
        known: The data set.
        file: The file in the catalogue.
        path: Where it was found; for an archive this may be the folder that it unpacks to.

    Raises:
        LogpxError: If it is damaged or holds something else.
    """
    values = _read(file, path)
    received = _sha256(values, file.ordered) if file.sha256 else ""
    if received != file.sha256:
        raise LogpxError(
            f"{path}: expected content with the sha256 {file.sha256}, received {received}{_cure(known, file, received)}"
        )
    return values


def _read(file: File, path: Path) -> Tensor:
    """Reads a file in the format that its name in the catalogue tells."""
    if file.members:
        return read_cifar(path, file.members, file.shape)
    if ".amat" in file.name:
        return read_amat(path, (file.shape[0], file.shape[1]))
    if file.name.endswith(".mat"):
        return read_mat(path, file.shape)
    return read_idx(path, file.shape)


def _sha256(values: Tensor, ordered: bool) -> str:
    """Returns the hash of the values, or of the set of data that they are; see `File`."""
    if ordered:
        return hashlib.sha256(values.numpy().data).hexdigest()
    digests = sorted(hashlib.sha256(datum.data).digest() for datum in values.numpy())
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _cure(known: Known, file: File, sha256: str) -> str:
    owners = [other.name for other in CATALOGUE.values() for f in other.files if f.sha256 == sha256]
    if owners:
        return f", which is that of {owners[0]}; keep the two apart in folders named {owners[0]} and {known.name}."
    return f"; delete it and get it again from {known.url}{file.name}."


def _fetch(known: Known, file: File, roots: list[Path], may_download: bool) -> Path:
    folder = first_writable(roots) / known.name
    reason = "downloading is switched off"
    if may_download:
        try:
            return download(known.url + file.name, folder / file.name, lambda path: _check_all(known, file.name, path))
        except LogpxError as error:
            reason = str(error).removesuffix(".")
    looked = ", ".join(str(root) for root in roots)
    raise LogpxError(
        f"{known.name}: expected the files {file_names(known)} under {looked}, "
        f"received no {file.name} ({reason}); put them into {folder}."
    )


def _check_all(known: Known, name: str, path: Path) -> None:
    """Raises unless a file holds all the parts that are in the file of this name."""
    for file in known.files:
        if file.name == name:
            read_known(known, file, path)
