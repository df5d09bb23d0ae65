"""Models of known evidence: densities, posteriors, draws, and the two steps of EM against the definition."""

import copy
import itertools
import math
from functools import partial

import pytest
import torch
from helpers import test_split
from scipy.stats import chi2, kstest, multivariate_normal
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from logpx import FactorAnalysis, elbo, encode, evaluate, log_weights, reconstruct, sample
from logpx.distributions import IndependentBernoulli
from logpx.evidence import importance
from logpx.exact import BernoulliMixture, GaussianMixture, Mixture, ProbabilisticPCA
from logpx.exact.covariances import COVARIANCES
from logpx.exact.selected import SelectedNormal
from logpx.exact.starts import nearest, seed_centers

KINDS = ("full", "diagonal", "tied")
ALL_BINARY = torch.tensor(list(itertools.product((0.0, 1.0), repeat=8)), dtype=torch.float64)
# The chance that one statistical test of this file fails although the code is right.
FALSE_ALARM = 1e-3


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def model(posterior_scale=1.0, latent_dim=3, num_dims=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    loading = torch.randn(num_dims, latent_dim, generator=generator, dtype=torch.float64)
    mean = torch.randn(num_dims, generator=generator, dtype=torch.float64)
    noise = 0.5 + torch.rand(num_dims, generator=generator, dtype=torch.float64)
    return FactorAnalysis(loading, mean, noise, posterior_scale)


def pca(seed=0):
    return ProbabilisticPCA(random(5, 3, seed=seed), random(5, seed=seed + 1), torch.tensor(0.7).double())


def gaussians(kind="full", num_components=3, num_dims=5, seed=0, shape=None, **options):
    square = random(num_components, num_dims, num_dims, seed=seed + 1)
    full = square @ square.mT / num_dims + 0.3 * torch.eye(num_dims)
    covariances = {"full": full, "tied": full[0], "diagonal": full.diagonal(dim1=1, dim2=2)}[kind]
    means = 2 * random(num_components, num_dims, seed=seed + 2)
    means = means if shape is None else means.reshape(num_components, *shape)
    return GaussianMixture(torch.softmax(random(num_components, seed=seed), 0), means, covariances, kind, **options)


def bernoullis(num_components=3, num_dims=8, seed=0, pseudo_count=1.0):
    probabilities = torch.sigmoid(1.5 * random(num_components, num_dims, seed=seed + 1))
    return BernoulliMixture(torch.softmax(random(num_components, seed=seed), 0), probabilities, pseudo_count)


def binary(n=30, num_dims=8, seed=3):
    return (random(n, num_dims, seed=seed) > 0).double()


# every model, and data that it can give
CASES = {
    "factor analysis": (model, random(30, 5, seed=3)),
    "probabilistic pca": (pca, random(30, 5, seed=3)),
    **{kind: (partial(gaussians, kind), 3 * random(30, 5, seed=3)) for kind in KINDS},
    "bernoulli": (bernoullis, binary()),
}
each_model = pytest.mark.parametrize("build,x", CASES.values(), ids=list(CASES))


# ---------------------------------------------------------------- densities


def test_the_evidence_is_that_of_the_joint_gaussian():
    fa = model()
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    covariance = fa.loading @ fa.loading.T + torch.diag(fa.noise_scale**2)
    expected = multivariate_normal(fa.mean.numpy(), covariance.numpy()).logpdf(x.numpy())
    assert torch.allclose(fa.log_evidence(x), torch.from_numpy(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_the_evidence_of_gaussians_is_the_weighted_mean_of_their_densities(kind):
    mixture, x = gaussians(kind), 3 * random(7, 5, seed=9)
    full = mixture.covariances.expand(3, 5, 5) if kind == "tied" else mixture.covariances
    full = torch.diag_embed(full) if kind == "diagonal" else full
    parts = zip(mixture.weights.tolist(), mixture.means.numpy(), full.numpy(), strict=True)
    expected = sum(w * multivariate_normal(mean, covariance).pdf(x.numpy()) for w, mean, covariance in parts)
    assert torch.allclose(mixture.log_evidence(x).exp(), torch.from_numpy(expected), rtol=1e-9)


def test_the_evidence_of_bernoullis_is_the_weighted_mean_of_products():
    mixture, x = bernoullis(), binary(7)
    p = mixture.probabilities
    products = torch.where(x[:, None] == 1, p, 1 - p).prod(-1)
    assert torch.allclose(mixture.log_evidence(x).exp(), products @ mixture.weights, rtol=1e-12)


def test_a_bernoulli_mixture_gives_all_binary_vectors_a_mass_of_one():
    assert bernoullis().log_evidence(ALL_BINARY).exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert bernoullis(num_components=1).log_evidence(ALL_BINARY).exp().sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_data_of_any_event_shape_have_the_density_of_flat_ones(kind):
    x = random(4, 6, seed=5)
    flat, shaped = gaussians(kind, num_dims=6), gaussians(kind, num_dims=6, shape=(1, 2, 3))
    assert torch.equal(shaped.log_evidence(x.reshape(4, 1, 2, 3)), flat.log_evidence(x))
    z = torch.eye(3).double()[torch.tensor([[0, 1, 2, 0], [2, 2, 1, 0]])]
    assert shaped.decoder(z).event_shape == (1, 2, 3)
    assert torch.equal(shaped.decoder(z).log_prob(x.reshape(4, 1, 2, 3)), flat.decoder(z).log_prob(x))


def test_factor_analysis_and_bernoullis_take_data_of_any_event_shape():
    x, fa = random(4, 6, seed=5), model(num_dims=6)
    shaped = FactorAnalysis(fa.loading.reshape(2, 3, 3), fa.mean.reshape(2, 3), fa.noise_scale.reshape(2, 3))
    assert torch.equal(shaped.log_evidence(x.reshape(4, 2, 3)), fa.log_evidence(x))
    z = random(2, 4, 3)
    assert torch.equal(shaped.decoder(z).log_prob(x.reshape(4, 2, 3)), fa.decoder(z).log_prob(x))
    mixture, bits = bernoullis(), binary(4)
    image = BernoulliMixture(mixture.weights, mixture.probabilities.reshape(3, 1, 2, 4))
    assert torch.equal(image.log_evidence(bits.reshape(4, 1, 2, 4)), mixture.log_evidence(bits))
    assert image.decoder(image.prior().sample((2, 4))).event_shape == (1, 2, 4)


# ---------------------------------------------------------------- the protocol: the posterior makes weights constant


@each_model
def test_under_the_exact_posterior_every_log_weight_is_the_evidence(build, x):
    exact = build()
    torch.manual_seed(0)
    assert torch.allclose(log_weights(exact, x, 20), exact.log_evidence(x).expand(20, 30), rtol=1e-12)


def test_a_wider_posterior_is_not_exact():
    assert log_weights(model(1.1), random(7, 5, seed=1), 20).std(0).min() > 0


@each_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_estimates_of_the_evidence_have_no_error_and_no_tail(build, x, dtype):
    evidence = importance(build(), x.to(dtype), 300)
    assert (evidence.standard_error == 0).all()
    assert (evidence.pareto_k == -math.inf).all()
    assert torch.allclose(evidence.log_evidence, build().log_evidence(x.to(dtype)), atol=1e-9)


@pytest.mark.parametrize("mixture,x", [(bernoullis(), binary()), (gaussians(), random(30, 5, seed=3))])
def test_the_posterior_of_a_mixture_is_that_of_bayes(mixture, x):
    each = torch.stack([mixture.decoder(z.expand(1, 30, 3)).log_prob(x)[0].exp() for z in torch.eye(3).double()], -1)
    joint = each * mixture.weights
    probs = mixture.encoder(x).probs
    assert torch.allclose(probs, joint / joint.sum(1, keepdim=True), atol=1e-12)
    assert torch.allclose(probs.sum(1), torch.ones(30).double(), atol=1e-12)


def test_a_component_of_no_weight_is_never_drawn_and_spoils_nothing():
    mixture = BernoulliMixture(torch.tensor([1.0, 0.0]).double(), bernoullis(2).probabilities)
    x = binary(4)
    alone = BernoulliMixture(torch.ones(1).double(), bernoullis(2).probabilities[:1])
    assert torch.allclose(mixture.log_evidence(x), alone.log_evidence(x))
    assert mixture.prior().sample((100,))[:, 1].sum() == 0
    assert torch.allclose(log_weights(mixture, x, 10), mixture.log_evidence(x).expand(10, 4))


@pytest.mark.parametrize("estimator", ["auto", "importance"])
def test_the_evaluation_of_a_mixture_says_that_it_is_exact(estimator):
    options = {"estimator": estimator, "num_samples": 60}
    record = evaluate(bernoullis(), test_split(binary(40).to(torch.uint8), "binary", 2), **options).record
    assert record["num_latents"] == (3 if estimator == "importance" else None)
    reals = test_split(random(40, 5).float())
    for each in (record, *(evaluate(gaussians(kind), reals, **options).record for kind in KINDS)):
        assert each["estimator"] == {"auto": "exact"}.get(estimator, estimator)
        assert each["log_evidence"]["monte_carlo_error"] == 0
        assert each["relaxed"] is None


@each_model
def test_the_elbo_of_the_encoder_is_the_evidence(build, x):
    with torch.no_grad():
        bound = elbo(build(), x, num_samples=3, kl="sampled")
    assert torch.allclose(bound, build().log_evidence(x), rtol=1e-12)


@each_model
def test_samples_reconstructions_and_codes_can_be_had_of_every_model(build, x):
    num_latents = 3
    assert sample(build(), 7).shape == (7, *x.shape[1:])
    assert reconstruct(build(), x).shape == x.shape
    kind, levels = ("binary", 2) if build is bernoullis else ("real", None)
    split = test_split(x.to(torch.uint8 if levels else torch.float32), kind, levels)
    codes = encode(build(), split)["mean"]
    assert codes.shape == (30, num_latents)
    if isinstance(build(), Mixture):
        assert torch.allclose(torch.from_numpy(codes).double(), build().encoder(x).probs, atol=1e-5)


def test_the_scale_multiplies_the_posteriors_standard_deviations():
    x = torch.zeros(1, 5, dtype=torch.float64)
    assert torch.allclose(model(1.5).encoder(x).stddev, 1.5 * model().encoder(x).stddev)


@each_model
def test_weights_go_through_a_state_dict(build, x):
    other = build(seed=7)
    assert not torch.equal(other.log_evidence(x), build().log_evidence(x))
    other.load_state_dict(build().state_dict())
    assert torch.equal(other.log_evidence(x), build().log_evidence(x))


# ---------------------------------------------------------------- draws


def p_value(counts, expected):
    statistic = ((counts - expected).square() / expected).sum().item()
    return chi2(len(counts) - 1).sf(statistic)


def test_draws_of_a_bernoulli_mixture_follow_its_masses():
    mixture, n = bernoullis(), 100_000
    torch.manual_seed(0)
    x = mixture.decoder(mixture.prior().sample((1, n))).sample()[0]
    counts = torch.bincount((x @ 2.0 ** torch.arange(7, -1, -1).double()).long(), minlength=256)
    expected = n * mixture.log_evidence(ALL_BINARY).exp()
    assert expected.min() > 5
    assert p_value(counts, expected) > FALSE_ALARM


@pytest.mark.parametrize("kind", KINDS)
def test_draws_of_gaussians_follow_their_components(kind):
    """Whitened by the component's own mean and root, draws are standard normal in each of 5 dimensions."""
    mixture, n = gaussians(kind), 20_000
    torch.manual_seed(0)
    z = mixture.prior().sample((1, n))
    index, x = z.argmax(-1)[0], mixture.decoder(z).sample()[0]
    assert p_value(torch.bincount(index, minlength=3), n * mixture.weights) > FALSE_ALARM
    full = mixture.covariances.expand(3, 5, 5) if kind == "tied" else mixture.covariances
    root = torch.linalg.cholesky(torch.diag_embed(full) if kind == "diagonal" else full)[index]
    e = torch.linalg.solve_triangular(root, (x - mixture.means[index]).unsqueeze(-1), upper=False).squeeze(-1)
    assert all(kstest(column.numpy(), "norm").pvalue > FALSE_ALARM / 6 for column in e.T)
    # correlations of n standard normal pairs have standard error 1 / sqrt(n); z of 4.5 over 10 pairs fails with 7e-5
    correlation = torch.corrcoef(e.T) - torch.eye(5)
    assert correlation.abs().max() < 4.5 / math.sqrt(n)


def selected():
    mixture = gaussians("full")
    index = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 0]])
    truth = MultivariateNormal(mixture.means[index], mixture.covariances[index])
    return SelectedNormal(index, mixture.means, mixture.roots), truth


