"""Shared fixtures: one fitted and evaluated run, which tests read, or copy before they change it.

The suite runs on the CPU, where results are promised bit for bit, unless CUDA_VISIBLE_DEVICES says otherwise.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from helpers import TINY

import logpx

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(scope="session")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = logpx.fit("digits", out=tmp_path_factory.mktemp("runs") / "digits", **TINY)
    run.evaluate(num_samples=100, limit=64)
    return run.path


@pytest.fixture
def run_copy(fitted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fitted, tmp_path / "copy"))
