"""A run folder in, one self-contained HTML page out: the number, its errors and diagnosis, and pictures.

The page needs no network and no script. It and the figures (also written as PNG files) are a function of the
run, the data and the seed alone, so that writing them twice gives the same bytes.
"""

from __future__ import annotations

__all__ = ["report"]

import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from .. import generate, plots, wording
from ..data import Split
from ..exact import Mixture
from ..files import remove_leftovers, write_bytes
from ..model import LatentVariableModel
from ..run import Run
from ..settings import SETTINGS_OF
from ..utils import LogpxError, spread
from . import levels
from ._common import as_float, inline, named, number, png, render
from .baseline import compare, suggestion

NUM_ENCODED = 500  # data that say which latents are active
NUM_PAIRS, NUM_SAMPLES, NUM_EXTREMES = 36, 60, 10
NUM_COLUMNS = 12


def report(
    run: Run,
    *,
    model: LatentVariableModel | None = None,
    split: Split | None = None,
    baseline: Run | None = None,
    seed: int = 0,
) -> Path:
    """Writes `report.html` and the figures of a run.

    Arguments:
        run: The run folder; without an evaluation the page says how to add one.
        model: The model; by default the run's own.
        split: The data that are pictured; by default those of the evaluation, or else the test data.
        baseline: Another evaluated run of the same data, to which the log p(x) of this one is compared.
        seed: The seed of the samples from the prior.

    Returns:
        The path of the page.

    Raises:
        ValueError: If the baseline is of other data, one of the two has no log p(x), or the model gives no numbers.
    """
    record, scores = run.evaluation() or {}, run.scores() or {}
    compared = None if baseline is None else compare(run, baseline)
    model = run.load_model() if model is None else model
    split = run.load_split(record.get("data", {}).get("split", "test")) if split is None else split
    held_out = "test" if run.config.get("train", {}).get("validate_on") == "test" else "validation"
    tensors = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    device = next(iter(tensors), torch.zeros(())).device
    _check_index(run, scores, split)
    x = split.epoch(0).batch(spread(len(split), NUM_ENCODED), device=device).x
    metrics, bounds = run.metrics(), run.bounds() or {}
    with named(run.path):
        versions = levels.versions(model, split, x, seed)
        pictures = _pictures(model, split, x, versions, seed)
        bits = levels.code_lengths(model, split, seed, device) if versions else {}
        figures = _training(metrics, held_out) | pictures | _evidence(record, scores, split) | _bounds(bounds)
    images = {name: png(figure) for name, figure in figures.items()}
    # others may be writing the rest
    remove_leftovers(run.path / "figures")
    remove_leftovers(run.path, "report")
    for name, image in images.items():
        write_bytes(run.path / "figures" / f"{name}.png", image)
    page = _render(
        run,
        record,
        figures={name: inline(figures[name], image) for name, image in images.items()},
        versions=list(versions),
        bits=bits,
        split={"name": split.name, "num_data": len(split)},
        events=run.events(),
        em=_em(metrics, run.config),
        compared=compared,
        bounds=bounds,
        bounded=_quantity(bounds),
        suggested=suggestion(run.path, run.config, split),
        latent_shape=tuple(model.prior().event_shape),
    )
    write_bytes(run.path / "report.html", page.encode())
    return run.path / "report.html"


def _check_index(run: Run, scores: Mapping[str, np.ndarray], split: Split) -> None:
    if len(index := scores.get("index", np.empty(0))) and len(split) and index.max() >= len(split):
        raise LogpxError(
            f"{run.path}/evaluation.npz speaks of datum {index.max()}, but the {split.name} data are {len(split)}: run "
            f"'logpx evaluate {run.path}' again."
        )


def _training(metrics: Mapping[str, np.ndarray], held_out: str) -> dict[str, Figure]:
    if len(start := metrics.get("start", np.empty(0))):
        is_long = (start == start[-1]).sum() > 3
        steps = {"em_touch": plots.em_touch(metrics)} if is_long else {}
        return {"em_ascent": plots.em_ascent(metrics), **steps}
    if not len(metrics.get("epoch", ())):
        return {}
    return {"training_curves": plots.training_curves(metrics, held_out=held_out)}


