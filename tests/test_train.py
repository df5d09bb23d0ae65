"""A fit is a function of settings and data: however it is interrupted, what it reaches is the same."""

from __future__ import annotations

import dataclasses
import itertools
import math
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    POISON,
    TINY,
    Toy,
    assert_same_result,
    command,
    contents,
    data_set,
    environment,
    metrics,
    normal,
    same,
    signal_at,
    toy_data,
    weights,
)
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

import logpx
from logpx.checkpoint import WeightAverage
from logpx.cli import main
from logpx.interrupt import interruptible

# Everything that has a state: averages, moments, dropout, fresh binary draws, the centre, warm-ups and a schedule.
STATEFUL: dict[str, Any] = {
    **TINY,
    "encoder_dropout": 0.1,
    "center": True,
    "ema": 0.9,
    "schedule": "cosine",
    "warmup_steps": 20,
    "optimizer": "adamw",
    "weight_decay": 0.1,
    "beta_warmup_epochs": 2.0,
    "batch_size": 100,
}
STEPS = 12  # per epoch of 1,197 digits in batches of 100


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return logpx.fit("digits", out=tmp_path_factory.mktemp("fit") / "run", **STATEFUL).path


def column(run: Path, name: str) -> list[float]:
    return [float(row[name] or "nan") for row in metrics(run)]


