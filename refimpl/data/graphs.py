"""One graph with features and classes of its nodes: Zachary's karate club (embedded), Cora and CiteSeer.

`GraphData` is a graph with a split of its nodes, for node classification: `split(seed)` draws another. `links(seed)`
hides a part of its edges instead, for link prediction (`LinkData`).

Features come as a sparse matrix, rows divided by their sum (a node without features has a row of zeros). The members of
the karate club have none but who they are: the identity matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.data.catalogue import Info
from refimpl.data.errors import DataError
from refimpl.data.files import take_all
from refimpl.data.folders import Found
from refimpl.data.planetoid import PARTS, read_pickled, read_planetoid
from refimpl.nn.graph import Sparse

__all__ = ["Graph", "GraphData", "LinkData", "Pairs", "read", "readers", "search"]


@dataclass(frozen=True, eq=False)
class Graph:
    """Who is joined to whom, A (N, N) with an entry (i, j) for each edge j -> i, and the nodes' features x (N, F)."""

    A: Sparse
    x: Sparse

    def __post_init__(self) -> None:
        if self.A.shape[0] != self.A.shape[1] or self.x.shape[0] != self.A.shape[0]:
            raise ValueError(f"Graph: edges {self.A!r} and features {self.x!r}, expected (N, N) and (N, F)")
        if self.x.values is None or self.x.values.dtype.kind != "f" or not np.isfinite(self.x.values).all():
            raise ValueError(f"Graph: features {self.x!r}, expected finite floats")

    @property
    def n(self) -> int:
        """Number of nodes N."""
        return self.A.shape[0]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of nodes (P, 2) and whether they are joined (P,), 1 or 0."""

    nodes: np.ndarray
    joined: np.ndarray

    def __len__(self) -> int:
        return len(self.joined)


@dataclass(frozen=True, eq=False)
class GraphData:
    """A graph whose nodes have classes, and which of them are known for training and validation, and judged at the end.

    labels (N,) int64 in [0, n_classes), or -1 for a node that has none; train, validation, test (N,) bool, no node in
    two of them. Raises ValueError otherwise.
    """

    name: str
    title: str
    graph: Graph
    labels: np.ndarray
    n_classes: int
    masks: tuple[np.ndarray, np.ndarray, np.ndarray]
    source: str
    licence: str

    def __post_init__(self) -> None:
        n = self.graph.n
        if self.labels.shape != (n,) or not ((self.labels >= -1) & (self.labels < self.n_classes)).all():
            raise ValueError(
                f"{self.name}: labels of shape {self.labels.shape}, expected {n} in [-1, {self.n_classes})"
            )
        if any(m.shape != (n,) or m.dtype != bool for m in self.masks) or np.sum(self.masks, axis=0).max(initial=0) > 1:
            raise ValueError(f"{self.name}: masks must be bool of shape ({n},), no node in two of them")
        if (np.any(self.masks, axis=0) & (self.labels < 0)).any():
            raise ValueError(f"{self.name}: a node without a label is in a split")

    @property
    def train(self) -> tuple[Graph, np.ndarray, np.ndarray]:
        """The graph, the labels of the training and validation nodes (-1 for all others), the validation nodes."""
        known = self.masks[0] | self.masks[1]
        return self.graph, np.where(known, self.labels, -1), self.masks[1]

    @property
    def test(self) -> tuple[Graph, np.ndarray]:
        """The graph and the labels of the test nodes, -1 for all others."""
        return self.graph, np.where(self.masks[2], self.labels, -1)

    @property
    def sizes(self) -> str:
        """How many nodes and edges there are, in words."""
        train, validation, test = (int(m.sum()) for m in self.masks)
        edges = self.graph.A.nnz // 2
        return f"{self.graph.n:,} nodes, {edges:,} edges; {train:,} training, {validation:,} validation, {test:,} test"

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name."""
        A, x = self.graph.A, self.graph.x
        assert x.values is not None
        matrices = {"indptr": A.indptr, "indices": A.indices, "x_indptr": x.indptr, "x_indices": x.indices}
        masks = dict(zip(("train", "validation", "test"), self.masks))
        return {**matrices, "x_values": x.values, "labels": self.labels, **masks}

    def quick(self, seed: int) -> GraphData:
        """The part of the graph around a few random nodes, at most 600 nodes, split anew."""
        if self.graph.n <= 600:
            return self
        rng = np.random.default_rng(seed)
        A, seen = self.graph.A, np.zeros(self.graph.n, bool)
        order = list(rng.permutation(self.graph.n)[:8])
        seen[order] = True
        for i in order:  # grows while it is walked: breadth first
            if len(order) >= 600:
                break
            near = A.indices[A.indptr[i] : A.indptr[i + 1]]
            near = near[~seen[near]][: 600 - len(order)]
            seen[near] = True
            order.extend(near.tolist())
        part = np.sort(np.array(order))
        place = np.full(self.graph.n, -1)
        place[part] = np.arange(len(part))
        rows, columns = place[A.rows], place[A.indices]
        inside = (rows >= 0) & (columns >= 0)
        within = Sparse.from_entries(rows[inside], columns[inside], None, (len(part), len(part)))
        empty = np.zeros(len(part), bool)
        smaller = replace(
            self,
            title=f"{self.title} (a part: {len(part)} of {self.graph.n:,} nodes)",
            graph=Graph(within, self.graph.x.take(part)),
            labels=self.labels[part],
            masks=(empty, empty, empty),
        )
        return smaller.split(seed)

    def split(self, seed: int, train: float = 0.64, validation: float = 0.16) -> GraphData:
        """The same graph with its labelled nodes split at random by these fractions; the rest is for testing.

        Each class is split by itself, rounded so that the totals fit; a class has a training node where it has any.
        """
        if not (train > 0 and validation >= 0 and train + validation < 1):
            raise ValueError(f"{self.name}: fractions {train} and {validation}, expected a rest for testing")
        rng = np.random.default_rng(seed)
        masks = np.zeros((3, self.graph.n), bool)
        for k in range(self.n_classes):
            own = rng.permutation(np.flatnonzero(self.labels == k))
            first = max(min(1, len(own)), round(train * len(own)))
            second = round((train + validation) * len(own))
            for mask, nodes in zip(masks, np.split(own, [first, max(first, second)])):
                mask[nodes] = True
        return replace(self, masks=(masks[0], masks[1], masks[2]))

    def links(self, seed: int, train: float = 0.64, validation: float = 0.16) -> LinkData:
        """The edges split at random by these fractions (the rest is for testing), and as many pairs without an edge."""
        if not (train > 0 and validation >= 0 and train + validation < 1):
            raise ValueError(f"{self.name}: fractions {train} and {validation}, expected a rest for testing")
        rng, A, n = np.random.default_rng(seed), self.graph.A, self.graph.n
        upper = A.rows < A.indices
        edges = rng.permutation(np.stack([A.rows[upper], A.indices[upper]], axis=1))
        free = n * (n - 1) // 2 - len(edges)
        if free < len(edges):
            raise ValueError(f"{self.name}: {len(edges)} edges, but only {free} pairs without one")
        taken, others = set((edges[:, 0] * n + edges[:, 1]).tolist()), [(0, 0)][:0]
        while len(others) < len(edges):
            for i, j in np.sort(rng.integers(0, n, (len(edges), 2)), axis=1).tolist():
                if i != j and i * n + j not in taken and len(others) < len(edges):
                    taken.add(i * n + j)
                    others.append((i, j))
        cut = [round(train * len(edges)), round((train + validation) * len(edges))]
        parts = [
            Pairs(np.concatenate([e, o]), np.repeat([1, 0], len(e)))
            for e, o in zip(np.split(edges, cut), np.split(np.array(others).reshape(-1, 2), cut))
        ]
        seen = [Graph(Sparse.from_edges(n, edges[:last]), self.graph.x) for last in cut]
        return LinkData(self.name, self.title, seen[0], seen[1], (parts[0], parts[1], parts[2]))


