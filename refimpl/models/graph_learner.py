"""Learners on one graph: which data they take, training in phases with early stopping, scores.

A node learner gets the whole graph and the classes of some nodes, and says the classes of the others:

    learner.fit(graph, labels, validation)      labels (N,) integers, -1 where unknown; validation (N,) bool
    learner.predict(graph); learner.score(graph, labels)      accuracy over the nodes with labels

Validation nodes have labels too, but are not trained on: they say when to stop. Without `validation` a fifth of the
labelled nodes is drawn for it, always the same. A link learner gets pairs of nodes instead of labels
(`refimpl.data.graphs.Pairs`), and its score is the area under the ROC curve.

Training is a row of phases (one a layer, or one for all); a unit of training is `validate_every` epochs and a
validation. A phase ends after `epochs` epochs or after `patience` validations without a better one, and takes back the
parameters of the best.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refimpl import ops, optim
from refimpl.data.graphs import Graph, Pairs
from refimpl.estimator import Estimator, generator
from refimpl.models.gnn import KINDS
from refimpl.nn import Params

__all__ = ["LinkLearner", "NodeLearner", "pair_sums", "roc_auc"]


def roc_auc(scores: np.ndarray, joined: np.ndarray) -> float:
    """Area under the ROC curve: how often a joined pair scores higher than one that is not, ties counting half."""
    positive = np.asarray(joined) == 1
    m, n = int(positive.sum()), int((~positive).sum())
    if m == 0 or n == 0:
        raise ValueError(f"roc_auc: {m} joined and {n} other pairs, expected some of both")
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    ranks = (ends - (count - 1) / 2)[place]  # mean rank of equal scores
    return float((ranks[positive].sum() - m * (m + 1) / 2) / (m * n))


def pair_sums(n: int, nodes: np.ndarray, to_first: np.ndarray, to_second: np.ndarray) -> np.ndarray:
    """(n, D) with to_first[p] added to row nodes[p, 0] and to_second[p] to row nodes[p, 1]."""
    return ops.segment_sum(np.concatenate([to_first, to_second]), np.concatenate([nodes[:, 0], nodes[:, 1]]), n)


class GraphLearner(Estimator):
    """What node and link learners share: hyper-parameters, phases, early stopping, checkpoints."""

    kind: str
    epochs: int
    validate_every: int
    patience: int
    lr: float
    weight_decay: float | None
    dtype: str
    random_state: Any

    # ------------------------------------------------------------ to be implemented

    def _phases(self) -> list[list[str]]:
        """The names of the parameters that each phase trains."""
        raise NotImplementedError

    def _enter(self, phase: int) -> None:
        """Compute what the phase needs and does not change."""

    def _epoch(self, phase: int) -> float:
        """One step of training; returns the loss."""
        raise NotImplementedError

    def _validate(self, phase: int) -> float:
        """The score of the validation data; NaN where there are none."""
        raise NotImplementedError

    # ------------------------------------------------------------ starting

    def begin(self, X: Any, y: Any, validation: Any = None) -> None:
        """Check data and hyper-parameters, draw the first parameters; sets `total_`."""
        self._validation_given = validation
        super().begin(X, y)
        self._best = {"score": -np.inf, "epoch": 0}
        self._phase = self._done = self._waited = 0
        names = [name for phase in self._phases() for name in phase]
        self._params |= {f"best {name}": self._params[name].copy() for name in names}
        self._grads = {name: self._params[name].zeros_like() for name in names}
        self._optimizers = {name: self._optimizer.init(self._params[name]) for name in names}
        self._planned = self.total_ = len(self._phases()) * self._units()
        if self.total_:
            self._enter(0)

    def fit(self, X: Any, y: Any, validation: Any = None):
        """Train. Raises ValueError or TypeError for unusable data."""
        self.begin(X, y, validation)
        while self.progress_ < self.total_:
            self.advance()
        self.finish()
        return self

    def _units(self) -> int:
        """Units of one phase."""
        return -(-self.epochs // self.validate_every)

    def _bad(self, name: str, expected: str) -> ValueError:
        return ValueError(f"{type(self).__name__}: {name} is {getattr(self, name)!r}, expected {expected}")

    def _check_settings(self, **least: int) -> None:
        for name, smallest in {"epochs": 0, "validate_every": 1, "patience": 1, **least}.items():
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < smallest:
                raise self._bad(name, f"a whole number of at least {smallest}")
        if self.kind not in KINDS:
            raise self._bad("kind", f"one of {', '.join(KINDS)}")
        if self.dtype not in ("float32", "float64"):
            raise self._bad("dtype", "float32 or float64")
        for name in ("lr", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value >= 0):
                raise self._bad(name, "a number of at least 0")

    def _take_graph(self, graph: Any, reset: bool) -> Graph:
        """The graph with features in this learner's dtype; with reset, remember its size."""
        who = type(self).__name__
        if not isinstance(graph, Graph):
            raise TypeError(f"{who}: X is a {type(graph).__name__}, expected a graph (refimpl.data.graphs.Graph)")
        if graph.n < 1:
            raise ValueError(f"{who}: the graph has no nodes")
        if reset:
            self.n_features_in_, self._n = graph.x.shape[1], graph.n
        elif (graph.n, graph.x.shape[1]) != (self._n, self.n_features_in_):
            given = f"{graph.n} nodes with {graph.x.shape[1]} features"
            raise ValueError(f"{who}: {given}, but this model was fitted with {self._n} and {self.n_features_in_}")
        return Graph(graph.A, graph.x.astype(np.dtype(self.dtype)))

    def _start(self, weight_decay: float) -> np.random.Generator:
        rng = generator(self.random_state)
        self._optimizer = optim.Adam(self.lr, weight_decay=weight_decay)
        return rng

    # ------------------------------------------------------------ phases

    def _advance(self, unit):
        phase, names = self._phase, self._phases()[self._phase]
        n = min(self.validate_every, self.epochs - self._done)
        loss = float(np.mean([self._epoch(phase) for _ in range(n)]))
        self._done += n
        score = self._validate(phase)
        if not score <= self._best["score"]:  # better, or nothing to validate on
            self._best, self._waited = {"score": score, "epoch": self._done}, 0
            for name in names:
                self._params[f"best {name}"].assign(self._params[name])
        else:
            self._waited += 1
        metrics = {"loss": loss, "phase": phase + 1, "epoch": self._done}
        if np.isfinite(score):
            metrics["validation"] = score
        if self._done >= self.epochs or self._waited >= self.patience:
            for name in names:
                self._params[name].assign(self._params[f"best {name}"])
            self._phase, self._done, self._waited = phase + 1, 0, 0
            self._best = {"score": -np.inf, "epoch": 0}
            left = len(self._phases()) - self._phase
            self.total_ = self.progress_ + 1 + left * self._units()
            if left:
                self._enter(self._phase)
        return metrics

    def _step(self, name: str) -> None:
        """One optimiser step along the gradients, which are then zero."""
        self._optimizer.step(self._params[name], self._grads[name], self._optimizers[name])
        self._grads[name].flat[...] = 0

    def checkpoint(self):
        arrays, meta = super().checkpoint()
        where = {"phase": self._phase, "done": self._done, "waited": self._waited, "total": self.total_}
        best = {"score": float(self._best["score"]), "epoch": self._best["epoch"]}
        if not np.isfinite(best["score"]):
            best["score"] = None  # JSON knows no infinity
        return arrays, {**meta, "total": self._planned, "where": {**where, "best": best}}

    def restore(self, arrays, meta):
        super().restore(arrays, meta)
        where = meta["where"]
        self._phase, self._done, self._waited = where["phase"], where["done"], where["waited"]
        self.total_, best = where["total"], where["best"]
        self._best = {**best, "score": -np.inf if best["score"] is None else best["score"]}
        self._restored()
        if self.progress_ < self.total_:
            self._enter(self._phase)

    def _restored(self) -> None:
        """Compute again what depends on restored arrays."""


