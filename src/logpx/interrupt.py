"""Ctrl-C and SIGTERM as a wish that work can grant at a moment of its own."""

from __future__ import annotations

__all__ = ["interruptible"]

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Within the block the first Ctrl-C only sets a flag, the second interrupts at once; afterwards all is as before.

    Returns:
        A function that says whether an interrupt is wished.
    """
    wished = False

    def wish(number: int, frame: FrameType | None) -> None:
        nonlocal wished
        if wished:
            raise KeyboardInterrupt
        wished = True

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, wish) for number in numbers]
    try:
        yield lambda: wished
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
