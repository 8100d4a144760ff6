"""FF: one pass with right labels and R with wrong ones. Labels in the features (FF-LA [1]) or as edges (FF-VN [2])."""

from __future__ import annotations

from typing import Any

import numpy as np

from refimpl import ops
from refimpl.data.graphs import Graph
from refimpl.methods.graph.forward_gnn.losses import goodness, goodness_loss
from refimpl.methods.graph.forward_gnn.scheme import Scheme, ready
from refimpl.nn.graph import Features, Sparse

__all__ = ["LabelAppending", "VirtualNodes"]


class ForwardForward(Scheme):
    """Layer by layer: goodness above theta in the positive pass, below it in the negative ones."""

    shared_input = False  # whether the negative passes read the positive pass's output

    def shapes(self):
        return self.greedy_shapes()

    def pass_classes(self) -> list[np.ndarray]:
        """The classes of the training nodes in the positive pass, then in each negative one."""
        m = self.m
        negatives = m._params["fixed"]["negatives"].astype(np.int64)
        return [m._labels[m._train], *negatives.T]

    def graph_of(self, A: Sparse, nodes: np.ndarray, classes: np.ndarray) -> Sparse:
        """The operator of a pass in which `nodes` have these classes."""
        raise NotImplementedError

    def features_of(self, x: Sparse) -> Sparse:
        """The features that go in."""
        raise NotImplementedError

    def derive(self):
        m = self.m
        self.passes = [(self.graph_of(m._graph.A, m._train, c), c) for c in self.pass_classes()]
        self.x = self.features_of(m._graph.x)

    def inputs(self, depth: int) -> list[Features]:
        """nrm of what the first `depth` layers make of each pass: the inputs of the next layer."""
        m = self.m
        found: list[Features] = [self.layer_input(0, self.x, m._train, c) for _, c in self.passes]
        for i in range(depth):
            z = [self.output(i, (S, x)) for (S, _), x in zip(self.passes, found)][: 1 if self.shared_input else None]
            z = z * len(self.passes) if self.shared_input else z
            found = [self.layer_input(i + 1, z_r, m._train, c) for z_r, (_, c) in zip(z, self.passes)]
        return found

    def class_passes(self, graph: Graph, known: np.ndarray, judged: np.ndarray) -> list[tuple[Sparse, Any, Any]]:
        """For each class c: operator, nodes and classes of the pass in which `judged` get c and `known` their own."""
        m = self.m
        nodes, own = np.concatenate([known, judged]), m._labels[known]
        found = []
        for c in range(m._n_classes):
            classes = np.concatenate([own, np.full(len(judged), c)])
            found.append((self.graph_of(graph.A, nodes, classes), nodes, classes))
        return found

    def run(self, passes: list, x: Sparse, judged: np.ndarray, depth: int) -> tuple[list[Any], np.ndarray]:
        """What comes out of `depth` layers for each class, and the scores so far: sum over the layers of mean_k Z^2 -
        theta [1.5], (len(judged), K)."""
        m = self.m
        out: list[Any] = [x] * len(passes)
        total = np.zeros((len(judged), len(passes)), m.dtype)
        for i in range(depth):
            for c, (S, nodes, classes) in enumerate(passes):
                out[c] = self.output(i, (S, self.layer_input(i, out[c], nodes, classes)))
                total[:, c] += self.layer_score(out[c][judged])
        return out, total

    def layer_score(self, z: np.ndarray) -> np.ndarray:
        return goodness(z) / z.dtype.type(z.shape[1]) - z.dtype.type(self.m.threshold)

    def enter(self, phase):
        m, layer = self.m, self.m._layers[phase]
        made = [ready(layer, S, x, m._train) for (S, _), x in zip(self.passes, self.inputs(phase))]
        self.given, self.limited = [g for g, _ in made], made[0][1]
        self.judged = []
        if len(m._validation):
            passes = self.class_passes(m._graph, m._train, m._validation)
            below, self.before = self.run(passes, self.x, m._validation, phase)
            for (S, nodes, classes), x in zip(passes, below):
                self.judged.append(ready(layer, S, self.layer_input(phase, x, nodes, classes), m._validation)[0])

    def epoch(self, phase):
        m, total = self.m, 0.0
        R = len(self.given) - 1
        for r, given in enumerate(self.given):
            z, saved = self.forward(phase, given)
            own = slice(None) if self.limited else m._train
            loss, d = goodness_loss(z[own], r == 0, m.threshold, 1.0 if r == 0 else 1 / R)
            dz = d
            if not self.limited:
                dz = np.zeros_like(z)
                dz[own] = d
            self.backward(phase, saved, z, dz)
            total += loss
        m._step(f"layer{phase + 1}")
        return total

    def validate(self, phase):
        m = self.m
        if not self.judged:
            return float("nan")
        own = slice(None) if self.limited else m._validation
        now = [self.layer_score(self.output(phase, given)[own]) for given in self.judged]
        return m._accuracy(self.before + np.stack(now, axis=1), m._validation)

    def scores(self, graph: Graph) -> np.ndarray:
        """Softmax of the scores; nodes whose label is known (validation included [1.5]) have it."""
        m = self.m
        known = np.flatnonzero(m._labels >= 0)
        judged = np.flatnonzero(m._labels < 0)
        p = np.zeros((m._n, m._n_classes), m.dtype)
        p[known, m._labels[known]] = 1
        if len(judged):
            passes = self.class_passes(graph, known, judged)
            p[judged] = ops.softmax(self.run(passes, self.features_of(graph.x), judged, m.layers)[1])
        return p


class LabelAppending(ForwardForward):
    """FF-LA [1]: [X | label]; each pass reads its own outputs; the graph is the same for all."""

    def appended(self, i):
        return i == 0

    def graph_of(self, A, nodes, classes):
        if getattr(self, "_of", None) is not A:
            self._of, self._S = A, self.operator(A)
        return self._S

    def features_of(self, x):
        return x


class VirtualNodes(ForwardForward):
    """FF-VN [2]: edges to class nodes; after a layer, all passes read the output of the positive one."""

    shared_input = True

    def graph_of(self, A, nodes, classes):
        return self.class_graph(A, nodes, classes)

    def features_of(self, x):
        return self.class_features(x)