def test_a_selected_normal_is_the_multivariate_normal_of_its_component():
    p, truth = selected()
    for value in (random(4, 5), random(2, 4, 5), random(5), random(3, 2, 4, 5)):
        assert torch.allclose(p.log_prob(value), truth.log_prob(value), rtol=1e-12)
    assert torch.equal(p.mean, truth.mean) and torch.equal(p.mode, truth.mode)
    assert torch.allclose(p.variance, truth.variance)
    assert torch.allclose(p.stddev, truth.stddev)
    wide = p.expand((3, 2, 4))
    assert wide.batch_shape == (3, 2, 4) and wide.sample((6,)).shape == (6, 3, 2, 4, 5)
    assert torch.allclose(wide.log_prob(random(4, 5)), truth.log_prob(random(4, 5)).expand(3, 2, 4))
    assert p.support.check(random(4, 5)).all() and not p.support.is_discrete


# ---------------------------------------------------------------- the steps of EM


@each_model
def test_sums_of_two_parts_of_the_data_add(build, x):
    exact = build()
    whole, parts = exact.statistics(x), exact.statistics(x[:11]) + exact.statistics(x[11:])
    assert whole.num_data == 30 and parts.num_data == 30
    for name in ("log_evidence", "entropy"):
        assert torch.allclose(getattr(whole, name), getattr(parts, name), rtol=1e-12)
    assert all(torch.allclose(whole.moments[name], parts.moments[name], rtol=1e-12) for name in whole.moments)
    half = whole * 0.5
    assert half.num_data == 15 and all(
        torch.equal(2 * half.moments[name], whole.moments[name]) for name in half.moments
    )


