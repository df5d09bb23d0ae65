"""Durations have the laws that are written, networks their longest paths, and simulations an error that is right."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from itertools import pairwise, product

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Beta,
    Distribution,
    Exponential,
    Gamma,
    Normal,
    TransformedDistribution,
    Uniform,
    Weibull,
)

from logpx.montecarlo.density import log_density
from logpx.montecarlo.draws import block_ends, keyed_draws, largest_block
from logpx.project import (
    Duration,
    Durations,
    Project,
    Simulation,
    Task,
    TaskError,
    Triangular,
    example,
    network,
    parse_duration,
    simulate,
)
from logpx.project.laws import ScaledBeta, exponential_draws, uniform_draws
from logpx.project.simulation import Bins

SIGMA = math.sqrt(math.log(1.25))
# Each family as it is written, beside the same law in scipy.
LAWS = {
    "exponential(4)": stats.expon(scale=4),
    "uniform(2, 5)": stats.uniform(2, 3),
    "triangular(2, 3, 7)": stats.triang(0.2, 2, 5),
    "triangular(2, 2, 7)": stats.triang(0, 2, 5),
    "triangular(0, 7, 7)": stats.triang(1, 0, 7),
    "pert(2, 3, 7)": stats.beta(1.8, 4.2, 2, 5),
    "pert(0, 0, 7)": stats.beta(1, 5, 0, 7),
    "lognormal(mean=4, sd=2)": stats.lognorm(SIGMA, scale=4 * math.exp(-(SIGMA**2) / 2)),
    "gamma(mean=4, sd=2)": stats.gamma(4, scale=1),
    "gamma(mean=1, sd=2)": stats.gamma(0.25, scale=4),
}
DTYPES = [torch.float32, torch.float64]


def law(text: str, dtype: torch.dtype = torch.float32) -> Distribution:
    return parse_duration(text).distribution(dtype)


def fixed_tasks(predecessors: dict[str, str], durations: dict[str, float] | None = None) -> Project:
    """Returns a project with tasks of one letter, such as {"a": "", "b": "a"}."""
    lengths = durations or dict.fromkeys(predecessors, 1.0)
    return Project(tuple(Task(i, parse_duration(lengths[i]), tuple(predecessors[i])) for i in predecessors))


# --- how durations are written


@pytest.mark.parametrize(
    "text, expected",
    [
        (4, Duration("fixed", (4,))),
        ("4", Duration("fixed", (4,))),
        (" 0.5e1 ", Duration("fixed", (5,))),
        ("Exponential( mean = 4 )", Duration("exponential", (4,))),
        ("triangular(2,3,7)", Duration("triangular", (2, 3, 7))),
        ("triangular(2, high=7, mode=3)", Duration("triangular", (2, 3, 7))),
        ("pert(low=2, mode=3, high=7)", Duration("pert", (2, 3, 7))),
        ("lognormal(sd=2, mean=4)", Duration("lognormal", (4, 2))),
        ("uniform(2, 5)", Duration("uniform", (2, 5))),
        ("gamma(4, 2)", Duration("gamma", (4, 2))),
    ],
)
def test_a_duration_is_a_number_or_a_family_with_parameters(text: str | float, expected: Duration) -> None:
    assert parse_duration(text) == expected


positive = st.floats(1e-6, 1e6)


@given(
    st.one_of(
        st.builds(lambda x: Duration("fixed", (x,)), st.floats(0, 1e29)),
        st.builds(lambda x: Duration("exponential", (x,)), positive),
        st.builds(lambda f, x, y: Duration(f, (x, y)), st.sampled_from(["lognormal", "gamma"]), positive, positive),
        st.builds(
            lambda f, x, d, e: Duration(f, (x, x + d, x + d + e)),
            st.sampled_from(["triangular", "pert"]),
            *(st.floats(1e-3, 1e3),) * 3,
        ),
        st.builds(lambda x, d: Duration("uniform", (x, x + d)), *(st.floats(1e-3, 1e3),) * 2),
    )
)
def test_what_is_written_is_read_as_the_same_duration(duration: Duration) -> None:
    assert parse_duration(str(duration)) == duration
    assert parse_duration(str(duration).upper().replace("MEAN", "mean").replace("SD", "sd")) == duration


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "soon",
            r"must be a number or a family, but is 'soon': write a number, exponential\(mean\), uniform\(low, high",
        ),
        ("exponential(4) days", "must be a number or a family"),
        (True, "must be a number or a family, but is 'True'"),
        ("weibull(2)", "family of a duration must be known, but is 'weibull': write a number, exponential"),
        ("-1", "A fixed duration needs value >= 0, but got -1"),
        ("nan", "must have numbers below 1e.30, but is nan"),
        ("exponential(inf)", r"must have numbers below 1e.30, but is exponential\(inf\)"),
        ("1e30", "must have numbers below 1e.30, but is 1e.30"),
        ("exponential(0)", r"exponential\(mean\) needs mean > 0, but got exponential\(0\)"),
        ("exponential()", "missing a required argument: 'mean'"),
        ("exponential(2, 3)", "too many positional arguments"),
        ("uniform(5, 2)", "needs 0 <= low < high"),
        ("uniform(2, 2)", "needs 0 <= low < high"),
        ("uniform(-1, 2)", "needs 0 <= low < high"),
        ("uniform(two, 3)", "needs numbers, but got 'two'"),
        ("uniform(2, low=1, high=3)", "multiple values for argument 'low'"),
        ("triangular(3, 2, 7)", "needs 0 <= low <= mode <= high and low < high"),
        ("triangular(2, 8, 7)", "needs 0 <= low <= mode <= high"),
        ("pert(2, 2, 2)", "low < high"),
        ("pert(-2, 2, 3)", "0 <= low"),
        ("lognormal(mean=4, scale=2)", "missing a required argument: 'sd'"),
        ("lognormal(mean=4, sd=1, sd=2)", "'sd' twice"),
        ("gamma(mean=4, sd=0)", r"needs mean > 0 and sd > 0, but got gamma\(mean=4, sd=0\)"),
        ("lognormal(mean=-4, sd=1)", "needs mean > 0 and sd > 0"),
    ],
)
def test_a_duration_that_does_not_fit_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_duration(text)


def test_a_duration_has_the_parameters_of_its_family_and_a_fixed_one_no_density() -> None:
    with pytest.raises(ValueError, match=r"uniform\(low, high\) needs 2 parameters, but got 1"):
        Duration("uniform", (1,))
    assert parse_duration(4).is_fixed
    assert not parse_duration("exponential(4)").is_fixed
    with pytest.raises(ValueError, match="fixed duration has no density, but 4"):
        parse_duration(4).distribution()


@pytest.mark.parametrize("text", LAWS)
def test_the_mean_of_a_duration_is_that_of_its_law(text: str) -> None:
    assert parse_duration(text).mean == pytest.approx(LAWS[text].mean(), rel=1e-12)
    assert law(text, torch.float64).mean.item() == pytest.approx(LAWS[text].mean(), rel=1e-12)
    assert law(text, torch.float64).variance.item() == pytest.approx(LAWS[text].var(), rel=1e-12)


# --- draws


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("text", LAWS)
def test_draws_have_the_law_that_scipy_knows(text: str, dtype: torch.dtype) -> None:
    # Kolmogorov and Smirnov, 100,000 draws of each of two tasks; 40 tests at 1e-4 are a false alarm of 0.4%
    p = Durations([law(text, dtype), law("uniform(0, 1)", dtype), law(text, dtype)], dtype)
    with keyed_draws(1, "law"):
        x = p.sample((100_000,))
    assert x.dtype == dtype
    for column in (0, 2):
        assert stats.kstest(x[:, column].double().numpy(), LAWS[text].cdf).pvalue > 1e-4
    # tasks are independent: a correlation of 0 has a standard error of 0.0032, and 4 of them are a false alarm of 6e-5
    assert abs(np.corrcoef(x.double().numpy().T) - np.eye(3)).max() < 0.0127


@pytest.mark.parametrize("dtype", DTYPES)
def test_fast_exponential_draws_are_right_in_moments_and_tail(dtype: torch.dtype) -> None:
    # all bounds are 4 standard errors: a false alarm of 6e-5 each, 1e-3 in all
    num = 2**25 if dtype == torch.float32 else 2**23
    with keyed_draws(2, "tail"):
        e = exponential_draws((num,), dtype)
    for power in (1, 2, 3):
        moment, square = math.factorial(power), math.factorial(2 * power)
        error = math.sqrt((square - moment**2) / num)
        assert float(e.pow(power).double().mean()) == pytest.approx(moment, abs=4 * error)
    for edge in (1e-3, 0.1, 5.0, 10.0, 12.0, 15.0):
        expected = num * math.exp(-edge)
        assert abs(int((e > edge).sum()) - expected) < 4 * math.sqrt(expected) + 2
    assert float(e.min()) > 0


@pytest.mark.parametrize("dtype, deepest", [(torch.float32, 22.18), (torch.float64, 37.43)])
def test_the_extreme_bits_give_no_zero_and_no_infinity(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, deepest: float
) -> None:
    class Extreme:
        def __init__(self, bits: int) -> None:
            self.bits = bits

        def integers(self, low: int, high: int, size: int, dtype: type) -> np.ndarray:
            return np.full(size, self.bits, dtype)

    for bits, u, e in ((0, 0.0, deepest), (2**64 - 1, 1.0, 0.0)):
        monkeypatch.setattr("logpx.project.laws._generator", lambda bits=bits: Extreme(bits))
        uniform, exponential = uniform_draws((3,), dtype), exponential_draws((3,), dtype)
        assert ((uniform > 0) & (uniform < 1) & (exponential > 0)).all()
        assert uniform.tolist() == pytest.approx([u] * 3, abs=1e-6)
        assert exponential.tolist() == pytest.approx([e] * 3, abs=1e-2)


def test_draws_follow_the_key_and_touch_no_other_generator() -> None:
    p = Durations([law(text) for text in LAWS] + [Weibull(1.0, 2.0), 3.0])
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]

    def draw(key: str) -> Tensor:
        with keyed_draws(0, key):
            return p.sample((50,))

    a, b = draw("a"), draw("b")
    other = list[Tensor]()
    thread = threading.Thread(target=lambda: other.append(draw("a")))
    thread.start()
    thread.join()
    assert torch.equal(a, draw("a")) and torch.equal(a, other[0])
    assert (a[:, :-1] != b[:, :-1]).any(0).all()
    assert torch.equal(torch_before, torch.get_rng_state())
    assert numpy_before == np.random.get_state()[1].tolist()  # type: ignore[index]


@pytest.mark.parametrize(
    "text", ["uniform(1000, 1000.01)", "triangular(1000, 1000.01, 1000.01)", "pert(999, 999, 999.1)"]
)
def test_rounding_moves_no_draw_to_where_its_density_is_zero(text: str) -> None:
    p = Durations([law(text)])
    with keyed_draws(3, "ends"):
        x = p.sample((100_000,))
    assert p.support.check(x).all()
    assert torch.isfinite(p.log_prob(x)).all()


def test_a_gamma_draw_that_is_too_small_for_its_precision_still_has_a_density() -> None:
    p = Durations([law("gamma(mean=1, sd=20)")])
    x = p.sample((1000,))
    assert (x > 0).all() and torch.isfinite(p.log_prob(x)).all()


# --- densities


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-9)])
@pytest.mark.parametrize("text", LAWS)
def test_densities_are_those_of_scipy(text: str, dtype: torch.dtype, tolerance: float) -> None:
    x = torch.tensor([0.5, 2.5, 3.0, 3.5, 6.9], dtype=dtype)
    x = x[torch.tensor(LAWS[text].pdf(x.numpy())) > 0]
    expected = LAWS[text].logpdf(x.double().numpy())
    single = Durations([law(text, dtype)], dtype)
    assert single.log_prob(x.unsqueeze(-1)).numpy() == pytest.approx(expected, abs=tolerance)
    # two such tasks apart from each other, with others in between: densities add
    p = Durations([law(text, dtype), law("exponential(2)", dtype), law(text, dtype), 3], dtype)
    rows = torch.stack([x, torch.full_like(x, 2), x, torch.full_like(x, 3)], -1)
    assert p.log_prob(rows).numpy() == pytest.approx(2 * expected - math.log(2) - 1, abs=3 * tolerance)
    assert law(text, dtype).log_prob(x).numpy() == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("text", LAWS)
def test_outside_of_its_support_a_density_is_zero_and_nothing_is_raised(text: str) -> None:
    low, high = LAWS[text].support()
    outside = torch.tensor([low - 1, -1e30, math.nan, min(high, 1e30) + 1e24])[: 4 if math.isfinite(high) else 3]
    # the one task that is outside stands behind one of the same family that is inside
    p = Durations([law(text), law(text), law("exponential(1)")])
    x = torch.stack([torch.full_like(outside, 3), outside, torch.ones_like(outside)], -1)
    assert p.support.check(x).tolist() == [False] * len(x)
    assert p.log_prob(x).tolist() == [-math.inf] * len(x)
    # and beside draws inside
    mixed = torch.cat([torch.tensor([[3.0, 3.0, 1.0]]), x])
    assert p.support.check(mixed).tolist() == [True] + [False] * len(x)
    assert p.log_prob(mixed)[0] == p.log_prob(mixed[:1])[0] > -math.inf


def test_at_the_peak_at_an_end_the_density_is_not_zero() -> None:
    for text, peak in (("triangular(2, 2, 7)", 2.0), ("triangular(0, 7, 7)", 7.0), ("pert(0, 0, 7)", 0.0)):
        expected = LAWS[text].logpdf(peak)
        assert Durations([law(text)]).log_prob(torch.tensor([peak])).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("c", [0.0, 0.2, 1.0])
def test_the_triangular_law_is_that_of_scipy(c: float) -> None:
    p = Triangular(*(torch.tensor(value, dtype=torch.float64) for value in (2, 2 + 5 * c, 7)))
    expected, u = stats.triang(c, 2, 5), torch.linspace(0, 1, 41, dtype=torch.float64)
    x = 2 + 5 * u
    assert p.cdf(x).numpy() == pytest.approx(expected.cdf(x), abs=1e-12)
    assert p.icdf(u).numpy() == pytest.approx(expected.ppf(u), abs=1e-7)
    assert p.cdf(torch.tensor([1.0, 8.0])).tolist() == [0, 1]
    assert p.mode.item() == 2 + 5 * c
    assert p.expand(torch.Size([2, 3])).sample((4,)).shape == (4, 2, 3)
    with pytest.raises(ValueError, match="support"):
        p.log_prob(torch.tensor(8.0))
    with pytest.raises(ValueError, match="Triangular needs low <= mode <= high"):
        Triangular(3.0, 2.0, 7.0)


def test_a_scaled_beta_knows_its_support_and_expands() -> None:
    p = ScaledBeta(*map(torch.tensor, (2.0, 3.0, 1.0, 5.0)))
    assert p.support.check(torch.tensor([0.9, 1.0, 5.0, 5.1])).tolist() == [False, True, True, False]
    assert p.expand(torch.Size([2, 3])).sample((4,)).shape == (4, 2, 3)
    with pytest.raises(ValueError, match="support"):
        p.log_prob(torch.tensor(8.0))


# --- the joint law


def mixed() -> Durations:
    return Durations([law("exponential(4)"), 3.0, law("gamma(4, 2)"), law("exponential(2)"), Weibull(1.0, 2.0), 0.1])


def test_draws_of_a_task_lie_side_by_side_and_any_shape_is_drawn() -> None:
    p = mixed()
    assert (p.event_shape, p.batch_shape) == ((6,), ())
    assert p.sample((7,)).stride() == (1, 7)
    for shape in ((), (1,), (7,), (2, 3), (0,)):
        x = p.sample(shape)
        assert x.shape == (*shape, 6)
        assert p.log_prob(x).shape == p.support.check(x).shape == shape
        assert p.support.check(x).all()
        assert (x[..., 1] == 3).all()


def test_log_densities_of_random_tasks_add_and_the_layout_does_not_matter() -> None:
    p = mixed()
    x = p.sample((50,))
    parts = [
        component.log_prob(x[:, i]) for i, component in enumerate(p.components) if isinstance(component, Distribution)
    ]
    assert torch.allclose(p.log_prob(x), torch.stack(parts).sum(0), atol=1e-5)
    assert torch.equal(p.log_prob(x), p.log_prob(x.clone(memory_format=torch.contiguous_format)))
    assert torch.allclose(p.log_prob(x.double()), p.log_prob(x).double(), atol=1e-5)
    assert torch.equal(log_density(p, x), p.log_prob(x))
    wrong = x.clone()
    wrong[3, 4] = -1
    assert (log_density(p, wrong) == -math.inf).nonzero().tolist() == [[3]]


def test_another_value_of_a_fixed_task_is_outside_of_the_support() -> None:
    p, q = mixed(), Durations([*mixed().components[:5], 0.2])
    x = p.sample((5,))
    assert (q.log_prob(x) == -math.inf).all()
    assert p.support.check(x.double()).all()


def test_laws_of_torch_are_drawn_and_scored_with_ours() -> None:
    beta = TransformedDistribution(Beta(1.8, 4.2), AffineTransform(2.0, 5.0))
    falling = TransformedDistribution(Beta(1.8, 4.2), AffineTransform(7.0, -5.0))
    p = Durations([beta, law("pert(2, 3, 7)"), falling])
    assert len(p._groups) == 2
    with keyed_draws(4, "beta"):
        x = p.sample((20_000,))
    assert p.log_prob(x[:, [1, 0, 2]]).numpy() == pytest.approx(p.log_prob(x).numpy(), abs=1e-4)
    # false alarm 3e-4
    for column, expected in enumerate((LAWS["pert(2, 3, 7)"], LAWS["pert(2, 3, 7)"], stats.beta(4.2, 1.8, 2, 5))):
        assert stats.kstest(x[:, column].numpy(), expected.cdf).pvalue > 1e-4
    several = Durations([Gamma(2.0, 1.0), Uniform(0.0, 1.0), Normal(0.0, 1.0), Exponential(1.0), Normal(5.0, 1.0)])
    assert several.log_prob(torch.tensor([1.0, 0.5, -3.0, 1.0, 5.0])).item() == pytest.approx(
        -1 - 4.5 - 1 - 1.8379, abs=1e-3
    )


def test_durations_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one component"):
        Durations([])
    with pytest.raises(ValueError, match=r"must be one number, but component 1 has batch shape \(2,\)"):
        Durations([1.0, Exponential(torch.ones(2))])
    with pytest.raises(ValueError, match=r"must have shape \(..., 6\), but have \(3, 5\)"):
        mixed().log_prob(torch.zeros(3, 5))


# --- networks


@settings(max_examples=500, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), log_size=st.floats(0, 3), degree=st.floats(0, 3), whole=st.booleans())
def test_the_longest_path_is_that_of_networkx(seed: int, log_size: float, degree: float, whole: bool) -> None:
    rng, size = np.random.default_rng(seed), round(10**log_size)
    durations = rng.integers(0, 5, size).astype(float) if whole else rng.gamma(1.0, 2.0, size)
    edges = rng.integers(0, size, (round(degree * size), 2))
    edges = np.sort(edges[edges[:, 0] != edges[:, 1]], 1)
    names, predecessors = rng.permutation(size).astype(str).tolist(), [list[str]() for _ in range(size)]
    graph = nx.DiGraph()
    graph.add_edges_from((f"{i}", "end", {"weight": durations[i]}) for i in range(size))
    for a, b in edges.tolist():
        predecessors[b].append(names[a])
        graph.add_edge(f"{a}", f"{b}", weight=durations[a])
    tasks = [Task(names[i], parse_duration(durations[i]), tuple(predecessors[i])) for i in rng.permutation(size)]
    project = Project(tuple(tasks))
    expected = nx.dag_longest_path_length(graph)
    assert project.mean_completion == pytest.approx(expected, rel=1e-12)
    schedule = project.schedule(project.means.unsqueeze(0))
    assert schedule.completion.item() == project.mean_completion
    path = [project.ids.index(name) for name in project.critical_path()]
    assert float(project.means[path].sum()) == pytest.approx(expected, rel=1e-12)
    assert schedule.critical[0, path].all()
    assert all(a in project.predecessors[b] for a, b in pairwise(path))
    assert not project.predecessors[path[0]] and not project.successors[path[-1]]


def paths(project: Project) -> Iterator[list[int]]:
    """Yields all paths from a task that waits for none to a task that none waits for."""
    unfinished = [[i] for i, sources in enumerate(project.predecessors) if not sources]
    while unfinished:
        path = unfinished.pop()
        later = project.successors[path[-1]]
        unfinished += [[*path, k] for k in later]
        if not later:
            yield path


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 8), whole=st.booleans())
def test_critical_tasks_and_slack_are_those_of_all_paths(seed: int, size: int, whole: bool) -> None:
    # whole durations, zeros among them, make many paths of equal length
    rng = np.random.default_rng(seed)
    predecessors = {"abcdefgh"[i]: "".join(c for c in "abcdefgh"[:i] if rng.random() < 0.4) for i in range(size)}
    project = fixed_tasks(predecessors)
    x = rng.integers(0, 4, (20, size)).astype(np.float32) if whole else rng.gamma(1, 2, (20, size)).astype(np.float32)
    schedule = project.schedule(torch.tensor(x))
    along = [(path, x[:, path].sum(1)) for path in paths(project)]
    longest = np.max([length for _, length in along], 0)
    assert schedule.completion.numpy() == pytest.approx(longest, rel=1e-6)
    assert torch.equal(schedule.completion, project.completion(torch.tensor(x)))
    for i in range(size):
        slack = longest - np.max([length for path, length in along if i in path], 0)
        assert schedule.slack[:, i].numpy() == pytest.approx(slack, abs=1e-5)
        assert (schedule.slack[:, i].numpy() >= 0).all()
        assert (schedule.critical[:, i].numpy() == (slack <= 1e-5)).all()
        assert (schedule.slack[:, i][schedule.critical[:, i]] == 0).all()
    assert torch.equal(schedule.start + torch.tensor(x), schedule.finish)


def test_rounding_makes_no_negative_slack() -> None:
    # sums of tenths are equal on paper, but not in floating point
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(1, 5, (10_000, 10)).astype(np.float32) / 10)
    slack = example().schedule(x).slack
    assert not torch.signbit(slack).any()
    assert ((slack == 0) | (slack > 1e-9)).all()


def test_layout_precision_and_number_of_draws_do_not_matter() -> None:
    project, num = example(), network.CHUNK + 1000
    x = torch.from_numpy(np.random.default_rng(0).gamma(1, 2, (num, 10)))
    whole = project.completion(x)
    assert whole.dtype == torch.float64
    assert torch.equal(whole, torch.cat([project.completion(x[:7]), project.completion(x[7:])]))
    assert torch.equal(whole, project.completion(x.T.contiguous().T))
    assert torch.equal(whole, project.schedule(x).completion)
    assert torch.allclose(project.completion(x.float()), whole.float())
    before = x.clone()
    project.schedule(x.requires_grad_())
    assert torch.equal(before, x) and project.completion(x[:0]).shape == (0,)


def test_tasks_without_neighbours_count() -> None:
    project = fixed_tasks({"a": "", "b": ""}, {"a": 1.0, "b": 5.0})
    schedule = project.schedule(torch.tensor([[1.0, 5.0], [3.0, 3.0]]))
    assert schedule.completion.tolist() == [5, 3]
    assert schedule.critical.tolist() == [[False, True], [True, True]]
    assert schedule.slack.tolist() == [[4, 0], [0, 0]]
    assert project.critical_path() == ("b",)


def test_memory_of_a_walk_is_that_of_the_tasks_that_are_under_way() -> None:
    chain = Project(tuple(Task(f"{i}", parse_duration(1), (f"{i - 1}",) if i else ()) for i in range(1000)))
    assert chain._plan.num_rows == 1
    assert chain.mean_completion == 1000
    assert example()._plan.num_rows <= 5


def test_of_several_longest_paths_the_first_is_the_critical_one() -> None:
    project = fixed_tasks({"z": "", "c": "z", "b": "z", "a": "z", "y": "abc"})
    assert project.critical_path() == ("z", "c", "y")
    assert project.order == (0, 1, 2, 3, 4)
    # a predecessor that is named twice is one
    assert Project((Task("a", parse_duration(1)), Task("b", parse_duration(1), ("a", "a")))).predecessors == ((), (0,))


def test_tasks_that_make_no_project_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one task, but has none: add one"):
        Project(())
    with pytest.raises(TaskError, match="Task 'a' must have an id of its own, but another task has it") as caught:
        Project((Task("a", parse_duration(1)), Task("b", parse_duration(1)), Task("a", parse_duration(2))))
    assert caught.value.index == 2
    with pytest.raises(
        TaskError, match=r"Task 'b' has unknown predecessor 'dgi': add that task, .* mean 'dig'\?"
    ) as caught:
        Project((Task("dig", parse_duration(1)), Task("b", parse_duration(1), ("dgi",))))
    assert caught.value.index == 1
    with pytest.raises(TaskError, match="in a circle, but do: a -> a; drop"):
        fixed_tasks({"a": "a"})
    with pytest.raises(TaskError, match="in a circle, but do: d -> b -> c -> d; drop") as caught:
        fixed_tasks({"a": "", "d": "c", "c": "ab", "b": "d"})
    assert caught.value.index == 1
    with pytest.raises(TypeError, match="Task 'a' must have a Duration, but has 4: write parse_duration"):
        Task("a", 4)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must have a tuple of predecessors, but has 'bc'"):
        Task("a", parse_duration(4), "bc")  # type: ignore[arg-type]
    for method in (example().completion, example().schedule):
        with pytest.raises(ValueError, match=r"must have shape \(S, 10\), but have \(5, 9\)"):
            method(torch.ones(5, 9))


# --- simulation


@pytest.fixture(scope="module")
def draws() -> Tensor:
    """The durations that `simulate(example(), 200_000, seed=5)` draws."""
    blocks, start = list[Tensor](), 0
    for end in block_ends(largest_block(10)):
        with keyed_draws(5, "trial", start):
            blocks.append(example().durations.sample((min(end, 200_000) - start,)))
        start = end
        if start >= 200_000:
            break
    return torch.cat(blocks)


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate(example(), 200_000, seed=5)


def test_the_mean_of_the_example_is_known() -> None:
    # 18.20 is published to two digits, and the standard error here is 0.005: false alarm below 0.3%
    result = simulate(example(), 2_000_000)
    assert result.mean == pytest.approx(18.20, abs=0.02)
    assert result.mean_error == pytest.approx(0.0051, rel=0.02)
    assert example().mean_completion == 15


def test_a_simulation_says_what_its_draws_say(draws: Tensor, simulation: Simulation) -> None:
    schedule = example().schedule(draws)
    t = schedule.completion.double().numpy()
    assert simulation.num_trials == 200_000
    assert simulation.mean == pytest.approx(t.mean(), rel=1e-10)
    assert simulation.sd == pytest.approx(t.std(ddof=1), rel=1e-10)
    assert simulation.mean_error == pytest.approx(t.std(ddof=1) / math.sqrt(200_000), rel=1e-10)
    c = schedule.critical.double().mean(0).numpy()
    assert simulation.criticality == pytest.approx(c, rel=1e-12)
    assert simulation.criticality_error == pytest.approx(np.sqrt(c * (1 - c) / 200_000), rel=1e-9)
    assert simulation.slack == pytest.approx(schedule.slack.double().mean(0).numpy(), rel=1e-6)


def test_quantiles_are_those_of_numpy(draws: Tensor, simulation: Simulation) -> None:
    t = example().completion(draws).double().numpy()
    for q in (0, 1e-5, 0.01, 0.5, 0.8, 0.95, 0.999, 1):
        assert simulation.quantile(q) == pytest.approx(np.quantile(t, q, method="inverted_cdf"), rel=2**-14)
    for q, confidence in product((0.05, 0.5, 0.99), (0.5, 0.95)):
        low, high = stats.binom(200_000, q).ppf([(1 - confidence) / 2, (1 + confidence) / 2]).astype(int)
        ends = np.sort(t)[[low - 1, high]]
        assert simulation.quantile_interval(q, confidence) == pytest.approx(ends, rel=2**-14)
        assert (
            simulation.quantile_interval(q, confidence)[0]
            <= ends[0]
            < ends[1]
            <= simulation.quantile_interval(q, confidence)[1]
        )


def test_a_histogram_counts_each_draw_once(draws: Tensor, simulation: Simulation) -> None:
    t = example().completion(draws).numpy()
    for num_bins in (1, 7, 100, 3000):
        edges, counts = simulation.histogram(num_bins)
        assert len(counts) == num_bins and counts.sum() == 200_000
        assert edges[[0, -1]].tolist() == [t.min(), t.max()]
        assert counts.tolist() == np.histogram(t.astype(float), edges)[0].tolist()
        assert edges == pytest.approx(np.linspace(t.min(), t.max(), num_bins + 1), rel=2**-14)


def test_the_number_of_threads_does_not_matter() -> None:
    one, three = simulate(example(), 100_000, num_workers=1), simulate(example(), 100_000, num_workers=3)
    assert (one.mean, one.sd, one.quantile(0.9)) == (three.mean, three.sd, three.quantile(0.9))
    assert one.slack.tolist() == three.slack.tolist()
    assert simulate(example(), 1000, seed=1).mean != simulate(example(), 1000, seed=2).mean


@given(st.lists(st.integers(0, 200_000), max_size=5))
@settings(max_examples=10, deadline=None)
def test_what_is_merged_equals_one_pass(draws: Tensor, simulation: Simulation, cuts: list[int]) -> None:
    ends = sorted({0, *cuts, 200_000})
    pieces = [Simulation.of(example(), draws[a:b], (a,)) for a, b in pairwise(ends)]
    merged = pieces[0]
    for piece in pieces[1:]:
        before = piece.num_trials, piece.completions.counts.sum()
        merged = piece.merged(merged)
        assert (piece.num_trials, piece.completions.counts.sum()) == before
    assert set(merged.seed) == set(ends[:-1])
    assert merged.num_trials == 200_000
    assert merged.mean == pytest.approx(simulation.mean, rel=1e-12)
    assert merged.sd == pytest.approx(simulation.sd, rel=1e-10)
    assert merged.criticality.tolist() == simulation.criticality.tolist()
    assert merged.slack == pytest.approx(simulation.slack, rel=1e-12)
    assert [merged.quantile(q) for q in (0, 0.1, 0.9, 1)] == [simulation.quantile(q) for q in (0, 0.1, 0.9, 1)]
    assert merged.histogram(50)[1].tolist() == simulation.histogram(50)[1].tolist()


def test_memory_does_not_grow_with_the_number_of_trials() -> None:
    def size(result: Simulation) -> int:
        return result.completions.counts.size + result.criticality.size + result.moments.products.numel()

    # ten times as many trials reach a little further into the tails
    assert size(simulate(example(), 1_000_000)) < 1.5 * size(simulate(example(), 100_000))


def test_quantile_intervals_cover_the_true_quantile_as_often_as_they_say() -> None:
    # 1,000 simulations of 200 trials; by the binomial distribution the coverage is 96.0% to 96.7%, and 56% to 59% at a
    # confidence of one half, where no narrower ranks reach it. Bounds are 4 standard errors: a false alarm of 4e-4
    project = Project((Task("a", parse_duration("exponential(4)")),))
    with keyed_draws(6, "coverage"):
        x = project.durations.sample((200_000,))
    truths = {q: -4 * math.log1p(-q) for q in (0.1, 0.5, 0.95)}
    hits = {(q, confidence): 0 for q in truths for confidence in (0.5, 0.95)}
    for rows in x.split(200):
        result = Simulation.of(project, rows, (0,))
        for q, confidence in hits:
            low, high = result.quantile_interval(q, confidence)
            hits[q, confidence] += low <= truths[q] <= high
    for q in truths:
        assert 935 < hits[q, 0.95] < 990
        assert 500 < hits[q, 0.5] < 654


def test_few_trials_leave_the_ends_of_an_interval_open() -> None:
    few = simulate(example(), 10)
    assert few.quantile_interval(0.5)[0] > 0 and few.quantile_interval(0.5)[1] < math.inf
    assert few.quantile_interval(0.01)[0] == 0
    assert few.quantile_interval(0.99)[1] == math.inf


def test_two_exponential_tasks_side_by_side_are_critical_in_proportion_to_their_means() -> None:
    # P(A > B) = 3 / 4 and E max(B - A, 0) = 1 / 4 for means 3 and 1; 4 standard errors, a false alarm of 1.3e-4
    tasks = (Task("a", parse_duration("exponential(3)")), Task("b", parse_duration("exponential(1)")))
    result = simulate(Project(tasks), 1_000_000, seed=1)
    assert result.criticality == pytest.approx([0.75, 0.25], abs=4 * 0.000433)
    assert result.criticality_error == pytest.approx([0.000433] * 2, rel=0.01)
    assert result.slack == pytest.approx([0.25, 2.25], abs=4 * 0.0029)


@pytest.mark.parametrize("length", [15.0, 0.0, 0.1])
def test_a_project_without_chance_has_one_completion(length: float) -> None:
    result = simulate(fixed_tasks({"a": ""}, {"a": length}), 1000)
    single = float(np.float32(length))
    assert (result.mean, result.sd, result.mean_error) == (pytest.approx(single), 0, 0)
    assert result.quantile(0.1) == result.quantile(0.9) == single
    assert result.quantile_interval(0.5) == (single, single)
    edges, counts = result.histogram(10)
    assert counts.sum() == counts.max() == 1000
    assert edges[counts.argmax()] <= single <= edges[counts.argmax() + 1]
    assert result.criticality.tolist() == [1] and result.slack.tolist() == [0]


def test_a_completion_of_zero_has_a_bin_of_its_own() -> None:
    project = fixed_tasks({"a": ""})
    x = torch.tensor([0.0] * 50 + [1.0] * 30 + [2.0] * 20).unsqueeze(-1)
    pieces = [Simulation.of(project, rows, (seed,)) for seed, rows in enumerate(x.split(40))]
    result = pieces[0].merged(pieces[1]).merged(pieces[2])
    assert result.quantile(0.2) == result.quantile(0.5) == 0
    assert [result.quantile(q) for q in (0.51, 0.8, 0.81)] == pytest.approx([1, 1, 2], rel=2**-14)
    assert result.histogram(4)[1].tolist() == [50, 0, 30, 20]


def test_counts_may_be_added_after_they_were_asked_for() -> None:
    bins = Bins.of(torch.tensor([1.0, 3.0]))
    assert bins.ranked(2)[1] == pytest.approx(3)
    bins.add(Bins.of(torch.tensor([2.0])))
    assert [bins.ranked(rank)[1] for rank in (1, 2, 3)] == pytest.approx([1, 2, 3], rel=2**-14)


def test_narrow_completions_have_fewer_bins_of_a_histogram() -> None:
    result = simulate(Project((Task("a", parse_duration("uniform(1000, 1000.5)")),)), 10_000)
    edges, counts = result.histogram(100)
    assert len(counts) < 20 and counts.sum() == 10_000 and (np.diff(edges) > 0).all()


def test_simulations_that_do_not_fit_are_refused() -> None:
    for number in ("num_trials", "num_workers"):
        with pytest.raises(ValueError, match=f"{number} must be positive, but is 0"):
            simulate(example(), **{number: 0})
    a = simulate(example(), 100, seed=1)
    with pytest.raises(ValueError, match=r"must come from different seeds to merge, but used \(1,\) and \(1,\)"):
        a.merged(simulate(example(), 100, seed=1))
    with pytest.raises(ValueError, match="must share a project to merge"):
        a.merged(simulate(fixed_tasks({"a": ""}), 100, seed=2))
    with pytest.raises(ValueError, match="q must be a share between 0 and 1, but is 95"):
        a.quantile(95)
    with pytest.raises(ValueError, match="q must be a share"):
        a.quantile_interval(1.0)
    with pytest.raises(ValueError, match="confidence must be a share"):
        a.quantile_interval(0.5, 95)
    with pytest.raises(ValueError, match="num_bins must be positive, but is 0"):
        a.histogram(0)
    assert math.isnan(simulate(example(), 1).sd)
