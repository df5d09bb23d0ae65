"""One contract for all observation models: mass of one, exact in every bin, finite gradients, draws that follow it.

Chi-square tests have a fixed seed, and raise a false alarm with the probability 1e-4 that is their level.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable
from typing import Any

import mpmath as mp
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Distribution,
    Exponential,
    Independent,
    NegativeBinomial,
    Normal,
    Poisson,
    TransformedDistribution,
    Uniform,
)

from logpx.distributions import (
    CoupledLogisticMixture,
    Dequantized,
    DiscretizedGaussian,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    IndependentBernoulli,
    LevelsCategorical,
    NegativeBinomialCounts,
    PoissonCounts,
    SafeContinuousBernoulli,
    relaxation,
)

LEVEL_OF_TEST = 1e-4
LOC, SCALE = (
    grid.flatten()
    for grid in torch.meshgrid(
        torch.tensor([-300.0, -1.0, 0.0, 0.5, 127.3, 255.0, 256.0, 600.0]),
        torch.arange(-7.0, 6.0).exp(),
        indexing="ij",
    )
)
Parameters = dict[str, Tensor]
LEVELS = [2, 17, 256]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def three(grid: Tensor) -> Tensor:
    """Each grid point with two others, as the components of a mixture."""
    return torch.stack([grid, grid.roll(1), grid.roll(29)], -1)


def scalar_parameters(family: type[Distribution], levels: int) -> Parameters:
    if family is LevelsCategorical:
        return {"logits": 5 * normal(len(LOC), levels)}
    if family is DiscretizedLogisticMixture:
        return {"logits": 3 * normal(len(LOC), 3), "loc": three(LOC), "scale": three(SCALE)}
    return {"loc": LOC, "scale": SCALE}


def build(family: Callable[..., Distribution], parameters: Parameters, levels: int) -> Distribution:
    return family(**parameters) if family is LevelsCategorical else family(**parameters, levels=levels)


SCALARS = [DiscretizedLogistic, DiscretizedLogisticMixture, DiscretizedGaussian, LevelsCategorical]


def coupled_parameters(channels: int = 3, seed: int = 0, components: int = 2, scale: float = 1.0) -> Parameters:
    """One pixel with few levels."""
    k, c = components, channels
    return {
        "logits": normal(k, 1, 1, seed=seed),
        "loc": 2.0 + 2 * normal(k, c, 1, 1, seed=seed + 1),
        "scale": scale * torch.exp(0.5 * normal(k, c, 1, 1, seed=seed + 2)),
        "coupling": normal(k, c * (c - 1) // 2, 1, 1, seed=seed + 3),
    }


def colours(levels: int, channels: int) -> Tensor:
    return torch.cartesian_prod(*[torch.arange(float(levels))] * channels).reshape(-1, channels, 1, 1)


def mass_of(p: Distribution, levels: int) -> Tensor:
    """The mass of every level, with shape (levels,) + batch shape."""
    x = torch.arange(float(levels)).reshape(-1, *[1] * len(p.batch_shape))
    return p.log_prob(x).exp()


# the mass is one


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("family", SCALARS)
def test_the_mass_is_one_for_any_scale_and_location(family: type[Distribution], levels: int) -> None:
    total = mass_of(build(family, scalar_parameters(family, levels), levels), levels).sum(0)
    assert total.dtype == torch.float32 and torch.allclose(total, torch.ones(()), atol=1e-5, rtol=0)


@pytest.mark.parametrize("log_scale", [-7.0, -3.0, 0.0, 2.0, 5.0])
@pytest.mark.parametrize("loc", [-300.0, 0.0, 2.2, 600.0])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_mass_of_all_colours_is_one(channels: int, loc: float, log_scale: float) -> None:
    parameters = coupled_parameters(channels)
    parameters["loc"], parameters["scale"] = parameters["loc"] + loc, parameters["scale"] * math.exp(log_scale)
    p = CoupledLogisticMixture(**parameters, levels=5)
    assert p.log_prob(colours(5, channels)).exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "p",
    [
        PoissonCounts(torch.tensor([0.01, 3.0, 300.0])),
        NegativeBinomialCounts(torch.tensor([0.1, 1.0, 300.0]), torch.tensor([1.0, 2.0, -1.0])),
    ],
    ids=lambda p: type(p).__name__,
)
def test_the_mass_of_all_counts_is_one(p: Distribution) -> None:
    assert torch.allclose(p.log_prob(torch.arange(1500.0).unsqueeze(-1)).exp().sum(0), torch.ones(3), atol=1e-5)


# every bin is exact: mpmath as the oracle


def logistic_tail(a: mp.mpf) -> mp.mpf:
    return 1 / (1 + mp.exp(-a))


def gaussian_tail(a: mp.mpf) -> mp.mpf:
    return mp.erfc(-a / mp.sqrt(2)) / 2


def oracle(x: int, loc: float, scale: float, levels: int, tail: Callable[[mp.mpf], mp.mpf]) -> mp.mpf:
    """The mass of a bin: a difference of left tails, reflected so that it does not cancel from 1."""
    upper, lower = ((x + mp.mpf(edge) - mp.mpf(loc)) / mp.mpf(scale) for edge in (0.5, -0.5))
    if x == 0:
        return tail(upper)
    if x == levels - 1:
        return tail(-lower)
    upper, lower = (-lower, -upper) if lower > 0 else (upper, lower)
    return tail(upper) - tail(lower)


def close(got: float, mass: mp.mpf) -> bool:
    expected = float(mp.log(mass))
    return abs(got - expected) <= max(1e-4, 1e-6 * abs(expected))


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize(
    "family, tail",
    [(DiscretizedLogistic, logistic_tail), (DiscretizedGaussian, gaussian_tail)],
    ids=["logistic", "gaussian"],
)
def test_every_bin_agrees_with_mpmath(
    family: type[Distribution], tail: Callable[[mp.mpf], mp.mpf], levels: int
) -> None:
    known = sorted({0, 1, 2, 3, levels // 2 - 1, levels // 2, levels // 2 + 1, levels - 3, levels - 2, levels - 1})
    x = [level for level in known if 0 <= level < levels]
    got = family(LOC, SCALE, levels).log_prob(torch.tensor(x).unsqueeze(-1))  # type: ignore[call-arg]
    with mp.workdps(40):
        for (i, level), (j, (loc, scale)) in itertools.product(
            enumerate(x), enumerate(zip(LOC.tolist(), SCALE.tolist(), strict=True))
        ):
            mass = oracle(level, loc, scale, levels, tail)
            assert close(got[i, j].item(), mass), (level, loc, scale, got[i, j].item(), float(mp.log(mass)))


def test_bins_of_the_gaussian_are_exact_where_narrow_bins_turn_wide() -> None:
    scale = torch.linspace(0.7, 60.0, 60)
    got = DiscretizedGaussian(100.0, scale).log_prob(torch.tensor([[100.0], [103.0], [120.0]]))
    with mp.workdps(40):
        for i, x in enumerate((100, 103, 120)):
            for j, s in enumerate(scale.tolist()):
                expected = float(mp.log(oracle(x, 100.0, s, 256, gaussian_tail)))
                assert got[i, j].item() == pytest.approx(expected, rel=1e-6, abs=5e-6), (x, s)


def test_a_mixture_agrees_with_mpmath() -> None:
    parameters = scalar_parameters(DiscretizedLogisticMixture, 256)
    x = [0, 1, 100, 127, 254, 255]
    got = DiscretizedLogisticMixture(**parameters).log_prob(torch.tensor(x).unsqueeze(-1))
    with mp.workdps(40):
        for j in range(0, len(LOC), 5):
            logits, loc, scale = (parameters[name][j].tolist() for name in ("logits", "loc", "scale"))
            weights = [mp.exp(a) / sum(mp.exp(b) for b in logits) for a in logits]
            for i, level in enumerate(x):
                each = [oracle(level, m, s, 256, logistic_tail) for m, s in zip(loc, scale, strict=True)]
                assert close(got[i, j].item(), sum(w * m for w, m in zip(weights, each, strict=True)))


def test_a_coupled_mixture_agrees_with_mpmath() -> None:
    parameters = coupled_parameters()
    got = CoupledLogisticMixture(**parameters, levels=6).log_prob(colours(6, 3))
    logits, loc, scale, coupling = (parameters[n].squeeze().tolist() for n in ("logits", "loc", "scale", "coupling"))
    for i, colour in enumerate(colours(6, 3).squeeze().long().tolist()):
        masses = []
        for k in range(2):
            red, green = colour[0] - 2.5, colour[1] - 2.5
            shifts = (0.0, coupling[k][0] * red, coupling[k][1] * red + coupling[k][2] * green)
            centres = [m + shift for m, shift in zip(loc[k], shifts, strict=True)]
            each = [oracle(x, m, s, 6, logistic_tail) for x, m, s in zip(colour, centres, scale[k], strict=True)]
            masses.append(mp.exp(logits[k]) * each[0] * each[1] * each[2])
        assert close(got[i].item(), sum(masses) / sum(mp.exp(a) for a in logits))


def pixelcnn_formula(x: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """The formula of the PixelCNN++ code for an interior bin, in levels: a density where the difference is small."""
    upper, lower, middle = (x + 0.5 - loc) / scale, (x - 0.5 - loc) / scale, (x - loc) / scale
    mass = torch.sigmoid(upper) - torch.sigmoid(lower)
    log_density = middle - scale.log() - 2 * F.softplus(middle)
    return torch.where(mass > 1e-5, mass.clamp(min=1e-12).log(), log_density)


def test_bins_are_exact_where_the_pixelcnn_formula_errs_by_two_nats() -> None:
    # its smallest scale is e^-7 of half the range
    x, loc, scale = torch.tensor(140.0), torch.tensor(127.5), torch.tensor(127.5 * math.exp(-7))
    with mp.workdps(40):
        mass = oracle(140, loc.item(), scale.item(), 256, logistic_tail)
    assert close(DiscretizedLogistic(loc, scale).log_prob(x).item(), mass)
    assert abs(pixelcnn_formula(x, loc, scale).item() - float(mp.log(mass))) == pytest.approx(2.15, abs=0.01)


def test_bins_are_those_of_the_pixelcnn_formula_where_it_is_right() -> None:
    x, loc, scale = torch.arange(1.0, 255.0), torch.tensor(130.0), torch.tensor(20.0)
    assert torch.allclose(DiscretizedLogistic(loc, scale).log_prob(x), pixelcnn_formula(x, loc, scale), atol=1e-3)


@pytest.mark.parametrize(
    "r, logit, x", [(0.3, 2.0, 0), (0.001, -5.0, 1), (5.0, 1.0, 40), (1e3, -4.0, 20), (1e6, -10.0, 55)]
)
def test_negative_binomial_masses_agree_with_mpmath(r: float, logit: float, x: int) -> None:
    total_count, logits = torch.tensor(r), torch.tensor(logit)
    got = NegativeBinomialCounts(total_count, logits).log_prob(torch.tensor(float(x))).item()
    r, p = mp.mpf(total_count.item()), 1 / (1 + mp.exp(-mp.mpf(logits.item())))
    assert close(got, mp.gamma(r + x) / mp.gamma(r) / mp.factorial(x) * p**x * (1 - p) ** r)


@pytest.mark.parametrize("rate, x", [(1e-6, 1), (0.5, 0), (9.0, 11), (9.0, 40), (1e3, 1010), (1e3, 700), (1e5, 100300)])
def test_poisson_masses_agree_with_mpmath(rate: float, x: int) -> None:
    got = PoissonCounts(torch.tensor(rate)).log_prob(torch.tensor(float(x))).item()
    m = mp.mpf(torch.tensor(rate).item())
    assert close(got, mp.exp(x * mp.log(m) - m - mp.loggamma(x + 1)))


def test_counts_are_exact_where_torchs_err_in_float32() -> None:
    x, rate, r, logit = 20.0, 1e5, 1e6, -10.0
    exact = float(mp.log(mp.mpf(rate)) * rate - rate - mp.loggamma(rate + 1))
    assert abs(Poisson(torch.tensor(rate)).log_prob(torch.tensor(rate)).item() - exact) > 0.01
    assert PoissonCounts(torch.tensor(rate)).log_prob(torch.tensor(rate)).item() == pytest.approx(exact, abs=1e-5)
    double = NegativeBinomial(torch.tensor(r).double(), logits=torch.tensor(logit).double()).log_prob(torch.tensor(x))
    single = NegativeBinomial(torch.tensor(r), logits=torch.tensor(logit)).log_prob(torch.tensor(x))
    ours = NegativeBinomialCounts(torch.tensor(r), torch.tensor(logit)).log_prob(torch.tensor(x))
    assert (single - double).abs() > 0.01 and (ours - double).abs() < 1e-4


@pytest.mark.parametrize("logit", [0.0, 1e-8, -1e-4, 3e-3, -0.02, 0.5, 0.9999, -1.0001, 4.0, -20.0, 100.0])
@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
def test_the_continuous_bernoulli_and_its_gradient_agree_with_mpmath(logit: float, x: float) -> None:
    a = torch.tensor(logit, requires_grad=True)
    log_p = SafeContinuousBernoulli(a).log_prob(torch.tensor(x))
    log_p.backward()
    t, y = mp.mpf(a.item()), mp.mpf(torch.tensor(x).item())
    with mp.workdps(60):
        mean = 1 / (1 - mp.exp(-t)) - 1 / t if t else mp.mpf(0.5)
        assert close(log_p.item(), mp.exp(t * y) * (t / mp.expm1(t) if t else 1))
    assert a.grad is not None and a.grad.item() == pytest.approx(float(y - mean), abs=1e-6)
    assert SafeContinuousBernoulli(a.detach()).mean.item() == pytest.approx(float(mean), abs=1e-6)


# gradients


@pytest.mark.parametrize("is_half", [False, True], ids=["float32", "bfloat16 autocast"])
@pytest.mark.parametrize("family", SCALARS)
def test_gradients_are_finite_at_every_level(family: type[Distribution], is_half: bool) -> None:
    parameters = {
        name: (p.bfloat16() if is_half else p).clone().requires_grad_()
        for name, p in scalar_parameters(family, 256).items()
    }
    with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
        x = torch.arange(256.0).unsqueeze(-1)
        p = build(family, parameters, 256)
        log_p = p.log_prob(x.bfloat16() if is_half else x)
    assert log_p.dtype == torch.float32 and torch.isfinite(log_p).all()
    assert torch.allclose(log_p.exp().sum(0), torch.ones(()), atol=1e-5)
    for gradient in torch.autograd.grad(log_p.sum(), list(parameters.values())):
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("family", [DiscretizedLogistic, DiscretizedGaussian])
def test_gradients_are_finite_at_absurd_distances(family: type[Distribution]) -> None:
    leaves = [torch.tensor([-1e7, 1e7, 1e7], requires_grad=True), torch.tensor([1e-3, 1e-3, 1e6], requires_grad=True)]
    log_p = family(*leaves).log_prob(torch.arange(256.0).unsqueeze(-1))  # type: ignore[call-arg]
    assert torch.isfinite(log_p).all()
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(log_p.sum(), leaves))


@pytest.mark.parametrize("is_half", [False, True], ids=["float32", "bfloat16 autocast"])
def test_gradients_of_coupled_mixtures_are_finite(is_half: bool) -> None:
    for log_scale, loc in itertools.product([-7.0, 0.0, 5.0], [-300.0, 2.0, 600.0]):
        parameters = coupled_parameters()
        parameters["loc"], parameters["scale"] = parameters["loc"] + loc, parameters["scale"] * math.exp(log_scale)
        leaves = {n: (p.bfloat16() if is_half else p).clone().requires_grad_() for n, p in parameters.items()}
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            log_p = CoupledLogisticMixture(**leaves, levels=5).log_prob(colours(5, 3))
        assert log_p.dtype == torch.float32
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(log_p.sum(), list(leaves.values())))


HALVES: dict[str, Callable[[Tensor], tuple[Distribution, Tensor]]] = {
    "PoissonCounts": lambda a: (PoissonCounts(a.exp()), torch.tensor([0.0, 3.0, 900.0])),
    "NegativeBinomialCounts": lambda a: (NegativeBinomialCounts(a.exp(), a), torch.tensor([0.0, 3.0, 900.0])),
    "SafeContinuousBernoulli": lambda a: (SafeContinuousBernoulli(30 * a), torch.tensor([0.0, 0.5, 1.0])),
    "IndependentBernoulli": lambda a: (IndependentBernoulli(a, 1), torch.tensor([0.0, 1.0, 1.0])),
    "Dequantized": lambda a: (Dequantized(Normal(a.float(), 0.01)), torch.tensor([0.0, 7.0, 255.0])),
}


@pytest.mark.parametrize("name", HALVES)
def test_other_gradients_are_finite_under_autocast(name: str) -> None:
    a = torch.tensor([[-9.0, 0.0, 6.0], [3.0, 0.0, -2.0]], dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        p, x = HALVES[name](a)
        log_p = p.log_prob(x)
    log_p.sum().backward()
    assert log_p.dtype == torch.float32 and torch.isfinite(log_p).all()
    assert a.grad is not None and torch.isfinite(a.grad).all()


def test_autocast_does_not_round_the_log_probability_of_a_bernoulli_image() -> None:
    a, x = normal(4, 784), (normal(4, 784, seed=1) > 0).float()
    with torch.autocast("cpu", torch.bfloat16):
        log_p = IndependentBernoulli(a, 1).log_prob(x)
    assert torch.equal(log_p, IndependentBernoulli(a, 1).log_prob(x))


@pytest.mark.parametrize("family", [*SCALARS[:3], CoupledLogisticMixture])
def test_first_and_second_derivatives_are_those_of_finite_differences(family: type[Distribution]) -> None:
    if family is CoupledLogisticMixture:
        values, x = coupled_parameters(), colours(5, 3)[::9].double()
    else:
        loc, scale = torch.tensor([-2.0, 0.4, 3.1, 9.0]), torch.tensor([0.3, 1.0, 4.0, 20.0])
        values, x = {"loc": loc, "scale": scale}, torch.arange(5.0, dtype=torch.float64).unsqueeze(-1)
    if family is DiscretizedLogisticMixture:
        values = {
            "logits": normal(4, 2),
            "loc": loc.reshape(2, 2).repeat(2, 1),
            "scale": scale.reshape(2, 2).repeat(2, 1),
        }
    names, leaves = list(values), [v.double().requires_grad_() for v in values.values()]

    def log_prob(*tensors: Tensor) -> Tensor:
        return build(family, dict(zip(names, tensors, strict=True)), 5).log_prob(x)

    assert torch.autograd.gradcheck(log_prob, leaves)
    assert torch.autograd.gradgradcheck(log_prob, leaves, atol=1e-4)


@pytest.mark.parametrize(
    "family, tail",
    [(DiscretizedLogistic, logistic_tail), (DiscretizedGaussian, gaussian_tail)],
    ids=["logistic", "gaussian"],
)
@pytest.mark.parametrize("loc, scale", [(600.0, 1e-3), (-300.0, 0.05), (99.7, 0.2), (130.0, 40.0), (600.0, 1500.0)])
@pytest.mark.parametrize("x", [0, 100, 255])
def test_gradients_far_out_are_those_of_mpmath(
    family: type[Distribution], tail: Callable[[mp.mpf], mp.mpf], loc: float, scale: float, x: int
) -> None:
    leaves = [torch.tensor(v, requires_grad=True) for v in (loc, scale)]
    got = torch.autograd.grad(family(*leaves).log_prob(torch.tensor(x)), leaves)  # type: ignore[call-arg]
    m, s = (mp.mpf(v.item()) for v in leaves)
    with mp.workdps(60):
        # central differences with a step of 1e-15 in 60 digits, unless the mass beyond an edge is 1 to 60 digits
        d = mp.mpf(10) ** -15
        log_mass = [
            mp.log(oracle(x, *at, 256, tail)) for at in ((m + d, s), (m - d, s), (m, s + d * s), (m, s - d * s))
        ]
        expected = [(log_mass[0] - log_mass[1]) / (2 * d), (log_mass[2] - log_mass[3]) / (2 * d * s)]
    for gradient, slope in zip(got, expected, strict=True):
        assert gradient.item() == pytest.approx(float(slope), rel=1e-4, abs=1e-4)


def test_the_gradients_of_counts_are_those_of_torch_in_double_precision() -> None:
    x = torch.tensor([0.0, 1.0, 7.0, 30.0, 400.0], dtype=torch.float64)
    r, a = (
        torch.tensor(v, dtype=torch.float64, requires_grad=True)
        for v in ([0.3, 4.0, 9.99, 10.01, 80.0], [-1.0, 2, 0, 1, 0.3])
    )
    for ours, theirs, leaves in (
        (NegativeBinomialCounts(r, a), NegativeBinomial(r, logits=a), [r, a]),
        (PoissonCounts(r), Poisson(r), [r]),
    ):
        got, expected = (torch.autograd.grad(p.log_prob(x).sum(), leaves) for p in (ours, theirs))
        assert all(torch.allclose(g, e, rtol=1e-5, atol=1e-7) for g, e in zip(got, expected, strict=True))


# draws follow the mass


def assert_follows(draws: Tensor, mass: Tensor) -> None:
    """Chi-square of integer draws (n,) against the mass of 0, 1, ...; cells that expect fewer than 10 are pooled."""
    assert draws.min() >= 0 and draws.max() < len(mass) and (draws % 1 == 0).all()
    observed, expected = torch.bincount(draws.long(), minlength=len(mass)).double(), mass.double() * len(draws)
    rare = expected < 10
    cells = [torch.cat([t[~rare], t[rare].sum().reshape(1)]) for t in (observed, expected)]
    observed, expected = (t[cells[1] > 0] for t in cells)
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > LEVEL_OF_TEST


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("family", SCALARS)
def test_draws_of_levels_follow_the_mass(family: type[Distribution], index: int) -> None:
    loc, scale = (torch.tensor(v) for v in ([5.2, -3.0, 20.0, 8.5], [0.2, 2.0, 1.5, 9.0]))
    parameters = {
        DiscretizedLogisticMixture: {
            "logits": normal(4, 3),
            "loc": loc[:, None] + 4 * normal(4, 3),
            "scale": scale[:, None] * torch.ones(3),
        },
        LevelsCategorical: {"logits": 2 * normal(4, 17)},
    }.get(family, {"loc": loc, "scale": scale})  # type: ignore[call-overload]
    p = build(family, parameters, 17)
    torch.manual_seed(0)
    draws = p.sample((40_000,))
    assert draws.shape == (40_000, 4) and draws.dtype == torch.float32
    assert_follows(draws[:, index], mass_of(p, 17)[:, index])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("levels, channels", [(4, 2), (8, 2), (4, 3)])
def test_draws_of_colours_follow_the_joint_mass(levels: int, channels: int, seed: int) -> None:
    p = CoupledLogisticMixture(**coupled_parameters(channels, seed, scale=0.5), levels=levels)
    torch.manual_seed(seed)
    draws = p.sample((40_000,)).reshape(-1, channels)
    code = sum(draws[:, c] * levels ** (channels - 1 - c) for c in range(channels))
    assert isinstance(code, Tensor)
    assert_follows(code, p.log_prob(colours(levels, channels)).exp())


@pytest.mark.parametrize(
    "p",
    [
        LevelsCategorical(torch.full((17,), math.inf)),
        DiscretizedLogisticMixture(torch.full((2,), math.inf), torch.ones(2), torch.ones(2), levels=17),
        CoupledLogisticMixture(**{**coupled_parameters(), "logits": torch.full((2, 1, 1), math.inf)}, levels=17),
    ],
    ids=lambda p: type(p).__name__,
)
def test_nothing_is_drawn_by_weights_that_are_no_probabilities(p: Distribution) -> None:
    with pytest.raises(ValueError, match="parameter logits"):
        p.sample()


def test_every_pixel_of_every_image_draws_from_its_own_parameters() -> None:
    # far apart and nearly sure, so that a mixed-up axis shows at once
    k, c, h, w = 2, 3, 2, 4
    loc = torch.arange(5.0 * k * c * h * w).reshape(5, k, c, h, w)
    logits = torch.where(
        torch.arange(5 * h * w).reshape(5, 1, h, w) % 2 == torch.arange(k).reshape(k, 1, 1), 0.0, -99.0
    )
    p = CoupledLogisticMixture(logits, loc, torch.full_like(loc, 1e-3))
    draws = p.sample((6,))
    expected = torch.where((logits[:, 0] == 0).unsqueeze(1), loc[:, 0], loc[:, 1])
    assert torch.equal(draws, expected.expand(6, 5, c, h, w))
    assert torch.equal(p.mode, expected) and torch.allclose(p.mean, expected, atol=1e-3)


@pytest.mark.parametrize(
    "p",
    [PoissonCounts(torch.tensor(4.0)), NegativeBinomialCounts(torch.tensor(2.5), torch.tensor(0.5))],
    ids=["Poisson", "NB"],
)
def test_draws_of_counts_follow_the_mass(p: Distribution) -> None:
    torch.manual_seed(0)
    assert_follows(p.sample((40_000,)), p.log_prob(torch.arange(200.0)).exp())


@pytest.mark.parametrize("logit", [0.0, 1e-7, 0.3, -5.0, 40.0, 95.0])
def test_draws_of_the_continuous_bernoulli_follow_its_distribution_function(logit: float) -> None:
    p = SafeContinuousBernoulli(torch.tensor(logit))
    torch.manual_seed(0)
    assert stats.kstest(p.sample((20_000,)).numpy(), lambda x: p.cdf(torch.tensor(x)).numpy()).pvalue > LEVEL_OF_TEST
    x = torch.linspace(0, 1, 2001, dtype=torch.float64)
    p = SafeContinuousBernoulli(torch.tensor(logit, dtype=torch.float64))
    integral = torch.cumulative_trapezoid(p.log_prob(x).exp(), x)
    assert torch.allclose(p.cdf(x[1:]), integral, atol=1e-3) and torch.allclose(
        p.icdf(p.cdf(x[:1200:50])), x[:1200:50], atol=1e-6
    )


@pytest.mark.parametrize("logit", [0.0, 1e-5, -0.019, 0.021, 3.0, -20.0, 9.9, 10.1, 60.0])
def test_reparametrised_draws_of_the_continuous_bernoulli_have_the_implicit_gradient(logit: float) -> None:
    a = torch.tensor(logit, requires_grad=True)
    u = torch.tensor([0.01, 0.3, 0.5, 0.9, 0.999])
    p = SafeContinuousBernoulli(a)
    x = p.icdf(u)
    # F(x; a) = u, hence dx/da = -(dF/da) / p(x)
    pathwise = torch.stack([torch.autograd.grad(each, a, retain_graph=True)[0] for each in x])
    double = torch.tensor(logit, dtype=torch.float64, requires_grad=True)
    q, at = SafeContinuousBernoulli(double), x.detach().double()
    slope = torch.stack([torch.autograd.grad(each, double, retain_graph=True)[0] for each in q.cdf(at)])
    assert torch.allclose(pathwise.double(), -slope / q.log_prob(at).exp().detach(), rtol=1e-3, atol=1e-5)


# distribution functions, means and modes


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("family", SCALARS)
def test_the_distribution_function_is_the_running_sum_of_the_mass(family: type[Distribution], levels: int) -> None:
    p = build(family, scalar_parameters(family, levels), levels)
    x = torch.arange(float(levels)).unsqueeze(-1)
    running = mass_of(p, levels).cumsum(0)
    assert torch.allclose(p.cdf(x), running, atol=1e-5) and torch.allclose(p.cdf(x + 0.9), running, atol=1e-5)
    assert (p.cdf(torch.tensor(-0.5)) == 0).all() and (p.cdf(torch.tensor(levels - 1.0)) == 1).all()


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("family", SCALARS)
def test_mean_and_mode_are_those_of_the_mass(family: type[Distribution], levels: int) -> None:
    p = build(family, scalar_parameters(family, levels), levels)
    mass = mass_of(p, levels)
    mean = (mass * torch.arange(float(levels)).unsqueeze(-1)).sum(0)
    assert torch.allclose(p.mean, mean, atol=2e-3)
    assert torch.allclose(mass.gather(0, p.mode.long().unsqueeze(0)), mass.amax(0), rtol=1e-5)


def test_the_conditional_distribution_functions_of_channels_are_those_of_the_joint_mass() -> None:
    p = CoupledLogisticMixture(**coupled_parameters(), levels=5)
    mass = p.log_prob(colours(5, 3)).exp().reshape(5, 5, 5)
    cdf = p.cdf(colours(5, 3)).reshape(5, 5, 5, 3)
    red, green = mass.sum((1, 2)).cumsum(0), (mass.sum(2) / mass.sum((1, 2))[:, None]).cumsum(1)
    blue = (mass / mass.sum(2, keepdim=True)).cumsum(2)
    assert torch.allclose(cdf[..., 0], red[:, None, None].expand(5, 5, 5), atol=1e-5)
    assert torch.allclose(cdf[..., 1], green[:, :, None].expand(5, 5, 5), atol=1e-5)
    assert torch.allclose(cdf[..., 2], blue, atol=1e-4)


def test_the_mean_of_colours_is_exact_without_coupling_and_for_red() -> None:
    parameters = coupled_parameters()
    for coupling in (None, parameters["coupling"]):
        p = CoupledLogisticMixture(**{**parameters, "coupling": coupling}, levels=6)  # type: ignore[arg-type]
        mean = (p.log_prob(colours(6, 3)).exp()[:, None, None, None] * colours(6, 3)).sum(0)
        exact = slice(None) if coupling is None else slice(0, 1)
        assert torch.allclose(p.mean[exact], mean[exact], atol=1e-5)


def test_the_mean_of_coupled_colours_is_near_where_little_mass_is_clipped() -> None:
    parameters = {
        **coupled_parameters(),
        "loc": torch.tensor([12.0, 15.0, 18.0]).reshape(1, 3, 1, 1).repeat(2, 1, 1, 1),
    }
    parameters["coupling"] = torch.tensor([0.5, -0.3, 0.4]).reshape(1, 3, 1, 1)
    p = CoupledLogisticMixture(**{**parameters, "coupling": parameters["coupling"].expand(2, 3, 1, 1)}, levels=32)
    mean = (p.log_prob(colours(32, 3)).exp()[:, None, None, None] * colours(32, 3)).sum(0)
    assert torch.allclose(p.mean, mean, atol=0.02)


def test_the_mode_of_colours_takes_the_most_probable_level_of_each_channel_in_turn() -> None:
    p = CoupledLogisticMixture(**coupled_parameters(), levels=5)
    mass = p.log_prob(colours(5, 3)).exp().reshape(5, 5, 5)
    red = mass.sum((1, 2)).argmax()
    green = mass.sum(2)[red].argmax()
    assert p.mode.flatten().tolist() == [red, green, mass[red, green].argmax()]


# dequantization


def test_dequantization_is_an_unbiased_mass_and_a_lower_bound() -> None:
    x, n = torch.tensor([0.0, 4.0, 9.0]), 40_000
    f = Normal(torch.tensor([1.0, 3.0, 4.0]), torch.tensor([0.8, 0.5, 2.0]))
    torch.manual_seed(0)
    log_p = Dequantized(f.expand((n, 3)), levels=10).log_prob(x)
    exact = f.cdf(x + 0.5) - f.cdf(x - 0.5)
    # 4.5 standard errors in each of three: false alarm 2e-5
    error = log_p.exp().std(0) / math.sqrt(n)
    assert ((log_p.exp().mean(0) - exact).abs() < 4.5 * error).all()
    assert (log_p.mean(0) + 4.5 * log_p.std(0) / math.sqrt(n) < exact.log()).all()
    assert log_p.shape == (n, 3) and Dequantized.is_bound


def fitting_noise(x: Tensor) -> Distribution:
    return SafeContinuousBernoulli(torch.full_like(x, -0.7))


def test_noise_that_follows_the_density_makes_the_bound_tight() -> None:
    # within each bin an exponential density is a continuous Bernoulli
    f = TransformedDistribution(Exponential(torch.tensor([0.7, 0.7])), AffineTransform(-0.5, 1.0))
    x = torch.tensor([0.0, 5.0])
    exact = math.log1p(-math.exp(-0.7)) - 0.7 * x
    torch.manual_seed(0)
    assert torch.allclose(Dequantized(f, noise=fitting_noise).log_prob(x), exact, atol=1e-5)


def test_noise_may_learn_and_is_fresh_for_every_member_of_the_batch() -> None:
    a = torch.tensor(0.0, requires_grad=True)
    f = TransformedDistribution(Exponential(torch.full((20_000, 2), 0.7)), AffineTransform(-0.5, 1.0))
    torch.manual_seed(0)
    log_p = Dequantized(f, noise=lambda x: SafeContinuousBernoulli(a.expand_as(x))).log_prob(torch.tensor([0.0, 3.0]))
    log_p.mean().backward()
    assert log_p.shape == (20_000, 2) and len(log_p[:, 0].unique()) > 19_000
    # from uniform noise E_q[-0.7 u] has the slope -0.7 Var(u), the entropy none; 5 standard errors: false alarm 6e-7
    assert a.grad is not None and a.grad.item() == pytest.approx(-0.7 / 12, abs=5 * math.sqrt(1 / 12 / 40_000))


def test_draws_under_dequantization_are_the_nearest_levels() -> None:
    f = Normal(torch.tensor(3.0), 2.0)
    torch.manual_seed(0)
    assert_follows(Dequantized(f, levels=8).sample((40_000,)), mass_of(DiscretizedGaussian(3.0, 2.0, 8), 8))


def test_noise_outside_of_the_bin_is_refused() -> None:
    p = Dequantized(Normal(0.0, 1.0), noise=lambda x: Uniform(torch.full_like(x, 1.5), 2.0))
    with pytest.raises(ValueError, match=r"Noise must lie in \[0, 1\], but one draw is 1\.\d+: end it with a sigmoid"):
        p.log_prob(torch.tensor(1.0))


# values, shapes and files: the same for all

ALL: dict[str, tuple[Distribution, Tensor]] = {
    "DiscretizedLogistic": (DiscretizedLogistic(torch.tensor([3.0, 9.0]), 2.0), torch.tensor([4.0, 200.0])),
    "DiscretizedLogisticMixture": (
        DiscretizedLogisticMixture(torch.zeros(2, 3), normal(2, 3), torch.ones(2, 3)),
        torch.tensor([4.0, 200.0]),
    ),
    "DiscretizedGaussian": (DiscretizedGaussian(torch.tensor([3.0, 9.0]), 2.0), torch.tensor([4.0, 200.0])),
    "LevelsCategorical": (LevelsCategorical(normal(2, 256)), torch.tensor([4.0, 200.0])),
    "CoupledLogisticMixture": (
        CoupledLogisticMixture(
            normal(2, 3, 1, 2), normal(2, 3, 3, 1, 2), torch.ones(2, 3, 3, 1, 2), normal(2, 3, 3, 1, 2)
        ),
        torch.arange(12.0).reshape(2, 3, 1, 2),
    ),
    "uncoupled": (
        CoupledLogisticMixture(normal(2, 3, 1, 2), normal(2, 3, 3, 1, 2), torch.ones(2, 3, 3, 1, 2)),
        torch.arange(12.0).reshape(2, 3, 1, 2),
    ),
    "Dequantized": (Dequantized(Normal(torch.zeros(2), 9.0), noise=fitting_noise), torch.tensor([4.0, 20.0])),
    "PoissonCounts": (PoissonCounts(torch.tensor([3.0, 9.0])), torch.tensor([4.0, 20.0])),
    "NegativeBinomialCounts": (
        NegativeBinomialCounts(torch.tensor([3.0, 9.0]), torch.tensor(0.5)),
        torch.tensor([4.0, 20.0]),
    ),
    "SafeContinuousBernoulli": (SafeContinuousBernoulli(torch.tensor([3.0, -9.0])), torch.tensor([0.1, 0.5])),
    "IndependentBernoulli": (IndependentBernoulli(normal(2, 3), 1), torch.tensor([[0.0, 1.0, 1.0]] * 2)),
}
EACH = pytest.mark.parametrize("name", ALL)


def log_prob(p: Distribution, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return p.log_prob(x)


@EACH
def test_it_survives_a_file(name: str) -> None:
    p, x = ALL[name]
    file = io.BytesIO()
    torch.save(p, file)
    file.seek(0)
    q: Any = torch.load(file, weights_only=False)
    assert torch.equal(log_prob(q, x), log_prob(p, x))


@EACH
def test_it_expands(name: str) -> None:
    p, x = ALL[name]
    q = p.expand((4, *p.batch_shape))
    assert type(q) is type(p) and q.batch_shape == (4, 2) and q.event_shape == p.event_shape
    if name != "Dequantized":  # whose noise is fresh
        assert torch.allclose(q.log_prob(x), p.log_prob(x).expand(4, 2))
    assert q.sample((3,)).shape == (3, 4, 2, *p.event_shape)
    assert q.log_prob(q.sample()).shape == (4, 2)


@EACH
@pytest.mark.parametrize("odd", [-1.0, 0.5, 1.5, 256.0, math.nan, math.inf])
def test_a_value_outside_of_the_support_is_named_with_a_cure(name: str, odd: float) -> None:
    p, x = ALL[name]
    x = x.clone()
    x.view(-1)[1] = odd
    if bool(p.support.check(x).all()):  # type: ignore[union-attr]
        assert torch.isfinite(log_prob(p, x)).all()
    else:
        with pytest.raises(ValueError, match=rf"(one is|but got) {odd:.6g}: (wrap|give|scale|binarize)"):
            p.log_prob(x)


@EACH
def test_draws_lie_in_the_support_and_relaxation_knows_the_kind(name: str) -> None:
    p, _ = ALL[name]
    draws = p.sample((50,))
    assert p.support.check(draws).all()  # type: ignore[union-attr]
    if name == "SafeContinuousBernoulli":
        assert p.has_rsample and relaxation(p, "8-bit") == "a density on 8-bit data is a relaxed likelihood"
    else:
        assert not p.has_rsample and relaxation(p, "8-bit", draws) is None
        assert relaxation(p, "real") == "a mass function on real data is a relaxed likelihood"


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float64])
@pytest.mark.parametrize(
    "name", [n for n in ALL if n not in ("Dequantized", "SafeContinuousBernoulli", "IndependentBernoulli")]
)
def test_levels_may_come_in_any_dtype(name: str, dtype: torch.dtype) -> None:
    p, x = ALL[name]
    assert torch.equal(p.log_prob(x.to(dtype)), p.log_prob(x))


def test_more_than_256_levels_take_bytes_too() -> None:
    x = torch.tensor([0, 255], dtype=torch.uint8)
    assert torch.isfinite(DiscretizedLogistic(100.0, 30.0, levels=1000).log_prob(x)).all()


@pytest.mark.parametrize("family", SCALARS)
def test_independent_wraps_the_scalars(family: type[Distribution]) -> None:
    p = build(family, scalar_parameters(family, 256), 256).expand((5, len(LOC)))
    q, x = Independent(p, 1), torch.randint(256, (len(LOC),)).float()
    assert q.log_prob(x).shape == (5,) and torch.allclose(q.log_prob(x), p.log_prob(x).sum(-1))
    assert q.mean.shape == (5, len(LOC)) and q.sample((2,)).shape == (2, 5, len(LOC))


def test_one_component_is_the_plain_distribution() -> None:
    x = torch.arange(256.0).unsqueeze(-1)
    mixture = DiscretizedLogisticMixture(normal(len(LOC), 1), LOC.unsqueeze(-1), SCALE.unsqueeze(-1))
    assert torch.allclose(mixture.log_prob(x), DiscretizedLogistic(LOC, SCALE).log_prob(x), atol=1e-6)


def test_a_component_of_weight_zero_does_not_count() -> None:
    logits = torch.tensor([0.0, -math.inf], requires_grad=True)
    p = DiscretizedLogisticMixture(logits, torch.tensor([10.0, 200.0]), torch.ones(2))
    log_p = p.log_prob(torch.tensor([10.0, 200.0]))
    assert torch.allclose(log_p, DiscretizedLogistic(10.0, 1.0).log_prob(torch.tensor([10.0, 200.0])))
    assert torch.isfinite(torch.autograd.grad(log_p.sum(), logits)[0]).all()


def test_the_levels_of_a_categorical_need_no_order() -> None:
    weights = torch.tensor([1.0, 0.0, 3.0, 4.0])
    p = LevelsCategorical(weights.log())
    assert torch.allclose(p.log_prob(torch.tensor([0, 2, 3])).exp(), weights[[0, 2, 3]] / 8)
    assert p.log_prob(torch.tensor(1)) == -math.inf and p.mode == 3 and p.mean == pytest.approx(18 / 8)


# errors, each once


def test_too_few_levels_are_refused() -> None:
    for make in (
        lambda: DiscretizedLogistic(0.0, 1.0, levels=1),
        lambda: LevelsCategorical(torch.zeros(3, 1)),
        lambda: Dequantized(Normal(0.0, 1.0), levels=0),
        lambda: CoupledLogisticMixture(**coupled_parameters(), levels=1),
    ):
        with pytest.raises(ValueError, match=r"levels must be at least 2, but is \d: give the number of values"):
            make()


def test_parameters_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must have shape \(\*, K\), but have \[\(2,\), \(3,\), \(3,\)\]: put K last"):
        DiscretizedLogisticMixture(torch.zeros(2), torch.zeros(3), torch.ones(3))
    with pytest.raises(ValueError, match=r"loc must have shape \(\*, K, C, H, W\), but has \(3, 4, 4\): reshape it"):
        CoupledLogisticMixture(torch.zeros(4, 4), torch.zeros(3, 4, 4), torch.ones(3, 4, 4))
    good = coupled_parameters()
    for name, shape in {"logits": r"2, 1, 1", "scale": r"2, 3, 1, 1", "coupling": r"2, 3, 1, 1"}.items():
        with pytest.raises(ValueError, match=rf"{name} must have shape \(\*, {shape}\) where loc is .*: reshape it"):
            CoupledLogisticMixture(**{**good, name: good[name][:1]})
    with pytest.raises(
        ValueError, match=r"Images must have shape \(\*, C, H, W\) with \(3, 1, 1\), but have \(1, 1, 1\)"
    ):
        CoupledLogisticMixture(**good).log_prob(torch.zeros(1, 1, 1))


@pytest.mark.parametrize("name", ["loc", "scale", "coupling"])
def test_invalid_parameters_are_refused_as_torch_does(name: str) -> None:
    bad = coupled_parameters()
    bad[name] = torch.full_like(bad[name], -1.0 if name == "scale" else math.nan)
    with pytest.raises(ValueError, match=f"Expected parameter {name}"):
        CoupledLogisticMixture(**bad)
    if name != "coupling":
        with pytest.raises(ValueError, match=f"Expected parameter {name}"):
            DiscretizedLogistic(**{"loc": 0.0, "scale": 1.0, name: bad[name]})
