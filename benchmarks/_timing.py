"""What the benchmarks share: versions timed in turns, tables of medians and ratios, and records of them."""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

import logpx


def parser(description: str, repetitions: int = 5) -> argparse.ArgumentParser:
    """Returns a parser with the options that all benchmarks have."""
    parsed = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parsed.add_argument("--repetitions", type=int, default=repetitions, help="of each version, in turns")
    parsed.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parsed.add_argument("--json", type=Path, help="also write the figures to this file")
    return parsed


def in_turns(versions: Mapping[str, Callable[[int], object]], repetitions: int) -> dict[str, list[float]]:
    """Times versions in turns, so that a busy machine slows all of them; one round before warms up.

    Arguments:
        versions: Functions of the round, which may return the seconds that they measured themselves, as a float.
        repetitions: The number of rounds that count.

    Returns:
        The seconds of each version and round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in versions}
    for number in range(repetitions + 1):
        for name, version in versions.items():
            started = time.perf_counter()
            measured = version(number)
            seconds[name].append(time.perf_counter() - started if not isinstance(measured, float) else measured)
    return {name: values[1:] for name, values in seconds.items()}


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in seconds.items()}


def ratios(seconds: Mapping[str, list[float]], a: str, b: str) -> tuple[float, float, float]:
    """Returns the least, median and largest ratio of a to b over rounds, each of which ran them side by side."""
    each = sorted(x / y for x, y in zip(seconds[a], seconds[b], strict=True))
    return each[0], statistics.median(each), each[-1]


def show(seconds: Mapping[str, list[float]], ours: str, unit: str, per: float = 1.0) -> None:
    """Prints the medians of all versions, and how they compare with ours, with the spread over rounds."""
    print(f"{'version':<36}{unit:>14}{'/ ' + ours:>16}   over rounds")
    for name, values in seconds.items():
        least, middle, most = ratios(seconds, name, ours)
        print(f"{name:<36}{statistics.median(values) / per:14.4g}{middle:16.2f}   {least:.2f} to {most:.2f}")


def goal(number: int | str, text: str, value: float, limit: float, at_most: bool = True) -> dict[str, Any]:
    """Says whether a goal is met, and returns what was measured."""
    value = float(value)
    is_met = value <= limit if at_most else value >= limit
    print(f"({number}) {text}: {value:.3g}, goal {'at most' if at_most else 'at least'} {limit:g}: ", end="")
    print("met" if is_met else "MISSED")
    return {"goal": number, "text": text, "value": value, "limit": limit, "met": is_met}


def write(path: Path | None, record: Mapping[str, Any]) -> None:
    """Writes a record to a JSON file, with the machine and the versions."""
    if path is None:
        return
    where = {
        "machine": f"{platform.machine()}, {processor()}",
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "logpx": logpx.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**where, **record}, indent=1, default=float) + "\n")


def processor() -> str:
    """Returns the processor in words, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
