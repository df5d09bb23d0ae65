r"""Confidence intervals for a mean: exact for a proportion, right also when few draws or none hit a rare event."""

from __future__ import annotations

__all__ = ["clopper_pearson", "require_confidence", "student", "weighted_events"]

import math

from scipy import special


def require_confidence(confidence: float) -> None:
    """Raises a ValueError unless a confidence is between 0 and 1."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, but is {confidence}: 0.95 is customary.")


def clopper_pearson(hits: int, num_samples: int, confidence: float = 0.95) -> tuple[float, float]:
    r"""Returns the interval of the probabilities p that both tails of the binomial distribution leave possible.

    Its coverage is never below the confidence, for any p and n.

    References:
        The use of confidence or fiducial limits illustrated in the case of the binomial (Clopper and Pearson, 1934).

    Arguments:
        hits: The number of successes.
        num_samples: The number of trials n.
        confidence: The coverage, between 0 and 1.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> low, high = clopper_pearson(0, 1000)
        >>> low, round(high, 5)
        (0.0, 0.00368)
    """
    if not 0 <= hits <= num_samples or num_samples < 1:
        raise ValueError(f"hits must be between 0 and num_samples, but are {hits} of {num_samples}: count them again.")
    require_confidence(confidence)
    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(special.betaincinv(hits, num_samples - hits + 1, tail))
    high = 1.0 if hits == num_samples else float(special.betainccinv(hits + 1, num_samples - hits, tail))
    return low, high


def weighted_events(
    mean: float, error: float, largest: float, num_samples: int, confidence: float = 0.95
) -> tuple[float, float]:
    r"""Returns an interval for a mean of non-negative terms, most of them zero: a weighted sum of rare events.

    A gamma distribution has the mean and variance of the estimate; for the upper end one more event of the largest
    term is added to both. With equal terms it is the exact interval of a Poisson mean, and with many it is normal.

    References:
        Confidence intervals for directly standardized rates: a method based on the gamma distribution (Fay and Feuer,
        1997).

    Arguments:
        mean: The mean of the terms; positive, or 0 with an error of 0.
        error: Its standard error.
        largest: The largest term.
        num_samples: The number of terms, zeros included.
        confidence: The coverage, between 0 and 1.
    """
    tail, jump = (1 - confidence) / 2, largest / num_samples
    # in units of the mean and one more event, so that nothing under- or overflows
    unit = mean + jump
    mean, variance = mean / unit, (error / unit) ** 2
    variance_up = variance + (jump / unit) ** 2
    low = mean if variance == 0 else variance / mean * special.gammaincinv(mean**2 / variance, tail)
    high = variance_up * special.gammainccinv(1 / variance_up, tail)
    return float(low) * unit, float(high) * unit


def student(mean: float, error: float, freedom: float, confidence: float = 0.95) -> tuple[float, float]:
    r"""Returns :math:`\hat\mu \mp t\,\mathrm{se}` with Student's quantile for the degrees of freedom."""
    if not freedom >= 1:
        return -math.inf, math.inf
    width = float(special.stdtrit(freedom, (1 + confidence) / 2)) * error
    return mean - width, mean + width
