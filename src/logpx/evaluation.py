r"""A model and data in, a record out: the mean of log p(x) with its errors, bits/dim, rate, distortion, diagnosis.

For n data with estimates :math:`\hat\ell_i` and Monte Carlo standard errors :math:`s_i`,

.. math:: \mathrm{total}^2 = \mathrm{sd}(\hat\ell)^2 / n, \qquad \mathrm{MonteCarlo}^2 = \sum_i s_i^2 / n^2, \qquad
          \mathrm{testset}^2 = \mathrm{total}^2 - \mathrm{MonteCarlo}^2:

more samples would shrink the second, more data the third. The bias of a finite number of samples is in none of them.
Where n random data stand for N, a fourth part is that of the subset: see :mod:`logpx.subset`.
"""

from __future__ import annotations

__all__ = ["DATA_BLOCK", "SCORES", "Evaluation", "evaluate"]

import dataclasses
import datetime
import math
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .data import Batch, Split
from .distributions import relaxation
from .evidence import METHODS, NUM_LEAPFROG, Block, Estimator, Evidence, extrapolation, has_own_weights, inspect_model
from .files import write_text
from .model import LatentVariableModel, as_model, call, evaluating, propose
from .progress import track
from .subset import CONTROL_SAMPLES, Subset, draw_subset
from .utils import bits_per_dim, choose_device, chunks, generator, keyed_rng
from .version import __version__
from .wording import flags, rows, table, tail_sentence

DATA_BLOCK = 32
ACTIVE_VARIANCE = 0.01
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
CLOSED_FORM = "The model knows its log p(x) in closed form: nothing was drawn, and nothing is uncertain but the data."


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


def evaluate(
    model: LatentVariableModel,
    split: Split,
    *,
    estimator: str = "auto",
    proposal: str | None = None,
    num_samples: int | None = None,
    target_error: float = 0.05,
    num_temperatures: int = 50,
    schedule: str = "adaptive",
    limit: int | None = None,
    subset: int | None = None,
    seed: int = 0,
    device: str = "auto",
    memory_budget: int = 2**28,
    progress: bool | None = None,
) -> Evaluation:
    """Estimates log p(x) of data under any model with the three methods, or asks a model that knows it.

    Arguments:
        model: The model; a module is put into evaluation mode meanwhile.
        split: The data, as `DataSet.split` gives them.
        estimator: "auto": exact where the model has a method `log_evidence(x)` that returns log p(x), in nats, with
            shape (B,), and else an effort that adapts to each datum; "importance", a fixed number of draws from one
            proposal; "annealed", chains from a proposal to the posterior; or "exact".
        proposal: What importance sampling draws from, or where chains start: encoder (the default), prior, widened,
            refined, laplace, curvature or defensive.
        num_samples: The number of draws per datum, by default 5000; of chains, by default 32; of "auto" the largest
            number per proposal, by default 3500.
        target_error: The standard error that "auto" aims at, in nats per datum.
        num_temperatures: The number of steps of "annealed".
        schedule: How these are laid out: "adaptive", with a constant conditional effective sample size, or "sigmoid".
        limit: Evaluate the first data only; by default all.
        subset: Estimate the mean over all data from so many of them, drawn at random by the seed, with the ELBO of all,
            by 8 draws for each, as control variate.
        seed: The seed of the draws.
        device: "auto" (CUDA where there is one, for a module), or a torch device.
        memory_budget: The memory for the decoder's outputs, in bytes, as a rough guide; it changes no result.
        progress: Whether to show a progress bar; by default only on a terminal.

    Returns:
        The record and the evidence per datum.

    Raises:
        ValueError: If an option is unknown, there are no data, or a term of the model has a wrong shape, is finite
            nowhere in the first block of data, or is random because layers were left in training mode.
    """
    wanted = Estimator(estimator, proposal or "encoder", num_samples, target_error, num_temperatures, schedule)
    how = _chosen(model, wanted, proposal is not None)
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, but is {limit}: leave it out to take all data.")
    if subset is not None:
        _check_subset(how, limit)
    split = split if limit is None else split.take(limit)
    if len(split) == 0:
        raise ValueError(f"The {split.name} split is empty: choose another split.")
    index = torch.arange(len(split)) if subset is None else draw_subset(subset, len(split), seed)
    target = choose_device(device if isinstance(as_model(model), nn.Module) or device != "auto" else "cpu")
    started = time.perf_counter()
    with _placed(model, target), evaluating(model):
        found = [] if how.name == "exact" else inspect_model(_first_block(model, split.to(target), seed))
        control = None if subset is None else _control(model, split, seed, target, memory_budget, progress)
        evidence, relaxed = _estimate(model, split, index, how, seed, target, memory_budget, progress)
    chosen = None if control is None else Subset(index, control.elbo)
    record = {
        "schema": 1,
        "data": _describe(split),
        "model": type(model).__name__,
        "estimator": how.name,
        "proposal": _proposal_name(model, how),
        "num_samples": how.size,
        **_target(evidence, how),
        **_chains(how),
        **_effort(evidence),
        "seed": seed,
        "relaxed": relaxed,
        **_summary(evidence, split, relaxed, chosen),
        "provenance": _provenance(target, time.perf_counter() - started),
    }
    if control is not None:
        record |= {"elbo": control.elbo.mean().item(), **_costs(control)}
    if how.name == "exact":
        record |= dict.fromkeys(("elbo", "jackknife", "ess", "extrapolation"))
        record["pareto_k"]["sentence"] = CLOSED_FORM
    if how.proposal != "encoder":
        # what another q says of rate and distortion is not what the encoder would say
        record |= dict.fromkeys(("elbo", "rate", "distortion", "active_units", "num_latents"))
    record["flags"] = [*flags(record), *found]
    return Evaluation(record, evidence, index)


