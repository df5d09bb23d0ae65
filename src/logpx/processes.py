"""The processes of one computation, started by Lightning Fabric: what they share, decide together, and end together.

`--devices N` starts N processes on this machine, by the same command; torchrun and SLURM start them themselves. All
read; the first writes to the run folder, but for finished parts of an evaluation. What one of them finds wrong ends
them all, and one of them says it.
"""

from __future__ import annotations

__all__ = ["Processes", "divided", "is_first_process", "launched", "leave"]

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from .utils import LogpxError, choose_device

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import Precision

# How long a process waits for the first to say what both have found, in seconds.
PATIENCE = 10.0
SPOKEN = "logpx/spoken"
LOST = (
    "Another process of this computation has ended without a word, perhaps for want of memory: see what its machine "
    "says of it, and go on from what is saved (a fit by logpx fit --resume RUN, an evaluation by the same command)."
)
_Result = TypeVar("_Result")
# the processes that this one has started
_children: list[subprocess.Popen[bytes]] = []


class Processes:
    """The processes of one computation, seen from one of them.

    Arguments:
        fabric: What launched them.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.rank, self.count = fabric.global_rank, fabric.world_size
        self.is_first = self.rank == 0

    def sums(self, values: Sequence[float]) -> list[float]:
        """Returns the sums over processes of some numbers, in float64, the same in all of them."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.fabric.device)
        dist.all_reduce(total)
        return [float(value) for value in total.tolist()]

    def any(self, is_so: bool) -> bool:
        """Returns whether something is so in one process at least."""
        return bool(self.sums([float(is_so)])[0])

    def from_first(self, value: _Result) -> _Result:
        """Returns the value of the first process, in all of them; they wait for it."""
        return value if self.count == 1 else self.fabric.broadcast(value)

    def from_all(self, value: _Result) -> list[_Result]:
        """Returns the values of all processes in their order, in all of them; they wait for each other."""
        values: list[_Result | None] = [value] * self.count
        if self.count > 1:
            dist.all_gather_object(values, value)
        return cast(list[_Result], values)

    def require_all(self) -> None:
        """Notices that a process which this one has started is gone, where it would compute on for long.

        Raises:
            LogpxError: If it is so.
        """
        if any(child.poll() for child in _children):
            raise LogpxError(LOST)

    def by_first(self, work: Callable[[], object]) -> None:
        """Does some work in the first process alone; the others wait until it is done."""
        if self.is_first:
            work()
        self.from_first(None)

    def first_first(self, work: Callable[[], _Result]) -> _Result:
        """Returns what some work gives, done by the first process before the others do it: it may leave a file."""
        if not self.is_first:
            self.from_first(None)
        result = work()
        if self.is_first:
            self.from_first(None)
        return result


class _Alone(Processes):
    """The only process, where nothing was launched."""

    def __init__(self) -> None:
        self.rank, self.count, self.is_first = 0, 1, True


def is_first_process() -> bool:
    """Returns whether this process is the only one or the first of several: the one that speaks."""
    return not (dist.is_available() and dist.is_initialized() and dist.get_rank() > 0)


def leave(code: int) -> None:
    """Ends this process where it is one of several; else does nothing.

    At once, because threads of torch's that are still at their last message can block or abort Python's own way out.

    Arguments:
        code: The exit code.
    """
    if dist.is_available() and dist.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def divided(device: str, devices: int | None = None, num_nodes: int | None = None) -> AbstractContextManager[Processes]:
    """Launches the processes of a computation as :func:`launched` does; one alone is left as it is, without Fabric.

    Arguments:
        device: The kind of device: auto, cpu or cuda.
        devices: How many processes each machine has.
        num_nodes: How many machines.

    Returns:
        The processes, seen from this one.

    Raises:
        ValueError: If a number is below 1.
        LogpxError: If there are fewer devices, or another process ended without a word.
    """
    is_alone = not _is_divided(*_numbers(devices, num_nodes))
    return nullcontext(_Alone()) if is_alone else launched(device, devices, num_nodes)


