"""Expectation maximization: it climbs, it meets its oracles, and it says what it had to mend."""

import copy
import functools
import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from helpers import data_set
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.decomposition import FactorAnalysis as Oracle
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as GaussianOracle

from logpx import FactorAnalysis, LogpxError
from logpx.em import EMModel, Iteration, fit_em
from logpx.em.climb import MAX_RESEEDS, Climb
from logpx.em.passes import ROWS, Passes
from logpx.exact import BernoulliMixture, GaussianMixture, ProbabilisticPCA

KINDS = ("full", "diagonal", "tied")
# How far rounding may lower a log-likelihood per datum, in nats, in float64.
ROUNDING = 1e-9


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def binary(n=60, num_dims=8, seed=0):
    """Draws from three Bernoulli vectors in turn."""
    p = torch.sigmoid(2 * random(3, num_dims, seed=seed))[torch.arange(n) % 3]
    return (
        torch.rand(n, num_dims, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64) < p
    ).double()


def clusters(n=150, num_dims=2, seed=0):
    """Draws from three Gaussians of various widths in turn."""
    centers, widths = 3 * random(3, num_dims, seed=seed), torch.tensor([0.5, 1.0, 1.5]).double()
    index = torch.arange(n) % 3
    return centers[index] + widths[index, None] * random(n, num_dims, seed=seed + 1)


def linear(n=200, num_dims=6, num_latents=2, seed=0):
    noise = 0.3 + torch.rand(num_dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return 1 + random(n, num_latents) @ random(num_latents, num_dims, seed=1) + noise * random(n, num_dims, seed=2)


def digits():
    images = load_digits().images
    return torch.from_numpy(images >= 8).double()


MODELS = {
    "bernoulli": (lambda: BernoulliMixture.blank(3, 8), binary()),
    "bernoulli of no pseudo-count": (lambda: BernoulliMixture.blank(3, 8, pseudo_count=0.0), binary()),
    **{kind: (lambda kind=kind: GaussianMixture.blank(3, 2, kind), clusters()) for kind in KINDS},
    "factor analysis": (lambda: FactorAnalysis.blank(2, 6), linear()),
    "probabilistic pca": (lambda: ProbabilisticPCA.blank(2, 6), linear()),
}
each_model = pytest.mark.parametrize("blank,x", MODELS.values(), ids=list(MODELS))


def falls(history):
    """Returns by how much the penalized log-likelihood falls within segments, in nats per datum."""
    pairs = itertools.pairwise(history)
    return [a.penalized - b.penalized for a, b in pairs if (a.start, a.segment) == (b.start, b.segment)]


def assert_climbs(history):
    assert all(fall <= ROUNDING * (1 + abs(history[-1].penalized)) for fall in falls(history)), falls(history)


# ---------------------------------------------------------------- the theorem: EM climbs


@each_model
def test_the_likelihood_never_falls_and_the_elbo_touches_it_after_each_e_step(blank, x):
    fit = fit_em(blank(), x, restarts=2, tolerance=1e-7, seed=1)
    assert fit.converged
    assert len(fit.history) > 6
    assert_climbs(fit.history)
    previous = None
    for row in fit.history:
        assert row.elbo_after == pytest.approx(row.log_evidence, rel=1e-10)
        if row.iteration == 0:
            assert row.elbo_before is None
        else:
            # the M-step raised the ELBO from log p(x), or kept it where the prior pulls; the E-step closed the gap
            assert row.elbo_before <= row.log_evidence + ROUNDING
            penalty = row.penalized - row.log_evidence
            assert row.elbo_before + penalty >= previous.penalized - ROUNDING
        previous = row


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 30),
    num_dims=st.integers(1, 6),
    num_components=st.integers(1, 8),
    pseudo_count=st.sampled_from([0.0, 0.1, 1.0, 10.0]),
    density=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_bernoullis_climb_on_any_binary_data(n, num_dims, num_components, pseudo_count, density, seed):
    draws = torch.rand(n, num_dims, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    model = BernoulliMixture.blank(num_components, num_dims, pseudo_count)
    fit = fit_em(model, (draws < density).double(), restarts=1, seed=seed, max_iterations=60)
    assert_climbs(fit.history)
    assert fit.model.probabilities.min() > 0 and fit.model.probabilities.max() < 1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 30),
    num_dims=st.integers(1, 4),
    num_components=st.integers(1, 6),
    kind=st.sampled_from(KINDS),
    num_different=st.integers(1, 30),
    constant=st.booleans(),
    scale=st.sampled_from([1e-3, 1.0, 1e2]),
    seed=st.integers(0, 1000),
)
def test_gaussians_climb_on_any_data(n, num_dims, num_components, kind, num_different, constant, scale, seed):
    """Also with more components than data, fewer data than dimensions, duplicates, and dimensions that are constant.

    A variance at the floor is known up to the rounding of the largest one, by which the likelihood may fall.
    """
    x = scale * random(n, num_dims, seed=seed)[torch.arange(n) % num_different]
    if constant:
        x[:, 0] = 3.0
    fit = fit_em(GaussianMixture.blank(num_components, num_dims, kind), x, restarts=1, seed=seed, max_iterations=60)
    rounding = 100 * torch.finfo(torch.float64).eps * scale**2 / fit.model.variance_floor
    assert max(falls(fit.history), default=0) <= ROUNDING * (1 + abs(fit.history[-1].penalized)) + rounding
    assert torch.isfinite(fit.model.log_evidence(x)).all()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 30),
    num_dims=st.integers(1, 6),
    num_latents=st.integers(1, 8),
    isotropic=st.booleans(),
    constant=st.booleans(),
    restarts=st.integers(1, 2),
    seed=st.integers(0, 1000),
)
def test_linear_models_climb_on_any_data(n, num_dims, num_latents, isotropic, constant, restarts, seed):
    x = random(n, num_dims, seed=seed)
    if constant:
        x[:, 0] = 3.0
    kind = ProbabilisticPCA if isotropic else FactorAnalysis
    # the floor is high, because at 1e-6 the determinants of singular data cost six digits
    model = kind.blank(num_latents, num_dims, variance_floor=1e-3)
    fit = fit_em(model, x, restarts=restarts, seed=seed, max_iterations=60)
    assert_climbs(fit.history)


