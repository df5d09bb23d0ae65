"""Seconds per epoch of a VAE 784-400-20 on grey MNIST, batch 128, Adam: logpx beside what one would otherwise use.

- The customary script: a DataLoader that makes a float tensor of each image by way of Pillow, binary cross-entropy of
  sigmoid outputs, `.item()` in each step.
- pythae 0.1.2: an epoch of its trainer, over a data set of float tensors, with the customary encoder and decoder.
- A bare loop over tensors in memory, hand-written.
- The floor: the matrix products of the steps alone, at the same shapes.

Versions run in turns in one process; ratios are medians over rounds. logpx's epoch is the second one of a fit of two,
so that writing the first one's state counts. At the end, the test loss of ten epochs with and without bfloat16.

    python benchmarks/training.py
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from _timing import goal, in_turns, medians, parser, ratios, show, write
from _vae import PlainVAE
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import logpx
from logpx.data import DataSet, load_data

BATCH, RATE = 128, 1e-3


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--num-data", type=int, default=60_000, help="training images in an epoch")
    options.add_argument("--data-root", help="folder to look for MNIST in, before LOGPX_DATA")
    options.add_argument("--loss-epochs", type=int, default=10, help="for the test loss; 0: leave it out")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    data = some_of(load_data("mnist", data_root=given.data_root, num_valid=0), given.num_data)
    with tempfile.TemporaryDirectory() as folder:
        seconds = in_turns(versions(data, Path(folder)), given.repetitions)
        print(f"Training, {given.num_data:,} images per epoch, {given.threads} threads")
        show(seconds, "logpx", "s per epoch")
        losses = test_losses(data, Path(folder), given.loss_epochs) if given.loss_epochs else {}
    met = judge(seconds)
    write(given.json, {"seconds": seconds, "medians": medians(seconds), "goals": met, "test_losses": losses})


def judge(seconds: dict[str, list[float]]) -> list[dict[str, object]]:
    def times(other: str) -> float:
        return ratios(seconds, other, "logpx")[1]

    ours = ratios(seconds, "logpx", "bare loop")[1]
    return [
        goal(1, "customary script / logpx", times("customary script"), 2.5, at_most=False),
        goal(1, "pythae / logpx", times("pythae trainer"), 2.5, at_most=False),
        goal(2, "logpx / bare loop", ours, 1.05),
        goal(3, "logpx / matrix products alone", 1 / times("matrix products alone"), 2.0),
    ]


def some_of(data: DataSet, size: int) -> DataSet:
    parts = {**data.parts, "train": data.parts["train"][:size]}
    return DataSet(data.name, data.kind, data.levels, data.event_shape, parts, data.source)


def versions(data: DataSet, folder: Path) -> dict[str, Callable[[int], float | None]]:
    greys = data.parts["train"]
    return {
        "customary script": customary(greys),
        "pythae trainer": pythae_trainer(greys, folder / "pythae"),
        "bare loop": bare(greys),
        "logpx": lambda number: fit(data, folder / "run", 2)[0],
        "logpx, bf16-mixed": lambda number: fit(data, folder / "run", 2, precision="bf16-mixed")[0],
        "matrix products alone": floor(len(greys)),
    }


def fit(data: DataSet, path: Path, epochs: int, **settings: object) -> tuple[float, float]:
    """Returns the seconds from the end of the first epoch to that of the second, and the last test bound in nats."""
    settings = {"validate_on": "none", "device": "cpu", **settings}
    run = logpx.fit(data, recipe="grey-bce", epochs=epochs, out=path, overwrite=True, progress=False, **settings)
    metrics = run.metrics()
    return metrics["seconds"][1] - metrics["seconds"][0], metrics["valid"][-1]


class Images(Dataset):
    """Images that become tensors one by one, as torchvision's MNIST with ToTensor does it."""

    def __init__(self, greys: Tensor) -> None:
        self.greys = greys

    def __len__(self) -> int:
        return len(self.greys)

    def __getitem__(self, index: int) -> Tensor:
        import numpy as np
        from PIL import Image

        picture = Image.fromarray(self.greys[index, 0].numpy())
        pixels = torch.from_numpy(np.array(picture, copy=True)).view(28, 28, 1)
        return pixels.permute(2, 0, 1).contiguous().float().div(255)


def customary(greys: Tensor) -> Callable[[int], None]:
    model, loader = PlainVAE(), DataLoader(Images(greys), BATCH, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), RATE)

    def epoch(number: int) -> None:
        model.train()
        total = 0.0
        for x in loader:
            optimizer.zero_grad()
            reconstruction, mu, log_variance = model(x.view(-1, 784))
            cross_entropy = F.binary_cross_entropy(torch.sigmoid(reconstruction), x.view(-1, 784), reduction="sum")
            loss = cross_entropy - 0.5 * torch.sum(1 + log_variance - mu.pow(2) - log_variance.exp())
            loss.backward()
            total += loss.item()
            optimizer.step()

    return epoch


def bare(greys: Tensor) -> Callable[[int], None]:
    model, x_all = PlainVAE(), greys.float().div(255).flatten(1)
    optimizer = torch.optim.Adam(model.parameters(), RATE)

    def epoch(number: int) -> None:
        total = torch.zeros(())
        for rows in torch.randperm(len(x_all)).split(BATCH):
            x = x_all[rows]
            logits, mu, log_variance = model(x)
            cross_entropy = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
            loss = cross_entropy - 0.5 * (1 + log_variance - mu.square() - log_variance.exp()).sum()
            optimizer.zero_grad()
            (loss / len(x)).backward()
            optimizer.step()
            total += loss.detach()

    return epoch


def pythae_trainer(greys: Tensor, folder: Path) -> Callable[[int], None]:
    from _vae import pythae_vae
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    logging.disable(logging.INFO)
    data = BaseDataset(greys.float() / 255, torch.zeros(len(greys)))
    config = BaseTrainerConfig(
        output_dir=str(folder), per_device_train_batch_size=BATCH, learning_rate=RATE, no_cuda=True, num_epochs=1
    )
    trainer = BaseTrainer(pythae_vae(PlainVAE()), data, training_config=config)
    trainer.prepare_training()
    trainer.callback_handler.callbacks.clear()

    def epoch(number: int) -> None:
        trainer.train_step(number)

    return epoch


def floor(num_data: int) -> Callable[[int], None]:
    """Returns the products of a layer's input with its weights, and those of both gradients, for all four layers."""
    shapes = ((784, 400), (400, 40), (20, 400), (400, 784))
    layers = [(torch.rand(BATCH, n), torch.rand(m, n), torch.rand(BATCH, m)) for n, m in shapes]

    def epoch(number: int) -> None:
        for _ in range(-(-num_data // BATCH)):
            for place, (x, weight, gradient) in enumerate(layers):
                x @ weight.t()
                gradient.t() @ x
                if place:
                    gradient @ weight

    return epoch


def test_losses(data: DataSet, folder: Path, epochs: int) -> dict[str, float]:
    """Returns the test loss in nats, as the customary script counts it, after some epochs."""
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        started = time.perf_counter()
        bound = fit(data, folder / "run", epochs, precision=precision, validate_on="test")[1]
        losses[precision] = -bound
        print(f"{precision}: test loss {-bound:.3f} nats after {epochs} epochs, {time.perf_counter() - started:.0f} s")
    return losses


if __name__ == "__main__":
    main()
