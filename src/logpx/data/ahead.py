"""Work that a thread does one or two steps ahead of who wants it."""

from __future__ import annotations

__all__ = ["ahead"]

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_NUM_AHEAD = 2


def ahead(tasks: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Yields what tasks return, in their order, while a thread works on the next ones.

    An error of a task is raised where its result would have come. The thread ends with the iterator, however that ends.

    Arguments:
        tasks: The tasks, each a function without arguments.

    Example:
        >>> list(ahead([lambda: 1, lambda: 2]))
        [1, 2]
    """
    waiting: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(1, "logpx-read")
    try:
        for task in tasks:
            waiting.append(pool.submit(task))
            if len(waiting) > _NUM_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