@each_model
def test_the_elbo_of_the_sums_is_the_evidence_less_the_divergence_of_the_posteriors(build, x):
    """E_r[log p'(x, z)] + H(r) = log p'(x) - KL(r || p'(z | x)), for r = p(z | x) of any other parameters."""
    ours, theirs = build(), build(seed=5)
    sums = ours.statistics(x)
    assert torch.allclose(ours.expected_log_joint(sums) + sums.entropy, sums.log_evidence, rtol=1e-12)
    assert torch.allclose(sums.log_evidence, ours.log_evidence(x).sum(), rtol=1e-12)
    gap = kl_divergence(ours.encoder(x), theirs.encoder(x)).sum()
    assert gap > 1
    assert torch.allclose(theirs.expected_log_joint(sums) + sums.entropy, theirs.log_evidence(x).sum() - gap, rtol=1e-9)


def objective(exact, sums):
    return (exact.expected_log_joint(sums) + exact.log_penalty()).item()


@each_model
def test_no_step_from_the_m_step_in_any_direction_raises_its_objective(build, x):
    exact = build()
    sums = exact.statistics(x)
    before = objective(exact, sums)
    assert exact.maximize(sums) == ()
    best = objective(exact, sums)
    assert best > before + 0.1
    for seed, size in itertools.product(range(10), (1e-2, 1e-4)):
        other = nudged(exact, seed, size)
        assert objective(other, sums) < best