class NodeLearner(GraphLearner):
    """Classes of nodes; see the head of the module."""

    classes_: np.ndarray
    _kind = "classifier"

    def _take_nodes(self, graph: Any, y: Any) -> None:
        """Check the data and keep them: _graph, _labels (class numbers or -1), _train, _validation (node numbers)."""
        who = type(self).__name__
        self._graph = self._take_graph(graph, reset=True)
        y = self._check_node_labels(y)
        known = y >= 0
        self.classes_ = np.unique(y[known])
        if len(self.classes_) < 2:
            raise ValueError(f"{who}: the labelled nodes have {len(self.classes_)} class(es), expected at least 2")
        self._labels = np.where(known, np.searchsorted(self.classes_, y), -1)
        if self._validation_given is None:
            chosen = np.random.default_rng(0).permutation(np.flatnonzero(known))[: int(known.sum()) // 5]
            mask = np.zeros(self._n, bool)
            mask[chosen] = True
        else:
            mask = np.asarray(self._validation_given)
            if mask.shape != (self._n,) or mask.dtype != bool:
                raise ValueError(f"{who}: validation is {mask.dtype}{list(mask.shape)}, expected bool[{self._n}]")
            if (mask & ~known).any():
                raise ValueError(f"{who}: node {np.flatnonzero(mask & ~known)[0]} is for validation, but has no label")
        self._train, self._validation = np.flatnonzero(known & ~mask), np.flatnonzero(mask)
        lacking = np.setdiff1d(np.arange(len(self.classes_)), self._labels[self._train])
        if len(lacking):
            raise ValueError(f"{who}: class {self.classes_[lacking[0]]} has no training node")

    def _check_node_labels(self, y: Any) -> np.ndarray:
        y = np.asarray(y)
        if y.shape != (self._n,) or y.dtype.kind not in "iu":
            given = f"{y.dtype}{list(y.shape)}"
            raise ValueError(f"{type(self).__name__}: y is {given}, expected {self._n} integers, -1 where unknown")
        if len(y) and y.min() < -1:
            raise ValueError(f"{type(self).__name__}: y holds {y.min()}, expected classes of at least 0, -1 if unknown")
        return y.astype(np.int64)

    @property
    def _n_classes(self) -> int:
        return len(self.classes_)

    def _accuracy(self, scores: np.ndarray, nodes: np.ndarray) -> float:
        """Accuracy of the largest of `scores` (len(nodes), K); NaN for no nodes."""
        return float(np.mean(scores.argmax(axis=1) == self._labels[nodes])) if len(nodes) else float("nan")

    def predict_proba(self, X: Any) -> np.ndarray:
        """How much speaks for each class, (N, K), columns in the order of `classes_`."""
        raise NotImplementedError

    def predict(self, X: Any) -> np.ndarray:
        """The class of each node."""
        best = self.predict_proba(X).argmax(axis=1)
        return self.classes_[best]

    def score(self, X: Any, y: Any) -> float:
        """Accuracy over the nodes with a label (not -1) in y."""
        predicted = self.predict(X)
        y = self._check_node_labels(y)
        if not (y >= 0).any():
            raise ValueError(f"{type(self).__name__}: no node has a label, expected some to be judged by")
        return float(np.mean((predicted == y)[y >= 0]))


class LinkLearner(GraphLearner):
    """Whether pairs of nodes are joined; see the head of the module."""

    _kind = "classifier"

    def _take_pairs(self, graph: Any, y: Any) -> None:
        """Check the data and keep them: _graph, _pairs, _validation_pairs (or None)."""
        self._graph = self._take_graph(graph, reset=True)
        self._pairs = self._check_pairs("y", y)
        given = self._validation_given
        self._validation_pairs = None if given is None else self._check_pairs("validation", given)

    def _check_pairs(self, name: str, pairs: Any) -> Pairs:
        who = type(self).__name__
        if not isinstance(pairs, Pairs):
            raise TypeError(f"{who}: {name} is a {type(pairs).__name__}, expected refimpl.data.graphs.Pairs")
        nodes, joined = np.asarray(pairs.nodes), np.asarray(pairs.joined)
        if nodes.ndim != 2 or nodes.shape[1] != 2 or joined.shape != nodes.shape[:1] or nodes.dtype.kind not in "iu":
            raise ValueError(f"{who}: {name} has {nodes.shape} nodes and {joined.shape} answers, expected (P, 2), (P,)")
        if len(nodes) and not 0 <= nodes.min() <= nodes.max() < self._n:
            raise ValueError(f"{who}: {name} names nodes {nodes.min()} to {nodes.max()}, expected 0 to {self._n - 1}")
        if not (np.isin(joined, (0, 1)).all() and 0 < joined.sum() < len(joined)):
            raise ValueError(f"{who}: {name} needs joined pairs (1) and others (0), and nothing else")
        return Pairs(nodes.astype(np.int64), joined.astype(np.int64))

    def predict_proba(self, X: Any, pairs: np.ndarray) -> np.ndarray:
        """How likely each of the pairs (P, 2) is joined, (P,)."""
        raise NotImplementedError

    def score(self, X: Any, y: Any) -> float:
        """Area under the ROC curve for Pairs y, with messages along the edges of X."""
        y = self._check_pairs("y", y)
        return roc_auc(self.predict_proba(X, y.nodes), y.joined)


def states(shapes: dict[str, tuple[int, ...]], dtype: Any) -> Params:
    """Arrays that training keeps but no optimiser touches, as a group of parameters, so that a checkpoint has them."""
    return Params({}, shapes, dtype)
