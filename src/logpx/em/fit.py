r"""Expectation maximization, which reads from top to bottom.

For any distribution r of z, :math:`\log p(x) = \mathbb{E}_r[\log p(x, z)] + H(r) + \mathrm{KL}(r \| p(z | x))`. The
E-step sets r to the posterior, where the ELBO touches log p(x); the M-step raises the ELBO, and log p(x) with it.
"""

from __future__ import annotations

__all__ = ["fit_em"]

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..progress import track
from .climb import Climb
from .passes import DataSource, Passes
from .record import EMFit, EMModel, Iteration, ModelT

SAMPLE = 10_000


@torch.no_grad()
def fit_em(
    model: ModelT,
    data: DataSource,
    *,
    max_iterations: int = 500,
    tolerance: float = 1e-4,
    batch_size: int | None = None,
    step_power: float = 0.7,
    restarts: int = 3,
    restart_iterations: int = 10,
    seed: int = 0,
    each: Callable[[Iteration], bool | None] | None = None,
    state: dict[str, Any] | None = None,
    progress: bool | None = None,
) -> EMFit[ModelT]:
    r"""Fits a model to data by expectation maximization.

    Every start climbs for a few iterations, and the best of them until it converges.

    References:
        Maximum likelihood from incomplete data via the EM algorithm (Dempster, Laird and Rubin, 1977).
        On-line expectation-maximization algorithm for latent data models (Cappé and Moulines, 2009).

    Arguments:
        model: The model, which is not changed: its shapes and options and, without restarts, its parameters count.
        data: A split, data of shape (N,) + the event shape, or an iterable of such parts, which is asked for a new
            iterator in every pass, for data larger than memory. The values of a split are those of its epoch; online
            EM draws dynamic ones afresh in every pass.
        max_iterations: The largest number of passes of one start.
        tolerance: The gain of the penalized log-likelihood below which a fit has converged, in nats per datum; of
            online EM, which may also lose, the size of the change.
        batch_size: The largest number of data between M-steps, for online EM; by default all, which alone never lowers
            the likelihood.
        step_power: How fast the steps of online EM fall, the :math:`\kappa` of :math:`\gamma_t = (t + 10)^{-\kappa}`,
            above 0.5 and at most 1.
        restarts: The number of starts drawn from the data; 0 starts from the model's own parameters.
        restart_iterations: The number of iterations after which the best start is chosen.
        seed: The seed of all draws.
        each: What is called after each iteration; if it returns True, the fit ends there.
        state: The state of a fit that ended so, with the same model, data and options, to go on to the result that it
            would have reached; a larger `max_iterations` prolongs it.
        progress: Whether to show a progress bar; by default only on a terminal.

    Returns:
        The fitted model and the history.

    Raises:
        TypeError: If the model lacks a step of EM, or the data can be passed over only once.
        ValueError: If an option is out of its range, or the data are not such as the model gives.
        LogpxError: If the likelihood is not finite.

    Example:
        >>> from logpx.exact import BernoulliMixture
        >>> x = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
        >>> fit = fit_em(BernoulliMixture.blank(2, 2, pseudo_count=0.0), x)
        >>> round(fit.history[-1].log_evidence, 3)  # log 1/2
        -0.693
    """
    _check(model, max_iterations, tolerance, batch_size, step_power, restarts, restart_iterations)
    passes = Passes(data, _device(model), seed)
    sample, num_data = passes.sample(SAMPLE)
    starts = range(max(restarts, 1))
    fresh = restarts > 0 and state is None
    climbs = [_begin(copy.deepcopy(model), start, passes, sample, num_data, fresh) for start in starts]
    for climb, saved in zip(climbs, [] if state is None else state["climbs"], strict=state is not None):
        climb.restore(saved)
    trial = min(restart_iterations, max_iterations) if len(climbs) > 1 else 0
    was_told_to_end = False

    def has_converged(climb: Climb[ModelT]) -> bool:
        return climb.has_converged(tolerance, batch_size is not None)

    with track("em", max_iterations + (len(climbs) - 1) * trial, progress) as show:
        step = partial(_step, batch_size=batch_size, power=step_power)
        for done, row in enumerate(_ascend(climbs, trial, max_iterations, has_converged, step), 1):
            show(done, f"start {row.start + 1}, log p(x) {row.log_evidence:.4f} nats")
            if each is not None and each(row):
                was_told_to_end = True
                break
    best = max(climbs, key=_height)
    history = [row for climb in sorted(climbs, key=_height) for row in climb.history]
    converged = has_converged(best) and not was_told_to_end
    reached = {"climbs": [climb.state() for climb in climbs]}
    return EMFit(best.model, tuple(history), converged, num_data, was_told_to_end, reached)


def _begin(model: ModelT, start: int, passes: Passes, sample: Tensor, num_data: int, fresh: bool) -> Climb[ModelT]:
    mends = model.initialize(sample, passes.seed, start) if fresh else ()
    return Climb(model, start, passes, sample, num_data, mends)


def _ascend(
    climbs: list[Climb[ModelT]],
    trial: int,
    limit: int,
    has_converged: Callable[[Climb[ModelT]], bool],
    step: Callable[[Climb[ModelT]], Iteration],
) -> Iterator[Iteration]:
    """Yields some iterations of every start, and then those of the best until it converges."""
    for climb in climbs:
        while len(climb.history) < trial and not has_converged(climb):
            yield step(climb)
    # a state may be of a fit that had chosen already
    best = max(climbs, key=lambda climb: (len(climb.history) > trial, _height(climb)))
    while len(best.history) < limit and not has_converged(best):
        yield step(best)


def _step(climb: Climb[ModelT], batch_size: int | None, power: float) -> Iteration:
    return climb.iterate() if batch_size is None else climb.iterate_online(batch_size, power)


def _height(climb: Climb[ModelT]) -> float:
    return climb.history[-1].penalized if climb.history else -math.inf


def _device(model: object) -> torch.device:
    tensors = [*model.parameters(), *model.buffers()] if isinstance(model, nn.Module) else []
    return tensors[0].device if tensors else torch.device("cpu")


def _check(
    model: object,
    max_iterations: int,
    tolerance: float,
    batch_size: int | None,
    step_power: float,
    restarts: int,
    restart_iterations: int,
) -> None:
    if not isinstance(model, EMModel):
        raise TypeError(
            f"EM needs a model with the methods initialize, statistics, maximize, expected_log_joint, log_penalty and "
            f"log_evidence, but {type(model).__name__} lacks some: use a model of logpx.exact."
        )
    for name, value, least in (
        ("max_iterations", max_iterations, 1),
        ("batch_size", 1 if batch_size is None else batch_size, 1),
        ("restarts", restarts, 0),
        ("restart_iterations", restart_iterations, 1),
        ("tolerance", tolerance, 0),
    ):
        if not value >= least:
            raise ValueError(f"{name} must be at least {least}, but is {value}: give a larger number.")
    if not 0.5 < step_power <= 1:
        raise ValueError(f"step_power must be above 0.5 and at most 1, but is {step_power}: 0.7 serves most data.")
