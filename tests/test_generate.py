"""What is generated follows from the model and the seed, for anybody's three-method object."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import zuko
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Cauchy,
    Dirichlet,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
    OneHotCategorical,
)

from logpx import generate
from logpx.data import DataSet


class Linear:
    """A linear model x = z A + noise, no torch module and with no context, as a user would write it."""

    def __init__(self, num_latents: int = 3, event_shape: tuple[int, ...] = (1, 2, 2), noise: float = 0.5) -> None:
        self.event_shape, self.noise = event_shape, noise
        num_dims = int(np.prod(event_shape))
        self.a = torch.randn(num_latents, num_dims, generator=torch.Generator().manual_seed(0))

    def prior(self) -> Distribution:
        return Independent(Normal(torch.zeros(len(self.a)), 1.0), 1)

    def encoder(self, x: Tensor) -> Distribution:
        return Independent(Normal(x.flatten(1) @ self.a.T, 0.1), 1)

    def decoder(self, z: Tensor) -> Distribution:
        mean = (z @ self.a).unflatten(-1, self.event_shape)
        return Independent(Normal(mean, self.noise), len(self.event_shape))


class Dropping(nn.Module):
    """A module whose result depends on its mode, with one part that its user froze."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.frozen = nn.Dropout(0.5), nn.Dropout(0.5).eval()
        self.weight = nn.Parameter(torch.ones(2, 4))

    def prior(self) -> Distribution:
        return Independent(Normal(torch.zeros(2), 1.0), 1)

    def encoder(self, x: Tensor) -> Distribution:
        return Independent(Normal(self.drop(x)[:, :2], 1.0), 1)

    def decoder(self, z: Tensor) -> Distribution:
        return Independent(Normal(self.frozen(self.drop(z)) @ self.weight, 1.0), 1)


def real_split(n: int = 11, num_dims: int = 4) -> Any:
    values = torch.randn(n, num_dims, generator=torch.Generator().manual_seed(1))
    parts = {"train": values, "valid": values[:0], "test": values}
    return DataSet("reals", "real", None, (num_dims,), parts, "here").split("test")


def test_samples_are_decoded_draws_of_the_prior() -> None:
    model = Linear(noise=1e-6)
    x = generate.sample(model, 2000, seed=3)
    assert x.shape == (2000, 1, 2, 2)
    covariance = torch.cov(x.flatten(1).T)
    # the standard error of an entry is below 0.03 of the largest; 0.2 is six of them and more
    expected = model.a.T @ model.a
    assert (covariance - expected).abs().max() < 0.2 * expected.abs().max()


def test_samples_follow_the_seed_alone() -> None:
    model = Linear()
    state = torch.get_rng_state()
    first = generate.sample(model, 5, seed=1)
    torch.rand(3)
    assert torch.equal(first, generate.sample(model, 5, seed=1))
    assert not torch.equal(first, generate.sample(model, 5, seed=2))
    torch.set_rng_state(state)
    generate.sample(model, 5)
    assert torch.equal(torch.get_rng_state(), state)


def test_draws_differ_from_means_by_the_noise() -> None:
    model = Linear(noise=0.5)
    means, draws = (generate.sample(model, 1500, seed=1, mean=mean) for mean in (True, False))
    assert (draws - means).std().item() == pytest.approx(0.5, rel=0.05)


def test_reconstructions_are_decoded_posterior_means() -> None:
    model, x = Linear(), torch.rand(4, 1, 2, 2)
    expected = (x.flatten(1) @ model.a.T @ model.a).reshape(x.shape)
    assert torch.allclose(generate.reconstruct(model, x), expected)


def test_reconstructions_may_be_draws_at_the_same_code() -> None:
    model, x = Linear(noise=0.5), torch.rand(700, 1, 2, 2)
    mean, draw = (generate.reconstruct(model, x, seed=1, mean=mean) for mean in (True, False))
    # the standard error of the deviation is 1.4% of it over 2,800 draws
    assert (draw - mean).std().item() == pytest.approx(0.5, rel=0.06)
    assert torch.equal(draw, generate.reconstruct(model, x, seed=1, mean=False))
    assert not torch.equal(draw, generate.reconstruct(model, x, seed=2, mean=False))


def test_predictions_are_the_likelihood_at_the_code_of_the_reconstruction() -> None:
    class Heavy(Linear):
        def encoder(self, x: Tensor) -> Distribution:
            return Independent(Cauchy(x.flatten(1) @ self.a.T, 0.1), 1)

    for model in (Linear(), Heavy()):
        x = torch.rand(4, 1, 2, 2)
        p = generate.predict(model, x, seed=3)
        assert (p.batch_shape, p.event_shape) == ((1, 4), (1, 2, 2))
        assert torch.equal(p.mean[0], generate.reconstruct(model, x, seed=3))
    dropping = Dropping()
    assert not generate.predict(dropping, torch.rand(2, 4)).mean.requires_grad and dropping.training


