"""Expectation maximization for models with an exact posterior: all data at once, in batches, or online."""

__all__ = ["EMFit", "EMModel", "Iteration", "fit_em"]

from .fit import fit_em
from .record import EMFit, EMModel, Iteration
