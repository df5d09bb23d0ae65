r"""What a run buys over another one on the same data, in nats.

For n data the difference of the means is that of pairs, whose standard error knows that both models saw the same data:

.. math:: \bar d = \frac{1}{n} \sum_i d_i, \qquad d_i = \hat\ell_i - \hat\ell_i', \qquad
          \mathrm{error} = \mathrm{sd}(d) / \sqrt{n}.
"""

from __future__ import annotations

__all__ = ["compare", "suggestion"]

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Split
from ..run import Run
from ..utils import bits_per_dim

# What must be the same in two records of evaluations, so that their log p(x) can be compared.
SAME = ("hash", "split", "num_data", "kind", "event_shape", "binarization", "seed")


def compare(run: Run, baseline: Run) -> dict[str, Any]:
    """Returns the mean difference of log p(x) over the same data, with its error, and what the two numbers are.

    Arguments:
        run: The run.
        baseline: The run that it is compared with.

    Raises:
        ValueError: If one of them was not evaluated, gives no log-probability, or they were evaluated on other data.
    """
    ours, theirs = _record(run), _record(baseline)
    for key in SAME:
        if ours["data"][key] != theirs["data"][key]:
            raise ValueError(
                f"{run.path} and {baseline.path} cannot be compared, because their data differ in {key} "
                f"({ours['data'][key]} and {theirs['data'][key]}): fit and evaluate both on the same data."
            )
    difference = _log_evidence(run) - _log_evidence(baseline)
    mean = float(difference.mean())
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference)) if len(difference) > 1 else math.nan
    num_dims = math.prod(ours["data"]["event_shape"])
    return {
        "name": str(baseline.path),
        "difference": (mean, error),
        "bits": (bits_per_dim(-mean, num_dims), bits_per_dim(-error, num_dims)),
        "num_better": int((difference > 0).sum()),
        "num_data": len(difference),
        "ours": ours,
        "theirs": theirs,
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


def _record(run: Run) -> dict[str, Any]:
    record = run.evaluation()
    if record is None:
        raise ValueError(f"{run.path} has not been evaluated: run 'logpx evaluate {run.path}' first.")
    if record["relaxed"]:
        raise ValueError(
            f"{run.path} has no log-probability to compare, but a relaxed score ({record['relaxed']}): choose a run "
            "with another likelihood."
        )
    return record


def _log_evidence(run: Run) -> np.ndarray:
    scores = run.scores()
    if scores is None:
        raise ValueError(f"{run.path} has no evaluation.npz: run 'logpx evaluate {run.path}' again.")
    values: np.ndarray = scores["log_evidence"]
    return values
