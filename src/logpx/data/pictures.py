"""One picture, opened without trust in what it says of itself."""

from __future__ import annotations

__all__ = ["NO_PICTURE", "open_picture"]

import io
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, UnidentifiedImageError

# Other readers of Pillow believe more, or start other programs.
FORMATS = ("PNG", "JPEG", "WEBP")
MAX_PIXELS = 2**24  # a few bytes can say that they are thousands of times as many
# What Pillow raises of a picture that is none, or damaged.
NO_PICTURE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@contextmanager
def open_picture(content: bytes) -> Iterator[Image.Image]:
    """Within the block the header of a PNG, JPEG or WebP picture is read, and its pixels are when they are asked for.

    Arguments:
        content: The whole file, beyond whose end nothing is made room for.

    Raises:
        NO_PICTURE: If it cannot be read, or would have more than 2^24 pixels.
    """
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"it has {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
        yield image
