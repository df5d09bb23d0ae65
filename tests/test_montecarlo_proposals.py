"""Proposals that adapt: mixtures, weighted fits, the cross-entropy method, adaptive multiple importance sampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Beta,
    Categorical,
    Cauchy,
    Chi2,
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
    Weibull,
    constraints,
)

from logpx.montecarlo import importance_sampling
from logpx.montecarlo.adaptive import adaptive_importance_sampling
from logpx.montecarlo.cross_entropy import cross_entropy
from logpx.montecarlo.density import log_density
from logpx.montecarlo.draws import keyed_draws
from logpx.montecarlo.fitting import weighted_fit
from logpx.montecarlo.mixture import Mixture, defensive, widened
from logpx.utils import LogpxError


def drawn(p: Distribution, n: int, seed: int = 0) -> Tensor:
    with keyed_draws(seed, "test"):
        return p.sample((n,))


def double(*values: Any) -> list[Tensor]:
    return [torch.tensor(value, dtype=torch.float64) for value in values]


def standard(d: int, shift: float = 0.0) -> Independent:
    return Independent(Normal(torch.full((d,), shift), 1.0), 1)


def parameters(q: Distribution) -> list[Tensor]:
    """Returns the numbers that tell a member of a family from the others."""
    if isinstance(q, Mixture):
        return [q.weights, *(each for part in q.components for each in parameters(part))]
    if isinstance(q, Independent) or type(q) is TransformedDistribution:
        return parameters(q.base_dist)
    if isinstance(q, MultivariateNormal):
        return [q.loc, q.covariance_matrix]
    names = ["probs"] if isinstance(q, Bernoulli | Categorical | Geometric) else sorted(q.arg_constraints)
    return [getattr(q, name).double() for name in names]


def assert_same(a: Distribution, b: Distribution, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    assert type(a) is type(b)
    for x, y in zip(parameters(a), parameters(b), strict=True):
        assert torch.allclose(x.double(), y.double(), rtol=rtol, atol=atol), (a, b)


# -- mixtures --


class Below(Distribution):
    """An end less an exponential draw."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, rate: float, end: float) -> None:
        self.part, self.end = Exponential(rate), end
        super().__init__()

    @property
    def support(self) -> Any:  # type: ignore[override]
        return constraints.less_than(self.end)

    @property
    def mean(self) -> Tensor:
        return self.end - self.part.mean

    @property
    def variance(self) -> Tensor:
        return self.part.variance

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.end - self.part.sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.part.log_prob(self.end - value)


SIDES = [Normal(-1.0, 0.5), Exponential(2.0), Below(1.0, 1.0), Uniform(2.0, 4.0)]
SHARES = [0.4, 0.3, 0.2, 0.1]


def sides_cdf(x: np.ndarray) -> np.ndarray:
    parts = [stats.norm.cdf(x, -1, 0.5), stats.expon.cdf(x, scale=0.5), stats.expon.sf(1 - x), (x - 2).clip(0, 2) / 2]
    return sum(a * part for a, part in zip(SHARES, parts, strict=True))


def test_a_mixture_of_different_supports_has_a_density_that_integrates_to_its_distribution_function() -> None:
    edges = np.linspace(-30, 20, 200_001)
    middles = torch.from_numpy((edges[1:] + edges[:-1]) / 2)
    q = Mixture(SIDES, SHARES)
    mass = log_density(q, middles).exp().numpy() * np.diff(edges)
    assert mass.sum() == pytest.approx(1, abs=1e-6)
    assert np.allclose(mass.cumsum(), sides_cdf(edges[1:]), atol=3e-4)
    nowhere = Mixture(SIDES[1::2], [1, 1])
    assert log_density(nowhere, torch.tensor([-1.0, 1.0])).isfinite().tolist() == [False, True]


def test_draws_of_a_mixture_follow_its_density() -> None:
    # a chi-square test with 39 degrees of freedom; false alarm 1e-4
    edges = np.quantile(drawn(Mixture(SIDES, SHARES), 100_000, seed=1).numpy(), np.arange(1, 40) / 40)
    edges = np.concatenate([[-np.inf], edges, [np.inf]])
    counts = np.histogram(drawn(Mixture(SIDES, SHARES), 100_000).numpy(), edges)[0]
    assert stats.chisquare(counts, 100_000 * np.diff(sides_cdf(edges))).pvalue > 1e-4


def test_draws_of_a_mixture_are_independent_in_their_order() -> None:
    # the correlation of neighbours has standard deviation 1 / sqrt(n); beyond 4.5 of them: false alarm 7e-6
    one, two = (Normal(-10.0, 1.0), Normal(10.0, 1.0)), (standard(2, -10.0), standard(2, 10.0))
    for x in (drawn(defensive(*one, 0.5), 50_000).numpy(), drawn(defensive(*two, 0.5), 50_000)[:, 0].numpy()):
        for lag in (1, 2, 1000):
            assert abs(np.corrcoef(x[:-lag], x[lag:])[0, 1]) < 4.5 / math.sqrt(50_000)


