"""A pair of functions that return tensors, as a model with three methods."""

from __future__ import annotations

__all__ = ["Adapted", "adapt"]

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from ..likelihoods import LIKELIHOODS, GaussianLikelihood, make_likelihood
from ._foreign import modules_behind

Outputs = Literal["parameters", "probabilities"]
Decode: TypeAlias = Callable[[Tensor], Tensor | Sequence[Tensor]]
LOGITS = ("bernoulli", "relaxed-bernoulli", "continuous-bernoulli")
# So many outputs are not all in [0, 1] by chance where they are logits.
MANY = 64


def adapt(
    encode: Callable[[Tensor], tuple[Tensor, Tensor]],
    decode: Decode,
    likelihood: str | Callable[[Tensor], Distribution] = "bernoulli",
    *,
    outputs: Outputs = "parameters",
    prior: Distribution | None = None,
    event_shape: Sequence[int] | None = None,
) -> Adapted:
    r"""Makes a model of an encoder and a decoder that return tensors.

    .. math:: q(z | x) = \mathcal{N}(z; \mu(x), \mathrm{diag}\, e^{\log \sigma^2(x)}), \qquad p(z) = \mathcal{N}(0, I).

    The likelihoods bernoulli, relaxed-bernoulli and continuous-bernoulli take logits; gaussian a mean and a
    log-variance, which are used as they are; the others take what logpx's own networks would give them.

    Arguments:
        encode: A function or module from data of shape (B,) + the event shape to the mean and the log-variance of z,
            each with shape (B, L) or (B, C, h, w).
        decode: A function or module from latents of shape (N,) + the shape of z to the likelihood's parameters: one
            tensor or several, each with first dimension N; of gaussian the mean and the log-variance.
        likelihood: A name in `LIKELIHOODS`, or a function from parameters of shape (S, B, K), all those of one datum
            in a row, to p(x | z).
        outputs: "parameters", or "probabilities" where the decoder of a likelihood with logits ends in a sigmoid. A
            probability below the smallest normal float counts as that, and one that rounds to 1 as the largest
            float below 1 (in float32: 1.2e-38, and 6e-8 below 1).
        prior: p(z); by default N(0, I) of the shape of the encoder's mean.
        event_shape: The shape of one datum; by default that of the data which the encoder saw last.

    Raises:
        ValueError: If the likelihood is unknown, or has no probabilities.

    Example:
        >>> encode = lambda x: (x[:, :2], torch.zeros(len(x), 2))
        >>> model = adapt(encode, nn.Linear(2, 3), "bernoulli")
        >>> q = model.encoder(torch.ones(5, 3))
        >>> model.decoder(q.sample((4,))).batch_shape
        torch.Size([4, 5])
    """
    if isinstance(likelihood, str):
        make_likelihood(likelihood, (1,))
    if outputs not in ("parameters", "probabilities"):
        raise ValueError(f"outputs must be parameters or probabilities, but is {outputs!r}: choose one.")
    if outputs == "probabilities" and likelihood not in LOGITS:
        raise ValueError(
            f"outputs probabilities go with likelihood {', '.join(LOGITS)}, but it is {likelihood!r}: let the decoder "
            "return the likelihood's parameters."
        )
    return Adapted(encode, decode, likelihood, outputs, prior, event_shape)


class Adapted(nn.Module):
    """The model that :func:`adapt` makes; modules behind the two functions are its own.

    Arguments:
        encode: See :func:`adapt`, also for the rest.
        decode: From latents to parameters.
        likelihood: A name, or a function.
        outputs: What the decoder returns.
        prior: p(z).
        event_shape: The shape of one datum.
    """

    def __init__(
        self,
        encode: Callable[[Tensor], tuple[Tensor, Tensor]],
        decode: Decode,
        likelihood: str | Callable[[Tensor], Distribution],
        outputs: Outputs,
        prior: Distribution | None,
        event_shape: Sequence[int] | None,
    ) -> None:
        super().__init__()
        self.networks = nn.ModuleList(modules_behind(encode, decode))
        # in a tuple they are no submodules, whose weights would be saved twice
        self._functions = encode, decode
        self._likelihood, self._outputs, self._prior = likelihood, outputs, prior
        self._event_shape = None if event_shape is None else tuple(event_shape)
        self._datum: tuple[int, ...] | None = self._event_shape
        self._zeros: Tensor | None = None
        self._is_new = True

    def prior(self) -> Distribution:
        """Returns p(z).

        Raises:
            ValueError: If none was given and the shape of z is not known yet.
        """
        if self._prior is not None:
            return self._prior
        zeros = _known(self._zeros, "the shape of z", "prior")
        return Independent(Normal(zeros, torch.ones_like(zeros), validate_args=False), zeros.dim(), validate_args=False)

    def encoder(self, x: Tensor) -> Distribution:
        """Returns q(z | x), and learns the shapes of x and z.

        Raises:
            ValueError: If the encoder returns anything but a mean and a log-variance of one shape.
        """
        mean, log_variance = _moments(self._functions[0](x), len(x))
        self._zeros = mean.detach().new_zeros(mean.shape[1:])
        self._datum = self._event_shape or tuple(x.shape[1:])
        # sigma = exp(log(sigma^2) / 2)
        q = Normal(mean, torch.exp(0.5 * log_variance), validate_args=False)
        return Independent(q, mean.dim() - 1, validate_args=False)

    def decoder(self, z: Tensor) -> Distribution:
        """Returns p(x | z), from z of shape (S, B) + the shape of one.

        Raises:
            ValueError: If the decoder's outputs have a wrong shape, or are no probabilities where they should be.
        """
        parameters = _parameters(self._functions[1](z.flatten(0, 1)), len(z), z.shape[1])
        if self._outputs == "probabilities":
            parameters = _logits(parameters)
        elif self._is_new and self._likelihood in LOGITS:
            _warn_of_probabilities(parameters)
        self._is_new = False
        if not isinstance(self._likelihood, str):
            return self._likelihood(parameters)
        return _named(self._likelihood, _known(self._datum, "the shape of x", "event_shape"))(parameters)


