"""Test loss per epoch of the recipe grey-bce beside a published run, for the run folders that are named.

for seed in 0 1 2; do logpx fit mnist --recipe grey-bce --seed $seed --out runs/grey-$seed; done
python benchmarks/grey_bce.py runs/grey-0 runs/grey-1 runs/grey-2
"""

import sys

from logpx import Run

PUBLISHED = [127.3, 115.8, 112.2, 109.6, 108.5, 107.7, 107.1, 106.7, 106.0, 105.6]


def main(paths: list[str]) -> None:
    losses = [-Run.open(path).metrics()["valid"] for path in paths]
    print("nats per image\nepoch  published  " + "  ".join(f"{path:>11}" for path in paths) + "  mean - published")
    for epoch, published in enumerate(PUBLISHED):
        row = [loss[epoch] for loss in losses]
        columns = "  ".join(f"{value:11.2f}" for value in row)
        print(f"{epoch + 1:5d}  {published:9.1f}  {columns}  {sum(row) / len(row) - published:+16.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
