"""The data sets that are known by name: their files, shapes and hashes; no torch, so that they list fast."""

from __future__ import annotations

__all__ = ["CATALOGUE", "PREFIX", "Binarization", "File", "Kind", "Known"]

from dataclasses import dataclass
from typing import Literal

# What stands before the name or folder of a data set of Hugging Face.
PREFIX = "hf:"

Kind = Literal["binary", "8-bit", "real"]
Binarization = Literal["none", "threshold", "static", "dynamic"]


@dataclass(frozen=True)
class File:
    r"""One part of a named data set, and the file that holds it.

    Arguments:
        part: The part that it holds: train, valid or test.
        name: The file's canonical name; an archive may hold several parts.
        shape: The shape of its array.
        sha256: The hash of the array, whatever the compression of the file; empty where it is not known, and then
            the content is checked by shape and type alone.
        ordered: Whether the hash is that of the array's bytes. Where copies in another order are in use it is, for
            data :math:`x_i`, that of the digests in rising order, :math:`h(\mathrm{sort}(h(x_1), \dots, h(x_N)))`
            with :math:`h` = SHA-256, which knows every datum and how often it occurs, but not the order.
        members: The files in the archive that hold the array, one after the other; empty where it is no archive.
    """

    part: str
    name: str
    shape: tuple[int, ...]
    sha256: str
    ordered: bool = True
    members: tuple[str, ...] = ()


@dataclass(frozen=True)
class Known:
    """One named data set.

    Arguments:
        name: What a person types.
        description: One line for a person to read.
        kind: The kind of the raw values.
        levels: How many integer levels the raw values have.
        event_shape: The shape of one datum, channels first.
        sizes: How many data each part has unless told otherwise.
        default_recipe: The recipe that fits it unless told otherwise.
        url: Where its files can be downloaded, ending in a slash; empty where nothing has to be.
        files: Its files; empty where it ships with a library.
    """

    name: str
    description: str
    kind: Kind
    levels: int
    event_shape: tuple[int, ...]
    sizes: dict[str, int]
    default_recipe: str
    url: str = ""
    files: tuple[File, ...] = ()


_DIGITS = Known(
    name="digits",
    description="8x8 handwritten digits in 17 grey levels; ships with scikit-learn",
    kind="8-bit",
    levels=17,
    event_shape=(1, 8, 8),
    sizes={"train": 1197, "valid": 300, "test": 300},
    default_recipe="digits",
)

_MNIST = Known(
    name="mnist",
    description="28x28 handwritten digits in 256 grey levels (LeCun, Cortes and Burges)",
    kind="8-bit",
    levels=256,
    event_shape=(1, 28, 28),
    sizes={"train": 50_000, "valid": 10_000, "test": 10_000},
    default_recipe="mnist",
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    files=(
        File(
            part="train",
            name="train-images-idx3-ubyte.gz",
            shape=(60_000, 28, 28),
            sha256="741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        ),
        File(
            part="test",
            name="t10k-images-idx3-ubyte.gz",
            shape=(10_000, 28, 28),
            sha256="6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        ),
    ),
)

_FASHION_MNIST = Known(
    name="fashion-mnist",
    description="28x28 articles of clothing in 256 grey levels (Xiao, Rasul and Vollgraf, 2017)",
    kind="8-bit",
    levels=256,
    event_shape=(1, 28, 28),
    sizes={"train": 50_000, "valid": 10_000, "test": 10_000},
    default_recipe="fashion-mnist",
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    files=(
        File(
            part="train",
            name="train-images-idx3-ubyte.gz",
            shape=(60_000, 28, 28),
            sha256="2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
        ),
        File(
            part="test",
            name="t10k-images-idx3-ubyte.gz",
            shape=(10_000, 28, 28),
            sha256="c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        ),
    ),
)

_BINARIZED_MNIST = Known(
    name="binarized-mnist",
    description="28x28 handwritten digits, binarized once and for all (Larochelle and Murray, 2011)",
    kind="binary",
    levels=2,
    event_shape=(1, 28, 28),
    sizes={"train": 50_000, "valid": 10_000, "test": 10_000},
    default_recipe="static-default",
    url="http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",
    files=(
        File(
            part="train",
            name="binarized_mnist_train.amat",
            shape=(50_000, 784),
            sha256="43490d4d6ac9002727af4426d8748609fdb7e4094fa65ad8d681ea60082a7a5a",
        ),
        File(
            part="valid",
            name="binarized_mnist_valid.amat",
            shape=(10_000, 784),
            sha256="069b4f0beb389b776478c3e872b4df71c95ac4be64d7cbe6d32e24ebac8e6d5e",
        ),
        File(
            part="test",
            name="binarized_mnist_test.amat",
            shape=(10_000, 784),
            sha256="ca0294c3b8d984c7a1dc891015a8eea6f37bae59a34e35ea0fc8c47110a8dd86",
        ),
    ),
)

# The archive as it is offered has the MD5 sum c32a1d4ab5d03f1284b67883e8d87530. Copies whose images stand in another
# order are as good, so the images are hashed as a set.
_CIFAR10 = Known(
    name="cifar10",
    description="32x32 photographs of 10 kinds of things, in colour (Krizhevsky, 2009)",
    kind="8-bit",
    levels=256,
    event_shape=(3, 32, 32),
    sizes={"train": 45_000, "valid": 5_000, "test": 10_000},
    default_recipe="resnet-dmol",
    url="https://www.cs.toronto.edu/~kriz/",
    files=(
        File(
            part="train",
            name="cifar-10-binary.tar.gz",
            shape=(50_000, 3, 32, 32),
            sha256="c4f3d45acfc15350af7065445e9de41001417180428b1d37e2fa37e634414112",
            ordered=False,
            members=tuple(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)),
        ),
        File(
            part="test",
            name="cifar-10-binary.tar.gz",
            shape=(10_000, 3, 32, 32),
            sha256="2b47ae852d2a691a0f721e2b78f55dfba705c73504ae93a00eda74c8e562b1a8",
            ordered=False,
            members=("cifar-10-batches-bin/test_batch.bin",),
        ),
    ),
)

_SVHN = Known(
    name="svhn",
    description="32x32 digits of house numbers, cropped from photographs, in colour (Netzer et al., 2011)",
    kind="8-bit",
    levels=256,
    event_shape=(3, 32, 32),
    sizes={"train": 68_257, "valid": 5_000, "test": 26_032},
    default_recipe="svhn",
    url="http://ufldl.stanford.edu/housenumbers/",
    files=(
        File(part="train", name="train_32x32.mat", shape=(73_257, 3, 32, 32), sha256=""),
        File(part="test", name="test_32x32.mat", shape=(26_032, 3, 32, 32), sha256=""),
    ),
)

CATALOGUE: dict[str, Known] = {
    known.name: known for known in (_DIGITS, _MNIST, _FASHION_MNIST, _BINARIZED_MNIST, _CIFAR10, _SVHN)
}
