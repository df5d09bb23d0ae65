"""The fit of a model that knows its log p(x), by expectation maximization over all data, into a run folder.

What a fit reaches is a function of (settings, data), also where it was interrupted and goes on: the state that is
saved holds every start, its sums and its history.
"""

from __future__ import annotations

__all__ = ["fit_by_em"]

import math
import time
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from .checkpoint import load_state, resuming_from, write_rows, write_state
from .em import EMFit, EMModel, Iteration, fit_em
from .interrupt import interruptible
from .model import as_model
from .progress import track
from .run import Run
from .settings import Settings
from .utils import choose_device
from .weights import save_weights

RESTART_ITERATIONS = 10
# A fit is saved when it ends, when it is interrupted, and after so many seconds.
SAVE_EVERY = 60.0


def fit_by_em(run: Run, settings: Settings, model: nn.Module, progress: bool | None) -> Run:
    """Fits a blank model from random starts, or from where the run stands, and keeps the result in the run.

    Arguments:
        run: The run.
        settings: The settings.
        model: The model, with the steps of EM.
        progress: Whether to show a progress bar; by default only on a terminal.

    Returns:
        The run, its model and data in memory.

    Raises:
        KeyboardInterrupt: After Ctrl-C; the best start so far is saved, and the fit can go on.
        LogpxError: If the likelihood is not finite, or the saved state cannot be read.
    """
    device, options = choose_device(settings.device), settings.em
    climb = partial(
        fit_em,
        cast(EMModel, model.to(device)),
        run.load_split("train").to(device),
        max_iterations=options.max_iterations,
        tolerance=options.tolerance,
        restarts=options.restarts,
        restart_iterations=RESTART_ITERATIONS,
        seed=settings.seed,
        progress=False,
    )
    state, seconds = _restore(run, device)
    started = time.perf_counter() - max(seconds.values(), default=0.0)
    total = options.max_iterations + (options.restarts - 1) * min(RESTART_ITERATIONS, options.max_iterations)
    with track("fit", total, progress) as show, interruptible() as interrupted:
        is_done = False
        while not is_done:
            due, num_known = time.perf_counter() + SAVE_EVERY, len(seconds)

            def each(row: Iteration, due: float = due) -> bool:
                seconds[row.start, row.iteration] = time.perf_counter() - started
                show(len(seconds), f"start {row.start + 1}, log p(x) {row.log_evidence:.4f} nats")
                return interrupted() or time.perf_counter() > due

            fit: EMFit[Any] = climb(state=state, each=each)
            state, is_done = fit.state, not fit.was_told_to_end
            if len(seconds) > num_known:
                _save(run, fit, seconds)
            if interrupted():
                raise KeyboardInterrupt(f"Interrupted and saved; continue with: logpx fit --resume {run.path}")

    run.model = as_model(model.cpu())
    run.load_model()
    return run


def _save(run: Run, fit: EMFit[Any], seconds: dict[tuple[int, int], float]) -> None:
    """Writes weights, metrics, and the state from which a fit goes on."""
    run.forget_evaluation()
    for name in ("best", "last"):
        save_weights(fit.model.state_dict(), run.path / f"{name}.safetensors")
    write_rows(run, _rows(fit, seconds))
    # the state comes last: what a crash between them leaves undone, a resume does again
    write_state(run, {"em": fit.state, "seconds": seconds})


def _restore(run: Run, device: torch.device) -> tuple[dict[str, Any] | None, dict[tuple[int, int], float]]:
    """Returns the state of a fit, and when each start came to each iteration, in seconds; nothing where none is."""
    path = run.path / "training.pt"
    if not path.exists():
        return None, {}
    with resuming_from(path):
        content = load_state(path, device)
        return content["em"], content["seconds"]


def _rows(fit: EMFit[Any], seconds: dict[tuple[int, int], float]) -> list[dict[str, Any]]:
    """Returns the rows of metrics.csv, those of the best start last; bounds are in nats per datum."""
    rows: list[dict[str, Any]] = []
    for row, before in zip(fit.history, (None, *fit.history), strict=False):
        is_next = before is not None and (before.start, before.segment) == (row.start, row.segment)
        rows.append(
            {
                "start": row.start,
                "iteration": row.iteration,
                "segment": row.segment,
                "log_evidence": row.log_evidence,
                "elbo_before": math.nan if row.elbo_before is None else row.elbo_before,
                "elbo_after": row.elbo_after,
                "penalized": row.penalized,
                "gain": row.penalized - before.penalized if before is not None and is_next else math.nan,
                "seconds": round(seconds[row.start, row.iteration], 3),
                "events": " ".join(row.events),
            }
        )
    return rows
