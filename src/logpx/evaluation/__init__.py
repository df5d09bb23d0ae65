"""A model and data in, a record out."""

__all__ = ["DATA_BLOCK", "SCORES", "Evaluation", "Shards", "evaluate"]

from .evaluate import DATA_BLOCK, evaluate
from .result import SCORES, Evaluation
from .shards import Shards
