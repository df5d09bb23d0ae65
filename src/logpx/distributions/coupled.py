r"""Mixtures of discretized logistics for images, whose channels share the component and lean on one another.

For each pixel with channels :math:`x_1, \dots, x_C`

.. math:: P(x) = \sum_k \pi_k \prod_c P_{\mathrm{logistic}}(x_c; m_{kc}, s_{kc}), \qquad
          m_{kc} = \mu_{kc} + \sum_{j < c} \gamma_{kcj} \left(x_j - \frac{L - 1}{2}\right).

Centred at the middle of the levels, the coefficients hardly correlate with the locations, and 0 is no coupling.
"""

from __future__ import annotations

__all__ = ["CoupledLogisticMixture"]

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, constraints
from torch.types import _size

from .levels import check_num_levels, full_precision, require_levels
from .logistic import DiscretizedLogistic, DiscretizedLogisticMixture, draw_logistic, logistic_log_mass


class CoupledLogisticMixture(Distribution):
    r"""A mixture of K discretized logistics per pixel of an image with C channels, H rows and W columns.

    Pixels are independent; the channels of a pixel share the component, and with `coupling` the location of a channel
    is linear in the levels of the channels before it: green leans on red, blue on both.

    References:
        PixelCNN++: Improving the PixelCNN with discretized logistic mixture likelihood and other modifications
        (Salimans, Karpathy, Chen and Kingma, 2017).

    Arguments:
        logits: The weights, :math:`\pi = \mathrm{softmax}_k`, with shape (\*, K, H, W).
        loc: The locations :math:`\mu`, in levels, with shape (\*, K, C, H, W).
        scale: The scales s > 0, in levels, with shape (\*, K, C, H, W).
        coupling: The coefficients :math:`\gamma`, with shape (\*, K, C (C - 1) / 2, H, W), in the order (2, 1), (3, 1),
            (3, 2), ...; for colours green on red, blue on red, blue on green. By default 0.
        levels: The number L of levels.
        validate_args: Whether to check the parameters; data are always checked.

    Raises:
        ValueError: If a parameter is invalid, the shapes disagree, or `levels` is below 2.

    Example:
        >>> logits, loc, scale = torch.zeros(5, 10, 8, 8), torch.full((5, 10, 3, 8, 8), 128.0), torch.tensor(9.0)
        >>> p = CoupledLogisticMixture(logits, loc, scale.expand_as(loc), coupling=torch.zeros(5, 10, 3, 8, 8))
        >>> p.batch_shape, p.event_shape, p.log_prob(p.sample()).shape
        (torch.Size([5]), torch.Size([3, 8, 8]), torch.Size([5]))
    """

    has_rsample = False

    def __init__(
        self,
        logits: Tensor,
        loc: Tensor,
        scale: Tensor,
        coupling: Tensor | None = None,
        levels: int = 256,
        validate_args: bool | None = None,
    ) -> None:
        check_num_levels(levels)
        _check_shapes(logits, loc, scale, coupling)
        self.levels = levels
        shapes = [logits.shape[:-3], *(p.shape[:-4] for p in (loc, scale, coupling) if p is not None)]
        batch_shape = torch.broadcast_shapes(*shapes)
        self.logits, self.coupling = _expanded(logits, batch_shape, 3), None
        self.loc, self.scale = (_expanded(p, batch_shape, 4) for p in (loc, scale))
        if coupling is not None:
            self.coupling = _expanded(coupling, batch_shape, 4)
        super().__init__(batch_shape, loc.shape[-3:], validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """The constraints of the parameters that there are."""
        real = constraints.independent(constraints.real, 4)
        known: dict[str, constraints.Constraint] = {
            "logits": constraints.independent(constraints.real, 3),
            "loc": real,
            "scale": constraints.independent(constraints.positive, 4),
        }
        return known if self.coupling is None else {**known, "coupling": real}

    @constraints.dependent_property(is_discrete=True, event_dim=3)
    def support(self) -> constraints.Constraint:
        """Images of the integers 0..levels-1."""
        return constraints.independent(constraints.integer_interval(0, self.levels - 1), 3)

    @property
    def mean(self) -> Tensor:
        r"""The mean of each channel, with shape (\*, C, H, W).

        It is exact without coupling, and for the first channel. Else the means of the earlier channels stand for their
        levels, as if the mean of a level were linear in its location: nearly so for scales above half a level, except
        where much mass lies beyond the lowest or highest level.
        """
        means: list[Tensor] = []
        for loc, scale, row in self._channels():
            means.append(DiscretizedLogistic(self._centre(loc, row, means), scale, self.levels, False).mean)
        weights = torch.softmax(self.logits, -3).unsqueeze(-3)
        return (weights * torch.stack(means, -3)).sum(-4)

    @property
    def mode(self) -> Tensor:
        r"""Each channel's most probable level given those chosen for the channels before it, with shape (\*, C, H, W).

        For one channel it is the most probable level; for more, the most probable colour may be another.
        """
        chosen: list[Tensor] = []
        for _ in range(self.event_shape[0]):
            chosen.append(self._next_channel(chosen).mode)
        return torch.stack(chosen, -3)

    def expand(self, batch_shape: _size, _instance: Distribution | None = None) -> CoupledLogisticMixture:
        """Returns the distribution with its batch shape expanded."""
        shape = torch.Size(batch_shape)
        logits, loc, scale = (_expanded(p, shape, n) for p, n in ((self.logits, 3), (self.loc, 4), (self.scale, 4)))
        coupling = None if self.coupling is None else _expanded(self.coupling, shape, 4)
        return type(self)(logits, loc, scale, coupling, self.levels, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns log P(x) of images, in nats, with the batch shape.

        Raises:
            ValueError: If a value is not a level, or an image has another shape.
        """
        # log P = log sum_k e^{logit_k} prod_c P_kc - log sum_k e^{logit_k}, summed over the pixels
        log_joint = self._log_joint(self._unbound(value))
        return (torch.logsumexp(log_joint, -3) - torch.logsumexp(self.logits, -3)).sum((-2, -1))

    def cdf(self, value: Tensor) -> Tensor:
        r"""Returns :math:`P(X_c \leq x_c \mid x_1, \dots, x_{c-1})` of each channel, with shape (\*, C, H, W).

        Raises:
            ValueError: If a value is not a level, or an image has another shape.
        """
        return self.channels_given(value).cdf(value.to(self.loc.dtype))

    def channels_given(self, value: Tensor) -> DiscretizedLogisticMixture:
        r"""Returns :math:`P(x_c \mid x_1, \dots, x_{c-1})` of each channel, with batch shape (\*, C, H, W).

        It is a mixture of its own for every value, and the log-masses of the values sum to that of their image. Of an
        image, the last channel is not looked at.

        Raises:
            ValueError: If a value is not a level, or an image has another shape.
        """
        x = self._unbound(value)
        each = [self._next_channel(x[:c]) for c in range(len(x))]
        # the batch shape of x may be wider than the distribution's, which the first channel does not see
        logits, loc, scale = (
            torch.stack(torch.broadcast_tensors(*parts), -4)
            for parts in zip(*((q.logits, q.loc, q.scale) for q in each), strict=True)
        )
        return DiscretizedLogisticMixture(logits, loc, scale, self.levels, validate_args=False)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        r"""Returns images with shape sample_shape + (\*, C, H, W); a channel leans on the rounded levels before it."""
        with torch.no_grad():
            chosen, x = self._chosen_component(sample_shape), list[Tensor]()
            for loc, scale, row in chosen._channels():
                centre = chosen._centre(loc, row, x)
                x.append(draw_logistic(centre, scale, self.levels))
            return torch.stack(x, -3).squeeze(-4)

    def _chosen_component(self, sample_shape: _size) -> CoupledLogisticMixture:
        """Draws the component of every pixel; returns the distribution given them, of one component."""
        weights = Categorical(logits=self.logits.movedim(-3, -1), validate_args=True)
        k = weights.sample(sample_shape)[..., None, None, :, :]

        def pick(p: Tensor) -> Tensor:
            p = p.expand(k.shape[:-4] + p.shape[-4:])
            return p.gather(-4, k.expand(*k.shape[:-4], 1, *p.shape[-3:]))

        coupling = None if self.coupling is None else pick(self.coupling)
        one = torch.zeros_like(k.squeeze(-3), dtype=self.loc.dtype)
        return CoupledLogisticMixture(one, pick(self.loc), pick(self.scale), coupling, self.levels, False)

    def _next_channel(self, x: Sequence[Tensor]) -> DiscretizedLogisticMixture:
        r"""Returns the channel after those in x, each (\*, H, W), given them: its components are reweighed by them."""
        loc, scale, row = list(self._channels())[len(x)]
        centre = self._centre(loc, row, [each.unsqueeze(-3) for each in x])
        logits, centre, scale = (part.movedim(-3, -1) for part in (self._log_joint(x), centre, scale))
        return DiscretizedLogisticMixture(logits, centre, scale, self.levels, validate_args=False)

    def _log_joint(self, x: Sequence[Tensor]) -> Tensor:
        r"""Returns :math:`\mathrm{logit}_k + \sum_c \log P_{kc}` over the channels in x, with shape (\*, K, H, W)."""
        x = [each.unsqueeze(-3) for each in x]
        log_joint = self.logits
        for each, (loc, scale, row) in zip(x, self._channels(), strict=False):
            centre = self._centre(loc, row, x)
            log_joint = log_joint + logistic_log_mass(each, centre, scale, self.levels)
        return log_joint

    def _channels(self) -> Iterator[tuple[Tensor, Tensor, tuple[Tensor, ...]]]:
        r"""Yields location, scale and row of coefficients of each channel, each with shape (\*, K, H, W)."""
        coupling = () if self.coupling is None else self.coupling.unbind(-3)
        for c, (loc, scale) in enumerate(zip(self.loc.unbind(-3), self.scale.unbind(-3), strict=True)):
            yield loc, scale, coupling[c * (c - 1) // 2 : c * (c + 1) // 2]

    def _centre(self, loc: Tensor, row: Sequence[Tensor], x: Sequence[Tensor]) -> Tensor:
        r"""Returns :math:`m = \mu + \sum_j \gamma_j (x_j - (L - 1) / 2)` over the channels that have a coefficient."""
        for coefficient, each in zip(row, x, strict=False):
            loc = loc + coefficient * (each - (self.levels - 1) / 2)
        return loc

    def _unbound(self, value: Tensor) -> tuple[Tensor, ...]:
        """Returns the channels of images, after checks."""
        if value.shape[-3:] != self.event_shape:
            expected, got = tuple(self.event_shape), tuple(value.shape)
            raise ValueError(f"Images must have shape (*, C, H, W) with {expected}, but have {got}: reshape them.")
        require_levels(value, self.levels)
        return value.to(self.loc.dtype).unbind(-3)


def _expanded(parameter: Tensor, batch_shape: torch.Size, event_ndims: int) -> Tensor:
    return full_precision(parameter).expand(batch_shape + parameter.shape[-event_ndims:])


def _check_shapes(logits: Tensor, loc: Tensor, scale: Tensor, coupling: Tensor | None) -> None:
    """Refuses parameters whose last dimensions disagree."""
    if loc.ndim < 4:
        raise ValueError(f"loc must have shape (*, K, C, H, W), but has {tuple(loc.shape)}: reshape it.")
    k, c, h, w = loc.shape[-4:]
    expected = {"logits": (logits, (k, h, w)), "scale": (scale, (k, c, h, w))}
    if coupling is not None:
        expected["coupling"] = (coupling, (k, c * (c - 1) // 2, h, w))
    for name, (parameter, shape) in expected.items():
        if tuple(parameter.shape[-len(shape) :]) != shape:
            raise ValueError(
                f"{name} must have shape (*, {', '.join(map(str, shape))}) where loc is (*, K, C, H, W) = "
                f"{tuple(loc.shape)}, but has {tuple(parameter.shape)}: reshape it."
            )
