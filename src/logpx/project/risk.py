r"""P(completion >= deadline): by plain Monte Carlo, or by importance sampling of the durations.

- "plain" draws the durations as they are.
- "scale=c" draws every duration c times as long, "critical-path=c" those on the deterministic critical path (Monte
  Carlo theory, methods and examples, Owen, 2013, chapter 9). Durations with an upper end stay as they are.
- "auto" fits the proposal. Where all durations are exponential or gamma, their radius is integrated out and only their
  direction is drawn (see `direction`). Three quarters of the draws come from a scaled Dirichlet distribution that is
  fitted by cross-entropy while the deadline rises in stages; the rest from one for each path that was seen to make the
  project late, because a proposal for one path misses the others. Otherwise the cross-entropy method fits the duration
  of every task in its family, and the result is mixed with the nominal distribution, so that no weight exceeds ten.
"""

from __future__ import annotations

__all__ = ["check_proposal", "deadline_probability", "longest_completion"]

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import AffineTransform, Beta, Distribution, TransformedDistribution

from ..montecarlo.cross_entropy import cross_entropy
from ..montecarlo.draws import keyed_draws
from ..montecarlo.engine import DEFAULT_CAP
from ..montecarlo.estimate import Estimate
from ..montecarlo.estimators import expectation, importance_sampling
from ..montecarlo.fitting import weighted_fit
from ..montecarlo.mixture import defensive, widened
from .direction import ScaledDirichlet
from .durations import Duration
from .joint import Durations
from .network import Project
from .radial import MAX_STAGES, LateGivenDirection, draws_per_stage, fit_direction, is_homogeneous

# A deadline that so large a share of projects misses is estimated by plain Monte Carlo.
OFTEN = 0.1


def deadline_probability(
    project: Project,
    deadline: float,
    proposal: str = "auto",
    *,
    num_samples: int | None = None,
    relative_error: float | None = None,
    max_samples: int = DEFAULT_CAP,
    confidence: float = 0.95,
    seed: int = 0,
    num_workers: int | None = None,
    trace: Sequence[int] = (),
    progress: bool | None = None,
) -> Estimate:
    r"""Estimates :math:`P(T \geq t)`, the probability that a project is not finished before its deadline.

    Given the fitted proposal and a fixed number of samples it is unbiased: the draws of the fit are not in it. Unless
    the radius is integrated out, durations are drawn in float32: a completion that equals the deadline to a relative
    1e-7 may count as late or not.

    References:
        Monte Carlo theory, methods and examples (Owen, 2013), chapter 9.
        The cross-entropy method for combinatorial and continuous optimization (Rubinstein, 1999).

    Arguments:
        project: The tasks.
        deadline: The deadline t, in the project's unit of time.
        proposal: "plain", "scale=c", "critical-path=c" with a factor c, or "auto".
        num_samples: The number of trials of the estimate; by default 100,000 where there is no target.
        relative_error: Go on until the standard error is at most this share of the estimate.
        max_samples: The cap on the trials of a target.
        confidence: The coverage of the interval.
        seed: The seed of the draws.
        num_workers: The number of threads; by default as many as torch uses.
        trace: Numbers of trials, those of the fit included, at which the running estimate is kept.
        progress: Whether to show a bar; by default only on a terminal.

    Raises:
        ValueError: If the deadline is not positive, the proposal is unknown or changes nothing, or all durations are
            fixed.
    """
    name, factor = check_proposal(proposal)
    _check(project, deadline)
    options = _Options(num_samples, relative_error, max_samples, confidence, seed, num_workers, tuple(trace), progress)

    def late(x: Tensor) -> Tensor:
        return project.completion(x) >= deadline

    nominal = project.durations
    if name == "plain" or deadline > longest_completion(project):
        return expectation(late, nominal, **options.to_dict())
    if name != "auto":
        chosen = set(project.critical_path()) if name == "critical-path" else set(project.ids)
        return importance_sampling(late, nominal, _stretched(project, chosen, factor), **options.to_dict())
    by = _by_direction if is_homogeneous(project) else _by_cross_entropy
    return by(project, deadline, options)


def longest_completion(project: Project) -> float:
    """Returns the completion if every duration is at the upper end of its range; infinite where one has none."""
    longest = [task.duration.upper for task in project.tasks]
    if math.inf in longest:
        return math.inf
    return float(project.completion(torch.tensor([longest], dtype=torch.float64)))


@dataclasses.dataclass(frozen=True)
class _Options:
    """What the estimators are told."""

    num_samples: int | None
    relative_error: float | None
    max_samples: int
    confidence: float
    seed: int
    num_workers: int | None
    trace: tuple[int, ...]
    progress: bool | None

    def to_dict(self, num_adaptive: int = 0) -> dict[str, Any]:
        options = dict(vars(self))
        options["trace"] = [n - num_adaptive for n in self.trace if n > num_adaptive]
        return options

    def with_fit(self, estimate: Estimate, num_adaptive: int) -> Estimate:
        """Returns the estimate with the draws of the fit counted, also along its trace."""
        trace = tuple(
            dataclasses.replace(point, num_samples=point.num_samples + num_adaptive) for point in estimate.trace
        )
        return dataclasses.replace(estimate, num_adaptive=num_adaptive, trace=trace)


