import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from logpx.distributions import IndependentBernoulli, RelaxedBernoulli, relaxation


def logits(*shape, scale=3.0, seed=0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_mass_of_all_binary_vectors_is_one():
    x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6))).unsqueeze(1)
    p = IndependentBernoulli(logits(5, 6), 1)
    assert torch.allclose(p.log_prob(x).exp().sum(0), torch.ones(5), atol=1e-5)


@pytest.mark.parametrize("event", [(4,), (1, 2, 3)])
def test_log_prob_is_torchs_over_batches_of_draws(event):
    a = logits(3, 2, *event)
    x = (logits(2, *event, seed=1) > 0).float()
    p, expected = IndependentBernoulli(a, len(event)), Independent(Bernoulli(logits=a), len(event))
    assert p.batch_shape == (3, 2) and p.event_shape == event
    assert torch.allclose(p.log_prob(x), expected.log_prob(x.expand(3, 2, *event)), atol=1e-5)


def test_log_prob_and_its_gradient_stay_finite_far_out():
    a = torch.tensor([-1e4, 1e4, 0.0], requires_grad=True)
    log_p = IndependentBernoulli(a, 1).log_prob(torch.tensor([1.0, 0.0, 1.0]))
    log_p.backward()
    assert torch.isfinite(log_p) and torch.isfinite(a.grad).all()


def test_samples_follow_the_density():
    # 20,000 draws: each frequency has standard error below 0.0036; 4 of them over 8 entries: false alarm 5e-4
    p = IndependentBernoulli(logits(8, scale=1.0), 1)
    torch.manual_seed(0)
    assert torch.allclose(p.sample((20_000,)).mean(0), p.mean, atol=0.0144)


def test_expand_and_analytic_kl_work_as_in_torch():
    p, q = IndependentBernoulli(logits(4), 1), IndependentBernoulli(logits(4, seed=1), 1)
    x = torch.ones(4)
    assert type(p.expand((2, 3))) is IndependentBernoulli
    assert torch.allclose(p.expand((2, 3)).log_prob(x), p.log_prob(x).expand(2, 3))
    assert kl_divergence(p, q) > 0


def test_values_outside_the_support_are_refused():
    with pytest.raises(ValueError, match=r"0 and 1, but got 0\.5"):
        IndependentBernoulli(torch.zeros(2), 1).log_prob(torch.tensor([1.0, 0.5]))
    with pytest.raises(ValueError, match="0 and 1, but got nan"):
        IndependentBernoulli(torch.zeros(2), 1).log_prob(torch.tensor([1.0, torch.nan]))
    with pytest.raises(ValueError, match=r"\[0, 1\], but got 1\.5"):
        RelaxedBernoulli(torch.zeros(2), 1).log_prob(torch.tensor([1.0, 1.5]))


@pytest.mark.parametrize("num_dims", [1, 111, 112, 113, 784, 3072])
@pytest.mark.parametrize("scale", [0.01, 3.0, 300.0])
def test_the_bernoulli_without_a_gradient_is_as_exact_as_with_one(num_dims, scale):
    """Against float64: within a few units in the last place of the largest term, and the products never underflow."""
    a = logits(40, num_dims, scale=scale)
    a[0], a[1], a[2] = 0.0, -1e4, 1e4
    x = (logits(num_dims, seed=1) > 0).float()
    exact = x.double() @ a.double().T - F.softplus(a.double()).sum(-1)
    for value in (a, a.clone().requires_grad_()):
        error = (IndependentBernoulli(value, 1).log_prob(x).double() - exact).abs()
        assert (error <= 2e-6 * (a.double().abs().sum(-1) + num_dims)).all()
    before = a.clone()
    IndependentBernoulli(a, 1).log_prob(x)
    assert torch.equal(a, before)


def test_the_relaxed_bernoulli_is_binary_cross_entropy():
    a, x = logits(5), torch.rand(5, generator=torch.Generator().manual_seed(0))
    expected = -torch.nn.functional.binary_cross_entropy_with_logits(a, x, reduction="sum")
    assert torch.allclose(RelaxedBernoulli(a, 1).log_prob(x), expected)


def test_relaxation_knows_likelihoods_from_their_look_alikes():
    binary, density = Independent(Bernoulli(logits=torch.zeros(3)), 1), Independent(Normal(torch.zeros(3), 1.0), 1)
    assert relaxation(IndependentBernoulli(torch.zeros(3), 1), "binary") is None
    assert relaxation(binary, "binary") is None
    assert relaxation(density, "real") is None
    assert "density on 8-bit data" in relaxation(density, "8-bit")
    assert "relaxed" in relaxation(RelaxedBernoulli(torch.zeros(3), 1), "real")
