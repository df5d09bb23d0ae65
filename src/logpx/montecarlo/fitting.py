r"""Fits of a family of distributions to weighted draws: the moving part of every adaptive proposal.

The cross-entropy :math:`-\sum_s w_s \log q(x_s)` is least at the weighted maximum-likelihood fit, which for exponential
families depends on weighted means alone. Few draws determine few parameters: with the effective number of draws
:math:`n = (\sum w)^2 / \sum w^2` below 2 k for k parameters (for a covariance in d dimensions, k = d + 1), the means
are those of a mixture of the draws and the family as it was, which has the share
:math:`\lambda = 1 / n - 1 / (2 k)`. Where the draws alone would put a parameter on the edge of its range (no spread, a
probability of 0), the former family counts as one draw at least, :math:`\lambda \geq 1 / (n + 1)`, so that no fit is
degenerate.
"""

from __future__ import annotations

__all__ = ["weighted_fit"]

import dataclasses
import functools

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Distribution,
    Exponential,
    Gamma,
    Geometric,
    Independent,
    LogNormal,
    MultivariateNormal,
    Normal,
    Poisson,
    StudentT,
    TransformedDistribution,
    Uniform,
)

from .mixture import Mixture

# Effective draws per parameter, below which the former family has a share in the fit.
ENOUGH = 2
# A spread of this share of the root mean square is rounding: all draws are equal.
ROUNDING = 1e-14
EM_STEPS = 10
STUDENT_STEPS = 500


@functools.singledispatch
def weighted_fit(family: Distribution, x: Tensor, log_w: Tensor) -> Distribution:
    r"""Fits the family of a distribution to weighted draws, :math:`\arg\max_\theta \sum_s w_s \log q_\theta(x_s)`.

    It is the weighted maximum-likelihood fit for Normal, LogNormal, Exponential, Gamma, StudentT (location and scale;
    the degrees of freedom are kept), MultivariateNormal, Bernoulli, Categorical, Geometric and Poisson, for
    Independent and TransformedDistribution of these, and, by 10 steps of expectation maximisation from where it is,
    for Mixture. Beta is fitted by its first two moments. Few or equal draws leave a share to the family as it was:
    see the module. A batch of distributions shares the weights and is fitted entry by entry.

    For a family of your own, write a function of the same arguments and register it:
    `weighted_fit.register(MyFamily)(my_fit)`.

    References:
        The cross-entropy method for combinatorial and continuous optimization (Rubinstein, 1999).

    Arguments:
        family: A distribution of the family, with the parameters that it had so far.
        x: The S draws, with shape (S, \*batch, \*event).
        log_w: Their log-weights :math:`\log w`, in nats, with shape (S,), of any magnitude.

    Returns:
        A distribution of the family, with the dtype of its former parameters.

    Raises:
        TypeError: If no fit is known for the family.
        ValueError: If shapes differ, weights are invalid or all 0, or a draw with weight is outside of the support.

    Example:
        >>> from torch.distributions import Exponential
        >>> weighted_fit(Exponential(1.0), torch.tensor([1.0, 3.0]).repeat(5), torch.zeros(10))
        Exponential(rate: 0.5)
    """
    name = type(family).__name__
    raise TypeError(
        f"weighted_fit must be told how to fit a {name}, but knows no way: register one with "
        f"weighted_fit.register({name}), or choose another family for the proposal."
    )


@weighted_fit.register
def _(family: Uniform, x: Tensor, log_w: Tensor) -> Distribution:
    raise TypeError(
        "weighted_fit must not fit a Uniform, but got one: its best fit ends at the outermost draws, and a proposal "
        "must reach beyond; use a Beta, or another family that covers the nominal distribution."
    )


@weighted_fit.register
def _(family: Normal, x: Tensor, log_w: Tensor) -> Normal:
    mean, variance = _Draws.of(family, x, log_w).moments(family.loc, family.scale**2)
    return Normal(mean.to(family.loc), variance.sqrt().to(family.loc))