def _by_direction(project: Project, deadline: float, options: _Options) -> Estimate:
    """Integrates the radius of exponential and gamma durations out, and draws their direction."""
    late = LateGivenDirection.of(project)
    nominal = ScaledDirichlet(late.shapes)
    fitted, spent = fit_direction(nominal, late, deadline, options.seed)
    estimate = importance_sampling(lambda d: late(d, deadline), nominal, fitted, **options.to_dict(spent))
    return options.with_fit(estimate, spent)


def _by_cross_entropy(project: Project, deadline: float, options: _Options) -> Estimate:
    """Fits the duration of each task in its family, a Beta distribution where it is bounded."""
    nominal, num = project.durations, draws_per_stage(len(project.tasks))

    def late(x: Tensor) -> Tensor:
        return project.completion(x) >= deadline

    with keyed_draws(options.seed, "pilot"):
        often = float(late(nominal.sample((num,))).double().mean())
    if often >= OFTEN:
        return options.with_fit(expectation(late, nominal, **options.to_dict(num)), num)
    family = Durations([_adaptable(task.duration) for task in project.tasks])
    stages = {"num_samples": num, "max_stages": MAX_STAGES, "seed": options.seed}
    fit = cross_entropy(project.completion, nominal, deadline, family=family, **stages)
    spent = num + fit.num_samples
    q = defensive(nominal, fit.proposal)
    return options.with_fit(importance_sampling(late, nominal, q, **options.to_dict(spent)), spent)


def _adaptable(duration: Duration) -> Distribution | float:
    """Returns the law in a family that can be fitted: on a bounded range the Beta law of the same mean and variance."""
    if duration.is_fixed:
        return duration.mean
    law = duration.distribution()
    if duration.upper == math.inf:
        return law
    low, width = duration.parameters[0], duration.upper - duration.parameters[0]
    mean, variance = (law.mean - low) / width, law.variance / width**2
    # a / (a + b) = m and m (1 - m) / (a + b + 1) = v
    total = mean * (1 - mean) / variance - 1
    return TransformedDistribution(Beta(mean * total, (1 - mean) * total), AffineTransform(low, width))


def _stretched(project: Project, chosen: set[str], factor: float) -> Durations:
    """Returns the durations with the chosen ones `factor` times as long, where they have no upper end."""
    longer = {task.id for task in project.tasks if task.id in chosen and task.duration.upper == math.inf}
    if not longer:
        raise ValueError(
            "scale and critical-path need exponential, gamma or lognormal durations to stretch, but there are none "
            "among those chosen: use the proposal auto or plain."
        )
    return Durations([_law(task.duration, factor if task.id in longer else 1.0) for task in project.tasks])


def _law(duration: Duration, factor: float) -> Distribution | float:
    """Returns the law of a duration times a factor; all parameters of unbounded families are in the unit of time."""
    if duration.is_fixed:
        return duration.mean
    return Duration(duration.family, tuple(factor * each for each in duration.parameters)).distribution()


def check_proposal(proposal: str) -> tuple[str, float]:
    """Returns the name of a proposal and its factor.

    Raises:
        ValueError: If it is none of those that :func:`deadline_probability` knows.
    """
    name, equals, word = proposal.partition("=")
    if (name in ("plain", "auto") and not equals) or name in ("scale", "critical-path"):
        try:
            factor = float(word) if equals else 1.0
        except ValueError:
            factor = math.nan
        if (equals or name in ("plain", "auto")) and 0 < factor < math.inf:
            return name, factor
    raise ValueError(
        f"The proposal must be plain, auto, scale=c or critical-path=c with a positive c, but is {proposal!r}: "
        "write, for instance, critical-path=4."
    )


def _check(project: Project, deadline: float) -> None:
    if not 0 < deadline < math.inf:
        raise ValueError(f"The deadline must be positive and finite, but is {deadline}: give it in {project.unit}.")
    if all(task.duration.is_fixed for task in project.tasks):
        raise ValueError(
            f"A deadline has a probability only where a duration is random, but all are fixed and the project takes "
            f"{project.mean_completion:g} {project.unit}: make a duration random, or leave the deadline out."
        )


@weighted_fit.register
def _(family: Durations, x: Tensor, log_w: Tensor) -> Durations:
    """Fits task by task."""
    laws = enumerate(family.components)
    return Durations([weighted_fit(q, x[:, i], log_w) if isinstance(q, Distribution) else q for i, q in laws])


@widened.register
def _(proposal: Durations, nominal: Durations) -> Durations:
    """Widens task by task."""
    pairs: list[Any] = list(zip(proposal.components, nominal.components, strict=True))
    wide = [widened(q, p) if isinstance(q, Distribution) else q for q, p in pairs]
    changed = any(after is not before for after, before in zip(wide, proposal.components, strict=True))
    return Durations(wide) if changed else proposal
