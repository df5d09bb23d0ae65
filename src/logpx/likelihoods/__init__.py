"""Likelihoods p(x | z): how the outputs of a network become a distribution of data, and which goes with which data."""

__all__ = [
    "LIKELIHOODS",
    "BernoulliLikelihood",
    "CategoricalLikelihood",
    "ContinuousBernoulliLikelihood",
    "DequantizedGaussianLikelihood",
    "DiscretizedGaussianLikelihood",
    "GaussianLikelihood",
    "Likelihood",
    "LogisticMixtureLikelihood",
    "NegativeBinomialLikelihood",
    "PoissonLikelihood",
    "RelaxedBernoulliLikelihood",
    "choose_likelihood",
    "make_likelihood",
]

from ._likelihood import Likelihood
from .binary import BernoulliLikelihood, RelaxedBernoulliLikelihood
from .choice import LIKELIHOODS, choose_likelihood, make_likelihood
from .counts import NegativeBinomialLikelihood, PoissonLikelihood
from .levels import (
    CategoricalLikelihood,
    DequantizedGaussianLikelihood,
    DiscretizedGaussianLikelihood,
    LogisticMixtureLikelihood,
)
from .real import ContinuousBernoulliLikelihood, GaussianLikelihood
