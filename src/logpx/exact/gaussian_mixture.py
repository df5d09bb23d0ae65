"""The mixture of Gaussians, with full, diagonal or tied covariances."""

from __future__ import annotations

__all__ = ["CovarianceKind", "GaussianMixture"]

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from ..utils import generator
from ._checks import check_positive, flat
from .covariances import COVARIANCES, Covariance, log_normals
from .mixture import Mixture
from .selected import SelectedNormal
from .starts import nearest, seed_centers
from .statistics import Mend, Statistics

CovarianceKind: TypeAlias = Literal["full", "diagonal", "tied"]
SHAPES = {"full": "(K, D, D)", "diagonal": "(K, D)", "tied": "(D, D)"}


class GaussianMixture(Mixture):
    r"""A mixture of Gaussians, :math:`p(x) = \sum_k \pi_k\, \mathcal{N}(x; \mu_k, \Sigma_k)`.

    EM maximizes the likelihood over all covariances without an eigenvalue below the floor, because a component that
    shrinks onto a datum would make the likelihood infinite. The M-step is :math:`\pi_k = N_k / N`,
    :math:`\mu_k = \sum_x r_k x / N_k` and :math:`\Sigma_k = \sum_x r_k (x - \mu_k)(x - \mu_k)^\top / N_k`, its diagonal
    alone, or its mean over data.

    References:
        Maximum likelihood from incomplete data via the EM algorithm (Dempster, Laird and Rubin, 1977).
        Pattern Recognition and Machine Learning, section 9.2 (Bishop, 2006).

    Arguments:
        weights: The weights :math:`\pi`, with shape (K,).
        means: The means :math:`\mu`, with shape (K,) + the event shape, of D dimensions in all.
        covariances: The covariances, with shape (K, D, D) if full, (K, D) if diagonal, (D, D) if tied.
        kind: The kind of the covariances.
        variance_floor: The smallest variance in any direction that EM gives a component, in squared units of the data;
            float64 does not resolve one below 1e-10 of the largest.

    Raises:
        ValueError: If the shapes disagree, a covariance is not positive definite, or the kind is unknown.

    Example:
        >>> model = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1, 2), "diagonal")
        >>> round(model.log_evidence(torch.zeros(1, 2)).item(), 4)
        -1.8379
    """

    means: Tensor
    roots: Tensor
    origin: Tensor

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        covariances: Tensor,
        kind: CovarianceKind = "full",
        variance_floor: float = 1e-6,
    ) -> None:
        super().__init__(weights)
        _check(weights, means, covariances, kind)
        check_positive("variance_floor", variance_floor)
        self.kind, self.variance_floor = kind, variance_floor
        self.register_buffer("means", means)
        self.register_buffer("roots", self._covariance.root(covariances))
        # sums over data are taken around this point, because far from it their differences would be rounding
        self.register_buffer("origin", (self.weights.unsqueeze(-1) * means.flatten(1)).sum(0), persistent=False)

    @classmethod
    def blank(
        cls,
        num_components: int,
        event_shape: int | Sequence[int],
        kind: CovarianceKind = "full",
        variance_floor: float = 1e-6,
    ) -> GaussianMixture:
        """Returns a mixture of equal standard normal components, in float64, for EM to start from data.

        Arguments:
            num_components: The number K of components.
            event_shape: The shape of one datum, or its number of dimensions.
            kind: The kind of the covariances.
            variance_floor: The smallest variance in any direction that EM gives a component.
        """
        shape = (event_shape,) if isinstance(event_shape, int) else tuple(event_shape)
        weights = torch.full((num_components,), 1 / max(num_components, 1), dtype=torch.float64)
        means = torch.zeros(num_components, *shape, dtype=torch.float64)
        chosen, num_dims = _covariance(kind), math.prod(shape)
        covariances = chosen.unit(num_dims).expand(chosen.shape(num_components, num_dims))
        return cls(weights, means, covariances.clone(), kind, variance_floor)

    @property
    def event_shape(self) -> torch.Size:
        """The shape of one datum."""
        return self.means.shape[1:]

    @property
    def covariances(self) -> Tensor:
        """The covariances, with shape (K, D, D) if full, (K, D) if diagonal, (D, D) if tied."""
        return self._covariance.square(self.roots)

    def decoder(self, z: Tensor) -> Distribution:
        """Returns p(x | z) with batch shape z.shape[:-1], from one-hot z of shape (S, B, K)."""
        index = z.argmax(-1)
        if self.kind == "diagonal":
            scale = self.roots.reshape(self.means.shape)
            return Independent(Normal(self.means[index], scale[index]), len(self.event_shape))
        return SelectedNormal(index, self.means, self.roots.expand(self.num_components, -1, -1))

    @torch.no_grad()
    def initialize(self, x: Tensor, seed: int = 0, attempt: int = 0) -> tuple[Mend, ...]:
        """Places the means at data far from one another (k-means++); all components share the spread around them.

        Arguments:
            x: Data, or a random part of them, with shape (n,) + the event shape.
            seed: The seed of the draws.
            attempt: The number of the start; others give other draws.
        """
        values = flat(x, self.event_shape).to(self.means.dtype)
        self._check_data(values)
        self.origin.copy_(values.mean(0))
        centers = seed_centers(values, self.num_components, generator(seed, "em", "start", attempt))
        home = nearest(values, centers)
        counts = torch.bincount(home, minlength=self.num_components).to(values.dtype)
        # every component as likely as its data and one more, and as wide as all are around their centers on average
        self.weights.copy_((counts + 1) / (counts + 1).sum())
        self.means.copy_(centers.reshape(self.means.shape))
        shared = self._covariance.second(values - centers[home], torch.ones_like(values[:, :1])) / len(values)
        root, num_held = self._covariance.floored_root(shared, self.variance_floor)
        self.roots.copy_(root)
        return self._mends(num_held, counts)

    @property
    def _covariance(self) -> Covariance:
        return _covariance(self.kind)

    def _log_likelihoods(self, values: Tensor) -> Tensor:
        return log_normals(values, self.means.flatten(1), self.roots, self._covariance)

    def _moments(self, values: Tensor, r: Tensor) -> dict[str, Tensor]:
        centered = (values - self.origin).double()
        r = r.double()
        return {"sums": r.T @ centered, "second": self._covariance.second(centered, r)}

    @property
    def _origin(self) -> Tensor:
        return self.origin.double()

    def _maximize(self, statistics: Statistics, alive: Tensor) -> tuple[Mend, ...]:
        moments, old = statistics.moments, self.means.flatten(1).double()
        counts = moments["counts"].clamp(min=torch.finfo(torch.float64).tiny)
        means = moments["sums"] / counts.unsqueeze(-1) + statistics.origin
        self.means.copy_(torch.where(alive.unsqueeze(-1), means, old).reshape(self.means.shape))
        free = self._covariance.estimate(self._scatter(statistics), counts)
        kept = self._covariance.keep(alive, free, self.covariances.double())
        roots, num_held = self._covariance.floored_root(kept, self.variance_floor)
        self.roots.copy_(roots)
        return self._mends(num_held, moments["counts"])

    def _expected_log_likelihood(self, statistics: Statistics) -> Tensor:
        counts, roots, num_dims = statistics.moments["counts"], self.roots.double(), len(self.origin)
        # -1/2 sum_k N_k (D log 2 pi + log |Sigma_k|) + tr(Sigma_k^{-1} sum_x r_k (x - mu_k)(x - mu_k)')
        log_norm = self._covariance.half_log_det(roots) + 0.5 * num_dims * math.log(2 * math.pi)
        return -(counts * log_norm).sum() - 0.5 * self._covariance.trace(self._scatter(statistics), roots)

    def _seed(self, statistics: Statistics, k: int, values: Tensor, count: Tensor) -> None:
        centered = values - statistics.origin
        within = self._covariance.average(self.covariances.double(), self.weights.double())
        statistics.moments["sums"][k] = count * centered
        self._covariance.seed(statistics.moments["second"], k, count, centered, within)

    def _scatter(self, statistics: Statistics) -> Tensor:
        """Returns sum_x r_k (x - mu_k)(x - mu_k)' for the present means."""
        moments, means = statistics.moments, self.means.flatten(1).double() - statistics.origin
        return self._covariance.around(moments["second"], moments["sums"], moments["counts"], means)

    def _mends(self, num_held: Tensor, counts: Tensor) -> tuple[Mend, ...]:
        names = ["the covariance that all components share"]
        if num_held.numel() == self.num_components:
            names = [f"component {k} of {count:.4g} data" for k, count in enumerate(counts.tolist())]
        held = zip(names, num_held.reshape(-1).tolist(), strict=True)
        return tuple(self._mend(k, name, num) for k, (name, num) in enumerate(held) if num)

    def _mend(self, k: int, name: str, num: int) -> Mend:
        sentence = (
            f"In {name}, {num} of {len(self.origin)} variances would fall below the floor of {self.variance_floor:g} "
            "and are held there, so the likelihood depends on the floor: use fewer components, a simpler kind of "
            "covariance or a higher variance_floor, or leave constant dimensions out."
        )
        return Mend(f"floor {k}", sentence)


def _covariance(kind: str) -> Covariance:
    if kind not in COVARIANCES:
        raise ValueError(f"The kind of covariance must be {', '.join(COVARIANCES)}, but is {kind!r}: choose one.")
    return COVARIANCES[kind]


def _check(weights: Tensor, means: Tensor, covariances: Tensor, kind: str) -> None:
    shapes = tuple(weights.shape), tuple(means.shape), tuple(covariances.shape)
    expected = _covariance(kind).shape(len(weights), means[0].numel()) if means.dim() > 1 else None
    if expected != shapes[2] or len(means) != len(weights):
        raise ValueError(
            f"A Gaussian mixture with {kind} covariances needs weights of shape (K,), means of shape (K,) + the event "
            f"shape and covariances of shape {SHAPES[kind]}, but got {shapes}: mend the parameters."
        )
    variances = covariances if kind == "diagonal" else torch.linalg.eigvalsh(covariances)
    if not (variances > 0).all():
        raise ValueError(
            f"Covariances must be positive definite, but the smallest variance is {variances.min().item():.6g}: add a "
            "positive number to the diagonal."
        )
