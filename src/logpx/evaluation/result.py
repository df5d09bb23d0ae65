"""What an evaluation gives: a record, and numbers per datum."""

from __future__ import annotations

__all__ = ["SCORES", "Evaluation"]

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..evidence import METHODS, Evidence
from ..files import write_text
from ..wording import rows, table

IN_NATS = ("log_evidence", "standard_error", "elbo", "rate", "distortion", "jackknife")
SCORES = (
    "log_evidence",
    "standard_error",
    "ess",
    "pareto_k",
    "num_samples",
    "elbo",
    "rate",
    "distortion",
    "jackknife",
    "num_passes",
)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The record of an evaluation, fit for JSON, and the evidence per datum behind it, with its place in the split."""

    record: dict[str, Any]
    evidence: Evidence
    index: Tensor

    def scores(self) -> dict[str, np.ndarray]:
        """Returns the numbers per datum by name, each with shape (N,), in nats where they have a unit."""
        names = SCORES[:2] if self.record["estimator"] == "exact" else SCORES
        columns = {name: getattr(self.evidence, name).numpy() for name in names}
        method = np.array(METHODS)[self.evidence.method.numpy()]
        return {"index": self.index.numpy(), **columns, "method": method}

    def write_scores(self, path: str | Path) -> None:
        """Writes the numbers per datum to a CSV file; columns in nats say so."""
        scores = self.scores()
        names = [f"{name}_nats" if name in IN_NATS else name for name in scores]
        if self.record["relaxed"]:
            names = [name.replace("log_evidence", "relaxed_score") for name in names]
        cells = zip(*(column.tolist() for column in scores.values()), strict=True)
        lines = [",".join(names), *(",".join(map(_written, row)) for row in cells)]
        write_text(Path(path), "\n".join(lines) + "\n")

    def rows(self) -> list[tuple[str, str]]:
        """Returns the table of results: names and values with their units."""
        return rows(self.record)

    def __str__(self) -> str:
        return table(self.rows())


def _written(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.9g}"
