r"""P(completion >= deadline) where all durations are exponential or gamma: only their direction has to be drawn.

With the radius integrated out (see `direction`), P(T >= t | D) is known, and the direction D is drawn from a proposal
that is fitted while the deadline rises in stages: a stage's deadline is as late as enough of its draws still count.
"""

from __future__ import annotations

__all__ = ["LateGivenDirection", "draws_per_stage", "fit_direction", "is_homogeneous"]

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Exponential, Gamma

from ..montecarlo.draws import keyed_draws
from ..montecarlo.fitting import weighted_fit
from ..montecarlo.mixture import Mixture
from ..utils import LogpxError, generator
from .direction import ScaledDirichlet
from .network import Project

# Draws per stage of a fit: enough for this many per task.
DRAWS_PER_TASK = 100
LEAST_DRAWS, MOST_DRAWS = 1000, 20_000
# In a stage the deadline rises as far as this share of the draws still counts.
ESS_SHARE = 0.05
# From this share on, under the nominal distribution, no fit is needed.
LIKELY_SHARE = 0.5
# Smaller probabilities are left to their logarithms.
SMALLEST = 1e-280
MAX_STAGES = 50
NUM_REFINEMENTS = 3
BISECTIONS = 30
# Beside the fit, which follows one path, the proposal lengthens each of so many paths by a factor, with a share in all.
MAX_PATHS = 20
PATH_FACTOR = 4.0
PATH_SHARE = 0.25


@dataclasses.dataclass(frozen=True)
class LateGivenDirection:
    r"""The probability :math:`P(T \geq t \mid D = d)` as a function of directions d, with shape (S, n), and t.

    Arguments:
        project: The project, of exponential and gamma durations.
        shapes: The shapes k of the random ones, with shape (n,), float64.
        scales: Their scales, in the project's unit, with shape (n,), float64.
    """

    project: Project
    shapes: Tensor
    scales: Tensor

    @classmethod
    def of(cls, project: Project) -> LateGivenDirection:
        """Returns the function of a project."""
        return cls(project, *_gamma_parameters(project))

    def __call__(self, d: Tensor, t: float) -> Tensor:
        """Returns the probability, with shape (S,)."""
        return self.log_probability(self.lengths(d), t).exp()

    def lengths(self, d: Tensor) -> Tensor:
        r"""Returns the completions :math:`T(\theta d)` at radius 1, with shape (S,)."""
        return self.project.completion(_placed(self.project, d * self.scales))

    def log_probability(self, lengths: Tensor, t: float) -> Tensor:
        r"""Returns :math:`\log Q(K, r)`, r = t / T(theta d), with shape (S,)."""
        k, r = self.shapes.sum(), t / lengths
        # where Q is too small for a float: Q(K, r) -> r^(K-1) e^-r / Gamma(K) (1 + (K-1)/r + (K-1)(K-2)/r^2)
        series = torch.log1p((k - 1) / r * (1 + (k - 2) / r))
        tail = (k - 1) * r.log() - r - torch.lgamma(k) + series
        q = torch.special.gammaincc(k, r)
        return torch.where(q > SMALLEST, q.log(), tail)

    def path_scales(self, d: Tensor, log_w: Tensor) -> list[Tensor]:
        """Returns scales that lengthen the longest path of some draws, one set for each of the likeliest paths."""
        critical = _random(self.project, self.project.schedule(_placed(self.project, d * self.scales)).critical)
        # draws of one longest path share a random number
        mark = torch.randint(2**62, critical.shape[1:], generator=generator(0, "paths"))
        _, path = torch.unique((critical * mark).sum(1), return_inverse=True)
        share = torch.zeros(int(path.max()) + 1, dtype=d.dtype).index_add_(0, path, torch.softmax(log_w, 0))
        first = torch.full_like(share, len(d), dtype=torch.long).scatter_reduce_(0, path, torch.arange(len(d)), "amin")
        likeliest = first[share.topk(min(MAX_PATHS, len(share))).indices]
        return [torch.where(critical[i], PATH_FACTOR, 1.0).to(d.dtype) for i in likeliest.tolist()]