def test_which_distributions_know_their_mean() -> None:
    assert generate.has_mean(Independent(Normal(torch.zeros(3), 1.0), 1))
    assert not generate.has_mean(Independent(Cauchy(torch.zeros(3), 1.0), 1))
    assert not generate.has_mean(NoMoments(Linear().prior()))  # type: ignore[arg-type]


def test_many_are_decoded_as_few_are() -> None:
    model = Linear()
    x = torch.rand(generate.DECODED_AT_ONCE + 7, 1, 2, 2)
    assert torch.allclose(generate.reconstruct(model, x)[-3:], generate.reconstruct(model, x[-3:]), atol=1e-6)


def test_fewer_are_decoded_at_once_where_a_decoder_gives_many_numbers() -> None:
    class Large(Linear):
        def decoder(self, z: Tensor) -> Any:
            seen.append(z.shape[1])
            p: Any = super().decoder(z)
            p.table = torch.zeros(()).expand(*z.shape[:2], 2**20 - 99)
            return p

    seen: list[int] = []
    x = torch.rand(70, 1, 2, 2)
    assert torch.allclose(generate.reconstruct(Large(), x), generate.reconstruct(Linear(), x))
    # room for a thousand megabytes, of which a datum takes 8 copies of a million floats
    assert seen == [1, 32, 32, 6]


def test_codes_of_a_split() -> None:
    model, split = Linear(event_shape=(4,)), real_split()
    codes = generate.encode(model, split, batch_size=4)
    assert codes["index"].tolist() == list(range(11))
    assert np.allclose(codes["mean"], split.values @ model.a.T, atol=1e-6)
    assert np.allclose(codes["scale"], 0.1) and codes["scale"].shape == codes["mean"].shape == (11, 3)


def test_codes_without_mean_and_scale_are_keyed_draws() -> None:
    class Heavy(Linear):
        def encoder(self, x: Tensor) -> Distribution:
            return Independent(Cauchy(x @ self.a.T, 0.1), 1)

    class Silent(Linear):
        def encoder(self, x: Tensor) -> Distribution:
            return NoMoments(super().encoder(x))

    for model in (Heavy(event_shape=(4,)), Silent(event_shape=(4,))):
        first, second = (generate.encode(model, real_split(), seed=1) for _ in range(2))
        assert "scale" not in first or np.isinf(first["scale"]).all()
        assert np.isfinite(first["mean"]).all() and (first["mean"] == second["mean"]).all()


class NoMoments:
    """A distribution of somebody who wrote only what sampling needs."""

    def __init__(self, base: Distribution) -> None:
        self.sample, self.log_prob = base.sample, base.log_prob
        self.batch_shape, self.event_shape, self.support = base.batch_shape, base.event_shape, None

    @property
    def mean(self) -> Tensor:
        raise NotImplementedError

    @property
    def stddev(self) -> Tensor:
        raise NotImplementedError


def test_a_decoder_without_a_mean_gives_draws() -> None:
    class Counts(Linear):
        def decoder(self, z: Tensor) -> Distribution:
            return Independent(Categorical(logits=torch.zeros(*z.shape[:-1], 4, 5)), 1)

    x = generate.sample(Counts(event_shape=(4,)), 50)
    assert x.shape == (50, 4) and set(x.unique().tolist()) == {0, 1, 2, 3, 4}


def test_discrete_latents_are_coded_by_values_they_can_take() -> None:
    class Discrete(Linear):
        def prior(self) -> Distribution:
            return OneHotCategorical(logits=torch.zeros(3))

        def encoder(self, x: Tensor) -> Distribution:
            return OneHotCategorical(logits=x.flatten(1) @ self.a.T)

    model = Discrete(noise=0.1)
    rows = {tuple(row.tolist()) for row in model.a}
    assert {tuple(row.flatten().tolist()) for row in generate.reconstruct(model, torch.rand(20, 1, 2, 2))} <= rows
    assert not generate.has_real_latents(model)
    with pytest.raises(ValueError, match="real latents"):
        generate.traverse(model, torch.rand(3, 1, 2, 2))


def test_traversals_move_the_most_active_latents_and_nothing_else() -> None:
    model = Linear(event_shape=(4,))
    model.a = torch.diag(torch.tensor([0.1, 3.0, 1.0, 0.0])) + 0.0
    x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    assert generate.active_latents(model, x, 9).tolist() == [1, 2, 0, 3]
    tiles = generate.traverse(model, x, num_latents=2, values=[-3.0, 0.0, 2.0])
    z = (x[0] @ model.a.T).repeat(2, 3, 1)
    z[0, :, 1] = z[1, :, 2] = torch.tensor([-3.0, 0.0, 2.0])
    assert torch.allclose(tiles, z @ model.a, atol=1e-6)


