"""The likelihoods that are offered by name, and the choice among them by the kind of the data."""

from __future__ import annotations

__all__ = ["LIKELIHOODS", "choose_likelihood", "make_likelihood"]

import dataclasses
from collections.abc import Sequence
from typing import Any

from ._likelihood import Likelihood
from .binary import BernoulliLikelihood, RelaxedBernoulliLikelihood
from .counts import NegativeBinomialLikelihood, PoissonLikelihood
from .levels import (
    CategoricalLikelihood,
    DequantizedGaussianLikelihood,
    DiscretizedGaussianLikelihood,
    LogisticMixtureLikelihood,
)
from .real import ContinuousBernoulliLikelihood, GaussianLikelihood

# Of those that are exact for a kind of data, the first is the default.
LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": BernoulliLikelihood,
    "discretized-logistic-mixture": LogisticMixtureLikelihood,
    "categorical": CategoricalLikelihood,
    "discretized-gaussian": DiscretizedGaussianLikelihood,
    "dequantized-gaussian": DequantizedGaussianLikelihood,
    "poisson": PoissonLikelihood,
    "negative-binomial": NegativeBinomialLikelihood,
    "gaussian": GaussianLikelihood,
    "continuous-bernoulli": ContinuousBernoulliLikelihood,
    "relaxed-bernoulli": RelaxedBernoulliLikelihood,
}


def make_likelihood(name: str, event_shape: Sequence[int], **options: Any) -> Likelihood:
    """Returns a likelihood by its name.

    Arguments:
        name: A name in `LIKELIHOODS`.
        event_shape: The shape of one datum.
        options: Values for what some likelihoods have beside it, such as `levels`; others do without them.

    Raises:
        ValueError: If the name is unknown.

    Example:
        >>> make_likelihood("categorical", (1, 8, 8), levels=17, num_mixtures=5).parameter_shape
        (17, 1, 8, 8)
    """
    if name not in LIKELIHOODS:
        raise ValueError(f"likelihood must be one of {', '.join(LIKELIHOODS)}, but is {name!r}: choose one.")
    kind = LIKELIHOODS[name]
    known = {field.name for field in dataclasses.fields(kind)}
    return kind(tuple(event_shape), **{key: value for key, value in options.items() if key in known})


def choose_likelihood(name: str, kind: str) -> str:
    """Returns the likelihood for data of a kind, after checking that the two go together.

    Arguments:
        name: A name in `LIKELIHOODS`, or "auto" for the kind's default.
        kind: The kind of the data as the model sees them: binary, 8-bit or real.

    Raises:
        ValueError: If the likelihood is unknown, or neither exact nor relaxed for such data.

    Example:
        >>> choose_likelihood("auto", "8-bit")
        'discretized-logistic-mixture'
    """
    if name == "auto":
        return next(name for name, likelihood in LIKELIHOODS.items() if kind in likelihood.exact_kinds)
    if name not in LIKELIHOODS:
        raise ValueError(f"likelihood must be auto or one of {', '.join(LIKELIHOODS)}, but is {name!r}: choose one.")
    own_kinds = LIKELIHOODS[name].exact_kinds + LIKELIHOODS[name].relaxed_kinds
    if kind not in own_kinds:
        fitting = [other for other, each in LIKELIHOODS.items() if kind in each.exact_kinds + each.relaxed_kinds]
        binarize = ", or binarize the data (binarization dynamic)" if kind == "8-bit" and "binary" in own_kinds else ""
        raise ValueError(
            f"likelihood {name!r} is for {' or '.join(own_kinds)} data, but the data are {kind}: choose likelihood "
            f"{' or '.join(fitting)}{binarize}."
        )
    return name
