"""Shared fixtures: one fitted and evaluated run, which tests read, or copy before they change it.

The suite runs on the CPU, where results are promised bit for bit, and on one thread, which is the fastest for tiny
problems, unless CUDA_VISIBLE_DEVICES and OMP_NUM_THREADS say otherwise.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
import zuko  # noqa: F401
from helpers import TINY
from torch.distributions import Distribution

import logpx

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# also for the processes that tests start; two threads that wait for each other on busy cores take many times as long
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))
# zuko turns the checks of torch's distributions off when it is imported: here it comes first, and they are on again
Distribution.set_default_validate_args(True)


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = logpx.fit("digits", out=tmp_path_factory.mktemp("runs") / "digits", **TINY)
    run.evaluate(estimator="importance", num_samples=100, limit=64)
    return run.path


@pytest.fixture
def run_copy(fitted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fitted, tmp_path / "copy"))


@pytest.fixture
def unpainted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets pages make their figures and not paint them, which takes nine tenths of the time of a page."""
    monkeypatch.setattr("logpx.page.run.png", lambda figure: b"")
