"""Annealed importance sampling, its transitions and schedules, and the sandwich of simulated data."""

import importlib
import math

import pytest
import scipy.stats
import torch
from helpers import normal
from torch.distributions import Independent, MultivariateNormal, Normal

from logpx import FactorAnalysis
from logpx.evidence import Block, Estimator, sandwich, simulate
from logpx.evidence.elliptical import Elliptical
from logpx.evidence.fit import Fit
from logpx.evidence.hmc import Path, State, transition
from logpx.evidence.mixture import ProposalMixture
from logpx.evidence.precision import DensePrecision, LowRankPrecision, diagonal_precision

# the functions of these names hide their modules
annealing = importlib.import_module("logpx.evidence.annealed")
DOUBLE = torch.float64
RARE = 1e-4


class LinearGaussian(FactorAnalysis):
    """Factor analysis with an encoder that has learned nothing: it is the prior."""

    def encoder(self, x):
        return Independent(Normal(torch.zeros(len(x), self.loading.shape[1], dtype=x.dtype), 1.0), 1)


def linear(num_latents=2, num_dims=3, noise=1.5):
    loading = normal(num_dims, num_latents).double()
    return LinearGaussian(loading, torch.zeros(num_dims).double(), torch.full((num_dims,), noise, dtype=DOUBLE))


def path_of(model, x, q=None, precision=None, memory_budget=2**28):
    q = Block(model, x).encoder() if q is None else q
    precision = precision or diagonal_precision(torch.ones(len(x), model.loading.shape[1], dtype=DOUBLE))
    return Path(Block(model, x, memory_budget=memory_budget), q, precision)


def posterior(model, x):
    return FactorAnalysis.encoder(model, x)


def data_of(model, n, seed=1):
    return simulate(model, n, seed)[0]


def drawn(q, num, seed=0):
    torch.manual_seed(seed)
    return q.sample((num,))


def both_ways(model, x, schedule, num_chains):
    """Weights over p(x) of chains forward, and their inverses of chains backward from the exact posterior."""
    path, truth = path_of(model, x), model.log_evidence(x)
    forward = annealing.annealed_log_weights(path, drawn(path.q, num_chains), schedule)
    starts = drawn(posterior(model, x), num_chains)
    backward = annealing.annealed_log_weights(path, starts, schedule, reverse=True)
    return (forward.log_weights - truth).exp(), (truth - backward.log_weights).exp()


@pytest.mark.parametrize("step_size", [0.3, 1.4])
def test_weights_are_unbiased_forward_and_their_inverses_backward(step_size):
    # 4 means of 4,000 chains each; 4 standard errors: false alarm 3e-4. With long steps many proposals are refused. So
    # much noise keeps 1 / w of a finite variance, because the prior is narrower than the likelihood
    model = linear(noise=2.5)
    schedule = annealing.sigmoid_schedule(6, 2, step_size)
    for ratio in both_ways(model, data_of(model, 2), schedule, 4000):
        error = ratio.std(0) / 4000**0.5
        assert (error < 0.1).all() and ((ratio.mean(0) - 1).abs() < 4 * error).all()


def test_a_single_step_is_importance_sampling():
    model = linear()
    x = data_of(model, 3)
    path = path_of(model, x)
    z, block = drawn(path.q, 5), path.block
    run = annealing.annealed_log_weights(path, z, annealing.sigmoid_schedule(1, 3))
    assert torch.allclose(run.log_weights, block.weigh(z, path.q).log_weights)
    assert torch.equal(run.z, z) and run.acceptance.shape == (0, 3) and run.spread.shape == (1, 3)


def test_the_log_weight_is_the_sum_over_the_steps(monkeypatch):
    # with transitions that stay, log w = (sum of all steps) (log p - log q) forward and backward
    monkeypatch.setattr(annealing, "transition", lambda path, state, *args: (state, torch.ones_like(state.log_p)))
    model = linear()
    x = data_of(model, 3)
    path = path_of(model, x)
    z = drawn(path.q, 5)
    for reverse in (False, True):
        run = annealing.annealed_log_weights(path, z, annealing.sigmoid_schedule(7, 3), reverse=reverse)
        assert torch.allclose(run.log_weights, path.block.weigh(z, path.q).log_weights, atol=1e-6)