def test_a_fit_depends_on_settings_and_data_alone(uninterrupted: Path, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(17)
        again = logpx.fit("digits", out=tmp_path / "again", **STATEFUL).path
    assert_same_result(again, uninterrupted)


def test_another_seed_gives_another_fit(uninterrupted: Path, tmp_path: Path) -> None:
    other = logpx.fit("digits", out=tmp_path / "other", seed=1, **STATEFUL).path
    assert not same(weights(other), weights(uninterrupted))


@pytest.mark.parametrize(
    "number, steps",
    [
        (signal.SIGINT, [1]),
        (signal.SIGINT, [STEPS + 5]),
        (signal.SIGTERM, [STEPS + 5]),
        (signal.SIGINT, [2 * STEPS]),
        (signal.SIGINT, [3 * STEPS]),
        (signal.SIGINT, [5, 5]),
        (signal.SIGINT, [STEPS + 5, STEPS + 5]),
    ],
    ids=["first step", "mid-epoch", "SIGTERM", "end of epoch", "last step", "twice in epoch 1", "twice later"],
)
def test_a_fit_that_is_stopped_and_resumed_reaches_the_same_bits(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, steps: list[int]
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        signal_at(patch, *steps, number=number)
        with pytest.raises(KeyboardInterrupt) as caught:
            logpx.fit("digits", out=run, **STATEFUL)
    if len(steps) == 1:
        assert f"logpx fit --resume {run}" in str(caught.value)
        assert (run / "last.safetensors").exists()
    logpx.resume(run)
    assert_same_result(run, uninterrupted)


def test_a_fit_that_is_stopped_in_every_epoch_reaches_the_same_bits(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    signal_at(monkeypatch, 3, 4, STEPS + 1, 2 * STEPS + 7)
    with pytest.raises(KeyboardInterrupt):
        logpx.fit("digits", out=run, **STATEFUL)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            logpx.resume(run)
    logpx.resume(run)
    assert_same_result(run, uninterrupted)


@pytest.mark.parametrize("lost", [["training.pt"], ["training.pt", "best.safetensors", "last.safetensors"]])
def test_a_fit_that_was_killed_before_its_first_save_begins_anew(
    uninterrupted: Path, tmp_path: Path, lost: list[str]
) -> None:
    run = logpx.fit("digits", out=tmp_path / "run", **STATEFUL).path
    for name in lost:
        (run / name).unlink()
    logpx.resume(run)
    assert_same_result(run, uninterrupted)


def test_resuming_a_finished_run_changes_nothing(uninterrupted: Path) -> None:
    before = contents(uninterrupted)
    run = logpx.resume(uninterrupted)
    assert contents(uninterrupted) == before
    assert same(run.model.state_dict(), weights(uninterrupted))  # type: ignore[union-attr]


def test_resuming_a_run_that_patience_ended_changes_nothing(tmp_path: Path) -> None:
    run = logpx.fit(toy_data(), model=Toy(), out=tmp_path / "run", epochs=9, learning_rate=0.0, patience=2)
    before = contents(run.path)
    resume_own(run, Toy())
    assert contents(run.path) == before


def resume_own(run: Any, model: nn.Module, **options: Any) -> None:
    """Resumes a run on data in memory, which have no name to be found by."""
    logpx.resume(run.path, model=model, data=run.data, **options)


def test_a_resumed_fit_can_be_prolonged(tmp_path: Path) -> None:
    constant = {**TINY, "schedule": "constant"}
    long = logpx.fit("digits", out=tmp_path / "long", **constant).path
    short = logpx.fit("digits", out=tmp_path / "short", **{**constant, "epochs": 1}).path
    logpx.resume(short, epochs=3)
    assert_same_result(short, long)
    assert (short / "config.yaml").read_text() == (long / "config.yaml").read_text()


SLOW = {**STATEFUL, "epochs": 8, "batch_size": 8}
SLOW_WORDS = [
    *("digits", "--hidden", "16", "--latent-dim", "2", "--epochs", "8", "--encoder-dropout", "0.1"),
    *("--center", "true", "--ema", "0.9", "--schedule", "cosine", "--warmup-steps", "20", "--optimizer", "adamw"),
    *("--weight-decay", "0.1", "--beta-warmup-epochs", "2", "--batch-size", "8"),
]


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return logpx.fit("digits", out=tmp_path_factory.mktemp("slow") / "run", **SLOW).path


def start_and_signal(run: Path, number: int) -> tuple[int, str]:
    """Starts a fit as a process, sends it a signal once it has finished 2 epochs, and returns code and errors."""
    words = command("fit", *SLOW_WORDS, "--out", run)
    with subprocess.Popen(
        words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        stop = time.monotonic() + 60
        while not ((run / "metrics.csv").exists() and len(metrics(run)) >= 2):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < stop, "no second epoch within a minute"
            time.sleep(0.005)
        process.send_signal(number)
        err = process.communicate(timeout=60)[1]
    assert 2 <= len(metrics(run)) < SLOW["epochs"], "the signal must come in between"
    return process.returncode, err


def test_a_killed_process_is_resumed_to_the_same_bits(
    slow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    code, _ = start_and_signal(run, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert main(["fit", "--resume", str(run)]) == 0
    assert_same_result(run, slow)
    assert f"Next: logpx evaluate {run}" in capsys.readouterr().out


def test_ctrl_c_ends_a_process_with_130_and_the_way_to_resume(slow: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, err = start_and_signal(run, signal.SIGINT)
    assert code == 130
    assert err.splitlines() == [f"Interrupted and saved; continue with: logpx fit --resume {run}"]
    assert main(["fit", "--resume", str(run)]) == 0
    assert_same_result(run, slow)


def test_the_first_interrupt_is_a_wish_and_the_second_a_command() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with interruptible() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGTERM)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_handlers_come_back_when_the_work_fails() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(RuntimeError), interruptible():
        raise RuntimeError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_fit_in_another_thread_leaves_signals_alone(tmp_path: Path) -> None:
    """Python lets only the main thread set handlers."""
    done: list[Path] = []
    work = lambda: done.append(logpx.fit(toy_data(), model=Toy(), out=tmp_path / "run", epochs=1).path)  # noqa: E731
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert done == [tmp_path / "run"]


def poisoned(part: str = "train") -> Any:
    values = {name: value.clone() for name, value in toy_data().parts.items()}
    values[part][7, 1] = POISON
    return data_set(**values)


def test_a_loss_that_is_not_finite_stops_the_fit_with_the_last_good_weights(tmp_path: Path) -> None:
    model, run, data = Toy(), tmp_path / "run", poisoned()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(logpx.LogpxError, match=r"nan nats.*in epoch 1, step (\d+), on\s+training data") as caught:
        logpx.fit(data, model=model, out=run, epochs=2, batch_size=4, seed=3)
    step = int(str(caught.value).split("step ")[1].split(",")[0])
    named = str(caught.value).split("training data ")[1].split(":")[0].split(", ")
    assert "7" in named
    assert len(named) == 4
    kept = weights(run, "last")
    assert all(torch.isfinite(value).all() for value in kept.values())
    assert step > 1 and not same(kept, start), "steps before the bad one must be kept"
    assert same(logpx.load(run, model=Toy(), weights="last").state_dict(), kept)  # type: ignore[attr-defined]


def test_batches_that_are_not_finite_can_be_skipped_and_are_counted(tmp_path: Path) -> None:
    run = logpx.fit(
        poisoned(), model=Toy(), out=tmp_path / "run", epochs=3, batch_size=4, on_nonfinite="skip", ema=0.5
    ).path
    assert column(run, "skipped") == [1, 2, 3]
    assert all(math.isfinite(value) for value in column(run, "train") + column(run, "valid"))
    assert all(torch.isfinite(value).all() for name in ("best", "last") for value in weights(run, name).values())


def test_a_skipped_batch_leaves_the_weights_as_they_are(tmp_path: Path) -> None:
    model = Toy()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    run = logpx.fit(poisoned(), model=model, out=tmp_path / "run", epochs=2, batch_size=40, on_nonfinite="skip").path
    assert same(weights(run, "last"), start)
    assert [row["train"] for row in metrics(run)] == ["", ""], "no good batch, no bound"


class Overflowing(Toy):
    """A model whose bound is finite and whose gradient is not: the slope of the root at 0 is infinite."""

    def decoder(self, z: Tensor) -> Distribution:
        return super().decoder(z + (0 * self.encode.weight).abs().sum().sqrt())


def test_a_gradient_that_is_not_finite_stops_the_fit_as_well(tmp_path: Path) -> None:
    model = Overflowing()
    with pytest.raises(logpx.LogpxError, match="or its gradient is not finite in epoch 1, step 1"):
        logpx.fit(toy_data(), model=model, out=tmp_path / "run", epochs=1)
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run", "last").values())


class FailingLater(Toy):
    """A model whose validation bound is NaN from a certain epoch on."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.validations, self.epoch = itertools.count(1), epoch

    def encoder(self, x: Tensor) -> Distribution:
        fails = not self.training and len(x) == 12 and next(self.validations) >= self.epoch
        return super().encoder(torch.full_like(x, POISON) if fails else x)


def test_a_validation_bound_that_is_not_finite_never_replaces_the_best(tmp_path: Path) -> None:
    run = logpx.fit(toy_data(), model=FailingLater(3), out=tmp_path / "run", epochs=4).path
    two = logpx.fit(toy_data(), model=Toy(), out=tmp_path / "two", epochs=2).path
    assert [math.isnan(value) for value in column(run, "valid")] == [False, False, True, True]
    assert same(weights(run), weights(two))


@pytest.mark.parametrize("patience", [1, 2])
def test_patience_stops_after_so_many_epochs_without_a_better_bound(tmp_path: Path, patience: int) -> None:
    """At learning rate 0 no epoch is better than the first."""
    options = {"epochs": 9, "learning_rate": 0.0, "patience": patience}
    run = logpx.fit(toy_data(), model=Toy(), out=tmp_path / "run", **options)
    assert column(run.path, "epoch") == list(range(1, 2 + patience))


def test_patience_outlasts_a_fit_that_improves(tmp_path: Path) -> None:
    options = {"epochs": 6, "learning_rate": 1e-3, "patience": 1}
    run = logpx.fit(toy_data(), model=Toy(), out=tmp_path / "run", **options)
    assert len(metrics(run.path)) == 6


@pytest.mark.parametrize(
    "options, words",
    [
        ({"patience": 2, "validate_on": "test"}, "patience needs validation data"),
        ({"patience": 2, "num_valid": 0}, "patience needs validation data"),
        ({"bound": "iwae", "gradient": "stl"}, "stl"),
        ({"bound": "elbo", "gradient": "dreg"}, "gradient"),
        ({"bound": "iwae", "free_bits": 0.1}, "free_bits"),
        ({"gradient": "stl", "free_bits": 0.1}, "free_bits"),
        ({"prior": "maf", "free_bits": 0.1}, "free_bits"),
        ({"ema": 1.0}, "ema"),
        ({"encoder_dropout": 1.0}, "dropout"),
        ({"activation": "sine"}, "activation"),
        ({"likelihood": "gaussian"}, "likelihood 'gaussian'"),
        ({"network": "residual", "hidden": (8, 4)}, "equal widths"),
        ({"channels": (8, 8)}, "channels does nothing with network mlp"),
        ({"model": Toy(), "hidden": (8, 8)}, "hidden does nothing for a model of your own"),
    ],
    ids=str,
)
def test_a_fit_that_cannot_be_is_refused_and_an_earlier_run_is_kept(
    run_copy: Path, options: dict[str, Any], words: str
) -> None:
    before = contents(run_copy)
    with pytest.raises(ValueError, match=words):
        logpx.fit("digits", out=run_copy, overwrite=True, **{**TINY, **options})
    assert contents(run_copy) == before


def test_a_fit_without_parameters_is_refused(tmp_path: Path) -> None:
    exact = logpx.FactorAnalysis(torch.ones(3, 2), torch.zeros(3), torch.ones(3))
    with pytest.raises(ValueError, match="needs parameters, but FactorAnalysis has none"):
        logpx.fit(toy_data(), model=exact, out=tmp_path / "run", epochs=1)


@pytest.mark.parametrize("model", [object(), nn.Linear(2, 2)], ids=["object", "module"])
def test_a_fit_needs_a_module_with_the_three_methods(tmp_path: Path, model: Any) -> None:
    with pytest.raises(TypeError, match=r"torch\.nn\.Module|prior and encoder and decoder"):
        logpx.fit(toy_data(), model=model, out=tmp_path / "run", epochs=1)


def test_the_average_follows_its_recursion() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    average, expected = WeightAverage(model, 0.5), 2.0
    for t, value in enumerate([3.0, -1.0, 4.0, 4.0, 1.0, 0.0, 2.0, 8.0, 9.0], start=1):
        nn.init.constant_(model.weight, value)
        average.update()
        decay = min(0.5, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * value
        assert average.weights()["weight"].item() == pytest.approx(expected, rel=1e-6)
    with average.in_place():
        assert model.weight.item() == pytest.approx(expected, rel=1e-6)
    assert model.weight.item() == 9.0


def test_the_average_is_what_is_kept_and_does_not_disturb_the_fit(tmp_path: Path) -> None:
    plain = logpx.fit("digits", out=tmp_path / "plain", **{**TINY, "ema": 0.0}).path
    kept = logpx.fit("digits", out=tmp_path / "kept", **{**TINY, "ema": 0.9}).path
    state = torch.load(kept / "training.pt", weights_only=True)
    assert same(dict(state["model"]), weights(plain, "last"))
    assert not same(weights(kept, "last"), weights(plain, "last"))
    assert column(kept, "train") == column(plain, "train")
    assert column(kept, "valid") != column(plain, "valid")


def overfitting() -> Any:
    """Training data far from the others, whose bound a long fit therefore makes worse."""
    others = 0.1 * normal(12, 3, seed=4)
    return data_set(normal(40, 3, seed=3) + 5, others, others)


def test_a_resumed_fit_remembers_its_best_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"epochs": 5, "learning_rate": 0.2}  # of one step each
    whole = logpx.fit(overfitting(), model=Toy(), out=tmp_path / "whole", **options)
    bounds = column(whole.path, "valid")
    stop = bounds.index(max(bounds)) + 2
    assert stop < 5 and bounds[stop] > -math.inf
    with monkeypatch.context() as patch:
        signal_at(patch, stop)
        with pytest.raises(KeyboardInterrupt):
            logpx.fit(overfitting(), model=Toy(), out=tmp_path / "run", **options)
    resume_own(dataclasses.replace(whole, path=tmp_path / "run"), Toy())
    assert_same_result(tmp_path / "run", whole.path)


def test_the_best_weights_are_chosen_on_valid_and_never_on_test(tmp_path: Path) -> None:
    data = overfitting()
    options = {"epochs": 4, "learning_rate": 0.2}
    valid = logpx.fit(data, model=Toy(), out=tmp_path / "valid", validate_on="valid", **options).path
    test = logpx.fit(data, model=Toy(), out=tmp_path / "test", validate_on="test", **options).path
    none = logpx.fit(data, model=Toy(), out=tmp_path / "none", validate_on="none", **options).path
    assert max(column(valid, "valid")) > column(valid, "valid")[-1]
    assert not same(weights(valid), weights(valid, "last"))
    for run in (test, none):
        assert same(weights(run), weights(run, "last"))
        assert same(weights(run), weights(valid, "last"))
    assert np.isnan(column(none, "valid")).all()
    assert column(test, "valid") == pytest.approx(column(valid, "valid"), rel=1e-6)


@pytest.mark.parametrize("options", [{}, {"beta": 4.0}, {"beta_warmup_epochs": 9.0}, {"free_bits": 2.0}], ids=str)
def test_the_validation_bound_is_the_plain_one_whatever_is_trained_by(tmp_path: Path, options: dict[str, Any]) -> None:
    """At learning rate 0 the weights stay, so that an evaluation is of the weights that were validated."""
    still = {"epochs": 1, "learning_rate": 0.0, "num_samples": 2000}
    run = logpx.fit(toy_data(), model=Toy(), out=tmp_path / "run", **still, **options)
    elbo = run.evaluate("valid", estimator="importance", num_samples=2000).record["elbo"]
    # the Monte Carlo error of either is below 3 nats / sqrt(12 * 2000) = 0.02: five of both, false alarm below 1e-6
    assert column(run.path, "valid") == pytest.approx([elbo], abs=0.15)


def test_the_learning_rate_follows_warm_up_and_schedule(tmp_path: Path) -> None:
    epochs, peak, warm = 5, 2e-3, 15  # 10 steps per epoch: 40 data in batches of 4
    options = {"epochs": epochs, "batch_size": 4, "learning_rate": peak, "warmup_steps": warm}
    last = np.arange(1, epochs + 1) * 10 - 1  # the last step of each epoch, from 0
    rise = np.minimum((last + 1) / warm, 1)
    expected = {"constant": peak * rise, "cosine": peak * rise * (1 + np.cos(np.pi * last / (10 * epochs))) / 2}
    for schedule, rates in expected.items():
        run = logpx.fit(toy_data(), model=Toy(), out=tmp_path / schedule, schedule=schedule, **options).path
        assert column(run, "learning_rate") == pytest.approx(rates.tolist(), rel=1e-12)
        assert column(run, "step") == (last + 1).tolist()


def test_beta_rises_linearly_to_its_value(tmp_path: Path) -> None:
    options = {"epochs": 5, "batch_size": 4, "beta": 0.5, "beta_warmup_epochs": 3.0}
    run = logpx.fit(toy_data(), model=Toy(), out=tmp_path / "run", **options).path
    # after the last step of epoch e, 9/10 of it are behind: beta (e - 1/10) / 3
    assert column(run, "beta")[:3] == pytest.approx([0.5 * (e - 0.1) / 3 for e in (1, 2, 3)], abs=1e-3)
    assert column(run, "beta")[3:] == [0.5, 0.5]


@pytest.mark.parametrize(
    "options",
    [
        {"free_bits": 0.5},
        {"bound": "iwae", "num_samples": 3},
        {"bound": "iwae", "num_samples": 3, "gradient": "dreg"},
        {"gradient": "stl"},
        {"num_samples": 2, "beta": 2.0},
        {"prior": "maf"},
        {"network": "residual", "hidden": (16, 16), "activation": "silu"},
        {"clip_norm": 1.0},
        {"likelihood": "relaxed-bernoulli", "binarization": "none"},
        {"likelihood": "gaussian", "binarization": "none"},
    ],
    ids=str,
)
def test_whatever_is_offered_trains(tmp_path: Path, options: dict[str, Any]) -> None:
    base = {**TINY, "epochs": 4, "beta_warmup_epochs": 0.0, "learning_rate": 0.03, "center": False, "ema": 0.0}
    run = logpx.fit("digits", out=tmp_path / "run", **{**base, **options}).path
    train_bounds, valid_bounds = column(run, "train"), column(run, "valid")
    assert all(math.isfinite(value) for value in train_bounds + valid_bounds)
    assert valid_bounds[-1] > valid_bounds[0] + 0.3


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    """With a norm of next to nothing Adam's epsilon rules, and hardly anything moves."""
    start = Toy().state_dict()
    run = logpx.fit(toy_data(), model=Toy(), out=tmp_path / "run", epochs=1, clip_norm=1e-12).path
    free = logpx.fit(toy_data(), model=Toy(), out=tmp_path / "free", epochs=1).path
    moved = [max((w[n] - start[n]).abs().max().item() for n in start) for w in (weights(run), weights(free))]
    assert moved[0] < 0.01 * moved[1]


def test_tensorboard_gets_an_event_file(tmp_path: Path) -> None:
    run = logpx.fit(toy_data(), model=Toy(), out=tmp_path / "run", epochs=2, tensorboard=True).path
    events = list(run.rglob("events.out.tfevents.*"))
    assert len(events) == 1
    assert b"valid" in events[0].read_bytes()


def test_a_fitted_run_has_its_model_and_data_at_hand(tmp_path: Path) -> None:
    model, data = Toy(), toy_data()
    run = logpx.fit(data, model=model, out=tmp_path / "run", epochs=2)
    assert run.model is model
    assert run.load_data() is data
    assert not model.training
    assert same(model.state_dict(), weights(run.path))
    assert run.evaluate(estimator="importance", num_samples=50).record["log_evidence"]["mean"] < 0


def test_data_are_counted_once_per_epoch_whatever_the_batch_size(tmp_path: Path) -> None:
    """One datum of about -180 nats weighs the same in a batch of 30 as in one of 10."""
    data, bounds = toy_data(), []
    data.parts["train"][0] = 6.0
    for size in (40, 30):
        options = {"epochs": 1, "learning_rate": 0.0, "num_samples": 2000, "batch_size": size}
        bounds.append(column(logpx.fit(data, model=Toy(), out=tmp_path / str(size), **options).path, "train")[0])
    # the Monte Carlo error of either is about 0.02 nats, ten times less; a wrong weight would cost 1.5 nats or more
    assert bounds[0] == pytest.approx(bounds[1], abs=0.2)


def test_settings_do_not_hide_the_data_that_were_asked_for(tmp_path: Path) -> None:
    run = logpx.fit(
        toy_data(), settings=logpx.Settings().override(epochs=1, latent_dim=2, hidden=(4,)), out=tmp_path / "a"
    )
    assert run.info["data"]["name"] == "own" == run.settings.data.name
    with pytest.raises(ValueError, match="settings or a recipe, not both"):
        logpx.fit("digits", settings=logpx.Settings(), recipe="digits", out=tmp_path / "b")


def test_fits_with_other_seeds_are_judged_on_the_same_test_data(tmp_path: Path) -> None:
    splits = [logpx.fit("digits", out=tmp_path / str(s), seed=s, **TINY).load_split("test").values for s in (0, 1)]
    assert torch.equal(*splits)
    other = logpx.fit("digits", out=tmp_path / "2", data_seed=1, **TINY).load_split("test").values
    assert not torch.equal(other, splits[0])


def test_averaged_weights_that_are_tied_stay_tied() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    model["b"].weight = model["a"].weight
    average = WeightAverage(model, 0.9)
    with torch.no_grad():
        model["a"].weight.add_(1.0)
    average.update()
    kept = average.weights()
    assert torch.equal(kept["a.weight"], kept["b.weight"])
    assert not torch.equal(kept["a.weight"], model["a"].weight)


class Validating(Toy):
    """The same with distributions that check their parameters, as torch's do by default."""

    def encoder(self, x: Tensor) -> Distribution:
        q = super().encoder(x)
        return Independent(Normal(q.base_dist.loc, q.base_dist.scale, validate_args=True), 1)  # type: ignore[attr-defined]


def test_a_model_whose_distributions_refuse_nan_is_stopped_or_skips_alike(tmp_path: Path) -> None:
    values = normal(40, 3)
    values[7] = POISON
    data = data_set(values, normal(8, 3), normal(8, 3))
    options = {"epochs": 2, "batch_size": 8}
    with pytest.raises(logpx.LogpxError, match=r"not finite in epoch 1, step \d+, on training data .*7"):
        logpx.fit(data, model=Validating(), out=tmp_path / "stop", **options)
    assert all(torch.isfinite(w).all() for w in weights(tmp_path / "stop", "last").values())
    run = logpx.fit(data, model=Validating(), out=tmp_path / "skip", on_nonfinite="skip", **options)
    assert run.metrics()["skipped"].tolist() == [1, 2]


def test_a_crash_between_the_last_weights_and_the_state_is_made_good(tmp_path: Path, monkeypatch: Any) -> None:
    whole = logpx.fit("digits", out=tmp_path / "whole", **TINY).path
    broken, write = tmp_path / "broken", logpx.checkpoint.write_atomically

    def crash(path: Path, writer: Any) -> None:
        if path.name == "training.pt" and path.exists():
            raise OSError("power cut")
        write(path, writer)

    with monkeypatch.context() as patch:
        patch.setattr("logpx.checkpoint.write_atomically", crash)
        with pytest.raises(OSError, match="power cut"):
            logpx.fit("digits", out=broken, **TINY)
    logpx.resume(broken)
    assert_same_result(broken, whole)


def test_an_evaluation_does_not_outlive_its_weights(tmp_path: Path) -> None:
    run = logpx.fit("digits", out=tmp_path / "run", **{**TINY, "epochs": 1})
    run.evaluate(estimator="importance", num_samples=30, limit=5)
    logpx.resume(run.path)
    assert run.evaluation() is not None
    logpx.resume(run.path, epochs=2)
    assert run.evaluation() is None and run.scores() is None


@pytest.mark.usefixtures("unpainted")
def test_replacing_a_run_leaves_nothing_of_it(tmp_path: Path) -> None:
    run = logpx.fit("digits", out=tmp_path / "run", **TINY)
    logpx.report(run)
    (run.path / ".training.1.tmp.pt").write_text("left by a kill")
    (run.path / "notes.txt").write_text("mine")
    before = set(contents(run.path))
    logpx.fit("digits", out=run.path, overwrite=True, **TINY)
    gone = before - set(contents(run.path))
    assert ".training.1.tmp.pt" in gone and any(name.startswith("figures") for name in gone)
    assert "notes.txt" not in gone


def test_a_validation_datum_that_is_refused_makes_the_validation_bound_nan(tmp_path: Path) -> None:
    valid = normal(8, 3)
    valid[2] = POISON
    run = logpx.fit(data_set(normal(40, 3), valid, valid), model=Validating(), out=tmp_path / "run", epochs=2)
    assert np.isnan(run.metrics()["valid"]).all() and np.isfinite(run.metrics()["train"]).all()


def test_a_path_is_a_path_also_where_a_data_set_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "digits").mkdir()
    np.save(tmp_path / "digits" / "x.npy", normal(40, 3).numpy())
    monkeypatch.chdir(tmp_path)
    run = logpx.fit(Path("digits/x.npy"), out="run", epochs=1, hidden=(4,), latent_dim=2)
    assert run.settings.data.name == str(tmp_path / "digits" / "x.npy")
    with pytest.raises(logpx.LogpxError):  # the folder holds no images; the set of the same name is not meant
        logpx.fit(Path("digits"), out="other")
