"""SF, single-forward [3]: each layer learns to point its nodes at their class nodes, one layer after the other."""

from __future__ import annotations

from typing import Any

import numpy as np

from refimpl.data.graphs import Graph
from refimpl.methods.graph.forward_gnn.losses import class_probabilities, single_forward_loss
from refimpl.methods.graph.forward_gnn.scheme import Scheme, ready
from refimpl.nn.graph import Sparse

__all__ = ["SingleForward"]


class SingleForward(Scheme):
    """Layer l: Z = relu(GNN(nrm(x), A')), loss from <Z_i, Z_class>, until its own early stopping; then x <- Z."""

    def shapes(self):
        return self.greedy_shapes()

    def derive(self):
        m = self.m
        self.S = self.class_graph(m._graph.A, m._train, m._labels[m._train])
        self.x = self.class_features(m._graph.x)

    def chain(self, S: Sparse, x: np.ndarray | Sparse, depth: int) -> tuple[np.ndarray | Sparse, np.ndarray]:
        """The output of `depth` layers and the sum of their class probabilities, (N, K) [3.4]."""
        m = self.m
        total = np.zeros((m._n, m._n_classes), m.dtype)
        for i in range(depth):
            x = self.output(i, (S, self.layer_input(i, x, m._train, m._labels[m._train])))
            total += class_probabilities(x[: m._n], x[m._n :], m.temperature)
        return x, total

    def enter(self, phase):
        m = self.m
        x, self.before = self.chain(self.S, self.x, phase)
        given = self.layer_input(phase, x, m._train, m._labels[m._train])
        layer, virtual = m._layers[phase], np.arange(m._n, m._n + m._n_classes)
        self.given, self.limited = ready(layer, self.S, given, np.concatenate([m._train, virtual]))
        self.judged, _ = ready(layer, self.S, given, np.concatenate([m._validation, virtual]))
        rows = len(m._train) + len(virtual) if self.limited else m._n + len(virtual)
        self.dz = np.zeros((rows, layer.d_out), m.dtype)  # rows of other nodes stay 0

    def split(self, z: np.ndarray, nodes: np.ndarray) -> tuple[Any, Any]:
        """Where in z the rows of `nodes` and of the class nodes are."""
        return (slice(0, len(nodes)), slice(len(nodes), None)) if self.limited else (nodes, slice(self.m._n, None))

    def epoch(self, phase):
        m = self.m
        z, saved = self.forward(phase, self.given)
        own, virtual = self.split(z, m._train)
        loss, self.dz[own], self.dz[virtual] = single_forward_loss(
            z[own], z[virtual], m._labels[m._train], m.temperature
        )
        self.backward(phase, saved, z, self.dz)
        m._step(f"layer{phase + 1}")
        return loss

    def validate(self, phase):
        m = self.m
        if not len(m._validation):
            return float("nan")
        z = self.output(phase, self.judged)
        own, virtual = self.split(z, m._validation)
        p = self.before[m._validation] + class_probabilities(z[own], z[virtual], m.temperature)
        return m._accuracy(p, m._validation)

    def scores(self, graph: Graph) -> np.ndarray:
        m = self.m
        S = self.class_graph(graph.A, m._train, m._labels[m._train])
        return self.chain(S, self.class_features(graph.x), m.layers)[1] / m.layers
