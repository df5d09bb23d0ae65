"""A run folder: settings, weights, metrics and evaluation, each file written whole or not at all.

    config.yaml           the full settings, fit for --config
    run.json              schema, versions, the data's name, kind, shape and hash
    metrics.csv           one row per epoch, or per iteration of EM
    best.safetensors      weights with the best validation bound (the last ones where there is no validation)
    last.safetensors      weights after the last epoch; for EM both are those of the best start
    training.pt           all that a resume needs
    evaluation.json       the record of `logpx evaluate`; evaluation.npz: its numbers per datum
    report.html, figures/
    evaluation.parts/     what an evaluation has finished so far, until its record is written
    .lock, .holder.json   held by the process that writes to the folder; which one that is

Nothing in it can execute code when it is loaded.
"""

from __future__ import annotations

__all__ = [
    "SCHEMA",
    "Run",
    "check_free",
    "load",
]

import csv
import dataclasses
import hashlib
import platform
import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import nn

from .comparison import Evaluated
from .data import DataSet, Split, load_data
from .distributions import relaxation
from .evaluation import Evaluation, Shards, evaluate
from .evidence import Sandwich, sandwich, simulate
from .files import (
    LEFTOVER,
    arrays_writer,
    first_line,
    json_writer,
    read_arrays,
    read_json,
    staged,
    write_json,
    write_text,
)
from .forms import BOUNDS, RECORD, RUN, require_columns, require_form, require_scores
from .likelihoods import LIKELIHOODS
from .lock import HOLDER, LOCK, held
from .model import LatentVariableModel, as_model, call, evaluating
from .processes import divided
from .settings import Settings
from .utils import LogpxError
from .version import __version__
from .weights import build_model, likelihood_of, load_weights

SCHEMA = 1
FILES = (
    "config.yaml",
    "metrics.csv",
    "training.pt",
    "best.safetensors",
    "last.safetensors",
    "evaluation.json",
    "evaluation.npz",
    "sandwich.json",
    "report.html",
    "samples.png",
    "reconstructions.png",
    # what makes the folder a run goes last, so that one that is half removed can still be replaced
    "run.json",
)
PARTS = "evaluation.parts"
FOLDERS = ("figures", "tensorboard", PARTS)
Weights = Literal["best", "last"]