def test_at_the_fixed_point_of_bernoullis_the_penalized_likelihood_has_no_gradient():
    x = binary(300)
    fit = fit_em(BernoulliMixture.blank(3, 8, pseudo_count=0.5), x, tolerance=1e-15, max_iterations=5000)
    logits = fit.model.logits.clone().requires_grad_()
    raw = fit.model.weights.log().requires_grad_()
    model = BernoulliMixture(torch.softmax(raw, 0), torch.sigmoid(logits), pseudo_count=0.5)
    with torch.enable_grad():
        height = (model.log_evidence(x).sum() + model.log_penalty()) / len(x)
    gradients = torch.autograd.grad(height, (raw, logits))
    assert max(gradient.abs().max().item() for gradient in gradients) < 1e-6
    assert height.item() == pytest.approx(fit.history[-1].penalized)


# ---------------------------------------------------------------- oracles


def oracle(kind, model, x, num_iterations):
    name = {"full": "full", "diagonal": "diag", "tied": "tied"}[kind]
    precisions = 1 / model.covariances if kind == "diagonal" else torch.linalg.inv(model.covariances)
    fitted = GaussianOracle(
        model.num_components,
        covariance_type=name,
        tol=0,
        reg_covar=0,
        max_iter=num_iterations,
        weights_init=model.weights.numpy(),
        means_init=model.means.numpy(),
        precisions_init=precisions.numpy(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fitted.fit(x.numpy())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_iterations", [1, 30])
def test_gaussians_are_those_of_scikit_learn_after_the_same_iterations_from_the_same_start(kind, num_iterations):
    x = clusters(num_dims=3)
    model = GaussianMixture.blank(4, 3, kind)
    model.initialize(x, seed=5)
    expected = oracle(kind, model, x, num_iterations)
    fit = fit_em(model, x, restarts=0, tolerance=0, max_iterations=num_iterations + 1)
    assert len(fit.history) == num_iterations + 1 and fit.events == ()
    assert np.allclose(fit.model.weights, expected.weights_, rtol=1e-8)
    assert np.allclose(fit.model.means, expected.means_, rtol=1e-8)
    assert np.allclose(fit.model.covariances, expected.covariances_, rtol=1e-7)
    assert fit.history[-1].log_evidence == pytest.approx(expected.score(x.numpy()), rel=1e-10)


def test_factor_analysis_reaches_the_likelihood_of_scikit_learn():
    x = linear(400)
    expected = Oracle(2, tol=1e-12, max_iter=20_000).fit(x.numpy())
    fits = [fit_em(FactorAnalysis.blank(2, 6), x, restarts=n, tolerance=1e-12, max_iterations=20_000) for n in (1, 2)]
    for fit in fits:
        assert fit.history[-1].log_evidence == pytest.approx(expected.score(x.numpy()), abs=1e-7)
        ours = fit.model.loading @ fit.model.loading.T + torch.diag(fit.model.noise_scale**2)
        assert np.allclose(ours, expected.get_covariance(), atol=1e-3)
        assert np.allclose(fit.model.mean, expected.mean_, atol=1e-6)


def test_probabilistic_pca_climbs_from_random_loadings_to_the_principal_components():
    x = linear(400)
    values, vectors = (part.flip(-1) for part in torch.linalg.eigh(torch.cov(x.T, correction=0)))
    start = ProbabilisticPCA(random(6, 2), torch.zeros(6).double(), torch.ones(()).double())
    fit = fit_em(start, x, restarts=0, tolerance=1e-14, max_iterations=5000)
    model = fit.model
    assert fit.history[0].log_evidence < fit.history[-1].log_evidence - 1
    assert torch.allclose(model.noise_scale**2, values[2:].mean().expand(6), rtol=1e-6)
    # W W' = U (Lambda - sigma^2 I) U'
    best = vectors[:, :2] @ torch.diag(values[:2] - values[2:].mean()) @ vectors[:, :2].T
    assert torch.allclose(model.loading @ model.loading.T, best, atol=1e-4)
    # scikit-learn divides by n - 1, where maximum likelihood divides by n
    score = PCA(2).fit(x.numpy()).score(x.numpy())
    assert score == pytest.approx(fit.history[-1].log_evidence, abs=1e-4)
    assert score <= fit.history[-1].log_evidence


def test_a_single_component_is_fitted_in_one_iteration_by_the_moments_of_the_data():
    x = clusters()
    full = fit_em(GaussianMixture.blank(1, 2), x).model
    assert torch.allclose(full.means[0], x.mean(0))
    assert torch.allclose(full.covariances[0], torch.cov(x.T, correction=0))
    bits = binary()
    model = fit_em(BernoulliMixture.blank(1, 8), bits).model
    assert torch.allclose(model.probabilities[0], (bits.sum(0) + 1) / 62)


def test_bernoullis_recover_the_parameters_that_made_the_data():
    """Standard errors are below 0.5 / sqrt(2400) = 0.010 for probabilities; 5 of them in 24 fail with 1e-5."""
    true = torch.tensor([[0.9] * 6 + [0.1] * 6, [0.1] * 6 + [0.9] * 6, [0.9, 0.1] * 6]).double()
    index = torch.multinomial(torch.tensor([0.5, 0.3, 0.2]), 12_000, replacement=True, generator=seeded(0))
    x = (torch.rand(12_000, 12, generator=seeded(1), dtype=torch.float64) < true[index]).double()
    model = fit_em(BernoulliMixture.blank(3, 12), x, tolerance=1e-8).model
    order = torch.cdist(true, model.probabilities).argmin(1)
    assert sorted(order.tolist()) == [0, 1, 2]
    assert (model.probabilities[order] - true).abs().max() < 0.05
    assert torch.allclose(model.weights[order], torch.tensor([0.5, 0.3, 0.2]).double(), atol=0.03)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- one code for all data, batches and streams


def same_parameters(a, b, **tolerance):
    return all(torch.allclose(value, b.state_dict()[name], **tolerance) for name, value in a.state_dict().items())


@each_model
def test_data_in_parts_give_the_fit_of_data_at_once(blank, x):
    whole = fit_em(blank(), x, restarts=2, max_iterations=12, restart_iterations=3)
    for parts in ([x[:7], x[7:8], x[8:]], list(x.split(11))):
        fit = fit_em(blank(), parts, restarts=2, max_iterations=12, restart_iterations=3)
        assert same_parameters(fit.model, whole.model, rtol=1e-8, atol=1e-10)
        assert len(fit.history) == len(whole.history) and fit.num_data == len(x)
        assert fit.history[-1].penalized == pytest.approx(whole.history[-1].penalized, rel=1e-10)


def test_more_data_than_the_e_step_sees_at_once_give_the_same_fit():
    x = binary(ROWS + 500)
    parts = [part.clone() for part in x.split(3000)]
    whole, fit = (fit_em(BernoulliMixture.blank(3, 8), data, restarts=1, max_iterations=5) for data in (x, parts))
    assert same_parameters(fit.model, whole.model, rtol=1e-9)


def test_a_split_bytes_and_floats_give_the_same_fit():
    x = binary(90).reshape(90, 2, 4)
    split = data_set(x.to(torch.uint8), x[:0].to(torch.uint8), x.to(torch.uint8), "binary", 2).split("train")
    fits = [fit_em(BernoulliMixture.blank(3, (2, 4)), data) for data in (split, x.to(torch.uint8), x.bool(), x.float())]
    assert all(same_parameters(fit.model, fits[0].model, rtol=0, atol=0) for fit in fits)
    exact = fit_em(BernoulliMixture.blank(3, (2, 4)), x)
    assert same_parameters(exact.model, fits[0].model, atol=1e-3)


def test_a_fit_in_float32_climbs_up_to_the_rounding_of_float32():
    x = digits()[:600].float()
    fit = fit_em(BernoulliMixture.blank(10, (8, 8)), x, tolerance=0, max_iterations=60, restarts=1)
    assert max(falls(fit.history)) < 1e-5
    double = fit_em(BernoulliMixture.blank(10, (8, 8)), x.double(), tolerance=0, max_iterations=60, restarts=1)
    assert fit.history[-1].penalized == pytest.approx(double.history[-1].penalized, abs=1e-2)
    assert all(row.elbo_after == pytest.approx(row.log_evidence, abs=1e-4) for row in fit.history)


def test_parameters_in_float32_are_fitted_too():
    model = GaussianMixture(torch.tensor([0.5, 0.5]), torch.zeros(2, 2), torch.ones(2, 2), "diagonal")
    fit = fit_em(model, clusters().float(), restarts=2)
    assert fit.model.means.dtype == torch.float32
    assert max(falls(fit.history)) < 1e-5
    assert fit_em(FactorAnalysis(torch.zeros(6, 2), torch.zeros(6), torch.ones(6)), linear().float()).converged


class Stream:
    """Data that are never all in memory: made anew in every pass, part by part."""

    def __init__(self, num_parts=10, size=200):
        self.num_parts, self.size, self.passes = num_parts, size, 0

    def __iter__(self):
        self.passes += 1
        for number in range(self.num_parts):
            yield (
                binary(self.size, seed=0)
                if number == 0
                else binary(self.size, seed=0)[torch.randperm(self.size, generator=seeded(number))]
            )


def test_a_stream_is_passed_over_once_for_each_iteration_and_once_for_the_start():
    stream = Stream()
    fit = fit_em(BernoulliMixture.blank(3, 8), stream, restarts=1, max_iterations=4, tolerance=0)
    assert stream.passes == 5 and len(fit.history) == 4 and fit.num_data == 2000
    stream = Stream()
    fit = fit_em(BernoulliMixture.blank(3, 8), stream, restarts=1, max_iterations=4, tolerance=0, batch_size=50)
    assert stream.passes == 5 and [row.iteration for row in fit.history] == [1, 2, 3, 4]


def test_online_em_comes_close_to_that_of_all_data_in_fewer_passes():
    x = digits()
    options = {"restarts": 1, "seed": 3}
    batch = fit_em(BernoulliMixture.blank(10, (8, 8)), x, max_iterations=200, tolerance=1e-6, **options)
    online = fit_em(BernoulliMixture.blank(10, (8, 8)), x, batch_size=100, max_iterations=10, tolerance=0, **options)
    early = fit_em(BernoulliMixture.blank(10, (8, 8)), x, max_iterations=3, tolerance=0, **options)
    heights = [fit.model.log_evidence(x).mean().item() for fit in (batch, online, early)]
    assert heights[1] > heights[0] - 0.3
    assert heights[1] > heights[2] + 0.3
    rows = online.history
    assert all(row.elbo_before is None and row.elbo_after == pytest.approx(row.log_evidence) for row in rows)
    assert rows[-1].log_evidence == pytest.approx(heights[1], abs=0.3)


def climb_of(*heights):
    climb = Climb.__new__(Climb)
    climb.history = [Iteration(0, i, 0, h, h, None, h, ()) for i, h in enumerate(heights)]
    return climb


def test_a_fall_in_online_em_is_no_convergence():
    fall, rise, still = climb_of(-3.0, -3.5), climb_of(-3.5, -3.0), climb_of(-3.0, -3.00001)
    assert [climb.has_converged(1e-4, is_online=True) for climb in (fall, rise, still)] == [False, False, True]
    # a fall of EM over all data is one by rounding
    assert fall.has_converged(1e-4, is_online=False) and not rise.has_converged(1e-4, is_online=False)
    assert not climb_of(-3.0).has_converged(1e-4, is_online=True)


def test_online_em_goes_on_after_a_fall():
    # steps that fall slowly lose on the way
    options = {"batch_size": 10, "step_power": 0.51, "restarts": 1, "tolerance": 1e-4}
    fit = fit_em(BernoulliMixture.blank(6, 8), binary(), max_iterations=60, **options)
    gains = np.diff([row.penalized for row in fit.history])
    assert (gains[:-1] < -1e-3).any()
    assert not (np.abs(gains[:-1]) < 1e-4).any()
    assert fit.converged == (abs(gains[-1]) < 1e-4)


def test_one_online_step_is_the_weighted_mean_of_the_sums():
    x, blank = binary(40), BernoulliMixture.blank(3, 8)
    blank.initialize(x)
    expected, gamma = copy.deepcopy(blank), 10**-0.6
    # the start and the only batch are all data, so the mean of both is that of the data
    sums = blank.statistics(x)
    assert gamma < 1
    expected.maximize(sums)
    fit = fit_em(blank, x, restarts=0, batch_size=40, step_power=0.6, max_iterations=1)
    assert same_parameters(fit.model, expected, rtol=1e-10)
    # in a second pass, the sums of the start count (1 - gamma_2)
    gamma = 11**-0.6
    mean = sums * (1 - gamma) + expected.statistics(x) * gamma
    expected.maximize(mean)
    fit = fit_em(blank, x, restarts=0, batch_size=40, step_power=0.6, max_iterations=2, tolerance=0)
    assert same_parameters(fit.model, expected, rtol=1e-10)


@pytest.mark.parametrize("name", ["full", "tied", "factor analysis"])
def test_online_em_of_reals_comes_close_too(name):
    blank, _ = MODELS[name]
    x = clusters(3000) if name in KINDS else linear(3000)
    batch = fit_em(blank(), x, tolerance=1e-8, restarts=1)
    online = fit_em(blank(), x, batch_size=100, max_iterations=10, tolerance=0, restarts=1)
    assert online.model.log_evidence(x).mean() > batch.history[-1].log_evidence - 0.02


def test_dynamic_data_are_fixed_for_all_at_once_and_fresh_online():
    greys = torch.rand(50, 2, 4, generator=seeded(0))
    split = data_set(greys, greys[:0], greys).split("train", "dynamic")
    fit = fit_em(BernoulliMixture.blank(2, (2, 4)), split, tolerance=0, max_iterations=20)
    assert max(falls(fit.history)) < 1e-5
    seen = [torch.cat(list(Passes(split, torch.device("cpu")).shuffled(20, epoch))) for epoch in (0, 1)]
    assert all(part.shape == (50, 2, 4) for part in seen)
    assert seen[0].sum() != seen[1].sum()
    fixed = [torch.cat(list(Passes(split, torch.device("cpu")).in_order())) for _ in range(2)]
    assert torch.equal(fixed[0], fixed[1]) and torch.equal(fixed[0], split.batch(torch.arange(50)).x)


# ---------------------------------------------------------------- the sample that starts are drawn from


def test_a_sample_does_not_depend_on_the_parts_of_the_data():
    x = torch.arange(1000.0).unsqueeze(-1)
    samples = [
        Passes(data, torch.device("cpu"), seed=4).sample(50) for data in (x, list(x.split(7)), [x[:999], x[999:]])
    ]
    assert all(torch.equal(sample, samples[0][0]) and num == 1000 for sample, num in samples)
    assert len(samples[0][0].unique()) == 50
    assert not torch.equal(Passes(x, torch.device("cpu"), seed=5).sample(50)[0], samples[0][0])
    assert sorted(Passes(x, torch.device("cpu")).sample(2000)[0].flatten().tolist()) == x.flatten().tolist()


def test_every_datum_is_as_likely_to_be_in_the_sample():
    """Chi-square of 20 inclusion counts over 1,000 samples of 5 of 20, false-alarm rate 1e-3."""
    x, counts = torch.arange(20.0).unsqueeze(-1), torch.zeros(20)
    for seed in range(1000):
        sample, _ = Passes(list(x.split(6)), torch.device("cpu"), seed).sample(5)
        counts += torch.bincount(sample.flatten().long(), minlength=20)
    # inclusions without replacement have variance n p (1 - p), and 19 degrees of freedom of scale 20 / 19
    statistic = ((counts - 250).square() / (1000 * 0.25 * 0.75)).sum().item() * 19 / 20
    assert chi2(19).sf(statistic) > 1e-3


# ---------------------------------------------------------------- starts and seeds


def test_the_best_start_is_the_one_that_goes_on():
    x = clusters(num_dims=3)
    fit = fit_em(GaussianMixture.blank(6, 3), x, restarts=5, restart_iterations=4, seed=2)
    heights = {row.start: row.penalized for row in fit.history if row.iteration == 3}
    assert sorted(heights) == [0, 1, 2, 3, 4] and len(set(heights.values())) > 1
    assert fit.history[-1].start == max(heights, key=heights.get)
    lengths = [sum(row.start == start for row in fit.history) for start in range(5)]
    assert sorted(lengths)[:4] == [4] * 4 and max(lengths) > 4
    # the rows of each start stand together, from 0 on
    assert [row.iteration for row in fit.history] == [
        i for s in dict.fromkeys(r.start for r in fit.history) for i in range(lengths[s])
    ]


@each_model
def test_the_last_row_is_that_of_the_model_as_it_is(blank, x):
    for restarts in (1, 3):
        fit = fit_em(blank(), x, restarts=restarts)
        assert fit.history[-1].log_evidence == pytest.approx(fit.model.log_evidence(x).mean().item(), rel=1e-12)
        assert fit.converged and fit.history[-1].penalized - fit.history[-2].penalized < 1e-4


@each_model
def test_a_fit_depends_on_the_seed_alone_and_leaves_all_else_as_it_was(blank, x):
    model = blank()
    before, state, data = copy.deepcopy(model.state_dict()), torch.get_rng_state(), x.clone()
    fits = [
        fit_em(model, x, restarts=2, max_iterations=6, restart_iterations=2, batch_size=size)
        for size in (None, None, 16, 16)
    ]
    assert same_parameters(fits[0].model, fits[1].model, rtol=0, atol=0) and fits[0].history == fits[1].history
    assert same_parameters(fits[2].model, fits[3].model, rtol=0, atol=0) and fits[2].history == fits[3].history
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(x, data)
    other = fit_em(model, x, restarts=2, max_iterations=6, restart_iterations=2, seed=1)
    assert other.history != fits[0].history


def test_the_parameters_count_without_restarts_and_only_then():
    x = clusters()
    model = GaussianMixture(
        torch.tensor([0.5, 0.5]).double(),
        torch.tensor([[50.0, 50], [-50, -50]]).double(),
        torch.ones(2, 2).double(),
        "diagonal",
    )
    own = fit_em(model, x, restarts=0)
    assert own.history[0].log_evidence == pytest.approx(model.log_evidence(x).mean().item())
    assert fit_em(model, x, restarts=1).history[0].log_evidence > own.history[0].log_evidence + 100


def test_a_fit_ends_at_the_limit_or_when_it_is_told_to():
    x, rows = clusters(), []
    fit = fit_em(GaussianMixture.blank(3, 2), x, max_iterations=4, tolerance=0, restarts=1)
    assert len(fit.history) == 4 and not fit.converged
    assert "after 3 iterations of start 1, not converged: mean log p(x) of 150 data" in str(fit)
    told = fit_em(GaussianMixture.blank(3, 2), x, restarts=2, each=lambda row: rows.append(row) or len(rows) == 3)
    assert len(told.history) == 3 and not told.converged and tuple(rows) == told.history
    rows.clear()
    told = fit_em(
        GaussianMixture.blank(3, 2),
        x,
        restarts=2,
        restart_iterations=2,
        each=lambda row: rows.append(row) or len(rows) == 3,
    )
    # the second start was cut short; the rows of the better one are the last
    assert sorted(told.history) == sorted(rows)
    assert told.history[-1].log_evidence == pytest.approx(told.model.log_evidence(x).mean().item())


def test_a_bar_is_shown_when_it_is_asked_for(capsys):
    fit_em(GaussianMixture.blank(3, 2), clusters(), max_iterations=3, progress=True)
    shown = capsys.readouterr()
    assert shown.out == "" and "em" in shown.err and "log p(x)" in shown.err
    fit_em(GaussianMixture.blank(3, 2), clusters(), max_iterations=3)
    assert capsys.readouterr().err == ""


# ---------------------------------------------------------------- a fit that was told to end goes on


def ends_at(rows, num, row):
    rows.append(row)
    return len(rows) == num


@each_model
@pytest.mark.parametrize("batch_size", [None, 16])
def test_a_fit_that_goes_on_reaches_the_result_of_one_that_was_left_alone(blank, x, batch_size, tmp_path):
    options = {"batch_size": batch_size, "restarts": 2, "restart_iterations": 3, "max_iterations": 8, "tolerance": 0}
    whole = fit_em(blank(), x, **options)
    state = None
    for ends_after in (1, 2, 1, 3, 99):
        rows = []
        each = functools.partial(ends_at, rows, ends_after)
        fit = fit_em(blank(), x, state=state, each=each, **options)
        assert fit.was_told_to_end == (len(rows) == ends_after)
        torch.save(fit.state, tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert fit.history == whole.history
    assert same_parameters(fit.model, whole.model, rtol=0, atol=0)


def test_a_fit_that_goes_on_remembers_what_was_mended():
    x = clusters(6, num_dims=8)
    options = {"restarts": 1, "max_iterations": 12, "tolerance": 0}
    whole = fit_em(GaussianMixture.blank(9, 8), x, **options)
    part = fit_em(GaussianMixture.blank(9, 8), x, each=lambda row: row.iteration == 4, **options)
    fit = fit_em(GaussianMixture.blank(9, 8), x, state=part.state, **options)
    assert whole.events and fit.events == whole.events and fit.history == whole.history


def test_an_ended_fit_goes_on_where_its_choice_is_made_already():
    """Where the start that was chosen falls behind another by a mend, it is still the one that goes on."""
    x = clusters(num_dims=3)
    options = {"restarts": 3, "restart_iterations": 2, "tolerance": 0, "seed": 2}
    part = fit_em(GaussianMixture.blank(6, 3), x, max_iterations=4, **options)
    chosen = [len(climb["history"]) for climb in part.state["climbs"]]
    lowered = copy.deepcopy(part.state)
    climb = lowered["climbs"][chosen.index(4)]
    climb["history"][-1] = Iteration(*climb["history"][-1])._replace(penalized=-1e9, segment=9)
    fit = fit_em(GaussianMixture.blank(6, 3), x, max_iterations=6, state=lowered, **options)
    assert [len(climb["history"]) for climb in fit.state["climbs"]] == [6 if n == 4 else 2 for n in chosen]


# ---------------------------------------------------------------- what goes wrong is mended and reported


def test_pixels_that_are_never_on_leave_test_data_possible():
    x = binary(50)
    x[:, 3] = 0
    test = torch.ones(1, 8, dtype=torch.float64)
    fit = fit_em(BernoulliMixture.blank(3, 8), x)
    assert fit.events == ()
    assert -20 < fit.model.log_evidence(test).item() < 0
    free = fit_em(BernoulliMixture.blank(3, 8, pseudo_count=0.0), x)
    assert any("probabilities at the bounds 1e-06" in event for event in free.events)
    assert -60 < free.model.log_evidence(test).item() < -13


def test_an_empty_component_starts_anew_in_a_new_segment():
    x = clusters()
    model = GaussianMixture(
        torch.full((3,), 1 / 3).double(),
        torch.tensor([[0.0, 0.0], [3.0, 3.0], [1e4, 1e4]]).double(),
        torch.ones(3, 2).double(),
        "diagonal",
    )
    fit = fit_em(model, x, restarts=0)
    assert fit.events == (
        "Start 1, iteration 1: Component 2 was empty and starts anew at a datum that is explained badly.",
    )
    assert [row.segment for row in fit.history] == [0] + [1] * (len(fit.history) - 1)
    assert_climbs(fit.history)
    assert fit.model.weights.min() > 0.05


def test_a_component_that_is_empty_again_and_again_is_left_empty():
    x = torch.ones(40, 4, dtype=torch.float64)

    class Shy(BernoulliMixture):
        """Its component 1 explains nothing, whatever it is given."""

        def _log_likelihoods(self, values):
            return super()._log_likelihoods(values) + torch.tensor([0.0, -1e3])

    model = Shy(torch.tensor([0.5, 0.5]).double(), torch.full((2, 4), 0.5).double())
    # where something was mended, a small gain does not end the fit
    fit = fit_em(model, x, restarts=0)
    assert fit.converged and len(fit.history) < 20
    assert sum("starts anew" in event for event in fit.events) == MAX_RESEEDS
    assert f"Component 1 was empty again after {MAX_RESEEDS} new starts and stays so" in fit.events[-1]
    assert fit.history[-1].segment == MAX_RESEEDS + 1
    assert torch.isfinite(fit.model.probabilities).all()
    assert_climbs(fit.history)


def test_an_empty_component_starts_anew_online_too():
    x = clusters(600)
    model = GaussianMixture(
        torch.full((3,), 1 / 3).double(),
        torch.tensor([[0.0, 0.0], [3.0, 3.0], [1e4, 1e4]]).double(),
        torch.ones(3, 2).double(),
        "diagonal",
    )
    fit = fit_em(model, x, restarts=0, batch_size=50, max_iterations=5, tolerance=0)
    assert "starts anew" in fit.events[0]
    assert fit.model.weights.min() > 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_more_components_than_data_and_singular_data_are_fitted_and_reported(kind):
    x = clusters(6, num_dims=8)
    fit = fit_em(GaussianMixture.blank(9, 8, kind), x, restarts=1)
    assert any("of 8 variances would fall below the floor of 1e-06" in event for event in fit.events)
    assert fit.history[0].segment == 0
    if kind != "tied":
        assert any(event.endswith(" more components.") for event in fit.events)
        assert len(fit.events) <= 10
    assert torch.isfinite(fit.model.log_evidence(x)).all()
    assert_climbs(fit.history)


def test_the_floor_of_factor_analysis_is_reported_once():
    x = linear()
    x[:, 0] = 2.0
    fit = fit_em(FactorAnalysis.blank(2, 6), x, restarts=1)
    assert len(fit.events) == 1 and "1 of 6 noise variances would fall below the floor of 1e-06" in fit.events[0]
    assert fit.model.noise_scale[0].item() == pytest.approx(1e-3)
    assert fit.model.mean[0].item() == pytest.approx(2.0)


# ---------------------------------------------------------------- refusals


def test_greys_and_values_that_are_not_finite_are_refused():
    grey = binary()
    grey[-1, -1] = 0.25
    for size in (None, 10):
        with pytest.raises(ValueError, match=r"data of 0 and 1, but got 0\.25: binarize the data"):
            fit_em(BernoulliMixture.blank(3, 8), grey, batch_size=size, restarts=0)
    for value in (math.nan, math.inf):
        x = clusters()
        x[7, 1] = value
        with pytest.raises(ValueError, match=f"holds {value}"):
            fit_em(GaussianMixture.blank(3, 2), x)
        with pytest.raises(ValueError, match=f"holds {value}"):
            fit_em(FactorAnalysis.blank(1, 2), x)


def test_data_that_cannot_be_passed_over_again_are_refused():
    with pytest.raises(TypeError, match="a generator ends after once: give a tensor"):
        fit_em(BernoulliMixture.blank(3, 8), (part for part in binary().split(10)))
    with pytest.raises(TypeError, match="parts that are tensors, but got a list"):
        fit_em(BernoulliMixture.blank(3, 8), [[1.0, 0.0]])
    for nothing in (binary()[:0], [], [binary()[:0]]):
        with pytest.raises(ValueError, match="EM needs data, but got none"):
            fit_em(BernoulliMixture.blank(3, 8), nothing)


def test_a_model_without_the_steps_is_refused():
    with pytest.raises(TypeError, match=r"EM needs a model with the methods initialize.*but Linear lacks some"):
        fit_em(torch.nn.Linear(2, 2), clusters())
    assert isinstance(BernoulliMixture.blank(2, 2), EMModel) and isinstance(FactorAnalysis.blank(2, 2), EMModel)


@pytest.mark.parametrize(
    "name,value",
    [
        ("max_iterations", 0),
        ("batch_size", 0),
        ("restarts", -1),
        ("restart_iterations", 0),
        ("tolerance", -1.0),
        ("tolerance", math.nan),
    ],
)
def test_options_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least [01], but is {value}"):
        fit_em(BernoulliMixture.blank(2, 8), binary(), **{name: value})


@pytest.mark.parametrize("power", [0.5, 1.1, math.nan])
def test_step_sizes_that_fall_too_slowly_or_fast_are_refused(power):
    with pytest.raises(ValueError, match=r"step_power must be above 0\.5 and at most 1"):
        fit_em(BernoulliMixture.blank(2, 8), binary(), step_power=power)


def test_a_likelihood_that_is_not_finite_stops_the_fit_with_a_cure():
    model = GaussianMixture(
        torch.ones(1).double(), torch.zeros(1, 1).double(), torch.full((1, 1), 1e-300, dtype=torch.float64), "diagonal"
    )
    with pytest.raises(
        LogpxError, match=r"mean log p\(x\) is -inf after 0 iterations of EM from start 1: rescale the data"
    ):
        fit_em(model, torch.full((3, 1), 1e10).double(), restarts=0)


@pytest.mark.parametrize("kind", KINDS)
def test_singular_data_of_any_scale_are_fitted(kind):
    for scale in (1e-8, 1e4, 1e8):
        x = scale * clusters(20, num_dims=4)
        x[:, 0], x[:, 1] = 0.5 * scale, x[:, 2]
        fit = fit_em(GaussianMixture.blank(3, 4, kind), x, max_iterations=30)
        assert fit.events
        assert torch.isfinite(fit.model.log_evidence(x)).all()


@pytest.mark.parametrize("name", [*KINDS, "factor analysis", "probabilistic pca"])
def test_data_far_from_zero_are_fitted_as_those_near_it(name):
    blank, x = MODELS[name]
    options = {"max_iterations": 20, "tolerance": 0, "restarts": 2}
    near, far = fit_em(blank(), x, **options), fit_em(blank(), x + 1e7, **options)
    # the data themselves keep 1e7 * 2^-53 = 1e-9
    assert far.history[-1].log_evidence == pytest.approx(near.history[-1].log_evidence, abs=1e-6)


def test_an_empty_component_starts_anew_where_data_are_explained_worst():
    x = clusters(60, seed=4)
    x[17] = torch.tensor([40.0, -40.0])
    means = torch.tensor([[0.0, 0.0], [1e4, 1e4]], dtype=torch.float64)
    model = GaussianMixture(torch.full((2,), 0.5).double(), means, torch.full((2, 2), 9.0).double(), "diagonal")
    fit = fit_em(model, x, restarts=0, max_iterations=2)
    assert torch.allclose(fit.model.means[1], x[17])


def test_more_empty_components_than_data_start_anew_at_the_same_data():
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    means = torch.tensor([[0.5], [1e5], [1e5], [1e5]], dtype=torch.float64)
    model = GaussianMixture(torch.full((4,), 0.25).double(), means, torch.ones(4, 1).double(), "diagonal")
    fit = fit_em(model, x, restarts=0, max_iterations=3)
    assert sum("starts anew" in event for event in fit.events) >= 3
    assert_climbs(fit.history)


def test_parts_of_a_stream_are_cut_to_the_batch_size():
    x = binary(90)
    options = {"restarts": 1, "max_iterations": 2, "tolerance": 0}
    cut = fit_em(BernoulliMixture.blank(3, 8), [x[:60], x[60:]], batch_size=20, **options)
    parts = [*x[:60].split(20), *x[60:].split(20)]
    assert same_parameters(
        cut.model, fit_em(BernoulliMixture.blank(3, 8), parts, batch_size=99, **options).model, rtol=1e-12
    )


def test_every_pass_in_batches_has_an_order_of_its_own_and_all_data():
    x = torch.arange(100.0).unsqueeze(-1)
    first, again, second = (torch.cat(list(Passes(x, torch.device("cpu")).shuffled(30, epoch))) for epoch in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, second) and not torch.equal(first, x)
    assert torch.equal(first.sort(0).values, x) and torch.equal(second.sort(0).values, x)
    assert [len(part) for part in Passes(x, torch.device("cpu")).shuffled(30, 0)] == [30, 30, 30, 10]
