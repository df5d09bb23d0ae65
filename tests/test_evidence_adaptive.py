"""Adaptive effort: which method each datum gets, and that deciding it leaves the estimates unbiased."""

import importlib
import math
from types import SimpleNamespace

import pytest
import torch
from helpers import normal, test_split
from torch.distributions import Categorical, Independent, Laplace, Normal, OneHotCategorical

from logpx import FactorAnalysis, mlp_vae
from logpx.evaluation import evaluate
from logpx.evidence import METHODS, Block, Estimator, adaptive
from logpx.evidence.tally import tally
from logpx.exact import GaussianMixture
from logpx.montecarlo import LogMeanAccumulator

adapting = importlib.import_module("logpx.evidence.adaptive")
NAMES = ("log_evidence", "standard_error", "ess", "pareto_k", "num_samples", "num_passes", "method", "elbo", "rate")


def linear(posterior_scale=1.0, num_latents=3, num_dims=6, kind=FactorAnalysis):
    loading = normal(num_dims, num_latents)
    return kind(loading, torch.zeros(num_dims), torch.full((num_dims,), 0.6), posterior_scale)


def data_of(model, n, seed=1):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model.decoder(model.prior().sample((n,))).sample()


def methods(evidence):
    return [METHODS[i] for i in evidence.method.tolist()]


def model_of(decoder, num_latents=1, scale=1.0, loc=0.0):
    def encoder(x):
        return Independent(Normal(torch.full((len(x), num_latents), loc), scale), 1)

    return SimpleNamespace(
        decoder=decoder, prior=lambda: Independent(Normal(torch.zeros(num_latents), 1.0), 1), encoder=encoder
    )


def curve(z):
    return torch.cat([torch.sin(2 * z), z, 0.5 * z**2], -1)


class Curved:
    """One latent that bends three dimensions, so that log p(x) is a sum over a line; the encoder is a rough one."""

    def prior(self):
        return Independent(Normal(torch.zeros(1), 1.0), 1)

    def encoder(self, x):
        return Independent(Normal(0.8 * x[:, 1:2], 0.4), 1)

    def decoder(self, z):
        return Independent(Normal(curve(z), 0.4), 1)

    def truth(self, x):
        z = torch.linspace(-7, 7, 4001, dtype=torch.float64).reshape(-1, 1)
        log_p = self.prior().log_prob(z).unsqueeze(-1)
        each = Normal(curve(z).unsqueeze(1), 0.4).log_prob(x.double()).sum(-1) + log_p
        return torch.logsumexp(each, 0) + math.log(14 / 4000)


# --- which method --------------------------------------------------------------------------------------------------


def test_an_exact_encoder_serves_and_costs_little():
    model = linear()
    block = Block(model, data_of(model, 8))
    evidence = adaptive(block)
    assert methods(evidence) == ["encoder"] * 8
    # the encoder, 128 pilot draws and the least number that counts
    assert (evidence.num_passes == 1 + 128 + 256).all() and (evidence.num_samples == 256).all()
    assert torch.allclose(evidence.log_evidence, model.log_evidence(block.x).double(), atol=1e-3)


def test_an_encoder_gets_as_many_draws_as_its_weights_ask_for():
    model = linear(1.3, num_latents=1)
    block = Block(model, data_of(model, 64))
    evidence = adaptive(block, target_error=0.02)
    assert methods(evidence) == ["encoder"] * 64
    pilot = tally(block, block.encoder(), 128, "encoder", "pilot").weights
    # S = 1.5 (128 / ESS - 1) / 0.02^2, in steps of 256
    expected = torch.ceil(1.5 * (128 / pilot.ess() - 1) / 0.02**2 / 256) * 256
    assert torch.equal(evidence.num_samples, expected) and len(expected.unique()) > 1
    assert torch.equal(evidence.num_passes, 129 + expected)
    assert (evidence.standard_error < 0.04).all() and (evidence.standard_error < 0.02).double().mean() > 0.9


