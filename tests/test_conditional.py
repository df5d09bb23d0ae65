"""Priors, encoders and decoders of any body: a VAE is these three, for vectors and for maps of latents."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zuko
from helpers import normal, picture_data, suitable
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, kl_divergence

import logpx
from logpx import VAE, conv_vae, elbo, generate, iwae, log_weights, mlp_vae
from logpx.conditional import Decoder, GaussianEncoder, StandardNormal
from logpx.likelihoods import LIKELIHOODS, make_likelihood
from logpx.nn import ACTIVATIONS, MLP, ResidualMLP
from logpx.settings import SETTINGS_OF, ModelSettings, Settings
from logpx.utils import keyed_rng
from logpx.vae import BLOCKS, MLPS
from logpx.weights import build_model

TINY = {"hidden": (16, 16), "latent_dim": 3}
TINY_CONV = {"channels": (4, 8), "latent_dim": 3}
# What the latents are, and under which prior.
LATENTS: dict[str, dict[str, Any]] = {
    "vector": {},
    "vector, flow": {"prior": "maf"},
    "maps": {"latent_channels": 2},
}


def vae(network: str, event_shape: tuple[int, ...] = (3, 5, 4), seed: int = 0, **options: Any) -> VAE:
    build: Any = conv_vae if network in BLOCKS else mlp_vae
    sizes = TINY_CONV if network in BLOCKS else TINY
    with keyed_rng(seed, "vae"):
        return build(event_shape, network=network, **{**sizes, **options})


def gradients(model: nn.Module, bound: Tensor) -> list[Tensor | None]:
    return list(torch.autograd.grad(bound.mean(), list(model.parameters()), allow_unused=True))


def assert_all_finite(tensors: list[Tensor | None]) -> None:
    assert tensors and all(each is not None and torch.isfinite(each).all() for each in tensors)


# models of any likelihood, body, prior


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize(
    "network, latents",
    [*itertools.product(MLPS, ["vector", "vector, flow"]), *itertools.product(BLOCKS, LATENTS)],
)
def test_every_vae_gives_finite_log_weights_and_gradients(likelihood: str, network: str, latents: str) -> None:
    x = suitable(likelihood, (3, 5, 4), 5)
    model = vae(network, likelihood=likelihood, **LATENTS[latents])
    with keyed_rng(0, "draws"):
        log_w = log_weights(model, x, 4)
        assert_all_finite(gradients(model, iwae(model, x, num_samples=4)))
    assert log_w.shape == (4, 5) and torch.isfinite(log_w).all()


@pytest.mark.parametrize("upsampling", ["nearest", "shuffle"])
@pytest.mark.parametrize("weight_norm", [False, True])
@pytest.mark.parametrize("normalization", ["none", "batch", "group"])
@pytest.mark.parametrize("network", BLOCKS)
def test_every_kind_of_convolutional_vae_has_finite_gradients(
    network: str, normalization: str, weight_norm: bool, upsampling: str
) -> None:
    """In its first step and, because the corrections of residual blocks start at 0, after it."""
    options: dict[str, Any] = {"normalization": normalization, "weight_norm": weight_norm, "upsampling": upsampling}
    x = suitable("discretized-logistic-mixture", (3, 5, 4), 5)
    model = vae(network, channels=(4, 4, 8), latent_channels=2, num_blocks=2, **options)
    for step in range(2):
        with keyed_rng(0, "draws", step):
            found = gradients(model, elbo(model, x))
        assert_all_finite(found)
        with torch.no_grad():
            for p, gradient in zip(model.parameters(), found, strict=True):
                p.add_(0.01 * gradient.sign())  # type: ignore[union-attr]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in found)


@pytest.mark.parametrize("is_half", [False, True], ids=["float32", "bfloat16 autocast"])
@pytest.mark.parametrize("network", ["mlp", "resnet"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_extreme_weights_keep_values_and_gradients_finite(likelihood: str, network: str, is_half: bool) -> None:
    x = suitable(likelihood, (3, 5, 4), 5)
    model = vae(network, likelihood=likelihood)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(30)
    with keyed_rng(0, "extreme"), torch.autocast("cpu", torch.bfloat16, enabled=is_half):
        bound = iwae(model, x, num_samples=3)
    assert bound.dtype == torch.float32 and torch.isfinite(bound).all()
    assert_all_finite(gradients(model, bound))


@pytest.mark.parametrize("network", ["residual", "resnet"])
def test_under_autocast_networks_compute_in_bfloat16_and_bounds_in_float32(network: str) -> None:
    """A bound of some hundred nats, rounded to bfloat16, would be off by a nat; that of rounded networks is not."""
    x = suitable("discretized-logistic-mixture", (3, 5, 4), 5)
    model = vae(network, likelihood="discretized-logistic-mixture")
    bounds = []
    for is_half in (False, True):
        with keyed_rng(0, "draws"), torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            assert model.decoder.body(torch.zeros(2, 3)).dtype == (torch.bfloat16 if is_half else torch.float32)
            bounds.append(elbo(model, x, num_samples=50))
    assert bounds[1].dtype == torch.float32
    assert not torch.equal(*bounds)
    assert torch.allclose(*bounds, rtol=2e-3)


# maps of latents


@pytest.fixture
def mapped() -> tuple[VAE, Tensor]:
    model = vae("resnet", (3, 9, 7), channels=(4, 8), latent_channels=2)
    with torch.no_grad():
        model.encoder.body.last.weight.mul_(5)
    return model, suitable("discretized-logistic-mixture", (3, 9, 7), 6)


def test_maps_have_the_sides_of_the_image_halved_and_rounded_up(mapped: tuple[VAE, Tensor]) -> None:
    model, x = mapped
    assert model.encoder(x).event_shape == model.prior().event_shape == (2, 5, 4)
    assert model.encoder(x).batch_shape == (6,) and model.prior().batch_shape == ()


def test_the_kl_of_maps_is_the_sum_over_all_latents(mapped: tuple[VAE, Tensor]) -> None:
    model, x = mapped
    q = model.encoder(x)
    # KL(N(mu, sigma^2) || N(0, 1)) = (mu^2 + sigma^2 - 1) / 2 - log sigma
    each = 0.5 * (q.mean**2 + q.variance - 1) - q.stddev.log()
    divergence = kl_divergence(q, model.prior())
    assert divergence.shape == (6,)
    assert torch.allclose(divergence, each.sum((1, 2, 3)), rtol=1e-4)


def test_bounds_of_a_model_with_maps_agree(mapped: tuple[VAE, Tensor]) -> None:
    model, x = mapped
    with torch.no_grad(), keyed_rng(0, "bounds"):
        log_w = log_weights(model, x, 400)
        analytic, sampled = (elbo(model, x, num_samples=400, kl=kl) for kl in ("auto", "sampled"))
        tight = iwae(model, x, num_samples=400)
    assert log_w.shape == (400, 6)
    error = log_w.std(0) / math.sqrt(400)
    # each of the differences has at most sqrt(2) errors: 7 of them are a false alarm of below one in a hundred thousand
    assert ((analytic - log_w.mean(0)).abs() < 7 * error).all()
    assert ((sampled - log_w.mean(0)).abs() < 7 * error).all()
    assert (tight > analytic).all()


@pytest.mark.parametrize("floor", [0.3, 1e3])
def test_free_bits_are_a_floor_for_each_latent_of_the_maps(mapped: tuple[VAE, Tensor], floor: float) -> None:
    model, x = mapped
    with torch.no_grad():
        q = model.encoder(x)
        each = 0.5 * (q.mean**2 + q.variance - 1) - q.stddev.log()
        bounds = []
        for free_bits in (0.0, floor):
            with keyed_rng(0, "free bits"):
                bounds.append(elbo(model, x, free_bits=free_bits))
    added = (each.clamp(min=floor) - each).sum((1, 2, 3))
    assert (added > 0).all() and ((each > 0.3).any() and (each < 0.3).any())
    assert torch.allclose(bounds[0] - bounds[1], added, rtol=1e-3)


def test_a_flow_is_for_vectors_of_latents() -> None:
    with pytest.raises(ValueError, match=r"maf is for a vector.*maps of shape \(2, 3, 2\): set prior normal, or leave"):
        vae("resnet", prior="maf", latent_channels=2)


@pytest.mark.parametrize("likelihood", ["discretized-logistic-mixture", "bernoulli"])
@pytest.mark.parametrize("event_shape", [(3, 9, 7), (1, 8, 8), (2, 1, 1)], ids=str)
@pytest.mark.parametrize("latents", ["vector", "maps"])
def test_images_of_any_size_have_a_convolutional_vae(
    event_shape: tuple[int, int, int], likelihood: str, latents: str
) -> None:
    x = suitable(likelihood, event_shape, 5)
    model = vae("resnet", event_shape, likelihood=likelihood, channels=(4, 4, 8), **LATENTS[latents])
    assert torch.isfinite(elbo(model, x)).all()
    assert generate.sample(model, 3).shape == (3, *event_shape)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    options = {"channels": (4, 8), "latent_channels": 2, "num_mixtures": 2, "epochs": 1, "batch_size": 16}
    return logpx.fit(
        picture_data((3, 9, 7)),
        out=tmp_path_factory.mktemp("maps") / "run",
        network="resnet",
        free_bits=0.01,
        **options,
    )


def test_a_run_with_maps_is_evaluated(run: Any) -> None:
    record = run.evaluate(estimator="importance", num_samples=30).record
    assert record["relaxed"] is None and 0 < record["bits_per_dim"]["mean"] < 20
    assert record["num_latents"] == 2 * 5 * 4 and 0 <= record["active_units"] <= 40


def test_a_run_with_maps_encodes_samples_and_reconstructs(run: Any) -> None:
    model, split = logpx.load(run.path), run.load_split("test")
    codes = logpx.encode(model, split)
    assert codes["mean"].shape == codes["scale"].shape == (20, 2, 5, 4)
    for mean in (True, False):
        x = logpx.sample(model, 3, mean=mean)
        assert x.shape == (3, 3, 9, 7) and ((x >= 0) & (x <= 1)).all()
    assert torch.allclose(255 * x, (255 * x).round(), atol=1e-3), "draws are levels"
    x = split.batch(torch.arange(4)).x
    assert np.allclose(codes["mean"][:4], model.encoder(x).mean.detach(), atol=1e-5)
    assert generate.reconstruct(model, x).shape == x.shape
    assert not generate.has_real_latents(model), "latents that are moved one by one are those of a vector"


@pytest.mark.usefixtures("unpainted")
def test_a_run_with_maps_has_a_report(run: Any) -> None:
    page: Path = logpx.report(run)
    assert "bits/dim" in page.read_text()


# models by settings

SHARED = {"activation": "elu", "encoder_dropout": 0.1, "decoder_dropout": 0.2, "prior": "maf", "latent_dim": 3}
SHARED |= {"likelihood": "categorical", "num_mixtures": 3, "log_scale_bound": 4.0, "center": True}
OF_MLPS: dict[str, Any] = {**SHARED, "network": "residual", "hidden": (7, 7)}
OF_CONVS: dict[str, Any] = {**SHARED, "network": "conv", "channels": (4, 8), "num_blocks": 2, "normalization": "batch"}
OF_CONVS |= {"weight_norm": True, "upsampling": "shuffle", "latent_channels": 3}


def described(settings: Settings) -> str:
    """All that can be seen of a model: its layers, likelihood, prior and centre."""
    model: Any = build_model(settings, (3, 5, 4), "8-bit", 17, torch.full((3, 5, 4), 0.3))
    return f"{model} {model.decoder.likelihood} {model.prior()} {model.encoder.center.mean()}"


@pytest.mark.parametrize("base, values", [("mlp", OF_MLPS), ("resnet", OF_CONVS)])
def test_every_setting_of_a_model_reaches_it(base: str, values: dict[str, Any]) -> None:
    settings = Settings().override(network=base, hidden=(8, 8), channels=(4, 4))
    of_others = {name for names in SETTINGS_OF.values() for name in names} - {"latent_dim"} | {"model"}
    assert set(OF_MLPS) | set(OF_CONVS) == {field.name for field in dataclasses.fields(ModelSettings)} - of_others
    before = described(settings)
    assert "levels=17" in before
    for name, value in values.items():
        assert described(settings.override(**{name: value})) != before, name


@pytest.mark.parametrize("name", ["normalization", "weight_norm", "activation", "num_blocks"])
def test_what_both_networks_share_reaches_both(name: str) -> None:
    before, after = (vae("resnet", **options) for options in ({}, {name: OF_CONVS[name]}))
    for part in ("encoder", "decoder"):
        assert str(getattr(before, part)) != str(getattr(after, part))


@pytest.mark.parametrize("network", [*MLPS, *BLOCKS])
def test_a_decoder_has_the_widths_of_the_encoder_in_reverse(network: str) -> None:
    sizes = {"hidden": (16, 16 if network == "residual" else 8), "channels": (16, 8)}
    name = "channels" if network in BLOCKS else "hidden"
    model: Any = vae(network, **{name: sizes[name]}, **({"latent_channels": 2} if network in BLOCKS else {}))
    widths = [model.encoder.body[0].weight.shape[0], model.encoder.body.last.weight.shape[1]]
    assert widths == list(sizes[name])
    first = next(m for m in model.decoder.body.modules() if isinstance(m, (nn.Linear, nn.Conv2d)))
    assert [first.weight.shape[0], model.decoder.body.last.weight.shape[1]] == widths[::-1]


# parts


class StubDecoder(nn.Module):
    def forward(self, z: Tensor) -> Distribution:
        return Independent(Normal(z.sum(-1, keepdim=True).expand(4, 5, 3), 1.0), 1)


def test_a_flow_of_zuko_is_a_prior_as_it_comes() -> None:
    with keyed_rng(0, "flow"):
        model = VAE(zuko.flows.NSF(2, hidden_features=[16]), GaussianEncoder(MLP((3,), 4, (8,))), StubDecoder())
        assert log_weights(model, torch.zeros(5, 3), 4).shape == (4, 5)


def test_a_decoder_takes_anybodys_map_from_outputs_to_a_distribution() -> None:
    decode = Decoder(nn.Linear(2, 3), lambda y: Independent(Normal(y, 1.0), 1))
    assert decode(torch.zeros(4, 5, 2)).batch_shape == (4, 5)


@pytest.mark.parametrize("shape", [2, (2,), [4, 3, 2]])
def test_the_standard_normal_has_the_shape_of_the_latents(shape: Any) -> None:
    p = StandardNormal(shape)()
    event = (shape,) if isinstance(shape, int) else tuple(shape)
    assert (p.batch_shape, p.event_shape) == ((), event)
    assert p.log_prob(torch.zeros(event)).item() == pytest.approx(-0.5 * math.prod(event) * math.log(2 * math.pi))


def test_the_standard_normal_has_an_analytic_kl() -> None:
    q = GaussianEncoder(MLP((3,), 4, (8,)))(normal(5, 3))
    assert kl_divergence(q, StandardNormal(2)()).shape == (5,)


@pytest.mark.parametrize("latent_shape", [(2,), (2, 4, 3)], ids=str)
def test_the_first_half_of_an_encoders_outputs_is_the_mean_and_the_second_the_bounded_log_variance(
    latent_shape: tuple[int, ...],
) -> None:
    outputs = normal(5, 4, *latent_shape[1:])
    outputs[0, 2:], outputs[1, 2:] = 1e6, -1e6
    q = GaussianEncoder(nn.Identity())(outputs)
    assert (q.batch_shape, q.event_shape) == ((5,), latent_shape)
    assert torch.equal(q.mean, outputs[:, :2])
    log_variance = q.variance.log()
    assert torch.allclose(log_variance[0], torch.tensor(14.0)) and torch.allclose(log_variance[1], torch.tensor(-14.0))
    c = outputs[2:, 2:]
    assert torch.allclose(log_variance[2:], c / (1 + (c / 14) ** 2).sqrt(), atol=1e-5)


class Rounding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.to(torch.bfloat16)


def test_only_the_outputs_of_an_encoders_body_are_in_half_precision() -> None:
    x = normal(5, 6)
    q, exact = GaussianEncoder(Rounding())(x), GaussianEncoder(nn.Identity())(x.to(torch.bfloat16).float())
    for name in ("mean", "stddev"):
        assert getattr(q, name).dtype == torch.float32
        assert torch.equal(getattr(q, name), getattr(exact, name))


def test_an_encoder_sees_centred_data_and_its_centre_is_saved_with_the_weights() -> None:
    center = normal(4, seed=1)
    encode, x = GaussianEncoder(nn.Identity(), center), normal(5, 4)
    assert torch.equal(encode(x).mean, (x - center)[:, :2])
    assert torch.equal(encode.state_dict()["center"], center)
    assert not center.is_set_to(encode.center), "whoever gave it may change it"


@pytest.mark.parametrize("network", ["mlp", "resnet"])
def test_weights_of_a_centred_vae_fit_one_that_was_built_without_data(network: str) -> None:
    centred = vae(network, data_mean=torch.full((3, 5, 4), 0.3))
    plain = vae(network, seed=1)
    plain.load_state_dict(centred.state_dict())
    x = suitable("discretized-logistic-mixture", (3, 5, 4), 5)
    assert torch.equal(plain.encoder(x).mean, centred.encoder(x).mean)


def test_an_own_likelihood_may_stand_in_the_place_of_a_name() -> None:
    likelihood = make_likelihood("categorical", (3, 5, 4), levels=9)
    for network in (*MLPS, *BLOCKS):
        model = vae(network, likelihood=likelihood)
        assert model.decoder.likelihood is likelihood
        assert model.decoder(torch.zeros(3)).base_dist.levels == 9


# bodies of vectors


@pytest.mark.parametrize("body", [MLP, ResidualMLP])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_bodies_take_any_leading_dimensions(body: Any, activation: str) -> None:
    net = body((1, 2, 3), 4, hidden=(5, 5), activation=activation)
    x = normal(2, 7, 1, 2, 3)
    assert net(x).shape == (2, 7, 4)
    assert torch.allclose(net(x)[1, 3], net(x[1, 3]), atol=1e-6)


def test_dropout_acts_in_training_alone() -> None:
    net = ResidualMLP((6,), 4, hidden=(32, 32), dropout=0.5)
    x = normal(3, 6)
    assert torch.equal(net.eval()(x), net(x))
    assert not torch.equal(net.train()(x), net(x))


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("network", [*MLPS, *BLOCKS])
def test_dropout_is_for_the_part_that_it_is_asked_for(network: str, part: str) -> None:
    model = vae(network, **{f"{part}_dropout": 0.3})
    rates = {
        name: [m.p for m in getattr(model, name).modules() if isinstance(m, nn.Dropout)]
        for name in ("encoder", "decoder")
    }
    assert set(rates.pop(part)) == {0.3}
    assert list(rates.values()) == [[]]


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: MLP((2,), 2, activation="sine"), "activation must be one of"),
        (lambda: MLP((2,), 2, dropout=1), r"dropout must be in \[0, 1\), but is 1"),
        (lambda: ResidualMLP((2,), 2, hidden=(3, 4)), "equal widths"),
        (lambda: mlp_vae((2,), latent_dim=0), "latent_dim is 0"),
        (lambda: mlp_vae((2,), hidden=(3, 0)), r"hidden \(3, 0\)"),
        (lambda: mlp_vae((2,), likelihood="logistic"), "likelihood must be one of"),
        (lambda: mlp_vae((2,), network="conv"), "network must be one of mlp, residual, but is 'conv'"),
        (lambda: mlp_vae((2,), prior="uniform"), "prior must be normal or maf"),  # type: ignore[arg-type]
        (lambda: conv_vae((1, 4, 4), network="mlp"), "network must be one of conv, resnet, but is 'mlp'"),
        (lambda: conv_vae((1, 4, 4), likelihood="logistic"), "likelihood must be one of"),
        (lambda: conv_vae((1, 4, 4), prior="uniform"), "prior must be normal or maf"),  # type: ignore[arg-type]
        (lambda: conv_vae((1, 4, 4), channels=()), "channels must be positive"),
        (lambda: conv_vae((1, 4, 4), latent_channels=0), "channels must be positive"),
        (lambda: conv_vae((1, 4, 4), latent_dim=0), "channels must be positive"),
        (lambda: conv_vae((1, 4, 4), upsampling="linear"), "upsampling must be one of"),  # type: ignore[arg-type]
        (lambda: conv_vae((1, 4, 4), normalization="layer"), "normalization must be one of"),  # type: ignore[arg-type]
        (lambda: conv_vae((7,), likelihood="categorical"), r"must be \(channels, height, width\), but is \(7,\)"),
        (lambda: conv_vae((7,), latent_channels=2), r"must be \(channels, height, width\), but is \(7,\)"),
    ],
)
def test_bad_sizes_and_names_are_refused(build: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build()
