import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, StudentT

from logpx import FactorAnalysis, elbo, iwae
from logpx.model import LatentVariableModel, log_weights
from logpx.utils import keyed_rng


def exact_model(latent_dim=2, num_dims=6, posterior_scale=1.0):
    generator = torch.Generator().manual_seed(0)
    loading = 0.7 * torch.randn(num_dims, latent_dim, generator=generator, dtype=torch.float64)
    ones = torch.ones(num_dims, dtype=torch.float64)
    return FactorAnalysis(loading, 0 * ones, ones, posterior_scale)


def data(model, n=8):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(n, model.loading.shape[1], generator=generator, dtype=torch.float64)
    return z @ model.loading.T + torch.randn(n, len(model.mean), generator=generator, dtype=torch.float64)


def heavy_tailed(loc, scale):
    """A family whose KL to the prior torch does not know."""
    return StudentT(torch.full_like(loc, 5.0), loc, scale)


class Amortized(nn.Module):
    """An exact model seen through a Gaussian encoder with parameters of its own, and a decoder with a parameter.

    It has R copies of its parameters, all the same, each for the R-th part of the data.
    """

    def __init__(self, family=Normal, copies=1):
        super().__init__()
        self.model, self.family = exact_model(), family
        generator = torch.Generator().manual_seed(2)
        weight = 0.2 * torch.randn(6, 2, generator=generator, dtype=torch.float64)
        log_scale = torch.tensor([-0.3, -0.6], dtype=torch.float64)
        self.loc = nn.Parameter(weight.repeat(copies, 1, 1))
        self.log_scale = nn.Parameter(log_scale.repeat(copies, 1, 1))
        self.shift = nn.Parameter(torch.zeros(copies, 1, 6, dtype=torch.float64))

    def prior(self):
        return self.model.prior()

    def encoder(self, x):
        loc = x.unflatten(0, (len(self.loc), -1)) @ self.loc
        scale = self.log_scale.exp().expand_as(loc)
        return Independent(self.family(loc.flatten(0, 1), scale.flatten(0, 1)), 1)

    def decoder(self, z):
        loc = self.model.decoder(z).base_dist.loc.unflatten(1, (len(self.shift), -1)) + self.shift
        return Independent(Normal(loc.flatten(1, 2), 1.0), 1)


def gradients(objective, model, x, **options):
    """Returns the gradient of the mean bound in each of R repetitions, one per copy of the parameters: (R, P)."""
    copies = len(model.loc)
    with keyed_rng(0, "gradients"):
        bounds = objective(model, x.repeat(copies, 1), **options).unflatten(0, (copies, len(x))).mean(1)
    parts = torch.autograd.grad(bounds.sum(), list(model.parameters()))
    return torch.cat([p.flatten(1) for p in parts], 1)


def test_the_bounds_are_ordered_in_expectation():
    model = exact_model(posterior_scale=2.0)
    x = data(model, 200)
    with keyed_rng(0, "order"), torch.no_grad():
        bounds = [elbo(model, x, num_samples=100)]
        bounds += [torch.stack([iwae(model, x, num_samples=k) for _ in range(40)]).mean(0) for k in (5, 50)]
    means = [bound.mean().item() for bound in bounds] + [model.log_evidence(x).mean().item()]
    assert means == sorted(means)
    # the smallest gap, from 50 draws to the evidence, is about five of its standard errors of 0.0014 nats
    assert means[3] - means[2] > 0.002


def test_with_the_exact_posterior_every_draw_of_a_sampled_elbo_is_the_evidence():
    model = exact_model()
    x = data(model)
    for _ in range(3):
        assert torch.allclose(elbo(model, x, kl="sampled"), model.log_evidence(x), rtol=1e-12)
    assert torch.allclose(iwae(model, x, num_samples=7), model.log_evidence(x), rtol=1e-12)


def test_the_sampled_kl_agrees_with_the_analytic_one():
    model = Amortized()
    x = data(model.model)
    with torch.no_grad(), keyed_rng(0, "kl"):
        analytic = torch.stack([elbo(model, x, num_samples=200) for _ in range(100)])
        sampled = torch.stack([elbo(model, x, num_samples=200, kl="sampled") for _ in range(100)])
    error = (analytic.var(0) / 100 + sampled.var(0) / 100).sqrt()
    # 8 data, 4 standard errors: false alarm 5e-4
    assert ((analytic.mean(0) - sampled.mean(0)).abs() < 4 * error).all()


@pytest.mark.parametrize(
    ("objective", "options", "gradient"),
    [(elbo, {"num_samples": 1}, "stl"), (iwae, {"num_samples": 5}, "dreg"), (iwae, {"num_samples": 1}, "dreg")],
)
def test_path_gradients_agree_with_the_plain_ones_in_expectation(objective, options, gradient):
    model = Amortized(copies=3000)
    x = data(model.model)
    plain = gradients(objective, model, x, **options, **({"kl": "sampled"} if objective is elbo else {}))
    path = gradients(objective, model, x, **options, gradient=gradient)
    error = (plain.var(0) / 3000 + path.var(0) / 3000).sqrt()
    # 20 parameters, 4.5 standard errors: false alarm 1.4e-4
    assert ((plain.mean(0) - path.mean(0)).abs() < 4.5 * error + 1e-12).all()
    assert not torch.allclose(plain.mean(0)[:14], torch.zeros(14, dtype=torch.float64), atol=1e-3)