@weighted_fit.register
def _(family: LogNormal, x: Tensor, log_w: Tensor) -> LogNormal:
    draws = _Draws.of(family, x, log_w)
    logs = dataclasses.replace(draws, x=draws.x.log())
    mean, variance = logs.moments(family.loc, family.scale**2)
    return LogNormal(mean.to(family.loc), variance.sqrt().to(family.loc))


@weighted_fit.register
def _(family: Exponential, x: Tensor, log_w: Tensor) -> Exponential:
    return Exponential((1 / _Draws.of(family, x, log_w).positive_mean(family.mean)).to(family.rate))


@weighted_fit.register
def _(family: Poisson, x: Tensor, log_w: Tensor) -> Poisson:
    return Poisson(_Draws.of(family, x, log_w).positive_mean(family.rate).to(family.rate))


@weighted_fit.register
def _(family: Geometric, x: Tensor, log_w: Tensor) -> Geometric:
    mean = _Draws.of(family, x, log_w).positive_mean(family.mean)
    # E[X] = 1 / p - 1
    return Geometric((1 / (1 + mean)).to(family.probs))


@weighted_fit.register
def _(family: Bernoulli, x: Tensor, log_w: Tensor) -> Bernoulli:
    draws = _Draws.of(family, x, log_w)
    mean = draws.mean(draws.x)
    share = draws.share(1, (mean == 0) | (mean >= 1 - ROUNDING))
    return Bernoulli(torch.lerp(mean, family.probs.double(), share).to(family.probs))


@weighted_fit.register
def _(family: Categorical, x: Tensor, log_w: Tensor) -> Categorical:
    draws = _Draws.of(family, x, log_w)
    k = family.probs.shape[-1]
    mean = draws.mean(F.one_hot(draws.x.long(), k).double())
    share = draws.share(k - 1, (mean == 0).any(-1, keepdim=True))
    return Categorical(torch.lerp(mean, family.probs.double(), share).to(family.probs))


@weighted_fit.register
def _(family: Gamma, x: Tensor, log_w: Tensor) -> Distribution:
    if type(family) is not Gamma:
        # its subclass Chi2 has one parameter less
        return weighted_fit.dispatch(Distribution)(family, x, log_w)
    draws = _Draws.of(family, x, log_w)
    a, b = family.concentration.double(), family.rate.double()
    # a draw that was rounded to 0 has a logarithm all the same
    logs = draws.x.clamp(min=torch.finfo(family.rate.dtype).tiny).log()
    mean, mean_log = draws.mean(draws.x), draws.mean(logs)
    gap = mean.log() - mean_log
    share = draws.share(2, gap <= ROUNDING * (1 + mean.log().abs()))
    mean, mean_log = torch.lerp(mean, a / b, share), torch.lerp(mean_log, a.digamma() - b.log(), share)
    shape = _gamma_shape(mean.log() - mean_log)
    return Gamma(shape.to(family.rate), (shape / mean).to(family.rate))


@weighted_fit.register
def _(family: Beta, x: Tensor, log_w: Tensor) -> Beta:
    mean, variance = _Draws.of(family, x, log_w).moments(family.mean, family.variance)
    # a / (a + b) = m and m (1 - m) / (a + b + 1) = v
    total = (mean * (1 - mean) / variance - 1).clamp(min=torch.finfo(family.mean.dtype).eps)
    return Beta((mean * total).to(family.mean), ((1 - mean) * total).to(family.mean))


@weighted_fit.register
def _(family: StudentT, x: Tensor, log_w: Tensor) -> StudentT:
    draws = _Draws.of(family, x, log_w)
    loc, square = _student(draws, family.df.double())
    loc, square = draws.blended(loc, square, family.loc, family.scale**2)
    return StudentT(family.df, loc.to(family.loc), square.sqrt().to(family.loc))


