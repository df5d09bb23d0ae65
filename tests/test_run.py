"""A run folder gives back what was fitted, explains what is wrong with it, and never executes what it holds."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers import TINY, Toy, contents, data_set, metrics, normal, same, toy_data, weights

import logpx
from logpx.files import write_arrays, write_atomically, write_text
from logpx.run import Run
from logpx.settings import Settings
from logpx.weights import save_weights


class Malice:
    """What, when it is unpickled, makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def test_a_run_folder_holds_what_its_description_says(fitted: Path) -> None:
    files = {
        *("config.yaml", "run.json", "metrics.csv", "best.safetensors", "last.safetensors", "training.pt"),
        *("evaluation.json", "evaluation.npz", ".lock"),
    }
    assert {path.name for path in fitted.iterdir()} == files
    info = json.loads((fitted / "run.json").read_text())
    assert info["schema"] == 1
    assert info["versions"]["torch"] == torch.__version__
    assert info["num_parameters"] == sum(p.numel() for p in logpx.load(fitted).parameters())  # type: ignore[attr-defined]
    assert info["data"]["hash"] == logpx.load_data("digits").hash
    assert [int(row["epoch"]) for row in metrics(fitted)] == [1, 2, 3]
    assert Run.open(fitted).settings == Settings.from_recipe("digits").override(**TINY)


def test_files_of_a_run_can_be_read_by_others_where_the_umask_lets_them(fitted: Path) -> None:
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in fitted.iterdir()}
    assert len(set(modes.values())) == 1, modes


@pytest.mark.parametrize("name", ["best", "last"])
def test_load_gives_the_saved_weights_in_evaluation_mode(fitted: Path, name: Any) -> None:
    model = logpx.load(fitted, weights=name)
    assert not any(module.training for module in model.modules())  # type: ignore[attr-defined]
    assert same(model.state_dict(), weights(fitted, name))  # type: ignore[attr-defined]


def test_the_best_weights_are_those_of_the_best_validation_bound(tmp_path: Path) -> None:
    # constant learning rate and no warm-up, so that a shorter fit is the beginning of a longer one
    settings = {**TINY, "schedule": "constant", "learning_rate": 0.01}
    long = logpx.fit("digits", out=tmp_path / "long", **settings).path
    bounds = [float(row["valid"]) for row in metrics(long)]
    best = bounds.index(max(bounds)) + 1
    short = logpx.fit("digits", out=tmp_path / "short", **{**settings, "epochs": best}).path
    assert same(weights(long), weights(short, "last"))


def test_an_evaluation_is_kept_in_the_run(run_copy: Path) -> None:
    run = Run.open(run_copy)
    evaluation = run.evaluate("valid", weights="last", estimator="importance", num_samples=30, limit=33)
    kept, scores = run.evaluation(), run.scores()
    assert kept is not None and scores is not None
    digest = hashlib.sha256((run_copy / "last.safetensors").read_bytes()).hexdigest()
    assert kept == {**evaluation.record, "weights": {"which": "last", "hash": f"sha256:{digest[:16]}"}}
    assert kept["data"]["split"] == "valid"
    assert kept["data"]["hash"] == run.info["data"]["hash"]
    assert scores.keys() == evaluation.scores().keys()
    for key, value in evaluation.scores().items():
        assert np.array_equal(scores[key], value, equal_nan=value.dtype.kind == "f"), key


def test_a_run_without_evaluation_has_none(run_copy: Path) -> None:
    for name in ("evaluation.json", "evaluation.npz"):
        (run_copy / name).unlink()
    assert Run.open(run_copy).evaluation() is None
    assert Run.open(run_copy).scores() is None


@pytest.mark.parametrize("limit", [1, 40])
def test_what_is_kept_is_json_that_any_reader_takes(run_copy: Path, limit: int) -> None:
    """One datum has no standard error, and Python alone would read back a bare NaN."""
    Run.open(run_copy).evaluate(estimator="importance", num_samples=30, limit=limit)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    json.loads((run_copy / "evaluation.json").read_text(), parse_constant=refuse)


