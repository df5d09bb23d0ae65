"""Models whose evidence and posterior are known in closed form: the ground truth of every estimator."""

from __future__ import annotations

__all__ = ["FactorAnalysis"]

import torch
from torch import Tensor, nn
from torch.distributions import Independent, LowRankMultivariateNormal, MultivariateNormal, Normal


class FactorAnalysis(nn.Module):
    r"""The linear-Gaussian model :math:`z \sim \mathcal{N}(0, I)`, :math:`x | z \sim \mathcal{N}(Wz + \mu, \Psi)`.

    With diagonal :math:`\Psi`, the evidence and the posterior are

    .. math:: p(x) = \mathcal{N}(x; \mu, W W^\top + \Psi), \qquad
              p(z | x) = \mathcal{N}(z; \Sigma W^\top \Psi^{-1} (x - \mu), \Sigma), \quad
              \Sigma^{-1} = I + W^\top \Psi^{-1} W.

    The encoder is the exact posterior, so every log-weight equals log p(x).

    References:
        EM algorithms for ML factor analysis (Rubin and Thayer, 1982).

    Arguments:
        loading: The loading matrix W, with shape (D, L).
        mean: The mean :math:`\mu`, with shape (D,).
        noise_scale: The standard deviations :math:`\Psi^{1/2}`, with shape (D,).
        posterior_scale: What the posterior's standard deviations are multiplied by, to make a proposal that is
            not exact.

    Raises:
        ValueError: If the shapes disagree or a scale is not positive.

    Example:
        >>> model = FactorAnalysis(torch.eye(2), torch.zeros(2), torch.ones(2))
        >>> round(model.log_evidence(torch.zeros(1, 2)).item(), 4)
        -2.531
    """

    loading: Tensor
    mean: Tensor
    noise_scale: Tensor

    def __init__(self, loading: Tensor, mean: Tensor, noise_scale: Tensor, posterior_scale: float = 1.0) -> None:
        super().__init__()
        _check(loading, mean, noise_scale, posterior_scale)
        self.register_buffer("loading", loading)
        self.register_buffer("mean", mean)
        self.register_buffer("noise_scale", noise_scale)
        self.posterior_scale = posterior_scale

    def prior(self) -> Independent:
        """Returns p(z) with event shape (L,)."""
        zeros = self.loading.new_zeros(self.loading.shape[1])
        return Independent(Normal(zeros, torch.ones_like(zeros)), 1)

    def encoder(self, x: Tensor) -> MultivariateNormal:
        """Returns the exact posterior p(z | x), its scale multiplied by `posterior_scale`."""
        scaled = self.loading / self.noise_scale.unsqueeze(-1)  # Psi^{-1/2} W
        precision = torch.eye(scaled.shape[1], dtype=scaled.dtype, device=scaled.device) + scaled.T @ scaled
        root = torch.linalg.cholesky(precision)
        moment = ((x - self.mean) / self.noise_scale) @ scaled  # W' Psi^{-1} (x - mu)
        loc = torch.cholesky_solve(moment.unsqueeze(-1), root).squeeze(-1)
        covariance = torch.cholesky_inverse(root)
        return MultivariateNormal(loc, scale_tril=self.posterior_scale * torch.linalg.cholesky(covariance))

    def decoder(self, z: Tensor) -> Independent:
        """Returns p(x | z) with batch shape z.shape[:-1]."""
        return Independent(Normal(z @ self.loading.T + self.mean, self.noise_scale), 1)

    def log_evidence(self, x: Tensor) -> Tensor:
        """Returns log p(x), in nats, with shape (B,)."""
        marginal = LowRankMultivariateNormal(self.mean, self.loading, self.noise_scale**2)
        log_p: Tensor = marginal.log_prob(x)
        return log_p


def _check(loading: Tensor, mean: Tensor, noise_scale: Tensor, posterior_scale: float) -> None:
    shapes = tuple(loading.shape), tuple(mean.shape), tuple(noise_scale.shape)
    if loading.dim() != 2 or mean.shape != loading.shape[:1] or noise_scale.shape != mean.shape:
        raise ValueError(f"Factor analysis needs shapes (D, L), (D,) and (D,), but got {shapes}: mend the parameters.")
    if not (noise_scale > 0).all() or posterior_scale <= 0:
        raise ValueError(
            f"Scales must be positive, but the smallest noise scale is {noise_scale.min().item():.6g} and the "
            f"posterior scale {posterior_scale}: give positive ones."
        )
