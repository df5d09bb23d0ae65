"""Estimators of log p(x): proposals, importance sampling, and results with errors and diagnosis."""

__all__ = ["Evidence", "encoder_proposal", "importance", "prior_proposal"]

from .importance import importance
from .proposals import encoder_proposal, prior_proposal
from .results import Evidence
