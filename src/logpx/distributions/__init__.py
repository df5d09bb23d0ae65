"""Distributions that torch lacks, strict about their data; and which likelihoods are relaxed."""

__all__ = [
    "CoupledLogisticMixture",
    "Dequantized",
    "DiscretizedGaussian",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "IndependentBernoulli",
    "LevelsCategorical",
    "NegativeBinomialCounts",
    "OnUnitInterval",
    "PoissonCounts",
    "RelaxedBernoulli",
    "SafeContinuousBernoulli",
    "logistic_log_mass",
    "relaxation",
]

from .bernoulli import IndependentBernoulli, RelaxedBernoulli
from .categorical import LevelsCategorical
from .continuous import SafeContinuousBernoulli
from .counts import NegativeBinomialCounts, PoissonCounts
from .coupled import CoupledLogisticMixture
from .dequantized import Dequantized
from .gaussian import DiscretizedGaussian
from .logistic import DiscretizedLogistic, DiscretizedLogisticMixture, logistic_log_mass
from .relaxation import relaxation
from .unit import OnUnitInterval
