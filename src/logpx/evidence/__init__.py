"""Estimates of log p(x) for single data, under any model with the three methods."""

__all__ = [
    "ESTIMATORS",
    "METHODS",
    "NUM_LEAPFROG",
    "PROPOSALS",
    "Block",
    "Estimator",
    "Evidence",
    "Sandwich",
    "adaptive",
    "annealed",
    "encoder_proposal",
    "extrapolation",
    "fit_curvature",
    "fit_laplace",
    "fit_refined",
    "fitted_proposal",
    "has_own_weights",
    "importance",
    "inspect_model",
    "prior_proposal",
    "register_fisher",
    "register_scores",
    "sandwich",
    "simulate",
]

from .adaptive import adaptive
from .annealed import NUM_LEAPFROG, annealed
from .block import Block
from .checks import inspect_model
from .curvature import fit_curvature, fit_laplace
from .estimator import ESTIMATORS, Estimator, has_own_weights
from .fisher import register_fisher, register_scores
from .importance import importance
from .limit import extrapolation
from .proposals import PROPOSALS, encoder_proposal, fitted_proposal, prior_proposal
from .refined import fit_refined
from .results import METHODS, Evidence
from .sandwich import Sandwich, sandwich, simulate