def nudged(exact, seed, size):
    """Returns the model with every parameter moved a little, within its range."""
    other = copy.deepcopy(exact)
    for number, (name, value) in enumerate(exact.state_dict().items()):
        step = size * random(*value.shape, seed=100 * seed + number)
        moved = value * step.exp() if name in ("weights", "noise_scale", "roots") else value + step
        moved = value * step[0].exp() if name == "noise_scale" and isinstance(exact, ProbabilisticPCA) else moved
        moved = moved / moved.sum() if name == "weights" else moved
        moved = torch.sigmoid(torch.logit(value) + step) if name == "probabilities" else moved
        getattr(other, name).copy_(moved)
    return other


def test_the_m_step_of_bernoullis_counts_ones_and_pseudo_data():
    x = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    mixture = BernoulliMixture(torch.ones(1).double(), torch.full((1, 3), 0.3).double(), pseudo_count=0.5)
    mixture.maximize(mixture.statistics(x))
    assert torch.allclose(mixture.probabilities, torch.tensor([[2.5, 1.5, 0.5]]).double() / 3)


def test_without_a_pseudo_count_probabilities_stay_within_bounds_and_the_m_step_says_so():
    x = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    mixture = BernoulliMixture(torch.ones(1).double(), torch.full((1, 2), 0.3).double(), pseudo_count=0.0)
    (mend,) = mixture.maximize(mixture.statistics(x))
    assert "Component 0 has 1 of 2 probabilities at the bounds" in mend.sentence
    assert mixture.probabilities.tolist() == [[1 - 1e-6, 0.5]]
    assert torch.isfinite(mixture.log_evidence(torch.zeros(1, 2).double())).all()


