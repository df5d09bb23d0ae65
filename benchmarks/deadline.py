"""Cost and coverage of P(T >= 70 days) for the example project, against its exact value.

The durations are exponential, so that tasks under way end as a Markov chain on the sets of tasks that are done: the
probability is a matrix exponential (Markov and Markov-regenerative PERT networks, Kulkarni and Adlakha, 1986). For
each of many seeds a proposal goes on until its relative standard error is 1%. Prints a table; run it with
`python benchmarks/deadline.py`.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
from scipy import linalg

from logpx.project import Project, deadline_probability, example

DEADLINE = 70.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=300)
    options = parser.parse_args()
    truth = exact_tail(example(), DEADLINE)
    print(f"exact P(T >= {DEADLINE:g} days) = {truth:.6g}")
    print("proposal         seeds  mean estimate  covered by 95% intervals  draws to 1%, mean (largest), with the fit")
    for proposal, seeds in (("auto", options.seeds), ("critical-path=4", options.seeds // 3)):
        print(row(proposal, seeds, truth))


def row(proposal: str, seeds: int, truth: float) -> str:
    runs = [deadline_probability(example(), DEADLINE, proposal, relative_error=0.01, seed=s) for s in range(seeds)]
    mean = statistics.mean(run.estimate for run in runs)
    covered = statistics.mean(run.interval[0] <= truth <= run.interval[1] for run in runs)
    draws = [run.num_samples + run.num_adaptive for run in runs]
    return f"{proposal:15}  {seeds:5}  {mean:13.4g}  {covered:24.1%}  {statistics.mean(draws):,.0f} ({max(draws):,})"


def exact_tail(project: Project, deadline: float) -> float:
    states, todo, jumps = {frozenset[int](): 0}, [frozenset[int]()], list[tuple[int, int, float]]()
    while todo:
        done = todo.pop()
        for task in range(len(project.tasks)):
            if task not in done and set(project.predecessors[task]) <= done:
                after = done | {task}
                if after not in states:
                    states[after] = len(states)
                    todo.append(after)
                jumps.append((states[done], states[after], 1 / project.tasks[task].duration.mean))
    generator = np.zeros((len(states), len(states)))
    for a, b, rate in jumps:
        generator[a, b] += rate
        generator[a, a] -= rate
    reached = linalg.expm(generator * deadline)[0]
    return float(np.delete(reached, states[frozenset(range(len(project.tasks)))]).sum())


if __name__ == "__main__":
    main()
