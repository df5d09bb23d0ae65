"""P(completion >= deadline): every proposal agrees with exact answers, at the cost that it claims."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy import integrate, linalg, stats

from logpx import LogpxError
from logpx.montecarlo.fitting import weighted_fit
from logpx.project import Project, Task, example, parse_duration, simulate
from logpx.project.direction import ScaledDirichlet
from logpx.project.risk import deadline_probability, longest_completion
from logpx.project.study import run_study
from logpx.project.words import lines, one_in, samples_needed

DEADLINE = 70.0
PROPOSALS = ("scale=2", "scale=4", "critical-path=2", "critical-path=3", "critical-path=4", "critical-path=5", "auto")


def exact_tail(project: Project, deadline: float) -> float:
    """P(T >= t) for exponential durations: tasks under way end as a Markov chain on the sets of tasks that are done.

    Markov and Markov-regenerative PERT networks (Kulkarni and Adlakha, 1986).
    """
    tasks = range(len(project.tasks))
    states, todo, jumps = {frozenset[int](): 0}, [frozenset[int]()], list[tuple[int, int, float]]()
    while todo:
        done = todo.pop()
        for task in tasks:
            if task not in done and set(project.predecessors[task]) <= done:
                after = done | {task}
                if after not in states:
                    states[after] = len(states)
                    todo.append(after)
                jumps.append((states[done], states[after], 1 / project.tasks[task].duration.mean))
    generator = np.zeros((len(states), len(states)))
    for a, b, rate in jumps:
        generator[a, b] += rate
        generator[a, a] -= rate
    reached = linalg.expm(generator * deadline)[0]
    return float(np.delete(reached, states[frozenset(tasks)]).sum())


def series(*durations: str) -> Project:
    """Tasks one after the other."""
    names = [str(i) for i in range(len(durations))]
    waits: list[tuple[str, ...]] = [(), *((name,) for name in names[:-1])]
    rows = zip(names, durations, waits, strict=True)
    return Project(tuple(Task(name, parse_duration(text), before) for name, text, before in rows))


def random_project(seed: int, size: int = 6) -> Project:
    rng = np.random.default_rng(seed)
    means = rng.uniform(1, 5, size)
    waits = [tuple(str(j) for j in range(i) if rng.random() < 0.4) for i in range(size)]
    tasks = [Task(str(i), parse_duration(f"exponential({means[i]})"), waits[i]) for i in range(size)]
    return Project(tuple(tasks))


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_every_proposal_agrees_with_the_exact_probability_of_the_example(proposal: str) -> None:
    # false alarm: 6e-5 for each at 4 standard errors, more for the skewed scale=4
    estimate = deadline_probability(example(), DEADLINE, proposal, num_samples=200_000, confidence=0.9999)
    truth = exact_tail(example(), DEADLINE)
    assert truth == pytest.approx(3.2115e-5, rel=1e-4)
    assert estimate.interval[0] <= truth <= estimate.interval[1]


@pytest.mark.parametrize("deadline", [10.0, 25.0, 40.0, 120.0])
def test_auto_is_right_for_likely_and_for_hopeless_deadlines(deadline: float) -> None:
    estimate = deadline_probability(example(), deadline, num_samples=100_000, seed=1)
    assert abs(estimate.estimate - exact_tail(example(), deadline)) < 4 * estimate.standard_error
    assert estimate.relative_error < 0.02


@pytest.mark.parametrize("seed", range(5))
def test_auto_agrees_with_exact_probabilities_of_random_networks(seed: int) -> None:
    project = random_project(seed)
    deadline = 4 * project.mean_completion
    estimate = deadline_probability(project, deadline, num_samples=50_000, seed=seed)
    assert abs(estimate.estimate - exact_tail(project, deadline)) < 4 * estimate.standard_error


def test_auto_reaches_one_percent_with_few_draws_and_is_unbiased_for_a_fixed_number() -> None:
    truth = exact_tail(example(), DEADLINE)
    runs = [deadline_probability(example(), DEADLINE, relative_error=0.01, seed=seed) for seed in range(10)]
    assert max(run.num_samples + run.num_adaptive for run in runs) <= 50_000
    fixed = [deadline_probability(example(), DEADLINE, num_samples=4096, seed=seed) for seed in range(100)]
    mean, error = np.mean([run.estimate for run in fixed]), np.std([run.estimate for run in fixed]) / 10
    assert abs(mean - truth) < 4 * error
    assert error < 0.002 * truth


@pytest.mark.parametrize("project, deadline", [(example(), DEADLINE), (random_project(9, 15), 60.0)])
def test_auto_follows_all_paths_so_that_no_rare_one_decides(project: Project, deadline: float) -> None:
    # a fit alone follows one path: its k-hat is 0.6 to 0.8 for the example
    for seed in range(3):
        estimate = deadline_probability(project, deadline, num_samples=32_768, seed=seed)
        assert estimate.pareto_k < 0.5
        assert estimate.relative_error < 0.01


@pytest.mark.parametrize("shape", [0.5, 2.5])
def test_auto_integrates_the_radius_of_gamma_durations_out(shape: float) -> None:
    # with scale 2, mean = 2 k and sd = 2 sqrt(k); a sum of three is gamma(3 k, 2)
    text = f"gamma(mean={2 * shape}, sd={2 * math.sqrt(shape)})"
    project = series(text, text, text)
    deadline = 8 * project.mean_completion
    estimate = deadline_probability(project, deadline, num_samples=1000)
    # the direction of a series does not matter: nothing is left to chance
    assert estimate.estimate == pytest.approx(stats.gamma.sf(deadline, 3 * shape, scale=2), rel=1e-9)
    assert estimate.standard_error == 0


def test_auto_mixes_exponential_gamma_and_fixed_zero_durations() -> None:
    project = series("exponential(3)", "0", "gamma(mean=6, sd=4.242640687119285)")  # both of scale 3
    estimate = deadline_probability(project, 60.0, num_samples=1000)
    assert estimate.estimate == pytest.approx(stats.gamma.sf(60, 3, scale=3), rel=1e-9)


def test_auto_falls_back_to_cross_entropy_for_other_families() -> None:
    # Irwin and Hall: the sum of five uniforms exceeds 5 - e with probability e^5 / 5!
    project = series(*["uniform(0, 2)"] * 5)
    estimate = deadline_probability(project, 9.5, num_samples=100_000)
    assert abs(estimate.estimate - 0.25**5 / 120) < 4 * estimate.standard_error
    assert estimate.relative_error < 0.02
    assert estimate.num_adaptive > 0


MIXED = (
    ("lognormal(mean=4, sd=2)", "triangular(2, 3, 7)", "pert(1, 2, 9)"),
    ("exponential(2)", "2", "uniform(0, 3)"),
    ("gamma(mean=4, sd=3)", "2", "lognormal(mean=1, sd=1)"),
)


@pytest.mark.parametrize("durations", MIXED)
def test_auto_agrees_with_plain_monte_carlo_for_mixed_families(durations: Sequence[str]) -> None:
    project = series(*durations)
    plain = deadline_probability(project, 1.8 * project.mean_completion, "plain", num_samples=2_000_000)
    auto = deadline_probability(project, 1.8 * project.mean_completion, num_samples=100_000)
    gap = math.hypot(plain.standard_error, auto.standard_error)
    assert plain.num_nonzero > 100
    assert abs(plain.estimate - auto.estimate) < 4 * gap
    assert auto.relative_error < 0.05


def test_stretching_leaves_durations_with_an_upper_end_as_they_are() -> None:
    project = series("exponential(2)", "uniform(1, 3)")
    estimate = deadline_probability(project, 12.0, "scale=3", num_samples=200_000)
    # P(E + U >= t) = (e^(-(t-3)/2) - e^(-(t-1)/2))
    truth = math.exp(-4.5) - math.exp(-5.5)
    assert abs(estimate.estimate - truth) < 4 * estimate.standard_error


def test_the_upper_end_of_each_family_is_known() -> None:
    ends = {"3": 3, "uniform(1, 5)": 5, "triangular(1, 2, 4)": 4, "pert(1, 2, 6)": 6}
    assert {text: parse_duration(text).upper for text in ends} == ends
    for text in ("exponential(2)", "gamma(mean=4, sd=2)", "lognormal(mean=4, sd=2)"):
        assert parse_duration(text).upper == math.inf


def test_trials_of_the_fit_count_along_the_trace() -> None:
    estimate = deadline_probability(example(), DEADLINE, num_samples=10_000, trace=[1000, 6000, 10_000])
    assert estimate.num_adaptive > 1000
    assert [point.num_samples for point in estimate.trace] == [6000, 10_000]


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    one, two = (deadline_probability(example(), DEADLINE, num_samples=60_000, num_workers=k) for k in (1, 2))
    assert one == two


def test_a_deadline_that_floats_cannot_say_is_refused() -> None:
    # P = 5.6e-277 is still said, and 1e-400 is not
    last = deadline_probability(series("exponential(1)"), 636.0, num_samples=1000)
    assert last.log_estimate == pytest.approx(-636.0)
    with pytest.raises(LogpxError, match="less than numbers here can say"):
        deadline_probability(series("exponential(1)"), 921.0, num_samples=1000)


def test_auto_leaves_likely_deadlines_to_plain_monte_carlo() -> None:
    project = series("uniform(0, 2)", "lognormal(mean=4, sd=2)")
    assert deadline_probability(project, 4.0, num_samples=2000).method == "plain"
    certain = deadline_probability(example(), 0.001, num_samples=2000)
    assert certain.estimate == pytest.approx(1.0, abs=1e-6)


def test_fixed_durations_keep_or_miss_a_deadline_with_certainty() -> None:
    for deadline, word in ((7.0, "is missed"), (7.5, "is kept")):
        found = run_study(series("3", "4"), deadline, num_trials=100)
        assert found.risk is None
        assert f"the deadline of {deadline:g} days {word} with certainty" in "\n".join(lines(found))


def test_auto_copes_with_many_tasks() -> None:
    project = random_project(3, 120)
    deadline = simulate(project, 50_000).quantile(0.999)
    plain = deadline_probability(project, deadline, "plain", num_samples=200_000)
    auto = deadline_probability(project, deadline, num_samples=20_000)
    assert plain.num_nonzero > 20
    assert abs(plain.estimate - auto.estimate) < 4 * math.hypot(plain.standard_error, auto.standard_error)


def test_a_deadline_out_of_reach_is_said_to_be_impossible() -> None:
    project = series("uniform(1, 2)", "3", "pert(0, 1, 4)")
    assert longest_completion(project) == 9
    assert longest_completion(example()) == math.inf
    found = run_study(project, 9.5, num_trials=1000, max_samples=1000)
    assert found.risk is not None
    assert found.risk.estimate == 0
    assert "exactly 0" in found.notes[0]
    assert "9 days" in " ".join(lines(found))


@pytest.mark.parametrize(
    "project, deadline, proposal, words",
    [
        (example(), 0.0, "auto", "deadline must be positive and finite"),
        (example(), math.inf, "auto", "deadline must be positive and finite"),
        (example(), 70.0, "nonsense", "proposal must be plain, auto, scale=c or critical-path=c"),
        (example(), 70.0, "scale", "proposal must be"),
        (example(), 70.0, "scale=0", "proposal must be"),
        (example(), 70.0, "scale=x", "proposal must be"),
        (example(), 70.0, "plain=2", "proposal must be"),
        (series("3", "4"), 5.0, "auto", "all are fixed and the project takes 7 days"),
        (series("uniform(1, 2)"), 1.5, "scale=2", "use the proposal auto or plain"),
    ],
)
def test_what_cannot_be_estimated_is_an_error(project: Project, deadline: float, proposal: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        deadline_probability(project, deadline, proposal)


def test_a_scaled_dirichlet_density_integrates_to_one() -> None:
    p = ScaledDirichlet(torch.tensor([0.7, 2.3]), torch.tensor([3.0, 0.5]))
    mass, _ = integrate.quad(lambda d: p.log_prob(torch.tensor([[d, 1 - d]], dtype=torch.float64)).exp().item(), 0, 1)
    assert mass == pytest.approx(1, abs=1e-6)


def test_scaled_dirichlet_draws_follow_the_density() -> None:
    # chi-square over 20 bins of equal probability: false alarm 1e-4
    p = ScaledDirichlet(torch.tensor([1.5, 2.0]), torch.tensor([4.0, 1.0]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        d = p.sample((20_000,))
    # G_1 / G_2 of two gammas is an F variable: d_1 / d_2 = theta_1 k_1 / (theta_2 k_2) F(2 k_1, 2 k_2)
    u = stats.f.cdf((d[:, 0] / d[:, 1]).numpy() / (4 * 1.5 / 2), 3, 4)
    counts = np.histogram(u, np.linspace(0, 1, 21))[0]
    assert stats.chisquare(counts).pvalue > 1e-4
    assert torch.allclose(d.sum(-1), torch.ones(20_000, dtype=torch.float64))


def test_the_fit_of_a_scaled_dirichlet_finds_its_scales() -> None:
    truth = ScaledDirichlet(torch.tensor([1.0, 2.0, 0.5]), torch.tensor([3.0, 1.0, 0.5]))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        d = truth.sample((100_000,))
    start = ScaledDirichlet(truth.concentration)
    fitted = weighted_fit(start, d, torch.zeros(len(d)))
    assert isinstance(fitted, ScaledDirichlet)
    ratio = fitted.scale / fitted.scale.mean() / (truth.scale / truth.scale.mean())
    assert ratio.sub(1).abs().max() < 0.02
    # it is the maximum: nudging any scale lowers the likelihood
    best = fitted.log_prob(d).mean()
    for i, factor in itertools.product(range(3), (0.98, 1.02)):
        scale = fitted.scale.clone()
        scale[i] *= factor
        assert ScaledDirichlet(truth.concentration, scale).log_prob(d).mean() < best


def test_a_study_in_words_names_its_units_and_costs() -> None:
    found = run_study(example(), DEADLINE, num_trials=20_000, compare=["scale=4", "auto"], relative_error=0.02)
    text = "\n".join(lines(found))
    assert "P(completion >= 70 days) = 3." in text
    assert "to fit the proposal (proposal auto)" in text
    assert "1 → 2 → 4 → 10: 15 days if every task took its mean" in text
    assert "about 1 project in 3" in text
    assert "P95" in text
    assert "scale=4" in text
    assert found.comparison["scale=4"].trace[0].num_samples == 1000


def test_probabilities_and_costs_in_words() -> None:
    assert one_in(0.75) == "75.0% of projects"
    assert one_in(0.0) == "no project was seen to be late"
    assert one_in(3.2e-5) == "about 1 project in 31,200"
    zero = deadline_probability(example(), 300.0, "plain", num_samples=1000)
    assert samples_needed(zero) == "unknown"
    half = deadline_probability(example(), 17.0, "plain", num_samples=10_000)
    needed = 1e4 * (1 - half.estimate) / half.estimate
    assert float(samples_needed(half).replace(",", "")) == pytest.approx(needed, rel=0.05)


def test_comparing_proposals_needs_a_deadline() -> None:
    with pytest.raises(LogpxError, match="there is none: give one"):
        run_study(series("exponential(1)"), compare=["auto"])
