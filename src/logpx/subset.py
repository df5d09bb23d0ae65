r"""n random data stand for all N: the difference estimator of survey sampling.

Of all data something cheap is known, here their ELBO :math:`c_i`, and of n that are drawn without replacement what is
wanted, here :math:`\hat\ell_i` with Monte Carlo standard error :math:`s_i`:

.. math:: \hat\mu = \frac{1}{N} \sum_{i=1}^N c_i + \frac{1}{n} \sum_{i \in S} (\hat\ell_i - c_i)

is unbiased for the mean of all :math:`\hat\ell_i`, however noisy the :math:`c_i` are, because it uses the same ones
twice. With :math:`r = \hat\ell - c` its error as a statement on other data from the same source is

.. math:: \mathrm{total}^2 = \frac{\mathrm{sd}(\hat\ell)^2}{N}
              + \left(1 - \frac{n}{N}\right) \frac{\mathrm{sd}(r)^2}{n}
          = \mathrm{testset}^2 + \mathrm{subset}^2 + \mathrm{MonteCarlo}^2, \qquad
          \mathrm{MonteCarlo}^2 = \sum_{i \in S} \frac{s_i^2}{n^2}, \quad
          \mathrm{subset}^2 = \left(1 - \frac{n}{N}\right) \frac{\mathrm{sd}(r)^2 - \overline{s^2}}{n},

and as one on the N data themselves it is that without the test-set part.
"""

from __future__ import annotations

__all__ = ["CONTROL_SAMPLES", "Subset", "draw_subset"]

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from .utils import generator

CONTROL_SAMPLES = 8


def draw_subset(num_data: int, num_all: int, seed: int = 0) -> Tensor:
    """Returns which data are in the subset, in ascending order, with shape (n,).

    Arguments:
        num_data: The number n of data that are drawn, without replacement.
        num_all: The number N of all data.
        seed: The seed of the draw.

    Raises:
        ValueError: If there are fewer than two, or more than all.
    """
    if not 2 <= num_data <= num_all:
        raise ValueError(
            f"subset must be between 2 and all {num_all} data, but is {num_data}: leave it out to take all data."
        )
    return torch.randperm(num_all, generator=generator(seed, "subset"))[:num_data].sort().values


@dataclasses.dataclass(frozen=True)
class Subset:
    """The data that stand for all, and what is known of all.

    References:
        Sampling Techniques (Cochran, 1977).

    Arguments:
        index: Which data they are, with shape (n,).
        control: The control variate of all data, in nats, with shape (N,).
    """

    index: Tensor
    control: Tensor

    @property
    def shift(self) -> float:
        """What is added to a mean over the subset, in nats: the control's mean over all less that over the subset."""
        return (self.control.mean() - self.control[self.index].mean()).item()

    def errors(self, values: Tensor, standard_error: Tensor) -> dict[str, float]:
        """Returns the total error of the mean and its three parts, in nats.

        Arguments:
            values: The estimates of the subset, in nats, with shape (n,).
            standard_error: Their Monte Carlo standard errors, in nats, with shape (n,).
        """
        n, num_all = len(self.index), len(self.control)
        left_out, noise = 1 - n / num_all, standard_error.square().mean().item()
        varies = (values - self.control[self.index]).var().item()
        total = values.var().item() / num_all + left_out * varies / n
        monte_carlo, subset = noise / n, left_out * _positive(varies - noise) / n
        return {
            "error": math.sqrt(total),
            "monte_carlo_error": math.sqrt(monte_carlo),
            "subset_error": math.sqrt(subset),
            "test_set_error": math.sqrt(_positive(total - monte_carlo - subset)),
        }

    def describe(self, values: Tensor, standard_error: Tensor) -> dict[str, Any]:
        """Returns the subset's part of a record: its size, what the control does, and the error as to these N data.

        Arguments:
            values: The estimates of the subset, in nats, with shape (n,).
            standard_error: Their Monte Carlo standard errors, in nats, with shape (n,).
        """
        errors = self.errors(values, standard_error)
        varies, before = (values - self.control[self.index]).var().item(), values.var().item()
        return {
            "num_data": len(self.index),
            "num_all": len(self.control),
            "plain_mean": values.mean().item(),
            "control_mean": self.control.mean().item(),
            "control_samples": CONTROL_SAMPLES,
            "control_passes": CONTROL_SAMPLES + 1,
            "num_nonfinite_controls": int((~torch.isfinite(self.control)).sum()),
            "variance_left": varies / before if before > 0 else None,
            "error": math.hypot(errors["monte_carlo_error"], errors["subset_error"]),
        }


def _positive(variance: float) -> float:
    """Returns a difference of variances, of which an estimate can be negative; NaN where it is not known."""
    return max(variance, 0.0) if math.isfinite(variance) else math.nan