def test_each_transition_is_at_its_own_temperature_in_both_directions(monkeypatch):
    seen = []

    def stay(path, state, beta, step_size, num_leapfrog):
        seen.append((beta[0].item(), step_size[0].item()))
        return state, torch.full_like(state.log_p, beta[0].item())

    monkeypatch.setattr(annealing, "transition", stay)
    model = linear()
    x = data_of(model, 1)
    path = path_of(model, x)
    betas, sizes = torch.tensor([0.0, 0.1, 0.4, 0.7, 1.0]), torch.tensor([1.0, 2.0, 3.0])
    schedule = annealing.Schedule(betas.unsqueeze(-1), sizes.unsqueeze(-1))
    expected = [(betas[t].item(), sizes[t - 1].item()) for t in (1, 2, 3)]
    for reverse in (False, True):
        seen.clear()
        run = annealing.annealed_log_weights(path, drawn(path.q, 2), schedule, reverse=reverse)
        assert seen == (expected[::-1] if reverse else expected)
        # what is said of the chains is in the order of the temperatures
        assert torch.allclose(run.acceptance[:, 0].float(), betas[1:4]) and run.spread.shape == (4, 1)


def gaussian_path(beta, shape):
    """A Gaussian path, and the exact distribution at an inverse temperature."""
    model = linear()
    x = data_of(model, 2)
    first = DensePrecision.of(torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=DOUBLE).expand(2, 2, 2))
    q, last = Elliptical(torch.tensor([[1.0, -1.0]] * 2, dtype=DOUBLE), first), posterior(model, x)
    matrix = (1 - beta) * first.root @ first.root.mT + beta * last.precision_matrix
    pull = (1 - beta) * (first.root @ first.root.mT @ q.loc.unsqueeze(-1))
    pull = pull + beta * last.precision_matrix @ last.loc.unsqueeze(-1)
    exact = MultivariateNormal((matrix.inverse() @ pull).squeeze(-1), precision_matrix=matrix)
    return path_of(model, x, q, shape), exact


