import pytest
import torch
from scipy.stats import multivariate_normal

from logpx import FactorAnalysis, log_weights


def model(posterior_scale=1.0, latent_dim=3, num_dims=5):
    generator = torch.Generator().manual_seed(0)
    loading = torch.randn(num_dims, latent_dim, generator=generator, dtype=torch.float64)
    mean = torch.randn(num_dims, generator=generator, dtype=torch.float64)
    noise = 0.5 + torch.rand(num_dims, generator=generator, dtype=torch.float64)
    return FactorAnalysis(loading, mean, noise, posterior_scale)


def test_the_evidence_is_that_of_the_joint_gaussian():
    fa = model()
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    covariance = fa.loading @ fa.loading.T + torch.diag(fa.noise_scale**2)
    expected = multivariate_normal(fa.mean.numpy(), covariance.numpy()).logpdf(x.numpy())
    assert torch.allclose(fa.log_evidence(x), torch.from_numpy(expected))


def test_under_the_exact_posterior_every_log_weight_is_the_evidence():
    fa = model()
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.manual_seed(0)
    assert torch.allclose(log_weights(fa, x, 20), fa.log_evidence(x).expand(20, 7), rtol=1e-12)
    assert log_weights(model(1.1), x, 20).std(0).min() > 0


def test_the_scale_multiplies_the_posteriors_standard_deviations():
    x = torch.zeros(1, 5, dtype=torch.float64)
    assert torch.allclose(model(1.5).encoder(x).stddev, 1.5 * model().encoder(x).stddev)


def test_bad_parameters_are_refused():
    with pytest.raises(ValueError, match=r"shapes \(D, L\), \(D,\) and \(D,\)"):
        FactorAnalysis(torch.eye(2), torch.zeros(3), torch.ones(2))
    with pytest.raises(ValueError, match="smallest noise scale is 0"):
        FactorAnalysis(torch.eye(2), torch.zeros(2), torch.zeros(2))
