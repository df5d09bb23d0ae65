"""Downloading the files of named data sets, with retries; nothing half-written or wrong stays behind."""

from __future__ import annotations

__all__ = ["download"]

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..utils import LogpxError

_RETRIES = 3


def download(url: str, path: Path, check: Callable[[Path], object]) -> Path:
    """Downloads a file to a temporary name beside `path`, checks its content, and renames it.

    Arguments:
        url: Where it is.
        path: Where it goes.
        check: Called with the temporary file; raises a `LogpxError` when the content is wrong, and the
            download is tried again.

    Raises:
        LogpxError: If it cannot be downloaded.
    """
    import pooch
    import requests

    def fetch_and_check(url: str, output_file: Any, pup: Any) -> None:
        pooch.HTTPDownloader(chunk_size=1 << 16)(url, output_file, pup)
        try:
            check(Path(output_file))
        except LogpxError as error:
            raise ValueError(str(error)) from error

    store = pooch.create(
        path.parent, base_url="", registry={path.name: None}, urls={path.name: url}, retry_if_failed=_RETRIES
    )
    logger = pooch.get_logger()
    level = logger.level
    try:
        logger.setLevel("CRITICAL")  # one line of ours in place of one per try of pooch's
        return Path(store.fetch(path.name, downloader=fetch_and_check))
    except (OSError, ValueError) as error:
        reason = "no connection" if isinstance(error, requests.exceptions.ConnectionError) else error
        raise LogpxError(f"{url}: expected a download, received the error {reason}; try later.") from error
    finally:
        logger.setLevel(level)


def first_writable(roots: list[Path]) -> Path:
    """Returns the first folder that can be written to, or made; the last one when there is none.

    Arguments:
        roots: The folders, first one first.
    """
    for root in roots:
        existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
        if existing.is_dir() and os.access(existing, os.W_OK):
            return root
    return roots[-1]
