"""Modules that return a Distribution: priors p(z), encoders q(z | x) and decoders p(x | z).

Every one is a `torch.nn.Module` whose call returns a `torch.distributions.Distribution`; flows of zuko are that as they
come, and anybody's own module may stand in their place.
"""

from __future__ import annotations

__all__ = ["Decoder", "GaussianEncoder", "StandardNormal"]

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from .distributions.levels import full_precision
from .utils import scale_of


class StandardNormal(nn.Module):
    r"""The prior :math:`p(z) = \mathcal{N}(z; 0, I)`.

    Arguments:
        latent_shape: The number of latents L, or the shape of latent maps, (C, h, w).
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_shape: int | Sequence[int]) -> None:
        super().__init__()
        shape = (latent_shape,) if isinstance(latent_shape, int) else tuple(latent_shape)
        self.register_buffer("loc", torch.zeros(shape), persistent=False)
        self.register_buffer("scale", torch.ones(shape), persistent=False)

    def forward(self) -> Independent:
        """Returns p(z) with batch shape () and event shape (L,) or (C, h, w)."""
        return Independent(Normal(self.loc, self.scale, validate_args=False), self.loc.dim(), validate_args=False)


class GaussianEncoder(nn.Module):
    r"""The approximate posterior :math:`q(z | x) = \mathcal{N}(z; \mu(x), \mathrm{diag}\, \sigma(x)^2)`.

    Arguments:
        body: A network from data of shape (B,) + the event shape to 2L outputs, or to maps of 2C channels: the mean
            and the log-variance, which is bounded smoothly to (-14, 14).
        center: What is subtracted from the data first, with the event shape; by default nothing.
    """

    center: Tensor

    def __init__(self, body: nn.Module, center: Tensor | float = 0.0) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("center", torch.as_tensor(center, dtype=torch.float32).clone())

    def forward(self, x: Tensor) -> Independent:
        """Returns q(z | x) with batch shape (B,) and event shape (L,) or (C, h, w)."""
        # float32 where the body computes in less
        mu, log_variance = full_precision(self.body(x - self.center)).chunk(2, dim=1)
        return Independent(Normal(mu, scale_of(log_variance), validate_args=False), mu.dim() - 1, validate_args=False)


class Decoder(nn.Module):
    r"""A decoder :math:`p(x | z)`: a network, and the likelihood that its outputs are parameters of.

    Arguments:
        body: A network from latents to the likelihood's parameters, as vectors or as maps; it takes any leading
            dimensions.
        likelihood: A map from outputs to p(x | z), for instance a :class:`~logpx.likelihoods.Likelihood`.
    """

    def __init__(self, body: nn.Module, likelihood: Callable[[Tensor], Distribution]) -> None:
        super().__init__()
        self.body = body
        self.likelihood = likelihood

    def forward(self, z: Tensor) -> Distribution:
        """Returns p(x | z), its batch shape that of the latents."""
        return self.likelihood(full_precision(self.body(z)))
