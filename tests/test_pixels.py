"""What likelihoods say of single channels and values adds up to what they say of images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import normal
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal

from logpx.distributions import (
    CoupledLogisticMixture,
    Dequantized,
    IndependentBernoulli,
    LevelsCategorical,
    OnUnitInterval,
    level_masses,
    log_prob_per_channel,
)
from logpx.likelihoods import LIKELIHOODS, Likelihood, make_likelihood
from logpx.utils import keyed_rng

LEVELS = 19
OF_LEVELS = [name for name, likelihood in LIKELIHOODS.items() if "8-bit" in likelihood.exact_kinds]
OF_COUNTS = ["poisson", "negative-binomial"]
WITH_MASSES = [name for name in OF_LEVELS if name != "dequantized-gaussian"]
SHAPES = [(1, 2, 3), (3, 3, 2), (2, 1, 1)]


def likelihood(name: str, event_shape: tuple[int, ...]) -> Likelihood:
    return make_likelihood(name, event_shape, levels=LEVELS, num_mixtures=3)


def predicted(name: str, event_shape: tuple[int, ...], spread: float = 1.0) -> Distribution:
    made = likelihood(name, event_shape)
    return made.distribution(spread * normal(4, 2, *made.parameter_shape))


def images(*shape: int, name: str = "") -> Tensor:
    generator = torch.Generator().manual_seed(1)
    levels = 2 if "bernoulli" in name else LEVELS
    return torch.randint(levels, shape, generator=generator) / (levels - 1)


def drawn_alike(function: Any, *args: Any) -> Any:
    """Calls a function with the same noise, which a bound draws for itself."""
    with keyed_rng(0, "noise"):
        return function(*args)


@pytest.mark.parametrize("event_shape", SHAPES)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_channels_sum_to_the_image(name: str, event_shape: tuple[int, ...]) -> None:
    p, x = predicted(name, event_shape), images(2, *event_shape, name=name)
    each, whole = drawn_alike(log_prob_per_channel, p, x), drawn_alike(p.log_prob, x)
    assert each.shape == (4, 2, event_shape[0])
    assert torch.allclose(each.sum(-1), whole, rtol=1e-5, atol=1e-4)


def test_a_channel_counts_its_own_values_alone() -> None:
    logits = normal(3, 2, 2)
    x = (normal(3, 2, 2, seed=1) > 0).float()
    each = log_prob_per_channel(IndependentBernoulli(logits, 3), x)
    expected = [IndependentBernoulli(a, 2).log_prob(b).item() for a, b in zip(logits, x, strict=True)]
    assert each is not None and each.tolist() == pytest.approx(expected)


def coupled(levels: int = 5, seed: int = 0, lead: tuple[int, ...] = ()) -> CoupledLogisticMixture:
    """One pixel of three channels."""
    shape = (*lead, 2, 3, 1, 1)
    logits, loc = normal(*lead, 2, 1, 1, seed=seed), 2 + 2 * normal(*shape, seed=seed + 1)
    scale, coupling = torch.exp(0.5 * normal(*shape, seed=seed + 2)), normal(*shape, seed=seed + 3)
    return CoupledLogisticMixture(logits, loc, scale, coupling, levels)


def colours(levels: int) -> Tensor:
    return torch.cartesian_prod(*[torch.arange(float(levels))] * 3).reshape(-1, 3, 1, 1)


def conditionals(mass: Tensor) -> Tensor:
    """The masses of each channel given those before it, of colours with masses (L, L, L); with shape (3, L, L, L)."""
    red, green = mass.sum((1, 2), keepdim=True), mass.sum(2, keepdim=True)
    return torch.stack([each.expand(mass.shape) for each in (red, green / red, mass / green)])


def test_channels_are_given_those_before_as_in_the_joint_mass() -> None:
    p, x = coupled(), colours(5)
    expected = conditionals(p.log_prob(x).exp().reshape(5, 5, 5))
    each = log_prob_per_channel(OnUnitInterval(p, 5), x / 4)
    assert each is not None
    assert torch.allclose(each.exp().reshape(5, 5, 5, 3).movedim(-1, 0), expected, atol=1e-5)
    # red, (red, green) and (red, green, blue) index what is known; the level of the channel itself is the last of them
    masses = level_masses(OnUnitInterval(p, 5), x / 4)
    assert masses is not None and masses.shape == (125, 5, 3, 1, 1)
    masses = masses.reshape(5, 5, 5, 5, 3)
    assert torch.allclose(masses[0, 0, 0, :, 0], expected[0, :, 0, 0], atol=1e-5)
    assert torch.allclose(masses[:, 0, 0, :, 1], expected[1, :, :, 0], atol=1e-5)
    assert torch.allclose(masses[:, :, 0, :, 2], expected[2], atol=1e-5)
    # what comes later says nothing
    assert torch.equal(masses[..., 0], masses[:1, :1, :1, :, 0].expand(5, 5, 5, 5))
    assert torch.equal(masses[..., 1], masses[:, :1, :1, :, 1].expand(5, 5, 5, 5))
    assert torch.equal(masses[..., 2], masses[:, :, :1, :, 2].expand(5, 5, 5, 5))


def test_channels_are_given_images_of_more_dimensions_than_the_mixture() -> None:
    p, x = coupled(lead=(2,)), colours(5)[:24].reshape(12, 2, 3, 1, 1)
    q = p.channels_given(x)
    assert q.batch_shape == (12, 2, 3, 1, 1) and q.event_shape == ()
    assert torch.allclose(q.log_prob(x).sum((-3, -2, -1)), p.log_prob(x), atol=1e-5)
    masses = level_masses(OnUnitInterval(p, 5), x / 4)
    assert masses is not None and masses.shape == (12, 2, 5, 3, 1, 1)
    with pytest.raises(ValueError, match="whole levels from 0 to 4"):
        p.channels_given(x / 4)


@pytest.mark.parametrize("event_shape", SHAPES)
@pytest.mark.parametrize("name", WITH_MASSES)
def test_masses_are_one_in_all_and_those_of_the_data_at_their_levels(name: str, event_shape: tuple[int, ...]) -> None:
    # the parameters are mild, so that no mass underflows
    p, x = predicted(name, event_shape, spread=0.2), images(2, *event_shape)
    masses = level_masses(p, x)
    assert masses is not None and masses.shape == (4, 2, LEVELS, *event_shape)
    total = masses.sum(2)
    if name in OF_COUNTS:
        assert (total < 1 + 1e-5).all()
    else:
        assert torch.allclose(total, torch.ones(()), atol=1e-5)
    level = (x * (LEVELS - 1)).round().long().expand(4, *x.shape).unsqueeze(2)
    at_data = masses.gather(2, level).squeeze(2).log().sum((-2, -1))
    per_channel = log_prob_per_channel(p, x)
    assert per_channel is not None and torch.allclose(at_data, per_channel, rtol=1e-4, atol=1e-4)


def test_wrappers_may_come_in_any_order() -> None:
    logits, x = normal(2, 2, 3, LEVELS), images(2, 2, 3)
    inner = OnUnitInterval(Independent(Independent(LevelsCategorical(logits), 1), 2), LEVELS)
    outer = Independent(OnUnitInterval(LevelsCategorical(logits), LEVELS), 3)
    for function in (level_masses, log_prob_per_channel):
        a, b = function(inner, x), function(outer, x)
        assert a is not None and b is not None and torch.equal(a, b)


MIXTURE = MixtureSameFamily(Categorical(torch.ones(5)), Independent(Normal(torch.zeros(5, 3, 2, 2), 1.0), 3))


@pytest.mark.parametrize(
    "p",
    [
        MIXTURE,
        Independent(
            MixtureSameFamily(Categorical(torch.ones(3, 5)), Independent(Normal(torch.zeros(3, 5, 2, 2), 1.0), 2)), 1
        ),
        Independent(Normal(torch.zeros(12), 1.0), 1),
        Independent(OnUnitInterval(LevelsCategorical(torch.zeros(3, 2, 2, 5)), 5), 2),
    ],
    ids=["a mixture of images", "channels of a mixture", "a vector", "a batch of matrices"],
)
def test_other_types_and_shapes_are_not_known(p: Distribution) -> None:
    x = torch.zeros(p.batch_shape + p.event_shape)
    assert log_prob_per_channel(p, x) is None and level_masses(p, x) is None


@pytest.mark.parametrize("name", ["bernoulli", "relaxed-bernoulli", "gaussian", "dequantized-gaussian"])
def test_only_levels_have_masses_and_no_bound_of_them(name: str) -> None:
    p = predicted(name, (3, 2, 2))
    assert level_masses(p, images(2, 3, 2, 2, name=name)) is None


def test_a_bound_of_a_whole_image_is_not_taken_apart() -> None:
    p = OnUnitInterval(Dequantized(MIXTURE, LEVELS), LEVELS)
    x = images(3, 2, 2)
    assert p.event_shape == (3, 2, 2) and log_prob_per_channel(p, x) is None and level_masses(p, x) is None


def test_what_is_outside_of_the_support_is_refused() -> None:
    with pytest.raises(ValueError, match="data of 0 and 1"):
        log_prob_per_channel(IndependentBernoulli(torch.zeros(1, 2, 2), 3), torch.full((1, 2, 2), 0.5))
    for name in ("discretized-logistic-mixture", "categorical"):
        with pytest.raises(ValueError, match="Values must be k / 18"):
            log_prob_per_channel(predicted(name, (3, 2, 2)), torch.full((3, 2, 2), 0.51))