def test_stl_has_no_variance_at_the_exact_posterior_where_the_plain_gradient_has():
    exact = exact_model()
    model = Amortized(copies=20)
    q = exact.encoder(torch.eye(6, dtype=torch.float64))
    orthogonal = torch.linalg.svd(exact.loading).Vh
    with torch.no_grad():  # a loading with orthogonal columns has an exact posterior with independent latents
        model.model.loading.copy_(exact.loading @ orthogonal.T)
        q = model.model.encoder(torch.eye(6, dtype=torch.float64))
        model.loc.copy_(q.loc - model.model.encoder(torch.zeros(6, 6, dtype=torch.float64)).loc)
        model.log_scale.copy_(q.stddev[0].log())
    x = data(model.model)
    encoder = slice(0, 14)
    assert gradients(elbo, model, x, gradient="stl").std(0)[encoder].max() < 1e-10
    assert gradients(elbo, model, x, kl="sampled").std(0)[encoder].max() > 1e-2


def test_a_path_gradient_changes_no_value():
    model = Amortized()
    x = data(model.model)
    for objective, gradient in ((elbo, "stl"), (iwae, "dreg")):
        values = []
        for g in (gradient, "reparam"):
            with keyed_rng(0, "value"):
                options = {"kl": "sampled"} if objective is elbo else {}
                values.append(objective(model, x, num_samples=4, gradient=g, **options))
        assert torch.allclose(*values, rtol=1e-12)


def test_iwae_with_one_draw_is_the_sampled_elbo():
    model = Amortized()
    x = data(model.model)
    with keyed_rng(0, "one"):
        a = elbo(model, x, kl="sampled")
    with keyed_rng(0, "one"):
        b = iwae(model, x, num_samples=1)
    assert torch.allclose(a, b, rtol=1e-12)


def test_beta_weighs_the_kl_term_alone():
    model = Amortized()
    x = data(model.model)
    values = []
    for beta in (0.0, 1.0, 2.0):
        with keyed_rng(0, "beta"):
            values.append(elbo(model, x, beta=beta))
    kl = values[0] - values[1]
    assert (kl > 0).all()
    assert torch.allclose(values[0] - values[2], 2 * kl)


def test_free_bits_are_a_floor_under_each_latents_kl():
    model = Amortized()
    x = data(model.model)
    q, p = model.encoder(x).base_dist, model.prior().base_dist
    kl = torch.distributions.kl_divergence(q, p)
    with keyed_rng(0, "free"):
        free = elbo(model, x, beta=0.0)
    with keyed_rng(0, "free"):
        floored = elbo(model, x, free_bits=0.5)
    assert torch.allclose(free - floored, kl.clamp(min=0.5).sum(1))
    assert (kl < 0.5).any() and (kl > 0.5).any()


def test_a_kl_that_torch_does_not_know_is_sampled():
    model = Amortized(family=heavy_tailed)
    x = data(model.model)
    with keyed_rng(0, "heavy"):
        bound = elbo(model, x, num_samples=3)
    with keyed_rng(0, "heavy"):
        assert torch.allclose(bound, log_weights(model, x, 3).mean(0), rtol=1e-12)


def test_missing_values_and_own_weights_reach_the_objectives():
    model = Amortized()
    x = data(model.model)
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[:, 3:] = False
    with keyed_rng(0, "mask"):
        masked = elbo(model, x, mask=mask)
    assert masked.shape == (8,) and torch.isfinite(masked).all()
    with keyed_rng(0, "mask"):
        assert (masked > elbo(model, x)).all()

    class Own(Amortized):
        def log_weights(self, x, num_samples, context=None, mask=None):
            return torch.arange(1.0, num_samples + 1).unsqueeze(1).expand(num_samples, len(x))

    assert (elbo(Own(), x, num_samples=3) == 2).all()
    expected = math.log(sum(map(math.exp, (1, 2, 3))) / 3)
    assert torch.allclose(iwae(Own(), x, num_samples=3), torch.tensor(expected))
    with pytest.raises(ValueError, match="no separate KL"):
        elbo(Own(), x, beta=0.5)
    with pytest.raises(ValueError, match="no separate q"):
        iwae(Own(), x, gradient="dreg")


def test_what_cannot_be_had_is_refused():
    model = Amortized()
    x = data(model.model)
    assert isinstance(model, LatentVariableModel)
    with pytest.raises(ValueError, match="'stl' is biased for iwae"):
        iwae(model, x, gradient="stl")
    with pytest.raises(ValueError, match="gradient must be reparam or stl, but is 'dreg'"):
        elbo(model, x, gradient="dreg")
    with pytest.raises(ValueError, match="kl must be auto or sampled"):
        elbo(model, x, kl="exact")
    with pytest.raises(ValueError, match="gradient must be reparam or dreg"):
        iwae(model, x, gradient="score")
    with pytest.raises(ValueError, match="free_bits needs an analytic KL"):
        elbo(Amortized(family=heavy_tailed), x, free_bits=0.1)

    class Discrete(Amortized):
        def encoder(self, x):
            return Independent(torch.distributions.Bernoulli(probs=torch.full((len(x), 2), 0.5)), 1)

    with pytest.raises(ValueError, match="needs a proposal with rsample"):
        elbo(Discrete(), x)