@contextmanager
def launched(
    device: str, devices: int | None = None, num_nodes: int | None = None, plugin: Precision | None = None
) -> Iterator[Processes]:
    """Launches the processes of a computation; an error in the block ends all of them, and is raised in one.

    Arguments:
        device: The kind of device: auto, cpu or cuda.
        devices: How many processes each machine has, each with a device of its own; by default 1, or as many as
            torchrun has started.
        num_nodes: How many machines; by default 1, or as many as torchrun has started on.
        plugin: The precision.

    Returns:
        The processes, seen from this one.

    Raises:
        ValueError: If a number is below 1.
        LogpxError: If there are fewer devices, or another process ended without a word.
    """
    # seconds, which a process that is alone need not spend
    from lightning_fabric import Fabric

    devices, num_nodes = _numbers(devices, num_nodes)
    kind = choose_device(device).type
    _require_devices(kind, devices)
    is_divided = _is_divided(devices, num_nodes)
    fabric = Fabric(
        accelerator=kind,
        devices=devices,
        num_nodes=num_nodes,
        strategy="ddp" if is_divided else "auto",
        plugins=[plugin] if plugin else None,
    )
    try:
        with _quiet():
            fabric.launch()
        _watch(fabric)
        yield Processes(fabric)
        # from here on they may end as they like
        _children.clear()
    except BaseException as error:
        if not is_divided:
            raise
        raise _ended(fabric, error) from error.__cause__


def _numbers(devices: int | None, num_nodes: int | None) -> tuple[int, int]:
    for name, number in (("devices", devices), ("num_nodes", num_nodes)):
        if number is not None and number < 1:
            raise ValueError(f"{name} must be 1 or more, but is {number}: give the number of {name} to use.")
    if devices is None and num_nodes is None and _is_by_torchrun():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return local, int(os.environ["WORLD_SIZE"]) // local
    return devices or 1, num_nodes or 1


def _is_divided(devices: int, num_nodes: int) -> bool:
    return devices * num_nodes > 1 or _is_by_torchrun()


def _is_by_torchrun() -> bool:
    return dist.is_available() and dist.is_torchelastic_launched()


def _require_devices(kind: str, devices: int) -> None:
    if kind == "cuda" and devices > (found := torch.cuda.device_count()):
        raise LogpxError(f"{devices} devices were asked for, but there are {found}: set devices to {found} or fewer.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block Fabric prints no lines about what it does."""
    logger = logging.getLogger("lightning_fabric")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _watch(fabric: Fabric) -> None:
    """Watches the processes that were started, in the place of Fabric, which would end this one without a word."""
    started: list[subprocess.Popen[bytes]] = getattr(fabric.strategy.launcher, "procs", [])
    if started:
        _children.extend(started)
        started.clear()
        threading.Thread(target=_end_with_others, name="logpx-watch", daemon=True).start()


def _end_with_others() -> None:
    """Ends this process a while after another, where it waits or computes on and has seen nothing of it by then."""
    while not any(child.poll() for child in _children):
        if not _children:
            return
        time.sleep(1.0)
    time.sleep(PATIENCE)
    if not _children:
        return
    if _speaks_first():
        print(f"logpx: {LOST}", file=sys.stderr)
    for child in _children:
        child.kill()
    leave(1)


def _ended(fabric: Fabric, error: BaseException) -> BaseException:
    """Returns what ends this process after an error: the error where it is for this one to say, else silence."""
    is_first = fabric.global_rank == 0
    speaks = not dist.is_initialized() or (_speaks_first() if is_first else _speaks_otherwise())
    for child in _children:
        if not speaks:
            # it says what has happened
            with suppress(subprocess.TimeoutExpired):
                child.wait(PATIENCE)
        child.kill()
    # nobody need watch them any longer
    _children.clear()
    if not speaks:
        leave(130 if isinstance(error, KeyboardInterrupt) else 1)
    return _explained(error)


def _speaks_first() -> bool:
    try:
        return _get_default_store().add(SPOKEN, 1) == 1
    except dist.DistError:
        return True


def _speaks_otherwise() -> bool:
    """Lets the first process say it, if it does so soon or has said so and is gone."""
    store, until = _get_default_store(), time.monotonic() + PATIENCE
    try:
        while time.monotonic() < until:
            if store.check([SPOKEN]):
                return False
            time.sleep(0.05)
    except dist.DistError:
        return False
    return _speaks_first()


def _explained(error: BaseException) -> BaseException:
    is_lost = isinstance(error, dist.DistError) or any(
        word in str(error) for word in ("gloo", "Connection closed by peer", "Connection reset")
    )
    if not isinstance(error, RuntimeError) or not is_lost:
        return error
    return LogpxError(LOST)
