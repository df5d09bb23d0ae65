"""What all adapters need: libraries that may be missing, and the modules behind functions."""

from __future__ import annotations

__all__ = ["load_library", "modules_behind"]

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import nn
from torch.distributions import Distribution

from ..utils import LogpxError


def load_library(name: str, extra: str) -> Any:
    """Imports a module of a library, and leaves the checks of torch's distributions as they were.

    Arguments:
        name: The dotted name of the module.
        extra: The optional extra of logpx that installs it.

    Raises:
        LogpxError: If it is not installed.
    """
    validates, library = Distribution._validate_args, name.split(".")[0]
    try:
        import_module(library)
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise LogpxError(
            f"This adapter needs {library}, which is not installed: pip install 'logpx[{extra}]'."
        ) from error
    finally:
        Distribution.set_default_validate_args(validates)


def modules_behind(*functions: Callable[..., Any]) -> list[nn.Module]:
    """Returns the modules that functions are, belong to as methods, or name: so they can be moved and put into
    evaluation mode.

    Arguments:
        functions: Modules, methods, or functions that use modules of an enclosing scope.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> [layer] == modules_behind(layer.forward, lambda x: layer(x))
        True
    """
    found = [each for function in functions for each in _named_by(function) if isinstance(each, nn.Module)]
    return list({id(module): module for module in found}.values())


def _named_by(function: Callable[..., Any]) -> list[Any]:
    if isinstance(function, nn.Module):
        return [function]
    named = [getattr(function, "__self__", None)]
    plain = getattr(function, "__func__", function)
    if inspect.isfunction(plain):
        seen = inspect.getclosurevars(plain)
        named += [*seen.nonlocals.values(), *seen.globals.values()]
    return named
