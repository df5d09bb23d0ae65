"""Figures of training, data and evidence: arrays in, a matplotlib Figure out.

Nothing here draws on a screen or changes matplotlib's settings. A title is a sentence that says what is shown, axes
carry their units, and what is not in view (a cut tail, a non-finite value) is counted in a note.
"""

__all__ = [
    "decimals",
    "evidence_curve",
    "evidence_histogram",
    "extreme_indices",
    "extremes",
    "image_grid",
    "paired_grid",
    "pareto_scatter",
    "training_curves",
    "traversal_grid",
    "value_limits",
]

from .charts import decimals, evidence_curve, evidence_histogram, pareto_scatter, training_curves
from .tiles import extreme_indices, extremes, image_grid, paired_grid, traversal_grid, value_limits
