"""Activations by name, and how much weights must make up for them."""

from __future__ import annotations

__all__ = ["ACTIVATIONS", "activation_gain"]

import torch
from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}


def activation_gain(activation: str) -> float:
    r"""Returns the c for which :math:`E[(c\, \phi(Z))^2] = 1`, where Z is standard normal.

    Weights of variance :math:`c^2 / \text{fan-in}` then keep the scale of a signal through any number of layers.

    References:
        Delving Deep into Rectifiers (He, Zhang, Ren and Sun, 2015), where c^2 = 2.

    Arguments:
        activation: The name of :math:`\phi` in `ACTIVATIONS`.

    Example:
        >>> round(activation_gain("relu") ** 2, 3)
        2.0
    """
    n = 10_000
    quantiles = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    return ACTIVATIONS[activation]()(quantiles).square().mean().rsqrt().item()
