"""Proposals that know a datum: precisions, Gaussians, mixtures, Fisher information, curvature, fits by name."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
import zuko
from helpers import normal, test_split
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Gamma,
    Independent,
    Laplace,
    MultivariateNormal,
    NegativeBinomial,
    Normal,
    Poisson,
    TransformedDistribution,
)
from torch.distributions.transforms import AffineTransform, ExpTransform
from torch.nn.functional import conv_transpose2d

from logpx import FactorAnalysis
from logpx.distributions import (
    CoupledLogisticMixture,
    Dequantized,
    DiscretizedGaussian,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    LevelsCategorical,
    OnUnitInterval,
    SafeContinuousBernoulli,
)
from logpx.evaluation import evaluate
from logpx.evidence import PROPOSALS, Block, Estimator, fisher, fitted_proposal, gauss_newton
from logpx.evidence.curvature import fit_curvature, fit_laplace
from logpx.evidence.elliptical import Elliptical
from logpx.evidence.fisher import fisher_root, knows_fisher, parameters_of
from logpx.evidence.fit import encoder_moments, precision_of, take
from logpx.evidence.mixture import ProposalMixture, defensive_mixture
from logpx.evidence.precision import DensePrecision, LowRankPrecision, diagonal_precision, mean_covariance, mixed
from logpx.evidence.prior import prior_map
from logpx.evidence.refined import fit_refined
from logpx.evidence.tally import tally
from logpx.utils import LogpxError

DOUBLE = torch.float64
# what a test of a distribution's draws needs of its p-value: its false-alarm rate
RARE = 1e-4


def double(*shape, seed=0):
    return normal(*shape, seed=seed).double()


def dense_of(precision):
    if isinstance(precision, DensePrecision):
        return precision.root @ precision.root.mT
    return torch.diag_embed(precision.diagonal) + precision.factor @ precision.factor.mT


def make_precision(form, seed=0, batch_size=3, num=5, rank=2):
    """A precision of either form, and the matrix that it stands for."""
    diagonal = 0.5 + double(batch_size, num, seed=seed).square()
    factor = double(batch_size, num, rank, seed=seed + 1)
    matrix = torch.diag_embed(diagonal) + factor @ factor.mT
    return (DensePrecision.of(matrix) if form == "whole" else LowRankPrecision.of(diagonal, factor)), matrix


class LinearGaussian(FactorAnalysis):
    """Factor analysis with an encoder that has learned nothing: it is the prior."""

    def encoder(self, x):
        return Independent(Normal(torch.zeros(len(x), self.loading.shape[1], dtype=x.dtype), 1.0), 1)


def linear(kind=LinearGaussian, num_latents=2, num_dims=4, dtype=DOUBLE, **options):
    loading = normal(num_dims, num_latents).to(dtype)
    return kind(loading, torch.zeros(num_dims, dtype=dtype), torch.full((num_dims,), 0.5, dtype=dtype), **options)


def data_of(model, n, seed=1):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return model.decoder(model.prior().sample((n,))).sample()


def posterior(model, x):
    return FactorAnalysis.encoder(model, x)


def model_of(decoder, prior, num_latents=2):
    def encoder(x):
        return Independent(Normal(torch.zeros(len(x), num_latents, dtype=x.dtype), 1.0), 1)

    return SimpleNamespace(decoder=decoder, prior=lambda: prior, encoder=encoder)


def standard(*shape, dtype=DOUBLE):
    return Independent(Normal(torch.zeros(shape, dtype=dtype), 1.0), len(shape))


def curved(dtype=torch.float32, num_dims=12):
    """A Bernoulli decoder with one hidden layer, and an encoder that is the prior."""
    first, second = (2 * normal(2, 6, seed=1)).to(dtype), (2 * normal(6, num_dims, seed=2)).to(dtype)
    model = model_of(lambda z: Independent(Bernoulli(logits=logits(z)), 1), standard(2, dtype=dtype))

    def logits(z):
        return torch.tanh(z @ first) @ second

    model.logits = logits
    return model


# --- precisions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["whole", "low rank"])
def test_a_precision_is_the_matrix_that_it_stands_for(form):
    precision, matrix = make_precision(form)
    covariance, v = matrix.inverse(), double(4, 3, 5, seed=2)
    assert torch.allclose(dense_of(precision), matrix)
    assert torch.allclose(precision.log_det, torch.logdet(matrix))
    assert torch.allclose(precision.variance, covariance.diagonal(dim1=1, dim2=2))
    assert torch.allclose(precision.solve(v), torch.einsum("bij,tbj->tbi", covariance, v))
    assert torch.allclose(precision.solve(v[0]), precision.solve(v)[0])


@pytest.mark.parametrize("form", ["whole", "low rank"])
def test_colour_whiten_and_pull_are_one_root_its_inverse_and_its_transpose(form):
    precision, matrix = make_precision(form)
    eye, v = torch.eye(5, dtype=DOUBLE).unsqueeze(1).expand(5, 3, 5), double(4, 3, 5, seed=2)
    # the columns of C, with C C' = Lambda^-1
    root = precision.colour(eye).movedim(0, -1)
    assert torch.allclose(root @ root.mT, matrix.inverse())
    assert torch.allclose(precision.pull(eye).movedim(0, -1), root.mT)
    assert torch.allclose(precision.whiten(precision.colour(v)), v)
    assert torch.allclose(precision.whiten(v).square().sum(-1), torch.einsum("tbi,bij,tbj->tb", v, matrix, v))


@pytest.mark.parametrize("form", ["whole", "low rank"])
def test_precisions_of_some_data_are_those_data_s(form):
    precision, matrix = make_precision(form)
    assert torch.allclose(dense_of(precision.take(torch.tensor([2, 0]))), matrix[[2, 0]])


def test_whole_precisions_mix_and_low_rank_ones_that_span_the_same_do():
    (a, first), (b, second) = (make_precision("whole", seed) for seed in (0, 5))
    assert torch.allclose(dense_of(mixed(a, b, 0.3)), 0.7 * first + 0.3 * second)
    c, matrix = make_precision("low rank")
    d = LowRankPrecision.of(2 * c.diagonal, c.factor @ double(3, 2, 2, seed=9))
    assert torch.allclose(dense_of(mixed(c, d, 0.3)), 0.7 * matrix + 0.3 * dense_of(d))


def test_low_rank_precisions_keep_the_leading_directions_when_they_mix():
    (a, first), (b, second) = (make_precision("low rank", seed) for seed in (0, 5))
    both = mixed(a, b, 0.3)
    root = both.diagonal.rsqrt().unsqueeze(-1)
    lost = root * (0.7 * first + 0.3 * second - dense_of(both)) * root.mT
    # of the four directions of both the two least are lost, and no more than these
    parts = torch.linalg.svdvals(root * torch.cat([0.7**0.5 * a.factor, 0.3**0.5 * b.factor], -1)).square()
    assert both.values.shape[-1] == 2
    assert torch.allclose(torch.linalg.eigvalsh(lost)[:, -2:].flip(-1), parts[:, 2:])


def test_precisions_of_two_forms_do_not_mix():
    with pytest.raises(TypeError, match="DensePrecision and LowRankPrecision: convert one"):
        mixed(make_precision("whole")[0], make_precision("low rank")[0], 0.5)


def test_the_mean_covariance_of_precisions():
    precisions, matrices = zip(*(make_precision("whole", seed) for seed in (0, 5, 7)), strict=True)
    expected = sum(matrix.inverse() for matrix in matrices) / 3
    assert torch.allclose(dense_of(mean_covariance(precisions)).inverse(), expected)
    # of low-rank ones with the same directions it is the mean of the precisions
    c, matrix = make_precision("low rank")
    others = [LowRankPrecision.of(k * c.diagonal, c.factor * k**0.5) for k in (1, 2, 6)]
    assert torch.allclose(dense_of(mean_covariance(others)), 3 * matrix)


def test_a_diagonal_precision_holds_the_inverse_squares_of_scales():
    scale = 0.5 + double(3, 2, 2).square()
    precision = diagonal_precision(scale)
    assert torch.allclose(dense_of(precision), torch.diag_embed(scale.flatten(1) ** -2))
    assert torch.allclose(precision.log_det, -2 * scale.log().flatten(1).sum(1))


# --- Gaussians and Student's t -------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [(4,), (1, 2, 2)])
@pytest.mark.parametrize("form", ["whole", "low rank"])
def test_an_elliptical_gaussian_is_torch_s(form, event):
    precision, matrix = make_precision(form, num=4)
    loc, z = double(3, *event, seed=3), double(6, 3, *event, seed=4)
    q = Elliptical(loc, precision, scale=1.3)
    expected = MultivariateNormal(loc.flatten(1), 1.3**2 * matrix.inverse())
    assert torch.allclose(q.log_prob(z), expected.log_prob(z.flatten(2)))
    assert torch.allclose(q.variance.flatten(1), expected.variance)
    assert q.mean is loc and q.event_shape == event and q.batch_shape == (3,) and q.sample((2,)).shape == (2, 3, *event)


@pytest.mark.parametrize("df", [1.0, 3.0, 20.0])
def test_student_s_t_is_scipy_s_and_integrates_to_one(df):
    precision, matrix = make_precision("whole", batch_size=1, num=3)
    loc, z = double(1, 3, seed=3), double(6, 1, 3, seed=4)
    shape = 1.3**2 * matrix[0].inverse().numpy()
    expected = scipy.stats.multivariate_t(loc[0].numpy(), shape, df=df).logpdf(z[:, 0].numpy())
    assert np.allclose(Elliptical(loc, precision, 1.3, df).log_prob(z)[:, 0].numpy(), expected)
    line = Elliptical(torch.zeros(1, 1, dtype=DOUBLE), diagonal_precision(torch.full((1, 1), 0.7, dtype=DOUBLE)), 2, df)
    # z = tan(u) maps (-pi/2, pi/2) to the line
    u = (torch.arange(4000, dtype=DOUBLE) + 0.5) / 4000 * math.pi - math.pi / 2
    density = line.log_prob(torch.tan(u).reshape(-1, 1, 1)).exp()[:, 0]
    assert (density / torch.cos(u) ** 2).sum().item() * math.pi / 4000 == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("df", [math.inf, 4.0])
@pytest.mark.parametrize("form", ["whole", "low rank"])
def test_draws_follow_the_density(form, df):
    # false alarm 1e-4 for each of two tests
    precision, _ = make_precision(form, batch_size=1)
    q = Elliptical(double(1, 5, seed=3), precision, 1.5, df)
    torch.manual_seed(0)
    white = precision.whiten(q.sample((4000,)) - q.loc)[:, 0] / 1.5
    square = white.square().sum(-1).numpy()
    radius = scipy.stats.chi2(5).cdf(square) if math.isinf(df) else scipy.stats.f(5, df).cdf(square / 5)
    assert scipy.stats.kstest(radius, "uniform").pvalue > RARE
    first = scipy.stats.norm if math.isinf(df) else scipy.stats.t(df)
    assert scipy.stats.kstest(white[:, 0].numpy(), first.cdf).pvalue > RARE


def test_the_variance_of_student_s_t():
    precision, matrix = make_precision("whole")
    variance = matrix.inverse().diagonal(dim1=1, dim2=2)
    loc = torch.zeros(3, 5, dtype=DOUBLE)
    assert torch.allclose(Elliptical(loc, precision, 2.0, 6.0).variance, 4 * 1.5 * variance)
    assert torch.isinf(Elliptical(loc, precision, 2.0, 2.0).variance).all()


def test_an_elliptical_has_one_distribution_per_datum():
    q = Elliptical(torch.zeros(3, 5), make_precision("whole")[0])
    assert q.expand((3,)) is q
    with pytest.raises(ValueError, match=r"The batch shape is \(3,\) and stays so: \(4,\) is another"):
        q.expand((4,))


# --- mixtures ------------------------------------------------------------------------------------------------------


def two_normals():
    return [Independent(Normal(double(3, 2, seed=k) + 20 * k, 0.5 + k), 1) for k in (0, 1)]


def test_a_mixture_sums_its_components():
    parts, z = two_normals(), double(4, 3, 2, seed=8) + 10
    q = ProposalMixture(parts, [0.3, 0.7])
    expected = torch.log(0.3 * parts[0].log_prob(z).exp() + 0.7 * parts[1].log_prob(z).exp())
    assert torch.allclose(q.log_prob(z), expected) and q.log_prob(z.float()).dtype == DOUBLE
    assert torch.allclose(q.mean, 0.3 * parts[0].mean + 0.7 * parts[1].mean)


def test_draws_of_a_mixture_keep_to_the_shares_and_to_the_components():
    parts = two_normals()
    torch.manual_seed(0)
    z = ProposalMixture(parts, [0.3, 0.7]).sample((4000,))
    is_second = z.mean(-1) > 10
    # 12,000 coins: false alarm 1e-4; the components lie far apart
    assert scipy.stats.binomtest(int(is_second.sum()), 12_000, 0.7).pvalue > RARE
    # each datum's own draw decides: no two data always choose alike
    assert 0.4 < (is_second[:, 0] == is_second[:, 1]).double().mean() < 0.75
    white = ((z - parts[1].mean) / 1.5)[:, 0][is_second[:, 0]].flatten()
    assert scipy.stats.kstest(white.numpy(), "norm").pvalue > RARE


def test_components_of_different_shapes_do_not_mix():
    with pytest.raises(ValueError, match=r"\(\(2,\), \(3,\)\) and \(\(2,\), \(4,\)\): expand one"):
        ProposalMixture([standard(3).expand((2,)), standard(4).expand((2,))], [0.5, 0.5])


def test_defensive_weights_are_bounded_by_the_likelihood():
    model = linear()
    block = Block(model, data_of(model, 3))
    narrow = Elliptical(torch.full((3, 2), 30.0, dtype=DOUBLE), diagonal_precision(torch.full((3, 2), 0.01).double()))
    q = defensive_mixture(narrow, posterior(model, block.x), model.prior())
    assert q.shares == pytest.approx((0.9, 0.05, 0.05))
    z = torch.cat([q.components[k].sample((100,)) for k in range(3)] + [50 * double(100, 3, 2)])
    terms = block.weigh(z, q)
    assert (terms.log_weights <= terms.log_likelihood - math.log(0.05) + 1e-9).all()
    # by the encoder, which is exact here, at most p(x) / 0.05
    assert (terms.log_weights <= model.log_evidence(block.x) - math.log(0.05) + 1e-9).all()


# --- Fisher information --------------------------------------------------------------------------------------------


LEVELS = torch.arange(5, dtype=DOUBLE)
NODES, NODE_WEIGHTS = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(60))
IMAGES = torch.cartesian_prod(*[torch.arange(3.0, dtype=DOUBLE)] * 3).reshape(-1, 3, 1, 1)


def values(**parameters):
    return {name: torch.as_tensor(value, dtype=DOUBLE) for name, value in parameters.items()}


MIXTURE = values(logits=[0.3, -0.4], loc=[0.8, 3.1], scale=[0.6, 1.1])
COUPLED = values(
    logits=0.5 * normal(2, 1, 1, seed=4),
    loc=1 + 0.6 * normal(2, 3, 1, 1, seed=5),
    scale=0.7 + 0.2 * torch.rand(2, 3, 1, 1, generator=torch.Generator().manual_seed(6)),
)
# name -> (family, parameters, all outcomes, their measure)
CLOSED = {
    "bernoulli": (Bernoulli, values(logits=-1.3), torch.tensor([0.0, 1.0], dtype=DOUBLE), None),
    "normal": (Normal, values(loc=0.4, scale=0.7), 0.4 + 7 * NODES, 7 * NODE_WEIGHTS),
    "categorical": (Categorical, values(logits=[0.2, -1.0, 0.7]), torch.arange(3), None),
    "levels": (LevelsCategorical, values(logits=[0.2, -1.0, 0.7]), LEVELS[:3], None),
    "poisson": (Poisson, values(rate=2.3), torch.arange(60, dtype=DOUBLE), None),
}
SCORES = {
    "negative binomial": (
        NegativeBinomial,
        values(total_count=2.5, logits=-0.4),
        torch.arange(200, dtype=DOUBLE),
        None,
    ),
    "continuous bernoulli": (SafeContinuousBernoulli, values(logits=1.7), 0.5 * (1 + NODES), 0.5 * NODE_WEIGHTS),
    "gaussian": (DiscretizedGaussian, values(loc=1.2, scale=0.9), LEVELS, None),
    "logistic": (DiscretizedLogistic, values(loc=1.2, scale=0.9), LEVELS, None),
    "mixture": (DiscretizedLogisticMixture, MIXTURE, LEVELS, None),
    "pixels": (CoupledLogisticMixture, COUPLED, IMAGES, None),
    "coupled pixels": (CoupledLogisticMixture, {**COUPLED, "coupling": 0.3 * double(2, 3, 1, 1, seed=7)}, IMAGES, None),
}


def family_at(kind, parameters):
    """Calls the family, with the number of levels where there are levels."""
    if kind is CoupledLogisticMixture:
        return kind(*(parameters.get(name) for name in ("logits", "loc", "scale", "coupling")), 3, False)
    options = {"levels": 5} if kind.__name__.startswith("Discretized") else {}
    return kind(**parameters, **options, validate_args=False)


def exact_fisher(kind, parameters, outcomes, measure):
    """The expected Hessian of -log p, by automatic differentiation and a sum over all outcomes."""
    names, shapes = list(parameters), [each.shape for each in parameters.values()]
    sizes = [each.numel() for each in parameters.values()]

    def log_p(theta):
        parts = [part.reshape(shape) for part, shape in zip(theta.split(sizes), shapes, strict=True)]
        p = family_at(kind, {name: part.unsqueeze(0) for name, part in zip(names, parts, strict=True)})
        return p.log_prob(outcomes)

    theta = torch.cat([each.flatten() for each in parameters.values()])
    mass = log_p(theta).exp() * (1 if measure is None else measure)
    assert mass.sum().item() == pytest.approx(1, abs=1e-6)
    return torch.autograd.functional.hessian(lambda t: -(mass * log_p(t)).sum(), theta)


def tangents_of(parameters, num=3):
    return [double(num, *each.shape, seed=20 + i) for i, each in enumerate(parameters.values())]


def quadratic_forms(kind, parameters, repetitions, tangents):
    """|W dtheta|^2 with shape (T, R), of so many copies of one distribution."""
    torch.manual_seed(0)
    many = {name: each.expand(1, repetitions, *each.shape) for name, each in parameters.items()}
    p = family_at(kind, many)
    moved = [t[:, None, None].expand(len(t), 1, repetitions, *t.shape[1:]) for t in tangents]
    squares = fisher_root(p)(tuple(moved)).square().squeeze(1)
    return squares.reshape(*squares.shape[:2], -1).sum(-1)


@pytest.mark.parametrize("name", CLOSED)
def test_fisher_information_in_closed_form_is_the_expected_hessian(name):
    kind, parameters, outcomes, measure = CLOSED[name]
    tangents = tangents_of(parameters)
    flat = torch.cat([t.reshape(len(t), -1) for t in tangents], 1)
    expected = torch.einsum("ti,ij,tj->t", flat, exact_fisher(kind, parameters, outcomes, measure), flat)
    assert torch.allclose(quadratic_forms(kind, parameters, 1, tangents)[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("name", SCORES)
def test_fisher_information_by_scores_is_the_expected_hessian_on_average(name):
    # means of 3,000 copies in 3 directions; 4.5 standard errors: false alarm 2e-5 each
    kind, parameters, outcomes, measure = SCORES[name]
    tangents = tangents_of(parameters)
    flat = torch.cat([t.reshape(len(t), -1) for t in tangents], 1)
    expected = torch.einsum("ti,ij,tj->t", flat, exact_fisher(kind, parameters, outcomes, measure), flat)
    squares = quadratic_forms(kind, parameters, 3000, tangents)
    error = (squares.mean(1) - expected) / (squares.std(1) / 3000**0.5)
    assert (error.abs() < 4.5).all()
    assert (squares.std(1) / 3000**0.5 < 0.1 * expected).all()


@pytest.mark.parametrize(
    "kind, names",
    [(c[0], tuple(c[1])) for c in (*CLOSED.values(), *SCORES.values())],
    ids=[*CLOSED, *SCORES],
)
def test_every_family_gives_the_parameters_that_its_information_is_about(kind, names):
    parameters = next(c[1] for c in (*CLOSED.values(), *SCORES.values()) if c[0] is kind and tuple(c[1]) == names)
    p = family_at(kind, {name: each.expand(1, 2, *each.shape) for name, each in parameters.items()})
    found = parameters_of(p)
    assert knows_fisher(p) and len(found) == len(names)
    for name, each in zip(names, found, strict=True):
        expected = parameters[name].expand_as(each)
        # torch's categorical subtracts a constant
        shift = (each - expected).mean(-1, keepdim=True) if kind is Categorical else 0
        assert torch.allclose(each, expected + shift, rtol=1e-6), name


def test_every_registered_family_is_tested():
    assert set(fisher._KNOWN) == {case[0] for case in (*CLOSED.values(), *SCORES.values())}


def test_what_wraps_a_family_is_looked_through():
    loc = double(1, 2, 3)
    inner = Normal(loc, 0.5)
    tangents = (double(4, 1, 2, 3, seed=1), torch.zeros(4, 1, 2, 3, dtype=DOUBLE))
    expected = fisher_root(inner)(tangents)
    for p in (Independent(inner, 1), OnUnitInterval(Dequantized(Independent(inner, 1), 8), 8)):
        assert torch.equal(fisher_root(p)(tangents), expected)
        assert parameters_of(p)[0] is loc and knows_fisher(p)


def test_scores_do_not_touch_the_distribution():
    loc = double(1, 2)
    p = DiscretizedLogistic(loc, torch.ones(1, 2, dtype=DOUBLE), 5)
    fisher_root(p)
    assert torch.equal(p.loc, loc) and not p.loc.requires_grad


def test_an_unknown_family_is_named_with_its_cure():
    assert not knows_fisher(Laplace(torch.zeros(1, 2), 1.0))
    with pytest.raises(LogpxError, match=r"of Laplace is not known .*register_fisher, or use the proposal refined"):
        fisher_root(Independent(Laplace(torch.zeros(1, 2), 1.0), 1))


# --- Gauss-Newton precisions ---------------------------------------------------------------------------------------


def jacobian(function, z):
    """The derivative of (L,) -> (K,) for each of the data, with shape (B, K, L)."""
    return torch.stack([torch.autograd.functional.jacobian(lambda v: function(v).flatten(), each) for each in z])


def test_gauss_newton_of_a_bernoulli_decoder():
    model, z = curved(DOUBLE), double(3, 2, seed=3)
    precision, cost = gauss_newton.gauss_newton(Block(model, torch.zeros(3, 12, dtype=DOUBLE)), z.unsqueeze(0))
    j, p = jacobian(model.logits, z), torch.sigmoid(model.logits(z))
    expected = j.mT @ ((p * (1 - p)).unsqueeze(-1) * j) + torch.eye(2, dtype=DOUBLE)
    assert isinstance(precision, DensePrecision) and torch.allclose(dense_of(precision), expected)
    # one pass forward, and one Jacobian-vector product, worth 2, for each latent
    assert cost == 1 + 2 * 2


def test_gauss_newton_of_a_gaussian_decoder_with_its_own_scales():
    weight, z = double(2, 3, seed=1), double(4, 2, seed=3)
    scale = lambda z: torch.exp(0.3 * z @ weight)  # noqa: E731
    model = model_of(lambda z: Independent(Normal(torch.sin(z @ weight), scale(z)), 1), standard(2))
    precision, _ = gauss_newton.gauss_newton(Block(model, torch.zeros(4, 3, dtype=DOUBLE)), z.unsqueeze(0))
    mean, spread = jacobian(lambda v: torch.sin(v @ weight), z), jacobian(scale, z)
    share = scale(z).pow(-2).unsqueeze(-1)
    expected = mean.mT @ (share * mean) + 2 * spread.mT @ (share * spread) + torch.eye(2, dtype=DOUBLE)
    assert torch.allclose(dense_of(precision), expected)


def test_gauss_newton_of_maps_of_latents():
    weight, z = double(2, 3, 2, 2, seed=1), double(3, 2, 2, 1, seed=3)

    def logits(z):
        return conv_transpose2d(z.flatten(0, -4), weight, stride=2).unflatten(0, z.shape[:-3]).tanh()

    model = model_of(lambda z: Independent(Bernoulli(logits=logits(z)), 3), standard(2, 2, 1))
    x = torch.zeros(3, 3, 4, 2, dtype=DOUBLE)
    precision, _ = gauss_newton.gauss_newton(Block(model, x), z.unsqueeze(0))
    j = jacobian(lambda v: logits(v.reshape(1, 2, 2, 1)), z.flatten(1))
    p = torch.sigmoid(logits(z)).flatten(1)
    expected = j.mT @ ((p * (1 - p)).unsqueeze(-1) * j) + torch.eye(4, dtype=DOUBLE)
    assert torch.allclose(dense_of(precision), expected)


def test_gauss_newton_is_averaged_over_draws_and_does_not_depend_on_memory():
    model, z = curved(DOUBLE), double(3, 4, 2, seed=3)
    x = torch.zeros(4, 12, dtype=DOUBLE)
    whole, cost = gauss_newton.gauss_newton(Block(model, x), z)
    parts = [dense_of(gauss_newton.gauss_newton(Block(model, x), each.unsqueeze(0))[0]) for each in z]
    assert torch.allclose(dense_of(whole), sum(parts) / 3) and cost == 3 * 5
    small, _ = gauss_newton.gauss_newton(Block(model, x, memory_budget=1), z)
    assert torch.allclose(small.root, whole.root)


def test_masked_dimensions_say_nothing():
    model, z = curved(DOUBLE), double(2, 2, seed=3)
    x, mask = torch.zeros(2, 12, dtype=DOUBLE), torch.ones(2, 12, dtype=torch.bool)
    mask[0, 5:] = mask[1] = False
    precision, _ = gauss_newton.gauss_newton(Block(model, x, mask=mask), z.unsqueeze(0))
    j, p = jacobian(model.logits, z), torch.sigmoid(model.logits(z))
    expected = j.mT @ ((mask * p * (1 - p)).unsqueeze(-1) * j) + torch.eye(2, dtype=DOUBLE)
    assert torch.allclose(dense_of(precision), expected)
    assert torch.allclose(dense_of(precision)[1], torch.eye(2, dtype=DOUBLE))


def test_masked_channels_of_levels_say_nothing():
    # a categorical has further factors behind each dimension
    weight, z = double(2, 3 * 4, seed=1), double(1, 2, seed=3)
    decoder = lambda z: Independent(Categorical(logits=(z @ weight).unflatten(-1, (3, 4))), 1)  # noqa: E731
    mask = torch.tensor([[True, False, True]])
    x = torch.zeros(1, 3, dtype=DOUBLE)
    precision, _ = gauss_newton.gauss_newton(Block(model_of(decoder, standard(2)), x, mask=mask), z.unsqueeze(0))
    expected = torch.eye(2, dtype=DOUBLE)
    for d in (0, 2):
        part = weight[:, 4 * d : 4 * d + 4]
        share = torch.softmax(z[0] @ part, -1)
        expected = expected + part @ (torch.diag(share) - share.outer(share)) @ part.T
    assert torch.allclose(dense_of(precision)[0], expected)


def prior_precision(p, z):
    t = prior_map(p)
    j = torch.stack(
        [torch.autograd.functional.jacobian(lambda v: t(v.unsqueeze(0)).flatten(), each) for each in z.unbind()]
    ).flatten(2)
    return j.mT @ j


def test_the_map_of_a_gaussian_prior_has_its_precision():
    root = double(3, 3, seed=1)
    matrix, z = root @ root.T + torch.eye(3, dtype=DOUBLE), double(2, 3, seed=2)
    loc, scale = double(3, seed=3), torch.tensor([0.5, 1.0, 3.0], dtype=DOUBLE)
    expected = matrix.expand(2, 3, 3)
    assert torch.allclose(prior_precision(MultivariateNormal(loc, precision_matrix=matrix), z), expected)
    assert torch.allclose(prior_precision(Independent(Normal(loc, scale), 1), z), torch.diag(scale**-2).expand(2, 3, 3))


def test_the_map_of_a_transformed_prior_undoes_it():
    base = Independent(Normal(torch.zeros(2, dtype=DOUBLE), 0.5), 1)
    p = TransformedDistribution(base, [AffineTransform(torch.tensor(1.0), torch.tensor(3.0)), ExpTransform()])
    z = torch.tensor([[0.7, 2.0]], dtype=DOUBLE)
    # u = (log z - 1) / 3 / 0.5, du = dz / (1.5 z)
    assert torch.allclose(prior_precision(p, z)[0], torch.diag((1.5 * z[0]) ** -2))


def test_the_map_of_a_flow_is_its_own():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = zuko.flows.MAF(2, transforms=2, hidden_features=[8])().expand(())
    flow = flow if isinstance(flow, Distribution) else None
    z = normal(3, 2, seed=3)
    j = jacobian(flow.transform, z).detach()
    assert torch.allclose(prior_precision(flow, z).detach(), j.mT @ j, atol=1e-5)
    # and what it gives is standard Gaussian: log p(z) = log N(u; 0, I) + log |du/dz|
    u = prior_map(flow)(z)
    log_p = standard(2, dtype=torch.float32).log_prob(u) + torch.linalg.slogdet(j)[1]
    assert torch.allclose(flow.log_prob(z), log_p, atol=1e-4)


@pytest.mark.parametrize("is_dense", [True, False])
def test_any_other_prior_is_taken_for_the_gaussian_of_its_moments(is_dense, monkeypatch):
    monkeypatch.setattr("logpx.evidence.prior.MAX_DENSE", 2 if is_dense else 1)
    p = Independent(Gamma(torch.tensor([4.0, 9.0], dtype=DOUBLE), torch.tensor([1.0, 3.0], dtype=DOUBLE)), 1)
    torch.manual_seed(0)
    precision = prior_precision(p, p.sample((1,)))[0]
    # variances 4 and 1; that of 2,000 draws is known to 4%, the covariance to 0.045: 4 of these
    assert torch.allclose(precision.diagonal(), torch.tensor([0.25, 1.0], dtype=DOUBLE), rtol=0.2)
    assert abs(precision[0, 1]) < 0.1


def wide_problem(num=12, rank=2, strength=3.0, batch_size=2):
    weight = strength * double(num, rank, seed=1)
    model = model_of(lambda z: Independent(Normal(z @ weight, 1.0), 1), standard(num), num)
    block = Block(model, torch.zeros(batch_size, rank, dtype=DOUBLE))
    z = double(1, batch_size, num, seed=2)
    return block, z, weight @ weight.T + torch.eye(num, dtype=DOUBLE)


def low_rank(monkeypatch, rank, block, z, num_probes=32):
    for name, value in (("MAX_DENSE", 4), ("RANK", rank), ("NUM_PROBES", num_probes)):
        monkeypatch.setattr(gauss_newton, name, value)
    torch.manual_seed(0)
    return gauss_newton.gauss_newton(block, z)


def test_the_operator_multiplies_by_the_matrix_and_knows_its_diagonal():
    model, z = curved(DOUBLE), double(2, 3, 2, seed=3)
    block = Block(model, torch.zeros(3, 12, dtype=DOUBLE), memory_budget=2**16)
    matrix = dense_of(gauss_newton.gauss_newton(block, z)[0])
    operator = gauss_newton._Operator([gauss_newton.whitened_map(block, each.unsqueeze(0)) for each in z], z, 2**16)
    v = double(5, 3, 2, seed=4)
    assert torch.allclose(operator.times(v), torch.einsum("bij,tbj->tbi", matrix, v))
    torch.manual_seed(0)
    # 20,000 squares of Gaussians: relative error at most sqrt(2 / 20,000) = 1%; 4 of these
    assert torch.allclose(operator.probe(10_000).square().mean(0), matrix.diagonal(dim1=1, dim2=2), rtol=0.04)


@pytest.mark.parametrize("rank", [3, 8, 12])
def test_a_low_rank_precision_is_exact_where_the_datum_speaks_of_few_directions(rank, monkeypatch):
    block, z, matrix = wide_problem()
    precision, cost = low_rank(monkeypatch, rank, block, z)
    assert isinstance(precision, LowRankPrecision) and precision.values.shape == (2, rank)
    assert cost == 1 + 5 * rank + 3 * 32
    # the datum speaks of two directions, and the prior's precision is known
    assert torch.allclose(dense_of(precision), matrix.expand(2, 12, 12), rtol=0, atol=1e-3 * matrix.max().item())


def test_a_low_rank_precision_of_too_low_a_rank_lies_below_in_its_directions(monkeypatch):
    block, z, matrix = wide_problem(rank=8)
    precision, _ = low_rank(monkeypatch, 5, block, z)
    # Nystroem approximations lie below what they approximate, and the diagonal holds at least the prior
    difference = matrix - torch.eye(12, dtype=DOUBLE) - precision.factor @ precision.factor.mT
    assert (torch.linalg.eigvalsh(difference) > -1e-3 * matrix.max()).all()
    assert (precision.diagonal >= 1).all()


def test_a_low_rank_precision_knows_the_directions_of_which_the_datum_speaks(monkeypatch):
    block, z, matrix = wide_problem(strength=10.0)
    precision, _ = low_rank(monkeypatch, 6, block, z)
    vectors = torch.linalg.eigh(matrix).eigenvectors[:, -2:].T.unsqueeze(1).expand(2, 2, 12)
    size = torch.einsum("tbi,bij,tbj->tb", vectors, dense_of(precision), vectors)
    expected = torch.linalg.eigvalsh(matrix)[-2:].unsqueeze(-1).expand(2, 2)
    # beside them the diagonal claims at least a tenth and, known to a quarter, at most about half of itself
    assert (size > 0.95 * expected).all() and (size < 1.5 * expected).all()
    claimed = precision.diagonal + precision.factor.square().sum(-1)
    assert torch.allclose(claimed, matrix.diagonal().expand(2, 12), rtol=0.8)
    assert (precision.diagonal > 0).all()


# --- fits ----------------------------------------------------------------------------------------------------------


def test_the_curvature_fit_of_a_linear_model_is_the_exact_posterior():
    # steps of 1/2 four times and of 1/2, 1/3, ..., 1/8 leave (1/2)^4 / 8 of the first error: antithetic draws cancel
    model = linear()
    block = Block(model, data_of(model, 6))
    exact = posterior(model, block.x)
    fit = fit_curvature(block)
    precision = exact.precision_matrix.expand(6, 2, 2)
    for part, scale in zip(fit.q.components, (0.92, 1.1), strict=True):
        assert torch.allclose(part.loc - exact.loc, -exact.loc / 128)
        assert torch.allclose(dense_of(part.precision), precision) and part.scale == scale
    assert fit.q.shares == (0.6, 0.4)
    # 11 precisions of 1 + 2 x 2 passes, 4 x 4 + 7 x 8 gradients of 3, and the encoder
    assert fit.num_passes == 1 + 11 * 5 + 72 * 3
    sums = tally(block, fit.q, 1000)
    assert (sums.weights.ess() > 970).all()


@pytest.mark.parametrize("exact_hessian", [False, True])
def test_laplace_of_a_linear_model_is_the_exact_posterior(exact_hessian):
    model = linear(num_latents=3)
    block = Block(model, data_of(model, 6))
    exact = posterior(model, block.x)
    fit = fit_laplace(block, scale=1.0, exact_hessian=exact_hessian)
    # steps of 0.7, twelve times
    assert torch.allclose(fit.q.loc - exact.loc, -(0.3**12) * exact.loc, atol=1e-12)
    assert torch.allclose(dense_of(fit.q.precision), exact.precision_matrix.expand(6, 3, 3))
    assert (tally(block, fit.q, 200).weights.ess() > 199.9).all()
    assert fit.num_passes == 1 + 12 * (7 + 3) + 7 + (3 + 4 * 3 if exact_hessian else 0)
    assert fit_laplace(block).q.scale == 1.1


def test_laplace_by_the_exact_hessian_of_a_curved_model():
    model = curved(DOUBLE)
    block = Block(model, model_data(model, 5))
    fit = fit_laplace(block, exact_hessian=True)
    z = fit.q.loc
    expected = torch.stack(
        [
            -torch.autograd.functional.hessian(
                lambda v, x=x: block.model.decoder(v).log_prob(x) - 0.5 * v.square().sum(), each
            )
            for x, each in zip(block.x, z, strict=True)
        ]
    )
    positive = (torch.linalg.eigvalsh(expected) > 0).all(-1)
    assert positive.any()
    assert torch.allclose(dense_of(fit.q.precision)[positive], expected[positive])


def test_where_the_hessian_is_not_positive_definite_gauss_newton_serves():
    # log p(x | z) of z^2 at z = 0 has a Hessian of the wrong sign for x far above 0
    model = model_of(lambda z: Independent(Normal(z.square(), 0.5), 1), standard(2))
    block = Block(model, torch.full((1, 2), 4.0, dtype=DOUBLE))
    # the gradient vanishes at 0, where the search starts
    precision, plain = (fit_laplace(block, exact_hessian=h).q.precision for h in (True, False))
    assert torch.equal(precision.root, plain.root)


def model_data(model, n):
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return model.decoder(model.prior().sample((n,))).sample()


def test_the_refined_fit_of_a_linear_model_finds_the_mean():
    loading = torch.linalg.qr(double(4, 2)).Q
    model = LinearGaussian(loading, torch.zeros(4, dtype=DOUBLE), torch.full((4,), 0.5, dtype=DOUBLE))
    block = Block(model, data_of(model, 6))
    exact = posterior(model, block.x)
    fit = fit_refined(block, scale=1.0, num_steps=1000)
    # loadings are orthogonal, so that the exact posterior has a diagonal covariance, here of 0.2; single draws make the
    # last steps noisy: a quarter of a standard deviation
    assert ((fit.q.loc - exact.loc) / exact.stddev).square().mean().sqrt() < 0.25
    assert (fit.q.stddev / exact.stddev).log().mean().abs() < 0.1
    assert fit_refined(block).num_passes == 1 + 3 * 300 and fit_refined(block, num_steps=10).num_passes == 31
    assert (tally(block, fit_refined(block).q, 1000).weights.ess() > 700).all()


def ess_of(block, name):
    return tally(block, PROPOSALS[name](block).q, 1000).weights.ess()


def test_the_better_a_proposal_knows_a_datum_the_more_its_draws_count():
    model = curved()
    block = Block(model, model_data(model, 16))
    encoder, refined, curvature = (ess_of(block, name).median() for name in ("encoder", "refined", "curvature"))
    assert encoder < 0.7 * refined and refined < curvature


def test_heavier_tails_are_asked_for_by_their_degrees_of_freedom():
    block = Block(curved(), torch.ones(2, 12))
    assert [part.df for part in fit_curvature(block, df=5.0).q.components] == [5.0, 5.0]
    assert fit_laplace(block, df=5.0).q.df == 5.0


def test_many_latents_get_a_low_rank_fit():
    model = linear(num_latents=140, num_dims=6, dtype=torch.float32)
    model.loading.mul_(0.1)
    block = Block(model, data_of(model, 2))
    fit = fit_curvature(block)
    assert isinstance(fit.q.components[0].precision, LowRankPrecision)
    # 4 of 11 steps renew the precision
    assert fit.num_passes == 1 + 4 * (1 + 5 * 64 + 3 * 32) + 72 * 3
    exact = posterior(model, block.x)
    assert ((fit.q.mean - exact.loc).norm(dim=-1) < 0.4 * exact.loc.norm(dim=-1)).all()


def test_a_datum_that_says_nothing_leaves_the_prior():
    model = model_of(lambda z: Independent(Normal(0 * z[..., :3], 1.0), 1), standard(140, dtype=torch.float32), 140)
    block = Block(model, torch.zeros(2, 3))
    torch.manual_seed(0)
    precision, _ = gauss_newton.gauss_newton(block, torch.zeros(1, 2, 140))
    assert (torch.linalg.eigvalsh(dense_of(precision)) - 1).abs().max() < 0.1


@pytest.mark.parametrize("name", ["refined", "laplace", "curvature", "defensive"])
def test_a_fit_is_keyed_by_seed_and_block_and_leaves_the_caller_s_stream_alone(name):
    model = curved()
    x = model_data(model, 3)
    # scores are drawn, so that Laplace's approximation depends on the seed too
    weight = normal(2, 12, seed=1)
    model.decoder = lambda z: Independent(DiscretizedLogistic(1 + z @ weight, torch.ones(12), 2), 1)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a, b, c, d = (
        PROPOSALS[name](Block(model, x, seed=s, number=k)).q.mean for s, k in [(0, 0), (0, 0), (1, 0), (0, 1)]
    )
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(a, b) and not torch.equal(a, c) and not torch.equal(a, d)


def test_an_encoder_that_does_not_know_its_moments_is_asked_for_draws():
    class Shy(Distribution):
        has_rsample = True

        def __init__(self, base):
            self.base = base
            super().__init__(base.batch_shape, base.event_shape, validate_args=False)

        def rsample(self, shape=()):
            return self.base.rsample(shape)

        @property
        def mean(self):
            raise NotImplementedError

    model = linear()
    block = Block(model, data_of(model, 500))
    block.model.encoder = lambda x: Shy(Independent(Normal(torch.full((len(x), 2), 3.0, dtype=DOUBLE), 2.0), 1))
    loc, scale = encoder_moments(block)
    # 64 draws: standard errors 0.25 and 0.18 each, of 1,000 averaged ones 0.008 and 0.006
    assert loc.mean().item() == pytest.approx(3, abs=0.04) and scale.mean().item() == pytest.approx(2, abs=0.04)
    assert torch.equal(encoder_moments(block)[0], loc)


def test_fitted_proposals_are_taken_apart():
    model = linear()
    block = Block(model, data_of(model, 4))
    rows, fit = torch.tensor([3, 1]), fit_curvature(block, df=7.0)
    z = double(2, 4, 2, seed=9)
    assert torch.equal(take(fit.q, rows).log_prob(z[:, rows]), fit.q.log_prob(z)[:, rows])
    assert precision_of(fit.q, block) is fit.q.components[0].precision
    assert torch.allclose(dense_of(precision_of(model.prior(), block)), torch.eye(2, dtype=DOUBLE).expand(4, 2, 2))
    with pytest.raises(TypeError, match="got Independent: fit one to the data"):
        take(block.encoder(), rows)


# --- by name -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROPOSALS)
def test_every_proposal_finds_the_evidence(name):
    # 4 standard errors of 64 data: false alarm 6e-5 for each proposal
    model = linear(FactorAnalysis, dtype=torch.float32, posterior_scale=1.3)
    x = data_of(model, 64)
    result = evaluate(model, test_split(x), estimator="importance", proposal=name, num_samples=2000, progress=False)
    record, truth = result.record, model.log_evidence(x).double()
    error = (result.evidence.log_evidence - truth).mean().abs().item()
    assert error < 4 * record["log_evidence"]["monte_carlo_error"] + 1e-4
    assert record["proposal"] == name and record["methods"] == {name: 64}
    assert record["samples"] == {"mean": 2000, "maximum": 2000}
    cost = {"prior": 0, "encoder": 1, "widened": 1, "refined": 901, "laplace": 102, "curvature": 272, "defensive": 273}
    assert record["passes"] == {"mean": 2000 + cost[name], "maximum": 2000 + cost[name]}
    assert record["share_above_target"] is None and record["target_error"] is None
    assert (record["elbo"] is None) == (name != "encoder")


@pytest.mark.parametrize("name", PROPOSALS)
def test_a_proposal_by_name_is_the_one_that_is_fitted_to_the_data(name):
    model = linear(FactorAnalysis, posterior_scale=1.3)
    x, z = data_of(model, 3), double(2, 3, 2, seed=9)
    by_name = fitted_proposal(model, name, seed=2)(x)
    assert torch.equal(by_name.log_prob(z), PROPOSALS[name](Block(model, x, seed=2)).q.log_prob(z))


def test_the_widened_proposal_is_a_tenth_wider_than_the_encoder():
    model = linear()
    q = PROPOSALS["widened"](Block(model, data_of(model, 3))).q
    assert torch.allclose(q.stddev, torch.full((3, 2), 1.1, dtype=DOUBLE)) and (q.mean == 0).all()


def test_names_and_numbers_that_are_not_known_are_refused():
    model = linear()
    with pytest.raises(ValueError, match=r"proposal must be one of encoder, .*defensive, but is 'best': choose one"):
        fitted_proposal(model, "best")
    with pytest.raises(ValueError, match=r"estimator must be one of auto, .*exact, but is 'best': choose one"):
        Estimator("best")
    with pytest.raises(ValueError, match="proposal must be one of"):
        Estimator("importance", "best")
    with pytest.raises(ValueError, match="num_samples must be at least 1, but is 0"):
        Estimator("importance", num_samples=0)
    with pytest.raises(ValueError, match="num_temperatures must be at least 2, but is 1"):
        Estimator("annealed", num_temperatures=1)
    split = test_split(data_of(model, 3).float())
    with pytest.raises(ValueError, match="auto takes no proposal, but got prior: choose estimator importance"):
        evaluate(model, split, estimator="auto", proposal="prior")