def _estimate(
    model: LatentVariableModel,
    split: Split,
    index: Tensor,
    estimator: Estimator,
    seed: int,
    device: torch.device,
    memory_budget: int,
    progress: bool | None,
) -> tuple[Evidence, str | None]:
    blocks, relaxed = [], None
    split = split.to(device)
    with track("evaluate", len(index), progress) as show:
        for number, (start, stop) in enumerate(chunks(len(index), DATA_BLOCK)):
            batch = split.batch(index[start:stop].to(device), device)
            if number == 0:
                relaxed = _relaxation(model, batch, split.kind, seed)
            block = Block(model, batch.x, batch.context, batch.mask, seed, number, memory_budget)
            blocks.append(estimator(block).cpu())
            show(stop, f"log p(x) {torch.cat([b.log_evidence for b in blocks]).mean():.2f} nats")
    return Evidence.cat(blocks), relaxed


def _control(
    model: LatentVariableModel,
    split: Split,
    seed: int,
    device: torch.device,
    memory_budget: int,
    progress: bool | None,
) -> Evidence:
    """Estimates the ELBO of all data by a few draws of the encoder, which no other estimate shares."""
    everything, own_seed = torch.arange(len(split)), generator(seed, "control").initial_seed()
    few = Estimator("importance", num_samples=CONTROL_SAMPLES)
    return _estimate(model, split, everything, few, own_seed, device, memory_budget, progress)[0]


def _check_subset(estimator: Estimator, limit: int | None) -> None:
    if limit is not None:
        raise ValueError(
            f"subset stands for all data, but limit {limit} was given beside it: leave out one of the two."
        )
    if estimator.name == "exact":
        raise ValueError("A model that knows its log p(x) needs no subset: leave it out, and all data are evaluated.")


