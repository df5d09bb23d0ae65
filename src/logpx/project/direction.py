r"""The direction of independent gamma variables, with their radius integrated out.

With :math:`G_i \sim \mathrm{Gamma}(k_i, 1)`, the radius :math:`R = \sum_i G_i \sim \mathrm{Gamma}(K, 1)`,
:math:`K = \sum_i k_i`, and the direction D = G / R are independent. Completion T is homogeneous of degree one in
durations :math:`\theta_i G_i`, so that

.. math:: P(T \geq t \mid D) = P\left(R \geq \frac{t}{T(\theta D)}\right) = Q\left(K, \frac{t}{T(\theta D)}\right),

Q the regularized upper incomplete gamma function: only the direction has to be drawn.
"""

from __future__ import annotations

__all__ = ["ScaledDirichlet"]

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.types import _size

from ..montecarlo.fitting import weighted_fit
from .laws import exponential_draws

NUM_STEPS = 100
TOLERANCE = 1e-3


class ScaledDirichlet(Distribution):
    r"""The distribution of :math:`D = G / \sum_j G_j` for independent :math:`G_i \sim \mathrm{Gamma}(k_i, \theta_i)`.

    .. math:: p(d) = \Gamma(K) \left(\sum_i \frac{d_i}{\theta_i}\right)^{-K}
                     \prod_i \frac{d_i^{k_i - 1}}{\Gamma(k_i) \theta_i^{k_i}}

    is the Dirichlet density for equal scales; a large scale lengthens its coordinate.

    References:
        The shifted-scaled Dirichlet distribution in the simplex (Monti, Mateu-Figueras, Pawlowsky-Glahn and Egozcue,
        2011).

    Arguments:
        concentration: The shapes k, with shape (n,), float64.
        scale: The scales :math:`\theta`, with shape (n,); only their ratios matter.

    Whether values are on the simplex is not checked.
    """

    has_rsample = False

    def __init__(self, concentration: Tensor, scale: Tensor | None = None) -> None:
        self.concentration = concentration.double()
        self.scale = torch.ones_like(self.concentration) if scale is None else scale.double()
        super().__init__(torch.Size(), self.concentration.shape, validate_args=False)

    def sample(self, sample_shape: _size = torch.Size()) -> Tensor:  # noqa: B008
        """Returns directions of shape (*sample_shape, n)."""
        shape = torch.Size(sample_shape)
        k = self.concentration.unsqueeze(-1).expand(-1, shape.numel())
        # each coordinate's draws lie side by side, because the longest path works by coordinates
        g = exponential_draws(k.shape, k.dtype) if self._is_exponential else torch._standard_gamma(k.contiguous())
        g *= self.scale.unsqueeze(-1)
        return (g / g.sum(0)).T.reshape(*shape, len(k))

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log p(d) in nats, with shape (S,)."""
        k, theta = self.concentration, self.scale
        total = k.sum()
        log_norm = torch.lgamma(total) - torch.lgamma(k).sum() - (k * theta.log()).sum()
        log_p = log_norm - total * (value @ theta.reciprocal()).log()
        # k_i = 1 gives 0 log d_i, which is 0 also for d_i = 0
        return log_p if self._is_exponential else log_p + torch.special.xlogy(k - 1, value).sum(-1)

    @property
    def _is_exponential(self) -> bool:
        return bool((self.concentration == 1).all())


@weighted_fit.register
def _(family: ScaledDirichlet, x: Tensor, log_w: Tensor) -> ScaledDirichlet:
    """Fits the scales and keeps the shapes."""
    k, theta = family.concentration, family.scale
    w = torch.softmax(log_w.double(), 0)
    for _ in range(NUM_STEPS):
        # where the gradient of the mean log-density is 0: theta_i = K / k_i E[d_i / sum_j d_j / theta_j]
        former, theta = theta, k.sum() / k * ((w / (x @ theta.reciprocal())) @ x)
        theta = theta / theta.mean()
        if bool(((theta - former).abs() <= TOLERANCE * former).all()):
            break
    return ScaledDirichlet(k, theta)
