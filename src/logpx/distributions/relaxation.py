"""Which decoders give a log-probability of the data, and which a mere score."""

from __future__ import annotations

__all__ = ["relaxation"]

from torch import Tensor
from torch.distributions import Distribution


def relaxation(decoder: Distribution, kind: str, x: Tensor | None = None) -> str | None:
    """Returns why a decoder's log_prob is not a log-probability of such data, or None where it is.

    Arguments:
        decoder: A distribution p(x | z) over data.
        kind: The kind of the data: binary, 8-bit or real.
        x: Some of the data, to ask whether they are among the values that the distribution knows: so a mass function of
            counts is a likelihood of real data that are whole numbers.
    """
    relaxed: str | None = getattr(decoder, "relaxed", None)
    if relaxed is None and kind != "real" and not _is_discrete(decoder):
        return f"a density on {kind} data is a relaxed likelihood"
    if relaxed is None and kind == "real" and _is_discrete(decoder) and (x is None or not _supports(decoder, x)):
        return "a mass function on real data is a relaxed likelihood"
    if relaxed is None and kind != "real" and x is not None and not _supports(decoder, x):
        return f"{kind} data outside the decoder's support make a relaxed likelihood"
    return relaxed


def _supports(distribution: Distribution, x: Tensor) -> bool:
    support = distribution.support
    return support is None or bool(support.check(x).all())


def _is_discrete(distribution: Distribution) -> bool:
    try:
        support = distribution.support
    except NotImplementedError:
        return False
    return bool(support is not None and support.is_discrete)
