"""Named data sets, folders of images and arrays: found or downloaded, checked, split and binarized.

Nothing here imports torch before it is used, so that a command's `--help` can list names quickly.
"""

from __future__ import annotations

__all__ = ["Batch", "Binarization", "DataSet", "Kind", "KnownData", "Split", "known_data", "load_data", "save_data"]

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batch import Batch
    from .catalogue import Binarization, Kind
    from .dataset import DataSet, Split
    from .find import KnownData, known_data
    from .saving import save_data
    from .sources import load_data

_HOMES = {
    "Batch": "batch",
    "Binarization": "catalogue",
    "DataSet": "dataset",
    "Kind": "catalogue",
    "KnownData": "find",
    "Split": "dataset",
    "known_data": "find",
    "load_data": "sources",
    "save_data": "saving",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
