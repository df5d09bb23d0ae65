"""What a run buys over another one on the same data, in nats."""

from __future__ import annotations

__all__ = ["compare", "suggestion"]

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import comparison
from ..data import Split
from ..run import Run


def compare(run: Run, baseline: Run) -> dict[str, Any]:
    """Returns the mean difference of log p(x) over the same data, with its error, and what the two numbers are.

    Arguments:
        run: The run.
        baseline: The run that it is compared with.

    Raises:
        ValueError: If one of them was not evaluated, gives no log-probability, or they were evaluated on other data.
    """
    ours, theirs = comparison.matched(run.evaluated(), baseline.evaluated())
    result = comparison.compare(ours, theirs)
    return {
        "name": theirs.name,
        "difference": (result.difference, result.error),
        "bits": result.bits_per_dim(math.prod(ours.record["data"]["event_shape"])),
        "num_better": result.num_better,
        "num_data": result.num_data,
        "verdict": result.verdict("this model", "the baseline"),
        "caution": comparison.caution(ours, theirs),
        "ours": ours.record,
        "theirs": theirs.record,
    }


def suggestion(path: Path, config: Mapping[str, Any], split: Split) -> dict[str, str]:
    """Returns the commands that make a baseline by EM for the data of a run; nothing where EM has no such model.

    Arguments:
        path: The run folder.
        config: The settings of the run, nested.
        split: The data as its model sees them.
    """
    model = {"binary": "bernoulli-mixture", "real": "gaussian-mixture"}.get(split.kind)
    if model is None or config.get("model", {}).get("model", model) != "vae":
        return {}
    folder = str(path.with_name(f"{path.name}-{model}"))
    words = ["logpx", "fit", config["data"]["name"], "--model", model, "--out", folder]
    words += ["--binarization", split.binarization] if split.binarization != "none" else []
    words += ["--data-seed", str(split.seed)] if split.seed else []
    return {
        "fit": shlex.join(words),
        "evaluate": shlex.join(["logpx", "evaluate", folder]),
        "report": shlex.join(["logpx", "report", str(path), "--baseline", folder]),
    }
