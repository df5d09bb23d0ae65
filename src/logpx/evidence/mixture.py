r"""Mixtures of proposals per datum, :math:`q(z) = \sum_j \alpha_j q_j(z)`, the defensive ones among them."""

from __future__ import annotations

__all__ = ["ProposalMixture", "defensive_mixture"]

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.types import _size

# Shares of the encoder and of the prior in a defensive mixture.
ENCODER_SHARE, PRIOR_SHARE = 0.05, 0.05


class ProposalMixture(Distribution):
    r"""The mixture :math:`q(z) = \sum_j \alpha_j q_j(z)` of distributions with batch shape (B,) and real events.

    Log-densities are summed in float64.

    References:
        Optimally combining sampling techniques for Monte Carlo rendering (Veach and Guibas, 1995).

    Arguments:
        components: The distributions :math:`q_j`, with one batch shape and one event shape.
        shares: The mixing weights :math:`\alpha_j`, positive, of sum 1.

    Raises:
        ValueError: If the shapes of components differ.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, components: Sequence[Distribution], shares: Sequence[float]) -> None:
        shapes = sorted({(tuple(q.batch_shape), tuple(q.event_shape)) for q in components})
        if len(shapes) > 1:
            raise ValueError(f"Components must share their shapes, but have {shapes[0]} and {shapes[1]}: expand one.")
        self.components, self.shares = tuple(components), tuple(shares)
        super().__init__(components[0].batch_shape, components[0].event_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean of the components' means, with their shares."""
        return torch.stack([a * q.mean for a, q in zip(self.shares, self.components, strict=True)]).sum(0)

    def sample(self, sample_shape: _size = torch.Size()) -> Tensor:  # noqa: B008
        """Returns draws, with shape sample_shape + (B,) + the event shape."""
        shape = torch.Size(sample_shape) + self.batch_shape
        draws = torch.stack([q.sample(torch.Size(sample_shape)) for q in self.components])
        shares = torch.tensor(self.shares, device=draws.device)
        which = torch.multinomial(shares, shape.numel(), replacement=True).reshape(1, *shape)
        which = which.reshape(which.shape + (1,) * len(self.event_shape)).expand(1, *draws.shape[1:])
        return draws.gather(0, which).squeeze(0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-densities, in nats, with the shape of the draws, in float64."""
        shares = torch.tensor(self.shares, dtype=torch.float64).log().tolist()
        terms = [q.log_prob(value).double() + a for a, q in zip(shares, self.components, strict=True)]
        return torch.logsumexp(torch.stack(terms), 0)


def defensive_mixture(q: Distribution, encoder: Distribution, prior: Distribution) -> ProposalMixture:
    r"""Mixes some of the encoder and of the prior into a proposal.

    Weights are then at most :math:`p(x | z) / \alpha_{\mathrm{prior}}`, and so bounded wherever the likelihood is, and
    a part of the posterior that the fit lost but the encoder knows is not lost.

    References:
        Weighted average importance sampling and defensive mixture distributions (Hesterberg, 1995).

    Arguments:
        q: The proposals, with batch shape (B,).
        encoder: The encoder's distributions, likewise.
        prior: The prior, with batch shape (B,) or ().
    """
    prior = prior if prior.batch_shape == q.batch_shape else prior.expand(q.batch_shape)
    return ProposalMixture([q, encoder, prior], [1 - ENCODER_SHARE - PRIOR_SHARE, ENCODER_SHARE, PRIOR_SHARE])