@weighted_fit.register
def _(family: MultivariateNormal, x: Tensor, log_w: Tensor) -> MultivariateNormal:
    draws = _Draws.of(family, x, log_w)
    former, former_covariance = family.loc.double(), family.covariance_matrix.double()
    mean = draws.mean(draws.x)
    covariance = draws.covariance(mean)
    singular = _is_singular(covariance, draws.rounding, torch.finfo(family.loc.dtype).eps)
    share = draws.share(mean.shape[-1] + 1, singular.unsqueeze(-1))
    gap = former - mean
    mean = torch.lerp(mean, former, share)
    # the covariance of a mixture: that within its parts, and that between their means
    share = share.unsqueeze(-1)
    between = share * (1 - share) * gap.unsqueeze(-1) * gap.unsqueeze(-2)
    covariance = torch.lerp(covariance, former_covariance, share) + between
    return MultivariateNormal(mean.to(family.loc), scale_tril=torch.linalg.cholesky(covariance).to(family.loc))


@weighted_fit.register
def _(family: Independent, x: Tensor, log_w: Tensor) -> Independent:
    return Independent(weighted_fit(family.base_dist, x, log_w), family.reinterpreted_batch_ndims)


@weighted_fit.register
def _(family: TransformedDistribution, x: Tensor, log_w: Tensor) -> Distribution:
    if type(family) is not TransformedDistribution:
        # subclasses have parameters in their transforms
        return weighted_fit.dispatch(Distribution)(family, x, log_w)
    for transform in reversed(family.transforms):
        x = transform.inv(x)
    return TransformedDistribution(weighted_fit(family.base_dist, x, log_w), family.transforms)


@weighted_fit.register
def _(family: Mixture, x: Tensor, log_w: Tensor) -> Mixture:
    draws = _Draws.of(family, x, log_w)
    x, log_w = x[log_w > -torch.inf], draws.w.log()
    _require_inside(family, family.log_prob(x) > -torch.inf)
    mixture = family
    for _step in range(EM_STEPS):
        log_terms = mixture.log_terms(x)
        # log w r_j, with the responsibility r_j of component j for a draw
        log_parts = log_w + log_terms - torch.logsumexp(log_terms, 0)
        alpha = log_parts.exp().sum(1)
        # the former family throughout: blended with itself step by step, it would fade
        parts = zip(family.components, log_parts, alpha.tolist(), strict=True)
        components = [weighted_fit(q, x, log_r) if a > 0 else q for q, log_r, a in parts]
        share = draws.share(len(alpha) - 1, (alpha == 0).any())
        mixture = Mixture(components, torch.lerp(alpha, family.weights, share))
    return mixture


