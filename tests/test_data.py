"""Data sets in memory: what a model sees of them, epoch by epoch, and their hash."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from logpx.data import DataSet, Split, load_data
from logpx.data.binarize import draw, threshold
from logpx.utils import generator


def greys(n: int, *, levels: int = 256, event_shape: tuple[int, ...] = (1, 3, 2), seed: int = 0) -> Tensor:
    rng = generator(seed, "greys")
    return torch.randint(0, levels, (n, *event_shape), generator=rng, dtype=torch.int64).to(torch.uint8)


def data_set(**changes: Any) -> DataSet:
    parts = {"train": greys(12), "valid": greys(5, seed=1), "test": greys(7, seed=2)}
    fields = {"name": "greys", "kind": "8-bit", "levels": 256, "event_shape": (1, 3, 2), "source": "here"}
    return DataSet(**{**fields, "parts": parts, **changes})


def real_set(values: Tensor) -> DataSet:
    parts = {"train": values, "valid": values[:0], "test": values}
    return data_set(kind="real", levels=None, event_shape=tuple(values.shape[1:]), parts=parts)


def test_batch_scales_levels_to_the_unit_interval() -> None:
    data = data_set()
    batch = data.split("test").batch(torch.tensor([6, 0]))
    assert torch.equal(batch.x, data.parts["test"][[6, 0]].float() / 255)
    assert batch.x.dtype == torch.float32
    assert batch.index.tolist() == [6, 0]
    assert batch.context is None
    assert batch.mask is None


def test_batch_leaves_real_values_and_scales_digits_by_their_16_steps() -> None:
    values = torch.randn(4, 3, generator=generator(0, "real"))
    assert torch.equal(real_set(values).split("train").batch(torch.arange(4)).x, values)
    assert load_data("digits").split("train").batch(torch.arange(1197)).x.max() == 1


@given(size=st.integers(1, 20))
def test_batches_cover_the_split_in_order(size: int) -> None:
    split = data_set().split("train")
    batches = list(split.batches(size))
    assert torch.equal(torch.cat([batch.index for batch in batches]), torch.arange(12))
    assert torch.equal(torch.cat([batch.x for batch in batches]), split.values / 255)
    assert len(batches) == math.ceil(12 / size)


def test_batches_follow_a_given_order() -> None:
    order = torch.tensor([3, 3, 11, 0])
    batches = list(data_set().split("train").batches(3, order=order))
    assert [batch.index.tolist() for batch in batches] == [[3, 3, 11], [0]]


def test_an_empty_valid_part_gives_no_batch() -> None:
    parts = {"train": greys(3), "valid": greys(0), "test": greys(1)}
    split = data_set(parts=parts).split("valid", "dynamic")
    assert len(split) == 0
    assert list(split.batches(2)) == []


def test_moving_keeps_values_and_later_draws() -> None:
    split = data_set().split("train", "dynamic")
    assert torch.equal(split.to("cpu").epoch(3).values, split.epoch(3).values)
    assert split.to("meta").epoch(3).values.device.type == "meta"


def test_threshold_cuts_at_half_of_the_range() -> None:
    levels = torch.tensor([0, 127, 128, 255], dtype=torch.uint8).reshape(1, 4)
    split = data_set(event_shape=(4,), parts=dict.fromkeys(("train", "valid", "test"), levels)).split(
        "test", "threshold"
    )
    assert split.values.tolist() == [[0, 0, 1, 1]]
    assert (split.kind, split.levels) == ("binary", 2)
    assert threshold(torch.tensor([8, 9], dtype=torch.uint8), 17).tolist() == [0, 1]
    probabilities = torch.tensor([[0.0, 0.49, 0.5, 1.0]])
    assert real_set(probabilities).split("test", "threshold").values.tolist() == [[0, 0, 1, 1]]


def test_dynamic_draws_are_fresh_in_every_epoch_of_train_only() -> None:
    data = data_set()
    train, valid = data.split("train", "dynamic"), data.split("valid", "dynamic")
    assert not torch.equal(train.epoch(0).values, train.epoch(1).values)
    assert torch.equal(train.epoch(1).values, data.split("train", "dynamic").epoch(5).epoch(1).values)
    assert torch.equal(train.values, train.epoch(0).values)
    assert torch.equal(valid.epoch(0).values, valid.epoch(1).values)
    assert torch.equal(valid.values, data.split("valid", "static").values)


def test_static_draws_are_fixed_by_seed_and_part() -> None:
    same = data_set(parts=dict.fromkeys(("train", "valid", "test"), greys(50)))
    train = same.split("train", "static")
    assert train.epoch(1) is train
    assert torch.equal(train.values, same.split("train", "static").values)
    assert not torch.equal(train.values, same.split("test", "static").values)
    assert not torch.equal(train.values, same.split("train", "static", seed=1).values)


@pytest.mark.parametrize("binarization", ["none", "threshold", "static", "dynamic"])
def test_the_first_data_are_those_of_the_full_split(binarization: Any) -> None:
    split = data_set().split("train", binarization)
    for epoch in (0, 4):
        assert torch.equal(split.take(5).epoch(epoch).values, split.epoch(epoch).values[:5])
    assert len(split.take(99)) == 12


def test_a_draw_in_several_blocks_does_not_depend_on_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("logpx.data.binarize._BLOCK_VALUES", 24)
    values = greys(11)
    full = draw(values, 256, generator(0))
    for n in (1, 4, 9):
        assert torch.equal(draw(values[:n], 256, generator(0)), full[:n])
    assert not torch.equal(full[:4], draw(values[4:8], 256, generator(0)))


@pytest.mark.parametrize("levels", [17, 256])
def test_the_mean_of_dynamic_draws_is_the_grey_level(levels: int) -> None:
    """A z-test per level at 5 standard errors: false alarm about 1 in 5,000; the seed is fixed."""
    values = torch.arange(levels, dtype=torch.uint8).reshape(levels, 1).expand(levels, 40).contiguous()
    data = data_set(levels=levels, event_shape=(40,), parts=dict.fromkeys(("train", "valid", "test"), values))
    split, epochs = data.split("train", "dynamic"), 250
    ones = sum(split.epoch(epoch).values.double().sum(1) for epoch in range(epochs))
    probability = torch.arange(levels, dtype=torch.float64) / (levels - 1)
    n = 40 * epochs
    error = (probability * (1 - probability) / n).sqrt()
    assert torch.all((torch.as_tensor(ones) / n - probability).abs() <= 5 * error)


def test_real_probabilities_are_drawn_as_they_are() -> None:
    """A z-test at 5 standard errors: false alarm 6 in 10 million; the seed is fixed."""
    values = real_set(torch.full((10_000, 1), 0.3)).split("train", "static").values
    assert abs(values.double().mean().item() - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 10_000)


def test_the_hash_is_that_of_the_content() -> None:
    data = data_set()
    joined = torch.cat([data.parts["train"], data.parts["valid"]])
    moved = {"train": joined[:3], "valid": joined[3:], "test": data.parts["test"]}
    assert data.hash.startswith("sha256:")
    assert len(data.hash) == len("sha256:") + 16
    assert data_set(name="other", source="there").hash == data.hash
    assert data_set(parts=moved).hash == data.hash
    assert data_set(parts={**moved, "valid": joined[:0], "train": joined}).hash == data.hash


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_the_hash_changes_with_one_pixel(part: str) -> None:
    data = data_set()
    changed = data.parts[part].clone()
    changed[-1, 0, 2, 1] ^= 1
    assert data_set(parts={**data.parts, part: changed}).hash != data.hash


def test_the_hash_changes_with_shape_and_order_of_parts() -> None:
    data = data_set()
    tall = {name: values.reshape(-1, 1, 2, 3) for name, values in data.parts.items()}
    longer = {**data.parts, "test": torch.cat([data.parts["valid"][4:], data.parts["test"]])}
    shorter = {**longer, "valid": data.parts["valid"][:4]}
    assert data_set(parts=tall, event_shape=(1, 2, 3)).hash != data.hash
    assert data_set(parts=shorter).hash != data.hash


def _infinite() -> Split:
    values = torch.zeros(3, 2)
    values[2, 1] = math.inf
    return real_set(values).split("train")


def _with_level(level: int) -> DataSet:
    values = greys(4, levels=2)
    values[3, 0, 1, 0] = level
    return data_set(kind="binary", levels=2, parts=dict.fromkeys(("train", "valid", "test"), values))


BAD = {
    "unknown split": (lambda: data_set().split("dev"), ValueError, r"\['train', 'valid', 'test'\].*'dev'"),
    "unknown binarization": (lambda: data_set().split("train", "fixed"), ValueError, "'dynamic'.*'fixed'"),
    "binary twice": (
        lambda: _with_level(1).split("train", "static"),
        ValueError,
        "binary already.*pass 'none'",
    ),
    "not probabilities": (
        lambda: real_set(torch.tensor([[0.5], [1.5]])).split("train", "static"),
        ValueError,
        r"\[0, 1\].*1\.5 at index \(1, 0\)",
    ),
    "level too high": (
        lambda: _with_level(2),
        ValueError,
        r"from 0 to 1, received 2 at index \(3, 0, 1, 0\)",
    ),
    "infinite": (_infinite, ValueError, r"finite.*inf at index \(2, 1\)"),
    "wrong kind": (lambda: data_set(kind="grey"), ValueError, "'8-bit'.*'grey'"),
    "wrong levels": (lambda: data_set(levels=None), ValueError, "2 to 256.*None for '8-bit'"),
    "wrong event shape": (lambda: data_set(event_shape=(6,)), ValueError, r"shape \(N, 6\).*\(12, 1, 3, 2\)"),
    "missing part": (
        lambda: data_set(parts={"train": greys(2)}),
        ValueError,
        r"'test'\], received \['train'\]",
    ),
    "empty part": (
        lambda: data_set(parts={"train": greys(0), "valid": greys(1), "test": greys(1)}),
        ValueError,
        "'train': expected at least one value",
    ),
    "negative take": (lambda: data_set().split("train").take(-1), ValueError, "received -1"),
    "batch size 0": (lambda: list(data_set().split("train").batches(0)), ValueError, "received 0"),
    "index outside": (
        lambda: data_set().split("test").batch(torch.tensor([0, 7])),
        ValueError,
        "0 to 6, received 0 to 7",
    ),
    "index of floats": (
        lambda: data_set().split("test").batch(torch.zeros(2)),
        TypeError,
        "torch.int64.*long",
    ),
    "index of 2 dims": (
        lambda: data_set().split("test").batch(torch.zeros(2, 1, dtype=torch.int64)),
        ValueError,
        r"\(2, 1\)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_request_is_one_clear_error(case: str) -> None:
    call, error, message = BAD[case]
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_listing_data_does_not_import_torch() -> None:
    code = "import sys; from logpx.data import known_data; known_data(); print(sorted(sys.modules))"
    command = [sys.executable, "-c", code]
    modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "'logpx.data.catalogue'" in modules
    assert "'torch'" not in modules


def test_the_hash_knows_the_levels():
    parts = {name: torch.zeros(2, 3, dtype=torch.uint8) for name in ("train", "valid", "test")}
    hashes = {DataSet("x", "8-bit", levels, (3,), parts, "memory").hash for levels in (17, 256)}
    assert len(hashes) == 2
