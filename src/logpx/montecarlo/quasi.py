r"""Stratified and quasi-random plain Monte Carlo: points that fill the unit cube more evenly than chance does.

With a known inverse distribution function :math:`F^{-1}`, an expectation is an integral over the cube,

.. math:: \mu = E_p[f(X)] = \int_{[0, 1]^d} f(F^{-1}(u)) \, du, \qquad
          \hat\mu_r = \frac{1}{m} \sum_{i=1}^{m} f(F^{-1}(u_{ri})), \qquad
          \hat\mu = \frac{1}{R} \sum_{r=1}^{R} \hat\mu_r.

The m points of a replicate depend on each other, but each of them alone is uniform: the estimate is unbiased. The R
replicates are randomised independently, so that their spread gives the error.
"""

from __future__ import annotations

__all__ = ["quasi_expectation"]

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal

from .density import event_size, require_unbatched
from .draws import keyed_draws, map_blocks
from .engine import Draw
from .estimate import Estimate
from .intervals import clopper_pearson, require_confidence, student
from .sums import Sums
from .values import Function

Points = Literal["sobol", "stratified"]
# Points keep this distance from 0 and 1, where F^-1 may be infinite: a whole number of float64 steps on either side.
EDGE = 2.0**-52
# The usual 30 binary digits would leave u = 0 in reach, and steps of 1e-9 in the tail.
SOBOL_DIGITS = 52
# Directions for more coordinates are not known to scipy.
SOBOL_DIMENSIONS = 21_201


def quasi_expectation(
    f: Function,
    nominal: Distribution,
    *,
    num_samples: int = 2**16,
    points: Points = "sobol",
    num_replicates: int = 32,
    confidence: float = 0.95,
    seed: int = 0,
    num_workers: int | None = None,
) -> Estimate:
    r"""Estimates :math:`\mu = E_p[f(X)]` from R randomised sets of m = n / R points each, :math:`x = F^{-1}(u)`.

    "sobol" takes scrambled Sobol' nets: where :math:`f(F^{-1}(u))` is smooth, the error falls nearly as
    :math:`n^{-3/2}`, and where it is not, the variance stays below a constant times that of n independent draws.
    "stratified" takes Latin hypercubes: each coordinate has exactly one point in each of m equal strata. In one
    dimension the rate is the same; in many, what is a sum of functions of one coordinate each is integrated at that
    rate, and the rest as by n independent draws.

    The standard error is :math:`\sqrt{\sum_r (\hat\mu_r - \hat\mu)^2 / (R (R - 1))}`, and the interval Student's with
    R - 1 degrees of freedom. Where f is an indicator and no two replicates differ by more than one hit, the interval is
    that of Clopper and Pearson for the share of replicates with one hit more.

    References:
        A comparison of three methods for selecting values of input variables in the analysis of output from a computer
        code (McKay, Beckman and Conover, 1979).
        Large sample properties of simulations using Latin hypercube sampling (Stein, 1987).
        Randomly permuted (t, m, s)-nets and (t, s)-sequences (Owen, 1995).
        Scrambled net variance for integrals of smooth functions (Owen, 1997).
        On the L2-discrepancy for anchored boxes (Matousek, 1998), for scrambling by matrices, which is used here.

    Arguments:
        f: A function of draws, with shape (S, \*event), that returns values of shape (S,); booleans for the probability
            of an event. Several threads call it at the same time, each with all m points of a replicate.
        nominal: The distribution p, with batch shape (): univariate with an `icdf`, `Independent` of such, or
            `MultivariateNormal`, whose points go through its Cholesky factor.
        num_samples: The number n of points in all, a multiple of R; n / R a power of two for "sobol".
        points: The kind of points.
        num_replicates: The number R of independent randomisations, at least 2.
        confidence: The coverage of the interval.
        seed: The seed of the randomisations.
        num_workers: The number of threads; by default as many as torch uses.

    Returns:
        The estimate. Its k-hat is that of :math:`|f|`, as for independent draws. It cannot be merged with another.

    Raises:
        TypeError: If the inverse distribution function of p is not known.
        ValueError: If an argument is out of range, or f returns another shape, NaN or an infinity.

    Example:
        >>> from torch.distributions import Independent, Normal
        >>> p = Independent(Normal(torch.zeros(3), 1.0), 1)
        >>> result = quasi_expectation(lambda x: (x.sum(-1) / 3).exp(), p)  # truth: e^(1/6) = 1.181
        >>> f"{result.estimate:.3f}"
        '1.181'
    """
    require_unbatched("nominal distribution", nominal)
    size = _replicate_size(num_samples, num_replicates, points)
    _require_range(confidence, num_workers)
    inverse, dim = _inverse(nominal), event_size(nominal)
    _require_dimension(dim, points)
    draw = Draw(f, nominal, None, nominal, None, 0.0)

    @torch.no_grad()
    def replicate(r: int) -> Sums:
        with keyed_draws(seed, points, r):
            u = _points(points, size, dim)
            x = inverse(u).to(nominal.sample().dtype)
            return draw.sums(x, f(x))

    pieces = list(map_blocks(replicate, range(num_replicates), num_workers))
    return _estimate(pieces, points, confidence, seed)


