"""The commands that show what a model makes of data: sample, reconstruct, encode, report; and data."""

from __future__ import annotations

__all__ = ["COMMANDS"]

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace

from ._command import Command, UsageError, add_seed
from ._run import add_data_root, add_run, open_run, write_figure

if TYPE_CHECKING:
    from ..run import Run


def _sample(options: Namespace) -> None:
    from .. import generate, plots

    run = open_run(options)
    model = run.load_model()
    x = generate.sample(model, options.num, seed=options.seed, mean=not options.draw)
    title = f"{options.num} samples from the model ({'draws' if options.draw else 'means of the likelihood'})."
    _write_pictures(options, run, "samples.png", x.numpy(), lambda: plots.image_grid(x.numpy(), title=title))


def _reconstruct(options: Namespace) -> None:
    from .. import generate, plots
    from ..utils import spread

    run = open_run(options)
    split = run.load_split(options.split)
    index = spread(len(split), options.num)
    x = split.batch(index).x
    y = generate.reconstruct(run.load_model(), x, seed=options.seed, mean=not options.draw)
    below = "draws from p(x | z)" if options.draw else "their reconstructions"
    _write_pictures(
        options,
        run,
        "reconstructions.png",
        y.numpy(),
        lambda: plots.paired_grid(x.numpy(), y.numpy(), title=f"Data, and below them {below}."),
        originals=x.numpy(),
        index=index.numpy(),
    )


def _encode(options: Namespace) -> None:
    from ..data import load_data
    from ..files import write_arrays
    from ..generate import encode_all

    run = open_run(options)
    data = run.load_data() if options.data is None else load_data(options.data, data_root=options.data_root)
    splits = {part: run.split_of(data, part) for part in data.parts}
    codes = encode_all(run.load_model(), splits, rows=data.rows, seed=options.seed)
    write_arrays(Path(options.output), codes)
    num_latents = math.prod(codes["mean"].shape[1:])
    what = "{} component probabilities" if run.is_em and "mixture" in run.settings.model.model else "{} latents"
    print(f"{len(codes['mean'])} codes of {what.format(num_latents)}: {options.output}")


def _report(options: Namespace) -> None:
    from ..page import report
    from ..run import Run
    from ..wording import headline

    run = open_run(options)
    baseline = None if options.baseline is None else Run.open(options.baseline)
    page, record = report(run, baseline=baseline), run.evaluation()
    print(headline(record) if record else f"No evaluation yet: logpx evaluate {run.path}")
    print(f"Report: {page}")


def _data(options: Namespace) -> None:
    if (options.data is None) != (options.save is None):
        raise UsageError("data copies a set when it is told which and where: logpx data hf:OWNER/NAME --save FOLDER.")
    if options.data is None:
        _list_data(options)
    else:
        _save_data(options)


def _save_data(options: Namespace) -> None:
    from ..data import save_data

    print(*save_data(options.data, options.save, data_root=options.data_root), sep="\n")
    print(f"Next: logpx fit {options.save}")


def _list_data(options: Namespace) -> None:
    from ..data import known_data

    for known in known_data(options.data_root):
        shape = "x".join(str(size) for size in known.event_shape)
        sizes = ", ".join(f"{part} {size:,}" for part, size in known.sizes.items())
        print(f"{known.name}\n  {known.description}\n  {known.kind}, {shape}; {sizes}; recipe {known.default_recipe}")
        print(f"  {'found: ' + known.found if known.found else 'not here: ' + known.how_to_get}")
    print(
        "Anybody's own\n"
        "  a .npy or .npz file, or a folder of train.npy and test.npy or of PNG, JPEG or WebP images, by its path\n"
        "  hf:OWNER/NAME of the Hugging Face hub, or hf:FOLDER of parquet files (pip install 'logpx[datasets]')"
    )


def _write_pictures(options: Namespace, run: Run, name: str, data: Any, draw: Callable[[], Any], **more: Any) -> None:
    from ..files import write_arrays

    path = Path(options.output or run.path / name)
    if path.suffix == ".npz":
        write_arrays(path, {"x": data, **more})
    else:
        write_figure(path, draw, " or .npz")
    print(path)


def _add_sample(parser: ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("-n", "--num", type=int, default=96, help="number of samples")
    parser.add_argument("--draw", action="store_true", help="draw from the likelihood, rather than show its mean")
    _add_output(parser, "samples.png")


def _add_reconstruct(parser: ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("-n", "--num", type=int, default=48, help="number of data, spread evenly over the split")
    parser.add_argument("--split", type=Literal["train", "valid", "test"], default="test", help="which data")
    parser.add_argument("--draw", action="store_true", help="draw x from p(x | z) rather than take its mean")
    _add_output(parser, "reconstructions.png")


def _add_encode(parser: ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("data", nargs="?", help="a data set of the same shape; by default that of the run")
    parser.add_argument("-o", "--output", default="latents.npz", help="the .npz file to write")
    add_seed(parser)


def _add_report(parser: ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--baseline", metavar="RUN", help="another evaluated run of the same data, to compare with")


def _add_data(parser: ArgumentParser) -> None:
    parser.add_argument("data", nargs="?", help="a data set to copy; by default those that are known are listed")
    parser.add_argument("--save", metavar="FOLDER", help="write it there as .npy files; hf: sets are streamed")
    add_data_root(parser)


def _add_output(parser: ArgumentParser, name: str) -> None:
    parser.add_argument("-o", "--output", help=f".png, .pdf, .svg or .npz; by default {name} in the run folder")
    add_seed(parser)


COMMANDS = {
    "sample": Command(_sample, _add_sample, "draw new data from the model"),
    "reconstruct": Command(_reconstruct, _add_reconstruct, "encode data and decode them again"),
    "encode": Command(_encode, _add_encode, "write the posterior means and scales of data to a file", "RUN [DATA]"),
    "report": Command(_report, _add_report, "write one page of figures and numbers"),
    "data": Command(_data, _add_data, "list the data sets that are known, or copy one", "[DATA]"),
}