@pytest.mark.parametrize("kind", KINDS)
def test_raised_eigenvalues_are_the_likeliest_above_the_floor(kind):
    """No covariance with all eigenvalues at the floor or above has a larger expected log-likelihood."""
    chosen, floor = COVARIANCES[kind], 0.5
    spread = {"diagonal": torch.tensor([[0.1, 1.0, 2.0]]).double()}
    rotation = torch.linalg.qr(random(3, 3)).Q
    spread["tied"] = rotation @ torch.diag(spread["diagonal"][0]) @ rotation.T
    spread["full"] = spread["tied"][None]
    best, held = chosen.floored_root(spread[kind], floor)
    assert held.tolist() == (1 if kind == "tied" else [1])
    variances = best.square() if kind == "diagonal" else torch.linalg.eigvalsh(best @ best.mT)
    assert torch.allclose(variances.flatten(), torch.tensor([0.5, 1.0, 2.0]).double())
    height = lower_bound(chosen, best, spread[kind])
    for seed, size in itertools.product(range(200), (0.5, 0.05)):
        step = size * random(*best.shape, seed=seed)
        other, _ = chosen.floored_root(chosen.square(best) + (step if kind == "diagonal" else step + step.mT), floor)
        assert lower_bound(chosen, other, spread[kind]) <= height + 1e-12


def lower_bound(chosen, root, scatter):
    return -chosen.half_log_det(root).sum().item() - 0.5 * chosen.trace(scatter, root).item()


@pytest.mark.parametrize("kind", KINDS)
def test_the_m_step_of_gaussians_keeps_to_the_floor_and_says_so(kind):
    mixture = gaussians(kind, num_dims=3, variance_floor=0.04)
    x = random(50, 3)
    x[:, 1] = 2.5
    mends = mixture.maximize(mixture.statistics(x))
    assert len(mends) == (1 if kind == "tied" else 3)
    assert all("1 of 3 variances would fall below the floor of 0.04" in mend.sentence for mend in mends)
    variances = mixture.covariances if kind == "diagonal" else torch.linalg.eigvalsh(mixture.covariances)
    assert variances.min().item() == pytest.approx(0.04)


