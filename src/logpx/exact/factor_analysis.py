"""Linear-Gaussian models: factor analysis, and probabilistic principal component analysis."""

from __future__ import annotations

__all__ = ["FactorAnalysis", "ProbabilisticPCA"]

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Independent, LowRankMultivariateNormal, MultivariateNormal, Normal

from ..utils import generator
from ._checks import check_finite, check_positive, flat
from .statistics import Mend, Statistics


class FactorAnalysis(nn.Module):
    r"""The linear-Gaussian model :math:`z \sim \mathcal{N}(0, I)`, :math:`x | z \sim \mathcal{N}(Wz + \mu, \Psi)`.

    With diagonal :math:`\Psi`, the evidence and the posterior are

    .. math:: p(x) = \mathcal{N}(x; \mu, W W^\top + \Psi), \qquad
              p(z | x) = \mathcal{N}(z; \Sigma W^\top \Psi^{-1} (x - \mu), \Sigma), \quad
              \Sigma^{-1} = I + W^\top \Psi^{-1} W.

    The encoder is the exact posterior, so every log-weight equals log p(x). The M-step is the linear regression of x on
    the moments of (z, 1), and :math:`\Psi` the variances that it leaves, of which none may fall below a floor.

    References:
        EM algorithms for ML factor analysis (Rubin and Thayer, 1982).

    Arguments:
        loading: The loading matrix W, with shape (D, L), or the event shape + (L,).
        mean: The mean :math:`\mu`, with shape (D,) or the event shape.
        noise_scale: The standard deviations :math:`\Psi^{1/2}`, with the shape of the mean.
        posterior_scale: What the posterior's standard deviations are multiplied by, to make a proposal that is
            not exact.
        variance_floor: The smallest noise variance that EM gives a dimension, in squared units of the data.

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
    origin: Tensor

    def __init__(
        self,
        loading: Tensor,
        mean: Tensor,
        noise_scale: Tensor,
        posterior_scale: float = 1.0,
        variance_floor: float = 1e-6,
    ) -> None:
        super().__init__()
        _check(loading, mean, noise_scale, posterior_scale)
        check_positive("variance_floor", variance_floor)
        self.register_buffer("loading", loading)
        self.register_buffer("mean", mean)
        self.register_buffer("noise_scale", noise_scale)
        # sums over data are taken around this point, because far from it their differences would be rounding
        self.register_buffer("origin", mean.flatten().clone(), persistent=False)
        self.posterior_scale, self.variance_floor = posterior_scale, variance_floor

    @classmethod
    def blank(cls, num_latents: int, event_shape: int | Sequence[int], variance_floor: float = 1e-6) -> FactorAnalysis:
        """Returns a model without a loading, in float64, for EM to start from data.

        Arguments:
            num_latents: The number L of latents.
            event_shape: The shape of one datum, or its number of dimensions.
            variance_floor: The smallest noise variance that EM gives a dimension.
        """
        shape = (event_shape,) if isinstance(event_shape, int) else tuple(event_shape)
        zeros = torch.zeros(shape, dtype=torch.float64)
        loading = zeros.new_zeros(*shape, num_latents)
        return cls(loading, zeros, torch.ones_like(zeros), variance_floor=variance_floor)

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one datum."""
        return self.mean.shape

    def prior(self) -> Independent:
        """Returns p(z) with event shape (L,)."""
        zeros = self.loading.new_zeros(self.loading.shape[-1])
        return Independent(Normal(zeros, torch.ones_like(zeros)), 1)

    def encoder(self, x: Tensor) -> MultivariateNormal:
        """Returns the exact posterior p(z | x), its scale multiplied by `posterior_scale`."""
        loc, root = self._posterior(flat(x, self.event_shape))
        return MultivariateNormal(loc, scale_tril=self.posterior_scale * root)

    def decoder(self, z: Tensor) -> Independent:
        """Returns p(x | z) with batch shape z.shape[:-1]."""
        mean = z @ self._loading.T + self.mean.flatten()
        return Independent(Normal(mean.reshape(*z.shape[:-1], *self.event_shape), self.noise_scale), self.mean.dim())

    def log_evidence(self, x: Tensor) -> Tensor:
        """Returns log p(x), in nats, with shape (B,)."""
        variance = self.noise_scale.flatten() ** 2
        marginal = LowRankMultivariateNormal(self.mean.flatten(), self._loading, variance)
        log_p: Tensor = marginal.log_prob(flat(x, self.event_shape))
        return log_p

    @torch.no_grad()
    def statistics(self, x: Tensor) -> Statistics:
        r"""Takes the E-step: the sums over data of the moments of (z, 1) and x under the exact posterior.

        Arguments:
            x: The data, with shape (B,) + the event shape.

        Raises:
            ValueError: If the shape is another, or a value is not finite.
        """
        values = flat(x, self.event_shape).to(self.mean.dtype)
        check_finite(values)
        loc, root = self._posterior(values)
        z = torch.cat([loc, torch.ones_like(loc[:, :1])], 1).double()
        centered = (values - self.origin).double()
        # E[z z'] = E[z] E[z]' + Sigma, of (z, 1)
        second = z.T @ z
        second[:-1, :-1] += len(x) * (root @ root.T).double()
        # H = L / 2 log(2 pi e) + log |Sigma^{1/2}|
        entropy = 0.5 * len(root) * math.log(2 * math.pi * math.e) + root.diagonal().log().sum()
        return Statistics(
            torch.tensor(float(len(x)), dtype=torch.float64, device=x.device),
            self.log_evidence(x).double().sum(),
            len(x) * entropy.double(),
            {"cross": centered.T @ z, "second": second, "squares": centered.square().sum(0)},
            self.origin.double(),
        )

    @torch.no_grad()
    def maximize(self, statistics: Statistics) -> tuple[Mend, ...]:
        """Takes the M-step: sets the parameters to the best for these statistics.

        Returns:
            What had to be mended.
        """
        moments = statistics.moments
        # (W, mu) = (sum_x E[x (z, 1)']) (sum_x E[(z, 1)(z, 1)'])^{-1}
        extended = torch.linalg.solve(moments["second"], moments["cross"], left=False)
        self.loading.copy_(extended[:, :-1].reshape(self.loading.shape))
        self.mean.copy_((extended[:, -1] + statistics.origin).reshape(self.mean.shape))
        free = self._noise(self._residuals(statistics) / statistics.num_data)
        self.noise_scale.copy_(free.clamp(min=self.variance_floor).sqrt().reshape(self.noise_scale.shape))
        return self._mends(int((free < self.variance_floor).sum()))

    @torch.no_grad()
    def expected_log_joint(self, statistics: Statistics) -> Tensor:
        r"""Returns :math:`\sum_x \mathbb{E}[\log p(x, z)]` under the posterior of the statistics, in nats, shape ()."""
        variance, num_latents = self.noise_scale.flatten().double() ** 2, self.loading.shape[-1]
        # -1/2 sum_d N log(2 pi psi_d) + residual_d / psi_d
        of_data = statistics.num_data * (2 * math.pi * variance).log().sum()
        of_data = of_data + (self._residuals(statistics) / variance).sum()
        # -1/2 (N L log 2 pi + tr E[z z'])
        of_latents = statistics.num_data * num_latents * math.log(2 * math.pi)
        of_latents = of_latents + statistics.moments["second"].diagonal()[:-1].sum()
        return -0.5 * (of_data + of_latents)

    def log_penalty(self) -> Tensor:
        """Returns 0: the parameters have no prior."""
        return self.mean.new_zeros((), dtype=torch.float64)

    @torch.no_grad()
    def initialize(self, x: Tensor, seed: int = 0, attempt: int = 0) -> tuple[Mend, ...]:
        """Starts from the principal components of the data, and from random loadings in later attempts.

        References:
            Probabilistic principal component analysis (Tipping and Bishop, 1999).

        Arguments:
            x: Data, or a random part of them, with shape (n,) + the event shape.
            seed: The seed of the draws.
            attempt: The number of the start; 0 draws nothing.
        """
        values = flat(x, self.event_shape).double()
        check_finite(values)
        mean, variance = values.mean(0), values.var(0, correction=0).clamp(min=self.variance_floor)
        loading, noise = _principal(values - mean, self.loading.shape[-1], variance)
        if attempt > 0:
            draws = torch.randn(loading.shape, generator=generator(seed, "em", "start", attempt), dtype=torch.float64)
            loading = draws.to(variance.device) * (0.5 * variance / max(loading.shape[1], 1)).sqrt().unsqueeze(-1)
            noise = 0.5 * variance
        noise = self._noise(noise).clamp(min=self.variance_floor)
        for buffer, value in ((self.loading, loading), (self.mean, mean), (self.noise_scale, noise.sqrt())):
            buffer.copy_(value.reshape(buffer.shape))
        self.origin.copy_(mean)
        return ()

    @property
    def _loading(self) -> Tensor:
        return self.loading.flatten(0, -2)

    def _posterior(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the mean of p(z | x), with shape (B, L), and the Cholesky factor of its covariance."""
        scale = self.noise_scale.flatten()
        scaled = self._loading / scale.unsqueeze(-1)  # Psi^{-1/2} W
        precision = torch.eye(scaled.shape[1], dtype=scaled.dtype, device=scaled.device) + scaled.T @ scaled
        root = torch.linalg.cholesky(precision)
        moment = ((values - self.mean.flatten()) / scale) @ scaled  # W' Psi^{-1} (x - mu)
        loc = torch.cholesky_solve(moment.unsqueeze(-1), root).squeeze(-1)
        return loc, torch.linalg.cholesky(torch.cholesky_inverse(root))

    def _residuals(self, statistics: Statistics) -> Tensor:
        """Returns sum_x E[(x - W z - mu)^2] of each dimension, with shape (D,)."""
        moments, mean = statistics.moments, self.mean.flatten().double() - statistics.origin
        extended = torch.cat([self._loading.double(), mean.unsqueeze(-1)], 1)
        fitted = extended @ moments["second"] - 2 * moments["cross"]
        return moments["squares"] + (extended * fitted).sum(1)

    def _noise(self, variance: Tensor) -> Tensor:
        """Returns the best noise variances, from those that the regression leaves."""
        return variance

    def _mends(self, num_held: int) -> tuple[Mend, ...]:
        if not num_held:
            return ()
        sentence = (
            f"{num_held} of {len(self.origin)} noise variances would fall below the floor of {self.variance_floor:g} "
            "and are held there, so the likelihood depends on the floor: use fewer latents or a higher variance_floor, "
            "or leave constant dimensions out."
        )
        return (Mend("floor", sentence),)


class ProbabilisticPCA(FactorAnalysis):
    r"""Factor analysis with the same noise :math:`\sigma` in every dimension, :math:`\Psi = \sigma^2 I`.

    At its maximum, W spans the principal components and :math:`\sigma^2` is the mean of the other eigenvalues of the
    covariance of the data.

    References:
        Probabilistic principal component analysis (Tipping and Bishop, 1999).

    Arguments:
        loading: The loading matrix W, with shape (D, L), or the event shape + (L,).
        mean: The mean :math:`\mu`, with shape (D,) or the event shape.
        noise_scale: The standard deviation :math:`\sigma`, with shape (), or the shape of the mean and all equal.
        posterior_scale: What the posterior's standard deviations are multiplied by, to make a proposal that is
            not exact.
        variance_floor: The smallest noise variance that EM gives, in squared units of the data.

    Raises:
        ValueError: If the shapes disagree, a scale is not positive, or noise scales differ.
    """

    def __init__(
        self,
        loading: Tensor,
        mean: Tensor,
        noise_scale: Tensor,
        posterior_scale: float = 1.0,
        variance_floor: float = 1e-6,
    ) -> None:
        if (noise_scale != noise_scale.flatten()[:1]).any():
            raise ValueError(
                f"Probabilistic PCA has one noise scale, but the smallest is {noise_scale.min().item():.6g} and the "
                f"largest {noise_scale.max().item():.6g}: give one number, or use FactorAnalysis."
            )
        scales = noise_scale.expand(mean.shape).clone() if noise_scale.dim() == 0 else noise_scale
        super().__init__(loading, mean, scales, posterior_scale, variance_floor)

    def _noise(self, variance: Tensor) -> Tensor:
        return variance.mean().expand_as(variance)


def _principal(centered: Tensor, num_latents: int, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the loading of the principal components, and the noise variances that they leave."""
    values, vectors = torch.linalg.eigh(centered.T @ centered / len(centered))
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    rest = values[num_latents:].mean() if num_latents < len(values) else values.new_zeros(())
    # W = U (Lambda - sigma^2 I)^{1/2}
    loading = centered.new_zeros(len(values), num_latents)
    kept = min(num_latents, len(values))
    loading[:, :kept] = vectors[:, :kept] * (values[:kept] - rest).clamp(min=0).sqrt()
    return loading, (variance - loading.square().sum(1)).clamp(min=0)


def _check(loading: Tensor, mean: Tensor, noise_scale: Tensor, posterior_scale: float) -> None:
    shapes = tuple(loading.shape), tuple(mean.shape), tuple(noise_scale.shape)
    if loading.dim() < 2 or mean.shape != loading.shape[:-1] or noise_scale.shape != mean.shape:
        raise ValueError(f"Factor analysis needs shapes (D, L), (D,) and (D,), but got {shapes}: mend the parameters.")
    if not (noise_scale > 0).all() or posterior_scale <= 0:
        raise ValueError(
            f"Scales must be positive, but the smallest noise scale is {noise_scale.min().item():.6g} and the "
            f"posterior scale {posterior_scale}: give positive ones."
        )
