"""logpx trains latent-variable models and says how probable data are under them: log p(x), with an error bar.

Names are imported when they are first used, so that `import logpx` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from .adapters import adapt, from_pyro, from_pythae
    from .data import Batch, DataSet, Split, load_data
    from .evaluation import Evaluation, evaluate
    from .exact import FactorAnalysis
    from .generate import encode, reconstruct, sample
    from .model import LatentVariableModel, log_joint, log_weights
    from .objectives import elbo, iwae
    from .page import report
    from .run import Run, load
    from .settings import Settings
    from .train import fit, resume
    from .utils import LogpxError
    from .vae import VAE, conv_vae, mlp_vae

_HOMES = {
    "Batch": "data",
    "DataSet": "data",
    "Evaluation": "evaluation",
    "FactorAnalysis": "exact",
    "LatentVariableModel": "model",
    "LogpxError": "utils",
    "Run": "run",
    "Settings": "settings",
    "Split": "data",
    "VAE": "vae",
    "adapt": "adapters",
    "conv_vae": "vae",
    "elbo": "objectives",
    "encode": "generate",
    "evaluate": "evaluation",
    "fit": "train",
    "from_pyro": "adapters",
    "from_pythae": "adapters",
    "iwae": "objectives",
    "load": "run",
    "load_data": "data",
    "log_joint": "model",
    "log_weights": "model",
    "mlp_vae": "vae",
    "reconstruct": "generate",
    "report": "page",
    "resume": "train",
    "sample": "generate",
}

__all__ = [
    "Batch",
    "DataSet",
    "Evaluation",
    "FactorAnalysis",
    "LatentVariableModel",
    "LogpxError",
    "Run",
    "Settings",
    "Split",
    "VAE",
    "__version__",
    "adapt",
    "conv_vae",
    "elbo",
    "encode",
    "evaluate",
    "fit",
    "from_pyro",
    "from_pythae",
    "iwae",
    "load",
    "load_data",
    "log_joint",
    "log_weights",
    "mlp_vae",
    "reconstruct",
    "report",
    "resume",
    "sample",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