@dataclasses.dataclass(frozen=True)
class _Draws:
    """Draws with positive weights that sum to 1, in float64, and their effective number n."""

    x: Tensor  # (S, *shape)
    w: Tensor  # (S,)
    size: float

    @classmethod
    def of(cls, family: Distribution, x: Tensor, log_w: Tensor) -> _Draws:
        _require_fitting(family, x, log_w)
        positive = log_w > -torch.inf
        x, w = x[positive], torch.softmax(log_w[positive].double(), 0)
        _require_inside(family, torch.isfinite(x))
        _require_inside(family, _is_supported(family, x))
        return cls(x.double(), w, 1 / float(w.square().sum()))

    def mean(self, values: Tensor) -> Tensor:
        """Returns the weighted mean over the draws."""
        return torch.tensordot(self.w, values, dims=1)

    def covariance(self, mean: Tensor) -> Tensor:
        r"""Returns the weighted covariance of vectors around their mean, with shape (\*batch, d, d)."""
        deviations = (self.x - mean).movedim(0, -2)
        return deviations.mT @ (self.w.unsqueeze(-1) * deviations)

    @property
    def rounding(self) -> Tensor:
        """The variance of each entry that rounding can make of equal draws."""
        return ROUNDING**2 * self.mean(self.x**2)

    def share(self, num_parameters: int, is_degenerate: Tensor) -> Tensor:
        r"""Returns the share :math:`\lambda` of the former family, with the shape of `is_degenerate`."""
        few = max(0.0, 1 / self.size - 1 / (ENOUGH * max(num_parameters, 1)))
        share = torch.full(is_degenerate.shape, few, dtype=torch.float64)
        return torch.where(is_degenerate, share.clamp(min=1 / (self.size + 1)), share)

    def positive_mean(self, former: Tensor) -> Tensor:
        """Returns the blended mean of draws that are not negative: it is positive."""
        mean = self.mean(self.x)
        return torch.lerp(mean, former.double(), self.share(1, mean <= 0))

    def moments(self, former_mean: Tensor, former_variance: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the blended mean and variance of each entry."""
        mean = self.mean(self.x)
        return self.blended(mean, self.mean((self.x - mean) ** 2), former_mean, former_variance)

    def blended(
        self, mean: Tensor, variance: Tensor, former_mean: Tensor, former_variance: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the mean and variance of a mixture of draws with these moments and the former family."""
        share, gap = self.share(2, variance <= self.rounding), former_mean.double() - mean
        variance = torch.lerp(variance, former_variance.double(), share) + share * (1 - share) * gap**2
        return mean + share * gap, variance


def _gamma_shape(gap: Tensor) -> Tensor:
    r"""Solves :math:`\log a - \psi(a) = s` by Newton's method in 1 / a.

    Estimating a gamma distribution (Minka, 2002).
    """
    a = (3 - gap + torch.sqrt((gap - 3) ** 2 + 24 * gap)) / (12 * gap)
    for _ in range(4):
        slope = 1 / a - torch.polygamma(1, a)
        a = 1 / (1 / a + (a.log() - a.digamma() - gap) / (a**2 * slope))
    return a


def _student(draws: _Draws, df: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the maximum-likelihood location and squared scale, by parameter-expanded expectation maximisation.

    Parameter expansion to accelerate EM: the PX-EM algorithm (Liu, Rubin and Wu, 1998).
    """
    loc = draws.mean(draws.x)
    square = draws.mean((draws.x - loc) ** 2)
    rounding = draws.rounding + torch.finfo(torch.float64).tiny
    for _ in range(STUDENT_STEPS):
        # a draw is normal given its precision, whose mean is proportional to u = 1 / (df + (x - m)^2 / s^2)
        u = 1 / (df + (draws.x - loc) ** 2 / square.clamp(min=rounding))
        total, before = draws.mean(u), square
        loc = draws.mean(u * draws.x) / total
        square = draws.mean(u * (draws.x - loc) ** 2) / total
        if bool(((square - before).abs() <= 1e-10 * before).all()):
            break
    return loc, square


def _is_singular(covariance: Tensor, rounding: Tensor, eps: float) -> Tensor:
    """Returns whether an entry has no spread, or the smallest eigenvalue of the correlation matrix may as well be 0."""
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    flat = (variance <= rounding).any(-1)
    outer = (variance.unsqueeze(-1) * variance.unsqueeze(-2)).sqrt().masked_fill(flat[..., None, None], 1.0)
    smallest = torch.linalg.eigvalsh(covariance / outer)[..., 0]
    return flat | (smallest <= 10 * covariance.shape[-1] * eps)


def _require_fitting(family: Distribution, x: Tensor, log_w: Tensor) -> None:
    shape = family.batch_shape + family.event_shape
    if x.dim() == 0 or x.shape[1:] != shape:
        expected = ", ".join(["S", *map(str, shape)])
        raise ValueError(f"x must have shape ({expected}), but has {tuple(x.shape)}: one row per draw of the family.")
    if log_w.shape != x.shape[:1]:
        raise ValueError(f"log_w must have shape ({len(x)},), but has {tuple(log_w.shape)}: one number per draw.")
    if bool((torch.isnan(log_w) | (log_w == torch.inf)).any()):
        raise ValueError("Log-weights must be numbers or -inf, but some are NaN or +inf: look at the densities.")
    if not bool((log_w > -torch.inf).any()):
        raise ValueError(
            f"At least one weight must be positive, but all of {len(x):,} are 0: draw more, or start from a family "
            "that covers the nominal distribution."
        )


def _is_supported(family: Distribution, x: Tensor) -> Tensor:
    try:
        return torch.tensor(True) if family.support is None else family.support.check(x)
    except NotImplementedError:
        return torch.tensor(True)


def _require_inside(family: Distribution, inside: Tensor) -> None:
    if not bool(inside.all()):
        raise ValueError(
            f"Draws with weight must be finite and in the support of the {type(family).__name__}, but some are not: "
            "choose a family that covers them."
        )
