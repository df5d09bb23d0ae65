"""Runs the side-by-side benchmarks one after the other, each in a process of its own, and collects what they found.

Goals that are met or missed are listed at the end; the figures are in JSON files beside each other.

    make bench            # or: python benchmarks/bench.py --out runs/bench
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
BENCHMARKS = ("startup", "memory", "training", "evidence", "discretized_logistic", "project_simulation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of the JSON files")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS)
    options = parser.parse_args()
    started, goals = time.perf_counter(), []
    for name in options.only:
        print(f"\n== {name}", flush=True)
        path = options.out / f"{name}.json"
        path.unlink(missing_ok=True)
        subprocess.run([sys.executable, HERE / f"{name}.py", "--json", path], check=True)
        goals += json.loads(path.read_text())["goals"]
    print(f"\n== goals, after {(time.perf_counter() - started) / 60:.1f} minutes")
    for each in sorted(goals, key=lambda goal: str(goal["goal"])):
        verdict = "met" if each["met"] else "MISSED"
        print(f"{verdict:6}  ({each['goal']}) {each['text']}: {each['value']:.3g}, limit {each['limit']:g}")


if __name__ == "__main__":
    main()
