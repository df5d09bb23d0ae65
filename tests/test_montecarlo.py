import math

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats
from hypothesis import given, settings
from hypothesis import strategies as st

from logpx import LogpxError
from logpx.montecarlo import LogMeanAccumulator, pareto_k, tail_length

FIELDS = ["log_mean", "mean_log", "standard_error", "ess", "pareto_k", "jackknife"]


def draws(num_samples=500, batch_size=3, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shift = torch.arange(batch_size) * 100.0 - 50
    return scale * torch.randn(num_samples, batch_size, generator=generator, dtype=torch.float64) + shift


def accumulate(log_w, sizes):
    accumulator = LogMeanAccumulator.empty(log_w.shape[1])
    for chunk in log_w.split(sizes):
        accumulator.update(chunk)
    return accumulator


def assert_same(a, b):
    for name in FIELDS:
        assert torch.allclose(getattr(a, name)(), getattr(b, name)(), rtol=1e-10, equal_nan=True), name


def test_the_estimates_are_those_of_the_textbook():
    log_w = draws()
    accumulator = accumulate(log_w, 37)
    assert accumulator.block_counts.tolist() == [16] * 20 + [15] * 12
    w = torch.exp(log_w - log_w.amax(0))
    mean = w.mean(0)
    error = w.std(0) / math.sqrt(len(w)) / mean
    assert torch.allclose(accumulator.log_mean(), mean.log() + log_w.amax(0))
    assert torch.allclose(accumulator.standard_error(), error)
    assert torch.allclose(accumulator.ess(), w.sum(0) ** 2 / w.square().sum(0))
    assert torch.allclose(accumulator.mean_log(), log_w.mean(0))


@given(st.lists(st.integers(1, 90), min_size=1, max_size=12), st.integers(0, 11))
@settings(max_examples=30, deadline=None)
def test_any_chunks_in_any_merge_equal_one_pass(sizes, cut):
    log_w = draws(sum(sizes))
    whole = accumulate(log_w, len(log_w))
    assert_same(accumulate(log_w, sizes), whole)
    # processes take whole rounds of 32 draws, so that every draw stays in its block
    edge = min(32 * cut, len(log_w))
    left, right = log_w[:edge], log_w[edge:]
    if len(left) and len(right):
        assert_same(accumulate(left, 13).merged(accumulate(right, 7)), whole)
        assert_same(accumulate(right, 13).merged(accumulate(left, 7)), whole)


def test_a_zero_weight_counts_and_an_invalid_one_is_shown():
    log_w = torch.tensor([[0.0, -math.inf, 0.0, 0.0], [-math.inf, -math.inf, math.nan, math.inf]])
    accumulator = accumulate(log_w, 1)
    assert accumulator.log_mean()[0].item() == pytest.approx(math.log(0.5))
    assert accumulator.log_mean()[1].item() == -math.inf
    assert accumulator.standard_error()[1].item() == math.inf
    assert accumulator.ess()[1].item() == 0
    assert torch.isnan(accumulator.log_mean()[2:]).all() and torch.isnan(accumulator.pareto_k()[2:]).all()
    assert accumulator.num_invalid.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_weights_have_no_error_and_k_hat_minus_infinity(dtype):
    noise = torch.finfo(dtype).eps * 100 * torch.randn(200, 1, generator=torch.Generator().manual_seed(0), dtype=dtype)
    accumulator = accumulate(noise - 100, 64)
    assert accumulator.standard_error().item() == 0
    assert accumulator.pareto_k().item() == -math.inf
    assert accumulator.ess().item() == 200


def test_nearly_constant_weights_are_not_taken_for_constant():
    accumulator = accumulate(draws(scale=0.01), 64)
    assert (accumulator.standard_error() > 0).all()
    assert torch.isfinite(accumulator.pareto_k()).all()


@pytest.mark.parametrize("num_samples", [30, 100, 225, 226, 2000, 20000])
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_k_hat_agrees_with_arviz_stats(num_samples, scale):
    log_w = draws(num_samples, scale=scale, seed=1)
    expected = [array_stats._psislw(-log_w[:, i].numpy(), 1.0)[1] for i in range(log_w.shape[1])]
    assert np.allclose(accumulate(log_w, 128).pareto_k().numpy(), expected, rtol=1e-8)


def test_k_hat_recovers_the_shape_of_a_pareto_tail():
    # w = U^{-k} has tail shape k; the standard error of k-hat over a tail of 949 is about (1 + k) / 31 = 0.05
    uniform = torch.rand(100_000, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for k in (0.2, 0.5, 1.0):
        assert accumulate(-k * uniform.log(), 5000).pareto_k().item() == pytest.approx(k, abs=0.2)


def test_k_hat_is_unknown_below_25_draws():
    assert torch.isnan(accumulate(draws(24), 24).pareto_k()).all()
    assert torch.isfinite(accumulate(draws(25), 25).pareto_k()).all()


def test_the_tail_is_that_of_the_paper():
    assert [tail_length(s) for s in (25, 225, 226, 10_000)] == [5, 45, 45, 300]


def test_memory_does_not_grow_with_the_number_of_draws():
    few, many = accumulate(draws(2_000), 500), accumulate(draws(20_000), 500)
    size = [sum(v.numel() for v in vars(a).values() if isinstance(v, torch.Tensor)) for a in (few, many)]
    assert size[0] == size[1]


def test_the_jackknife_removes_most_of_the_finite_sample_bias():
    # log of a mean of 256 lognormal weights: bias -var(w) / (2 S) = -(e - 1) / 512 = -0.0034 to first order. Over
    # 60,000 repetitions the standard error of the mean is 0.00033, so the bounds are 4 of them: false alarm 6e-5
    accumulator = accumulate(torch.randn(256, 60_000, generator=torch.Generator().manual_seed(3)), 256)
    plain, jackknife = (accumulator.log_mean() - 0.5).mean().item(), (accumulator.jackknife() - 0.5).mean().item()
    assert plain == pytest.approx(-0.0034, abs=0.0013)
    assert abs(jackknife) < 0.0013


def test_the_curve_rises_with_the_number_of_samples_and_ends_at_the_estimate():
    accumulator = accumulate(torch.randn(640, 500, generator=torch.Generator().manual_seed(4)), 128)
    sizes, curve, error = accumulator.curve()
    assert sizes.tolist() == [20, 40, 80, 160, 320, 640]
    assert torch.allclose(curve[-1], accumulator.log_mean())
    assert (curve.mean(1).diff() > 0).all()
    assert torch.allclose(error[-1], accumulator.standard_error())
    # the spread of the groups and the delta method speak of the same error
    assert torch.allclose(
        error.square().mean(1).sqrt() / error[-1].square().mean().sqrt(), torch.ones(6).double(), atol=0.4
    )


def test_the_curve_of_wildly_different_weights_does_not_underflow():
    log_w = torch.full((64, 1), -800.0, dtype=torch.float64)
    log_w[0] = 0
    _, curve, _ = accumulate(log_w, 64).curve()
    assert torch.isfinite(curve).all()


def test_the_bias_is_not_estimable_where_the_estimate_hangs_on_one_draw():
    log_w = draws(1024, 1)
    assert torch.isfinite(accumulate(log_w, 128).jackknife()).all()
    log_w[5] += 30
    assert torch.isnan(accumulate(log_w, 128).jackknife()).all()


def test_one_draw_says_nothing_of_its_error():
    accumulator = accumulate(draws(1), 1)
    assert (accumulator.standard_error() == torch.inf).all()
    assert torch.isnan(accumulator.pareto_k()).all()


def test_bad_input_is_refused():
    accumulator = LogMeanAccumulator.empty(3)
    with pytest.raises(ValueError, match=r"shape \(S, 3\), but has \(2,\)"):
        accumulator.update(torch.zeros(2))
    with pytest.raises(ValueError, match="cover 3 and 2"):
        accumulator.merged(LogMeanAccumulator.empty(2))
    with pytest.raises(LogpxError, match="at least 1 draw"):
        accumulator.log_mean()
    with pytest.raises(ValueError, match="at least 6 log-weights"):
        pareto_k(torch.zeros(5, 1))