def _replicate_size(num_samples: int, num_replicates: int, points: Points) -> int:
    if points not in ("sobol", "stratified"):
        raise ValueError(f"points must be 'sobol' or 'stratified', but is {points!r}: choose one of them.")
    if num_replicates < 2:
        raise ValueError(f"num_replicates must be at least 2, but is {num_replicates}: their spread gives the error.")
    size = max(num_samples // num_replicates, 1)
    fewer = 1 << (size.bit_length() - 1) if points == "sobol" else size
    if fewer * num_replicates != num_samples:
        more = 2 * fewer if points == "sobol" else fewer + 1
        multiple = "a power of two" if points == "sobol" else "a whole number"
        raise ValueError(
            f"num_samples must be {multiple} times num_replicates = {num_replicates}, but is {num_samples:,}: take "
            f"{fewer * num_replicates:,} or {more * num_replicates:,}."
        )
    return fewer


def _require_range(confidence: float, num_workers: int | None) -> None:
    require_confidence(confidence)
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"num_workers must be positive, but is {num_workers}: leave it out for a sensible one.")


def _require_dimension(dim: int, points: Points) -> None:
    if points == "sobol" and dim > SOBOL_DIMENSIONS:
        raise ValueError(
            f"Sobol' points have at most {SOBOL_DIMENSIONS:,} coordinates, but a draw has {dim:,}: take "
            "points='stratified'."
        )


def _inverse(nominal: Distribution) -> Callable[[Tensor], Tensor]:
    r"""Returns :math:`F^{-1}`, from points of the cube with shape (S, d) to draws with shape (S, \*event)."""
    base = nominal
    while isinstance(base, Independent):
        base = base.base_dist
    shape = nominal.event_shape
    if isinstance(base, MultivariateNormal):
        # x = mu + L Phi^-1(u)
        loc, factor = base.loc, base.scale_tril.double()
        return lambda u: loc + (factor @ torch.special.ndtri(u).reshape(-1, *shape, 1)).squeeze(-1)
    if base.event_shape != torch.Size() or not _has_icdf(base):
        raise TypeError(
            "The nominal distribution must have an inverse distribution function for each coordinate, but "
            f"{type(base).__name__} has none: use expectation()."
        )
    icdf = base.icdf
    return lambda u: icdf(u.reshape(-1, *shape))


def _has_icdf(p: Distribution) -> bool:
    try:
        p.icdf(torch.full(p.batch_shape, 0.5, dtype=torch.float64))
    except NotImplementedError:
        return False
    return True


def _points(points: Points, size: int, dim: int) -> Tensor:
    """Returns one randomised set of points inside of the cube, in float64, with shape (size, dim)."""
    # scipy.stats takes a second to import: only who asks for such points waits for it
    from scipy.stats import qmc

    rng = np.random.default_rng(int(torch.randint(2**63 - 1, ())))
    if points == "sobol":
        u = qmc.Sobol(dim, scramble=True, bits=SOBOL_DIGITS, rng=rng).random(size)
    else:
        u = qmc.LatinHypercube(dim, scramble=True, rng=rng).random(size)
    return torch.from_numpy(u).clamp(EDGE, 1 - EDGE)


def _estimate(pieces: Sequence[Sums], points: Points, confidence: float, seed: int) -> Estimate:
    total = pieces[0]
    for piece in pieces[1:]:
        total = total.merged(piece)
    means = torch.stack([piece.moments.mean[0] * piece.moments.log_scale[0].exp() for piece in pieces])
    spread = Estimate.of(Sums.of(means), "plain", (seed,))
    return dataclasses.replace(
        Estimate.of(total, "plain", (seed,), confidence=confidence),
        estimate=spread.estimate,
        standard_error=spread.standard_error,
        interval=_interval(pieces, spread, confidence),
        method=points,
        sums=None,
    )


def _interval(pieces: Sequence[Sums], spread: Estimate, confidence: float) -> tuple[float, float]:
    mean, error, size = spread.estimate, spread.standard_error, pieces[0].count
    hits = [piece.terms.count for piece in pieces]
    if not all(piece.is_indicator for piece in pieces) or max(hits) - min(hits) > 1:
        return student(mean, error, len(pieces) - 1, confidence) if error > 0 else (mean, mean)
    # Each replicate has k or k + 1 hits: the mean is (k + P(one more)) / m. If all agree, k may be either number
    low, _ = clopper_pearson(sum(hits) - len(hits) * (max(hits) - 1), len(hits), confidence)
    _, high = clopper_pearson(sum(hits) - len(hits) * min(hits), len(hits), confidence)
    return max(max(hits) - 1 + low, 0.0) / size, min((min(hits) + high) / size, 1.0)
