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
    "level_masses",
    "log_prob_per_channel",
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
from .pixels import level_masses, log_prob_per_channel
from .relaxation import relaxation
from .unit import OnUnitInterval