class ByCoordinate(Distribution):
    """Two normal coordinates around m, each contiguous in memory, as models that work by columns like them."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, m: float) -> None:
        self.m = m
        super().__init__(event_shape=torch.Size([2]))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return (torch.randn(2, *sample_shape) + self.m).mT


def test_a_draw_of_a_mixture_comes_whole_from_one_component_and_keeps_its_layout() -> None:
    rows = drawn(Mixture([standard(2, -20.0), standard(2, 20.0), standard(2, 60.0)], [1, 2, 1]), 2000)
    columns = drawn(Mixture([ByCoordinate(-20.0), ByCoordinate(20.0), ByCoordinate(60.0)], [1, 2, 1]), 2000)
    assert rows.stride() == (2, 1) and columns.stride() == (1, 2000)
    for x in (rows, columns):
        which = ((x + 20) / 40).round()
        assert torch.equal(which[:, 0], which[:, 1])
        assert (x - 40 * which + 20).abs().max() < 6
        # shares 1/4, 1/2, 1/4 of 2,000; 5 standard deviations
        assert torch.bincount(which[:, 0].long()).tolist() == pytest.approx([500, 1000, 500], abs=112)


def test_a_mixture_gives_any_number_of_draws_of_one_type() -> None:
    q = Mixture([Normal(0.0, 1.0), Normal(*double(0.0, 1.0))], [1 - 1e-12, 1e-12])
    assert q.sample().shape == () and q.sample((0,)).shape == (0,) and q.sample((2, 3)).shape == (2, 3)
    assert q.sample((5,)).dtype == torch.float64
    # torch refuses to draw no number of a Categorical
    discrete = Mixture([Poisson(2.0), Categorical(torch.ones(3))], [1 - 1e-12, 1e-12])
    assert discrete.sample((5,)).dtype == torch.float32
    discrete = Mixture(discrete.components, [0.5, 0.5])
    expected = 0.5 * stats.poisson.pmf([0, 2, 3], 2) + [1 / 6, 1 / 6, 0]
    assert np.allclose(log_density(discrete, torch.tensor([0.0, 2.0, 3.0])).exp().numpy(), expected)


def test_the_moments_of_a_mixture_are_those_of_its_draws() -> None:
    q = Mixture(SIDES[:3], [1.0, 2.0, 3.0])
    x = drawn(q, 200_000).double()
    mean = (1 * -1.0 + 2 * 0.5 + 3 * 0.0) / 6
    assert q.mean.item() == pytest.approx(mean)
    # standard errors 0.002 and about 0.005: bounds of 5
    assert x.mean().item() == pytest.approx(mean, abs=0.011)
    assert q.variance.item() == pytest.approx(x.var().item(), abs=0.025)


@pytest.mark.parametrize("alpha", [0.01, 0.1, 0.5])
def test_defensive_weights_are_at_most_one_over_alpha(alpha: float) -> None:
    cases: list[tuple[Distribution, Distribution]] = [
        (Normal(0.0, 1.0), Normal(4.0, 0.1)),
        (Exponential(1.0), Uniform(3.0, 5.0)),
        # float32 would round log-densities near 30,000 by 0.002
        (Independent(Normal(torch.zeros(3000), 1e-5), 1), Independent(Normal(torch.zeros(3000), 1e-7), 1)),
    ]
    for p, q in cases:
        x = drawn(defensive(p, q, alpha), 100_000 if p.event_shape == () else 100)
        log_w = log_density(p, x).double() - log_density(defensive(p, q, alpha), x)
        assert log_w.max() <= -math.log(alpha) + 1e-10
        assert log_w.max() >= -math.log(alpha) - 0.1


def test_the_balance_heuristic_is_unbiased_where_only_all_components_together_cover_p() -> None:
    p, q = Normal(0.0, 1.0), Mixture([Exponential(0.7), Below(0.7, 0.0), Uniform(-1.0, 1.0)], [0.3, 0.4, 0.3])
    result = importance_sampling(lambda x: torch.stack([x**2, x > 0.5]).sum(0), p, q, num_samples=200_000)
    # 4.5 standard errors: false alarm 7e-6
    truth = 1 + stats.norm.sf(0.5)
    assert result.standard_error < 0.01
    assert abs(result.estimate - truth) < 4.5 * result.standard_error


def test_a_mixture_as_a_proposal_gives_the_same_for_any_chunks_and_threads() -> None:
    p, q = standard(3), Mixture([standard(3, 1.0), Independent(StudentT(3.0, torch.zeros(3)), 1)], [0.7, 0.3])
    results = [
        importance_sampling(lambda x: x.sum(-1) > 5, p, q, num_samples=2000, chunk_size=size, num_workers=workers)
        for size, workers in ((None, 1), (None, 2), (7, 2), (1000, 3))
    ]
    assert results[0] == results[1]
    for other in results[2:]:
        assert other.estimate == pytest.approx(results[0].estimate, rel=1e-12)


def test_a_mixture_says_what_it_is_made_of() -> None:
    assert repr(defensive(Exponential(1.0), Exponential(0.5))) == (
        "Mixture(0.1 Exponential(rate: 1.0) + 0.9 Exponential(rate: 0.5))"
    )


def test_mixtures_of_what_does_not_fit_together_are_refused() -> None:
    normal = Normal(0.0, 1.0)
    with pytest.raises(ValueError, match="at least one component"):
        Mixture([], [])
    with pytest.raises(TypeError, match="component number 1 must be a torch Distribution, but is a function"):
        Mixture([normal, lambda x: x], [1, 1])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"component number 1 must have batch shape \(\), but has \(2,\)"):
        Mixture([normal, Normal(torch.zeros(2), 1.0)], [1, 1])
    with pytest.raises(ValueError, match=r"share an event shape, but have \(\) and \(3,\)"):
        Mixture([normal, standard(3)], [1, 1])
    with pytest.raises(ValueError, match="all discrete or all continuous"):
        Mixture([normal, Poisson(1.0)], [1, 1])
    with pytest.raises(ValueError, match=r"one weight per component, \(2,\), but got \(1,\)"):
        Mixture([normal, normal], [1])
    for weights in ([0.0, 0.0], [1.0, -0.1], [1.0, math.nan], [1.0, math.inf]):
        with pytest.raises(ValueError, match="non-negative, finite and not all 0"):
            Mixture([normal, normal], weights)
    for alpha in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="alpha must be between 0 and 1"):
            defensive(normal, normal, alpha)


# -- wider proposals --


def correlated(d: int, seed: int, scale: float = 1.0) -> MultivariateNormal:
    root = torch.randn(d, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return MultivariateNormal(torch.ones(d, dtype=torch.float64), scale * root @ root.mT + 0.01 * torch.eye(d))


def test_a_widened_covariance_exceeds_both_and_neither_more_than_needed() -> None:
    for seed in range(5):
        p, q = correlated(4, seed), correlated(4, seed + 50)
        wide: Any = widened(q, p)
        for other in (p, q):
            gap = torch.linalg.eigvalsh(wide.covariance_matrix - other.covariance_matrix)
            assert gap.min() > -1e-9 * wide.covariance_matrix.trace()
        # in the coordinates of p the smallest scale was below 1 and is 1 now; and the larger scales stay
        whiten = torch.linalg.inv(p.scale_tril)
        before, after = (torch.linalg.eigvalsh(whiten @ each.covariance_matrix @ whiten.mT) for each in (q, wide))
        assert before[0] < 1
        assert torch.allclose(after, before.clamp(min=1), rtol=1e-8)
        assert torch.equal(wide.loc, q.loc)
    p = correlated(3, 0)
    assert_same(widened(correlated(3, 0, 4.0), p), correlated(3, 0, 4.0), rtol=1e-8)


def test_each_family_is_widened_in_its_scale_alone() -> None:
    assert_same(widened(Normal(4.0, 0.2), Normal(0.0, 1.0)), Normal(4.0, 1.0))
    assert_same(widened(Normal(4.0, 2.0), Normal(0.0, 1.0)), Normal(4.0, 2.0))
    assert_same(widened(LogNormal(4.0, 0.2), LogNormal(0.0, 1.0)), LogNormal(4.0, 1.0))
    assert_same(widened(Gamma(40.0, 10.0), Gamma(2.0, 2.0)), Gamma(8.0, 2.0))
    assert_same(widened(Gamma(4.0, 1.0), Gamma(2.0, 2.0)), Gamma(4.0, 1.0))
    p = Independent(Normal(torch.zeros(2), 1.0), 1)
    q = Independent(Normal(torch.ones(2), torch.tensor([0.5, 2.0])), 1)
    wide = Independent(Normal(torch.ones(2), torch.tensor([1.0, 2.0])), 1)
    assert_same(widened(q, p), wide)
    assert_same(widened(Mixture([p, q], [1, 3]), p), Mixture([p, wide], [1, 3]))
    log = AffineTransform(1.0, 2.0)
    moved = [TransformedDistribution(Normal(0.0, scale), log) for scale in (0.1, 1.0)]
    assert_same(widened(moved[0], moved[1]), moved[1])


def test_what_needs_no_widening_is_returned_as_it_is() -> None:
    up = TransformedDistribution(Normal(0.0, 1.0), AffineTransform(1.0, 2.0))
    pairs: list[tuple[Distribution, Distribution]] = [
        (Exponential(1.0), Exponential(2.0)),
        (Normal(0.0, 0.1), StudentT(3.0)),
        (LogNormal(0.0, 0.1), Normal(0.0, 1.0)),
        (Gamma(1.0, 5.0), Chi2(3.0)),
        (correlated(2, 0, 0.1), standard(2)),
        (standard(2), correlated(2, 0)),
        (Independent(Exponential(torch.ones(2)), 1), Independent(Exponential(torch.ones(2)), 1)),
        (Mixture([Exponential(1.0)], [1]), Exponential(1.0)),
        (up, TransformedDistribution(Normal(0.0, 9.0), AffineTransform(1.0, 3.0))),
        (
            TransformedDistribution(Exponential(1.0), up.transforms),
            TransformedDistribution(Exponential(1.0), up.transforms),
        ),
        (up, Normal(0.0, 9.0)),
    ]
    for q, p in pairs:
        assert widened(q, p) is q


# -- weighted fits --


def pert(a: float, b: float) -> TransformedDistribution:
    return TransformedDistribution(Beta(*double(a, b)), AffineTransform(2.0, 5.0))


# A distribution, and another of its family that covers it.
PAIRS: dict[str, tuple[Distribution, Distribution]] = {
    "Normal": (Normal(*double(2.0, 0.5)), Normal(*double(1.0, 1.0))),
    "LogNormal": (LogNormal(*double(1.0, 0.4)), LogNormal(*double(0.5, 0.8))),
    "Exponential": (Exponential(*double(2.0)), Exponential(*double(1.2))),
    "Gamma": (Gamma(*double(3.0, 2.0)), Gamma(*double(2.0, 1.0))),
    "small Gamma": (Gamma(*double(0.3, 1.0)), Gamma(*double(0.25, 0.8))),
    "large Gamma": (Gamma(*double(900.0, 3.0)), Gamma(*double(400.0, 4 / 3))),
    "Beta": (Beta(*double(3.0, 5.0)), Beta(*double(2.0, 3.0))),
    "StudentT": (StudentT(*double(5.0, 1.0, 0.5)), StudentT(*double(5.0, 0.5, 1.0))),
    "Cauchy": (StudentT(*double(1.0, 1.0, 0.5)), StudentT(*double(1.0, 0.5, 1.0))),
    "Bernoulli": (Bernoulli(*double(0.7)), Bernoulli(*double(0.4))),
    "Poisson": (Poisson(*double(6.0)), Poisson(*double(5.0))),
    "Geometric": (Geometric(*double(0.5)), Geometric(*double(0.4))),
    "Categorical": (Categorical(*double([0.5, 0.2, 0.3])), Categorical(*double([0.3, 0.3, 0.4]))),
    "MultivariateNormal": (
        MultivariateNormal(*double([1.0, 2.0], [[1.0, 0.6], [0.6, 2.0]])),
        MultivariateNormal(*double([0.5, 1.0], [[2.0, 0.0], [0.0, 3.0]])),
    ),
    "Independent": (
        Independent(Gamma(*double([3.0, 1.0], [2.0, 1.0])), 1),
        Independent(Gamma(*double([2.0, 0.9], [1.0, 0.7])), 1),
    ),
    "TransformedDistribution": (pert(3.0, 5.0), pert(2.0, 3.0)),
    "Mixture": (
        Mixture([Normal(*double(-3.0, 0.5)), Normal(*double(2.0, 1.0))], [0.3, 0.7]),
        Mixture([Normal(*double(-2.0, 1.5)), Normal(*double(2.0, 1.5))], [0.5, 0.5]),
    ),
}
MOMENTS = {"Beta", "TransformedDistribution"}
families = pytest.mark.parametrize("name", PAIRS)


@families
def test_a_fit_to_weighted_draws_of_another_member_recovers_the_parameters(name: str) -> None:
    p, q = PAIRS[name]
    x = drawn(q, 200_000)
    log_w = p.log_prob(x) - q.log_prob(x)
    # the bounds are at least 5 standard errors of each parameter
    assert_same(weighted_fit(q, x, log_w - 1e4), p, rtol=0.015, atol=0.01)


@families
def test_integer_weights_are_repeated_draws_and_the_scale_of_weights_does_not_matter(name: str) -> None:
    p, _ = PAIRS[name]
    x, repeats = drawn(p, 400), torch.arange(400) % 4
    weighted = weighted_fit(p, x, repeats.double().log())
    repeated = weighted_fit(p, x.repeat_interleave(repeats, 0), torch.full((600,), -1e4))
    assert_same(weighted, repeated, rtol=1e-7)
    # weights of e^-10,000 relative to others are none
    both = weighted_fit(
        p, torch.cat([x, drawn(p, 50, seed=9)]), torch.cat([repeats.double().log(), -1e4 * torch.ones(50)])
    )
    assert_same(weighted, both, rtol=1e-7)


def shifted(q: Distribution, log_step: float, which: int) -> Distribution | None:
    """Returns the distribution with one parameter multiplied by e^step, or None where the family has no more."""
    values = parameters(q)
    if which >= len(values):
        return None
    values[which] = values[which] * math.exp(log_step)
    if isinstance(q, Gamma):
        return Gamma(values[0], values[1])
    names = ["probs"] if isinstance(q, Bernoulli | Geometric) else sorted(q.arg_constraints)
    return type(q)(**dict(zip(names, values, strict=True)))


@pytest.mark.parametrize(
    "name", ["Normal", "LogNormal", "Exponential", "Gamma", "small Gamma", "large Gamma", "StudentT", "Cauchy"]
)
def test_no_other_member_of_the_family_has_a_greater_weighted_likelihood(name: str) -> None:
    p, q = PAIRS[name]
    x = drawn(q, 500)
    w = torch.softmax(p.log_prob(x) - q.log_prob(x), 0)
    fit = weighted_fit(q, x, w.log())
    best = (w * fit.log_prob(x)).sum()
    for which in range(3):
        for step in (-1e-3, 1e-3):
            other = shifted(fit, step, which)
            is_kept = isinstance(q, StudentT) and which == 0
            assert other is None or is_kept or (w * other.log_prob(x)).sum() < best


def test_fits_with_equal_weights_are_those_of_scipy_and_the_closed_forms() -> None:
    x = drawn(PAIRS["Gamma"][0], 300)
    n, zeros = x.numpy(), torch.zeros(300)
    assert_same(weighted_fit(Normal(*double(0.0, 1.0)), x, zeros), Normal(*double(n.mean(), n.std())))
    assert_same(
        weighted_fit(LogNormal(*double(0.0, 1.0)), x, zeros), LogNormal(*double(np.log(n).mean(), np.log(n).std()))
    )
    assert_same(weighted_fit(Exponential(*double(1.0)), x, zeros), Exponential(*double(1 / n.mean())))
    shape, _, scale = stats.gamma.fit(n, floc=0)
    assert_same(weighted_fit(Gamma(*double(1.0, 1.0)), x, zeros), Gamma(*double(shape, 1 / scale)), rtol=1e-6)
    _, loc, scale = stats.t.fit(n, f0=3.0)
    assert_same(weighted_fit(StudentT(*double(3.0, 0.0, 1.0)), x, zeros), StudentT(*double(3.0, loc, scale)), rtol=1e-3)
    share = n / n.max() * 0.9
    fit: Any = weighted_fit(Beta(*double(1.0, 1.0)), torch.from_numpy(share), zeros)
    assert (fit.mean.item(), fit.variance.item()) == pytest.approx((share.mean(), share.var()))
    counts = x.floor()
    assert_same(weighted_fit(Poisson(*double(1.0)), counts, zeros), Poisson(counts.mean()))
    assert_same(weighted_fit(Geometric(*double(0.1)), counts, zeros), Geometric(1 / (1 + counts.mean())))


def test_a_weighted_covariance_is_that_of_numpy_and_keeps_the_dtype_of_the_family() -> None:
    x = drawn(PAIRS["MultivariateNormal"][0], 100)
    w = torch.rand(100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    covariance = np.cov(x.numpy().T, aweights=w.numpy(), ddof=0)
    fit: Any = weighted_fit(PAIRS["MultivariateNormal"][1], x, w.log())
    assert np.allclose(fit.covariance_matrix.numpy(), covariance)
    assert np.allclose(fit.loc.numpy(), np.average(x.numpy(), axis=0, weights=w.numpy()))
    single: Any = weighted_fit(MultivariateNormal(torch.zeros(2), torch.eye(2)), x, w.log())
    assert single.loc.dtype == torch.float32


def test_a_batch_is_fitted_entry_by_entry() -> None:
    x, log_w = drawn(Gamma(torch.ones(3, 2), 1.0), 200).double(), drawn(Normal(0.0, 1.0), 200)
    one = {
        Gamma: lambda: Gamma(*double(2.0, 2.0)),
        Normal: lambda: Normal(*double(2.0, 2.0)),
        StudentT: lambda: StudentT(*double(3.0, 2.0, 2.0)),
    }
    for family in (Gamma(*[torch.full((3, 2), 2.0).double()] * 2), Normal(*[torch.full((3, 2), 2.0).double()] * 2)):
        whole: Any = weighted_fit(Independent(family, 2), x, log_w)
        for i in range(3):
            for j in range(2):
                part = weighted_fit(one[type(family)](), x[:, i, j], log_w)
                for a, b in zip(parameters(whole), parameters(part), strict=True):
                    assert a[i, j].item() == pytest.approx(b.item(), rel=1e-9)
    vectors = drawn(MultivariateNormal(torch.zeros(3, 2).double(), torch.eye(2).double()), 200)
    batch: Any = weighted_fit(MultivariateNormal(torch.zeros(3, 2).double(), torch.eye(2).double()), vectors, log_w)
    single = weighted_fit(MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double()), vectors[:, 1], log_w)
    assert torch.allclose(batch.covariance_matrix[1], parameters(single)[1])


@families
@pytest.mark.parametrize("copies", [1, 2, 1000])
def test_draws_without_spread_leave_a_proposal_that_still_covers(name: str, copies: int) -> None:
    p, q = PAIRS[name]
    for seed in range(3):
        x = drawn(p, 1, seed).repeat(copies, *[1] * len(p.event_shape))
        fit = weighted_fit(q, x, torch.full((copies,), -1e4))
        for value in parameters(fit):
            assert bool(value.isfinite().all())
        others = drawn(q, 100, seed)
        assert bool(fit.log_prob(others).isfinite().all()), fit
        assert bool(fit.log_prob(x).isfinite().all())


def test_one_draw_that_carries_all_the_weight_counts_as_one() -> None:
    q, x = Normal(*double(1.0, 2.0)), torch.tensor([5.0, 100.0, -100.0])
    fit: Any = weighted_fit(q, x, torch.tensor([0.0, -1e4, -math.inf]))
    # n = 1 and k = 2: the former family has the share 1 - 1/4; moments of 1/4 delta(5) + 3/4 N(1, 4)
    assert fit.loc.item() == pytest.approx(0.25 * 5 + 0.75 * 1)
    assert fit.scale.item() ** 2 == pytest.approx(0.75 * 4 + 0.25 * 0.75 * (5 - 1) ** 2)
    equal: Any = weighted_fit(q, torch.full((99,), 5.0), torch.zeros(99))
    # no spread at all: the share 1 / 100
    assert equal.loc.item() == pytest.approx(0.99 * 5 + 0.01 * 1)
    assert equal.scale.item() ** 2 == pytest.approx(0.01 * 4 + 0.99 * 0.01 * (5 - 1) ** 2)


def test_few_draws_of_a_vector_blend_the_covariance_that_they_cannot_determine() -> None:
    q = MultivariateNormal(*double([1.0, 4.0], [[2.0, 0.0], [0.0, 3.0]]))
    x = torch.tensor([[0.0, 0.0], [2.0, 2.0]], dtype=torch.float64)
    gap = torch.tensor([0.0, 3.0], dtype=torch.float64)
    # two draws: n = 2 and k = 3 give the share 1/2 - 1/6; and a line of 100 is no plane, with the share 1 / 101
    for copies, share in ((1, 1 / 3), (50, 1 / 101)):
        fit: Any = weighted_fit(q, x.repeat(copies, 1), torch.zeros(2 * copies))
        within = (1 - share) * torch.ones(2, 2).double() + share * q.covariance_matrix
        assert torch.allclose(fit.covariance_matrix, within + share * (1 - share) * torch.outer(gap, gap))
        assert torch.allclose(fit.loc, torch.ones(2).double() + share * gap)


def test_an_entry_without_spread_keeps_some_though_rounding_gives_it_a_trace() -> None:
    x, log_w = drawn(standard(2), 500).double(), drawn(Normal(0.0, 1.0), 500).double()
    x[:, 0] = 0.1
    assert (torch.softmax(log_w, 0) @ x)[0] != 0.1
    flat: Any = weighted_fit(MultivariateNormal(*double([0.0, 0.0], [[1.0, 0.0], [0.0, 1.0]])), x, log_w)
    line: Any = weighted_fit(MultivariateNormal(*double([0.0], [[1.0]])), x[:, :1], log_w)
    # the effective number of 500 log-normal weights is some 200
    for fit in (flat, line):
        assert 1 / 500 < fit.variance[0] < 1 / 50
    assert flat.variance[1].item() == pytest.approx(1, abs=0.3)


def test_a_fit_leaves_the_edge_of_its_range_to_one_draw_of_the_former_family() -> None:
    zeros = torch.zeros(9)
    assert_same(weighted_fit(Bernoulli(*double(0.2)), torch.ones(9), zeros), Bernoulli(*double(1 - 0.8 / 10)))
    assert_same(weighted_fit(Bernoulli(*double(0.2)), zeros, zeros), Bernoulli(*double(0.2 / 10)))
    categories = weighted_fit(Categorical(*double([0.2, 0.3, 0.5])), torch.arange(9) % 2, zeros)
    assert_same(categories, Categorical(*double([0.02 + 0.9 * 5 / 9, 0.03 + 0.9 * 4 / 9, 0.05])))
    assert_same(weighted_fit(Poisson(*double(3.0)), zeros, zeros), Poisson(*double(0.3)))
    assert_same(weighted_fit(Exponential(*double(2.0)), zeros, zeros), Exponential(*double(20.0)))
    assert_same(weighted_fit(Geometric(*double(0.5)), zeros, zeros), Geometric(*double(1 / 1.1)))


def test_a_gamma_fit_matches_the_means_of_x_and_of_its_logarithm() -> None:
    for shape in (0.02, 0.5, 3.0, 1e3, 1e6):
        x = drawn(Gamma(*double(shape, 2.0)), 100)
        fit: Any = weighted_fit(Gamma(*double(1.0, 1.0)), x, torch.zeros(100))
        assert fit.mean.item() == pytest.approx(x.mean().item(), rel=1e-12)
        mean_log = fit.concentration.digamma() - fit.rate.log()
        assert mean_log.item() == pytest.approx(x.log().mean().item(), rel=1e-11, abs=1e-12)


def test_expectation_maximisation_raises_the_likelihood_and_leaves_an_unused_component_alone() -> None:
    p, q = PAIRS["Mixture"]
    x = drawn(p, 2000)
    assert weighted_fit(q, x, torch.zeros(2000)).log_prob(x).mean() > q.log_prob(x).mean()
    far = Mixture([Exponential(*double(1.0)), Uniform(*double(-9.0, -8.0))], [0.5, 0.5])
    fit: Any = weighted_fit(far, x.abs(), torch.zeros(2000))
    assert fit.components[1] is far.components[1]
    assert fit.components[0].rate.item() == pytest.approx(1 / x.abs().mean().item())
    # no draw is its own: the share of the former weights is 1 / 2001
    assert fit.weights[1].item() == pytest.approx(0.5 / 2001)


def test_expectation_maximisation_blends_with_the_former_family_once() -> None:
    former = Mixture([Normal(*double(0.0, 1.0)), Normal(*double(1.0, 1.0))], [0.5, 0.5])
    fit: Any = weighted_fit(former, torch.tensor([0.5]), torch.zeros(1))
    # one draw leaves 3/4 of the former variance, and not 3/4 of 3/4
    for part in fit.components:
        assert part.variance.item() >= 0.75


class Tilted(Exponential):
    """A family of one's own."""


