"""Parts of draws that threads weigh at the same time: the same numbers, and the process as it was."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from logpx.conditional import Decoder
from logpx.evidence import Block, Estimator, importance
from logpx.vae import VAE, mlp_vae


@pytest.mark.parametrize("estimator", [Estimator("importance", num_samples=700), Estimator()])
def test_threads_weigh_parts_to_the_same_numbers_and_leave_the_process_as_it_was(estimator: Estimator) -> None:
    model, x = mlp_vae((12,), hidden=(8,), latent_dim=2).eval(), (torch.rand(5, 12) > 0.5).float()
    alone = estimator(Block(model, x))
    with threads(3):
        before, number = torch.get_rng_state(), threading.active_count()
        together = estimator(Block(model, x))
        assert torch.get_num_threads() == 3 and torch.equal(torch.get_rng_state(), before)
        assert threading.active_count() == number
    for name in ("log_evidence", "standard_error", "pareto_k", "rate", "distortion"):
        assert torch.equal(getattr(alone, name), getattr(together, name)), name


def test_a_model_with_parts_of_ones_own_is_weighed_by_one_thread_and_keyed() -> None:
    class Forking(nn.Linear):
        """Draws, and hides that it did, as tracing of probabilistic programs does."""

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            assert threading.current_thread() is threading.main_thread()
            with torch.random.fork_rng(devices=[]):
                return super().forward(z) + 0.1 * torch.randn(12)

    vae = mlp_vae((12,), hidden=(8,), latent_dim=2)
    assert vae.is_thread_safe
    model = VAE(vae.prior, vae.encoder, Decoder(Forking(2, 12), vae.decoder.likelihood)).eval()
    assert not model.is_thread_safe
    x = (torch.rand(5, 12) > 0.5).float()
    with threads(3):
        a, b = (importance(model, x, 700).log_evidence for _ in range(2))
    assert torch.equal(a, b)


def test_what_a_thread_raises_reaches_the_caller_and_the_threads_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, weigh = mlp_vae((12,), hidden=(8,), latent_dim=2).eval(), torch.zeros(5, 12), Block.weigh

    def failing(block: Block, z: torch.Tensor, q: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("from a thread")
        return weigh(block, z, q)

    monkeypatch.setattr(Block, "weigh", failing)
    with threads(3):
        with pytest.raises(RuntimeError, match="from a thread"):
            importance(model, x, 700)
        assert torch.get_num_threads() == 3


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
