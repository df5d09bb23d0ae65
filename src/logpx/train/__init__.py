"""Fits of models to data: the call, what it refuses, the loop, its steps, and validation."""

from __future__ import annotations

__all__ = ["fit", "resume"]

from .calls import fit, resume
