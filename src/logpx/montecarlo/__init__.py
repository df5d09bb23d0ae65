"""Monte Carlo by itself: estimates of E_p[f(X)], their errors and diagnostics, and proposals; knows no model."""

__all__ = [
    "Estimate",
    "Fit",
    "LogMeanAccumulator",
    "Mixture",
    "MomentAccumulator",
    "Trace",
    "adaptive_importance_sampling",
    "clopper_pearson",
    "cross_entropy",
    "defensive",
    "expectation",
    "importance_sampling",
    "pareto_k",
    "quasi_expectation",
    "tail_length",
    "weighted_fit",
    "widened",
]

from .accumulator import LogMeanAccumulator
from .adaptive import adaptive_importance_sampling
from .cross_entropy import Fit, cross_entropy
from .estimate import Estimate, Trace
from .estimators import expectation, importance_sampling
from .fitting import weighted_fit
from .intervals import clopper_pearson
from .mixture import Mixture, defensive, widened
from .moments import MomentAccumulator
from .pareto import pareto_k, tail_length
from .quasi import quasi_expectation