def test_a_bad_encoder_is_replaced_by_a_fit_to_the_datum():
    model = linear(0.3)
    block = Block(model, data_of(model, 8))
    evidence = adaptive(block)
    assert methods(evidence) == ["curvature"] * 8
    error = evidence.log_evidence - model.log_evidence(block.x)
    assert (error.abs() < 4.5 * evidence.standard_error).all() and (evidence.standard_error < 0.05).all()
    # encoder and pilot; the fit; its pilot; and the draws that count
    fit = 1 + 11 * (1 + 2 * 3) + 72 * 3
    assert (evidence.num_passes == 129 + fit + 256 + evidence.num_samples).all()


def test_each_datum_gets_its_own_method():
    class Partial(FactorAnalysis):
        """Its encoder is exact, except where the first value is positive."""

        def encoder(self, x):
            q = super().encoder(x)
            return Independent(Normal(torch.where(x[:, :1] > 0, q.loc + 3, q.loc), q.stddev), 1)

    model = linear(kind=Partial, num_latents=1)
    x = data_of(model, 24)
    evidence = adaptive(Block(model, x))
    assert methods(evidence) == ["curvature" if value > 0 else "encoder" for value in x[:, 0].tolist()]
    error = evidence.log_evidence - model.log_evidence(x)
    assert (error.abs() < 5 * evidence.standard_error + 1e-3).all()
    # nothing but constant weights reaches such a target
    evidence = adaptive(Block(model, x), target_error=1e-4, num_samples=256)
    assert methods(evidence) == ["annealed" if value > 0 else "encoder" for value in x[:, 0].tolist()]
    error = evidence.log_evidence - model.log_evidence(x)
    assert (error.abs() < 6 * evidence.standard_error + 1e-3).all() and (evidence.standard_error < 0.02).all()


@pytest.mark.parametrize("tail, method", [(0.45, "encoder"), (0.55, "curvature"), (0.75, "annealed")])
def test_heavy_tails_ask_for_a_better_method(tail, method, monkeypatch):
    monkeypatch.setattr(LogMeanAccumulator, "pareto_k", lambda weights: torch.full_like(weights.maximum, tail))
    model = linear()
    assert methods(adaptive(Block(model, data_of(model, 2)))) == [method] * 2


def test_posteriors_of_many_modes_are_annealed():
    # x says how large z is, and nothing of its sign: 2^6 modes
    model = model_of(lambda z: Independent(Normal(z.square(), 0.3), 1), 6, scale=0.3)
    x = torch.full((2, 6), 1.5)
    evidence = adaptive(Block(model, x), num_samples=512)
    assert methods(evidence) == ["annealed"] * 2
    assert (evidence.num_samples == 32).all()
    z = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    each = torch.logsumexp(Normal(z**2, 0.3).log_prob(torch.tensor(1.5)) + Normal(0.0, 1.0).log_prob(z), 0)
    truth = 6 * (each + math.log(12 / 4000))
    # 32 chains: the estimate is a lower bound, and no more than a nat or two below
    assert (evidence.log_evidence < truth + 1).all() and (evidence.log_evidence > truth - 3).all()


def test_errors_of_more_than_twice_the_target_are_annealed(monkeypatch):
    seen, annealed = [], adapting.annealed
    monkeypatch.setattr(
        adapting, "annealed", lambda block, fit, **options: seen.append(block) or annealed(block, fit, **options)
    )
    model = Curved()
    x = data_of(model, 12)
    block = Block(model, x)
    evidence = adaptive(block, target_error=0.004, num_samples=256)
    chosen = torch.tensor([name == "annealed" for name in methods(evidence)])
    assert chosen.any() and torch.equal(seen[0].x, x[chosen])
    pilots, chains = 2 * 8 * 3 * (1 + 3 * 9), 32 * 3 * (1 + 3 * 29)
    fit = 1 + 11 * 3 + 72 * 3
    # the 256 draws of curvature came before
    assert (evidence.num_passes[chosen] == 129 + fit + 256 + 256 + pilots + chains).all()


