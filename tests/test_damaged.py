"""Damaged and hostile runs: the real commands refuse them in one line, execute nothing, and leave them as they are."""

from __future__ import annotations

import io
import json
import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers import contents, run_command
from safetensors.torch import load_file, save, save_file
from test_run import Malice

import logpx
from logpx import wording
from logpx.checkpoint import load_state
from logpx.cli import main
from logpx.files import MOST_UNPACKED, read_arrays
from logpx.run import Run
from logpx.yaml_loader import DEEPEST, BoundedLoader


def flipped(path: Path, trace: Path) -> None:
    """Turns over one bit in the middle of the largest tensor, which no parser can see."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    content[largest.header_offset + 200 + largest.file_size // 2] ^= 1
    path.write_bytes(content)


def altered(path: Path, trace: Path) -> None:
    """Turns over the last bit of a number in the middle, which no parser can see."""
    content = bytearray(path.read_bytes())
    content[len(content) // 8 * 4] ^= 1
    path.write_bytes(content)


def truncated(path: Path, trace: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def pickled(path: Path, trace: Path) -> None:
    path.write_bytes(pickle.dumps(Malice(trace), protocol=2))


def pickled_by_torch(path: Path, trace: Path) -> None:
    torch.save({"state": Malice(trace)}, path)


def cut_pickle(path: Path, trace: Path) -> None:
    """A whole archive whose pickle ends where the length of a text should stand."""
    with zipfile.ZipFile(path) as old:
        members = {info.filename: old.read(info) for info in old.infolist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members.items():
            new.writestr(name, b"\x80\x02K\x00X" if name.endswith("data.pkl") else content)


def pickled_array(path: Path, trace: Path) -> None:
    np.savez(path, log_evidence=np.array([Malice(trace)], dtype=object))


def tagged(path: Path, trace: Path) -> None:
    path.write_text(path.read_text() + f"device: !!python/object/apply:os.mkdir ['{trace}']\n")


def misspelt(path: Path, trace: Path) -> None:
    path.write_text(path.read_text().replace("learning_rate", "learning_rat"))


def of_another_schema(path: Path, trace: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 7}))


def of_another_architecture(path: Path, trace: Path) -> None:
    nested = yaml.safe_load(path.read_text())
    nested["model"]["latent_dim"] = 3
    path.write_text(yaml.safe_dump(nested))


EVALUATE = ["evaluate", "RUN", "--estimator", "importance", "--num-samples", "5"]
RESUME = ["fit", "--resume", "RUN", "--epochs", "4"]
DAMAGE = [
    ("training.pt", truncated, RESUME, "training.pt cannot be resumed from"),
    ("training.pt", flipped, RESUME, "in it is damaged"),
    ("training.pt", pickled, RESUME, "training.pt cannot be resumed from"),
    ("training.pt", pickled_by_torch, RESUME, "training.pt cannot be resumed from"),
    ("training.pt", cut_pickle, RESUME, "training.pt cannot be resumed from"),
    ("best.safetensors", pickled, EVALUATE, "best.safetensors cannot be read as weights"),
    ("best.safetensors", altered, EVALUATE, "its values are not those that were written"),
    ("evaluation.npz", pickled_array, ["report", "RUN"], "evaluation.npz cannot be read"),
    ("config.yaml", tagged, EVALUATE, "cannot be read as YAML"),
    ("config.yaml", misspelt, EVALUATE, "'learning_rat': did you mean 'learning_rate'?"),
    ("config.yaml", of_another_architecture, ["report", "RUN"], "holds weights of another architecture"),
    ("run.json", of_another_schema, RESUME, "has schema 7, but this logpx reads 1"),
]


@pytest.mark.parametrize(
    "name, spoil, words, says", DAMAGE, ids=lambda value: getattr(value, "__name__", None) or str(value)[:12]
)
def test_a_damaged_run_is_refused_in_one_line_and_executes_nothing(
    run_copy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    spoil: Callable[[Path, Path], None],
    words: list[str],
    says: str,
) -> None:
    trace = tmp_path / "trace"
    spoil(run_copy / name, trace)
    before = contents(run_copy)
    assert main([word.replace("RUN", str(run_copy)) for word in words]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("logpx: ") and str(run_copy) in error and says in error
    assert "perhaps a defect" not in error
    assert not trace.exists(), "something was executed"
    after = contents(run_copy)
    # --epochs is kept in the settings before the state is read
    assert {file for file in before | after if before.get(file) != after.get(file)} <= {"config.yaml"}


def test_a_process_refuses_a_pickle_in_one_line_and_executes_nothing(run_copy: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    pickled(run_copy / "best.safetensors", trace)
    done = run_command(*(word.replace("RUN", str(run_copy)) for word in EVALUATE))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "cannot be read as weights" in done.stderr
    assert not trace.exists()
    pickle.loads(pickle.dumps(Malice(trace)))
    assert trace.exists(), "the pickle must be one that acts"


def bomb(path: Path) -> None:
    """An .npz file that unpacks to about a thousand times its size."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(  # type: ignore[no-untyped-call]
        header, {"descr": "|u1", "fortran_order": False, "shape": (MOST_UNPACKED + 1, 1)}
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as file:
        file.write(header.getvalue())
        for _ in range(MOST_UNPACKED // 2**20 + 1):
            file.write(bytes(2**20))


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    bomb(path)
    with pytest.raises(ValueError, match=r"unpacks to 26\d,.*save it unpacked"):
        read_arrays(path)
    with pytest.raises(logpx.LogpxError, match=r"bomb\.npz: .*unpacks to"):
        logpx.load_data(path)


def test_an_archive_of_other_things_than_arrays_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "texts.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x", "no array")
    with pytest.raises(logpx.LogpxError, match=r"texts\.npz: .*'x' is no array"):
        logpx.load_data(path)


