"""Figures of training, data, evidence and schedules: arrays in, a matplotlib Figure out.

Nothing here draws on a screen or changes matplotlib's settings. A title is a sentence that says what is shown, axes
carry their units, and what is not in view (a cut tail, a non-finite value) is counted in a note.
"""

__all__ = [
    "bounds_sandwich",
    "completion_histogram",
    "component_grid",
    "convergence",
    "criticality_bars",
    "decimals",
    "em_ascent",
    "em_touch",
    "evidence_curve",
    "evidence_histogram",
    "extreme_indices",
    "extremes",
    "image_grid",
    "network",
    "paired_grid",
    "paired_scores",
    "pareto_scatter",
    "pixels_by_entropy",
    "predicted_levels",
    "stacked_grid",
    "training_curves",
    "traversal_grid",
    "value_limits",
]

from .bounds import bounds_sandwich
from .charts import evidence_curve, evidence_histogram, pareto_scatter, training_curves
from .diagram import network
from .em import em_ascent, em_touch
from .numbers import decimals
from .pairs import paired_scores
from .pixels import pixels_by_entropy, predicted_levels
from .running import convergence
from .schedule import completion_histogram, criticality_bars
from .tiles import (
    component_grid,
    extreme_indices,
    extremes,
    image_grid,
    paired_grid,
    stacked_grid,
    traversal_grid,
    value_limits,
)
