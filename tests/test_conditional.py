import pytest
import torch
import zuko
from torch.distributions import kl_divergence

from logpx import VAE, iwae, log_weights, mlp_vae
from logpx.conditional import DECODERS, GaussianEncoder, StandardNormal, choose_likelihood
from logpx.nn import ACTIVATIONS, MLP, ResidualMLP
from logpx.utils import keyed_rng


def data(likelihood, n=5, event=(1, 4, 4)):
    x = torch.rand(n, *event, generator=torch.Generator().manual_seed(0))
    return (x > 0.5).float() if likelihood == "bernoulli" else x


@pytest.mark.parametrize("likelihood", list(DECODERS))
@pytest.mark.parametrize("network", ["mlp", "residual"])
@pytest.mark.parametrize("prior", ["normal", "maf"])
def test_every_vae_gives_finite_log_weights_and_gradients(likelihood, network, prior):
    x = data(likelihood)
    with keyed_rng(0, "vae"):
        model = mlp_vae(x.shape[1:], likelihood=likelihood, network=network, prior=prior, hidden=(16, 16), latent_dim=3)
        log_w = log_weights(model, x, 4)
        iwae(model, x, num_samples=4).mean().backward()
    assert log_w.shape == (4, 5) and torch.isfinite(log_w).all()
    used = [p.grad for p in model.parameters()]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in used)


@pytest.mark.parametrize("likelihood", list(DECODERS))
def test_extreme_parameters_keep_values_and_gradients_finite(likelihood):
    x = data(likelihood)
    model = mlp_vae(x.shape[1:], likelihood=likelihood, hidden=(8,), latent_dim=2)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(30)
    with keyed_rng(0, "extreme"):
        iwae(model, x, num_samples=3).mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_flow_of_zuko_is_a_prior_as_it_comes():
    with keyed_rng(0, "flow"):
        model = VAE(zuko.flows.NSF(2, hidden_features=[16]), GaussianEncoder(MLP((3,), 4, (8,))), StubDecoder())
        assert log_weights(model, torch.zeros(5, 3), 4).shape == (4, 5)


class StubDecoder(torch.nn.Module):
    def forward(self, z):
        return torch.distributions.Independent(
            torch.distributions.Normal(z.sum(-1, keepdim=True).expand(4, 5, 3), 1.0), 1
        )


def test_centred_data_start_at_their_mean():
    mean = torch.linspace(0.1, 0.9, 16).reshape(1, 4, 4)
    for likelihood in DECODERS:
        model = mlp_vae((1, 4, 4), likelihood=likelihood, hidden=(8,), latent_dim=2, data_mean=mean)
        with torch.no_grad():
            model.decoder.body[-1].weight.zero_()
        assert torch.allclose(model.decoder(torch.zeros(1, 1, 2)).mean[0, 0], mean, atol=1e-5)
        assert torch.equal(model.encoder.center, mean)


def test_the_standard_normal_has_an_analytic_kl():
    q = GaussianEncoder(MLP((3,), 4, (8,)))(torch.randn(5, 3))
    assert kl_divergence(q, StandardNormal(2)()).shape == (5,)


@pytest.mark.parametrize(
    ("name", "kind", "chosen"),
    [
        ("auto", "binary", "bernoulli"),
        ("auto", "real", "gaussian"),
        ("relaxed-bernoulli", "8-bit", "relaxed-bernoulli"),
        ("gaussian", "8-bit", "gaussian"),
    ],
)
def test_the_kind_of_data_picks_the_likelihood(name, kind, chosen):
    assert choose_likelihood(name, kind) == chosen


def test_a_wrong_pairing_names_both_and_the_cure():
    with pytest.raises(ValueError, match=r"No likelihood here is a probability of 8-bit data.*binarization dynamic"):
        choose_likelihood("auto", "8-bit")
    with pytest.raises(ValueError, match=r"'bernoulli' is for binary data, but the data are 8-bit.*binarize"):
        choose_likelihood("bernoulli", "8-bit")
    with pytest.raises(ValueError, match="likelihood must be auto or one of"):
        choose_likelihood("poisson", "8-bit")


@pytest.mark.parametrize("body", [MLP, ResidualMLP])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_bodies_take_any_leading_dimensions(body, activation):
    net = body((1, 2, 3), 4, hidden=(5, 5), activation=activation)
    x = torch.randn(2, 7, 1, 2, 3)
    assert net(x).shape == (2, 7, 4)
    assert torch.allclose(net(x)[1, 3], net(x[1, 3]), atol=1e-6)


def test_dropout_acts_in_training_alone():
    net = ResidualMLP((6,), 4, hidden=(32, 32), dropout=0.5)
    x = torch.randn(3, 6)
    assert torch.equal(net.eval()(x), net(x))
    assert not torch.equal(net.train()(x), net(x))


def test_bad_sizes_and_names_are_refused():
    with pytest.raises(ValueError, match="activation must be one of"):
        MLP((2,), 2, activation="sine")
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), but is 1"):
        MLP((2,), 2, dropout=1)
    with pytest.raises(ValueError, match="equal widths"):
        ResidualMLP((2,), 2, hidden=(3, 4))
    with pytest.raises(ValueError, match="latent_dim is 0"):
        mlp_vae((2,), latent_dim=0)
    with pytest.raises(ValueError, match="likelihood must be one of"):
        mlp_vae((2,), likelihood="poisson")
    with pytest.raises(ValueError, match="network must be one of"):
        mlp_vae((2,), network="cnn")
    with pytest.raises(ValueError, match="prior must be normal or maf"):
        mlp_vae((2,), prior="uniform")
