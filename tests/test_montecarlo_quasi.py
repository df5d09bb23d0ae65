"""Stratified and quasi-random estimates: their rates, their unbiasedness, their intervals, and where they do not apply.

Seeds are fixed. A false alarm is the chance that a right implementation fails a test for another choice of the seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Cauchy,
    Distribution,
    Exponential,
    Gamma,
    Gumbel,
    HalfNormal,
    Independent,
    Laplace,
    LogNormal,
    MultivariateNormal,
    Normal,
    Pareto,
    SigmoidTransform,
    TransformedDistribution,
    Uniform,
    Weibull,
)

from logpx.montecarlo import Estimate, clopper_pearson, expectation
from logpx.montecarlo.quasi import quasi_expectation

Points = Literal["sobol", "stratified"]
POINTS: tuple[Points, ...] = ("sobol", "stratified")
# One minus the coverage of 5 standard errors, for tests of many means with one seed.
CERTAIN = 1 - 1e-6


def cube(dim: int) -> Distribution:
    return Independent(Uniform(torch.zeros(dim, dtype=torch.float64), torch.ones(dim, dtype=torch.float64)), 1)


def smooth(x: Tensor) -> Tensor:
    """Has the mean (e - 1)^d and no additive part alone."""
    return x.exp().prod(-1)


def estimates(
    f: Callable[[Tensor], Tensor], p: Distribution, num_samples: int, points: Points, times: int, replicates: int = 2
) -> list[Estimate]:
    return [
        quasi_expectation(f, p, num_samples=num_samples, num_replicates=replicates, points=points, seed=seed)
        for seed in range(times)
    ]


def rmse(found: list[Estimate], truth: float) -> float:
    return math.sqrt(np.mean([(e.estimate - truth) ** 2 for e in found]))


def rate(
    dim: int,
    points: Points | None,
    f: Callable[[Tensor], Tensor] = smooth,
    truth: float | None = None,
    times: int = 20,
) -> float:
    """Returns the slope of log RMSE on log n, over estimates at each of 4 sizes from 32 to 2,048."""
    truth = (math.e - 1) ** dim if truth is None else truth
    sizes, errors = [2**k for k in (5, 7, 9, 11)], []
    for n in sizes:
        if points is None:
            found = [expectation(f, cube(dim), num_samples=n, seed=seed) for seed in range(times)]
        else:
            found = estimates(f, cube(dim), n, points, times)
        errors.append(rmse(found, truth))
    return float(np.polyfit(np.log(sizes), np.log(errors), 1)[0])


# The log of an RMSE of 20 normal errors has a standard error of 0.16, the slope over 4 sizes of 0.05: the bounds are 4
# of them away from theory, false alarm 6e-5 each.


def test_the_error_of_scrambled_nets_falls_as_the_power_minus_three_halves_or_faster() -> None:
    # scrambling by matrices errs much less than by chance in most randomisations and more in few: an RMSE of 40 may
    # miss these, and then falls faster than theory. With 3 dimensions come logarithms, which look like a lower power.
    # Measured over 16 sets of seeds: -1.85 with a standard deviation of 0.22, and -1.34 with one of 0.04
    assert rate(1, "sobol", times=40) < -1.2
    assert -1.6 < rate(3, "sobol", times=40) < -1.15


def test_the_error_of_independent_draws_falls_as_the_power_minus_one_half() -> None:
    assert rate(3, None) == pytest.approx(-0.5, abs=0.2)


def test_strata_gain_a_power_in_one_dimension_and_for_sums_and_only_a_factor_elsewhere() -> None:
    assert rate(1, "stratified") == pytest.approx(-1.5, abs=0.2)
    assert rate(3, "stratified", lambda x: x.exp().sum(-1), 3 * (math.e - 1)) == pytest.approx(-1.5, abs=0.2)
    assert rate(3, "stratified") == pytest.approx(-0.5, abs=0.2)


@pytest.mark.parametrize("points", POINTS)
def test_each_coordinate_has_one_point_in_each_stratum(points: Points) -> None:
    seen: list[Tensor] = []

    def f(x: Tensor) -> Tensor:
        seen.append(x)
        return x[:, 0]

    quasi_expectation(f, cube(3), num_samples=4 * 64, num_replicates=4, points=points, num_workers=1)
    assert len(seen) == 4
    for x in seen:
        assert ((x * 64).long().sort(0).values == torch.arange(64).unsqueeze(-1)).all()


def test_the_first_two_coordinates_of_sobol_points_fill_every_box_of_equal_volume() -> None:
    seen: list[Tensor] = []

    def f(x: Tensor) -> Tensor:
        seen.append(x)
        return x[:, 0]

    quasi_expectation(f, cube(2), num_samples=2 * 64, num_replicates=2, num_workers=1)
    for x in seen:
        for k in range(7):
            boxes = torch.stack([(x[:, 0] * 2**k).long(), (x[:, 1] * 2 ** (6 - k)).long()], -1)
            assert len(boxes.unique(dim=0)) == 64
    # replicates are randomised independently
    assert not torch.isin(seen[0], seen[1]).any()


@pytest.mark.parametrize("points", POINTS)
@pytest.mark.parametrize(
    "nominal, f, truth",
    [
        (Normal(1.0, 2.0), lambda x: x**2, 5.0),
        (Uniform(-1.0, 3.0), lambda x: x**2, 28 / 12),
        (Exponential(4.0), lambda x: x, 0.25),
        (LogNormal(0.5, 0.5), lambda x: x, math.exp(0.625)),
        (Laplace(1.0, 2.0), lambda x: x**2, 9.0),
        (Cauchy(1.0, 2.0), lambda x: (x > 3.0).double(), 0.25),
        (Gumbel(0.0, 2.0), lambda x: x, 2 * 0.5772156649),
        (Weibull(2.0, 1.5), lambda x: x, 2 * math.gamma(1 + 1 / 1.5)),
        (HalfNormal(2.0), lambda x: x, 2 * math.sqrt(2 / math.pi)),
        (Pareto(1.0, 6.0), lambda x: x, 1.2),
        (TransformedDistribution(Normal(0.0, 1.0), [AffineTransform(3.0, -2.0)]), lambda x: x, 3.0),
        (TransformedDistribution(Uniform(0.0, 1.0), [SigmoidTransform().inv]), lambda x: x**2, math.pi**2 / 3),
    ],
)
def test_every_inverse_distribution_function_gives_draws_of_its_distribution(
    nominal: Distribution, f: Callable[[Tensor], Tensor], truth: float, points: Points
) -> None:
    # 24 intervals that miss with a chance of 1e-6 each: false alarm near 1e-4 for skewed means
    low, high = quasi_expectation(f, nominal, num_samples=2**14, points=points, confidence=CERTAIN).interval
    assert low <= truth <= high
    assert high - low < 0.1 * abs(truth)


@pytest.mark.parametrize("points", POINTS)
def test_coordinates_keep_their_own_distribution_and_place(points: Points) -> None:
    rates = torch.tensor([[1.0, 2.0, 4.0], [8.0, 0.5, 0.25]])
    for i in range(2):
        for j in range(3):
            result = quasi_expectation(
                lambda x, i=i, j=j: x[:, i, j], Independent(Exponential(rates), 2), points=points
            )
            assert result.estimate == pytest.approx(1 / float(rates[i, j]), rel=1e-3)


@pytest.mark.parametrize("points", POINTS)
def test_a_gaussian_keeps_its_mean_and_covariance(points: Points) -> None:
    mean, covariance = torch.tensor([1.0, -2.0]), torch.tensor([[2.0, 0.8], [0.8, 1.0]])
    p = MultivariateNormal(mean, covariance)
    for i in range(2):
        result = quasi_expectation(lambda x, i=i: x[:, i], p, points=points)
        assert result.estimate == pytest.approx(float(mean[i]), abs=1e-3)
        for j in range(2):
            # false alarm below 1e-5 for all four
            low, high = quasi_expectation(
                lambda x, i=i, j=j: (x[:, i] - mean[i]) * (x[:, j] - mean[j]), p, points=points, confidence=CERTAIN
            ).interval
            assert low <= covariance[i, j] <= high
            assert high - low < 0.1
    batch = MultivariateNormal(torch.zeros(3, 2), covariance.expand(3, 2, 2))
    result = quasi_expectation(lambda x: x[:, 2, 0] * x[:, 2, 1], Independent(batch, 1), points=points)
    assert result.estimate == pytest.approx(0.8, abs=0.02)


def test_a_constant_is_exact() -> None:
    for points, n, replicates in (("sobol", 1024, 32), ("stratified", 650, 10)):
        result = quasi_expectation(
            lambda x: torch.full_like(x, 0.1), Normal(0.0, 1.0), num_samples=n, num_replicates=replicates, points=points
        )
        assert result.estimate == pytest.approx(float(np.float32(0.1)), rel=1e-15)
        assert result.standard_error == 0
        assert result.interval == (result.estimate, result.estimate)


@pytest.mark.parametrize("points", POINTS)
def test_the_estimate_is_unbiased_from_few_points(points: Points) -> None:
    # 200 estimates from 2 x 4 points of f = e^(x + y + z): within 4.5 standard errors, false alarm 7e-6
    found = np.array([e.estimate for e in estimates(smooth, cube(3), 8, points, 200)])
    z = (found.mean() - (math.e - 1) ** 3) / (found.std(ddof=1) / math.sqrt(200))
    assert abs(z) < 4.5


@pytest.mark.parametrize("points", POINTS)
def test_the_standard_error_speaks_of_the_spread_and_intervals_cover(points: Points) -> None:
    # at a coverage of 95%, 200 repetitions are within 4.4% of it but for 0.5% of seeds, per case
    truth = (math.e - 1) ** 2
    found = estimates(smooth, cube(2), 4 * 16, points, 200, replicates=4)
    mean_square = np.mean([e.standard_error**2 for e in found])
    # the variance from 200 has a relative standard error of 10%, the mean square of 6%: false alarm 0.1%
    assert mean_square == pytest.approx(rmse(found, truth) ** 2, rel=0.4)
    assert 0.906 <= np.mean([e.interval[0] <= truth <= e.interval[1] for e in found]) <= 0.994


@pytest.mark.parametrize(
    "points, mean",
    [
        ("sobol", 9.02 / 32),
        ("sobol", 9.5 / 32),
        ("stratified", 0.03 / 32),
        ("stratified", 0.97 / 32),
        ("stratified", 31.97 / 32),
    ],
)
def test_intervals_of_an_indicator_cover_although_replicates_mostly_agree(points: Points, mean: float) -> None:
    # each replicate of 32 points has one of two numbers of hits: the interval is exact, and covers at least 95%. Below
    # 84% of 50 repetitions: 0.4% per case, if it were 95%
    found = estimates(lambda x: x[:, 0] < mean, cube(1), 8 * 32, points, 50, replicates=8)
    assert np.mean([e.interval[0] <= mean <= e.interval[1] for e in found]) >= 0.84
    assert all(0 <= e.interval[0] < e.interval[1] <= 1 for e in found)


@pytest.mark.parametrize("mean", [0.5, 0.5 + 0.4 / 32, 1.0])
def test_intervals_of_replicates_that_nearly_agree_are_those_of_a_proportion(mean: float) -> None:
    # 32 mean is the number of hits of a replicate, or lies between two: then a share of the 8 replicates has one more
    result = quasi_expectation(lambda x: x[:, 0] < mean, cube(1), num_samples=8 * 32, num_replicates=8)
    hits, more = divmod(round(result.estimate * 8 * 32), 8)
    low, high = clopper_pearson(more, 8)
    low = clopper_pearson(8, 8)[0] - 1 if more == 0 else low
    assert result.interval == pytest.approx(((hits + low) / 32, min((hits + high) / 32, 1)), rel=1e-12)
    assert result.standard_error == pytest.approx(stats.sem([0] * (8 - more) + [1] * more) / 32, rel=1e-12)


@pytest.mark.parametrize("points", POINTS)
@pytest.mark.parametrize("mean", [0.004, 0.02])
def test_intervals_of_an_indicator_cover_with_few_hits(mean: float, points: Points) -> None:
    # 2 and 10 hits expected of 512; 60 repetitions below 85% at a coverage of 95%: 0.3% per case
    edge = stats.norm.isf(mean) * math.sqrt(2)
    p = Independent(Normal(torch.zeros(2, dtype=torch.float64), 1.0), 1)
    found = estimates(lambda x: x.sum(-1) > edge, p, 8 * 64, points, 60, replicates=8)
    assert np.mean([e.interval[0] <= mean <= e.interval[1] for e in found]) >= 0.85


@pytest.mark.parametrize("points", POINTS)
@pytest.mark.parametrize(
    "f",
    [
        lambda x: (2 * math.pi * 64 * x[:, 0]).cos() * (2 * math.pi * 16 * x[:, 1]).cos(),
        lambda x: ((x[:, 0] * 128).floor() + (x[:, 1] * 128).floor()) % 2,
        lambda x: (x - 0.5).prod(-1),
        lambda x: x.norm(dim=-1) < 0.9,
    ],
)
def test_the_variance_is_never_much_above_that_of_independent_draws(
    f: Callable[[Tensor], Tensor], points: Points
) -> None:
    # for nets in two dimensions theory bounds the ratio by e, for m strata in each by m / (m - 1). The variance from
    # 120 has a relative standard error of 13%, as long as errors are nearly normal: 1.6 is 4.6 of them above 1
    n = 2 * 64
    found = np.array([e.estimate for e in estimates(f, cube(2), n, points, 120)])
    plain = expectation(f, cube(2), num_samples=20_000)
    ratio = found.var(ddof=1) / (plain.standard_error**2 * 20_000 / n)
    assert ratio < (math.e if points == "sobol" else 1.6)


@pytest.mark.parametrize("points", POINTS)
def test_a_result_follows_from_its_seed_and_not_from_the_number_of_threads(points: Points) -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    state = np.random.get_state()[1]
    p = Independent(Normal(torch.zeros(5), 1.0), 1)
    runs = [quasi_expectation(smooth, p, num_samples=2**10, points=points, num_workers=k) for k in (1, 2, 3, None)]
    assert all(run == runs[0] for run in runs)
    assert quasi_expectation(smooth, p, num_samples=2**10, points=points, seed=1).estimate != runs[0].estimate
    assert torch.equal(torch.get_rng_state(), before) and torch.get_num_threads() == threads
    assert (np.random.get_state()[1] == state).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", [Normal(0.0, 1.0), Independent(HalfNormal(torch.ones(2)), 1), Exponential(1.0)])
def test_points_on_the_faces_of_the_cube_are_moved_inside(
    p: Distribution, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Faces:
        def __init__(self, dim: int, **options: object) -> None:
            self.dim = dim

        def random(self, size: int) -> np.ndarray:
            return np.stack([np.zeros(self.dim), np.ones(self.dim)])

    monkeypatch.setattr(stats.qmc, "LatinHypercube", Faces)
    result = quasi_expectation(
        lambda x: x.to(dtype).reshape(2, -1).sum(-1), p, num_samples=4, num_replicates=2, points="stratified"
    )
    assert math.isfinite(result.estimate)


def test_draws_have_the_dtype_of_the_nominal_distribution() -> None:
    for dtype in (torch.float32, torch.float64):
        zeros = torch.zeros(2, dtype=dtype)
        for p in (Independent(Normal(zeros, 1.0), 1), MultivariateNormal(zeros, torch.eye(2, dtype=dtype))):
            seen = []
            quasi_expectation(lambda x, seen=seen: seen.append(x.dtype) or x[:, 0], p, num_samples=64)
            assert set(seen) == {dtype}


def test_the_fields_speak_of_points_and_not_of_replicates() -> None:
    result = quasi_expectation(lambda x: x.clamp(min=0), Normal(0.0, 1.0), num_samples=2**12, seed=3)
    assert (result.num_samples, result.method, result.seed) == (4096, "sobol", (3,))
    assert result.num_nonzero == 2048
    assert result.log_estimate == pytest.approx(math.log(result.estimate))
    assert result.weight_ess == 4096
    assert result.largest_share < 0.01
    assert result.confidence == 0.95
    assert result.reached is None
    # (sum f)^2 / sum f^2 with E f = 0.3989 and E f^2 = 1/2
    assert result.ess == pytest.approx(4096 * 0.3989**2 / 0.5, rel=0.02)
    assert "finite variance" in result.diagnosis and "4,096 samples, sobol" in str(result)


def test_an_event_that_was_never_hit_is_not_reported_as_impossible() -> None:
    result = quasi_expectation(lambda x: x > 9.0, Normal(0.0, 1.0), num_samples=2**12)
    assert result.estimate == 0 and result.interval[0] == 0
    # the interval ends near the 3.7 / n of independent draws
    assert 3 / 4096 < result.interval[1] < 4 / 4096
    assert "for all 4,096 samples" in result.diagnosis


@pytest.mark.parametrize("scale", [1e-300, 1e-170, 1e170])
def test_the_unit_of_f_is_no_matter(scale: float) -> None:
    p = Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    usual = quasi_expectation(lambda x: 1 + x**2, p, num_samples=2**10)
    result = quasi_expectation(lambda x: scale * (1 + x**2), p, num_samples=2**10)
    assert result.estimate == pytest.approx(scale * usual.estimate, rel=1e-12)
    assert result.standard_error == pytest.approx(scale * usual.standard_error, rel=1e-9)


def test_a_function_of_both_signs_has_no_logarithm() -> None:
    result = quasi_expectation(lambda x: x, Normal(1.0, 1.0), num_samples=2**10)
    assert math.isnan(result.log_estimate)
    assert result.estimate == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    "p",
    [
        Gamma(2.0, 1.0),
        Independent(Gamma(torch.ones(3), 1.0), 1),
        TransformedDistribution(Independent(Normal(torch.zeros(3), 1.0), 1), [AffineTransform(0.0, 2.0)]),
    ],
)
def test_a_distribution_without_an_inverse_is_refused(p: Distribution) -> None:
    with pytest.raises(TypeError, match=r"inverse distribution function .* has none: use expectation\(\)"):
        quasi_expectation(lambda x: x, p)


def test_bad_arguments_are_refused_with_a_cure() -> None:
    p = Normal(0.0, 1.0)
    cases: list[tuple[dict, str]] = [
        ({"num_samples": 50_000}, "a power of two times num_replicates = 32, but is 50,000: take 32,768 or 65,536"),
        ({"num_samples": 96}, "take 64 or 128"),
        ({"num_samples": 20}, "take 32 or 64"),
        ({"num_samples": 0}, "take 32 or 64"),
        ({"num_samples": 100, "points": "stratified"}, "a whole number times .* take 96 or 128"),
        ({"num_replicates": 1}, "at least 2, but is 1"),
        ({"points": "halton"}, "'sobol' or 'stratified', but is 'halton'"),
        ({"confidence": 95}, "between 0 and 1, but is 95"),
        ({"num_workers": 0}, "num_workers must be positive, but is 0"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            quasi_expectation(lambda x: x, p, **options)
    with pytest.raises(ValueError, match=r"batch shape \(\), but has \(3,\)"):
        quasi_expectation(lambda x: x, Normal(torch.zeros(3), 1.0))
    assert stats.qmc.Sobol.MAXDIM == 21_201
    with pytest.raises(ValueError, match="at most 21,201 coordinates, but a draw has 21,202"):
        quasi_expectation(lambda x: x, cube(21_202))


def test_a_bad_value_of_f_is_refused() -> None:
    with pytest.raises(ValueError, match=r"f must return shape \(2048,\), but got \(\)"):
        quasi_expectation(lambda x: x.sum(), Normal(0.0, 1.0))
    with pytest.raises(ValueError, match=r"f\(x\) must be finite, but is nan"):
        quasi_expectation(lambda x: x.log(), Normal(0.0, 1.0))


def test_estimates_of_dependent_points_do_not_merge() -> None:
    a, b = (quasi_expectation(lambda x: x, Normal(0.0, 1.0), num_samples=64, seed=seed) for seed in (0, 1))
    with pytest.raises(ValueError, match="merge by their sums, but one has none"):
        a.merged(b)