@pytest.mark.parametrize("build", [model, pca])
def test_the_m_step_of_factor_analysis_keeps_to_the_floor_and_says_so(build):
    exact, x = build(), random(50, 5)
    exact.variance_floor = 100.0
    (mend,) = exact.maximize(exact.statistics(x))
    assert "5 of 5 noise variances would fall below the floor of 100" in mend.sentence
    assert torch.allclose(exact.noise_scale, torch.tensor(10.0).double())


@pytest.mark.parametrize(
    "build", [lambda: gaussians("full"), lambda: gaussians("diagonal"), lambda: gaussians("tied"), model]
)
def test_data_far_from_zero_lose_no_digits(build):
    near, far, x = build(), build(), random(40, 5, seed=8)
    moved = far.means if isinstance(far, Mixture) else far.mean
    moved += 1e7
    far.origin += 1e7
    for exact, data in ((near, x), (far, x + 1e7)):
        exact.maximize(exact.statistics(data))
    # the data themselves keep 1e7 * 2^-53 = 1e-9
    assert torch.allclose(near.log_evidence(x), far.log_evidence(x + 1e7), atol=1e-6)


@pytest.mark.parametrize("build", [lambda: bernoullis(2), *(lambda kind=kind: gaussians(kind, 2, 8) for kind in KINDS)])
def test_an_empty_component_stays_as_it_is_or_starts_anew_at_a_datum(build):
    mixture, x = build(), binary(20)
    mixture.weights.copy_(torch.tensor([1.0, 0.0]))
    sums, before = mixture.statistics(x), mixture.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    assert mixture.empty_components(sums) == [1]
    kept = copy.deepcopy(mixture)
    kept.maximize(sums)
    assert all(torch.isfinite(value).all() for value in kept.state_dict().values())
    name = "probabilities" if isinstance(mixture, BernoulliMixture) else "means"
    assert torch.equal(getattr(kept, name)[1], before[name][1])
    assert not torch.equal(getattr(kept, name)[0], before[name][0])
    mixture.maximize(mixture.reseed(sums, [1], x[:1]))
    # N / K = 10 data are added to 20
    assert torch.allclose(mixture.weights, torch.tensor([2 / 3, 1 / 3]).double())
    new = getattr(mixture, name)[1]
    assert torch.equal(new > 0.5, x[0] > 0.5) if name == "probabilities" else torch.allclose(new, x[0])
    assert all(torch.equal(sums.moments[key], kept_sum) for key, kept_sum in build_sums(build, x).items())
    if isinstance(mixture, GaussianMixture):
        assert_widths(mixture, kept, build().covariances, torch.cov(x.T, correction=0))


def assert_widths(mixture, kept, old, of_data):
    """Left empty, component 1 keeps its own width; anew it has that of the others, and tied ones count 10 more data."""
    if mixture.kind == "tied":
        assert torch.allclose(mixture.covariances, (20 * of_data + 10 * old) / 30)
        assert torch.allclose(kept.covariances, of_data)
    else:
        assert torch.allclose(mixture.covariances[1], old[0])
        assert torch.allclose(kept.covariances[1], old[1])


def test_a_component_is_empty_below_a_hundredth_of_a_datum():
    sums = bernoullis().statistics(binary())
    sums.moments["counts"].copy_(torch.tensor([29.0, 0.011, 0.009]))
    assert bernoullis().empty_components(sums) == [2]


def build_sums(build, x):
    mixture = build()
    mixture.weights.copy_(torch.tensor([1.0, 0.0]))
    return mixture.statistics(x).moments


# ---------------------------------------------------------------- starts


def test_centers_are_drawn_with_chances_proportional_to_squared_distances():
    """From the first center at 0, the second is at 1, 2 or 3 with chances 1, 4 and 9 of 14."""
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0]]).double()
    draws = torch.Generator().manual_seed(0)
    pairs = [seed_centers(x, 2, draws).flatten().tolist() for _ in range(3000)]
    firsts = torch.bincount(torch.tensor([first for first, _ in pairs]).long(), minlength=4)
    assert p_value(firsts, torch.full((4,), 750.0)) > FALSE_ALARM
    seconds = torch.tensor([second for first, second in pairs if first == 0]).long()
    counts = torch.bincount(seconds, minlength=4)
    assert counts[0] == 0
    assert p_value(counts[1:], len(seconds) * torch.tensor([1.0, 4.0, 9.0]) / 14) > FALSE_ALARM


