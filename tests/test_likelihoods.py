"""One contract for all likelihoods: shapes, masses, a start at the mean, finite at any outputs; and which is chosen.

Statistical tests have a fixed seed and state their false-alarm rate.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from helpers import normal, suitable
from scipy import stats
from torch import Tensor, nn
from torch.distributions import Distribution, Uniform

from logpx import conv_vae, mlp_vae
from logpx.conditional import Decoder
from logpx.likelihoods import LIKELIHOODS, Likelihood, choose_likelihood, make_likelihood
from logpx.settings import ModelSettings
from logpx.vae import BLOCKS, MLPS

IMAGES = [(1, 5, 5), (3, 6, 4)]
LEVELS = 17
MASSES = ["discretized-logistic-mixture", "categorical", "discretized-gaussian"]
COUNTS = ["poisson", "negative-binomial"]
SCALED = ["discretized-logistic-mixture", "discretized-gaussian", "dequantized-gaussian"]


def small(name: str, event_shape: tuple[int, ...], **options: Any) -> Likelihood:
    return make_likelihood(name, event_shape, **{"levels": LEVELS, "num_mixtures": 2, **options})


def decoder(network: str, likelihood: Likelihood, latent_channels: int | None = None) -> Decoder:
    build: Any = conv_vae if network in BLOCKS else mlp_vae
    sizes = {"channels": (4, 8), "latent_channels": latent_channels} if network in BLOCKS else {"hidden": (8, 8)}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(likelihood.event_shape, likelihood=likelihood, network=network, latent_dim=3, **sizes).decoder


@contextmanager
def still() -> Iterator[None]:
    """Within the block the noise that fills bins stands in their middle."""
    with mock.patch.object(Uniform, "rsample", lambda self, shape: self.low.expand(*shape, *self.low.shape) + 0.5):
        yield


def log_prob(p: Distribution, x: Tensor) -> Tensor:
    with still():
        return p.log_prob(x)


def mean_of(p: Any) -> Tensor:
    """The mean of the data, or of the density that bins are filled for, which does not know that of its levels."""
    try:
        mean: Tensor = p.mean
    except NotImplementedError:
        mean = p.base_dist.base.density.mean / (p.base_dist.levels - 1)
    return mean


def base(p: Any) -> Any:
    """The distribution of the levels themselves."""
    return getattr(p, "base_dist", p).base


# shapes


@pytest.mark.parametrize(
    "network, event_shape, latents",
    [
        *itertools.product(MLPS, [*IMAGES, (7,)], ["vector"]),
        *itertools.product(BLOCKS, IMAGES, ["vector", "maps"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_leading_dimensions_of_latents_are_those_of_the_likelihood(
    name: str, network: str, event_shape: tuple[int, ...], latents: str
) -> None:
    decode = decoder(network, small(name, event_shape), 2 if latents == "maps" else None)
    latent_shape = (2, *(-(-side // 2) for side in event_shape[1:])) if latents == "maps" else (3,)
    z, x = 3 * normal(2, 4, *latent_shape), suitable(name, event_shape, 4, LEVELS)
    with torch.no_grad():
        every = log_prob(decode(z), x)
        for some, lead in [(z, (2, 4)), (z[0], (4,)), (z[0, 0], ())]:
            p = decode(some)
            assert (tuple(p.batch_shape), tuple(p.event_shape)) == (lead, event_shape)
            assert p.sample().shape == lead + event_shape
            assert log_prob(p, x if lead else x[0]).shape == lead
        assert torch.isfinite(every).all() and every.std() > 1e-3, "z must matter"
        for s, b in itertools.product(range(2), range(4)):
            assert torch.allclose(log_prob(decode(z[s, b]), x[b]), every[s, b], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_outputs_as_vectors_and_as_maps_mean_the_same(name: str) -> None:
    likelihood = small(name, (3, 6, 4))
    outputs, x = normal(2, 4, likelihood.num_parameters), suitable(name, (3, 6, 4), 4, LEVELS)
    assert math.prod(likelihood.map_shape) == likelihood.num_parameters and likelihood.map_shape[1:] == (6, 4)
    maps = outputs.reshape(2, 4, *likelihood.map_shape)
    assert torch.equal(log_prob(likelihood(outputs), x), log_prob(likelihood(maps), x))


@pytest.mark.parametrize("network", ["mlp", "conv"])
@pytest.mark.parametrize("name", ["bernoulli", "discretized-gaussian"])
def test_images_of_one_row_have_outputs_as_vectors_and_as_maps(name: str, network: str) -> None:
    decode, x = decoder(network, small(name, (1, 1, 8))), suitable(name, (1, 1, 8), 4, LEVELS)
    z = normal(2, 4, 3)
    for some, few in [(z, x), (z[:1, :1], x[:1])]:
        p = decode(some)
        assert (p.batch_shape, p.event_shape) == (some.shape[:2], (1, 1, 8))
        assert p.log_prob(few).shape == some.shape[:2]


@pytest.mark.parametrize("event_shape", [(7,), (3, 6, 4)], ids=str)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_outputs_of_another_shape_are_refused_with_the_number_that_is_needed(
    name: str, event_shape: tuple[int, ...]
) -> None:
    likelihood = small(name, event_shape)
    needed, got = likelihood.num_parameters, likelihood.num_parameters + 1
    words = rf"must give {needed} outputs per datum of shape {re.escape(str(event_shape))}.*\(5, {got}\): change"
    with pytest.raises(ValueError, match=words):
        likelihood(torch.zeros(5, got))
    if len(event_shape) == 3:
        channels, *sides = likelihood.map_shape
        for shape in [(channels + 1, *sides), (channels, *sides[::-1])]:
            with pytest.raises(
                ValueError, match=rf"but gave shape {re.escape(str((5, *shape)))}: change its last layer"
            ):
                likelihood(torch.zeros(5, *shape))


# masses


def all_data(event_shape: tuple[int, ...], levels: int) -> Tensor:
    """All data of so many levels, with shape (levels ** D, 1) + the event shape."""
    grid = torch.arange(levels) / (levels - 1)
    return torch.cartesian_prod(*[grid] * math.prod(event_shape)).reshape(-1, 1, *event_shape)


@pytest.mark.parametrize("size", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("num_mixtures", [1, 3])
@pytest.mark.parametrize("event_shape", [(2,), (1, 1, 2), (3, 1, 1), (2, 1, 1)], ids=str)
@pytest.mark.parametrize("name", MASSES)
def test_the_probabilities_of_all_data_sum_to_one(
    name: str, event_shape: tuple[int, ...], num_mixtures: int, size: float
) -> None:
    likelihood = make_likelihood(name, event_shape, levels=5, num_mixtures=num_mixtures)
    p = likelihood.distribution(size * normal(100, *likelihood.parameter_shape))
    total = p.log_prob(all_data(event_shape, 5)).exp().sum(0)
    assert torch.allclose(total, torch.ones(100), rtol=0, atol=1e-5)


def test_colours_of_a_pixel_depend_on_one_another_and_grey_pixels_do_not() -> None:
    coupled, grey = (
        make_likelihood("discretized-logistic-mixture", shape, levels=5) for shape in [(3, 1, 1), (1, 1, 3)]
    )
    for likelihood, is_independent in [(coupled, False), (grey, True)]:
        p = likelihood.distribution(2 * normal(10, *likelihood.parameter_shape))
        mass = p.log_prob(all_data(likelihood.event_shape, 5)).exp().reshape(5, 5, 5, 10)
        product = mass.sum((1, 2))[:, None, None] * mass.sum((0, 2))[:, None] * mass.sum((0, 1))
        assert torch.allclose(mass, product, atol=1e-5) == is_independent


@pytest.mark.parametrize("name", COUNTS)
def test_counts_beyond_the_levels_are_lost_and_nothing_else(name: str) -> None:
    likelihood = make_likelihood(name, (1,), levels=5)
    p: Any = likelihood.distribution(2 * normal(100, *likelihood.parameter_shape)).base_dist.base  # type: ignore[attr-defined]
    mass = likelihood.distribution(2 * normal(100, *likelihood.parameter_shape)).log_prob(all_data((1,), 5)).exp()
    if name == "poisson":
        known = stats.poisson(p.rate.double().flatten())
    else:
        known = stats.nbinom(p.total_count.double().flatten(), 1 - torch.sigmoid(p.logits.double()).flatten())
    assert mass.sum(0).numpy() == pytest.approx(known.cdf(4), abs=1e-5)
    assert mass.sum(0).max() <= 1 + 1e-5 and mass.sum(0).min() < 0.5, "both large and small rates"


@pytest.mark.parametrize("parameters", [(0.0, 0.0), (0.7, 1.0), (-1.0, 2.0), (0.3, -1.5)])
def test_dequantized_masses_are_those_of_the_density_within_the_levels(parameters: tuple[float, float]) -> None:
    """The mean of 20,000 draws is within 5 standard errors; a false alarm of one in a million per case."""
    likelihood = make_likelihood("dequantized-gaussian", (1,), levels=5)
    p: Any = likelihood.distribution(torch.tensor(parameters).reshape(2, 1).expand(20_000, 2, 1))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        total = torch.stack([p.log_prob(x[0]) for x in all_data((1,), 5)]).exp().sum(0).double()
    density = p.base_dist.base.density
    loc, scale = (value[0, 0].double() for value in (density.loc, density.scale))
    within = torch.special.ndtr((4.5 - loc) / scale) - torch.special.ndtr((-0.5 - loc) / scale)
    error = total.std() / math.sqrt(len(total))
    assert abs(total.mean() - within) < 5 * error + 1e-6
    assert total.mean() < 1 + 5 * error


# where training starts, and how far it can go

# By how much the mean may miss that of the data at 0.1 and 0.9 of the range: rounding where it is exact; else the mass
# beyond the ends, which they take, or an approximation.
MISSES = {
    "bernoulli": 1e-6,
    "discretized-logistic-mixture": 0.05,
    "categorical": 0.05,
    "discretized-gaussian": 0.003,
    "dequantized-gaussian": 1e-6,
    "poisson": 1e-5,
    "negative-binomial": 1e-5,
    "gaussian": 1e-6,
    "continuous-bernoulli": 0.105,
    "relaxed-bernoulli": 1e-6,
}


def test_every_likelihood_has_a_known_miss() -> None:
    assert MISSES.keys() == LIKELIHOODS.keys()


def without_weights(decode: Any) -> Decoder:
    last = decode.body.last
    with torch.no_grad():
        last.weight.zero_()
    return decode


@pytest.mark.parametrize("network", MLPS)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_decoder_of_vectors_starts_at_the_mean_of_each_dimension(name: str, network: str) -> None:
    mean = torch.linspace(0.1, 0.9, 27).reshape(3, 3, 3)
    model = mlp_vae((3, 3, 3), likelihood=name, network=network, hidden=(8,), latent_dim=2, data_mean=mean)
    got = mean_of(without_weights(model.decoder)(normal(4, 5, 2)))
    assert torch.allclose(got, mean.expand(4, 5, 3, 3, 3), rtol=0, atol=MISSES[name])
    assert torch.allclose(got[..., 1, 1, 1], torch.tensor(0.5), rtol=0, atol=1e-5), "the middle is exact"
    assert torch.equal(model.encoder.center, mean)


@pytest.mark.parametrize("network", BLOCKS)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_decoder_of_maps_starts_at_the_mean_of_each_channel(name: str, network: str) -> None:
    colour = torch.tensor([0.1, 0.5, 0.8])[:, None, None]
    # what differs from place to place is averaged over, where parameters are linear in the mean
    varies = 0.1 * torch.linspace(-1, 1, 4) if name in ("gaussian", "dequantized-gaussian") else torch.zeros(4)
    model = conv_vae(
        (3, 6, 4),
        likelihood=name,
        network=network,
        channels=(4, 4),
        latent_dim=2,
        data_mean=colour.expand(3, 6, 4) + varies,
    )
    got = mean_of(without_weights(model.decoder)(normal(4, 5, 2)))
    assert torch.allclose(got, colour.expand(4, 5, 3, 6, 4), rtol=0, atol=MISSES[name])


@pytest.mark.parametrize("event_shape", [(4,), (3, 2, 2)], ids=str)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_data_that_are_all_at_one_end_give_a_finite_start_on_their_side(
    name: str, event_shape: tuple[int, ...]
) -> None:
    likelihood = small(name, event_shape, levels=256)
    for end in (0.0, 1.0):
        bias = likelihood.bias(torch.full(event_shape, end))
        assert bias.shape == likelihood.parameter_shape and torch.isfinite(bias).all()
        p = likelihood.distribution(bias)
        assert ((mean_of(p) - end).abs() < 0.2).all()
        assert torch.isfinite(p.log_prob(torch.full(event_shape, 1 - end)))


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("bound", [5.0, 14.0])
def test_zeros_are_the_middle_with_an_eighth_of_half_the_range_and_scales_are_bounded(name: str, bound: float) -> None:
    likelihood = make_likelihood(name, (3,), levels=21, num_mixtures=1, log_scale_bound=bound)
    for output, log_scale in [(0.0, -2.0), (1e6, -2 + bound), (-1e6, -2 - bound)]:
        p = base(likelihood.distribution(torch.full(likelihood.parameter_shape, output)))
        p = getattr(p, "density", p)
        assert torch.allclose((p.scale / 10).log(), torch.tensor(log_scale), atol=1e-4)
        assert output or torch.allclose(p.loc, torch.tensor(10.0))


@pytest.mark.parametrize("event_shape", [(4,), (3, 2, 2)], ids=str)
def test_components_start_spread_over_half_the_range_and_coefficients_are_bounded(event_shape: tuple[int, ...]) -> None:
    likelihood: Any = make_likelihood("discretized-logistic-mixture", event_shape, levels=21, num_mixtures=5)
    p = base(likelihood.distribution(torch.zeros(likelihood.parameter_shape)))
    axis = -4 if len(event_shape) == 3 else -1
    loc = p.loc.movedim(axis, -1).flatten(0, -2)
    assert torch.allclose(loc, torch.tensor([5.0, 7.5, 10.0, 12.5, 15.0]).expand_as(loc))
    if len(event_shape) == 3:
        assert torch.equal(p.coupling, torch.zeros(5, 3, 2, 2))
        far = likelihood.distribution(torch.full(likelihood.parameter_shape, 1e6)).base
        assert torch.allclose(far.coupling, torch.full((5, 3, 2, 2), 2.0))


@pytest.mark.parametrize("name", COUNTS)
def test_means_of_counts_are_the_exponential_of_the_first_output_and_bounded(name: str) -> None:
    likelihood = make_likelihood(name, (1,), levels=256)
    log_mean = {}
    for a in (0.1, 1e6, -1e6):
        parameters = torch.full(likelihood.parameter_shape, 1.3)
        parameters.view(-1)[0] = a
        log_mean[a] = base(likelihood.distribution(parameters)).mean.log().item()
    assert log_mean == pytest.approx({0.1: 0.1, 1e6: 10, -1e6: -10}, abs=1e-3)


def test_the_second_output_of_a_negative_binomial_is_its_dispersion() -> None:
    likelihood = make_likelihood("negative-binomial", (1,))
    for c, log_r in [(0.1, 0.1), (1e6, 10.0), (-1e6, -10.0)]:
        p = base(likelihood.distribution(torch.tensor([[0.7], [c]])))
        assert torch.allclose(p.total_count.log(), torch.tensor(log_r), atol=1e-3)


def test_the_variance_of_reals_is_bounded() -> None:
    likelihood = make_likelihood("gaussian", (1,))
    for output, log_variance in [(1e6, 14.0), (-1e6, -14.0), (0.1, 0.1)]:
        p = likelihood.distribution(torch.tensor([[0.0], [output]]))
        assert torch.allclose(p.variance.log(), torch.tensor(log_variance), atol=1e-4)


# finite at any outputs


@pytest.mark.parametrize("is_half", [False, True], ids=["float32", "bfloat16 autocast"])
@pytest.mark.parametrize("event_shape", [(4,), (3, 2, 2)], ids=str)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_extreme_outputs_keep_log_probabilities_and_gradients_finite(
    name: str, event_shape: tuple[int, ...], is_half: bool
) -> None:
    x = suitable(name, event_shape, 2)
    for bound in [5.0, 14.0] if name in SCALED else [5.0]:
        likelihood = make_likelihood(name, event_shape, log_scale_bound=bound)
        decode = Decoder(nn.Identity(), likelihood)
        signs = normal(2, likelihood.num_parameters).sign()
        for size, sign in itertools.product([0.0, 30.0, 1e4], [signs, signs.abs(), -signs.abs()]):
            outputs = (size * sign).to(torch.bfloat16 if is_half else torch.float32).requires_grad_()
            with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
                log_p = decode(outputs).log_prob(x)
            (gradient,) = torch.autograd.grad(log_p.sum(), outputs)
            assert log_p.dtype == torch.float32
            assert torch.isfinite(log_p).all() and torch.isfinite(gradient).all(), (bound, size)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_outputs_in_half_precision_are_rounded_and_nothing_else_is(name: str) -> None:
    likelihood, x = small(name, (3, 2, 2)), suitable(name, (3, 2, 2), 4, LEVELS)
    outputs = normal(4, likelihood.num_parameters).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        both = [log_prob(p, x) for p in (Decoder(nn.Identity(), likelihood)(outputs), likelihood(outputs))]
    for log_p in both:
        assert log_p.dtype == torch.float32
        assert torch.allclose(log_p, log_prob(likelihood(outputs.float()), x), rtol=1e-5, atol=1e-5)


# the choice

DEFAULTS = {"binary": "bernoulli", "8-bit": "discretized-logistic-mixture", "real": "gaussian"}
ALLOWED = {
    "binary": {"bernoulli", "relaxed-bernoulli"},
    "8-bit": {
        *MASSES,
        *COUNTS,
        *("dequantized-gaussian", "gaussian", "continuous-bernoulli", "relaxed-bernoulli"),
    },
    "real": {"gaussian", "continuous-bernoulli", "relaxed-bernoulli"},
}


@pytest.mark.parametrize("kind", DEFAULTS)
def test_the_kind_of_data_picks_the_likelihood(kind: str) -> None:
    assert choose_likelihood("auto", kind) == DEFAULTS[kind]


@pytest.mark.parametrize("name, kind", [*itertools.product(LIKELIHOODS, DEFAULTS)])
def test_what_is_asked_for_is_given_or_refused_with_both_names_and_every_cure(name: str, kind: str) -> None:
    if name in ALLOWED[kind]:
        assert choose_likelihood(name, kind) == name
        return
    with pytest.raises(ValueError, match=rf"likelihood '{name}' is for .* data, but the data are {kind}: ") as caught:
        choose_likelihood(name, kind)
    own, cure = re.match(
        r".* is for (.*) data, but the data are .*: choose likelihood (.*)\.$", str(caught.value)
    ).groups()  # type: ignore[union-attr]
    cures, _, binarize = cure.partition(", or binarize the data")
    assert set(own.split(" or ")) == {each for each in DEFAULTS if name in ALLOWED[each]}
    assert set(cures.split(" or ")) == ALLOWED[kind]
    assert ("dynamic" in binarize) == (kind == "8-bit" and name in ALLOWED["binary"])


def test_only_probabilities_of_the_data_are_defaults() -> None:
    for kind, name in DEFAULTS.items():
        assert kind in LIKELIHOODS[name].exact_kinds
        assert not set(LIKELIHOODS[name].exact_kinds) & set(LIKELIHOODS[name].relaxed_kinds)


@pytest.mark.parametrize("name", ["logistic", "Bernoulli", ""])
def test_an_unknown_likelihood_is_refused_with_all_that_there_are(name: str) -> None:
    for call in (lambda: choose_likelihood(name, "8-bit"), lambda: make_likelihood(name, (3,))):
        with pytest.raises(ValueError, match=f"likelihood must be .*but is '{name}'") as caught:
            call()
        assert all(known in str(caught.value) for known in LIKELIHOODS)


def test_the_help_of_the_setting_offers_every_likelihood() -> None:
    help = ModelSettings.__dataclass_fields__["likelihood"].metadata["help"]
    offered = re.sub(r"\(.*?\)", "", help).replace(" or ", ", ").replace(" ", "").split(",")
    assert sorted(offered) == sorted(["auto", *LIKELIHOODS])


def test_a_likelihood_takes_the_options_that_it_knows() -> None:
    options = {"levels": 9, "num_mixtures": 3, "log_scale_bound": 2.0}
    mixture = make_likelihood("discretized-logistic-mixture", [3, 2, 2], **options)
    assert vars(mixture) == {"event_shape": (3, 2, 2), **options}
    assert vars(make_likelihood("poisson", (4,), **options)) == {"event_shape": (4,), "levels": 9}
    assert vars(make_likelihood("bernoulli", (4,), **options)) == {"event_shape": (4,)}


@pytest.mark.parametrize("name", [name for name in LIKELIHOODS if name in ALLOWED["8-bit"]])
def test_data_that_are_no_levels_are_refused_by_what_is_a_mass(name: str) -> None:
    likelihood = make_likelihood(name, (2,), levels=5)
    p = likelihood.distribution(torch.zeros(likelihood.parameter_shape))
    assert torch.isfinite(p.log_prob(torch.tensor([0.25, 1.0])))
    if "8-bit" in LIKELIHOODS[name].exact_kinds:
        with pytest.raises(ValueError, match=r"k / 4 .* but one is 0\.3"):
            p.log_prob(torch.tensor([0.3, 1.0]))