class Shy(Normal):
    """A density that does not tell where it is positive."""

    @property
    def support(self) -> Any:  # type: ignore[override]
        raise NotImplementedError


def test_a_family_of_ones_own_is_fitted_once_it_is_registered() -> None:
    @weighted_fit.register
    def fit(family: Tilted, x: Tensor, log_w: Tensor) -> Tilted:
        return Tilted(7.0)

    assert weighted_fit(Tilted(1.0), torch.ones(3), torch.zeros(3)).rate == 7
    assert Independent(Tilted(torch.ones(2)), 1).base_dist.rate.shape == (2,)
    mixed: Any = weighted_fit(Mixture([Tilted(1.0), Normal(0.0, 1.0)], [1, 1]), torch.ones(3), torch.zeros(3))
    assert mixed.components[0].rate == 7
    shy: Any = weighted_fit(Shy(0.0, 1.0), torch.arange(20.0), torch.zeros(20))
    assert shy.loc.item() == pytest.approx(9.5)


def test_what_cannot_be_fitted_is_refused_with_a_cure() -> None:
    x, zeros = torch.ones(3), torch.zeros(3)
    for family in (Cauchy(0.0, 1.0), Chi2(3.0), Weibull(1.0, 1.0)):
        with pytest.raises(TypeError, match=rf"weighted_fit.register\({type(family).__name__}\)"):
            weighted_fit(family, x, zeros)
    with pytest.raises(TypeError, match="must not fit a Uniform"):
        weighted_fit(Uniform(0.0, 1.0), x, zeros)
    normal = Normal(0.0, 1.0)
    for wrong in (torch.tensor(1.0), torch.ones(3, 2)):
        with pytest.raises(ValueError, match=r"x must have shape \(S\), but has \("):
            weighted_fit(normal, wrong, zeros)
    with pytest.raises(ValueError, match=r"log_w must have shape \(3,\), but has \(2,\)"):
        weighted_fit(normal, x, torch.zeros(2))
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="numbers or -inf"):
            weighted_fit(normal, x, torch.tensor([0.0, bad, 0.0]))
    with pytest.raises(ValueError, match="At least one weight must be positive, but all of 3 are 0"):
        weighted_fit(normal, x, zeros - math.inf)
    outside: list[tuple[Distribution, float]] = [
        (Exponential(1.0), -1.0),
        (normal, math.inf),
        (Mixture([Exponential(1.0), Beta(1.0, 1.0)], [1, 1]), -1.0),
    ]
    for law, value in outside:
        with pytest.raises(ValueError, match="in the support of the"):
            weighted_fit(law, torch.tensor([0.5, value]), torch.zeros(2))
        # without weight it may be anywhere
        weighted_fit(law, torch.tensor([0.5, value]), torch.tensor([0.0, -math.inf]))


