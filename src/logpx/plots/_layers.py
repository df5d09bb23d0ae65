"""Layered drawings of a directed graph: each node in the column of its longest distance from the start.

An edge that spans several columns gets a bend in each column between, so that it runs between the boxes and not
through them. The sweeps are those of: Methods for visual understanding of hierarchical system structures (Sugiyama,
Tagawa and Toda, 1981).
"""

from __future__ import annotations

__all__ = ["Layers", "arrange"]

import dataclasses
import graphlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.optimize import isotonic_regression

BEND = 0.35  # the height that a bend takes, in rows
NUM_SWEEPS = 12
STRAIGHT = 8.0  # by how much more an important edge pulls its ends into one line


@dataclasses.dataclass(frozen=True)
class Layers:
    """Where nodes and bends lie.

    Arguments:
        column: The column of every node, and then of every bend, with shape (V,).
        height: Their heights, in rows from the top, with shape (V,).
        routes: For each edge its source, its bends and its target, as positions in `column` and `height`.
    """

    column: np.ndarray
    height: np.ndarray
    routes: tuple[tuple[int, ...], ...]


def arrange(num_nodes: int, edges: Sequence[tuple[int, int]], important: Sequence[tuple[int, int]] = ()) -> Layers:
    """Places the nodes of an acyclic graph in columns, with few crossings and short edges.

    Arguments:
        num_nodes: The number of nodes.
        edges: Pairs (source, target) of nodes.
        important: Those edges that shall be straight where that can be.

    Raises:
        graphlib.CycleError: If the graph has a cycle.
    """
    column = _distances(num_nodes, edges)
    routes = []
    for source, target in edges:
        between = range(column[source] + 1, column[target])
        routes.append((source, *range(len(column), len(column) + len(between)), target))
        column += between
    columns = np.array(column)
    straight = set(important)
    links = [
        (a, b, STRAIGHT if (route[0], route[-1]) in straight else 1.0) for route in routes for a, b in pairwise(route)
    ]
    graph = _Graph(columns, np.where(np.arange(len(column)) < num_nodes, 1.0, BEND), np.array(links).reshape(-1, 3))
    heights = graph.heights(graph.order())
    return Layers(columns, _without_gaps(heights, graph.size), tuple(routes))


def _distances(num_nodes: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    predecessors: dict[int, list[int]] = {node: [] for node in range(num_nodes)}
    for source, target in edges:
        predecessors[target].append(source)
    column = [0] * num_nodes
    for node in graphlib.TopologicalSorter(predecessors).static_order():
        column[node] = max((column[other] + 1 for other in predecessors[node]), default=0)
    return column


def _without_gaps(height: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Moves what lies below an empty strip up."""
    order = np.argsort(height - size / 2, kind="stable")
    top, bottom = (height - size / 2)[order], np.maximum.accumulate((height + size / 2)[order])
    gaps = np.maximum(top[1:] - bottom[:-1], 0.0)
    moved = height.copy()
    moved[order[1:]] -= np.cumsum(gaps)
    return moved - moved.min()


class _Graph:
    """Nodes and bends in columns, and the links between neighbouring columns with their weights."""

    def __init__(self, column: np.ndarray, size: np.ndarray, links: np.ndarray) -> None:
        self.size = size
        self.layers = [np.flatnonzero(column == c) for c in range(int(column.max()) + 1)]
        self.source, self.target, self.weight = links[:, 0].astype(int), links[:, 1].astype(int), links[:, 2]
        self.gap = column[self.source]

    def order(self) -> list[np.ndarray]:
        """Returns the order within each column with the fewest crossings that sweeps of barycentres found."""
        layers = [layer.copy() for layer in self.layers]
        best, fewest = layers, self.crossings(layers)
        for sweep in range(NUM_SWEEPS):
            place = _places(layers, len(self.size))
            for c in range(len(layers))[:: 1 if sweep % 2 == 0 else -1]:
                centre = self._means(place, forwards=sweep % 2 == 0)
                layers[c] = layers[c][np.argsort(centre[layers[c]], kind="stable")]
                place[layers[c]] = np.arange(len(layers[c]))
            if (crossings := self.crossings(layers)) < fewest:
                best, fewest = [layer.copy() for layer in layers], crossings
        return best

    def crossings(self, layers: Sequence[np.ndarray]) -> int:
        """Counts the pairs of links that cross."""
        place, total = _places(layers, len(self.size)), 0
        for c in range(len(layers) - 1):
            a, b = place[self.source[self.gap == c]], place[self.target[self.gap == c]]
            total += int((np.subtract.outer(a, a) * np.subtract.outer(b, b) < 0).sum()) // 2
        return total

    def heights(self, layers: Sequence[np.ndarray]) -> np.ndarray:
        """Returns heights that keep the order and the distances, and shorten the links."""
        height = np.zeros(len(self.size))
        offsets = [np.cumsum(self.size[layer]) - self.size[layer] / 2 for layer in layers]
        for layer, offset in zip(layers, offsets, strict=True):
            height[layer] = offset - self.size[layer].sum() / 2
        for sweep in range(2 * NUM_SWEEPS):
            for c in range(len(layers))[:: 1 if sweep % 2 == 0 else -1]:
                layer = layers[c]
                # the least squares solution of h[i + 1] - h[i] >= distance is an isotonic regression
                target = self._pulled(height)[layer] - offsets[c]
                height[layer] = isotonic_regression(target).x + offsets[c]
        return height

    def _means(self, place: np.ndarray, forwards: bool) -> np.ndarray:
        """Returns the mean place of the neighbours on one side, or the own place where there are none."""
        here, there = (self.target, self.source) if forwards else (self.source, self.target)
        number = np.bincount(here, minlength=len(place))
        total = np.bincount(here, place[there], minlength=len(place))
        return np.where(number > 0, total / np.maximum(number, 1), place)

    def _pulled(self, height: np.ndarray) -> np.ndarray:
        """Returns the weighted mean height of the neighbours on both sides."""
        n = len(height)
        weight = np.bincount(self.source, self.weight, n) + np.bincount(self.target, self.weight, n)
        total = np.bincount(self.source, self.weight * height[self.target], n)
        total += np.bincount(self.target, self.weight * height[self.source], n)
        return np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), height)


def _places(layers: Sequence[np.ndarray], number: int) -> np.ndarray:
    place = np.zeros(number)
    for layer in layers:
        place[layer] = np.arange(len(layer))
    return place
