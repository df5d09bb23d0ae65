"""Models whose evidence and posterior are known in closed form: the ground truth of every estimator.

Each has the E-step and the M-step of expectation maximization as two methods, which meet in sums over data.
"""

__all__ = [
    "BernoulliMixture",
    "CovarianceKind",
    "FactorAnalysis",
    "GaussianMixture",
    "Mend",
    "Mixture",
    "ProbabilisticPCA",
    "Statistics",
]

from .bernoulli_mixture import BernoulliMixture
from .factor_analysis import FactorAnalysis, ProbabilisticPCA
from .gaussian_mixture import CovarianceKind, GaussianMixture
from .mixture import Mixture
from .statistics import Mend, Statistics
