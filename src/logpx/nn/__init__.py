"""Bodies: networks from tensor to tensor, with any leading batch dimensions."""

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "ResidualMLP",
    "latent_shape",
]

from .activations import ACTIVATIONS
from .conv import ConvDecoder, ConvEncoder, latent_shape
from .mlp import MLP, ResidualMLP
