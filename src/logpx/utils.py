r"""Log-mean-exp, keyed randomness, chunking, and the one place where units are computed."""

from __future__ import annotations

__all__ = [
    "MEMORY_BUDGET",
    "LogpxError",
    "bits_per_dim",
    "choose_device",
    "chunks",
    "generator",
    "keep_freed_memory",
    "keyed_rng",
    "log_mean_exp",
    "num_at_once",
    "rng_state",
    "scale_of",
    "soft_bound",
    "spread",
]

import contextlib
import hashlib
import math
import operator
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributions import Distribution

# Float32 copies of one decoder output that are alive at once, the network's hidden layers included: a rough count.
COPIES = 8
# What is decoded at once by default, in bytes: little enough that the allocator keeps the memory from one chunk to the
# next: with 2^28 bytes a convolutional decoder takes 1.4 times as long on a CPU, and a perceptron a tenth less.
MEMORY_BUDGET = 2**24
LOG_VARIANCE_BOUND = 14.0


class LogpxError(Exception):
    """An error that logpx can explain: a broken file, a missing data set, a run that cannot go on."""


def log_mean_exp(log_w: Tensor, dim: int = 0) -> Tensor:
    r"""Returns the logarithm of the mean of exponentials, :math:`\log \frac{1}{S} \sum_s e^{\ell_s}`.

    Arguments:
        log_w: The logarithms :math:`\ell`, in nats, of any shape.
        dim: The dimension that is averaged over, of size :math:`S`.

    Example:
        >>> log_mean_exp(torch.tensor([0.0, 0.0])).item()
        0.0
    """
    return torch.logsumexp(log_w, dim) - math.log(log_w.shape[dim])


def bits_per_dim(log_p: float | Tensor, num_dims: int) -> float | Tensor:
    r"""Converts a log-probability in nats to a code length in bits per dimension, :math:`-\log p(x) / (D \ln 2)`.

    Arguments:
        log_p: The log-probability :math:`\log p(x)`, in nats.
        num_dims: The number of dimensions :math:`D` of one datum (height x width x channels).

    Example:
        >>> bits_per_dim(-math.log(256.0), 1)
        8.0
    """
    return -log_p / (num_dims * math.log(2.0))


def soft_bound(x: Tensor, bound: float) -> Tensor:
    r"""Squeezes a tensor smoothly into :math:`(-b, b)` by :math:`x / \sqrt{1 + (x / b)^2}`.

    It is the identity near 0, and its slope falls only as :math:`|x|^{-3}`, so a gradient never dies.

    Arguments:
        x: The unbounded values, of any shape.
        bound: The bound :math:`b`.
    """
    return x * torch.rsqrt(1 + (x / bound) ** 2)


def scale_of(log_variance: Tensor) -> Tensor:
    r"""Returns :math:`\sigma = e^{\log(\sigma^2) / 2}`, the log-variance bounded smoothly to (-14, 14).

    Arguments:
        log_variance: What a network gives for :math:`\log \sigma^2`, of any shape.

    Example:
        >>> scale_of(torch.tensor(0.0)).item()
        1.0
    """
    return torch.exp(0.5 * soft_bound(log_variance, LOG_VARIANCE_BOUND))


def chunks(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Yields the half-open ranges (start, stop) of at most `size` that cover `range(total)` in order.

    Example:
        >>> list(chunks(5, 2))
        [(0, 2), (2, 4), (4, 5)]
    """
    for start in range(0, total, size):
        yield start, min(start + size, total)


def num_at_once(p: Distribution, memory_budget: int = 2**30) -> int:
    """Returns how many times what a decoder gave fits the memory, and at least 1: a mixture has many numbers per value.

    Arguments:
        p: The likelihood that the decoder gave for a part of the data.
        memory_budget: The memory for outputs, in bytes, as a rough guide.

    Example:
        >>> num_at_once(torch.distributions.Categorical(logits=torch.zeros(4, 256)), memory_budget=2**20)
        32
    """
    size = max(_num_held(p), p.batch_shape.numel() * p.event_shape.numel())
    return max(1, memory_budget // (4 * COPIES * size))


def keep_freed_memory() -> None:
    """Lets the C library keep up to 64 MiB that are freed for what comes next, as it does by itself after a while.

    glibc gives blocks of megabytes back to the system, and fetches them again page by page for the next piece of the
    work, until one block of nearly 32 MiB was freed; this is such a block, which nothing is written to. Without it an
    evaluation by importance sampling took 1.3 times as long on one thread.
    """
    # where memory is so short, nothing is lost but time
    with contextlib.suppress(MemoryError, RuntimeError):
        torch.empty(2**25 - 2**16, dtype=torch.uint8, device="cpu")


def spread(total: int, num: int) -> Tensor:
    """Returns at most `num` positions spread evenly over `range(total)`, because data are often sorted by class.

    Example:
        >>> spread(10, 4).tolist()
        [0, 3, 6, 9]
    """
    return torch.linspace(0, total - 1, min(num, total), dtype=torch.float64).round().long()


def choose_device(name: str) -> torch.device:
    """Returns the device of a name; "auto" is a CUDA device where there is one, and else the CPU.

    Raises:
        LogpxError: If the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if torch.device(name).type == "cuda" and not torch.cuda.is_available():
        raise LogpxError(f"Device {name!r} was asked for, but PyTorch finds no CUDA here: use device cpu or auto.")
    return torch.device(name)


def generator(seed: int, *key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Returns a generator whose stream is a function of (seed, key) alone.

    Arguments:
        seed: The user's seed.
        key: What the numbers are for, for instance `("binarize", "test")`.
        device: The device of the numbers.
    """
    return torch.Generator(device=device).manual_seed(_mix(seed, *key))


@contextlib.contextmanager
def keyed_rng(seed: int, *key: int | str, device: torch.device | str = "cpu") -> Iterator[None]:
    """Within the block, torch's default generators follow (seed, key); afterwards they are as before.

    Distributions and dropout draw from the default generators and accept no other: so a result depends on
    the key alone, and the caller's own random numbers are not touched.

    Arguments:
        seed: The user's seed.
        key: What the numbers are for, for instance `("train", step)`.
        device: The device on which numbers are drawn, beside the CPU.
    """
    device = torch.device(device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices, enabled=True):
        torch.default_generator.manual_seed(_mix(seed, *key))
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(_mix(seed, *key))
        yield


def rng_state(device: torch.device | str = "cpu") -> Tensor:
    """Returns the state of torch's default generators, which is another after each draw.

    Arguments:
        device: The device on which numbers are drawn, beside the CPU.
    """
    device = torch.device(device)
    states = [torch.get_rng_state()] + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])
    return torch.cat(states)


def _num_held(p: Distribution) -> int:
    """Returns how many numbers a distribution holds, each tensor counted once."""
    held = {id(value): value for value in vars(p).values()}.values()
    return sum(
        value.numel() if isinstance(value, Tensor) else _num_held(value) if isinstance(value, Distribution) else 0
        for value in held
    )


def _mix(seed: int, *key: int | str) -> int:
    """Hashes (seed, key) to 63 bits; a hash, not a sum, so that neighbouring keys share nothing."""
    digest = hashlib.blake2b(repr((operator.index(seed), *key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