def _chosen(model: object, estimator: Estimator, is_proposal_given: bool) -> Estimator:
    """Returns the estimator, after checking that the model has what it needs."""
    name, is_known = estimator.name, callable(getattr(model, "log_evidence", None))
    if name in ("auto", "exact") and is_proposal_given:
        raise ValueError(
            f"Estimator {name} takes no proposal, but got {estimator.proposal}: choose estimator importance or "
            "annealed with it."
        )
    if name == "exact" and not is_known:
        raise ValueError(
            f"Estimator exact needs a model with a method log_evidence, but {type(model).__name__} has none: choose "
            "estimator auto."
        )
    return dataclasses.replace(estimator, name="exact") if name == "auto" and is_known else estimator


def _chains(estimator: Estimator) -> dict[str, Any]:
    """Names the steps of annealed chains; those of "auto" are fixed."""
    if estimator.name != "annealed":
        return {"chains": None}
    steps = {"num_temperatures": estimator.num_temperatures, "schedule": estimator.schedule}
    return {"chains": {**steps, "num_leapfrog": NUM_LEAPFROG}}


def _target(evidence: Evidence, estimator: Estimator) -> dict[str, float | None]:
    if estimator.name != "auto":
        return {"target_error": None, "share_above_target": None}
    missed = torch.logical_not(evidence.standard_error <= estimator.target_error).double().mean().item()
    return {"target_error": estimator.target_error, "share_above_target": missed}


def _effort(evidence: Evidence) -> dict[str, Any]:
    """Says what the estimates cost, and by which method each was made."""
    counts = torch.bincount(evidence.method, minlength=len(METHODS)).tolist()
    samples, passes = evidence.num_samples, evidence.num_passes
    return {
        "methods": {name: count for name, count in zip(METHODS, counts, strict=True) if count},
        "samples": {"mean": samples.mean().item(), "maximum": samples.max().item()},
        "passes": {"mean": passes.mean().item(), "maximum": passes.max().item()},
    }


def _first_block(model: LatentVariableModel, split: Split, seed: int) -> Block:
    device = split.values.device
    batch = split.batch(torch.arange(min(DATA_BLOCK, len(split)), device=device), device)
    return Block(model, batch.x, batch.context, batch.mask, seed)


def _relaxation(model: LatentVariableModel, batch: Batch, kind: str, seed: int) -> str | None:
    """Asks the decoder's distribution whether it is a likelihood of such data."""
    with keyed_rng(seed, "relaxation", device=batch.x.device):
        z = propose(model, batch.x, context=batch.context).sample((1,))
        return relaxation(call(model.decoder, z, context=batch.context), kind, batch.x)


def _summary(evidence: Evidence, split: Split, relaxed: str | None, subset: Subset | None) -> dict[str, Any]:
    log_p, k, num_dims = evidence.log_evidence, evidence.pareto_k, math.prod(split.event_shape)
    shift = 0.0 if subset is None else subset.shift
    mean = log_p.mean().item() + shift
    errors = _errors(evidence) if subset is None else subset.errors(log_p, evidence.standard_error)
    bits = {"mean": bits_per_dim(mean, num_dims), "error": -bits_per_dim(errors["error"], num_dims)}
    return {
        "log_evidence": {"mean": mean, "total": log_p.sum().item() if subset is None else mean * len(split), **errors},
        "subset": None if subset is None else subset.describe(log_p, evidence.standard_error),
        "bits_per_dim": None if relaxed else bits,
        "elbo": _known(evidence.elbo.mean()),
        "rate": _known(evidence.rate.mean()),
        "distortion": _known(evidence.distortion.mean()),
        **_activity(evidence.latent_mean),
        "jackknife": _jackknife(evidence, shift),
        "pareto_k": _tails(k),
        "ess": {"median": evidence.ess.median().item(), "minimum": evidence.ess.min().item()},
        "num_nonfinite": int((~torch.isfinite(log_p)).sum()),
        "curve": _curve(evidence, shift),
        "extrapolation": extrapolation(evidence, shift),
    }


def _errors(evidence: Evidence) -> dict[str, float]:
    """Returns the total error of the mean and its parts, in nats."""
    total = _standard_error(evidence.log_evidence)
    monte_carlo = evidence.standard_error.square().sum().sqrt().item() / len(evidence.standard_error)
    rest = _test_set_error(total, monte_carlo)
    return {"error": total, "monte_carlo_error": monte_carlo, "test_set_error": rest}