def test_the_manifold_spans_quantiles_of_the_prior() -> None:
    class Shifted(Linear):
        def prior(self) -> Distribution:
            return Independent(Normal(torch.tensor([5.0, -1.0]), torch.tensor([2.0, 1.0])), 1)

    model = Shifted(num_latents=2, event_shape=(2,))
    model.a = torch.eye(2)
    z = generate.manifold(model, num=4)
    assert z.shape == (4, 4, 2)
    share = Normal(torch.tensor([5.0, -1.0]), torch.tensor([2.0, 1.0])).cdf(z)
    steps = torch.tensor([0.125, 0.375, 0.625, 0.875])
    assert torch.allclose(share[..., 0], steps.expand(4, 4), atol=1e-5)
    assert torch.allclose(share[..., 1], steps.flip(0)[:, None].expand(4, 4), atol=1e-5)
    with pytest.raises(ValueError, match="needs 2 latents"):
        generate.manifold(Linear(num_latents=3))


def test_what_latents_can_be_moved() -> None:
    class With(Linear):
        def __init__(self, prior: Distribution) -> None:
            super().__init__()
            self.p = prior

        def prior(self) -> Distribution:
            return self.p

    assert generate.has_real_latents(Linear())
    components = Independent(Normal(torch.zeros(5, 3), 1.0), 1)
    assert generate.has_real_latents(With(MixtureSameFamily(Categorical(torch.ones(5)), components)))
    assert not generate.has_real_latents(With(Dirichlet(torch.ones(3))))
    assert not generate.has_real_latents(With(Independent(Bernoulli(torch.ones(3) / 2), 1)))
    assert not generate.has_real_latents(With(Independent(Normal(torch.zeros(2, 3), 1.0), 2)))
    flow = zuko.flows.MAF(3, transforms=1, hidden_features=[4])()
    assert generate.has_real_latents(With(flow))
    assert generate.has_real_latents(With(NoMoments(Linear().prior())))  # type: ignore[arg-type]


def test_a_module_is_used_in_evaluation_mode_and_left_as_it_was() -> None:
    model = Dropping()
    x = torch.rand(6, 4)
    assert torch.allclose(generate.reconstruct(model, x), (x[:, :2] @ torch.ones(2, 4)))
    assert (model.training, model.drop.training, model.frozen.training) == (True, True, False)
    assert not generate.sample(model, 2).requires_grad
    model.decoder = None  # type: ignore[method-assign, assignment]
    with pytest.raises(TypeError):
        generate.sample(model, 2)
    assert model.drop.training


def test_modules_inside_a_plain_object_count_too() -> None:
    class Plain(Linear):
        def __init__(self) -> None:
            super().__init__(event_shape=(4,))
            self.net = nn.Dropout(0.5)

        def encoder(self, x: Tensor) -> Distribution:
            return Independent(Normal(self.net(x) @ self.a.T, 0.1), 1)

    model, x = Plain(), torch.rand(3, 4)
    assert torch.allclose(generate.reconstruct(model, x), x @ model.a.T @ model.a)
    assert model.net.training


def test_mistakes_are_explained() -> None:
    class Unwrapped(Linear):
        def prior(self) -> Distribution:
            return Normal(torch.zeros(3), 1.0)

    class Flattened(Linear):
        def decoder(self, z: Tensor) -> Distribution:
            return Independent(Normal(z.flatten(0, 1) @ self.a, 1.0), 1)

    with pytest.raises(ValueError, match=r"batch shape \(\), but has \(3,\): wrap it in Independent"):
        generate.sample(Unwrapped(), 2)
    with pytest.raises(ValueError, match=r"leading shape \(1, 2\)"):
        generate.sample(Flattened(), 2)
    with pytest.raises(ValueError, match="at least 1"):
        generate.sample(Linear(), 0)


class Noted(Normal):
    """A distribution with a note of its own, which is no parameter."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__(loc, scale)
        self.note = torch.tensor(torch.nan)


class Slotted:
    """Another program's distribution, of which only draws can be had."""

    __slots__ = ("draw",)

    def __init__(self, draw: Tensor) -> None:
        self.draw = draw

    def sample(self, shape: Any) -> Tensor:
        return self.draw.expand(*shape, *self.draw.shape)


def test_draws_are_numbers_and_nothing_but_parameters_is_asked_to_be() -> None:
    assert generate._drawn(Noted(torch.zeros(2), torch.ones(2)), (3,)).shape == (3, 2)
    assert generate._drawn(Slotted(torch.ones(2)), (3,)).shape == (3, 2)
    odd = Independent(Bernoulli(logits=torch.full((2,), torch.nan), validate_args=False), 1)
    for distribution in (odd, Slotted(torch.full((2,), torch.nan))):
        with pytest.raises(ValueError, match="has parameters that are not numbers"):
            generate._drawn(distribution, (3,))