def test_a_new_fit_replaces_an_earlier_run_only_when_told(run_copy: Path) -> None:
    before = contents(run_copy)
    with pytest.raises(logpx.LogpxError, match=r"holds a run already.*--resume.*--out.*--overwrite"):
        logpx.fit("digits", out=run_copy, **TINY)
    assert contents(run_copy) == before


def test_a_new_fit_removes_the_evaluation_of_an_earlier_run(run_copy: Path) -> None:
    logpx.fit("digits", out=run_copy, overwrite=True, **{**TINY, "epochs": 1})
    assert not (run_copy / "evaluation.json").exists()
    assert len(metrics(run_copy)) == 1


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _replace(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content) and None


def _edit(**changes: Any) -> Callable[[Path], None]:
    return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **changes})) and None


def _widen(path: Path) -> None:
    nested = yaml.safe_load(path.read_text())
    nested["model"]["hidden"] = [17]
    path.write_text(yaml.safe_dump(nested))


@pytest.mark.parametrize(
    "name, spoil, words",
    [
        ("run.json", Path.unlink, "is no run folder"),
        ("run.json", _edit(schema=2), "schema 2"),
        ("run.json", _truncate, "not valid JSON"),
        ("run.json", _replace("[1]"), "run.json"),
        ("run.json", _replace('{"schema": 1}'), "run.json"),
        ("run.json", _edit(model="mine.Model"), "model of your own"),
        ("config.yaml", Path.unlink, "holds no settings"),
        ("config.yaml", _truncate, "holds no settings"),
        ("config.yaml", _replace("train: [1"), "holds no settings"),
        ("config.yaml", _widen, "weights of another architecture"),
        ("best.safetensors", Path.unlink, "is not there: the fit has not come so far"),
        ("best.safetensors", _truncate, "cannot be read as weights"),
        ("best.safetensors", _replace(""), "cannot be read as weights"),
    ],
)
def test_a_damaged_run_is_explained_in_one_line(
    run_copy: Path, name: str, spoil: Callable[[Path], None], words: str
) -> None:
    spoil(run_copy / name)
    with pytest.raises(logpx.LogpxError, match=words) as caught:
        logpx.load(run_copy)
    assert str(run_copy) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["evaluation.json", "evaluation.npz"])
def test_a_damaged_evaluation_is_explained(run_copy: Path, name: str) -> None:
    _truncate(run_copy / name)
    run = Run.open(run_copy)
    with pytest.raises(logpx.LogpxError, match=name):
        run.evaluation() if name.endswith("json") else run.scores()


@pytest.mark.parametrize("content", [b"epoch,train\n1,abc\n", b"\xff\xfe"])
def test_metrics_that_are_no_numbers_are_explained(run_copy: Path, content: bytes) -> None:
    (run_copy / "metrics.csv").write_bytes(content)
    with pytest.raises(logpx.LogpxError, match=r"metrics\.csv"):
        Run.open(run_copy).metrics()


@pytest.mark.parametrize("name", ["best.safetensors", "training.pt", "evaluation.npz"])
def test_a_pickle_in_a_run_is_refused_and_not_executed(run_copy: Path, tmp_path: Path, name: str) -> None:
    trace = tmp_path / "trace"
    content = pickle.dumps(Malice(trace), protocol=2)
    (run_copy / name).write_bytes(content)
    use: dict[str, Callable[[], Any]] = {
        "best.safetensors": lambda: logpx.load(run_copy),
        "training.pt": lambda: logpx.resume(run_copy),
        "evaluation.npz": lambda: Run.open(run_copy).scores(),
    }
    with pytest.raises(logpx.LogpxError, match=name):
        use[name]()
    assert not trace.exists()
    pickle.loads(content)
    assert trace.exists(), "the pickle must be one that acts"


@pytest.mark.parametrize("name", ["training.pt", "evaluation.npz"])
def test_a_pickle_within_the_right_container_is_refused_and_not_executed(
    run_copy: Path, tmp_path: Path, name: str
) -> None:
    trace, path = tmp_path / "trace", run_copy / name
    if name == "training.pt":
        torch.save({"state": Malice(trace)}, path)
    else:
        np.savez(path, log_evidence=np.array([Malice(trace)], dtype=object))
    with pytest.raises(logpx.LogpxError, match=name):
        logpx.resume(run_copy) if name == "training.pt" else Run.open(run_copy).scores()
    assert not trace.exists()