@dataclasses.dataclass(frozen=True)
class _Gaussian(GaussianLikelihood):
    """A Gaussian of just the mean and log-variance that a network gives."""

    def distribution(self, parameters: Tensor) -> Independent:
        num_dims = len(self.event_shape)
        mu, log_variance = parameters.unbind(-num_dims - 1)
        p = Normal(mu, torch.exp(0.5 * log_variance), validate_args=False)
        return Independent(p, num_dims, validate_args=False)


def _named(name: str, event_shape: tuple[int, ...]) -> Callable[[Tensor], Distribution]:
    return _Gaussian(event_shape) if LIKELIHOODS[name] is GaussianLikelihood else make_likelihood(name, event_shape)


def _moments(outputs: Any, num_data: int) -> tuple[Tensor, Tensor]:
    is_pair = isinstance(outputs, tuple | list) and len(outputs) == 2
    if not (is_pair and all(isinstance(each, Tensor) for each in outputs)):
        raise ValueError(
            f"encode(x) must return two tensors, the mean and the log-variance of z, but returned {_said(outputs)}: "
            "wrap it in a function that returns these two."
        )
    mean, log_variance = outputs
    if mean.shape != log_variance.shape or mean.dim() < 2 or len(mean) != num_data:
        raise ValueError(
            f"encode(x) must return a mean and a log-variance of shape (B, L) with B = {num_data}, but returned "
            f"{_said(outputs)}: let both have one row per datum."
        )
    return mean, log_variance


def _parameters(outputs: Any, num_samples: int, num_data: int) -> Tensor:
    """Returns all parameters of a datum in a row, with shape (S, B, K)."""
    tensors = outputs if isinstance(outputs, tuple | list) else (outputs,)
    num = num_samples * num_data
    if not all(isinstance(each, Tensor) and each.dim() > 1 and len(each) == num for each in tensors):
        raise ValueError(
            f"decode(z) must return tensors whose first dimension is that of its {num} latents, but returned "
            f"{_said(outputs)}: let it keep one row per latent."
        )
    rows = torch.cat([each.flatten(1) for each in tensors], 1)
    return rows.unflatten(0, (num_samples, num_data))


def _logits(p: Tensor) -> Tensor:
    if ((p < 0) | (p > 1)).any():
        odd = p[(p < 0) | (p > 1)][0].item()
        raise ValueError(
            f"decode(z) must return probabilities in [0, 1], but returned {odd:.6g}: leave outputs='probabilities' "
            "out if these are logits."
        )
    info = torch.finfo(p.dtype)
    # log p - log(1 - p), at most as far out as floats tell apart
    p = p.clamp(info.tiny, 1 - info.eps / 2)
    return p.log() - torch.log1p(-p)


def _warn_of_probabilities(parameters: Tensor) -> None:
    if parameters.numel() >= MANY and ((parameters >= 0) & (parameters <= 1)).all():
        warnings.warn(
            "decode(z) returned numbers between 0 and 1 alone, which are taken for logits: if it ends in a sigmoid, "
            "say outputs='probabilities'.",
            stacklevel=2,
        )


def _known(value: Any, what: str, argument: str) -> Any:
    if value is None:
        raise ValueError(f"Before data have been encoded {what} is not known: give adapt the argument {argument}.")
    return value


def _said(outputs: Any) -> str:
    if isinstance(outputs, Tensor):
        return f"a tensor of shape {tuple(outputs.shape)}"
    if isinstance(outputs, tuple | list):
        return f"a {type(outputs).__name__} of {' and '.join(_said(each) for each in outputs) or 'nothing'}"
    return f"a {type(outputs).__name__}"
