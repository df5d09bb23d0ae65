"""A run folder, opened: what was fitted is read, evaluated and bounded through it."""

from __future__ import annotations

__all__ = ["Run", "load"]

import dataclasses
import hashlib
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ..comparison import Evaluated
from ..data import DataSet, Split
from ..evaluation import Evaluation, Shards, evaluate
from ..evidence import Sandwich, sandwich
from ..files import write_json, write_text
from ..forms import BOUNDS, RECORD
from ..lock import held
from ..model import LatentVariableModel, as_model
from ..processes import divided
from ..settings import Settings
from ..weights import load_weights
from ._fitted import find_data, has_relaxed_likelihood, part_of, rebuilt_model
from ._reading import read_events, read_metrics, read_record, read_scores, read_settings, require_run
from ._results import forget_results, keep_evaluation, relaxation_of
from .folder import PARTS, clear, description

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
        self._checked: DataSet | None = None

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
        clear(path, overwrite)
        run = cls(path, as_model(model) if own else None, data)
        run.write_settings(settings)
        write_json(path / "run.json", description(data, kind, model, own))
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
        require_run(path)
        return cls(Path(path), model, data)

    @property
    def is_own(self) -> bool:
        """Whether the run was fitted with a model of one's own."""
        return bool(self.info["model"] != "settings")

    @property
    def is_relaxed(self) -> bool:
        """Whether the settings' likelihood is relaxed for the data; a model of one's own tells only in evaluation."""
        return not self.is_own and has_relaxed_likelihood(self.path, self.info)

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
        return read_settings(self.path / "config.yaml")

    def write_settings(self, settings: Settings) -> None:
        """Writes config.yaml."""
        write_text(self.path / "config.yaml", settings.to_yaml())

    @property
    def info(self) -> dict[str, Any]:
        """The content of run.json."""
        return read_record(self.path / "run.json", dict) or {}

    def metrics(self) -> dict[str, np.ndarray]:
        """Returns the columns of numbers in metrics.csv; an empty cell is NaN."""
        return read_metrics(self.path / "metrics.csv")

    def events(self) -> list[str]:
        """Returns what EM had to mend, in sentences, each with its start and iteration."""
        return read_events(self.path / "metrics.csv")

    def evaluation(self) -> dict[str, Any] | None:
        """Returns the content of evaluation.json, or None before an evaluation."""
        return read_record(self.path / "evaluation.json", RECORD)

    def forget_evaluation(self) -> None:
        """Removes an evaluation, because the weights that it speaks of are about to change."""
        forget_results(self.path)

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
            relaxed = relaxation_of(model, self.info["data"]["model_kind"], self.evaluation())
            write_json(self.path / "sandwich.json", {**bounds.record(), "relaxed": relaxed})
            return bounds

    def bounds(self) -> dict[str, Any] | None:
        """Returns the content of sandwich.json, or None where there is none."""
        return read_record(self.path / "sandwich.json", BOUNDS)

    def scores(self) -> dict[str, np.ndarray] | None:
        """Returns the evaluation's numbers per datum, or None before an evaluation."""
        return read_scores(self.path / "evaluation.npz")

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
        if self._checked is None:
            self._checked = self.data = find_data(self.path, self.settings, self.info, self.data_root, self.data)
        return self._checked

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
        return part_of(self.path, data, name, self.settings, self.info, flip)

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
            config = hashlib.sha256((self.path / "config.yaml").read_bytes()).hexdigest()
            shards = Shards(self.path / PARTS, f"{self.info['model']}, sha256:{digest[:16]} {config[:16]}")
            data = processes.first_first(partial(self.load_split, split))
            evaluation = evaluate(model, data, device=device, shards=shards, processes=processes, **options)
            record = {**evaluation.record, "weights": {"which": weights, "hash": f"sha256:{digest[:16]}"}}
            processes.by_first(partial(keep_evaluation, self.path, record, evaluation.scores(), shards))
            return evaluation

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
        return self.model if self.model is not None else rebuilt_model(self.path, self.info)


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