def test_an_unknown_fisher_information_leaves_the_refined_fit():
    weight = normal(2, 5, seed=1)
    model = model_of(lambda z: Independent(Laplace(z @ weight, 0.5), 1), 2)
    evidence = adaptive(Block(model, data_of(model, 3)))
    assert methods(evidence) == ["refined"] * 3
    assert (evidence.num_passes == 129 + 901 + 256 + evidence.num_samples).all()


def categorical(probs):
    """Three Gaussians whose latent is the number of the component."""
    means = 2 * normal(3, 2)
    return SimpleNamespace(
        prior=lambda: Categorical(probs=torch.tensor([0.5, 0.3, 0.2])),
        encoder=lambda x: Categorical(probs=torch.tensor(probs).expand(len(x), 3)),
        decoder=lambda z: Independent(Normal(means[z], 1.0), 1),
        exact=GaussianMixture(torch.tensor([0.5, 0.3, 0.2]), means, torch.ones(3, 2), "diagonal"),
    )


def test_discrete_latents_are_left_to_the_encoder():
    model = categorical([0.5, 0.25, 0.25])
    x = data_of(model.exact, 64)
    evidence = adaptive(Block(model, x))
    assert methods(evidence) == ["encoder"] * 64
    error = evidence.log_evidence - model.exact.log_evidence(x)
    assert ((error / evidence.standard_error).abs() < 5).all() and len(evidence.num_samples.unique()) > 1


def test_vectors_of_zeros_and_ones_are_discrete_too():
    model = categorical([0.5, 0.25, 0.25]).exact
    x = data_of(model, 16)
    truth = model.log_evidence(x)
    model.encoder = lambda x: OneHotCategorical(probs=torch.tensor([0.4, 0.3, 0.3]).expand(len(x), 3))
    evidence = adaptive(Block(model, x))
    assert methods(evidence) == ["encoder"] * 16
    assert ((evidence.log_evidence - truth).abs() < 5 * evidence.standard_error).all()


def test_single_numbers_as_latents_need_no_vector():
    weight = torch.tensor([1.0, 2.0, -1.0])
    model = SimpleNamespace(
        prior=lambda: Normal(torch.tensor(0.0), 1.0),
        encoder=lambda x: Normal(torch.zeros(len(x)), 1.0),
        decoder=lambda z: Independent(Normal(z.unsqueeze(-1) * weight, 0.5), 1),
    )
    exact = FactorAnalysis(weight.unsqueeze(-1), torch.zeros(3), torch.full((3,), 0.5))
    x = data_of(exact, 8)
    evidence = adaptive(Block(model, x))
    assert ((evidence.log_evidence - exact.log_evidence(x)).abs() < 5 * evidence.standard_error).all()


def test_a_model_s_own_weights_are_its_own():
    class Own(FactorAnalysis):
        def log_weights(self, x, num_samples, context=None, mask=None):
            return self.log_evidence(x) + 0.1 * torch.randn(num_samples, len(x))

    model = linear(kind=Own)
    block = Block(model, data_of(model, 4))
    for estimator in (Estimator("auto", num_samples=300), Estimator("importance", num_samples=300)):
        evidence = estimator(block)
        assert methods(evidence) == ["own"] * 4 and (evidence.num_samples == 300).all()
        assert (evidence.num_passes == 300).all() and torch.isnan(evidence.rate).all()
    # another proposal has weights of its own
    assert methods(Estimator("importance", "prior", num_samples=300)(block)) == ["prior"] * 4


# --- what the decision does to the estimates -----------------------------------------------------------------------


