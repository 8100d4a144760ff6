"""Back-propagation on a graph: what methods for graph neural networks are compared with.

Nodes: a GNN of L layers with ReLU between, mean cross-entropy of the training nodes (Kipf and Welling, 2017). Links: a
GNN of L layers whose last output is an embedding; the logit of a pair is the dot product of its embeddings (Kipf and
Welling, "Variational graph auto-encoders", 2016, without the variational part). Adam with coupled weight decay.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refimpl import ops
from refimpl.models.gnn import gnn, node_step
from refimpl.models.graph_learner import LinkLearner, NodeLearner, pair_sums
from refimpl.nn import initialise

__all__ = ["BackpropGNN", "BackpropLinks", "pair_loss"]


class BackpropGNN(NodeLearner):
    """Classes of nodes by end-to-end back-propagation.

    kind: "gcn", "sage" or "gat"; layers: how many; width: of the hidden ones; heads: of "gat"; epochs: at most;
    validate_every: epochs between validations; patience: validations without a better one before training stops.
    """

    def __init__(
        self,
        kind: str = "gcn",
        layers: int = 2,
        width: int = 128,
        heads: int = 4,
        epochs: int = 1000,
        validate_every: int = 2,
        patience: int = 100,
        lr: float = 1e-3,
        weight_decay: float | None = 5e-4,
        dtype: str = "float32",
        random_state: Any = None,
    ):
        self.kind = kind
        self.layers = layers
        self.width = width
        self.heads = heads
        self.epochs = epochs
        self.validate_every = validate_every
        self.patience = patience
        self.lr = lr
        self.weight_decay = weight_decay
        self.dtype = dtype
        self.random_state = random_state

    def _begin(self, X, y):
        self._check_settings(layers=1, width=1, heads=1)
        self._take_nodes(X, y)
        rng = self._start(0.0 if self.weight_decay is None else self.weight_decay)
        widths = (self.n_features_in_, *[self.width] * (self.layers - 1), self._n_classes)
        self._net = gnn(self.kind, widths, self.heads)
        self._params = {"net": initialise(self._net, rng, self.dtype)}
        self._operator = self._net.operator(self._graph.A, self.dtype)

    def _phases(self):
        return [["net"]]

    def _epoch(self, phase):
        params, grads = self._params["net"], self._grads["net"]
        loss = node_step(self._net, params, grads, self._operator, self._graph.x, self._labels, self._train)
        self._step("net")
        return loss

    def _logits(self, operator: Any, x: Any) -> np.ndarray:
        return self._net.apply(self._params["net"], (operator, x))

    def _validate(self, phase):
        return self._accuracy(self._logits(self._operator, self._graph.x)[self._validation], self._validation)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Softmax of the outputs, (N, K)."""
        self._check_fitted()
        graph = self._take_graph(X, reset=False)
        return ops.softmax(self._logits(self._net.operator(graph.A, self.dtype), graph.x))


def pair_loss(z: np.ndarray, nodes: np.ndarray, joined: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean binary cross-entropy of the logits s_uv = <z_u, z_v> of pairs, and its gradient.

    delta = (sigmoid(s) - joined) / P, dz_u += delta z_v, dz_v += delta z_u. z (N, D), nodes (P, 2), joined (P,).
    """
    z_u, z_v = z[nodes[:, 0]], z[nodes[:, 1]]
    s = np.einsum("pd,pd->p", z_u, z_v)
    target = joined.astype(z.dtype)
    loss = ops.binary_cross_entropy_with_logits(s, target)
    delta = ops.binary_cross_entropy_with_logits_backward(s, target)[:, None]
    return float(loss), pair_sums(len(z), nodes, delta * z_v, delta * z_u)


class BackpropLinks(LinkLearner):
    """Links by end-to-end back-propagation through a GNN that makes embeddings of `width`. Arguments as BackpropGNN."""

    def __init__(
        self,
        kind: str = "gcn",
        layers: int = 2,
        width: int = 128,
        heads: int = 4,
        epochs: int = 1000,
        validate_every: int = 2,
        patience: int = 100,
        lr: float = 1e-3,
        weight_decay: float | None = 5e-4,
        dtype: str = "float32",
        random_state: Any = None,
    ):
        self.kind = kind
        self.layers = layers
        self.width = width
        self.heads = heads
        self.epochs = epochs
        self.validate_every = validate_every
        self.patience = patience
        self.lr = lr
        self.weight_decay = weight_decay
        self.dtype = dtype
        self.random_state = random_state

    def _begin(self, X, y):
        self._check_settings(layers=1, width=1, heads=1)
        self._take_pairs(X, y)
        rng = self._start(0.0 if self.weight_decay is None else self.weight_decay)
        self._net = gnn(self.kind, (self.n_features_in_, *[self.width] * self.layers), self.heads)
        self._params = {"net": initialise(self._net, rng, self.dtype)}
        self._operator = self._net.operator(self._graph.A, self.dtype)

    def _phases(self):
        return [["net"]]

    def _epoch(self, phase):
        params = self._params["net"]
        z, saved = self._net.forward(params, (self._operator, self._graph.x))
        loss, dz = pair_loss(z, self._pairs.nodes, self._pairs.joined)
        self._net.backward(params, self._grads["net"], saved, dz, need_dx=False)
        self._step("net")
        return loss

    def _validate(self, phase):
        if self._validation_pairs is None:
            return float("nan")
        return self.score(self._graph, self._validation_pairs)

    def predict_proba(self, X: Any, pairs: np.ndarray) -> np.ndarray:
        """Sigmoid of the dot products of the pairs' embeddings, (P,)."""
        self._check_fitted()
        graph = self._take_graph(X, reset=False)
        z = self._net.apply(self._params["net"], (self._net.operator(graph.A, self.dtype), graph.x))
        return ops.sigmoid(np.einsum("pd,pd->p", z[pairs[:, 0]], z[pairs[:, 1]]))
