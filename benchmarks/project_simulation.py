"""Trials per second of the example project: logpx against numpy and pandas, and the memory of 10^8 trials.

Each version draws the ten exponential durations of 5 x 10^6 trials, finds every completion, and gives its mean and the
share that is not done after 70 days; "pandas" fills a DataFrame with all durations and ends per call, as one writes it
first; "numpy" keeps bare arrays in the same float64. They run in turns in one process, and ratios are of medians.

Run it on idle cores, after `pip install -c constraints.txt '.[bench]'`: `python benchmarks/project_simulation.py`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _timing import goal, in_turns, ratios, write

from logpx.project import Project, example, simulate
from logpx.project.risk import deadline_probability

DEADLINE = 70.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-trials", type=int, default=5_000_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="measure memory up to 10^8 trials instead")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    if options.memory:
        memory()
        return
    seconds = in_turns(versions(example(), options.num_trials), options.repetitions)
    show(seconds, options.num_trials)
    faster = ratios(seconds, "numpy + pandas", "logpx, P(late)")[1]
    met = [goal("project", "numpy + pandas / logpx", faster, 5, at_most=False)]
    write(options.json, {"num_trials": options.num_trials, "seconds": seconds, "goals": met})


def versions(project: Project, n: int) -> dict[str, Callable[[int], object]]:
    return {
        "numpy + pandas": lambda seed: with_pandas(project, n, seed),
        "numpy": lambda seed: with_numpy(project, n, seed),
        "logpx, P(late)": lambda seed: deadline_probability(project, DEADLINE, "plain", num_samples=n, seed=seed),
        "logpx, whole schedule": lambda seed: simulate(project, n, seed=seed),
    }


def with_pandas(project: Project, n: int, seed: int) -> tuple[float, float]:
    import pandas as pd

    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(index=range(n))
    for task in project.tasks:
        frame[f"duration {task.id}"] = rng.exponential(task.duration.mean, n)
        ends = [f"end {other}" for other in task.predecessors]
        start = frame[ends].max(axis=1) if ends else 0.0
        frame[f"end {task.id}"] = start + frame[f"duration {task.id}"]
    completion = frame[[f"end {task.id}" for task in project.tasks]].max(axis=1)
    return completion.mean(), (completion >= DEADLINE).mean()


def with_numpy(project: Project, n: int, seed: int) -> tuple[float, float]:
    rng, ends = np.random.default_rng(seed), dict[str, np.ndarray]()
    completion = np.zeros(n)
    for task in project.tasks:
        ends[task.id] = rng.exponential(task.duration.mean, n)
        start = np.zeros(n)
        for other in task.predecessors:
            np.maximum(start, ends[other], out=start)
        ends[task.id] += start
        np.maximum(completion, ends[task.id], out=completion)
    return float(completion.mean()), float((completion >= DEADLINE).mean())


def show(seconds: dict[str, list[float]], n: int) -> None:
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{'version':24}{'seconds':>9}{'trials/s':>14}{'times numpy + pandas':>22}{'times numpy':>13}")
    for name, median in medians.items():
        ratios = f"{medians['numpy + pandas'] / median:22.1f}{medians['numpy'] / median:13.1f}"
        print(f"{name:24}{median:9.3f}{n / median:14,.0f}{ratios}")


MEMORY = """
import resource, sys
from logpx.project import example, simulate
from logpx.project.risk import deadline_probability
n = int(sys.argv[1])
if sys.argv[2] == "schedule":
    result = simulate(example(), n).mean
else:
    result = deadline_probability(example(), 70.0, "plain", num_samples=n).estimate
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, result)
"""


def memory() -> None:
    print("   trials  what       peak memory  result              seconds")
    for what in ("P(late)", "schedule"):
        for n in (10**6, 10**7, 10**8):
            started = time.perf_counter()
            words = [sys.executable, "-c", MEMORY, str(n), what]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            mebibytes, result = map(float, done.stdout.split())
            seconds = time.perf_counter() - started
            print(f"{n:9.0e}  {what:9}  {mebibytes:7.0f} MiB  {result:18.6g}  {seconds:7.1f}")


if __name__ == "__main__":
    main()
