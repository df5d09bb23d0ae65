"""Random draws that are a function of (seed, purpose, block) alone, made on all cores at once.

torch's distributions draw from the global generator, which threads would share. Inside `keyed_draws` every random
operation of this thread is handed a generator of its own instead; other threads and the global generator see nothing.
"""

from __future__ import annotations

__all__ = ["block_ends", "keyed_draws", "largest_block", "map_blocks"]

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from ..utils import generator

FIRST_BLOCK = 1024
LARGEST_BLOCK = 2**17
# Numbers in one block of draws, at most: 16 MiB in float32.
BLOCK_NUMBERS = 2**22
_RANDOM = {
    *("rand", "randn", "randint", "randperm", "normal", "bernoulli", "poisson", "binomial", "multinomial"),
    *("_standard_gamma", "_sample_dirichlet", "normal_", "uniform_", "exponential_", "cauchy_", "geometric_"),
    *("log_normal_", "bernoulli_", "random_"),
}
_LIKE = {"rand_like": "rand", "randn_like": "randn", "randint_like": "randint"}
_Block = TypeVar("_Block")
_Result = TypeVar("_Result")


def largest_block(event_size: int) -> int:
    """Returns the number of draws of a full block, by the numbers in one draw alone, so that results do not vary."""
    return max(1, min(LARGEST_BLOCK, BLOCK_NUMBERS // max(event_size, 1)))


def block_ends(largest: int) -> Iterator[int]:
    """Yields where the blocks of draws end: at first they double, so that few draws waste little, then they are equal.

    Example:
        >>> from itertools import islice
        >>> list(islice(block_ends(4096), 6))
        [1024, 2048, 4096, 8192, 12288, 16384]
    """
    end = min(FIRST_BLOCK, largest)
    while True:
        yield end
        end += min(end, largest)


@contextmanager
def keyed_draws(seed: int, *key: int | str) -> Iterator[None]:
    """Within the block, what this thread draws on the CPU is a function of (seed, key) alone.

    Code that draws by other means than these functions (dropout, C++ extensions, numpy's global state) is not covered.
    """
    with _Keyed(generator(seed, *key)):
        yield


class _Keyed(TorchFunctionMode):
    """Hands its generator to every random function of torch that is called without one."""

    def __init__(self, rng: torch.Generator) -> None:
        super().__init__()
        self.rng = rng

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name in _LIKE:
            # rand_like(x, ...) takes no generator in all versions of torch; rand(shape, ...) does
            x, *rest = args
            kwargs = {"dtype": x.dtype, "device": x.device, **kwargs}
            return getattr(torch, _LIKE[name])(*rest, size=x.shape, generator=self.rng, **kwargs)
        if name not in _RANDOM:
            return func(*args, **kwargs)
        return func(*args, **{**kwargs, "generator": kwargs.get("generator") or self.rng})


def map_blocks(
    work: Callable[[_Block], _Result], blocks: Iterable[_Block], num_workers: int | None = None
) -> Iterator[_Result]:
    """Yields work(block) in the order of the blocks, computed by several threads.

    Arguments:
        work: A function that threads may call at the same time.
        blocks: Its arguments, which are asked for one by one, in this thread.
        num_workers: The number of threads; by default as many as torch uses, each with one core.
    """
    blocks = iter(blocks)
    first = list(islice(blocks, 2))
    workers = _SINGLE.usual() if num_workers is None else num_workers
    if workers <= 1 or len(first) < 2:
        yield from map(work, chain(first, blocks))
        return
    with _SINGLE:
        # else threads of this thread's would spin between its own operations, on cores that the pool has use for
        torch.set_num_threads(1)
        yield from _mapped(work, chain(first, blocks), workers)


def _mapped(work: Callable[[_Block], _Result], blocks: Iterator[_Block], workers: int) -> Iterator[_Result]:
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    try:
        # twice as many in flight as threads: none waits, and memory does not grow with the number of blocks
        waiting = [pool.submit(work, block) for block in islice(blocks, 2 * workers)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(work, later) for later in islice(blocks, 1)]
    finally:
        pool.shutdown(cancel_futures=True)


class _Single:
    """While threads of a pool have one core each, so do threads to come: with the last pool they are as before."""

    def __init__(self) -> None:
        self.lock, self.pools, self.threads = threading.Lock(), 0, 0

    def usual(self) -> int:
        with self.lock:
            return self.threads if self.pools else torch.get_num_threads()

    def __enter__(self) -> None:
        with self.lock:
            self.threads = self.threads if self.pools else torch.get_num_threads()
            self.pools += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.pools -= 1
            # each pool sets its own threads, so that the usual number may return at once
            torch.set_num_threads(self.threads)


_SINGLE = _Single()