@pytest.mark.parametrize("posterior_scale", [1.15, 0.8, 1.7])
def test_estimates_are_unbiased_whatever_was_decided(posterior_scale):
    # p-hat / p of 2,000 data; 4 standard errors: false alarm 6e-5
    model = linear(posterior_scale)
    x = data_of(model, 2000)
    evidence = adaptive(Block(model, x))
    ratio = (evidence.log_evidence - model.log_evidence(x)).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / 2000**0.5 + 1e-6
    assert ratio.std() < 0.1


def test_nominal_95_percent_intervals_cover_the_evidence():
    # 2,000 intervals: the share that covers has standard error 0.5%, so 93-97% is 4 of them: false alarm 6e-5
    model = Curved()
    x = data_of(model, 2000)
    evidence = adaptive(Block(model, x))
    assert len(set(methods(evidence))) > 1
    error = evidence.log_evidence - model.truth(x)
    assert 0.93 < (error.abs() < 1.96 * evidence.standard_error).double().mean() < 0.97
    assert abs(error.exp().mean() - 1) < 4 * error.exp().std() / 2000**0.5


def test_the_draws_that_decide_do_not_enter_the_estimate(monkeypatch):
    seen = []

    def spy(block, q, num_samples, *key):
        seen.append((num_samples, key))
        return tally(block, q, num_samples, *key)

    monkeypatch.setattr(adapting, "tally", spy)
    model = linear(0.3)
    evidence = adaptive(Block(model, data_of(model, 4)))
    assert seen[0] == (128, ("encoder", "pilot")) and seen[1] == (256, ("curvature", "pilot"))
    assert len({key for _, key in seen}) == len(seen)
    assert (evidence.num_samples == 256).all()


def test_data_are_not_mixed_up_when_they_ask_for_different_numbers():
    model = linear(1.15)
    x = data_of(model, 24)
    block, wanted, chosen = Block(model, x), torch.tensor([512, 256, 1024] * 4), torch.arange(23, -1, -2)

    def propose(some, rows):
        assert torch.equal(some.x, x[rows])
        return model.encoder(some.x)

    result = adapting._spend(block, propose, wanted, "encoder", chosen)
    assert torch.equal(result.num_samples, wanted.double()) and torch.equal(result.num_passes, wanted.double())
    assert ((result.log_evidence - model.log_evidence(x[chosen])).abs() < 5 * result.standard_error).all()


def test_the_numbers_of_draws_are_in_steps_and_bounded():
    effort = adapting._Effort(0.1, 3500)

    def wanted(log_w):
        return effort.rounded(effort.need(LogMeanAccumulator.empty(1).update(log_w.reshape(-1, 1)))).tolist()

    assert wanted(torch.zeros(128)) == [256]
    assert wanted(torch.tensor([0.0] + [-100.0] * 127)) == [3500]
    # half of the weights are 0: ESS = S / 2, so S = 1.5 x 1 / 0.01 = 150; three quarters: 450
    assert wanted(torch.tensor([0.0, -math.inf] * 64)) == [256]
    assert wanted(torch.tensor([0.0, -math.inf, -math.inf, -math.inf] * 32)) == [512]
    assert wanted(torch.full((128,), -math.inf)) == [3500]


def test_more_than_twice_the_target_is_beyond_reach():
    # with the margin of a half, 4 x 1.5 as many draws as there may be leave twice the target
    effort = adapting._Effort(0.1, 1000)
    assert effort.is_beyond(torch.tensor([100.0, 5900.0, 6100.0, math.inf])).tolist() == [False, False, True, True]


def test_a_tail_that_is_heavy_or_not_known_is_heavy():
    result = SimpleNamespace(pareto_k=torch.tensor([-math.inf, 0.69, 0.71, math.nan]))
    assert adapting._has_heavy_tail(result).tolist() == [False, False, True, True]


def test_elbo_rate_and_distortion_stay_those_of_the_encoder():
    model = linear(0.3)
    block = Block(model, data_of(model, 4))
    evidence, pilot = adaptive(block), tally(block, block.encoder(), 128, "encoder", "pilot")
    assert torch.equal(evidence.elbo, pilot.weights.mean_log())
    assert torch.equal(evidence.rate, pilot.rate / 128) and torch.equal(evidence.distortion, pilot.distortion / 128)
    assert torch.allclose(evidence.latent_mean, model.encoder(block.x).loc.double())