@dataclass(frozen=True, eq=False)
class LinkData:
    """Link prediction: messages run along the training edges, in the test along those of validation too.

    pairs: training, validation and test pairs, half of each with an edge.
    """

    name: str
    title: str
    graph: Graph
    test_graph: Graph
    pairs: tuple[Pairs, Pairs, Pairs]

    @property
    def train(self) -> tuple[Graph, Pairs, Pairs]:
        """The graph of the training edges, the training pairs, the validation pairs."""
        return self.graph, self.pairs[0], self.pairs[1]

    @property
    def test(self) -> tuple[Graph, Pairs]:
        """The graph of training and validation edges, the test pairs."""
        return self.test_graph, self.pairs[2]

    @property
    def sizes(self) -> str:
        """How many nodes and pairs there are, in words."""
        train, validation, test = (len(p) for p in self.pairs)
        return f"{self.graph.n:,} nodes; {train:,} training, {validation:,} validation, {test:,} test pairs"

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name."""
        x = self.graph.x
        assert x.values is not None
        found = {"indptr": self.graph.A.indptr, "indices": self.graph.A.indices, "x": x.values, "columns": x.indices}
        for name, p in zip(("train", "validation", "test"), self.pairs):
            found |= {f"{name}_pairs": p.nodes, f"{name}_joined": p.joined}
        return found

    def quick(self, seed: int) -> LinkData:
        """Itself: small enough."""
        return self


# ---------------------------------------------------------------- files


def search(info: Info, folder: Path) -> Found | str:
    """The files of a set in one folder, or what is missing there."""
    names = ["friendships.txt", "factions.txt"] if info.name == "karate" else [f"ind.{info.name}.{p}" for p in PARTS]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        return f"lacks {missing[0]}"
    files = tuple(folder / name for name in names)
    return Found(folder, files, files)


def read(info: Info, found: Found) -> GraphData:
    """The data set. Raises DataError with the name of the file when one is damaged."""
    if info.name == "karate":
        graph, labels = _read_karate(found.folder)
        masks = (np.zeros(34, bool), np.zeros(34, bool), np.zeros(34, bool))
        whole = GraphData(info.name, info.title, graph, labels, 2, masks, info.source, info.licence)
        return whole.split(0, 0.2, 0.2)
    c = read_planetoid(found.folder, info.name)
    x = Sparse.from_entries(c.rows, c.columns, c.values, (c.n, c.n_features))
    total = np.bincount(x.rows, np.abs(c.values) if x.values is None else np.abs(x.values), c.n)
    x = x.scaled(1 / np.where(total > 0, total, 1)).astype(np.float32)
    found_masks = []
    for nodes in (c.train, c.validation, c.test):
        mask = np.zeros(c.n, bool)
        mask[nodes] = True
        found_masks.append(mask & (c.labels >= 0))
    graph = Graph(Sparse.from_edges(c.n, c.edges), x)
    masks = (found_masks[0], found_masks[1], found_masks[2])
    return GraphData(info.name, info.title, graph, c.labels, c.n_classes, masks, info.source, info.licence)


def readers(info: Info, found: Found) -> list[tuple[Path, Callable[[], Any]]]:
    """Each file with a function that reads it."""
    if info.name == "karate":
        return [(file, lambda: _read_karate(found.folder)) for file in found.train]

    def reader(file: Path) -> Callable[[], Any]:
        pickled = not file.name.endswith(".index")
        return (lambda: read_pickled(file)) if pickled else (lambda: read_planetoid(found.folder, info.name))

    return [(file, reader(file)) for file in found.train]


def _read_karate(folder: Path) -> tuple[Graph, np.ndarray]:
    tables = []
    for name in ("friendships.txt", "factions.txt"):
        try:
            text = take_all(folder / name, 10_000).decode("ascii")
            tables.append(np.array([[int(word) for word in line.split()] for line in text.splitlines()], np.int64))
        except ValueError as error:
            raise DataError(f"{folder / name}: expected two numbers a line: {error}") from error
    edges, factions = tables
    if edges.shape != (78, 2) or factions.shape != (34, 2) or not np.array_equal(factions[:, 0], np.arange(1, 35)):
        raise DataError(f"{folder}: {edges.shape} and {factions.shape} numbers, expected the karate club")
    identity = Sparse(np.arange(35), np.arange(34), np.ones(34, np.float32), 34)
    return Graph(Sparse.from_edges(34, edges - 1), identity), factions[:, 1]
