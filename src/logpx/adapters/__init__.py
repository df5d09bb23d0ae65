"""Models that were made elsewhere, with the three methods: pairs of networks, Pyro, pythae."""

__all__ = ["adapt", "from_pyro", "from_pythae"]

from .networks import adapt
from .pyro_pair import from_pyro
from .pythae_vae import from_pythae
