import pytest
import torch
from torch.distributions import Categorical, Independent, Normal

from logpx import FactorAnalysis, log_weights
from logpx.evidence import encoder_proposal, extrapolation, importance, prior_proposal
from logpx.likelihoods import make_likelihood
from logpx.utils import keyed_rng, log_mean_exp


def make_model(posterior_scale=1.0, latent_dim=10, num_dims=64, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    loading = 0.3 * torch.randn(num_dims, latent_dim, generator=generator, dtype=dtype)
    mean = torch.zeros(num_dims, dtype=dtype)
    return FactorAnalysis(loading, mean, torch.full((num_dims,), 0.8, dtype=dtype), posterior_scale)


def make_data(model, n):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(n, model.loading.shape[1], generator=generator, dtype=model.loading.dtype)
    noise = torch.randn(n, len(model.mean), generator=generator, dtype=model.loading.dtype)
    return z @ model.loading.T + model.mean + model.noise_scale * noise


@pytest.mark.parametrize("posterior_scale", [1.1, 0.9])
def test_nominal_95_percent_intervals_cover_the_evidence(posterior_scale):
    # 2,000 intervals: the share that covers has standard error 0.5%, so 93-97% is 4 of them: false alarm 6e-5.
    # The weights of a scaled posterior depend on the number of latents alone, so that few dimensions do
    model = make_model(posterior_scale, num_dims=12)
    x = make_data(model, 2000)
    evidence = importance(model, x, 2000)
    covers = (evidence.log_evidence - model.log_evidence(x)).abs() < 1.96 * evidence.standard_error
    assert 0.93 < covers.double().mean() < 0.97
    assert (evidence.pareto_k < 0.7).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_exact_posterior_gives_every_estimate_right_with_no_error(dtype):
    model = make_model(dtype=dtype)
    x = make_data(model, 200)
    evidence = importance(model, x, 1000)
    tolerance = 1e-3 if dtype == torch.float32 else 1e-9
    assert torch.allclose(evidence.log_evidence, model.log_evidence(x).double(), rtol=0, atol=tolerance)
    assert (evidence.standard_error == 0).all()
    assert (evidence.pareto_k == -torch.inf).all()
    assert (evidence.ess == 1000).all()


def test_too_narrow_a_proposal_raises_the_alarm_and_understates():
    model = make_model(0.5)
    x = make_data(model, 200)
    evidence = importance(model, x, 5000)
    assert (evidence.pareto_k > 0.7).double().mean() > 0.95
    assert evidence.log_evidence.mean() < model.log_evidence(x).mean() - 0.2


def test_the_estimate_of_the_probability_is_unbiased():
    # mean of p-hat / p over 20,000 independent repetitions of S = 5; 4 standard errors: false alarm 6e-5
    model = make_model(1.3, latent_dim=2, num_dims=4)
    x = make_data(model, 1).expand(20_000, 4)
    ratio = (importance(model, x, 5).log_evidence - model.log_evidence(x)).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / 20_000**0.5
    # and its logarithm is a lower bound on average, which rises with S
    bias = [(importance(model, x[:4000], s).log_evidence - model.log_evidence(x[:4000])).mean() for s in (1, 5, 50)]
    assert bias[0] < bias[1] < bias[2] < 0.01


def test_the_error_falls_as_one_over_the_root_of_s():
    model = make_model(1.2, latent_dim=2, num_dims=8)
    x = make_data(model, 500)
    sizes = torch.tensor([128, 512, 2048, 8192])
    rms = [(importance(model, x, int(s)).log_evidence - model.log_evidence(x)).square().mean().sqrt() for s in sizes]
    log_rms, log_size = torch.stack(rms).log(), sizes.double().log()
    slope = ((log_size - log_size.mean()) * log_rms).sum() / ((log_size - log_size.mean()) ** 2).sum()
    # each RMS of 500 errors is known to 3%, so the slope to 0.01
    assert slope.item() == pytest.approx(-0.5, abs=0.04)


def test_plain_monte_carlo_over_the_prior_agrees_where_it_can():
    model = make_model(latent_dim=1, num_dims=3)
    x = make_data(model, 300)
    evidence = importance(model, x, 4000, proposal=prior_proposal(model))
    z = (evidence.log_evidence - model.log_evidence(x)) / evidence.standard_error
    # the mean square of 300 standard normals is 1 with standard error 0.08; the tails are heavier here
    assert 0.6 < z.square().mean() < 1.6
    assert evidence.rate.abs().max() < 1e-6


def test_a_result_does_not_depend_on_the_memory_budget():
    model = make_model(1.2)
    x = make_data(model, 16)
    small, large = (importance(model, x, 300, memory_budget=b) for b in (1, 2**30))
    for name in ("log_evidence", "standard_error", "pareto_k", "elbo", "rate", "distortion", "curve"):
        assert torch.allclose(getattr(small, name), getattr(large, name), rtol=1e-5), name


@pytest.mark.parametrize("num_levels", [2, 200])
def test_the_decoder_sees_the_fewer_draws_at_once_the_more_numbers_it_gives(num_levels):
    model = make_model(latent_dim=2, num_dims=4)
    seen = []

    class Wide:
        prior, encoder = model.prior, model.encoder

        def decoder(self, z):
            seen.append(len(z))
            return Independent(Categorical(logits=torch.zeros(*z.shape[:-1], 4, num_levels)), 1)

    # room for 20 draws of 8 data of 4 dimensions with 200 levels each, in 8 copies of 4 bytes
    importance(Wide(), torch.zeros(8, 4), 100, memory_budget=20 * 8 * 4 * 200 * 8 * 4)
    assert max(seen) == (100 if num_levels == 2 else 20)


def test_a_result_is_keyed_by_seed_and_block_and_leaves_the_callers_stream_alone():
    model = make_model(1.2)
    x = make_data(model, 4)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a, b, c, d = (importance(model, x, 50, seed=s, block=k).log_evidence for s, k in [(0, 0), (0, 0), (1, 0), (0, 1)])
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(a, b) and not torch.equal(a, c) and not torch.equal(a, d)


class Dequantizing:
    """A linear model of 3 values in 5 levels whose log p(x | z) is a draw, as is what its encoder and decoder make."""

    def __init__(self, jitter=0.0):
        self.likelihood, self.jitter = make_likelihood("dequantized-gaussian", (3,), levels=5), jitter
        self.weight = torch.randn(2, 6, generator=torch.Generator().manual_seed(2))
        self.seen = []

    def prior(self):
        return Independent(Normal(torch.zeros(2), 1.0), 1)

    def encoder(self, x):
        return Independent(Normal(self.jitter * torch.randn(len(x), 2), 1.0), 1)

    def decoder(self, z):
        self.seen.append(len(z))
        z = z + self.jitter * torch.randn_like(z)
        return self.likelihood(z @ self.weight)


@pytest.mark.parametrize("jitter", [0.0, 0.1])
def test_a_likelihood_that_draws_is_keyed_whatever_the_memory(jitter):
    model, x = Dequantizing(jitter), torch.randint(5, (6, 3), generator=torch.Generator().manual_seed(3)) / 4
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a, b, c = (importance(model, x, 150, memory_budget=budget) for budget in (1, 2**12, 2**30))
    assert torch.equal(torch.rand(1), expected)
    for name in ("log_evidence", "pareto_k", "elbo", "rate", "distortion", "curve"):
        assert torch.equal(getattr(a, name), getattr(b, name)) and torch.equal(getattr(a, name), getattr(c, name)), name
    others = [importance(model, x, 150, seed=1), importance(model, x, 150, block=1)]
    assert not any(torch.equal(a.distortion, other.distortion) for other in others)
    assert max(model.seen) == 8


def test_the_noise_of_every_block_of_draws_is_its_own():
    class Constant(Dequantizing):
        def encoder(self, x):
            return Independent(Normal(torch.zeros(len(x), 2), 1e-6), 1)

    model, noise = Constant(), []
    model.likelihood = lambda outputs: Spy(torch.zeros(outputs.shape[:-1]))

    class Spy(Normal):
        def __init__(self, loc):
            super().__init__(loc, 1.0, validate_args=False)

        def log_prob(self, value):
            noise.append(torch.randn(self.batch_shape))
            return noise[-1]

    importance(model, torch.zeros(2, 3), 300)
    weighed = torch.cat(noise[1:])
    assert len(weighed) == 300 and len(weighed[:, 0].unique()) == 300


def test_rate_and_distortion_add_up_to_the_elbo():
    model = make_model(1.2)
    evidence = importance(model, make_data(model, 8), 300)
    assert torch.allclose(-(evidence.rate + evidence.distortion), evidence.elbo, rtol=1e-6)
    assert (evidence.elbo < evidence.log_evidence).all()


def test_the_estimate_is_the_log_mean_exp_of_the_seams_weights():
    model = make_model(1.2)
    x = make_data(model, 8)
    with keyed_rng(3, "evidence", 0, 0):
        log_w = log_weights(model, x, 100)
    assert torch.allclose(importance(model, x, 100, seed=3).log_evidence.float(), log_mean_exp(log_w), atol=1e-4)


def test_the_encoder_is_asked_once_per_datum():
    model, calls = make_model(1.2), []
    x = make_data(model, 8)

    def proposal(x):
        calls.append(len(x))
        return encoder_proposal(model)(x)

    importance(model, x, 1000, proposal=proposal)
    assert calls == [8]


def test_the_latent_mean_is_that_of_the_proposal():
    model = make_model(1.2)
    x = make_data(model, 8)
    assert torch.allclose(importance(model, x, 5).latent_mean, model.encoder(x).loc.double())


def test_bad_input_is_refused():
    model = make_model()
    x = make_data(model, 2)
    with pytest.raises(ValueError, match="num_samples must be at least 1, but is 0"):
        importance(model, x, 0)
    with pytest.raises(ValueError, match=r"wrap it in torch\.distributions\.Independent"):
        importance(model, x, 5, proposal=lambda x: Normal(torch.zeros(2, 10), 1.0))


def test_the_extrapolation_in_s_is_nearer_to_the_truth_than_the_estimate():
    # the bias is 5.7 Monte Carlo errors: by chance the estimate is the nearer one in 0.2% of runs, and the truth beyond
    # 4 errors of the extrapolation in 6e-5
    model = make_model(1.2, latent_dim=10, num_dims=12)
    x = make_data(model, 20_000)
    evidence, truth = importance(model, x, 96), model.log_evidence(x).double().mean().item()
    limit, mean = extrapolation(evidence), evidence.log_evidence.mean().item()
    monte_carlo = evidence.standard_error.square().sum().sqrt().item() / 20_000
    assert truth - mean > 3 * monte_carlo
    assert abs(limit["mean"] - truth) < truth - mean
    assert abs(limit["mean"] - truth) < 4 * limit["error"]
    assert limit["mean"] == pytest.approx(mean + limit["gain"], rel=1e-9)
    # the error is that of the estimate and little more: the points share their noise
    assert monte_carlo < limit["error"] < 1.05 * monte_carlo


def test_the_error_of_what_the_extrapolation_adds_is_right():
    # over 200 repetitions with 100 data each; the ratio of the two is known to 5%, so 20% is 4 errors
    model = make_model(1.2, latent_dim=4, num_dims=6)
    x = make_data(model, 1).expand(20_000, 6)
    evidence = importance(model, x, 64)
    parts = [extrapolation(evidence.take(torch.arange(i, i + 100))) for i in range(0, 20_000, 100)]
    gains, errors = (torch.tensor([part[name] for part in parts]) for name in ("gain", "gain_error"))
    assert (errors.square().mean() / gains.var()).sqrt().item() == pytest.approx(1.0, abs=0.2)


def test_what_is_added_to_means_is_added_to_the_extrapolation():
    evidence = importance(make_model(1.2), make_data(make_model(), 8), 300)
    assert extrapolation(evidence, 2.0)["mean"] == pytest.approx(extrapolation(evidence)["mean"] + 2.0)