def test_a_packed_state_is_not_unpacked(fitted: Path, tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    with (
        zipfile.ZipFile(fitted / "training.pt") as old,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    with pytest.raises(ValueError, match="it is packed"):
        load_state(path, "cpu")
    assert load_state(fitted / "training.pt", "cpu").keys() >= {"state", "model"}


ABSENT = object()


def spoil_record(path: Path, *keys: str, value: Any) -> None:
    record = json.loads(path.read_text())
    place = record
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    if value is ABSENT:
        del place[keys[-1]]
    path.write_text(json.dumps(record))


def read_all(path: Path) -> None:
    run = Run.open(path)
    run.evaluation()
    assert run.is_relaxed in (False, True)
    run.load_data()
    run.load_model()


@pytest.mark.parametrize(
    "name, keys, value, says",
    [
        ("evaluation.json", ("data", "split"), "exam", "it.data.split must be one of test, train, valid"),
        ("evaluation.json", ("log_evidence", "mean"), "high", "it.log_evidence.mean must be a number, but is 'high'"),
        ("evaluation.json", ("curve", "mean"), 1, "it.curve.mean must be a list, but is 1"),
        (
            "evaluation.json",
            ("curve", "mean"),
            [1.0],
            "it.curve must have lists of one length, but has 6 in num_samples, 1 in mean",
        ),
        ("evaluation.json", ("data", "event_shape"), [0, 0], "it.data.event_shape must be sizes of at least 1"),
        ("evaluation.json", ("data", "event_shape"), [10**18] * 30, "it.data.event_shape must be sizes of at least 1"),
        ("evaluation.json", ("relaxed",), ABSENT, "it lacks 'relaxed'"),
        ("evaluation.json", ("data", "name"), ABSENT, "it.data lacks 'name'"),
        ("evaluation.json", ("data", "seed"), ABSENT, "it.data lacks 'seed'"),
        ("run.json", ("data", "levels"), ABSENT, "it.data lacks 'levels'"),
        ("run.json", ("data", "event_shape"), "8x8", "it.data.event_shape must be a list, but is '8x8'"),
        ("run.json", ("data", "levels"), 10**30, "it.data.levels must be a whole number"),
        ("run.json", ("data", "event_shape"), [10**9, 10**9], "describes a model that cannot be built"),
    ],
)
def test_a_record_of_another_form_is_named_with_what_is_wrong(
    run_copy: Path, name: str, keys: tuple[str, ...], value: Any, says: str
) -> None:
    spoil_record(run_copy / name, *keys, value=value)
    with pytest.raises(logpx.LogpxError) as caught:
        read_all(run_copy)
    assert says in str(caught.value)
    assert str(run_copy) in str(caught.value)


@pytest.mark.parametrize("keys", [("schema",), ("model",), ("data", "hash"), ("data", "model_kind")])
def test_a_message_about_a_long_entry_is_short(run_copy: Path, keys: tuple[str, ...]) -> None:
    spoil_record(run_copy / "run.json", *keys, value="x" * 5000)
    with pytest.raises(logpx.LogpxError, match="xxx") as caught:
        read_all(run_copy)
    assert str(run_copy) in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "model, says",
    [
        ({"likelihood": "qqq"}, "describes a model that cannot be built (likelihood must be"),
        ({"model": "gaussian-mixture"}, "describes a model that cannot be built (model 'gaussian-mixture' is not for"),
    ],
)
def test_settings_of_a_model_that_is_not_for_the_data_are_refused_with_the_run(
    run_copy: Path, model: dict[str, str], says: str
) -> None:
    path = run_copy / "config.yaml"
    nested = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**nested, "model": {**nested["model"], **model}}))
    with pytest.raises(logpx.LogpxError) as caught:
        read_all(run_copy)
    assert says in str(caught.value)
    assert str(run_copy) in str(caught.value)


