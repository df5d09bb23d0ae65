import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Categorical, Independent, Normal

from logpx import FactorAnalysis, LatentVariableModel, log_joint, log_weights
from logpx.distributions import IndependentBernoulli
from logpx.model import as_model, evaluating, log_weight_terms


class Linear(nn.Module):
    """A person's own model, with faults on demand."""

    def __init__(self, event_dims=1, latent_dims=1):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3))
        self.event_dims, self.latent_dims = event_dims, latent_dims

    def prior(self):
        return Independent(Normal(torch.zeros(2), torch.ones(2)), self.latent_dims)

    def encoder(self, x):
        return Independent(Normal(x[:, :2], torch.ones(2)), self.latent_dims)

    def decoder(self, z):
        return Independent(Normal(z @ self.weight, 1.0), self.event_dims)


class Conditional(Linear):
    def decoder(self, z, context=None):
        shift = 0.0 if context is None else context
        return Independent(Normal(z @ self.weight + shift, 1.0), 1)


def test_log_weights_are_the_sum_of_their_terms():
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    terms = log_weight_terms(Linear(), x, 4)
    expected = log_joint(Linear(), x, terms.z) - Linear().encoder(x).log_prob(terms.z)
    assert terms.log_weights.shape == (4, 5)
    assert torch.allclose(terms.log_weights, expected)


@pytest.mark.parametrize(
    ("model", "term", "shape"),
    [(Linear(event_dims=0), r"log p\(x\|z\)", r"\(4, 5, 3\)"), (Linear(latent_dims=0), "proposal", r"\(5, 2\)")],
)
def test_a_term_of_another_shape_is_refused_with_its_name_and_the_cure(model, term, shape):
    with pytest.raises(ValueError, match=f"{term}.*{shape}.*Independent"):
        log_weights(model, torch.zeros(5, 3), 4)


def test_a_proposal_of_another_batch_is_refused():
    model = Linear()
    with pytest.raises(ValueError, match=r"batch shape \(5,\), but has \(\)"):
        log_weights(model, torch.zeros(5, 3), 4, proposal=lambda x: model.prior())


def test_context_reaches_those_methods_that_take_it():
    x, context = torch.zeros(5, 3), torch.full((5, 3), 2.0)
    z = torch.zeros(1, 5, 2)
    assert torch.allclose(log_joint(Conditional(), x, z, context), log_joint(Conditional(), x - 2, z))
    assert torch.allclose(log_joint(Linear(), x, z, context), log_joint(Linear(), x, z))


def test_context_goes_by_its_name_and_into_no_other_argument():
    class Keyword(Conditional):
        def decoder(self, z, *, context=None):
            return super().decoder(z, context)

        def prior(self, temperature=1.0):
            assert temperature == 1.0
            return super().prior()

    x, context, z = torch.zeros(5, 3), torch.full((5, 3), 2.0), torch.zeros(1, 5, 2)
    assert torch.allclose(log_joint(Keyword(), x, z, context), log_joint(Conditional(), x, z, context))


def test_a_mask_keeps_a_strict_likelihood_strict():
    class Strict(Linear):
        def decoder(self, z):
            return IndependentBernoulli(z @ self.weight, 1)

    z, mask = torch.zeros(1, 2, 2), torch.tensor([[True, False, True]]).expand(2, 3)
    missing = torch.tensor([[1.0, torch.nan, 0.0]]).expand(2, 3)
    assert torch.isfinite(log_joint(Strict(), missing, z, mask=mask)).all()
    with pytest.raises(ValueError, match="0 and 1"):
        log_joint(Strict(), torch.full((2, 3), 0.5), z, mask=mask)


def test_a_mask_leaves_missing_values_out_of_the_likelihood():
    z = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([True, False, True]).expand(5, 3)
    model = Linear()
    p = Normal(z @ model.weight, 1.0)
    expected = p.log_prob(x)[..., [0, 2]].sum(-1) + model.prior().log_prob(z)
    x = x.masked_fill(~mask, torch.nan)
    assert torch.allclose(log_joint(model, x, z, mask=mask), expected)


def test_a_mask_needs_independent_dimensions():
    class Joint(Linear):
        def decoder(self, z):
            return torch.distributions.MultivariateNormal(z @ self.weight, torch.eye(3))

    with pytest.raises(ValueError, match="independent given z, but it returned MultivariateNormal"):
        log_weights(Joint(), torch.zeros(5, 3), 2, mask=torch.ones(5, 3, dtype=torch.bool))


def test_a_model_may_bring_its_own_log_weights_and_a_proposal_takes_precedence():
    class Own(Linear):
        def log_weights(self, x, num_samples, context=None, mask=None):
            return torch.full((num_samples, len(x)), 7.0)

    model = Own()
    assert (log_weights(model, torch.zeros(5, 3), 2) == 7).all()
    assert (log_weights(model, torch.zeros(5, 3), 2, proposal=model.encoder) != 7).all()


def test_latents_may_be_discrete():
    class Mixture:
        """Two clusters of binary vectors."""

        def prior(self):
            return Categorical(probs=torch.tensor([0.3, 0.7]))

        def encoder(self, x):
            return Categorical(probs=torch.full((len(x), 2), 0.5))

        def decoder(self, z):
            return Independent(Bernoulli(probs=torch.tensor([[0.1, 0.2], [0.8, 0.9]])[z]), 1)

    x = torch.tensor([[1.0, 0.0]])
    torch.manual_seed(0)
    weights = log_weights(Mixture(), x, 20_000).exp().mean()
    # p(x) = 0.3 x 0.1 x 0.8 + 0.7 x 0.8 x 0.1; the standard error is 2.3e-4
    assert weights.item() == pytest.approx(0.3 * 0.08 + 0.7 * 0.08, abs=1e-3)


def test_the_protocol_is_met_without_a_base_class():
    model = FactorAnalysis(torch.eye(2), torch.zeros(2), torch.ones(2))
    assert isinstance(Linear(), LatentVariableModel) and isinstance(model, LatentVariableModel)
    assert as_model(model) is model
    with pytest.raises(TypeError, match="Linear lacks prior and encoder and decoder"):
        as_model(nn.Linear(2, 2))


def test_evaluating_restores_every_modules_mode():
    model = nn.Sequential(nn.Dropout(), nn.Dropout().eval()).train(True)
    model[1].eval()
    with evaluating(model):
        assert not any(m.training for m in model.modules()) and not torch.is_grad_enabled()
    assert [m.training for m in model.modules()] == [True, True, False]
