r"""Plain Monte Carlo and importance sampling: :math:`\mu = E_p[f(X)]`, with an error, an interval and a diagnosis.

.. math:: \hat\mu = \frac{1}{n} \sum_i f(x_i) w_i, \qquad w_i = \frac{p(x_i)}{q(x_i)}, \qquad x_i \sim q

is unbiased for a fixed proposal q that is positive wherever f p is not 0, and has the variance

.. math:: \frac{\sigma_q^2}{n}, \qquad \sigma_q^2 = \int \frac{(f p - \mu q)^2}{q} \, dx,

which is 0 for :math:`q \propto f p \geq 0`. Plain Monte Carlo is q = p. Draws come in blocks, each keyed by the seed
and its place, so that beyond rounding a result depends neither on the chunks of memory nor on the number of threads.
"""

from __future__ import annotations

__all__ = ["expectation", "importance_sampling"]

from collections.abc import Sequence

from torch import Tensor
from torch.distributions import Distribution

from .density import LogDensity, require_comparable, require_support, require_unbatched
from .engine import DEFAULT_CAP, Draw, Engine, Stop
from .estimate import Estimate
from .solve import Method
from .values import Function


def expectation(
    f: Function,
    nominal: Distribution,
    *,
    num_samples: int | None = None,
    relative_error: float | None = None,
    standard_error: float | None = None,
    max_samples: int = DEFAULT_CAP,
    controls: Function | None = None,
    control_means: Sequence[float] | Tensor | float = 0.0,
    confidence: float = 0.95,
    seed: int = 0,
    chunk_size: int | None = None,
    num_workers: int | None = None,
    trace: Sequence[int] = (),
    progress: bool | None = None,
) -> Estimate:
    r"""Estimates :math:`\mu = E_p[f(X)]` by plain Monte Carlo, :math:`\hat\mu = \frac{1}{n} \sum_i f(x_i)`.

    For a fixed number of samples it is unbiased. With a target it is not quite, because stopping depends on the draws;
    nor with control variates, whose coefficients come from the same draws: then
    :math:`\hat\mu = \bar f - \hat\beta^\top (\bar h - \theta)` with a bias of order 1/n.

    References:
        Monte Carlo theory, methods and examples (Owen, 2013).

    Arguments:
        f: A function of draws, with shape (S, \*event), that returns values of shape (S,); booleans for the probability
            of an event. Several threads call it at the same time.
        nominal: The distribution p, with batch shape ().
        num_samples: The number n of draws; by default 100,000 where there is no target.
        relative_error: Go on until the standard error is at most this share of the estimate.
        standard_error: Go on until the standard error is at most this, in the unit of f.
        max_samples: The cap on the draws of a target.
        controls: Control variates h: a function of draws that returns (S,) or (S, k).
        control_means: Their known means :math:`\theta` under p, one number or k.
        confidence: The coverage of the interval.
        seed: The seed of the draws.
        chunk_size: The number of draws that f gets at once, at most; it bounds the memory.
        num_workers: The number of threads; by default as many as torch uses.
        trace: Numbers of samples at which the running estimate is kept.
        progress: Whether to show a bar; by default only on a terminal.

    Raises:
        ValueError: If an argument is out of range, or f returns another shape, NaN or an infinity.

    Example:
        >>> from torch.distributions import Normal
        >>> expectation(lambda x: x > 1.6449, Normal(0.0, 1.0), num_samples=100_000).interval
        (0.0...)
    """
    require_unbatched("nominal distribution", nominal)
    stop = Stop.of(num_samples, relative_error, standard_error, max_samples)
    draw = Draw(f, nominal, None, nominal, controls, control_means)
    engine = Engine(draw, "plain", confidence, seed, chunk_size, num_workers, tuple(trace))
    return engine.run(stop, progress)


def importance_sampling(
    f: Function,
    nominal: LogDensity,
    proposal: Distribution,
    *,
    normalized: bool = False,
    num_samples: int | None = None,
    relative_error: float | None = None,
    standard_error: float | None = None,
    max_samples: int = DEFAULT_CAP,
    controls: Function | None = None,
    control_means: Sequence[float] | Tensor | float = 0.0,
    confidence: float = 0.95,
    seed: int = 0,
    chunk_size: int | None = None,
    num_workers: int | None = None,
    trace: Sequence[int] = (),
    progress: bool | None = None,
) -> Estimate:
    r"""Estimates :math:`\mu = E_p[f(X)]` from draws of q, :math:`\hat\mu = \frac{1}{n} \sum_i f(x_i) p(x_i) / q(x_i)`.

    For a fixed proposal and number of samples it is unbiased. It is not with `normalized=True`, where
    :math:`\hat\mu = \sum f w / \sum w` has a bias of order 1/n, nor with a target or estimated control variates.

    References:
        Monte Carlo theory, methods and examples (Owen, 2013).

    Arguments:
        f: A function of draws, with shape (S, \*event), that returns values of shape (S,); booleans for the probability
            of an event. Several threads call it at the same time.
        nominal: The distribution p, with batch shape (), or a function that returns :math:`\log p(x)`, with shape (S,);
            up to a constant if `normalized` is true.
        proposal: The importance distribution q, with batch shape (). It must be positive wherever f p is not 0.
        normalized: Whether to divide by the mean weight, for p that is known up to a constant.
        num_samples: The number n of draws; by default 100,000 where there is no target.
        relative_error: Go on until the standard error is at most this share of the estimate.
        standard_error: Go on until the standard error is at most this, in the unit of f.
        max_samples: The cap on the draws of a target.
        controls: Control variates h: a function of draws that returns (S,) or (S, k); they enter as (h - theta) p / q.
        control_means: Their known means :math:`\theta` under p, one number or k.
        confidence: The coverage of the interval.
        seed: The seed of the draws.
        chunk_size: The number of draws that f gets at once, at most; it bounds the memory.
        num_workers: The number of threads; by default as many as torch uses.
        trace: Numbers of samples at which the running estimate is kept.
        progress: Whether to show a bar; by default only on a terminal.

    Raises:
        ValueError: If an argument is out of range, f or a weight is NaN or infinite, or the proposal misses draws of p
            where f is not 0.
        LogpxError: If self-normalised weights are all zero.

    Example:
        >>> from torch.distributions import Normal
        >>> p, q = Normal(0.0, 1.0), Normal(4.0, 1.0)
        >>> result = importance_sampling(lambda x: x > 4.0, p, q, num_samples=100_000)  # truth: 3.167e-05
        >>> f"{result.estimate:.1e}"
        '3.2e-05'
    """
    require_unbatched("proposal", proposal)
    if isinstance(nominal, Distribution):
        require_unbatched("nominal distribution", nominal)
    if normalized and controls is not None:
        raise ValueError("Control variates need normalised densities, but normalized=True was given: drop one of them.")
    require_comparable(nominal, proposal)
    require_support(f, nominal, proposal, seed, normalized)
    stop = Stop.of(num_samples, relative_error, standard_error, max_samples)
    draw = Draw(f, proposal, proposal, nominal, controls, control_means)
    method: Method = "self-normalised importance" if normalized else "importance"
    engine = Engine(draw, method, confidence, seed, chunk_size, num_workers, tuple(trace))
    return engine.run(stop, progress)