def test_centers_are_different_data_while_these_last():
    x = torch.tensor([[0.0], [1.0], [1.0], [5.0]]).double()
    for seed in range(20):
        centers = seed_centers(x, 5, torch.Generator().manual_seed(seed)).flatten().tolist()
        assert set(centers[:3]) == {0.0, 1.0, 5.0}
        assert set(centers[3:]) <= {0.0, 1.0, 5.0}
    assert nearest(x, torch.tensor([[4.0], [0.4]]).double()).tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_of_gaussians_is_at_data_and_as_wide_as_these_are_around_the_nearest(kind):
    mixture, x = GaussianMixture.blank(3, 2, kind), 10 * random(40, 2)
    assert mixture.initialize(x, seed=1) == ()
    assert all((x == mean).all(1).any() for mean in mixture.means)
    home = nearest(x, mixture.means)
    assert torch.allclose(mixture.weights, (torch.bincount(home) + 1).double() / 43)
    spread = x - mixture.means[home]
    shared = spread.square().mean(0) if kind == "diagonal" else spread.T @ spread / 40
    assert torch.allclose(mixture.covariances, shared.expand_as(mixture.covariances))
    first, other = mixture.means.clone(), copy.deepcopy(mixture)
    mixture.initialize(x, seed=1)
    other.initialize(x, seed=1, attempt=1)
    assert torch.equal(mixture.means, first) and not torch.equal(other.means, first)


def test_a_start_of_bernoullis_is_between_the_mean_and_different_data():
    mixture, x = BernoulliMixture.blank(6, (2, 4)), binary(6).reshape(6, 2, 4)
    assert mixture.initialize(x) == ()
    expected = 0.5 * x.mean(0) + 0.125 + 0.25 * x
    found = [(expected == p).flatten(1).all(1).nonzero().item() for p in mixture.probabilities]
    assert sorted(found) == list(range(6))
    more = BernoulliMixture.blank(8, (2, 4))
    more.initialize(x, seed=2)
    assert torch.isfinite(more.log_evidence(x)).all()


def test_a_start_of_pca_is_its_maximum_and_later_starts_are_random():
    x = random(100, 5) @ random(5, 5, seed=1)
    values = torch.linalg.eigvalsh(torch.cov(x.T, correction=0)).flip(0)
    start = ProbabilisticPCA.blank(2, 5)
    start.initialize(x)
    assert torch.allclose(start.noise_scale**2, values[2:].mean().expand(5))
    covariance = start.loading @ start.loading.T + torch.diag(start.noise_scale**2)
    assert torch.allclose(torch.linalg.eigvalsh(covariance).flip(0)[:2], values[:2])
    others = [ProbabilisticPCA.blank(2, 5) for _ in range(2)]
    for attempt, other in enumerate(others, 1):
        other.initialize(x, attempt=attempt)
    assert others[0].log_evidence(x).mean() < start.log_evidence(x).mean()
    assert not torch.equal(others[0].loading, others[1].loading)


# ---------------------------------------------------------------- refusals


def test_bad_parameters_are_refused():
    with pytest.raises(ValueError, match=r"shapes \(D, L\), \(D,\) and \(D,\)"):
        FactorAnalysis(torch.eye(2), torch.zeros(3), torch.ones(2))
    with pytest.raises(ValueError, match="smallest noise scale is 0"):
        FactorAnalysis(torch.eye(2), torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match="variance_floor must be positive, but is 0"):
        FactorAnalysis(torch.eye(2), torch.zeros(2), torch.ones(2), variance_floor=0)
    with pytest.raises(ValueError, match="one noise scale, but the smallest is 1 and the largest 2"):
        ProbabilisticPCA(torch.eye(2), torch.zeros(2), torch.tensor([1.0, 2.0]))