def _pictures(
    model: LatentVariableModel, split: Split, x: Tensor, versions: Mapping[str, bool], seed: int
) -> dict[str, Figure]:
    """Draws what the model makes of data, and what it makes by itself."""
    samples = {
        label: generate.sample(model, NUM_SAMPLES, seed=seed, device=x.device, mean=mean)
        for label, mean in (versions or {"": True}).items()
    }
    limits = _limits(split.kind, x if len(x) else next(iter(samples.values())))
    figures = {}
    if len(x):
        shown = x[spread(len(x), NUM_PAIRS).to(x.device)]
        figures["reconstructions"] = _reconstructions(model, shown, versions, split.name, limits, seed)
    figures["samples"] = _samples(samples, limits)
    if versions:
        figures |= levels.predictions(model, shown, seed)
    if isinstance(model, Mixture):
        figures["components"] = _components(model, limits)
    if generate.has_real_latents(model):
        figures |= _latents(model, x, limits, seed)
    return figures


def _reconstructions(
    model: LatentVariableModel,
    x: Tensor,
    versions: Mapping[str, bool],
    name: str,
    limits: tuple[float, float],
    seed: int,
) -> Figure:
    if not versions:
        title = f"Data ({name}), and below them their reconstructions."
        pairs = _array(x), _array(generate.reconstruct(model, x, seed=seed))
        return plots.paired_grid(*pairs, NUM_COLUMNS, title=title, limits=limits)
    below = {label: generate.reconstruct(model, x, seed=seed, mean=mean) for label, mean in versions.items()}
    rows = {label: _array(each) for label, each in {"data": x, **below}.items()}
    title = f"Data ({name}), and below them {_spoken(versions)} of p(x | z)."
    return plots.stacked_grid(rows, NUM_COLUMNS, title=title, limits=limits)


def _samples(samples: Mapping[str, Tensor], limits: tuple[float, float]) -> Figure:
    rows = {label: _array(each) for label, each in samples.items()}
    title = "What the model generates from draws of its prior."
    if "" in rows:
        return plots.image_grid(rows[""], NUM_COLUMNS, title=title, limits=limits)
    title = f"What the model generates from its prior: {_spoken(rows)} of p(x | z)."
    return plots.stacked_grid(rows, NUM_COLUMNS, title=title, limits=limits)


def _spoken(versions: Iterable[str]) -> str:
    return " and ".join({"mean": "the mean", "sample": "a sample"}[label] for label in versions)


def _latents(model: LatentVariableModel, x: Tensor, limits: tuple[float, float], seed: int) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    if len(x):
        tiles = _array(generate.traverse(model, x, seed=seed))
        rows = [f"latent {i}" for i in generate.active_latents(model, x, len(tiles), seed=seed).tolist()]
        columns = [number(value, 1) for value in generate.TRAVERSAL]
        title = "In each row one latent of the same datum moves, and the others stay."
        unit = "value of the latent (no unit)"
        figures["traversals"] = plots.traversal_grid(tiles, rows, columns, title=title, x_label=unit, limits=limits)
    if model.prior().event_shape == (2,):
        tiles = _array(generate.manifold(model, seed=seed, device=x.device))
        title = "The plane of the two latents, decoded."
        unit = "latent 0 grows to the right, latent 1 upwards, by quantiles of the prior (no unit)"
        figures["manifold"] = plots.traversal_grid(tiles, title=title, x_label=unit, limits=limits)
    return figures


def _components(mixture: Mixture, limits: tuple[float, float]) -> Figure:
    with torch.no_grad():
        means = mixture.decoder(torch.eye(mixture.num_components, device=mixture.weights.device)).mean
    return plots.component_grid(_array(means), _array(mixture.weights), limits=limits)


