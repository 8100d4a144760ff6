"""Link prediction without back-propagation through the layers [6]: ForwardGNN-CE, -FF and -CE-Top-To-Input."""

from __future__ import annotations

from typing import Any

import numpy as np

from refimpl import ops
from refimpl.baselines.graph import pair_loss
from refimpl.data.graphs import Graph
from refimpl.methods.graph.forward_gnn.inputs import normalised
from refimpl.methods.graph.forward_gnn.losses import goodness, link_goodness_loss
from refimpl.methods.graph.forward_gnn.scheme import ready
from refimpl.methods.graph.forward_gnn.top_down import SKIPPED, STEPS, schedule
from refimpl.models.gnn import graph_layer
from refimpl.models.graph_learner import LinkLearner, pair_sums, roc_auc, states
from refimpl.nn import initialise
from refimpl.nn.graph import Features, Sparse

__all__ = ["ForwardGNNLinks"]

VARIANTS = ("ce", "ff", "ce-top-to-input")


class ForwardGNNLinks(LinkLearner):
    """Whether pairs of nodes are joined, by graph layers that each learn it for themselves.

    variant     "ce" (cross-entropy of <Z_u, Z_v>), "ff" (goodness of Z_u * Z_v), "ce-top-to-input" (all layers at once,
                each reads the layer above it too)
    weight_decay    None: 5e-4, but none for "ce-top-to-input"
    Other arguments as in ForwardGNN. The score of a pair is the mean over the layers of its probability.
    """

    def __init__(
        self,
        variant: str = "ce",
        kind: str = "gcn",
        layers: int = 2,
        width: int = 128,
        heads: int = 4,
        epochs: int = 1000,
        validate_every: int = 2,
        patience: int = 100,
        lr: float = 1e-3,
        weight_decay: float | None = None,
        threshold: float = 2.0,
        dtype: str = "float32",
        random_state: Any = None,
    ):
        self.variant = variant
        self.kind = kind
        self.layers = layers
        self.width = width
        self.heads = heads
        self.epochs = epochs
        self.validate_every = validate_every
        self.patience = patience
        self.lr = lr
        self.weight_decay = weight_decay
        self.threshold = threshold
        self.dtype = dtype
        self.random_state = random_state

    # ------------------------------------------------------------ training

    def _begin(self, X, y):
        self._check_settings(layers=1, width=1, heads=1)
        if self.variant not in VARIANTS:
            raise self._bad("variant", f"one of {', '.join(VARIANTS)}")
        if self.width % self.heads and self.kind == "gat":
            raise self._bad("width", f"a multiple of heads, {self.heads}")
        if not np.isfinite(self.threshold):
            raise self._bad("threshold", "a finite number")
        self._take_pairs(X, y)
        decay = (0.0 if self._top_down else 5e-4) if self.weight_decay is None else self.weight_decay
        rng = self._start(decay)
        widths = [self.n_features_in_, *[self.width] * self.layers]
        above = [self.width * (self._top_down and i + 1 < self.layers) for i in range(self.layers)]
        self._layers = [
            graph_layer(self.kind, widths[i] + above[i], self.width, self.heads) for i in range(self.layers)
        ]
        self._params = {f"layer{i}": initialise(f, rng, self.dtype) for i, f in enumerate(self._layers, 1)}
        if self._top_down:
            shapes = {f"s{i}": (self._n, self.width) for i in range(1, self.layers + 1)}
            self._params["states"] = states(shapes, self.dtype)
        self._operator = self._operator_of(self._graph)
        self._x = normalised(self._graph.x)

    @property
    def _top_down(self) -> bool:
        return self.variant == "ce-top-to-input"

    def _operator_of(self, graph: Graph) -> Sparse:
        return self._layers[0].operator(graph.A, np.dtype(self.dtype))

    def _phases(self):
        names = [f"layer{i}" for i in range(1, self.layers + 1)]
        return [names] if self._top_down else [[name] for name in names]

    def _loss(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """The layer's loss on the training pairs, and dL/dZ."""
        nodes, joined = self._pairs.nodes, self._pairs.joined
        if self.variant != "ff":
            return pair_loss(z, nodes, joined)
        loss, d_u, d_v = link_goodness_loss(z[nodes[:, 0]], z[nodes[:, 1]], joined, self.threshold)
        return loss, pair_sums(len(z), nodes, d_u, d_v)

    def _probability(self, z: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        """sigma(<Z_u, Z_v>), or sigma(g - theta)."""
        z_u, z_v = z[nodes[:, 0]], z[nodes[:, 1]]
        if self.variant == "ff":
            return ops.sigmoid(goodness(z_u * z_v) - z.dtype.type(self.threshold))
        return ops.sigmoid(np.einsum("pd,pd->p", z_u, z_v))

    def _learn(self, i: int, given: Any) -> tuple[float, np.ndarray]:
        """One step of layer i; returns the loss and the Z before the update."""
        name, layer = f"layer{i + 1}", self._layers[i]
        z, saved = layer.forward(self._params[name], given)
        z = ops.relu(z, out=z)
        loss, dz = self._loss(z)
        ops.relu_backward(dz, z, out=dz)
        layer.backward(self._params[name], self._grads[name], saved, dz, need_dx=False)
        self._step(name)
        return loss, z

    def _output(self, i: int, given: Any) -> np.ndarray:
        z = self._layers[i].apply(self._params[f"layer{i + 1}"], given)
        return ops.relu(z, out=z)

    def _enter(self, phase):
        if self._top_down:
            if self.progress_ == 0:
                for s, z in zip(self._states, self._bottom_up(self._operator, self._x)):
                    s[...] = z
            return
        x, self._below = self._x, []
        for i in range(phase):
            z = self._output(i, (self._operator, x))
            if self._validation_pairs is not None:
                self._below.append(self._probability(z, self._validation_pairs.nodes))
            x = normalised(z)
        self._given, _ = ready(self._layers[phase], self._operator, x, np.arange(self._n))

    def _epoch(self, phase):
        if not self._top_down:
            return self._learn(phase, self._given)[0]
        losses, s = [], self._states
        for j in schedule(self.layers):
            loss, z = self._learn(j, (self._operator, self._input_of(j, self._x, s)))
            s[j][...] = z
            losses.append(loss)
        return float(np.mean(losses))

    def _validate(self, phase):
        pairs = self._validation_pairs
        if pairs is None:
            return float("nan")
        if self._top_down:
            return self.score(self._graph, pairs)
        p = self._probability(self._output(phase, self._given), pairs.nodes)
        return roc_auc(np.mean([*self._below, p], axis=0), pairs.joined)

    # ------------------------------------------------------------ top-to-input: states of all layers

    @property
    def _states(self) -> list[np.ndarray]:
        return [self._params["states"][f"s{i}"] for i in range(1, self.layers + 1)]

    def _input_of(self, j: int, x: Features, s: list[np.ndarray]) -> Features:
        """[nrm(s_{j-1}) | nrm(s_{j+1})]; the top layer reads the one below alone."""
        below = x if j == 0 else normalised(s[j - 1])
        if j + 1 == self.layers:
            return below
        return below, normalised(s[j + 1])  # type: ignore[return-value]

    def _bottom_up(self, S: Sparse, x: Features) -> list[np.ndarray]:
        """First states: what is above counts as zero."""
        zeros, found = np.zeros((self._n, self.width), self.dtype), [np.zeros((0, 0))][:0]
        for j in range(self.layers):
            below = x if j == 0 else normalised(found[-1])
            found.append(self._output(j, (S, below if j + 1 == self.layers else (below, zeros))))
        return found

    # ------------------------------------------------------------ prediction

    def predict_proba(self, X: Any, pairs: np.ndarray) -> np.ndarray:
        """How likely each of the pairs (P, 2) is joined, (P,); messages run along the edges of X."""
        self._check_fitted()
        graph = self._take_graph(X, reset=False)
        S, x, pairs = self._operator_of(graph), normalised(graph.x), np.asarray(pairs)
        if not self._top_down:
            found, h = [], x
            for i in range(self.layers):
                z = self._output(i, (S, h))
                found.append(self._probability(z, pairs))
                h = normalised(z)
            return np.mean(found, axis=0)
        s, found = self._bottom_up(S, x), []
        for step in range(STEPS):
            for j in schedule(self.layers):
                s[j] = self._output(j, (S, self._input_of(j, x, s)))
            if step >= SKIPPED:
                found += [self._probability(z, pairs) for z in s]
        return np.mean(found, axis=0)
