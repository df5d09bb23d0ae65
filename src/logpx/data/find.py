"""Where the files of named data sets are looked for; no torch, so that the list of sets is made fast."""

from __future__ import annotations

__all__ = ["KnownData", "find_file", "known_data", "search_roots", "user_cache"]

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
        ['digits', 'mnist', 'fashion-mnist', 'binarized-mnist']
    """
    roots = search_roots(data_root)
    return [
        KnownData(
            name=known.name,
            description=known.description,
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
    """Returns the first of ROOT/<set>/<file> and ROOT/<file>, gzipped or plain, that exists under the roots.

    Arguments:
        known: The data set that the file belongs to.
        file: The file to find.
        roots: The folders to look in, first one first.
    """
    plain = file.name.removesuffix(".gz")
    for root in roots:
        for folder in (root / known.name, root):
            for path in (folder / f"{plain}.gz", folder / plain):
                if path.is_file():
                    return path
    return None


def _how_to_get(known: Known, roots: list[Path]) -> str:
    if not known.files:
        return "ships with scikit-learn"
    names = ", ".join(file.name for file in known.files)
    folder = roots[0] / known.name
    return f"downloaded from {known.url} when first used; without a network put {names} into {folder}"


def _found(known: Known, roots: list[Path]) -> str | None:
    if not known.files:
        return "scikit-learn"
    paths = [find_file(known, file, roots) for file in known.files]
    return str(paths[0].parent) if paths[0] and all(paths) else None