def _evidence(record: Mapping[str, Any], scores: Mapping[str, np.ndarray], split: Split) -> dict[str, Figure]:
    """Draws what an evaluation found, as far as it is there."""
    figures, quantity = {}, _quantity(record)
    if len(values := scores.get("log_evidence", np.empty(0))):
        # of a subset the histogram shows the data themselves, and not all those that they stand for
        known = {} if record.get("subset") else record.get("log_evidence", {})
        error = as_float(known.get("error"))
        figures["histogram"] = plots.evidence_histogram(values, error=error, quantity=quantity)
        if not np.isnan(values).all() and len(split):
            figures["extremes"] = _extremes(scores, split, quantity)
    if (curve := record.get("curve")) and len(curve["num_samples"]):
        num, mean, se = (np.array(curve[key], dtype=float) for key in ("num_samples", "mean", "error"))
        # one draw of the encoder has the ELBO as its expectation; one draw of another proposal has not
        elbo = as_float(record.get("elbo")) if record.get("proposal") == "encoder" else None
        limit = _limit(record.get("extrapolation") or {})
        figures["curve"] = plots.evidence_curve(num, mean, se, elbo, limit=limit, quantity=quantity)
    if len(values) and "pareto_k" in scores:
        figures["pareto_k"] = plots.pareto_scatter(values, scores["pareto_k"], quantity=quantity)
    return figures


def _bounds(record: Mapping[str, Any]) -> dict[str, Figure]:
    """Draws the sandwich of log p(x) of simulated data, where there is one."""
    if not record.get("rows"):
        return {}
    columns = ([row[name] for row in record["rows"]] for name in ("num_temperatures", "lower", "upper", "gap_error"))
    return {"sandwich": plots.bounds_sandwich(*columns, quantity=_quantity(record))}


def _extremes(scores: Mapping[str, np.ndarray], split: Split, quantity: str) -> Figure:
    values = scores["log_evidence"]
    chosen = np.concatenate(plots.extreme_indices(values, NUM_EXTREMES))
    index = scores.get("index", np.arange(len(values)))[chosen]
    x = split.epoch(0).batch(torch.as_tensor(index, dtype=torch.int64)).x
    limits = _limits(split.kind, x)
    return plots.extremes(_array(x), values[chosen], num=NUM_EXTREMES, quantity=quantity, limits=limits)


def _limit(extrapolation: Mapping[str, Any]) -> tuple[float, float] | None:
    mean, error = (as_float(extrapolation.get(name)) for name in ("mean", "error"))
    return None if mean is None or error is None else (mean, error)


def _limits(kind: str, x: Tensor) -> tuple[float, float]:
    return plots.value_limits(_array(x)) if kind == "real" else (0.0, 1.0)


def _array(x: Tensor) -> np.ndarray:
    array: np.ndarray = x.detach().float().cpu().numpy()
    return array


def _render(run: Run, record: Mapping[str, Any], **shown: Any) -> str:
    return render(
        "run.html",
        name=run.path.resolve().name,
        command=shlex.join(["logpx", "evaluate", str(run.path)]),
        e=record,
        quantity=_quantity(record),
        spent=wording.spent(record) if record.get("samples") else "",
        **shown,
        config=run.config,
        settings=dict(_flat(_own(run.config))),
        provenance=dict(_flat(_provenance(record))),
    )


def _provenance(record: Mapping[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in ("data", "model") if key in record} | record.get("provenance", {})


def _quantity(record: Mapping[str, Any]) -> str:
    return "relaxed score" if record.get("relaxed") else "log p(x)"


def _em(metrics: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns how EM ended, for the text of its section; nothing for other fits."""
    if not len(metrics.get("start", ())):
        return {}
    last = {name: column[-1] for name, column in metrics.items()}
    num_starts = len(np.unique(metrics["start"]))
    return {**last, "num_starts": num_starts, "converged": last["gain"] < config["em"]["tolerance"]}


def _own(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that the run's model has."""
    model = config.get("model", {})
    own = SETTINGS_OF.get(model.get("model"))
    strange = ("em",) if own is None else ("objective", "train")
    of_others = {name for names in SETTINGS_OF.values() for name in names} - {"latent_dim"}
    kept = {name: value for name, value in model.items() if (name not in of_others if own is None else name in own)}
    named = {"model": {"model": model["model"], **kept} if "model" in model else kept} if model else {}
    return {name: value for name, value in config.items() if name not in strange} | named


def _flat(nested: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields dotted names and values of nested settings."""
    if isinstance(nested, Mapping) and (nested or not prefix):
        for key, value in nested.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(nested, list | tuple):
        yield prefix, ", ".join(str(value) for value in nested) or "–"
    else:
        yield prefix, "–" if nested is None or nested == {} else str(nested)
