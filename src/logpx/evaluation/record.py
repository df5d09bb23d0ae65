r"""The record of an evaluation: the mean of log p(x) with its errors, bits/dim, rate, distortion, diagnosis.

For n data with estimates :math:`\hat\ell_i` and Monte Carlo standard errors :math:`s_i`,

.. math:: \mathrm{total}^2 = \mathrm{sd}(\hat\ell)^2 / n, \qquad \mathrm{MonteCarlo}^2 = \sum_i s_i^2 / n^2, \qquad
          \mathrm{testset}^2 = \mathrm{total}^2 - \mathrm{MonteCarlo}^2:

more samples would shrink the second, more data the third. The bias of a finite number of samples is in none of them.
Where n random data stand for N, a fourth part is that of the subset: see :mod:`logpx.subset`.
"""

from __future__ import annotations

__all__ = ["Asked", "describe", "record_of"]

import dataclasses
import datetime
import math
import platform
from typing import Any

import torch
from torch import Tensor

from ..data import Split
from ..evidence import METHODS, NUM_LEAPFROG, Estimator, Evidence, extrapolation, has_own_weights
from ..model import LatentVariableModel
from ..subset import Subset
from ..utils import bits_per_dim
from ..version import __version__
from ..wording import flags, tail_sentence

ACTIVE_VARIANCE = 0.01
CLOSED_FORM = "The model knows its log p(x) in closed form: nothing was drawn, and nothing is uncertain but the data."


@dataclasses.dataclass(frozen=True)
class Asked:
    """What was evaluated, how, where, by how many processes, and how long it took."""

    model: LatentVariableModel
    split: Split
    estimator: Estimator
    seed: int
    device: torch.device
    num_processes: int
    seconds: float


def record_of(
    asked: Asked,
    evidence: Evidence,
    relaxed: str | None,
    control: Evidence | None,
    index: Tensor,
    notes: list[str],
) -> dict[str, Any]:
    """Returns the record of an evaluation, fit for JSON.

    Arguments:
        asked: What was evaluated, and how.
        evidence: The estimates of the data that were evaluated.
        relaxed: Why the likelihood is a relaxed one, or None where it is none.
        control: The estimates of the ELBO of all data, where a subset stands for them.
        index: The places of the data that were evaluated, with shape (n,).
        notes: What else a reader of the numbers must know, in sentences.
    """
    how, chosen = asked.estimator, None if control is None else Subset(index, control.elbo)
    record = {
        "schema": 1,
        "data": describe(asked.split),
        "model": type(asked.model).__name__,
        "estimator": how.name,
        "proposal": _proposal_name(asked.model, how),
        "num_samples": how.size,
        **_target(evidence, how),
        **_chains(how),
        **_effort(evidence),
        "seed": asked.seed,
        "relaxed": relaxed,
        **_summary(evidence, asked.split, relaxed, chosen),
        "provenance": _provenance(asked),
    }
    if control is not None:
        record |= {"elbo": control.elbo.mean().item(), **_costs(control)}
    if how.name == "exact":
        record |= dict.fromkeys(("elbo", "jackknife", "ess", "extrapolation"))
        record["pareto_k"]["sentence"] = CLOSED_FORM
    if how.proposal != "encoder":
        # what another q says of rate and distortion is not what the encoder would say
        record |= dict.fromkeys(("elbo", "rate", "distortion", "active_units", "num_latents"))
    record["flags"] = [*flags(record), *notes]
    return record


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


def describe(split: Split) -> dict[str, Any]:
    """Returns what tells the data of a split from others, fit for JSON."""
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


def _provenance(asked: Asked) -> dict[str, Any]:
    device = asked.device
    return {
        "logpx": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
        "processes": asked.num_processes,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(asked.seconds, 2),
    }


def _known(value: Tensor) -> float | None:
    return value.item() if not math.isnan(value.item()) else None


def _proposal_name(model: LatentVariableModel, estimator: Estimator) -> str | None:
    if estimator.name == "exact":
        return None
    if has_own_weights(model) and estimator.name != "annealed" and estimator.proposal == "encoder":
        return "the model's own"
    return "adapted to each datum" if estimator.name == "auto" else estimator.proposal
