"""Where the files of named data sets are looked for; no torch, so that the list of sets is made fast."""

from __future__ import annotations

__all__ = ["KnownData", "file_names", "find_file", "folder_of", "known_data", "search_roots", "user_cache"]

import os
from dataclasses import dataclass
from pathlib import Path

from .catalogue import CATALOGUE, File, Kind, Known


@dataclass(frozen=True)
class KnownData:
    """One line of the list of known data sets.

    Arguments:
        name: What a person types.
        description: One line for a person to read.
        kind: The kind of the raw values.
        event_shape: The shape of one datum, channels first.
        sizes: How many data train, valid and test have unless told otherwise.
        default_recipe: The recipe that fits it unless told otherwise.
        found: Where it was found, or None.
        how_to_get: What happens, or what to do, when it was not found.
    """

    name: str
    description: str
    kind: Kind
    event_shape: tuple[int, ...]
    sizes: dict[str, int]
    default_recipe: str
    found: str | None
    how_to_get: str


def known_data(data_root: str | Path | None = None) -> list[KnownData]:
    """Lists the data sets that are known by name, and where each was found.

    Arguments:
        data_root: The folder to look in first.

    Example:
        >>> [data.name for data in known_data()]
        ['digits', 'mnist', 'fashion-mnist', 'binarized-mnist', 'cifar10', 'svhn']
    """
    roots = search_roots(data_root)
    return [
        KnownData(
            name=known.name,
            description=_description(known),
            kind=known.kind,
            event_shape=known.event_shape,
            sizes=known.sizes,
            default_recipe=known.default_recipe,
            found=_found(known, roots),
            how_to_get=_how_to_get(known, roots),
        )
        for known in CATALOGUE.values()
    ]


def search_roots(data_root: str | Path | None = None) -> list[Path]:
    """Returns the folders to look in, first one first: `data_root`, $LOGPX_DATA, the user's cache.

    Arguments:
        data_root: The folder to look in first, if any.
    """
    given = [data_root, os.environ.get("LOGPX_DATA")]
    return [Path(root).expanduser() for root in given if root] + [user_cache()]


def user_cache() -> Path:
    """Returns the folder in which this system keeps a user's cached data for logpx."""
    import pooch

    return Path(pooch.os_cache("logpx"))


def find_file(known: Known, file: File, roots: list[Path]) -> Path | None:
    """Returns the first of ROOT/<set>/<file> and ROOT/<file> under the roots, gzipped or plain.

    In place of an archive the folder that it unpacks to is returned, where that holds all its members.

    Arguments:
        known: The data set that the file belongs to.
        file: The file to find.
        roots: The folders to look in, first one first.
    """
    plain = file.name.removesuffix(".gz")
    for root in roots:
        for folder in (root / known.name, root):
            if file.members and all((folder / name).is_file() for name in file.members):
                return (folder / file.members[0]).parent
            for path in (folder / f"{plain}.gz", folder / plain):
                if path.is_file():
                    return path
    return None


def folder_of(path: Path) -> str:
    """Returns the folder that was found, or that a file which was found is in."""
    return str(path if path.is_dir() else path.parent)


def file_names(known: Known) -> str:
    """Returns the names of the files of a data set, for a person to read."""
    notes = [f" (or the folder {Path(file.members[0]).parent} in it)" if file.members else "" for file in known.files]
    return ", ".join(dict.fromkeys(file.name + note for file, note in zip(known.files, notes, strict=True)))


def _description(known: Known) -> str:
    is_checked = all(file.sha256 for file in known.files)
    return known.description + ("" if is_checked else "; hash not known, so only shape and type are checked")


def _how_to_get(known: Known, roots: list[Path]) -> str:
    if not known.files:
        return "ships with scikit-learn"
    folder = roots[0] / known.name
    return f"downloaded from {known.url} when first used; without a network put {file_names(known)} into {folder}"


def _found(known: Known, roots: list[Path]) -> str | None:
    if not known.files:
        return "scikit-learn"
    paths = [find_file(known, file, roots) for file in known.files]
    return folder_of(paths[0]) if paths[0] and all(paths) else None
