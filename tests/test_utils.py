import math

import pytest
import torch
from scipy.special import logsumexp

from logpx.utils import bits_per_dim, chunks, generator, keyed_rng, log_mean_exp, soft_bound


def test_log_mean_exp_agrees_with_scipy_and_does_not_overflow():
    log_w = torch.tensor([[-1e4, 1e4], [3.0, 1e4]], dtype=torch.float64)
    expected = logsumexp(log_w.numpy(), axis=0) - math.log(2)
    assert torch.allclose(log_mean_exp(log_w), torch.from_numpy(expected))


def test_a_uniform_code_over_256_levels_costs_8_bits_per_dim():
    assert bits_per_dim(3 * math.log(1 / 256), 3) == pytest.approx(8.0)


def test_soft_bound_is_the_identity_near_zero_stays_inside_and_keeps_a_gradient():
    x = torch.tensor([1e-3, 1.0, 50.0, 500.0], dtype=torch.float64, requires_grad=True)
    y = soft_bound(x, 7.0)
    y.sum().backward()
    assert y[0].item() == pytest.approx(1e-3, rel=1e-6)
    assert (y.abs() < 7).all() and (y.diff() > 0).all()
    # slope (1 + (x / b)^2)^{-3/2}
    assert torch.allclose(x.grad, (1 + (x.detach() / 7) ** 2) ** -1.5)
    assert (x.grad > 1e-6).all()


def test_keyed_numbers_depend_on_the_key_alone_and_leave_the_callers_stream_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with keyed_rng(1, "a", 2):
        first = torch.rand(2)
    assert torch.equal(torch.rand(3), expected)
    with keyed_rng(1, "a", 2):
        assert torch.equal(torch.rand(2), first)
    for key in [(1, "a", 3), (2, "a", 2), (1, "b", 2)]:
        with keyed_rng(*key):
            assert not torch.equal(torch.rand(2), first)


def test_keyed_rng_restores_the_stream_after_an_error():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    try:
        with keyed_rng(1):
            torch.rand(1)
            raise RuntimeError
    except RuntimeError:
        pass
    assert torch.equal(torch.rand(1), expected)


def test_generators_of_one_key_agree():
    a, b = (torch.rand(4, generator=generator(3, "x", 1)) for _ in range(2))
    assert torch.equal(a, b)


def test_chunks_cover_the_range_once():
    assert [i for start, stop in chunks(10, 3) for i in range(start, stop)] == list(range(10))
    assert list(chunks(0, 3)) == []
