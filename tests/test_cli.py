"""The command line goes the whole road, and says in one line what is wrong."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from helpers import TINY, TINY_WORDS, command, contents, normal, run_command
from matplotlib.figure import Figure
from PIL import Image

import logpx
from logpx import plots
from logpx.cli import COMMANDS, main
from logpx.cli.evidence import PROPOSAL
from logpx.data import load_data
from logpx.evidence import METHODS, PROPOSALS
from logpx.run import Run

OPTIONS = {
    "fit": [
        "DATA",
        "--recipe",
        "--config",
        "--print-config",
        "--out",
        "--overwrite",
        "--resume",
        "--devices",
        "--num-nodes",
        "--model",
        "--components",
        "--covariance",
        "--pseudo-count",
        "--max-iterations",
        "--epochs",
        "--seed",
        "--device",
    ],
    "evaluate": [
        "RUN",
        "--estimator",
        "--proposal",
        "--target-error",
        "--num-temperatures",
        "--schedule",
        "--model",
        "--data",
        "--output",
        "--num-samples",
        "--split",
        "--limit",
        "--subset",
        "--scores",
        "--weights",
        "--devices",
        "--num-nodes",
        "--seed",
    ],
    "sandwich": ["RUN", "--num-data", "--num-chains", "--num-temperatures", "--proposal", "--weights", "--seed"],
    "compare": ["RUN_A RUN_B", "--confidence", "--output"],
    "sample": ["RUN", "--num", "--draw", "--output", "--seed", "--data-root"],
    "reconstruct": ["RUN", "--num", "--split", "--draw", "--output", "--seed", "--data-root"],
    "encode": ["RUN [DATA]", "--output", "--data-root"],
    "report": ["RUN", "--baseline", "--data-root"],
    "data": ["DATA", "--save", "--data-root"],
    "simulate": ["--deadline", "--proposal", "--compare", "--html", "--example", "--num-trials", "--seed"],
}


def called(capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    """Runs a command that must succeed, quietly, and returns what it prints."""
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return out


def refused(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str]:
    """Runs a command that must fail, and returns its code and what it says of it."""
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return code, err


def images(folder: Path, n: int = 30) -> None:
    folder.mkdir()
    pixels = torch.randint(0, 256, (n, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8).numpy()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i:02}.png")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_names_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = called(capsys, name, "--help")
    assert f"usage: logpx {name}" in text
    for option in [*OPTIONS[name], "--debug"]:
        assert option in text
    assert COMMANDS[name].help in called(capsys, "--help")
    assert max(map(len, text.splitlines())) <= 100


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert called(capsys) == called(capsys, "--help")


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert logpx.__version__ in called(capsys, "--version")


def test_a_fit_and_an_evaluation_as_processes_are_quiet_and_print_the_number(tmp_path: Path) -> None:
    run, scores = tmp_path / "run", tmp_path / "scores.csv"
    fit = run_command("fit", "digits", *TINY_WORDS, "--out", run)
    assert (fit.returncode, fit.stderr) == (0, "")
    assert f"Next: logpx evaluate {run}" in fit.stdout
    done = run_command(
        "evaluate",
        run,
        "--estimator",
        "importance",
        "--num-samples",
        "100",
        "--limit",
        "40",
        "--scores",
        scores,
        "--seed",
        "3",
    )
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads((run / "evaluation.json").read_text())
    assert (record["num_samples"], record["seed"], record["data"]["num_data"]) == (100, 3, 40)
    assert f"{record['log_evidence']['mean']:.3f} nats per datum" in done.stdout
    assert f"{record['bits_per_dim']['mean']:.4f} ± {record['bits_per_dim']['error']:.4f} bits/dim" in done.stdout
    for path in (scores, run / "evaluation.json"):
        assert str(path) in done.stdout
    with scores.open(newline="") as file:
        column = [float(row["log_evidence_nats"]) for row in csv.DictReader(file)]
    assert np.mean(column) == pytest.approx(record["log_evidence"]["mean"], rel=1e-7)


def test_the_command_line_and_python_fit_the_same(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    called(capsys, "fit", "digits", *TINY_WORDS, "--out", tmp_path / "run")
    same = ("best.safetensors", "last.safetensors", "config.yaml")
    assert [(tmp_path / "run" / name).read_bytes() for name in same] == [(fitted / name).read_bytes() for name in same]


def test_a_config_fits_what_it_says(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    called(capsys, "fit", "digits", "--config", fitted / "config.yaml", "--out", tmp_path / "run")
    weights = "best.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (fitted / weights).read_bytes()


def test_the_default_run_folder_is_named_after_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("reals.npy", normal(40, 3).numpy())
    assert "runs/digits" in called(capsys, "fit", "digits", *TINY_WORDS)
    assert "runs/reals" in called(capsys, "fit", "reals.npy", *TINY_WORDS)
    assert {path.name for path in Path("runs").iterdir()} == {"digits", "reals"}


def test_the_prior_as_proposal_and_the_last_weights_can_be_asked_for(
    run_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--estimator", "importance", "--proposal", "prior", "--num-samples", "50"]
    words += ["--weights", "last", "--split", "valid", "--limit", "20"]
    assert "importance, proposal prior" in called(capsys, "evaluate", run_copy, *words)
    record = Run.open(run_copy).evaluation()
    assert record is not None
    assert (record["proposal"], record["weights"]["which"], record["data"]["split"]) == ("prior", "last", "valid")
    # of the encoder's rate, distortion and active units the prior says nothing
    assert record["elbo"] is record["rate"] is record["distortion"] is record["active_units"] is None


def test_a_run_is_compared_with_another_on_their_common_data(
    run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixture, picture = tmp_path / "mixture", tmp_path / "compare.png"
    called(capsys, "fit", "digits", "--model", "bernoulli-mixture", "--components", "3", "--out", mixture)
    code, err = refused(capsys, "compare", run_copy, mixture)
    assert (code, err.count("\n")) == (1, 1)
    assert f"{mixture} has not been evaluated: run 'logpx evaluate {mixture}' first." in err
    called(capsys, "evaluate", mixture)
    assert "their data differ in num_data (64 and 300)" in refused(capsys, "compare", run_copy, mixture)[1]
    words = ["--estimator", "importance", "--num-samples", "60", "--subset", "50", "--scores", tmp_path / "scores.csv"]
    text = called(capsys, "evaluate", run_copy, *words)
    assert "50 of these data, drawn at random (seed 0), stand for all" in text
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 51
    text = called(capsys, "compare", run_copy, mixture, "-o", picture, "--confidence", "0.9")
    ours, theirs = (Run.open(path).scores() for path in (run_copy, mixture))
    assert ours is not None and theirs is not None
    d = ours["log_evidence"] - theirs["log_evidence"][ours["index"]]
    assert f"{d.mean():.3f} nats per datum" in text
    assert f"{d.std(ddof=1) / math.sqrt(50):.3f} nats (one standard error)" in text
    assert "digits, test, 50 data, binarization dynamic (a random subset of 300)" in text
    assert "90% interval" in text and "verdict" in text and str(picture) in text
    with Image.open(picture) as image:
        assert min(image.size) > 500
    assert "No difference shown" in called(capsys, "compare", mixture, mixture)


@pytest.mark.parametrize("name, words", [("sample", ["-n", "7"]), ("reconstruct", ["-n", "7", "--split", "valid"])])
def test_pictures_go_to_the_run_or_to_a_file_of_ones_choice(
    run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, words: list[str]
) -> None:
    default = run_copy / {"sample": "samples.png", "reconstruct": "reconstructions.png"}[name]
    assert called(capsys, name, run_copy, *words) == f"{default}\n"
    with Image.open(default) as image:
        assert image.format == "PNG"
        assert min(image.size) > 50
    for suffix, start in {".pdf": b"%PDF", ".svg": b"<?xml", ".png": b"\x89PNG"}.items():
        path = tmp_path / f"own{suffix}"
        called(capsys, name, run_copy, *words, "-o", path)
        assert path.read_bytes().startswith(start)
    arrays = tmp_path / "own.npz"
    called(capsys, name, run_copy, *words, "--output", arrays)
    with np.load(arrays) as content:
        assert content["x"].shape == (7, 1, 8, 8)
        assert ((content["x"] >= 0) & (content["x"] <= 1)).all()
        assert set(content) == ({"x", "originals", "index"} if name == "reconstruct" else {"x"})


def test_samples_follow_the_seed_and_may_be_draws(
    run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def sampled(*words: str) -> np.ndarray:
        called(capsys, "sample", run_copy, "-n", "5", "-o", tmp_path / "x.npz", *words)
        with np.load(tmp_path / "x.npz") as content:
            return content["x"]

    assert np.array_equal(sampled("--seed", "1"), sampled("--seed", "1"))
    assert not np.array_equal(sampled("--seed", "1"), sampled("--seed", "2"))
    assert set(np.unique(sampled("--draw"))) == {0.0, 1.0}
    assert len(np.unique(sampled())) > 2


def test_reconstructions_stand_beside_their_originals(
    run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    called(capsys, "reconstruct", run_copy, "-n", "5", "-o", tmp_path / "x.npz")
    # five of 300, spread evenly because data are often sorted by class
    x = Run.open(run_copy).load_split("test").batch(torch.tensor([0, 75, 150, 224, 299])).x
    with np.load(tmp_path / "x.npz") as content:
        assert content["index"].tolist() == [0, 75, 150, 224, 299]
        assert np.array_equal(content["originals"], x.numpy())
        assert content["x"] == pytest.approx(logpx.reconstruct(logpx.load(run_copy), x).numpy(), abs=1e-6)
    called(capsys, "reconstruct", run_copy, "-n", "5", "-o", tmp_path / "x.npz", "--draw")
    with np.load(tmp_path / "x.npz") as content:
        assert set(np.unique(content["x"])) == {0.0, 1.0}


def test_pictures_of_draws_and_of_means_are_called_so(
    run_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []

    def spy(*images: np.ndarray, title: str) -> Figure:
        titles.append(title)
        return Figure()

    for name in ("image_grid", "paired_grid"):
        monkeypatch.setattr(plots, name, spy)
    for name in ("sample", "reconstruct"):
        for words in ([], ["--draw"]):
            called(capsys, name, run_copy, "-n", "2", *words)
    assert titles == [
        "2 samples from the model (means of the likelihood).",
        "2 samples from the model (draws).",
        "Data, and below them their reconstructions.",
        "Data, and below them draws from p(x | z).",
    ]


def test_the_codes_of_the_runs_own_data_stand_in_the_order_of_the_source(
    run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "latents.npz"
    assert "1797 codes of 2 latents" in called(capsys, "encode", run_copy, "-o", out)
    run = Run.open(run_copy)
    with np.load(out, allow_pickle=False) as codes:
        assert codes["mean"].shape == codes["scale"].shape == (1797, 2)
        assert np.array_equal(codes["index"], np.arange(1797))
        names, counts = np.unique(codes["part"], return_counts=True)
        assert (names.tolist(), counts.tolist()) == (["test", "train", "valid"], [300, 1197, 300])
        rows = run.load_data().rows["test"].numpy()
        x = run.load_split("test").batch(torch.arange(300)).x
        with torch.no_grad():
            q = logpx.load(run_copy).encoder(x)
        assert (codes["part"][rows] == "test").all()
        assert codes["mean"][rows] == pytest.approx(q.mean.numpy(), abs=1e-5)
        assert codes["scale"][rows] == pytest.approx(q.stddev.numpy(), abs=1e-5)


def test_the_codes_of_other_data_stand_in_their_order(
    run_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = (normal(25, 8, 8) > 0).float()
    np.save(tmp_path / "other.npy", x.numpy())
    called(capsys, "encode", run_copy, tmp_path / "other.npy", "-o", tmp_path / "latents.npz")
    with torch.no_grad():
        q = logpx.load(run_copy).encoder(x[:, None])
    with np.load(tmp_path / "latents.npz") as codes:
        assert np.array_equal(codes["index"], np.arange(25))
        assert codes["mean"] == pytest.approx(q.mean.numpy(), abs=1e-5)
        assert codes["scale"] == pytest.approx(q.stddev.numpy(), abs=1e-5)


def test_a_report_is_one_page_that_needs_no_other(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"Report: {run_copy / 'report.html'}" in called(capsys, "report", run_copy)
    page = (run_copy / "report.html").read_text()
    assert "<script" not in page
    assert 'src="http' not in page
    assert "data:image/png;base64," in page
    assert {path.suffix for path in (run_copy / "figures").iterdir()} == {".png"}


@pytest.mark.usefixtures("unpainted")
def test_a_report_can_be_written_before_an_evaluation(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("evaluation.json", "evaluation.npz"):
        (run_copy / name).unlink()
    called(capsys, "report", run_copy)
    assert f"logpx evaluate {run_copy}" in (run_copy / "report.html").read_text()


def test_the_known_data_are_listed_with_where_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = called(capsys, "data", "--data-root", tmp_path)
    for name in ("digits", "mnist", "fashion-mnist", "binarized-mnist", "cifar10", "svhn"):
        assert f"{name}\n" in text
    assert "8-bit, 1x28x28; train 50,000, valid 10,000, test 10,000" in text


def test_a_copy_of_data_is_what_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "own.npy", np.random.default_rng(0).integers(0, 256, (30, 6), dtype=np.uint8))
    copy, data = tmp_path / "copy", load_data(tmp_path / "own.npy")
    parts = [str(copy / f"{part}.npy") for part in ("train", "valid", "test")]
    assert called(capsys, "data", tmp_path / "own.npy", "--save", copy).splitlines() == [
        *parts,
        f"Next: logpx fit {copy}",
    ]
    assert load_data(copy).hash == data.hash
    # of a width that could be channels
    np.save(tmp_path / "narrow.npy", np.random.default_rng(0).integers(0, 256, (30, 8, 3), dtype=np.uint8))
    called(capsys, "data", tmp_path / "narrow.npy", "--save", tmp_path / "narrow")
    assert load_data(tmp_path / "narrow").event_shape == (1, 8, 3)
    code, err = refused(capsys, "data", "digits", "--save", str(tmp_path / "digits"))
    assert code == 1 and "expected 256 levels, which is what a file of bytes is taken to have, received 17" in err


def test_real_data_get_a_gaussian_and_the_whole_road(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "reals.npy", 3 + normal(200, 4).numpy())
    run = tmp_path / "run"
    called(capsys, "fit", tmp_path / "reals.npy", *TINY_WORDS, "--out", run)
    text = called(capsys, "evaluate", run, "--estimator", "importance", "--num-samples", "50")
    assert "bits/dim" in text
    assert "Not a log-probability" not in text
    record = Run.open(run).evaluation()
    assert record is not None
    assert record["data"]["kind"] == "real"
    for words in (["sample", run], ["reconstruct", run], ["encode", run, "-o", tmp_path / "z.npz"], ["report", run]):
        called(capsys, *words)
    with np.load(tmp_path / "z.npz") as codes:
        assert np.array_equal(codes["index"], np.arange(200))


def test_a_folder_of_images_is_fitted_when_binarized(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images(tmp_path / "pictures")
    run = tmp_path / "run"
    called(capsys, "fit", tmp_path / "pictures", "--binarization", "dynamic", *TINY_WORDS, "--out", run)
    assert "pictures, test, 3 data, binarization dynamic" in called(
        capsys, "evaluate", run, "--estimator", "importance", "--num-samples", "30"
    )


def test_grey_images_have_a_probability_of_their_levels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images(tmp_path / "pictures")
    called(capsys, "fit", tmp_path / "pictures", *TINY_WORDS, "--out", tmp_path / "run")
    text = called(capsys, "evaluate", tmp_path / "run", "--estimator", "importance", "--num-samples", "30")
    assert "pictures, test, 3 data, binarization none" in text
    assert "bits/dim" in text and "not a log-probability" not in text


def test_a_likelihood_that_is_not_for_the_data_is_refused_with_every_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images(tmp_path / "pictures")
    words = ["--likelihood", "bernoulli", "--out", tmp_path / "run"]
    code, err = refused(capsys, "fit", tmp_path / "pictures", *TINY_WORDS, *words)
    assert code == 1
    for cure in ("'bernoulli'", "8-bit", "discretized-logistic-mixture", "relaxed-bernoulli", "binarization dynamic"):
        assert cure in err
    assert not (tmp_path / "run").exists(), "nothing half-made"


@pytest.mark.usefixtures("unpainted")
def test_a_relaxed_likelihood_is_never_printed_as_log_p_x(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    words = ["--likelihood", "relaxed-bernoulli", "--binarization", "none"]
    called(capsys, "fit", "digits", *TINY_WORDS, *words, "--out", run)
    text = called(capsys, "evaluate", run, "--estimator", "importance", "--num-samples", "30") + called(
        capsys, "report", run
    )
    assert "ot a log-probability of the data" in text
    assert "relaxed score" in text
    assert "bits" not in text
    assert not any(line.startswith("log p(x)") for line in text.splitlines())


BOUNDS = ("--num-data", "3", "--num-chains", "2", "--num-temperatures", "3", "--proposal", "prior")


@pytest.mark.parametrize("is_evaluated", [False, True])
def test_bounds_of_a_relaxed_score_are_not_printed_as_log_p_x(
    is_evaluated: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = ["--likelihood", "relaxed-bernoulli", "--binarization", "none"]
    called(capsys, "fit", "digits", *TINY_WORDS, *words, "--out", run)
    if is_evaluated:
        called(capsys, "evaluate", run, "--estimator", "importance", "--num-samples", "3", "--limit", "4")
    text = called(capsys, "sandwich", run, *BOUNDS)
    assert text.startswith("relaxed score, not a log-probability of the data, nats on average over 3 simulated data")
    assert "log p(x)" not in text
    assert json.loads((run / "sandwich.json").read_text())["relaxed"]


def test_bounds_of_log_p_x_are_called_so(run_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert called(capsys, "sandwich", run_copy, *BOUNDS).startswith("log p(x), nats on average over 3 simulated data")
    assert json.loads((run_copy / "sandwich.json").read_text())["relaxed"] is None


def test_every_proposal_can_be_chosen_and_reported() -> None:
    assert list(get_args(PROPOSAL)) == list(PROPOSALS)
    assert set(PROPOSALS) <= set(METHODS)


@pytest.mark.parametrize(
    "words",
    [
        ["nope"],
        ["fit", "digits", "--nope", "1"],
        ["fit", "digits", "--epochs", "many"],
        ["fit", "digits", "--epochs", "2.5"],
        ["fit", "digits", "--device", "tpu"],
        ["fit", "digits", "--epo", "2"],
        ["evaluate"],
        ["evaluate", "run", "--split", "all"],
        ["evaluate", "run", "--estimator", "magic"],
        ["sample", "run", "-n", "many"],
        ["data", "digits"],
        ["data", "--save", "copy"],
        ["fit"],
        ["fit", "digits", "--recipe", "mnist", "--config", "config.yaml"],
        ["fit", "digits", "--resume", "run"],
        ["fit", "--resume", "run", "--latent-dim", "3"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, err = refused(capsys, *words)
    assert code == 2
    assert err.strip()


@pytest.mark.parametrize(
    "words, says",
    [
        (["fit", "digist"], "did you mean 'digits'"),
        (["fit", "digits", "--recipe", "digist"], "did you mean 'digits'"),
        (["fit", "digits", "--epochs", "0"], "epochs must be at least 1"),
        (["fit", "digits", "--activation", "sine"], "'sine'"),
        (["fit", "digits", "--num-mixtures", "3"], "num_mixtures does nothing with likelihood bernoulli"),
        (["fit", "digits", "--config", "absent.yaml"], "absent.yaml"),
        (["fit", "digits", "--out", "precious"], "precious exists and is no run folder"),
        (["fit", "digits", "--out", "RUN"], "RUN holds a run already"),
        (["fit", "--resume", "absent"], "absent is no run folder"),
        (["evaluate", "absent"], "absent is no run folder"),
        (["evaluate", "RUN", "--estimator", "importance", "--num-samples", "0"], "num_samples must be at least 1"),
        (["evaluate", "RUN", "--limit", "0"], "limit must be at least 1"),
        (["evaluate", "RUN", "--subset", "301"], "subset must be between 2 and all 300 data, but is 301"),
        (["evaluate", "RUN", "--subset", "9", "--limit", "9"], "limit 9 was given beside it: leave out one of the two"),
        (["compare", "RUN", "absent"], "absent is no run folder"),
        (["compare", "RUN", "RUN", "--confidence", "95"], "confidence must be between 0 and 1, but is 95.0"),
        (["compare", "RUN", "RUN", "-o", "x.npz"], "must end in .png, .pdf or .svg"),
        (["sample", "RUN", "-n", "0"], "num_samples must be at least 1"),
        (["sample", "RUN", "-n", "2", "-o", "x.bmp"], "must end in .png, .pdf, .svg or .npz"),
        (["reconstruct", "RUN", "-n", "0"], "at least 1"),
        (["encode", "RUN", "-o", "latents.csv"], "ends in .npz"),
        (["encode", "RUN", "other.npy"], "(1, 8, 8)"),
        (["report", "absent"], "absent is no run folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_error_is_exit_code_1_and_one_line(
    fitted: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("mine")
    np.save("other.npy", np.zeros((5, 3), dtype=np.uint8))
    run = contents(fitted)
    code, err = refused(capsys, *(str(fitted) if word == "RUN" else word for word in words))
    assert code == 1
    assert err.startswith("logpx: ")
    assert err.count("\n") == 1
    assert says.replace("RUN", str(fitted)) in err
    assert set(contents(tmp_path)) <= {"precious/thesis.tex", "other.npy"}, "nothing half-written"
    assert contents(fitted) == run


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(
    "words",
    [
        ["fit", "digits", *TINY_WORDS, "--overwrite", "--out"],
        ["evaluate", "--estimator", "importance", "--num-samples", "3"],
    ],
)
def test_a_device_that_is_not_there_is_an_error_in_one_line_that_costs_nothing(
    run_copy: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    before = contents(run_copy)
    code, err = refused(capsys, *words, run_copy, "--device", "cuda")
    assert (code, err.count("\n")) == (1, 1)
    assert "cuda" in err.lower()
    assert contents(run_copy) == before


def test_a_process_tells_an_error_in_one_line_and_its_traceback_when_asked(tmp_path: Path) -> None:
    words = ["fit", "digits", "--config", tmp_path / "nowhere.yaml"]
    done = run_command(*words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "Traceback" not in done.stderr
    debug = run_command(*words, "--debug")
    assert debug.returncode == 1
    assert "Traceback" in debug.stderr
    assert done.stderr.removeprefix("logpx: ") in debug.stderr


def test_a_defect_of_logpx_is_one_line_and_keeps_its_traceback_for_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("logpx.run.Run.open", fail)
    assert main(["report", "run"]) == 1
    assert capsys.readouterr().err == "logpx: division by zero (perhaps a defect of logpx: --debug shows where)\n"
    with pytest.raises(ZeroDivisionError):
        main(["report", "run", "--debug"])


def test_the_literal_commands_print_settings_without_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = called(capsys, "fit", "--print-config")
    assert "name: digits" in printed
    (tmp_path / "my.yaml").write_text(printed)
    assert called(capsys, "fit", "--config", tmp_path / "my.yaml", "--print-config") == printed


def test_a_loss_that_is_not_finite_ends_with_1_and_names_the_cure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = normal(40, 3).numpy()
    np.save(tmp_path / "wild.npy", values * 1e30)
    code, err = refused(capsys, "fit", tmp_path / "wild.npy", *TINY_WORDS, "--out", tmp_path / "run")
    assert code == 1
    assert err.count("\n") == 1
    for words in ("not finite in epoch 1, step 1", "--on-nonfinite skip", str(tmp_path / "run")):
        assert words in err


def test_a_fit_without_validation_data_says_nothing_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = called(capsys, "fit", "digits", *TINY_WORDS, "--validate-on", "none", "--out", tmp_path / "run")
    assert "nan" not in text
    assert "none" not in text


def test_the_bound_that_is_printed_is_that_of_the_last_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = called(capsys, "fit", "digits", *TINY_WORDS, "--out", tmp_path / "run")
    metrics = Run.open(tmp_path / "run").metrics()
    assert f"{metrics['train'][-1]:.2f} nats on train, {metrics['valid'][-1]:.2f} nats on valid" in text
    assert f"{TINY['epochs']} epochs" in text
    assert not math.isnan(metrics["valid"][-1])


def test_a_reader_that_has_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command("data"), stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_project_is_simulated_as_a_process(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = run_command("simulate", "--example", "--num-trials", "20000", "--html", page)
    assert (done.returncode, done.stderr) == (0, "")
    assert "P(completion >= 70 days) = 3." in done.stdout
    assert "1 → 2 → 4 → 10: 15 days" in done.stdout
    assert "P(T ≥ 70 days)" in page.read_text()


def test_proposals_are_compared_and_a_number_of_samples_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["simulate", "--example", "--num-trials", "1000", "--compare", "scale=4", "auto"]
    text = called(capsys, *words, "--num-samples", "3000", "--confidence", "0.999")
    assert "cost           3,000 trials" in text
    assert "99.9% interval" in text
    assert [line.split()[0] for line in text.splitlines()[-2:]] == ["scale=4", "auto"]


TASKS = "id,predecessors,duration\n1,,exponential(2)\n2,1,3\n"


def test_a_table_without_a_deadline_has_a_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tasks.csv").write_text(TASKS)
    text = called(capsys, "simulate", str(tmp_path / "tasks.csv"), "--num-trials", "10000")
    assert "project: 2 tasks" in text
    assert "P(completion" not in text
    assert "1 → 2: 5 days" in text


@pytest.mark.parametrize(
    "words, code, message",
    [
        ([], 2, "needs a project, either a file or --example"),
        (["--compare", "plan.csv"], 2, "put plan.csv in front of --compare"),
        (["--example", "--num-samples", "1"], 2, "--num-samples must be at least 2, but is 1"),
        (["--example", "--html", "folder"], 2, "--html must name a file that ends in .html, but is folder"),
        (["--example", "--confidence", "2"], 2, "--confidence must be between 0 and 1, but is 2.0"),
        (["--example", "--relative-error", "0"], 2, "--relative-error must be positive, but is 0.0"),
        (["--example", "--deadline", "-5"], 2, "--deadline must be positive and finite, but is -5.0"),
        (["--example", "--proposal", "foo"], 2, "The proposal must be plain, auto"),
        (["--example", "--compare", "scale=4", "foo"], 2, "The proposal must be plain, auto"),
        (["nowhere.yaml"], 1, "there is none: correct the path"),
    ],
)
def test_wrong_words_of_simulate_are_refused_before_any_work(
    words: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    got, text = refused(capsys, "simulate", *words)
    assert (got, text.count("\n")) == (code, 1)
    assert message in text
