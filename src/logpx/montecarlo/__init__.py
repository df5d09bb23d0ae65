"""Monte Carlo by itself: accumulators and diagnostics of importance weights; knows no model."""

__all__ = ["LogMeanAccumulator", "pareto_k", "tail_length"]

from .accumulator import LogMeanAccumulator
from .pareto import pareto_k, tail_length
