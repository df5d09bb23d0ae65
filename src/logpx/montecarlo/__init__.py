"""Monte Carlo by itself: estimates of E_p[f(X)], their errors and diagnostics, and proposals; knows no model."""

__all__ = [
    "Estimate",
    "LogMeanAccumulator",
    "MomentAccumulator",
    "Trace",
    "clopper_pearson",
    "expectation",
    "importance_sampling",
    "pareto_k",
    "tail_length",
]

from .accumulator import LogMeanAccumulator
from .estimate import Estimate, Trace
from .estimators import expectation, importance_sampling
from .intervals import clopper_pearson
from .moments import MomentAccumulator
from .pareto import pareto_k, tail_length
