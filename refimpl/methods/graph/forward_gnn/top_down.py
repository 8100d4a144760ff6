"""SF with signals from above, all layers at once: into a layer's input [4] or into its loss [5]. Still no gradient
crosses a layer: what comes from a neighbouring layer is its output of an earlier step, a constant.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refimpl import ops
from refimpl.data.graphs import Graph
from refimpl.methods.graph.forward_gnn.inputs import label_matrix, normalised
from refimpl.methods.graph.forward_gnn.losses import class_probabilities, single_forward_loss
from refimpl.methods.graph.forward_gnn.scheme import Scheme
from refimpl.nn.graph import Features, Sparse

__all__ = ["TopToInput", "TopToLoss", "mean_of_layers", "schedule"]

STEPS, SKIPPED = 10, 2  # time steps of an evaluation of Top-To-Input, and how many of them do not count


def schedule(L: int) -> list[int]:
    """The alternating order of one time step [4.2]: layers with an even 0-based index, then the odd ones."""
    return [*range(0, L, 2), *range(1, L, 2)]


def mean_of_layers(z: np.ndarray, upper: list[np.ndarray]) -> np.ndarray:
    """M = mean of {Z, s_{j+1}, ..., s_L} [5]."""
    M = z.copy()
    for s in upper:
        M += s
    return M / M.dtype.type(1 + len(upper))


class _TopDown(Scheme):
    """What both share: one phase, a state s_j (n, width) for each layer, which is kept from step to step."""

    def phases(self):
        return [[f"layer{i}" for i in range(1, self.m.layers + 1)]]

    def derive(self):
        m = self.m
        self.S = self.class_graph(m._graph.A, m._train, m._labels[m._train])
        self.x = normalised(self.class_features(m._graph.x))

    @property
    def states(self) -> list[np.ndarray]:
        return [self.m._params["states"][f"s{i}"] for i in range(1, self.m.layers + 1)]

    def enter(self, phase):
        if self.m.progress_ == 0:  # later the states are those of the checkpoint
            for state, s in zip(self.states, self.bottom_up(self.S, self.x)):
                state[...] = s

    def bottom_up(self, S: Sparse, x: Features) -> list[np.ndarray]:
        """First states of a graph."""
        raise NotImplementedError

    def probabilities(self, S: Sparse, x: Features) -> np.ndarray:
        """(N, K), summed over layers (and steps)."""
        raise NotImplementedError

    def learn(self, j: int, given: Any, upper: list[np.ndarray]) -> tuple[float, np.ndarray]:
        """Forward, SF loss on M (on Z where nothing is above), backward. Returns the loss and Z."""
        m = self.m
        z, saved = self.forward(j, given)
        M = mean_of_layers(z, upper) if upper else z
        dz, share = np.zeros_like(z), 1 / (1 + len(upper))  # dM/dZ
        rows, virtual = m._train, slice(m._n, None)
        loss, d, dv = single_forward_loss(M[rows], M[virtual], m._labels[rows], m.temperature)
        dz[rows], dz[virtual] = z.dtype.type(share) * d, z.dtype.type(share) * dv
        self.backward(j, saved, z, dz)
        return loss, z

    def validate(self, phase):
        m = self.m
        if not len(m._validation):
            return float("nan")
        return m._accuracy(self.probabilities(self.S, self.x)[m._validation], m._validation)

    def scores(self, graph: Graph) -> np.ndarray:
        m = self.m
        S = self.class_graph(graph.A, m._train, m._labels[m._train])
        p = self.probabilities(S, normalised(self.class_features(graph.x)))
        return p / p.sum(axis=1, keepdims=True)


class TopToInput(_TopDown):
    """Layer j reads [nrm(s_{j-1}) | nrm(s_{j+1})] [4]; above the last layer stand the labels."""

    def widths(self) -> list[int]:
        """Of the states s_0 .. s_{L+1}."""
        m = self.m
        return [m.n_features_in_, *[m.width] * (m.layers - 1), m._n_classes, m._n_classes]

    def shapes(self):
        w = self.widths()
        return [(w[j - 1] + w[j + 1], w[j]) for j in range(1, self.m.layers + 1)]

    def derive(self):
        super().derive()
        m = self.m
        K, n = m._n_classes, m._n + m._n_classes
        nodes = np.concatenate([m._train, np.arange(m._n, n)])
        classes = np.concatenate([m._labels[m._train], np.arange(K)])
        self.top = normalised(label_matrix(n, nodes, classes, K, m.dtype))

    def input_of(self, j: int, x: Features, states: list[np.ndarray]) -> Features:
        """[nrm(s_{j-1}) | nrm(s_{j+1})] of the 0-based layer j; x is nrm(s_0)."""
        below = x if j == 0 else normalised(states[j - 1])
        above = self.top if j + 1 == len(states) else normalised(states[j + 1])
        return below, above  # type: ignore[return-value]

    def bottom_up(self, S, x):
        found: list[Any] = []
        for j, (_, width) in enumerate(self.shapes()):
            above = self.widths()[j + 2]
            below = x if j == 0 else normalised(found[-1])
            zeros = np.zeros((S.shape[0], above), self.m.dtype)
            found.append(self.output(j, (S, (below, zeros))))
            assert found[-1].shape[1] == width
        return found

    def epoch(self, phase):
        m, losses, states = self.m, [], self.states
        for j in schedule(m.layers):
            loss, z = self.learn(j, (self.S, self.input_of(j, self.x, states)), [])
            m._step(f"layer{j + 1}")
            states[j][...] = z  # the Z before the update [4.2]
            losses.append(loss)
        return float(np.mean(losses))

    def probabilities(self, S, x):
        m, states = self.m, self.bottom_up(S, x)
        total = np.zeros((m._n, m._n_classes), m.dtype)
        for step in range(STEPS):
            for j in schedule(m.layers):
                states[j] = self.output(j, (S, self.input_of(j, x, states)))
            if step >= SKIPPED:
                for z in states:
                    total += class_probabilities(z[: m._n], z[m._n :], m.temperature)
        return total


class TopToLoss(_TopDown):
    """Layer j is judged by the mean of its output and the states above it [5]; gradients are clipped to norm 1."""

    def shapes(self):
        widths = [self.m.n_features_in_, *[self.m.width] * self.m.layers]
        return list(zip(widths[:-1], widths[1:]))  # noqa: RUF007

    def bottom_up(self, S, x):
        found, h = [], x
        for j in range(self.m.layers):
            z = self.output(j, (S, h))
            found.append(normalised(z))
            h = z if self.m.strict_reference else found[-1]  # the reference feeds raw outputs here
        return found

    def epoch(self, phase):
        m, losses, old = self.m, [], [s.copy() for s in self.states]
        for j in range(m.layers):
            loss, z = self.learn(j, (self.S, self.x if j == 0 else old[j - 1]), old[j + 1 :])
            self.clip(f"layer{j + 1}")
            m._step(f"layer{j + 1}")
            self.states[j][...] = normalised(z)
            losses.append(loss)
        return float(np.mean(losses))

    def clip(self, name: str) -> None:
        """Gradients times min(1, clip / (norm + 1e-6))."""
        if self.m.clip is not None:
            grads = self.m._grads[name].flat
            factor = self.m.clip / (np.sqrt(ops.sum_of_squares(grads)) + 1e-6)
            if factor < 1:
                ops.scale_inplace(grads, float(factor))

    def probabilities(self, S, x):
        m, states = self.m, self.bottom_up(S, x)
        total = np.zeros((m._n, m._n_classes), m.dtype)
        for j in range(m.layers):
            M = mean_of_layers(self.output(j, (S, x if j == 0 else states[j - 1])), states[j + 1 :])
            total += class_probabilities(M[: m._n], M[m._n :], m.temperature)
        return total
