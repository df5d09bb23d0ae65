"""A process that has torch and logpx imported and forks for each command, because to import them takes seconds.

Each line of its input is a request in JSON: the words of a command, the files for its output and errors, and Python
that runs before and after it. Each is answered by the number of the process that runs it, and then by its exit code.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
import traceback
from contextlib import redirect_stdout
from typing import Any, NoReturn

import logpx.cli

for name in ("train", "page", "generate", "comparison", "evaluation"):
    importlib.import_module(f"logpx.{name}")
with redirect_stdout(io.StringIO()):
    # makes the parser of settings
    logpx.cli.main(["fit", "digits", "--print-config"])


def serve(request: dict[str, Any]) -> NoReturn:
    """Runs a command and ends the process."""
    for number, path in enumerate((os.devnull, request["output"], request["errors"])):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644), number)
    code = 3
    try:
        sys.argv = ["logpx", *request["words"]]
        names: dict[str, Any] = {}
        exec(request["before"], names)
        code = logpx.cli.main(request["words"])
        exec(request["after"], names)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def answer(what: int) -> None:
    print(what, flush=True)


if __name__ == "__main__":
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            serve(json.loads(line))
        answer(child)
        answer(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
