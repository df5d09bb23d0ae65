"""The architecture holds: each room imports only rooms above it, quickly, and leaves the process as it was."""

from __future__ import annotations

import ast
import functools
import graphlib
from pathlib import Path

import pytest
from helpers import run_command

import logpx

ROOT = Path(logpx.__file__).parent
FACADE = {"__init__", "__main__"}
LEAVES = {"progress", "files", "forms", "lock", "wording", "yaml_loader"}
ROOMS = [
    *(
        "utils",
        "version",
        *sorted(LEAVES),
        "processes",
        "shares",
        "data",
        "distributions",
        "likelihoods",
        "montecarlo",
        "project",
    ),
    *("model", "nn", "conditional", "vae", "adapters", "exact", "em"),
    *(
        "objectives",
        "evidence",
        "subset",
        "evaluation",
        "comparison",
        "settings",
        "weights",
        "run",
        "interrupt",
        "checkpoint",
        "train_em",
        "train",
    ),
    *("generate", "plots", "page", "cli"),
]
# Rooms that may import less than all above them.
ONLY: dict[str, set[str]] = {
    **{leaf: {"utils", "version"} for leaf in LEAVES},
    "lock": {"utils", "files"},
    "processes": {"utils"},
    "shares": set(),
    "likelihoods": {"utils", "distributions"},
    "montecarlo": {"utils", "progress"},
    "project": {"utils", "version", "progress", "montecarlo", "yaml_loader"},
    "adapters": {"utils", "likelihoods"},
    "exact": {"utils", "distributions"},
    "em": {"utils", "progress", "data", "exact"},
    "objectives": {"utils", "model"},
    "evidence": {"utils", "distributions", "model", "montecarlo"},
    "subset": {"utils"},
    "comparison": {"utils", "montecarlo"},
    "settings": {"data.catalogue", "yaml_loader"},
    "plots": set(),
}


@functools.cache
def modules() -> dict[str, Path]:
    """Returns all modules by their dotted names below logpx; a package is its __init__."""
    paths = {path.relative_to(ROOT).with_suffix(""): path for path in ROOT.rglob("*.py")}
    names = {path: ".".join(path.parts) for path in paths}
    return {name if name in FACADE else name.removesuffix(".__init__"): paths[path] for path, name in names.items()}


@functools.cache
def imports(module: str) -> set[str]:
    """Returns the modules of logpx that a module imports anywhere, also within functions and for types alone."""
    known, path = modules(), modules()[module]
    package = ["logpx", *module.split(".")] if path.name == "__init__.py" and module != "__init__" else None
    package = package or ["logpx", *module.split(".")[:-1]]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            names = {f"{origin}.{alias.name}" for alias in node.names}
            found |= {name if name.removeprefix("logpx.") in known else origin for name in names}
    found = {name for name in found if name.split(".")[0] == "logpx"}
    return {name.removeprefix("logpx.") if name != "logpx" else "__init__" for name in found}


def room(module: str) -> str:
    return module.split(".")[0]


def inner() -> list[str]:
    return sorted(set(modules()) - FACADE)


def test_every_module_has_a_place_in_the_list_of_rooms() -> None:
    assert {room(module) for module in inner()} == set(ROOMS)


def test_the_scan_sees_imports_of_every_form() -> None:
    assert {"run", "data", "generate", "plots", "page"} <= imports("cli.models")
    assert {"train", "settings", "data.catalogue"} <= imports("cli.fit")
    assert {"utils", "data.catalogue"} <= imports("data.dataset")
    assert imports("__main__") == {"cli"}


@pytest.mark.parametrize("module", inner())
def test_a_module_imports_only_rooms_above_its_own(module: str) -> None:
    above = ROOMS[: ROOMS.index(room(module))] if room(module) in ROOMS else []
    for other in imports(module):
        assert room(other) == room(module) or room(other) in above, f"{module} imports {other}"


@pytest.mark.parametrize("module", [module for module in inner() if room(module) in ONLY])
def test_a_module_of_a_narrow_room_imports_only_what_is_granted(module: str) -> None:
    for other in imports(module):
        granted = ONLY[room(module)]
        assert room(other) == room(module) or granted & {other, room(other)}, f"{module} imports {other}"


def test_one_accumulator_and_one_diagnosis_serve_evidence_and_monte_carlo() -> None:
    accumulators = {m for m in modules() if "LogMeanAccumulator" in defined(m)}
    diagnoses = {m for m in modules() if "pareto_k" in defined(m)}
    assert (accumulators, diagnoses) == ({"montecarlo.accumulator"}, {"montecarlo.pareto"})
    for user in ("evidence.tally", "montecarlo.sums"):
        assert {"montecarlo", "montecarlo.accumulator"} & imports(user), user
    assert {"montecarlo.pareto"} <= imports("montecarlo.accumulator")


def defined(module: str) -> set[str]:
    """Returns the classes and functions that a module defines at its top level."""
    kinds = (ast.ClassDef, ast.FunctionDef)
    return {node.name for node in ast.parse(modules()[module].read_text()).body if isinstance(node, kinds)}


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {module: imports(module) for module in modules()}
    assert not any("__init__" in others for others in graph.values()), "the facade is for people, not for rooms"
    assert set(graphlib.TopologicalSorter(graph).static_order()) >= set(modules())


QUICK = """
import io, sys
from contextlib import redirect_stdout
import logpx, logpx.cli
heavy = {"torch", "lightning_fabric", "matplotlib", "sklearn", "numpy"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
for words in ([], ["--help"], ["--version"], ["fit", "mnist", "--print-config"]) + tuple(
    [name, "--help"] for name in logpx.cli.COMMANDS
):
    with redirect_stdout(io.StringIO()):
        assert logpx.cli.main(words) == 0, words
    assert not {"torch", "lightning_fabric"} & set(sys.modules), words
sys.argv = ["logpx", "--help"]
import runpy
try:
    runpy.run_module("logpx", run_name="__main__")
except SystemExit as stop:
    assert stop.code == 0
assert "torch" not in sys.modules
"""


def test_help_and_print_config_of_every_command_import_no_torch() -> None:
    done = run_command(python=QUICK)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


BYSTANDER = """
import os, random, signal, sys, warnings
import numpy as np, torch
import rich.style  # which draws a random number when it is imported, as Fabric does
from torch.distributions import Distribution

def world():
    torch_state, (_, keys, *numpy_rest) = torch.get_rng_state().tolist(), np.random.get_state()
    return {
        "torch rng": torch_state, "numpy rng": (keys.tolist(), numpy_rest), "random": random.getstate(),
        "dtype": torch.get_default_dtype(), "threads": torch.get_num_threads(), "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "validate": Distribution._validate_args,
        "handlers": [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)],
        "numpy errors": np.geterr(), "directory": os.getcwd(), "excepthook": sys.excepthook,
    }

before = world()
import logpx
for name in logpx.__all__:
    getattr(logpx, name)
assert (now := world()) == before, ["import", *(k for k in now if now[k] != before[k])]
run = logpx.fit("digits", out=sys.argv[1], hidden=(8,), latent_dim=2, epochs=1, prior="maf")
run.evaluate(estimator="importance", num_samples=50, limit=40)
logpx.report(run)
assert (now := world()) == before, ["use", *(k for k in now if now[k] != before[k])]
"""


def test_importing_and_using_logpx_changes_no_state_of_the_process(tmp_path: Path) -> None:
    done = run_command(tmp_path / "run", python=BYSTANDER)
    assert done.returncode == 0, done.stderr
