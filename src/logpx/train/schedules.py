"""What changes from step to step: the weight of the KL term and the learning rate."""

from __future__ import annotations

__all__ = ["beta_at", "learning_rate_at"]

import math

from ..settings import ObjectiveSettings, TrainSettings


def beta_at(settings: ObjectiveSettings, epochs_done: float) -> float:
    """Rises linearly to the settings' beta over the warm-up."""
    if settings.beta_warmup_epochs == 0:
        return settings.beta
    return settings.beta * min(1.0, epochs_done / settings.beta_warmup_epochs)


def learning_rate_at(options: TrainSettings, step: int, num_steps: int) -> float:
    """Rises linearly over the warm-up, then stays, or falls to 0 as half a cosine."""
    warm = min(1.0, (step + 1) / max(options.warmup_steps, 1))
    cosine = 0.5 * (1 + math.cos(math.pi * step / num_steps))
    return options.learning_rate * warm * (cosine if options.schedule == "cosine" else 1.0)
