"""Modules that return a Distribution: priors p(z), encoders q(z | x) and decoders p(x | z).

Every one is a `torch.nn.Module` whose call returns a `torch.distributions.Distribution`; flows of zuko are that as they
come, and anybody's own module may stand in their place.
"""

from __future__ import annotations

__all__ = [
    "DECODERS",
    "BernoulliDecoder",
    "GaussianDecoder",
    "GaussianEncoder",
    "RelaxedBernoulliDecoder",
    "StandardNormal",
    "choose_likelihood",
]

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from .distributions import IndependentBernoulli, RelaxedBernoulli
from .utils import soft_bound

LOG_VARIANCE_BOUND = 14.0


class StandardNormal(nn.Module):
    r"""The prior :math:`p(z) = \mathcal{N}(z; 0, I)`.

    Arguments:
        latent_dim: The number of latents L.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("loc", torch.zeros(latent_dim), persistent=False)
        self.register_buffer("scale", torch.ones(latent_dim), persistent=False)

    def forward(self) -> Independent:
        """Returns p(z) with batch shape () and event shape (L,)."""
        return Independent(Normal(self.loc, self.scale, validate_args=False), 1, validate_args=False)


class GaussianEncoder(nn.Module):
    r"""The approximate posterior :math:`q(z | x) = \mathcal{N}(z; \mu(x), \mathrm{diag}\, \sigma(x)^2)`.

    Arguments:
        body: A network from data of shape (B,) + the event shape to 2L outputs: the mean and the log-variance,
            which is bounded smoothly to (-14, 14).
        center: What is subtracted from the data first, with the event shape; by default nothing.
    """

    center: Tensor

    def __init__(self, body: nn.Module, center: Tensor | float = 0.0) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("center", torch.as_tensor(center, dtype=torch.float32).clone())

    def forward(self, x: Tensor) -> Independent:
        """Returns q(z | x) with batch shape (B,) and event shape (L,)."""
        mu, log_variance = self.body(x - self.center).chunk(2, dim=-1)
        # sigma = exp(log(sigma^2) / 2)
        sigma = torch.exp(0.5 * soft_bound(log_variance, LOG_VARIANCE_BOUND))
        return Independent(Normal(mu, sigma, validate_args=False), 1, validate_args=False)


class BernoulliDecoder(nn.Module):
    r"""The likelihood :math:`p(x | z) = \prod_d \mathcal{B}(x_d; \sigma(a_d(z)))` of binary data.

    Arguments:
        body: A network from latents of shape (*, L) to D logits a.
        event_shape: The shape of one datum, with D elements.
    """

    num_parameters: ClassVar[int] = 1
    exact_kinds: ClassVar[tuple[str, ...]] = ("binary",)
    relaxed_kinds: ClassVar[tuple[str, ...]] = ()

    def __init__(self, body: nn.Module, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.body = body
        self.event_shape = tuple(event_shape)

    def forward(self, z: Tensor) -> IndependentBernoulli:
        """Returns p(x | z) with batch shape z.shape[:-1]."""
        logits = self.body(z).unflatten(-1, self.event_shape)
        return IndependentBernoulli(logits, len(self.event_shape))

    @staticmethod
    def bias(mean: Tensor) -> Tensor:
        """Returns the parameters with which p(x) has the mean of the data at the start, with shape (D,)."""
        return torch.logit(mean.flatten().clamp(0.01, 0.99))


class RelaxedBernoulliDecoder(BernoulliDecoder):
    """Binary cross-entropy on greys in [0, 1] in the place of a likelihood; see :class:`RelaxedBernoulli`."""

    exact_kinds: ClassVar[tuple[str, ...]] = ()
    relaxed_kinds: ClassVar[tuple[str, ...]] = ("8-bit", "real", "binary")

    def forward(self, z: Tensor) -> RelaxedBernoulli:
        """Returns the relaxed p(x | z) with batch shape z.shape[:-1]."""
        logits = self.body(z).unflatten(-1, self.event_shape)
        return RelaxedBernoulli(logits, len(self.event_shape))


class GaussianDecoder(nn.Module):
    r"""The likelihood :math:`p(x | z) = \prod_d \mathcal{N}(x_d; \mu_d(z), \sigma_d(z)^2)` of real data.

    Arguments:
        body: A network from latents of shape (*, L) to 2D outputs: the mean and the log-variance, which is
            bounded smoothly to (-14, 14).
        event_shape: The shape of one datum, with D elements.
    """

    num_parameters: ClassVar[int] = 2
    exact_kinds: ClassVar[tuple[str, ...]] = ("real",)
    relaxed_kinds: ClassVar[tuple[str, ...]] = ("8-bit",)

    def __init__(self, body: nn.Module, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.body = body
        self.event_shape = tuple(event_shape)

    def forward(self, z: Tensor) -> Independent:
        """Returns p(x | z) with batch shape z.shape[:-1]."""
        mu, log_variance = (y.unflatten(-1, self.event_shape) for y in self.body(z).chunk(2, dim=-1))
        # sigma = exp(log(sigma^2) / 2)
        sigma = torch.exp(0.5 * soft_bound(log_variance, LOG_VARIANCE_BOUND))
        return Independent(Normal(mu, sigma, validate_args=False), len(self.event_shape), validate_args=False)

    @staticmethod
    def bias(mean: Tensor) -> Tensor:
        """Returns the parameters with which p(x) has the mean of the data at the start, with shape (2D,)."""
        return torch.cat([mean.flatten(), torch.zeros(math.prod(mean.shape))])


DECODERS: dict[str, type[BernoulliDecoder] | type[GaussianDecoder]] = {
    "bernoulli": BernoulliDecoder,
    "relaxed-bernoulli": RelaxedBernoulliDecoder,
    "gaussian": GaussianDecoder,
}


def choose_likelihood(name: str, kind: str) -> str:
    """Returns the likelihood for data of a kind, after checking that the two go together.

    Arguments:
        name: A name in `DECODERS`, or "auto" for the kind's default.
        kind: The kind of the data as the model sees them: binary, 8-bit or real.

    Raises:
        ValueError: If the likelihood is unknown, or neither exact nor relaxed for such data.

    Example:
        >>> choose_likelihood("auto", "binary")
        'bernoulli'
    """
    if name == "auto":
        return _default_likelihood(kind)
    if name not in DECODERS:
        raise ValueError(f"likelihood must be auto or one of {', '.join(DECODERS)}, but is {name!r}: choose one.")
    decoder = DECODERS[name]
    if kind not in decoder.exact_kinds + decoder.relaxed_kinds:
        fitting = [other for other, d in DECODERS.items() if kind in d.exact_kinds + d.relaxed_kinds]
        raise ValueError(
            f"likelihood {name!r} is for {' or '.join(decoder.exact_kinds + decoder.relaxed_kinds)} data, but the data "
            f"are {kind}: choose likelihood {' or '.join(fitting)}{_BINARIZE if kind == '8-bit' else ''}."
        )
    return name


_BINARIZE = ", or binarize the data (binarization dynamic)"


def _default_likelihood(kind: str) -> str:
    for name, decoder in DECODERS.items():
        if kind in decoder.exact_kinds:
            return name
    relaxed = " or ".join(name for name, d in DECODERS.items() if kind in d.relaxed_kinds)
    raise ValueError(
        f"No likelihood here is a probability of {kind} data: ask for a relaxed one by name "
        f"(likelihood {relaxed}){_BINARIZE}."
    )
