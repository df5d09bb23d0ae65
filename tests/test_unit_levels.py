"""Levels spoken of as numbers in [0, 1] keep their mass, their samples and their code lengths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from logpx.distributions import (
    CoupledLogisticMixture,
    DiscretizedGaussian,
    DiscretizedLogistic,
    LevelsCategorical,
    NegativeBinomialCounts,
    OnUnitInterval,
    PoissonCounts,
    relaxation,
)


def scalars(levels: int) -> list[Distribution]:
    loc, scale = torch.tensor([0.3, 0.8]) * levels, torch.tensor([0.6, 5.0])
    logits = torch.randn(2, levels, generator=torch.Generator().manual_seed(0))
    return [DiscretizedLogistic(loc, scale, levels), DiscretizedGaussian(loc, scale, levels), LevelsCategorical(logits)]


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_mass_is_that_of_the_levels_and_sums_to_one(levels: int) -> None:
    grid = torch.arange(levels) / (levels - 1)
    for base in scalars(levels):
        p = OnUnitInterval(base, levels)
        log_p = p.log_prob(grid.unsqueeze(-1))
        assert torch.equal(log_p, base.log_prob(torch.arange(levels).float().unsqueeze(-1)))
        assert torch.allclose(log_p.exp().sum(0), torch.ones(2), atol=1e-5)
        assert torch.allclose(p.mean, (log_p.exp() * grid.unsqueeze(-1)).sum(0), atol=1e-4)
        assert torch.equal(p.mode, grid[log_p.argmax(0)])


def test_images_are_sampled_on_the_grid_and_scored_as_their_levels() -> None:
    loc = torch.full((4, 3, 3, 5, 5), 100.0)
    base = CoupledLogisticMixture(torch.zeros(4, 3, 5, 5), loc, torch.full_like(loc, 20.0))
    p = OnUnitInterval(base, 256)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = p.sample((6,))
    assert x.shape == (6, 4, 3, 5, 5)
    assert p.support.check(x).all() and p.support.check(x).shape == (6, 4)
    assert torch.equal(p.log_prob(x), base.log_prob((255 * x).round()))
    assert relaxation(p, "8-bit", x) is None
    assert p.expand((2, 4)).log_prob(x[0]).shape == (2, 4)


@pytest.mark.parametrize(
    "base",
    [
        PoissonCounts(torch.tensor([2.0, 15.0, 900.0])),
        NegativeBinomialCounts(torch.tensor([2.0, 1.0, 9.0]), torch.tensor([0.0, 3.0, 6.0])),
    ],
    ids=["poisson", "negative binomial"],
)
def test_counts_beyond_the_levels_are_drawn_as_the_highest(base: Distribution) -> None:
    """Frequencies of 20,000 draws are within 5 standard errors; a false alarm of one in 10,000 over all levels."""
    p, n = OnUnitInterval(base, 17), 20_000
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = p.sample((n,))
    assert p.support.check(x).all() and p.log_prob(x).isfinite().all()
    mass = p.log_prob((torch.arange(17) / 16).unsqueeze(-1)).exp()
    assert (mass.sum(0) <= 1 + 1e-5).all() and mass.sum(0)[2] < 0.01
    # what is lost to the mass is drawn as the highest level
    mass[-1] += 1 - mass.sum(0)
    share = torch.stack([(16 * x).round().eq(k).float().mean(0) for k in range(17)])
    assert ((share - mass).abs() <= 5 * (mass * (1 - mass) / n).sqrt() + 1e-5).all()
    assert (p.mean <= 1).all() and torch.allclose(p.mean[:1], base.mean[:1] / 16)
    assert (p.mode <= 1).all() and p.mode[2] == 1


def test_all_bytes_survive_their_division(levels: int = 256) -> None:
    x = torch.arange(levels, dtype=torch.uint8).to(torch.float32) / (levels - 1)
    p = Independent(LevelsCategorical(torch.zeros(levels, levels)), 1)
    assert OnUnitInterval(p, levels).log_prob(x).isfinite()


@pytest.mark.parametrize("odd", [0.5, -1 / 255, 256 / 255, float("nan")])
def test_what_is_no_level_is_refused_and_outside_of_the_support(odd: float) -> None:
    p = OnUnitInterval(DiscretizedLogistic(torch.tensor(9.0), torch.tensor(3.0)), 256)
    value: Tensor = torch.tensor(odd)
    assert not p.support.check(value)
    with pytest.raises(ValueError, match="Values must be k / 255 for an integer k"):
        p.log_prob(value)


def test_one_level_is_none() -> None:
    with pytest.raises(ValueError, match="at least 2 levels, but there are 1"):
        OnUnitInterval(DiscretizedLogistic(torch.tensor(9.0), torch.tensor(3.0)), 1)