# -- the cross-entropy method --


def tail(score: Callable[[Tensor], Tensor], p: Distribution, threshold: float, n: int = 20_000, **kwargs: Any) -> Any:
    fit = cross_entropy(score, p, threshold, **kwargs)
    return importance_sampling(
        lambda x: score(x) >= threshold, p, fit.proposal, num_samples=n, seed=kwargs.get("seed", 0)
    ), fit


def total(x: Tensor) -> Tensor:
    return x.sum(-1)


FIVE = Independent(Exponential(torch.ones(5)), 1)
# A score, a nominal distribution, a threshold, the probability, and a family that is not the nominal one's.
RARE: dict[str, tuple[Callable[[Tensor], Tensor], Distribution, float, float, Distribution | None]] = {
    "exponentials": (total, FIVE, 30.0, stats.gamma.sf(30, 5), None),
    "normal": (lambda x: x, Normal(0.0, 1.0), 4.0, stats.norm.sf(4), None),
    "far normal": (lambda x: x, Normal(0.0, 1.0), 8.0, stats.norm.sf(8), None),
    "Student's family": (lambda x: x, Normal(0.0, 1.0), 4.0, stats.norm.sf(4), StudentT(4.0, 0.0, 1.0)),
    "both sides": (
        torch.abs,
        Normal(0.0, 1.0),
        5.0,
        2 * stats.norm.sf(5),
        Mixture([Normal(-1.0, 1.0), Normal(1.0, 1.0)], [1, 1]),
    ),
    "gammas": (total, Independent(Gamma(torch.full((5,), 3.0), 1.0), 1), 40.0, stats.gamma.sf(40, 15), None),
    "corner": (lambda x: x.amin(-1), standard(3), 3.0, stats.norm.sf(3) ** 3, None),
    "correlated": (
        total,
        MultivariateNormal(torch.zeros(5), 0.5 + 0.5 * torch.eye(5)),
        4 * math.sqrt(15),
        stats.norm.sf(4),
        None,
    ),
    "coins": (total, Independent(Bernoulli(torch.full((20,), 0.1)), 1), 12.0, stats.binom.sf(11, 20, 0.1), None),
    "counts": (total, Independent(Poisson(torch.ones(5)), 1), 25.0, stats.poisson.sf(24, 5), None),
}