@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize("value", [math.nan, 3e38])
def test_weights_that_give_no_numbers_are_refused_with_the_run(run_copy: Path, value: float) -> None:
    path = run_copy / "best.safetensors"
    weights = load_file(path)
    path.write_bytes(save({name: torch.full_like(tensor, value) for name, tensor in weights.items()}))
    with pytest.raises(ValueError, match=rf"^{run_copy} cannot be pictured: A \w+ has parameters that are not numbers"):
        logpx.report(Run.open(run_copy))


@pytest.mark.parametrize(
    "name, content",
    [
        ("log_evidence", np.array(["a"] * 64)),
        ("log_evidence", np.zeros(3)),
        ("index", np.full(64, -1)),
        ("index", np.arange(64.0)),
    ],
)
def test_scores_that_do_not_fit_are_refused(run_copy: Path, name: str, content: np.ndarray) -> None:
    path = run_copy / "evaluation.npz"
    scores = {**read_arrays(path), name: content}
    np.savez(path, **scores)
    with pytest.raises(logpx.LogpxError, match=r"evaluation\.npz cannot be read \(its array"):
        Run.open(run_copy).scores()


DEEP = b"[" * 10_000
# every line merges the mapping before it nine times: eleven such lines would fill the memory
MERGES = b"a: &a {x: 1}\n" + b"".join(
    b"%c: &%c {<<: [%s]}\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(98, 102)
)


@pytest.mark.parametrize(
    "content",
    [
        DEEP,
        b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1),
        b"seed: 2001-99-99\n",
        b"seed: !!bool x\n",
        b"seed: !!timestamp x\n",
        b"1: 2\n",
        b"data: &a [*a]\n",
        b"a: &a [x,x,x,x,x,x,x,x,x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(98, 122))
        + b"train: *y\n",
    ],
)
def test_settings_that_only_yaml_could_mean_are_refused_in_a_short_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.yaml") as caught:
        logpx.settings.Settings.from_file(path)
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 3000


def test_yaml_may_be_nested_as_deeply_as_its_bound_and_merges_nothing() -> None:
    assert yaml.load(b"[" * DEEPEST + b"]" * DEEPEST, Loader=BoundedLoader)
    for deeper in (b"[" * 500, b"{a: " * (DEEPEST + 1), b"- " * (DEEPEST + 1), b"? " * (DEEPEST + 1)):
        with pytest.raises(yaml.MarkedYAMLError, match=f"it is nested deeper than {DEEPEST} levels"):
            yaml.load(deeper, Loader=BoundedLoader)
    with pytest.raises(yaml.MarkedYAMLError, match="<< is not read"):
        yaml.load(MERGES, Loader=BoundedLoader)


@pytest.mark.parametrize("content", [DEEP, b"[" * 30 + b"]" * 30])
def test_json_that_is_nested_too_deeply_is_refused(run_copy: Path, content: bytes) -> None:
    (run_copy / "evaluation.json").write_bytes(content)
    with pytest.raises(logpx.LogpxError, match=r"evaluation\.json is not valid JSON \(it is nested too deeply\)"):
        Run.open(run_copy).evaluation()


def test_weights_with_a_digest_of_another_program_are_read(run_copy: Path) -> None:
    model, path = logpx.load(run_copy), run_copy / "best.safetensors"
    state = {name: value + 1 for name, value in load_file(path).items()}
    save_file(state, path, metadata={"sha256": "of something else", "format": "pt"})
    assert torch.equal(logpx.load(run_copy).decoder.body[0].bias, model.decoder.body[0].bias + 1)


def test_a_record_that_does_not_tell_the_levels_is_read(run_copy: Path) -> None:
    """As records of earlier versions."""
    path = run_copy / "evaluation.json"
    record = json.loads(path.read_text())
    del record["data"]["levels"]
    path.write_text(json.dumps(record))
    assert Run.open(run_copy).evaluation() == record
    assert wording.flags(record) == wording.flags({**record, "data": {**record["data"], "levels": 2}})