def test_data_that_changed_since_the_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "reals.npy"
    np.save(path, normal(40, 3).numpy())
    run = logpx.fit(path, out=tmp_path / "run", **TINY).path
    logpx.load(run)
    before = Run.open(run).load_data().hash
    np.save(path, normal(40, 3, seed=1).numpy())
    with pytest.raises(logpx.LogpxError, match=f"have hash sha256.*{run} was fitted to {before}"):
        Run.open(run).evaluate(estimator="importance", num_samples=10)
    with pytest.raises(logpx.LogpxError, match="have hash"):
        logpx.resume(run)


def test_data_of_another_shape_or_kind_are_refused(fitted: Path) -> None:
    binary = torch.ones(4, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=rf"model of {fitted} is for binary data of shape \(1, 8, 8\).*\(3,\)"):
        Run.open(fitted).split_of(data_set(binary, binary, binary, "binary", 2), "test")


def test_a_fit_never_replaces_a_folder_that_is_no_run(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "best.safetensors").write_text("mine")
    for out in (precious, precious / "best.safetensors"):
        with pytest.raises(logpx.LogpxError, match="is no run folder"):
            logpx.fit("digits", out=out, overwrite=True, **TINY)
    assert contents(precious) == {"best.safetensors": b"mine"}


def test_a_fit_replaces_only_its_own_files_in_an_earlier_run(run_copy: Path) -> None:
    (run_copy / "notes.txt").write_text("mine")
    logpx.fit("digits", out=run_copy, overwrite=True, **TINY)
    assert (run_copy / "notes.txt").read_text() == "mine"


def test_a_model_of_ones_own_must_be_handed_over_to_be_loaded(tmp_path: Path) -> None:
    run = logpx.fit(toy_data(), model=Toy(), out=tmp_path / "run", epochs=1).path
    with pytest.raises(logpx.LogpxError, match=r"helpers\.Toy.*model=YourModel"):
        logpx.load(run)
    fresh = Toy()
    assert logpx.load(run, model=fresh) is fresh
    assert same(fresh.state_dict(), weights(run))
    assert not fresh.training


@pytest.mark.parametrize("error", [ValueError("full disk"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write(tmp: Path) -> None:
        tmp.write_text("half")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, write)
    assert contents(tmp_path) == {"file.txt": b"old"}


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "file.npz"
    write_arrays(path, {"x": np.zeros(2)})
    old = path.read_bytes()
    write_atomically(
        path, lambda tmp: [tmp.write_bytes(b"new"), pytest.fail("early") if path.read_bytes() != old else 0]
    )
    assert contents(tmp_path) == {"sub/file.npz": b"new"}


def test_every_writer_of_a_run_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename that fails, after the content is written, leaves the old files."""
    paths = tmp_path / "a.txt", tmp_path / "b.npz", tmp_path / "c.safetensors"

    def write_all(value: int) -> list[Callable[[], None]]:
        return [
            lambda: write_text(paths[0], str(value)),
            lambda: write_arrays(paths[1], {"x": np.array(value)}),
            lambda: save_weights({"x": torch.tensor(value)}, paths[2]),
        ]

    for write in write_all(0):
        write()
    before = contents(tmp_path)

    def fail(self: Path, target: Path) -> None:
        raise OSError("no rename")

    monkeypatch.setattr(Path, "replace", fail)
    for write in write_all(1):
        with pytest.raises(OSError, match="no rename"):
            write()
    assert contents(tmp_path) == before


def test_arrays_are_written_to_npz_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.npz.*latents\.csv"):
        write_arrays(tmp_path / "latents.csv", {"x": np.zeros(2)})


def test_a_moved_run_is_still_a_run(fitted: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(fitted, tmp_path / "elsewhere" / "renamed"))
    assert same(logpx.load(moved).state_dict(), logpx.load(fitted).state_dict())  # type: ignore[attr-defined]