@pytest.mark.parametrize("name", RARE)
def test_the_probability_of_a_rare_event_is_found(name: str) -> None:
    score, p, threshold, truth, family = RARE[name]
    result, fit = tail(score, p, threshold, family=family)
    # 4 standard errors: false alarm 6e-5 each
    assert abs(result.estimate - truth) < 4 * result.standard_error
    assert result.pareto_k < 0.7
    if isinstance(family, StudentT):
        assert isinstance(fit.proposal, StudentT)
    assert fit.levels[-1] == threshold and fit.num_samples == 1000 * len(fit.levels)
    assert all(level <= threshold for level in fit.levels)
    # plain Monte Carlo has the relative error sqrt((1 - mu) / (mu n))
    plain = (1 - truth) / truth / result.relative_error**2
    assert 100 * (fit.num_samples + result.num_samples) < plain


def test_estimates_from_fitted_proposals_are_unbiased_and_their_intervals_cover() -> None:
    score, p, threshold, truth, _ = RARE["normal"]
    results = [tail(score, p, threshold, n=500, seed=seed, num_samples=500)[0] for seed in range(200)]
    estimates = np.array([result.estimate for result in results])
    # 4 standard errors: false alarm 6e-5
    assert abs(estimates.mean() - truth) < 4 * estimates.std() / math.sqrt(200)
    # Binomial(200, 0.95) is below 178 with probability 2e-4
    assert sum(result.interval[0] <= truth <= result.interval[1] for result in results) >= 178