def test_a_result_is_keyed_by_seed_and_block_and_does_not_depend_on_memory():
    model = Curved()
    x = data_of(model, 5)

    def run(**options):
        return adaptive(Block(model, x, **options), target_error=0.01, num_samples=256)

    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a, b, c, d = (run(seed=s, number=k) for s, k in [(0, 0), (0, 0), (1, 0), (0, 1)])
    assert torch.equal(torch.rand(1), expected)
    assert {"annealed", "curvature"} <= set(methods(a))
    small = run(memory_budget=2**12)
    for name in NAMES:
        assert torch.equal(getattr(a, name), getattr(b, name)), name
        assert torch.allclose(getattr(a, name).double(), getattr(small, name).double(), rtol=1e-4, atol=1e-4), name
    assert not torch.equal(a.log_evidence, c.log_evidence) and not torch.equal(a.log_evidence, d.log_evidence)


def test_masked_values_are_left_out():
    # the encoder sees zeros where nothing was observed, and so fits badly
    model = linear(0.5)
    x, mask = data_of(model, 6), torch.ones(6, 6, dtype=torch.bool)
    mask[:, 3:] = False
    evidence = adaptive(Block(model, torch.where(mask, x, 0.0), mask=mask))
    rest = FactorAnalysis(model.loading[:3], model.mean[:3], model.noise_scale[:3])
    error = evidence.log_evidence - rest.log_evidence(x[:, :3])
    assert set(methods(evidence)) == {"curvature"} and (error.abs() < 5 * evidence.standard_error).all()


def test_effort_that_makes_no_sense_is_refused():
    model = linear()
    block = Block(model, data_of(model, 2))
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"target_error must be positive, but is {bad}: 0.05 nats"):
            adaptive(block, target_error=bad)
    with pytest.raises(ValueError, match="num_samples of estimator auto must be at least 256, but is 255"):
        adaptive(block, num_samples=255)


def test_the_record_says_what_was_done():
    class Blind(Curved):
        """Without a closed form, which evaluate would take."""

    model = Blind()
    x = data_of(model, 40)
    result = evaluate(model, test_split(x), target_error=0.01, num_samples=512, progress=False)
    record, evidence = result.record, result.evidence
    assert record["estimator"] == "auto" and record["proposal"] == "adapted to each datum"
    assert sum(record["methods"].values()) == 40
    assert record["methods"] == {name: methods(evidence).count(name) for name in record["methods"]}
    for name, column in (("samples", evidence.num_samples), ("passes", evidence.num_passes)):
        assert record[name] == {"mean": column.mean().item(), "maximum": column.max().item()}
    missed = (evidence.standard_error > 0.01).double().mean().item()
    assert 0 < missed < 1 and record["share_above_target"] == missed and record["target_error"] == 0.01
    assert record["elbo"] == pytest.approx(evidence.elbo.mean().item())


def test_a_prior_that_is_a_flow_is_adapted_to():
    # of 16 data those marked reliable, each within 5 standard errors of plain Monte Carlo from the prior: false
    # alarm below 1e-5; the others have posteriors with several modes, which chains from one of them do not find
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = mlp_vae((6,), latent_dim=2, hidden=(16,), prior="maf").eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2.0)
        x = model.decoder(model.prior().sample((1, 16))).sample()[0]
    block = Block(model, x)
    found = adaptive(block)
    plain = Estimator("importance", "prior", 50_000)(block)
    error = (found.standard_error.square() + plain.standard_error.square()).sqrt()
    assert "curvature" in methods(found)
    reliable = found.pareto_k < 0.5
    assert reliable.sum() >= 6
    assert ((found.log_evidence - plain.log_evidence).abs() < 5 * error + 1e-4)[reliable].all()