def _costs(control: Evidence) -> dict[str, Any]:
    """Returns what the encoder's draws say of all data: rate, distortion and active units."""
    means = {name: _known(getattr(control, name).mean()) for name in ("rate", "distortion")}
    return {**means, **_activity(control.latent_mean)}


def _standard_error(values: Tensor) -> float:
    """Returns sd / sqrt(n), NaN for a single datum."""
    return values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.nan


def _test_set_error(total: float, monte_carlo: float) -> float:
    """Returns sqrt(total^2 - MonteCarlo^2), NaN where one of the two is not known."""
    if not (math.isfinite(total) and math.isfinite(monte_carlo)):
        return math.nan
    return math.sqrt(max(total**2 - monte_carlo**2, 0.0))


def _activity(latent_mean: Tensor) -> dict[str, int | None]:
    """Counts latents whose posterior mean varies over data, Var_x(E_q[z]) > 0.01 (Burda et al., 2016)."""
    if latent_mean.shape[1] == 0 or len(latent_mean) < 2:
        return {"active_units": None, "num_latents": latent_mean.shape[1] or None}
    active = int((latent_mean.var(0) > ACTIVE_VARIANCE).sum())
    return {"active_units": active, "num_latents": latent_mean.shape[1]}


def _jackknife(evidence: Evidence, shift: float) -> dict[str, float] | None:
    """Estimates the finite-sample bias from the data whose estimate does not hang on one block of draws."""
    bias = (evidence.log_evidence - evidence.jackknife).mean().item()
    return {"mean": evidence.jackknife.mean().item() + shift, "bias": bias} if math.isfinite(bias) else None


def _tails(k: Tensor) -> dict[str, Any]:
    if torch.isnan(k).all():
        sentence = "There are too few samples to judge the tail of the weights: draw at least 25 per datum."
        return {"share_above_05": None, "share_above_07": None, "median": None, "sentence": sentence}
    above_05, above_07 = (torch.logical_not(k < limit).double().mean().item() for limit in (0.5, 0.7))
    shares = {"share_above_05": above_05, "share_above_07": above_07, "median": k.median().item()}
    return {**shares, "sentence": tail_sentence(above_05, above_07, bool((k == -math.inf).all()))}


def _curve(evidence: Evidence, shift: float) -> dict[str, list[float]]:
    return {
        "num_samples": evidence.curve_samples.mean(1).tolist(),
        "mean": (evidence.curve.mean(1) + shift).tolist(),
        "error": [row.square().sum().sqrt().item() / len(row) for row in evidence.curve_error],
    }


def _describe(split: Split) -> dict[str, Any]:
    return {
        "name": split.data_name,
        "split": split.name,
        "num_data": len(split),
        "kind": split.kind,
        "levels": split.levels,
        "event_shape": list(split.event_shape),
        "binarization": split.binarization,
        "seed": split.seed,
        "hash": split.data_hash,
    }


def _provenance(device: torch.device, seconds: float) -> dict[str, Any]:
    return {
        "logpx": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
    }


def _known(value: Tensor) -> float | None:
    return value.item() if not math.isnan(value.item()) else None


def _proposal_name(model: LatentVariableModel, estimator: Estimator) -> str | None:
    if estimator.name == "exact":
        return None
    if has_own_weights(model) and estimator.name != "annealed" and estimator.proposal == "encoder":
        return "the model's own"
    return "adapted to each datum" if estimator.name == "auto" else estimator.proposal


def _written(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.9g}"


@contextmanager
def _placed(model: object, device: torch.device) -> Iterator[None]:
    """Within the block a module is on the device, afterwards where it was."""
    if not isinstance(model, nn.Module):
        yield
        return
    before = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), device)
    try:
        model.to(device)
        yield
    finally:
        model.to(before)
