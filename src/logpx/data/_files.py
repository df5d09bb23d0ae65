"""Reading a plain or gzipped file without trusting it."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from ..utils import LogpxError

Stream = gzip.GzipFile | BufferedReader

_CHUNK = 1 << 20


def read_prefix(path: Path, size: int) -> bytearray:
    """Returns the first `size` bytes of a file's uncompressed content, or all of it where it is shorter.

    Memory grows with what is really there, never with what a header promises.

    Arguments:
        path: The file, plain or gzipped; its first two bytes tell which, not its name.
        size: The number of bytes.

    Raises:
        LogpxError: If the file cannot be read or its compression is broken.
    """
    content = bytearray()
    with opened(path) as stream:
        while len(content) < size and (chunk := stream.read1(min(_CHUNK, size - len(content)))):
            content += chunk
    return content


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Stream]:
    """Opens the uncompressed content of a file, plain or gzipped; what goes wrong in the block is one error.

    Arguments:
        path: The file; its first two bytes tell whether it is compressed, not its name.

    Raises:
        LogpxError: If the file cannot be read or its compression is broken.
    """
    try:
        with _open(path) as stream:
            try:
                yield stream
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise LogpxError(
                    f"{path}: expected a complete gzip file, received one that breaks off or is damaged after byte "
                    f"{stream.tell()} of its content ({error}); delete it and get it again."
                ) from error
    except OSError as error:
        raise LogpxError(f"{path}: expected a readable file, received the error {error}; mend its access.") from error


def _open(path: Path) -> Stream:
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if is_gzip else path.open("rb")
