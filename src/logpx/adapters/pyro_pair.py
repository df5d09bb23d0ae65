"""A model and a guide of Pyro as a model with three methods.

Pyro's programs draw as they run. The guide, traced, tells the distribution that it would draw z from, q(z | x); the
model, traced with z given, tells what it would draw z and x from, p(z) and p(x | z). Draws (S, B) go through the model
as one batch of S B data.
"""

from __future__ import annotations

__all__ = ["PyroPair", "from_pyro"]

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from ..utils import LogpxError, keyed_rng
from ._foreign import load_library, modules_behind
from .unfolded import unfolded

Program: TypeAlias = Callable[[Tensor], Any]
Site: TypeAlias = dict[str, Any]


def from_pyro(model: Program, guide: Program, *, event_shape: Sequence[int] | None = None) -> PyroPair:
    """Makes a model of a model and a guide of Pyro, as in its example of a variational autoencoder.

    Both are functions of the data x, of shape (B,) + the event shape. The guide draws one latent, the model the same
    and one observed site, within a plate over the data. The plate's size is that of x, and the distribution of the
    observed site depends on the latent alone, not on the data. Factors of `poutine.scale` are for training, and count
    for nothing here.

    References:
        Pyro: Deep Universal Probabilistic Programming (Bingham et al., 2019).

    Arguments:
        model: The program of p(z) p(x | z).
        guide: The program of q(z | x).
        event_shape: The shape of one datum; by default that of the data which the encoder saw last.

    Raises:
        LogpxError: If Pyro is not installed; later, if the programs are of another form.
    """
    load_library("pyro", "pyro")
    return PyroPair(model, guide, event_shape)


class PyroPair(nn.Module):
    """The model that :func:`from_pyro` makes; modules that the programs belong to or name are its own.

    Arguments:
        model: The program of p(z) p(x | z).
        guide: The program of q(z | x).
        event_shape: The shape of one datum.
    """

    def __init__(self, model: Program, guide: Program, event_shape: Sequence[int] | None) -> None:
        super().__init__()
        self.networks = nn.ModuleList(modules_behind(model, guide))
        # in a tuple they are no submodules, whose weights would be saved twice
        self._programs = model, guide
        self._datum = None if event_shape is None else torch.zeros(tuple(event_shape))
        self._name: str | None = None

    def prior(self) -> Distribution:
        """Returns p(z), with batch shape ()."""
        p = _as_events(self._drawn(), 1)
        return unfolded(p, (), tuple(p.event_shape))

    def encoder(self, x: Tensor) -> Distribution:
        """Returns q(z | x), and learns the shape of x.

        Raises:
            LogpxError: If the programs are not of the form that :func:`from_pyro` says.
        """
        self._datum = x.detach().new_zeros(x.shape[1:])
        site = _latent(_trace(self._programs[1], x), "guide")
        q = _as_events(site, len(x))
        if self._name is None:
            self._check(x, q, site["name"])
        return q

    def decoder(self, z: Tensor) -> Distribution:
        """Returns p(x | z), from z of shape (S, B) + the shape of one."""
        rows = self._rows(len(z) * z.shape[1])
        return unfolded(self._observed(rows, z), tuple(z.shape[:2]), tuple(rows.shape[1:]))

    def _observed(self, x: Tensor, z: Tensor) -> Distribution:
        """Returns what the model observes data from, given latents; of the data only their number counts."""
        poutine, z = load_library("pyro.poutine", "pyro"), z.flatten(0, 1)
        name = self._name or self._drawn()["name"]
        given = poutine.condition(self._programs[0], data={name: z})
        return _as_events(_observed(_trace(given, x), name), len(z))

    @torch.no_grad()
    def _seen(self, rows: Tensor, z: Tensor, x: Tensor) -> Tensor:
        """Returns log p(x | z) by a model that was shown other rows."""
        with keyed_rng(0, "pyro", device=x.device):
            return unfolded(self._observed(rows, z), (1, len(x)), tuple(x.shape[1:])).log_prob(x)

    def _drawn(self) -> Site:
        """Returns the latent of the model."""
        site = _latent(_trace(self._programs[0], self._rows(1)), "model")
        self._name = site["name"]
        return site

    def _rows(self, num: int) -> Tensor:
        if self._datum is None:
            raise ValueError(
                "Before data have been encoded the shape of x is not known: give from_pyro the argument event_shape."
            )
        return self._datum.expand(num, *self._datum.shape)

    def _check(self, x: Tensor, q: Distribution, name: str) -> None:
        """Refuses a model of another latent, or whose p(x | z) looks at the data, which folded draws would not see."""
        if self._drawn()["name"] != name:
            raise LogpxError(f"The guide draws {name}, but the model {self._name}: give the latent one name in both.")
        with keyed_rng(0, "pyro", device=x.device), torch.no_grad():
            z = q.sample((1,))
        if not torch.allclose(self._seen(x, z, x), self._seen(torch.zeros_like(x), z, x), equal_nan=True):
            raise LogpxError(
                "The distribution of the observed site must depend on the latent alone, but it depends on the data: "
                "write the model's three methods yourself, with a decoder whose log_prob sees the data."
            )


def _trace(program: Program, x: Tensor) -> Any:
    """Runs a program and returns what it draws from; the random numbers of the process stay as they were."""
    poutine = load_library("pyro.poutine", "pyro")
    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        return poutine.trace(program).get_trace(x)


def _latent(trace: Any, name: str) -> Site:
    latents = [site for site in _sites(trace) if not site["is_observed"]]
    return _only(latents, f"The {name} must draw one latent")


def _observed(trace: Any, latent: str) -> Site:
    observed = [site for site in _sites(trace) if site["is_observed"] and site["name"] != latent]
    return _only(observed, "The model must have one observed site")


def _sites(trace: Any) -> list[Site]:
    """Returns what is drawn or observed, without plates and what is computed."""
    is_plate = load_library("pyro.poutine.util", "pyro").site_is_subsample
    sites = [site for site in trace.nodes.values() if site["type"] == "sample" and not is_plate(site)]
    return [site for site in sites if not site["infer"].get("_deterministic")]


def _only(sites: list[Site], what: str) -> Site:
    names = ", ".join(site["name"] for site in sites) or "none"
    if len(sites) != 1:
        raise LogpxError(f"{what}, but has {names}: put them into one, or write the model's three methods yourself.")
    if sites[0]["mask"] is not None and sites[0]["mask"] is not True:
        raise LogpxError(f"The site {names} is masked by poutine.mask, which is not supported: leave the mask out.")
    return sites[0]


def _as_events(site: Site, num: int) -> Distribution:
    """Returns what a site draws from, with batch shape (N,)."""
    p: Distribution = site["fn"]
    if _is_point(p):
        raise LogpxError(
            f"The site {site['name']} is drawn from a point mass, which has no density: use a guide that draws."
        )
    if tuple(p.batch_shape[:1]) != (num,):
        raise LogpxError(
            f"The site {site['name']} must have one row per datum, {num} in all, as its first batch dimension, but has "
            f"batch shape {tuple(p.batch_shape)}: draw it within pyro.plate(name, len(x)), and declare other "
            "dimensions with to_event."
        )
    extra = len(p.batch_shape) - 1
    return Independent(p, extra, validate_args=False) if extra else p


def _is_point(p: Distribution) -> bool:
    while isinstance(p, Independent):
        p = p.base_dist
    return isinstance(p, load_library("pyro.distributions", "pyro").Delta)