@dataclasses.dataclass
class Run:
    """A run folder, opened.

    Arguments:
        path: The folder.
        model: A model of one's own, where the run was fitted with one; logpx builds its own models from the settings.
        data: The data set, where it is in memory already; otherwise it is found by its name.
        data_root: The folder to look in first, in place of that of the settings.
    """

    path: Path
    model: LatentVariableModel | None = None
    data: DataSet | None = None
    data_root: str | Path | None = None

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        self._checked = False

    @classmethod
    def create(
        cls,
        path: Path,
        settings: Settings,
        data: DataSet,
        kind: str,
        model: nn.Module,
        own: bool,
        overwrite: bool = False,
    ) -> Run:
        """Makes the folder of a new run and writes its settings.

        Arguments:
            path: The folder.
            settings: The settings of the fit.
            data: The data set.
            kind: The kind of the data as the model sees them.
            model: The model.
            own: Whether the model is the user's own, rather than built from the settings.
            overwrite: Whether an earlier run in the folder may be removed.

        Raises:
            LogpxError: If the folder holds an earlier run that may not be removed, or something else.
        """
        _clear(path, overwrite)
        run = cls(path, as_model(model) if own else None, data)
        run.write_settings(settings)
        tensors = list(model.parameters()) or list(model.state_dict().values())
        info = {
            "schema": SCHEMA,
            "model": f"{type(model).__module__}.{type(model).__qualname__}" if own else "settings",
            "num_parameters": sum(tensor.numel() for tensor in tensors),
            "data": _describe(data, kind),
            "versions": {
                "logpx": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
        write_json(path / "run.json", info)
        return run

    @classmethod
    def open(cls, path: str | Path, model: LatentVariableModel | None = None, data: DataSet | None = None) -> Run:
        """Opens an existing run.

        Arguments:
            path: The folder.
            model: The model of one's own, where the run was fitted with one.
            data: The data set, where the run was fitted to one in memory.

        Raises:
            LogpxError: If the folder holds no run, or one of another schema.
        """
        run = cls(Path(path), model, data)
        if not (run.path / "run.json").is_file():
            raise LogpxError(
                f"{path} is no run folder (it has no run.json): make one with 'logpx fit DATA --out {path}'."
            )
        info = run.info
        if (schema := info.get("schema")) != SCHEMA:
            raise LogpxError(
                f"{path}/run.json has schema {schema}, but this logpx reads {SCHEMA}: use a matching version."
            )
        if missing := {"model", "data"} - info.keys():
            raise LogpxError(f"{path}/run.json lacks {' and '.join(sorted(missing))}: restore it or fit again.")
        run._json("run.json", RUN)
        return run

    @property
    def is_own(self) -> bool:
        """Whether the run was fitted with a model of one's own."""
        return bool(self.info["model"] != "settings")

    @property
    def is_relaxed(self) -> bool:
        """Whether the settings' likelihood is relaxed for the data; a model of one's own tells only in evaluation."""
        kind = self.info["data"]["model_kind"]
        return not self.is_own and kind in LIKELIHOODS[likelihood_of(self.settings.model, kind)].relaxed_kinds

    @property
    def is_em(self) -> bool:
        """Whether the model was fitted by expectation maximization."""
        return not self.is_own and self.settings.model.model != "vae"

    @property
    def config(self) -> dict[str, Any]:
        """The settings as nested plain values."""
        return self.settings.to_dict()

    @property
    def settings(self) -> Settings:
        """The settings of the fit."""
        path = self.path / "config.yaml"
        try:
            return Settings.from_file(path)
        except ValueError as error:
            reason = first_line(error).removeprefix(f"{path}: ")
            raise LogpxError(f"{path} holds no settings ({reason}): restore it or fit again.") from error

    def write_settings(self, settings: Settings) -> None:
        """Writes config.yaml."""
        write_text(self.path / "config.yaml", settings.to_yaml())

    @property
    def info(self) -> dict[str, Any]:
        """The content of run.json."""
        return self._json("run.json", dict) or {}

    def metrics(self) -> dict[str, np.ndarray]:
        """Returns the columns of numbers in metrics.csv; an empty cell is NaN."""
        rows = self._rows()
        names = [name for name in (rows[0] if rows else ()) if name != "events"]
        try:
            metrics = {name: np.array([float(row[name] or "nan") for row in rows]) for name in names}
            require_columns(metrics)
            return metrics
        except (ValueError, TypeError) as error:
            raise self._unreadable(error) from error

    def events(self) -> list[str]:
        """Returns what EM had to mend, in sentences, each with its start and iteration."""
        rows = [row for row in self._rows() if row.get("events")]
        try:
            return [f"Start {int(row['start']) + 1}, iteration {row['iteration']}: {row['events']}" for row in rows]
        except (ValueError, TypeError, KeyError) as error:
            raise self._unreadable(error) from error

    def _rows(self) -> list[dict[str, str]]:
        path = self.path / "metrics.csv"
        if not path.exists():
            return []
        try:
            with path.open(newline="") as file:
                return list(csv.DictReader(file))
        except (OSError, ValueError, csv.Error) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> LogpxError:
        path = self.path / "metrics.csv"
        return LogpxError(f"{path} holds no metrics ({first_line(error)}): restore it or fit again.")

    def evaluation(self) -> dict[str, Any] | None:
        """Returns the content of evaluation.json, or None before an evaluation."""
        return self._json("evaluation.json", RECORD)

    def forget_evaluation(self) -> None:
        """Removes an evaluation, because the weights that it speaks of are about to change."""
        for name in ("evaluation.json", "evaluation.npz", "sandwich.json", "report.html"):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / PARTS, ignore_errors=True)

    def sandwich(self, *, weights: Weights = "best", **options: Any) -> Sandwich:
        """Bounds log p(x) of simulated data from both sides and keeps the result; see :func:`logpx.evidence.sandwich`.

        Arguments:
            weights: The "best" ones on the validation data, or the "last".
            options: The options of :func:`logpx.evidence.sandwich`.

        Returns:
            The bounds per datum; their averages are also written to sandwich.json, with the reason why they are not of
            log-probabilities where the likelihood is relaxed.

        Raises:
            LogpxError: If another process holds the run.
        """
        with held(self.path):
            model = self.load_model(weights)
            bounds = sandwich(model, **options)
            write_json(self.path / "sandwich.json", {**bounds.record(), "relaxed": self._relaxation(model)})
            return bounds

    def bounds(self) -> dict[str, Any] | None:
        """Returns the content of sandwich.json, or None where there is none."""
        return self._json("sandwich.json", BOUNDS)

    def scores(self) -> dict[str, np.ndarray] | None:
        """Returns the evaluation's numbers per datum, or None before an evaluation."""
        path = self.path / "evaluation.npz"
        if not path.exists():
            return None
        try:
            scores = read_arrays(path)
            require_scores(scores)
            return scores
        except ValueError as error:
            raise LogpxError(
                f"{path} cannot be read ({first_line(error)}): run 'logpx evaluate {self.path}'."
            ) from error

    def evaluated(self) -> Evaluated:
        """Returns what is needed to compare the run with another one.

        Raises:
            ValueError: If the run was not evaluated.
        """
        record, scores = self.evaluation(), self.scores()
        if record is None:
            raise ValueError(f"{self.path} has not been evaluated: run 'logpx evaluate {self.path}' first.")
        if scores is None:
            raise ValueError(f"{self.path} has no evaluation.npz: run 'logpx evaluate {self.path}' again.")
        return Evaluated(str(self.path), record, scores)

    def load_data(self) -> DataSet:
        """Returns the data set of the fit, and checks that its content is the same.

        Raises:
            LogpxError: If the data are not found or have changed.
        """
        if not self._checked:
            wanted, root = self.settings.data, self.data_root
            data = self.data or load_data(wanted.name, data_root=root or wanted.data_root, num_valid=wanted.num_valid)
            if data.hash != self.info["data"]["hash"]:
                raise LogpxError(
                    f"The data {wanted.name!r} ({data.source}) have hash {data.hash}, but the run was fitted to "
                    f"{self.info['data']['hash']}: give the same data by --data-root."
                )
            self.data, self._checked = data, True
        return cast(DataSet, self.data)

    def load_split(self, name: str) -> Split:
        """Returns the train, valid or test data as the model sees them."""
        return self.split_of(self.load_data(), name)

    def split_of(self, data: DataSet, name: str, flip: bool = False) -> Split:
        """Returns a part of any data as the model sees them: of the shape of the fit, binarized where it needs it.

        Arguments:
            data: The data set.
            name: The part: train, valid or test.
            flip: Whether the training data are mirrored at random, as in a fit.

        Raises:
            ValueError: If the data have another shape or kind than those of the fit.
        """
        settings, fitted = self.settings, self.info["data"]
        binarization = "none" if data.kind == "binary" else settings.data.binarization
        split = data.split(name, binarization, settings.data.data_seed, flip)
        if list(data.event_shape) != fitted["event_shape"] or split.kind != fitted["model_kind"]:
            raise ValueError(
                f"The model is for {fitted['model_kind']} data of shape {tuple(fitted['event_shape'])}, but "
                f"{data.name!r} are {split.kind} data of shape {data.event_shape}: give data like those of the fit."
            )
        return split

    def evaluate(
        self,
        split: str = "test",
        *,
        weights: Weights = "best",
        device: str = "auto",
        devices: int | None = None,
        num_nodes: int | None = None,
        **options: Any,
    ) -> Evaluation:
        """Estimates log p(x) of a split and keeps the result in the run; see :func:`logpx.evaluate`.

        What is finished is kept every few seconds: the same call goes on with an evaluation that was interrupted.

        Arguments:
            split: The train, valid or test data.
            weights: The "best" ones on the validation data, or the "last".
            device: "auto" (CUDA where there is one, for a module), or a torch device.
            devices: How many processes each machine has, as for :func:`logpx.evaluate`; not necessarily as many as
                those that an evaluation goes on for.
            num_nodes: How many machines, likewise; all see the run folder.
            options: The other options of :func:`logpx.evaluate`.

        Returns:
            The record and the evidence per datum, also written to evaluation.json and evaluation.npz.

        Raises:
            LogpxError: If another process holds the run.
        """
        with divided(device, devices, num_nodes) as processes, held(self.path) if processes.is_first else nullcontext():
            model = self.load_model(weights)
            digest = hashlib.sha256((self.path / f"{weights}.safetensors").read_bytes()).hexdigest()
            shards = Shards(self.path / PARTS, f"sha256:{digest[:16]}")
            data = processes.first_first(partial(self.load_split, split))
            evaluation = evaluate(model, data, device=device, shards=shards, processes=processes, **options)
            record = {**evaluation.record, "weights": {"which": weights, "hash": f"sha256:{digest[:16]}"}}
            processes.by_first(partial(self._keep_evaluation, record, evaluation.scores(), shards))
            return evaluation

    def _keep_evaluation(self, record: dict[str, Any], scores: dict[str, np.ndarray], shards: Shards) -> None:
        """Writes a record and its scores so that the two that are read are always of the same evaluation."""
        names, writers = ("evaluation.npz", "evaluation.json"), (arrays_writer(scores), json_writer(record))
        numbers, record_path = (self.path / name for name in names)
        with staged(numbers, writers[0]) as new_numbers, staged(record_path, writers[1]) as new_record:
            record_path.unlink(missing_ok=True)
            new_numbers.replace(numbers)
            new_record.replace(record_path)
        shards.remove()

    def load_model(self, weights: Weights = "best", device: str | torch.device = "cpu") -> LatentVariableModel:
        """Returns the fitted model in evaluation mode.

        Raises:
            LogpxError: If the weights are missing, damaged, or those of another architecture, or if the run holds a
                model of one's own and none was given.
        """
        model = self.build_model()
        if isinstance(model, nn.Module):
            load_weights(model, self.path / f"{weights}.safetensors")
            model.to(device).eval()
        return model

    def build_model(self) -> LatentVariableModel:
        """Returns the model of one's own, or builds that of the settings, without its fitted weights.

        Raises:
            LogpxError: If the run holds a model of one's own and none was given.
        """
        if self.model is not None:
            return self.model
        info = self.info
        if info["model"] != "settings":
            raise LogpxError(
                f"{self.path} was fitted with a model of your own ({info['model']}): hand it over, as in "
                f"logpx.load({str(self.path)!r}, model=YourModel())."
            )
        data, settings = info["data"], self.settings
        try:
            return build_model(settings, data["event_shape"], data["model_kind"], data["levels"])
        except (ArithmeticError, MemoryError, RuntimeError, TypeError, ValueError) as error:
            raise LogpxError(
                f"{self.path} describes a model that cannot be built ({first_line(error)}): restore its config.yaml "
                "and run.json, or fit again."
            ) from error

    def _relaxation(self, model: LatentVariableModel) -> str | None:
        """Returns why the model gives the data no log-probability, by the evaluation or else by its own draws."""
        if known := (self.evaluation() or {}).get("relaxed"):
            return str(known)
        with evaluating(model), torch.no_grad():
            x, z = simulate(model, 2)
            return relaxation(call(model.decoder, z.unsqueeze(0)), self.info["data"]["model_kind"], x)

    def _json(self, name: str, form: Any) -> dict[str, Any] | None:
        path = self.path / name
        if not path.exists():
            return None
        try:
            record = read_json(path)
        except (OSError, ValueError) as error:
            raise LogpxError(f"{path} is not valid JSON ({first_line(error)}): restore it or make it again.") from error
        try:
            require_form(record, form, "it")
        except ValueError as error:
            raise LogpxError(f"{path} holds another record ({error}): restore it or make it again.") from error
        return cast(dict[str, Any], record)


def load(path: str | Path, model: LatentVariableModel | None = None, weights: Weights = "best") -> LatentVariableModel:
    """Returns the fitted model of a run folder, in evaluation mode.

    Arguments:
        path: The run folder.
        model: A model of one's own, where the run was fitted with one; its weights are replaced.
        weights: The "best" ones on the validation data, or the "last".

    Raises:
        LogpxError: If the folder holds no run, or its weights do not fit.
    """
    return Run.open(path, model).load_model(weights)


def check_free(path: Path, overwrite: bool) -> None:
    """Refuses a folder in which no new run may be made.

    Arguments:
        path: The folder.
        overwrite: Whether an earlier run in the folder may be replaced.

    Raises:
        LogpxError: If the folder holds an earlier run that may not be replaced, or something else.
    """
    if not path.exists():
        return
    if not path.is_dir() or (_foreign(path) and not (path / "run.json").exists()):
        raise LogpxError(f"{path} exists and is no run folder: give another folder by --out, or remove it yourself.")
    if (path / "run.json").exists() and not overwrite:
        raise LogpxError(
            f"{path} holds a run already: continue it with --resume {path}, give another folder by --out, or "
            "replace it with --overwrite."
        )


def _foreign(path: Path) -> list[str]:
    """Returns what is in a folder beside that which a fit leaves that was killed before it made a run."""
    names = [each.name for each in path.iterdir()]
    return [name for name in names if name not in ("config.yaml", LOCK, HOLDER) and not LEFTOVER.search(name)]


def _clear(path: Path, overwrite: bool) -> None:
    """Removes an earlier run from a folder, and only that."""
    check_free(path, overwrite)
    for name in FOLDERS:
        shutil.rmtree(path / name, ignore_errors=True)
    for made in [*path.glob(".*.tmp*"), *(path / name for name in FILES)]:
        made.unlink(missing_ok=True)


def _describe(data: DataSet, kind: str) -> dict[str, Any]:
    return {
        "name": data.name,
        "kind": data.kind,
        "model_kind": kind,
        "levels": data.levels,
        "event_shape": list(data.event_shape),
        "sizes": {name: len(part) for name, part in data.parts.items()},
        "source": data.source,
        "hash": data.hash,
    }
