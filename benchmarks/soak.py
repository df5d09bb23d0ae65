"""A soak: fit, evaluate and report in one process, again and again, and whether its memory stays flat.

Each cycle fits a tiny VAE to the digits, estimates log p(x) of 100 test data by the default estimator, and makes the
page. After it memory, open files, threads and Python objects are written to OUT/soak.csv. At the end the slope of
anonymous resident memory over cycles m = a + b i, after a warm-up of a fifth of the time, is printed with its standard
error and written to OUT/soak.json; where b - 2 se(b) exceeds BOUND, or files or threads have become more, the exit code
is 1. Pages of files, such as libraries, come and go with what else the machine does, so that they do not count.

Run it with `python benchmarks/soak.py --minutes 30`.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import math
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import logpx

# KiB per cycle: 1,000 cycles would cost less than 20 MiB.
BOUND = 20.0
WARM_UP = 0.2
FIT = {"hidden": (64,), "latent_dim": 4, "epochs": 2}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=Path("runs/soak"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    with (options.out / "soak.csv").open("w", newline="") as file:
        for row in cycles(60 * options.minutes, options.out / "run"):
            if not rows:
                table = csv.DictWriter(file, fieldnames=list(row))
                table.writeheader()
            table.writerow(row)
            file.flush()
            if not rows or row["seconds"] // 60 > rows[-1]["seconds"] // 60:
                print("  ".join(f"{name} {value:,}" for name, value in row.items()), flush=True)
            rows.append(row)
    return verdict(rows, options.out)


def cycles(seconds: float, folder: Path) -> Iterator[dict[str, float]]:
    started, cycle = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        run = logpx.fit("digits", out=folder, overwrite=True, progress=False, seed=cycle, **FIT)
        run.evaluate(limit=100, progress=False)
        logpx.report(run)
        cycle += 1
        yield {"cycle": cycle, "seconds": round(time.monotonic() - started, 1), **resources()}


def resources() -> dict[str, float]:
    """Memory in KiB and what else a process can leak; Linux."""
    gc.collect()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "anonymous_kib": int(status["RssAnon"].split()[0]),
        "resident_kib": int(status["VmRSS"].split()[0]),
        "peak_kib": int(status["VmHWM"].split()[0]),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": int(status["Threads"]),
        "objects": len(gc.get_objects()),
    }


def verdict(rows: list[dict[str, float]], out: Path) -> int:
    rows = [row for row in rows if row["seconds"] >= WARM_UP * rows[-1]["seconds"]]
    if len(rows) < 20:
        raise SystemExit(f"A soak needs 20 cycles after its warm-up, but had {len(rows)}: give it more minutes.")
    memory = [row["anonymous_kib"] for row in rows]
    slope, error = line([row["cycle"] for row in rows], memory)
    tenth = len(rows) // 10
    first, last = statistics.median(memory[:tenth]), statistics.median(memory[-tenth:])
    more = {name: rows[-1][name] - rows[0][name] for name in ("files", "threads", "objects")}
    is_flat = slope - 2 * error <= BOUND and more["files"] <= 0 and more["threads"] <= 0
    result = {
        "cycles": len(rows),
        "seconds": rows[-1]["seconds"],
        "kib_per_cycle": slope,
        "standard_error": error,
        "first_tenth_kib": first,
        "last_tenth_kib": last,
        "peak_kib": rows[-1]["peak_kib"],
        "more": more,
        "bound": BOUND,
        "is_flat": is_flat,
    }
    (out / "soak.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"{len(rows)} cycles after the warm-up: memory grew by {slope:.2f} +- {error:.2f} KiB per cycle")
    print(f"median of the first tenth {first / 1024:.1f} MiB, of the last {last / 1024:.1f} MiB; more since: {more}")
    print("flat" if is_flat else f"NOT FLAT: at most {BOUND} KiB per cycle, and no more files or threads, are allowed")
    return 0 if is_flat else 1


def line(x: list[float], y: list[float]) -> tuple[float, float]:
    """Returns the slope of least squares and its standard error, as if the residuals were independent."""
    slope, intercept = statistics.linear_regression(x, y)
    residuals = [b - intercept - slope * a for a, b in zip(x, y, strict=True)]
    # se(b)^2 = sum of squared residuals / ((n - 2) sum (x - mean)^2)
    return slope, math.sqrt(
        statistics.fsum(r * r for r in residuals) / (len(x) - 2) / (len(x) * statistics.pvariance(x))
    )


if __name__ == "__main__":
    raise SystemExit(main())