def fit_direction(
    nominal: ScaledDirichlet, late: LateGivenDirection, deadline: float, seed: int
) -> tuple[Distribution, int]:
    """Fits a proposal by cross-entropy to P(T >= t | d) p(d), for t that rises to the deadline.

    A deadline that is often missed needs no fit: the directions are then drawn as they are.

    Raises:
        LogpxError: If the deadline is not reached, or missing it is less likely than floats can say.
    """
    num, stages, refinements, level = draws_per_stage(len(nominal.concentration)), 0, 0, 0.0
    fitted: Distribution = nominal
    proposal: Distribution = nominal
    while refinements < NUM_REFINEMENTS:
        with keyed_draws(seed, "direction", stages):
            d = proposal.sample((num,))
        weigh = partial(_log_weights_at, late, late.lengths(d), nominal.log_prob(d) - proposal.log_prob(d))
        stages, level = stages + 1, _next_deadline(weigh, level, deadline)
        _require_progress(stages, level, deadline, weigh, late.project.unit)
        if stages == 1 and _ess_share(weigh(deadline)) >= LIKELY_SHARE:
            return nominal, num
        fitted = weighted_fit(fitted, d, weigh(level))
        paths = [ScaledDirichlet(nominal.concentration, scale) for scale in late.path_scales(d, weigh(level))]
        proposal = Mixture([fitted, *paths], [1 - PATH_SHARE] + [PATH_SHARE / len(paths)] * len(paths))
        refinements += level == deadline
    return proposal, stages * num


def _log_weights_at(late: LateGivenDirection, lengths: Tensor, log_w: Tensor, t: float) -> Tensor:
    return log_w + late.log_probability(lengths, t)


def _require_progress(stages: int, level: float, deadline: float, weigh: Callable[[float], Tensor], unit: str) -> None:
    if level < deadline and stages >= MAX_STAGES:
        raise LogpxError(
            f"The fit must reach the deadline of {deadline:g} {unit}, but after {stages} stages it is at {level:g}: "
            "use the proposal critical-path=4, or plain."
        )
    if level == deadline and torch.logsumexp(weigh(deadline), 0) < math.log(SMALLEST):
        raise LogpxError(
            f"A deadline of {deadline:g} {unit} is missed with a probability below {SMALLEST:g}, less than numbers "
            "here can say: choose an earlier one."
        )


def _next_deadline(log_weights: Callable[[float], Tensor], low: float, deadline: float) -> float:
    """Returns the latest time from `low` to the deadline at which enough of the draws still count."""
    high = deadline
    if _ess_share(log_weights(deadline)) >= ESS_SHARE:
        return deadline
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _ess_share(log_weights(middle)) >= ESS_SHARE else (low, middle)
    return low


def _ess_share(log_w: Tensor) -> float:
    if not bool((log_w > -math.inf).any()):
        return 0.0
    w = torch.softmax(log_w, 0)
    return 1 / float(w.square().sum()) / len(w)


def draws_per_stage(num_tasks: int) -> int:
    """Returns the number of draws of one stage of a fit."""
    return min(max(LEAST_DRAWS, DRAWS_PER_TASK * num_tasks), MOST_DRAWS)


def is_homogeneous(project: Project) -> bool:
    """Whether completion is homogeneous in exponential and gamma durations: all others are fixed at 0."""
    laws = [task.duration for task in project.tasks]
    return all(
        isinstance(law.distribution(), Exponential | Gamma) if not law.is_fixed else law.mean == 0 for law in laws
    )


def _gamma_parameters(project: Project) -> tuple[Tensor, Tensor]:
    """Returns the shapes k and scales of the random durations, in float64."""
    laws: list[Any] = [t.duration.distribution(torch.float64) for t in project.tasks if not t.duration.is_fixed]
    shapes = [law.concentration if isinstance(law, Gamma) else torch.ones_like(law.rate) for law in laws]
    return torch.stack(shapes), torch.stack([1 / law.rate for law in laws])


def _random(project: Project, columns: Tensor) -> Tensor:
    """Returns the columns of the random durations."""
    return columns[:, [i for i, task in enumerate(project.tasks) if not task.duration.is_fixed]]


def _placed(project: Project, x: Tensor) -> Tensor:
    """Returns durations of all tasks from those of the random ones; the others are 0."""
    if x.shape[1] == len(project.tasks):
        return x
    columns = x.new_zeros(len(project.tasks), len(x))
    columns[[i for i, task in enumerate(project.tasks) if not task.duration.is_fixed]] = x.mT
    return columns.mT
