"""Seconds until `logpx --help` has answered, beside an empty Python process and one that imports torch.

python benchmarks/startup.py
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from _timing import goal, in_turns, medians, parser, show, write

COMMANDS = {
    "logpx --help": ["-m", "logpx", "--help"],
    "logpx evaluate --help": ["-m", "logpx", "evaluate", "--help"],
    "python -c pass": ["-c", "pass"],
    "python -c 'import torch'": ["-c", "import torch"],
}


def main() -> None:
    given = parser(__doc__, repetitions=9).parse_args()
    seconds = in_turns({name: started(words) for name, words in COMMANDS.items()}, given.repetitions)
    show(seconds, "logpx --help", "s")
    met = [goal(8, "seconds of logpx --help", medians(seconds)["logpx --help"], 0.5)]
    write(given.json, {"seconds": seconds, "medians": medians(seconds), "goals": met})


def started(words: list[str]) -> Callable[[int], None]:
    def run(number: int) -> None:
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)

    return run


if __name__ == "__main__":
    main()
