"""A run folder: settings, weights, metrics and evaluation, each file written whole or not at all."""

__all__ = ["SCHEMA", "Run", "check_free", "load"]

from .folder import SCHEMA, check_free
from .run import Run, load