def test_bad_weights_are_refused():
    p = torch.full((2, 3), 0.5)
    with pytest.raises(ValueError, match=r"weights must have shape \(K,\), but have \(1, 2\)"):
        BernoulliMixture(torch.full((1, 2), 0.5), p)
    with pytest.raises(ValueError, match=r"weights must have shape \(K,\), but have \(0,\)"):
        BernoulliMixture.blank(0, 3)
    with pytest.raises(ValueError, match=r"smallest is 0.5 and their sum 1.1"):
        BernoulliMixture(torch.tensor([0.5, 0.6]), p)
    with pytest.raises(ValueError, match=r"smallest is -0.5"):
        BernoulliMixture(torch.tensor([-0.5, 1.5]), p)


def test_bad_probabilities_are_refused():
    weights = torch.tensor([0.5, 0.5])
    with pytest.raises(ValueError, match=r"got \(2,\) and \(3, 4\)"):
        BernoulliMixture(weights, torch.full((3, 4), 0.5))
    for value in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match=f"strictly between 0 and 1, but one is {value:g}"):
            BernoulliMixture(weights, torch.tensor([[0.5], [value]]))
    for value in (-1.0, math.inf):
        with pytest.raises(ValueError, match="pseudo_count must be 0 or more data"):
            BernoulliMixture(weights, torch.full((2, 3), 0.5), pseudo_count=value)


def test_bad_gaussians_are_refused():
    weights, means = torch.tensor([0.5, 0.5]), torch.zeros(2, 3)
    for kind, shape in (("full", "(K, D, D)"), ("diagonal", "(K, D)"), ("tied", "(D, D)")):
        with pytest.raises(
            ValueError,
            match=f"{kind} covariances needs .*covariances of shape {shape}".replace("(", r"\(").replace(")", r"\)"),
        ):
            GaussianMixture(weights, means, torch.ones(2, 2), kind)
    with pytest.raises(ValueError, match="must be full, diagonal, tied, but is 'spherical'"):
        GaussianMixture(weights, means, torch.ones(2, 3), "spherical")
    with pytest.raises(ValueError, match="positive definite, but the smallest variance is -1"):
        GaussianMixture(weights, means, -torch.eye(3), "tied")
    with pytest.raises(ValueError, match="positive definite, but the smallest variance is 0"):
        GaussianMixture(weights, means, torch.zeros(2, 3), "diagonal")
    with pytest.raises(ValueError, match="variance_floor must be positive"):
        GaussianMixture.blank(2, 3, variance_floor=-1.0)


@each_model
def test_data_of_another_shape_are_refused(build, x):
    for method in (build().log_evidence, build().encoder, build().statistics):
        with pytest.raises(ValueError, match=r"Data must have shape \(B,\) \+ .*, but have \(30, 3\)"):
            method(x[:, :3])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@each_model
def test_data_that_are_not_finite_are_refused(build, x, value):
    poisoned = x.clone()
    poisoned[4, 2] = value
    with pytest.raises(ValueError, match=rf"datum 4 of a batch holds {value}|0 and 1, but got {value}"):
        build().statistics(poisoned)


def test_greys_are_refused_by_bernoullis_with_the_cure():
    grey = binary(4)
    grey[2, 1] = 0.25
    for method in (bernoullis().log_evidence, bernoullis().encoder, bernoullis().statistics, bernoullis().initialize):
        with pytest.raises(ValueError, match=r"data of 0 and 1, but got 0\.25: binarize the data"):
            method(grey)


def test_decoders_are_those_that_pictures_and_masks_know():
    z = bernoullis().prior().sample((2, 4))
    assert isinstance(bernoullis().decoder(z), IndependentBernoulli)
    diagonal = gaussians("diagonal").decoder(z)
    assert isinstance(diagonal, Independent) and isinstance(diagonal.base_dist, Normal)


def test_sums_around_different_points_do_not_add():
    x = random(4, 5)
    with pytest.raises(ValueError, match="different origins do not add"):
        gaussians(seed=1).statistics(x) + gaussians(seed=2).statistics(x)