SHAPES = {
    "whole": DensePrecision.of(torch.tensor([[9.0, 2.0], [2.0, 4.0]], dtype=DOUBLE).expand(2, 2, 2)),
    "low rank": LowRankPrecision.of(torch.full((2, 2), 3.0).double(), torch.tensor([[[2.0], [1.0]]] * 2).double()),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("beta, size", [(0.0, 2.2), (0.35, 2.2), (1.0, 1.8)])
def test_a_transition_leaves_its_distribution_invariant(beta, size, shape):
    # 4 tests of Kolmogorov and Smirnov on 4,000 chains each: false alarm 4e-4 for each case
    path, exact = gaussian_path(beta, SHAPES[shape])
    z = drawn(exact, 4000)
    torch.manual_seed(1)
    sizes = torch.full((2,), size, dtype=DOUBLE)
    state, probability = transition(path, path.at(z), torch.full((2,), beta, dtype=DOUBLE), sizes, 3)
    # a coarse step, so that the test of Metropolis has work to do
    assert 0.2 < probability.mean() < 0.95
    white = torch.einsum("bji,cbj->cbi", torch.linalg.cholesky(exact.precision_matrix), state.z - exact.loc)
    for b in range(2):
        assert scipy.stats.kstest(white[:, b, 0].numpy(), "norm").pvalue > RARE
        assert scipy.stats.kstest(white[:, b].square().sum(-1).numpy(), scipy.stats.chi2(2).cdf).pvalue > RARE


def test_a_transition_forgets_where_it_came_from():
    path, exact = gaussian_path(1.0, SHAPES["whole"])
    state = path.at(torch.full((500, 2, 2), 3.0, dtype=DOUBLE))
    torch.manual_seed(1)
    for _ in range(50):
        state, _ = transition(path, state, torch.ones(2, dtype=DOUBLE), torch.ones(2, dtype=DOUBLE), 3)
    white = torch.einsum("bji,cbj->cbi", torch.linalg.cholesky(exact.precision_matrix), state.z - exact.loc)
    assert scipy.stats.kstest(white[:, 0, 0].numpy(), "norm").pvalue > RARE


def test_small_steps_keep_the_energy_and_reverse():
    path, exact = gaussian_path(0.35, SHAPES["whole"])
    start = path.at(drawn(exact, 50))
    beta = torch.full((2,), 0.35, dtype=DOUBLE)
    rates = []
    for size in (0.2, 0.1):
        torch.manual_seed(1)
        rates.append(transition(path, start, beta, torch.full((2,), size, dtype=DOUBLE), 3)[1])
    # leapfrog errs by the square of its step
    assert (1 - rates[0]).mean() < 0.05 and 2 < (1 - rates[0]).mean() / (1 - rates[1]).mean() < 8


def test_a_point_of_no_density_is_never_accepted():
    path, _ = gaussian_path(1.0, SHAPES["whole"])
    z = torch.zeros(40, 2, 2, dtype=DOUBLE)
    start = path.at(z)

    class Wall:
        """Gives log p(x, z) = NaN everywhere but at the start."""

        def __getattr__(self, name):
            return getattr(path, name)

        def at(self, z):
            state = path.at(z)
            return State(state.z, state.log_q, torch.full_like(state.log_p, math.nan), state.grad_q, state.grad_p)

    one = torch.ones(2, dtype=DOUBLE)
    state, probability = transition(Wall(), start, one, 0.1 * one, 3)
    assert torch.equal(state.z, z) and (probability == 0).all() and torch.equal(state.log_p, start.log_p)


def test_a_state_knows_both_ends_and_does_not_depend_on_memory():
    model = linear()
    x = data_of(model, 2)
    path = path_of(model, x)
    z = drawn(path.q, 7)
    state, small = path.at(z), path_of(model, x, memory_budget=1).at(z)
    exact, beta = posterior(model, x), torch.tensor([0.25, 0.75], dtype=DOUBLE)
    assert torch.allclose(state.grad_q, -z)
    assert torch.allclose(state.grad_p, (exact.precision_matrix @ (exact.loc - z).unsqueeze(-1)).squeeze(-1))
    assert torch.allclose(state.log_p, exact.log_prob(z) + model.log_evidence(x))
    assert torch.allclose(state.log_f(beta), (1 - beta) * path.q.log_prob(z) + beta * state.log_p)
    share = beta.unsqueeze(-1)
    assert torch.allclose(state.grad_f(beta), (1 - share) * state.grad_q + share * state.grad_p)
    for name in ("z", "log_q", "log_p", "grad_q", "grad_p"):
        assert torch.allclose(getattr(small, name), getattr(state, name)), name


# --- schedules -----------------------------------------------------------------------------------------------------


def test_the_sigmoid_schedule():
    schedule = annealing.sigmoid_schedule(8, 3, 0.7)
    s = torch.sigmoid(4 * (2 * torch.arange(9) / 8 - 1))
    assert torch.allclose(schedule.betas, ((s - s[0]) / (s[-1] - s[0])).unsqueeze(-1).expand(9, 3), atol=1e-6)
    assert schedule.step_sizes.shape == (7, 3) and (schedule.step_sizes == 0.7).all()
    # a first gradient, and three for each of seven transitions, of 3 passes each
    assert schedule.cost == 3 * (1 + 3 * 7)


def test_equal_parts_of_a_constant_spread_are_equal_steps():
    betas = annealing.sigmoid_schedule(10, 2).betas
    spread = torch.tensor([0.3, 5.0], dtype=DOUBLE).expand(10, 2)
    expected = torch.linspace(0, 1, 8).unsqueeze(-1).expand(8, 2)
    assert torch.allclose(annealing._equal_parts(betas, spread, 7), expected, atol=1e-6)


def test_equal_parts_of_any_spread_have_equal_integrals():
    betas = torch.tensor([0.0, 0.1, 0.5, 1.0], dtype=DOUBLE).unsqueeze(-1).expand(4, 2)
    spread = torch.tensor([[8.0, 1.0], [2.0, 0.0], [4.0, 0.0]], dtype=DOUBLE)
    found = annealing._equal_parts(betas, spread, 12).double()
    assert (found[0] == 0).all() and (found[-1] == 1).all() and (found.diff(dim=0) > 0).all()
    # the least spread is a third of the mean
    for b, s in enumerate(torch.tensor([[8.0, 2.0, 4.0], [1.0, 1 / 9, 1 / 9]], dtype=DOUBLE)):
        integral = sum(s[i] * (found[:, b].clamp(max=betas[i + 1, b]) - betas[i, b]).clamp(min=0) for i in range(3))
        assert torch.allclose(integral.diff(), integral[-1] / 12, rtol=1e-4)


def test_no_spread_at_all_gives_equal_steps():
    betas = annealing.sigmoid_schedule(10, 1).betas
    found = annealing._equal_parts(betas, torch.zeros(10, 1, dtype=DOUBLE), 4)
    assert torch.allclose(found[:, 0], torch.linspace(0, 1, 5), atol=1e-6)


def test_interpolation_is_linear_and_constant_beyond_the_ends():
    places = torch.tensor([[0.0, 1.0], [1.0, 2.0], [3.0, 4.0]])
    columns = torch.tensor([[1.0, 0.0], [2.0, 4.0], [6.0, 8.0]])
    at = torch.tensor([[-1.0, 1.5], [0.5, 2.0], [2.0, 9.0]])
    expected = torch.tensor([[1.0, 2.0], [1.5, 4.0], [4.0, 8.0]])
    assert torch.allclose(annealing._interpolated(at, places, columns), expected)


def test_tuning_gives_a_schedule_per_datum_and_says_what_it_cost():
    model = linear()
    x = data_of(model, 3) * torch.tensor([[0.0], [1.0], [10.0]])
    schedule = annealing.tune(path_of(model, x), 12)
    assert schedule.betas.shape == (13, 3) and schedule.step_sizes.shape == (11, 3)
    assert (schedule.betas[0] == 0).all() and (schedule.betas[-1] == 1).all() and (schedule.betas.diff(dim=0) > 0).all()
    assert (schedule.betas[1:-1, 0] != schedule.betas[1:-1, 2]).all()
    assert schedule.num_passes == 2 * 8 * 3 * (1 + 3 * 9)


def test_tuned_steps_are_accepted_about_as_often_as_they_should():
    model = linear(noise=0.05)
    x = data_of(model, 4)
    path = path_of(model, x)
    tuned = annealing.tune(path, 10)
    rate = annealing.annealed_log_weights(path, drawn(path.q, 200), tuned).acceptance.mean()
    fixed = annealing.Schedule(tuned.betas, torch.full_like(tuned.step_sizes, annealing.FIRST_STEP))
    plain = annealing.annealed_log_weights(path, drawn(path.q, 200), fixed).acceptance.mean()
    assert abs(rate - 0.75) < abs(plain - 0.75)


def test_the_schedule_is_fixed_before_the_chains_run(monkeypatch):
    model, seen = linear(), []
    block = Block(model, data_of(model, 3))
    tune = annealing.tune
    monkeypatch.setattr(annealing, "tune", lambda *args, **key: seen.append(tune(*args, **key)) or seen[-1])
    for num_chains in (2, 50):
        annealing.annealed(block, Fit(block.encoder(), 0), num_chains=num_chains, num_temperatures=6)
    first, second = seen
    assert torch.equal(first.betas, second.betas) and torch.equal(first.step_sizes, second.step_sizes)


def test_no_draw_is_made_twice(monkeypatch):
    # pilot chains share nothing with those that count
    model, keys, keyed = linear(), [], annealing.keyed_rng
    monkeypatch.setattr(annealing, "keyed_rng", lambda *key, **where: keys.append(key) or keyed(*key, **where))
    block = Block(model, data_of(model, 3))
    annealing.annealed(block, Fit(block.encoder(), 0), num_chains=8, num_temperatures=6)
    assert len(keys) > 20 and len(set(keys)) == len(keys)


def test_more_temperatures_make_the_weights_more_alike():
    model = linear()
    x = data_of(model, 2)
    path = path_of(model, x)
    spread = []
    for size in (3, 12, 48):
        schedule = annealing.tune(path, size)
        spread.append(annealing.annealed_log_weights(path, drawn(path.q, 200), schedule).log_weights.std(0))
    assert (spread[1] < 0.7 * spread[0]).all() and (spread[2] < 0.7 * spread[1]).all()


# --- estimates -----------------------------------------------------------------------------------------------------


def test_annealing_by_name_finds_the_evidence_and_counts_its_passes():
    model = linear(noise=2.5)
    block = Block(model, data_of(model, 16))
    evidence = Estimator("annealed", "prior", num_samples=200, num_temperatures=10)(block)
    error = evidence.log_evidence - model.log_evidence(block.x)
    # 16 errors in units of their standard errors; 5 of these: false alarm 1e-5, and heavier tails
    assert ((error / evidence.standard_error).abs() < 5).all() and (evidence.standard_error < 0.2).all()
    assert (evidence.num_passes == 2 * 8 * 3 * (1 + 3 * 9) + 200 * 3 * (1 + 3 * 9)).all()
    assert (evidence.num_samples == 200).all()
    assert torch.isnan(evidence.rate).all() and torch.isnan(evidence.distortion).all()


def test_annealing_is_keyed_by_seed_and_block_and_does_not_depend_on_memory():
    model = linear()
    x = data_of(model, 3)

    def estimate(**options):
        block = Block(model, x, **options)
        return annealing.annealed(block, Fit(block.encoder(), 1), num_chains=8, num_temperatures=5).log_evidence

    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a, b, c, d = (estimate(seed=s, number=k) for s, k in [(0, 0), (0, 0), (1, 0), (0, 1)])
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(a, b) and not torch.equal(a, c) and not torch.equal(a, d)
    assert torch.allclose(estimate(memory_budget=1), a)


def test_chains_start_from_mixtures_too():
    model = linear()
    block = Block(model, data_of(model, 4))
    exact = posterior(model, block.x)
    parts = [Elliptical(exact.loc, DensePrecision.of(exact.precision_matrix.expand(4, 2, 2)), c) for c in (0.9, 1.2)]
    fit = Fit(ProposalMixture(parts, [0.5, 0.5]), 7)
    evidence = annealing.annealed(block, fit, num_chains=64, num_temperatures=6)
    assert torch.allclose(evidence.log_evidence, model.log_evidence(block.x), atol=0.1)
    assert (evidence.num_passes == 7 + (16 * 28 + 64 * 16) * 3).all()


# --- the sandwich --------------------------------------------------------------------------------------------------


def test_simulated_latents_are_exact_posterior_samples():
    # 3 tests on 2,000 data: false alarm 3e-4
    model = linear()
    x, z = simulate(model, 2000, seed=3)
    exact = posterior(model, x)
    white = torch.einsum("nji,nj->ni", torch.linalg.cholesky(exact.precision_matrix), z - exact.loc)
    assert scipy.stats.kstest(white[:, 0].numpy(), "norm").pvalue > RARE
    assert scipy.stats.kstest(white.square().sum(-1).numpy(), scipy.stats.chi2(2).cdf).pvalue > RARE
    # and x follows p(x): one direction of it
    assert scipy.stats.kstest((x[:, 0] / x_scale(model)).numpy(), "norm").pvalue > RARE
    again, other = simulate(model, 2000, seed=3)[0], simulate(model, 2000, seed=3, block=1)[0]
    assert torch.equal(x, again) and not torch.equal(x, other)


def x_scale(model):
    return (model.loading[0].square().sum() + model.noise_scale[0] ** 2).sqrt()


@pytest.mark.parametrize("proposal", ["prior", "curvature"])
def test_the_truth_lies_within_the_sandwich(proposal):
    # 2 bounds at 3 sizes, each within 4 standard errors: false alarm 2e-4
    model = linear()
    result = sandwich(model, num_data=48, num_chains=4, num_temperatures=(2, 8, 32), proposal=proposal)
    x = torch.cat([simulate(model, size, 0, k)[0] for k, size in enumerate((32, 16))])
    truth = model.log_evidence(x)
    for row in range(3):
        below, above = truth - result.lower[row], result.upper[row] - truth
        assert below.mean() > -4 * below.std() / 48**0.5 and above.mean() > -4 * above.std() / 48**0.5
    if proposal == "prior":
        assert result.gap[0] > 2 * result.gap[1] > 0 and result.gap[1] > 2 * result.gap[2]
    assert abs(result.gap[2]) < 0.1 and result.lower.shape == (3, 48)


def test_the_passes_of_a_sandwich_are_those_of_fit_pilots_and_chains_both_ways():
    model = linear()
    result = sandwich(model, num_data=3, num_chains=5, num_temperatures=(4,), proposal="prior")
    assert result.num_passes.tolist() == [16 * 3 * 28 + 2 * 5 * 3 * (1 + 3 * 3)]
    record = result.record()
    assert record["num_data"] == 3 and record["rows"][0]["gap"] == pytest.approx(result.gap.item())
    difference = result.upper - result.lower
    assert result.gap_error.item() == pytest.approx((difference.std(1) / 3**0.5).item())
    assert 0 < record["rows"][0]["acceptance"] < 1
    same = sandwich(model, num_data=3, num_chains=5, num_temperatures=(4,), proposal="prior", memory_budget=1)
    assert torch.allclose(result.lower, same.lower) and torch.allclose(result.upper, same.upper)


def test_what_a_sandwich_cannot_be_made_of_is_refused():
    model = linear()
    with pytest.raises(ValueError, match="num_data must be at least 2, but is 1"):
        sandwich(model, num_data=1)
    with pytest.raises(ValueError, match="num_chains must be at least 1, but is 0"):
        sandwich(model, num_chains=0)
    with pytest.raises(ValueError, match="num_temperatures must be at least 2, but is 1"):
        sandwich(model, num_temperatures=(1, 5))
    with pytest.raises(ValueError, match="num_temperatures must be at least 2, but is 0"):
        sandwich(model, num_temperatures=())
    with pytest.raises(ValueError, match=r"proposal must be one of encoder, .*, but is 'best'"):
        sandwich(model, proposal="best")