def test_levels_rise_in_stages_until_two_are_at_the_threshold() -> None:
    _, fit = tail(total, FIVE, 30.0)
    assert list(fit.levels) == sorted(fit.levels)
    assert fit.levels[-3] < 30.0 and fit.levels[-2:] == (30.0, 30.0)
    # the first level is the upper tenth of a gamma distribution: its standard error is 0.17
    assert fit.levels[0] == pytest.approx(stats.gamma.isf(0.1, 5), abs=0.7)
    common = cross_entropy(total, FIVE, 3.0)
    assert common.levels == (3.0, 3.0)


def test_a_float32_score_reaches_a_threshold_that_it_cannot_represent() -> None:
    # seven tenths in float32 are less than 0.7, and no score is between
    coins = Independent(Bernoulli(torch.full((7,), 0.3)), 1)
    fit = cross_entropy(lambda x: x.mean(-1) * 0.7, coins, 0.7)
    assert torch.tensor(0.7).double().item() < 0.7
    assert fit.levels[-1] == 0.7


def test_a_fit_is_a_function_of_its_seed_and_touches_no_generator() -> None:
    state = torch.get_rng_state()
    fits = [cross_entropy(total, FIVE, 20.0, seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(fits[0].proposal, fits[1].proposal, rtol=0, atol=0)
    assert fits[0].levels == fits[1].levels != fits[2].levels


def test_a_threshold_out_of_reach_is_told_with_the_last_level() -> None:
    with pytest.raises(LogpxError, match=r"threshold 1\.5, but after 3 stages of 1,000 draws its level is 0\.9"):
        cross_entropy(lambda x: x, Beta(2.0, 2.0), 1.5, max_stages=3)
    assert cross_entropy(lambda x: x, Normal(0.0, 1.0), 1.0, max_stages=1).levels == (1.0,)


def test_bad_arguments_of_cross_entropy_are_refused() -> None:
    p = Normal(0.0, 1.0)
    with pytest.raises(ValueError, match="nominal distribution must have batch shape"):
        cross_entropy(lambda x: x, Normal(torch.zeros(2), 1.0), 1.0)
    with pytest.raises(ValueError, match="family must have batch shape"):
        cross_entropy(lambda x: x, p, 1.0, family=Normal(torch.zeros(2), 1.0))
    with pytest.raises(ValueError, match="threshold must be finite, but is nan"):
        cross_entropy(lambda x: x, p, math.nan)
    with pytest.raises(ValueError, match="quantile must be between 0 and 1, but is 0"):
        cross_entropy(lambda x: x, p, 1.0, quantile=0.0)
    for name in ("num_samples", "max_stages"):
        with pytest.raises(ValueError, match=f"{name} must be positive, but is 0"):
            cross_entropy(lambda x: x, p, 1.0, **{name: 0})
    with pytest.raises(ValueError, match=r"score must have shape \(1000,\), but got \(1000, 1\)"):
        cross_entropy(lambda x: x.unsqueeze(-1), p, 1.0)
    with pytest.raises(ValueError, match=r"score must have shape .* but got float"):
        cross_entropy(lambda x: 1.0, p, 1.0)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="score must be a number, but is NaN at x = -"):
        cross_entropy(lambda x: x.sqrt(), p, 1.0)
    with pytest.raises(ValueError, match=r"all of 1.. are 0: draw more"):
        cross_entropy(lambda x: -x, Exponential(1.0), 1.0, family=p)


# -- adaptive multiple importance sampling --


def one(x: Tensor) -> Tensor:
    return torch.ones(len(x))


def bell(x: Tensor) -> Tensor:
    """A normal density around 3 with scale 1/2, up to its constant."""
    return -0.5 * ((x - 3) / 0.5) ** 2


BELL = 0.5 * math.sqrt(2 * math.pi)
START = Normal(0.0, 3.0)


def test_the_constant_and_the_mean_of_a_gaussian_target_are_found() -> None:
    # 4 standard errors: false alarm 6e-5 each
    constant = adaptive_importance_sampling(one, bell, START)
    assert abs(constant.estimate - BELL) < 4 * constant.standard_error < 0.02 * BELL
    mean = adaptive_importance_sampling(lambda x: x, bell, START, normalized=True)
    assert abs(mean.estimate - 3) < 4 * mean.standard_error < 0.03
    assert (mean.method, mean.num_samples, mean.num_adaptive) == ("self-normalised importance", 10_000, 0)
    fixed = importance_sampling(one, bell, START, num_samples=10_000)
    assert constant.method == fixed.method == "importance"
    assert constant.standard_error < fixed.standard_error / 5


def test_a_correlated_gaussian_target_is_learned_from_a_poor_start() -> None:
    target = MultivariateNormal(torch.arange(5.0), 0.25 + 0.25 * torch.eye(5))
    start = MultivariateNormal(torch.zeros(5), 9 * torch.eye(5))
    log_p = lambda x: target.log_prob(x) + 7  # noqa: E731
    constant = adaptive_importance_sampling(one, log_p, start)
    assert constant.pareto_k < 0.7
    assert constant.log_estimate == pytest.approx(7, abs=0.05)
    mean = adaptive_importance_sampling(lambda x: x[:, 4], log_p, start, normalized=True)
    assert abs(mean.estimate - 4) < 4 * mean.standard_error < 0.1
    # ten times better than its start with as many draws
    assert importance_sampling(one, log_p, start, num_samples=10_000).ess < constant.ess / 10


def test_every_draw_is_weighed_by_the_mixture_of_all_proposals() -> None:
    # f p is constant in x, so that each term is 1 / (mean of all proposals), whatever the proposals are
    kept: list[Tensor] = []

    def f(x: Tensor) -> Tensor:
        kept.append(x)
        return torch.ones(len(x))

    result = adaptive_importance_sampling(f, bell, START, num_stages=3, num_samples=500)
    first, second, third = kept[-3:]
    proposals: list[Distribution] = [START]
    for seen in ([first], [first, second]):
        x = torch.cat(seen)
        log_q = Mixture(proposals, [1] * len(proposals)).log_prob(x)
        proposals.append(weighted_fit(proposals[-1], x, bell(x).double() - log_q))
    x = torch.cat([first, second, third])
    w = (bell(x).double() - Mixture(proposals, [1, 1, 1]).log_prob(x)).exp()
    assert result.estimate == pytest.approx(w.mean().item(), rel=1e-12)
    assert result.weight_ess == pytest.approx((w.sum() ** 2 / w.square().sum()).item(), rel=1e-9)


def test_one_stage_is_importance_sampling() -> None:
    result = adaptive_importance_sampling(torch.abs, bell, START, num_stages=1, num_samples=500, seed=5)
    with keyed_draws(5, "adaptive", 0):
        x = START.sample((500,)).double()
    terms = x.abs() * (bell(x) - START.log_prob(x)).exp()
    assert result.estimate == pytest.approx(terms.mean().item(), rel=1e-5)
    assert result.standard_error == pytest.approx(terms.std().item() / math.sqrt(500), rel=1e-5)
    assert result.num_samples == 500


def test_intervals_cover_although_they_ignore_the_dependence_of_stages() -> None:
    # both cover 95% or more; Binomial(100, 0.95) is below 86 with probability 4e-4
    runs = range(100)
    means = [
        adaptive_importance_sampling(lambda x: x, bell, START, num_samples=200, normalized=True, seed=s) for s in runs
    ]
    tails = [
        adaptive_importance_sampling(lambda x: x > 3, Normal(0.0, 1.0), Normal(0.0, 2.0), num_samples=200, seed=s)
        for s in runs
    ]
    for results, truth in ((means, 3.0), (tails, stats.norm.sf(3))):
        assert sum(r.interval[0] <= truth <= r.interval[1] for r in results) >= 86
        # the bias is below a third of the spread of the estimates: the mean of 100 errs by a tenth, and 4 of these
        z = np.array([r.estimate for r in results])
        assert abs(z.mean() - truth) / z.std() < 0.33 + 0.4


def test_f_guides_the_proposal_unless_weights_are_normalised() -> None:
    # towards the tail for an event, and towards p for a ratio
    p, q = Normal(0.0, 1.0), Normal(0.0, 2.0)
    event, ratio = (adaptive_importance_sampling(lambda x: x > 3, p, q, normalized=n) for n in (False, True))
    assert event.num_nonzero > 7000 and ratio.num_nonzero < 300
    assert event.relative_error < ratio.relative_error / 5


def test_f_of_both_signs_and_f_that_is_undefined_where_p_is_zero() -> None:
    signed = adaptive_importance_sampling(lambda x: x, Normal(1.0, 1.0), Normal(0.0, 2.0))
    assert abs(signed.estimate - 1) < 4 * signed.standard_error < 0.1
    p = Exponential(1.0)
    result = adaptive_importance_sampling(torch.sqrt, p, StudentT(3.0, 1.0, 1.0))
    assert abs(result.estimate - math.sqrt(math.pi) / 2) < 4 * result.standard_error < 0.1


def test_log_densities_of_any_magnitude_give_the_same() -> None:
    # far from 0 in float64, as float32 numbers near 10,000 lie 0.001 apart
    start = Normal(*double(0.0, 3.0))
    for normalized in (False, True):
        near, far = (
            adaptive_importance_sampling(
                lambda x: x**2,
                lambda x, c=c: bell(x) + c,
                start,
                num_stages=4,
                normalized=normalized,  # type: ignore[misc]
            )
            for c in (0.0, -1e4)
        )
        shift = 0 if normalized else 1e4
        assert far.log_estimate + shift == pytest.approx(near.log_estimate, abs=1e-8)
        assert far.ess == pytest.approx(near.ess, rel=1e-6)


def test_an_event_that_is_never_seen_leaves_the_proposal_and_says_so() -> None:
    result = adaptive_importance_sampling(lambda x: x > 50, Normal(0.0, 1.0), Normal(0.0, 2.0), num_stages=2)
    assert (result.estimate, result.num_nonzero, result.interval) == (0.0, 0, (0.0, 1.0))
    assert "all 2,000 samples" in result.diagnosis


def test_an_adaptive_estimate_is_a_function_of_its_seed_and_touches_no_generator() -> None:
    state = torch.get_rng_state()
    a, b, c = (adaptive_importance_sampling(one, bell, START, num_stages=3, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert a == b and a.estimate != c.estimate


def test_bad_arguments_of_adaptive_sampling_are_refused() -> None:
    amis = adaptive_importance_sampling
    with pytest.raises(ValueError, match="proposal must have batch shape"):
        amis(one, bell, Normal(torch.zeros(2), 1.0))
    with pytest.raises(ValueError, match="nominal distribution must have batch shape"):
        amis(one, Normal(torch.zeros(2), 1.0), START)
    for name in ("num_stages", "num_samples"):
        with pytest.raises(ValueError, match=f"{name} must be positive, but is 0"):
            amis(one, bell, START, **{name: 0})
    with pytest.raises(ValueError, match="confidence must be between 0 and 1, but is 95"):
        amis(one, bell, START, confidence=95)
    with pytest.raises(ValueError, match="positive wherever f p is not 0"):
        amis(one, Normal(0.0, 1.0), Exponential(1.0))
    with pytest.raises(ValueError, match=r"f must return shape \(1000,\), but got \(1000, 1\)"):
        amis(lambda x: x.unsqueeze(-1), bell, START)
    with pytest.raises(ValueError, match=r"f must return shape .* but got float"):
        amis(lambda x: 1.0, bell, START)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match=r"f\(x\) must be finite, but is nan at x = -"):
        amis(torch.sqrt, bell, START)
    with pytest.raises(ValueError, match=r"log p\(x\) must be finite, but is nan at x = -"):
        amis(one, torch.sqrt, START)
    with pytest.raises(LogpxError, match="all 2,000 weights are 0"):
        amis(one, lambda x: x.log() * 0 - math.inf, Exponential(1.0), normalized=True, num_stages=2)


def test_self_normalised_stages_refuse_a_proposal_that_misses_a_part_of_p() -> None:
    with pytest.raises(ValueError, match="it is 0 for"):
        adaptive_importance_sampling(lambda x: x > 0, Normal(0.0, 1.0), Exponential(1.0), normalized=True)
