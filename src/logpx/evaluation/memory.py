"""An evaluation goes on where memory runs out: with fewer draws at once, which changes no number but by rounding."""

from __future__ import annotations

__all__ = ["Memory", "refused"]

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..evidence import Block, Estimator, Evidence
from ..utils import COPIES, LogpxError

# how allocators and the system say it, in a RuntimeError
MESSAGES = ("can't allocate memory", "can't start new thread", "CUBLAS_STATUS_ALLOC_FAILED")
NOTE = (
    "Memory ran out, so that fewer draws were decoded at once: that takes longer, and changes the numbers by rounding."
)


@dataclasses.dataclass
class Memory:
    """The memory that blocks of data may take.

    Arguments:
        budget: The memory for the decoder's outputs, in bytes, as a rough guide.
        is_short: Whether it had to be made less.
    """

    budget: int
    is_short: bool = False

    def estimate(self, estimator: Estimator, block: Block) -> Evidence:
        """Returns the estimates of a block, computed with half the memory whenever there is not enough.

        Arguments:
            estimator: The estimator.
            block: The block, whose own budget is not looked at.

        Raises:
            LogpxError: If there is too little memory for one draw at a time.
        """
        # one draw of one datum, in bytes
        least = 4 * COPIES * block.x[0].numel()
        while (found := _tried(estimator, dataclasses.replace(block, memory_budget=self.budget))) is None:
            if self.budget <= least:
                raise LogpxError(_refusal(estimator, block))
            self.budget, self.is_short = max(self.budget // 2, least), True
            if block.x.device.type == "cuda":
                torch.cuda.empty_cache()
        return found

    def notes(self) -> list[str]:
        """Returns what a reader of the numbers must know, in sentences."""
        return [NOTE] if self.is_short else []


@contextmanager
def refused(estimator: Estimator, block: Block) -> Iterator[None]:
    """Within the block a few draws are decoded: where memory runs out already then, fewer at once are no help.

    Arguments:
        estimator: The estimator that is to come.
        block: The block of data.

    Raises:
        LogpxError: If memory runs out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_shortage(error):
            raise
        raise LogpxError(_refusal(estimator, block)) from error


def _tried(estimator: Estimator, block: Block) -> Evidence | None:
    """Returns the estimates, or None where memory ran out: what filled it is let go only when the handler is left."""
    try:
        return estimator(block)
    except (MemoryError, RuntimeError) as error:
        if not _is_shortage(error):
            raise
        return None


def _is_shortage(error: Exception) -> bool:
    is_named = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return is_named or any(message in str(error) for message in MESSAGES)


def _refusal(estimator: Estimator, block: Block) -> str:
    fewer = "chains" if estimator.name == "annealed" else "draws"
    return (
        f"There is too little memory on {block.x.device} to evaluate {len(block)} data of shape "
        f"{tuple(block.x.shape[1:])} even one draw at a time: end other programs, evaluate with fewer {fewer} "
        f"(--num-samples), or use a machine with more memory."
    )
