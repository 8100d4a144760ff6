"""Graph neural networks for nodes: graph layers with an activation between, and one training step of them.

    net = gnn("gcn", (1433, 128, 128, 7))            # three layers
    operator = net.operator(A)                       # once for a graph
    params, grads = initialise(net, rng), ...
    loss = node_step(net, params, grads, operator, x, y, rows)       # mean cross-entropy over `rows`, gradients added

Source: Kipf and Welling, "Semi-supervised classification with graph convolutional networks", 2017, equation (9).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from refimpl import ops
from refimpl.nn import Layer, Params, declare_all
from refimpl.nn.graph import GATConv, GCNConv, SAGEConv, Sparse

__all__ = ["GNN", "KINDS", "gnn", "graph_layer", "node_step"]

KINDS = ("gcn", "sage", "gat")


def graph_layer(kind: str, d_in: int, d_out: int, heads: int = 4) -> GCNConv | SAGEConv | GATConv:
    """A graph layer by name, one of KINDS; `heads` counts for "gat". Raises ValueError for another name."""
    if kind == "gcn":
        return GCNConv(d_in, d_out)
    if kind == "sage":
        return SAGEConv(d_in, d_out)
    if kind == "gat":
        return GATConv(d_in, d_out, heads)
    raise ValueError(f"graph layer is {kind!r}, expected one of {', '.join(KINDS)}")


class GNN(Layer):
    """Graph layers of one kind with ReLU between; the last is linear. Input (operator, x), output (N, d_out)."""

    def __init__(self, *layers: GCNConv | SAGEConv | GATConv):
        if not layers:
            raise ValueError("GNN: no layers given, expected at least one")
        if len({type(layer) for layer in layers}) > 1:
            raise ValueError("GNN: layers of several kinds, expected one: they share the operator")
        self.layers = {f"layer{i}": layer for i, layer in enumerate(layers, 1)}

    def __repr__(self) -> str:
        return f"GNN({', '.join(map(repr, self.layers.values()))})"

    def operator(self, A: Sparse, dtype: Any = np.float32) -> Sparse:
        """What the layers read of the graph A."""
        return next(iter(self.layers.values())).operator(A, dtype)

    def declare(self):
        return declare_all(**self.layers)

    def forward(self, params, x, train=False, rng=None):
        operator, h = x
        saved: list[Any] = []
        for i, (name, layer) in enumerate(self.layers.items(), 1):
            h, kept = layer.forward(params.scope(name), (operator, h))
            if i < len(self.layers):
                h = ops.relu(h, out=h)
            saved.append((kept, h))
        return h, saved

    def backward(self, params, grads, saved, dy, need_dx=True):
        for i, (name, layer) in reversed(list(enumerate(self.layers.items(), 1))):
            kept, h = saved[i - 1]
            if i < len(self.layers):
                dy = ops.relu_backward(dy, h, out=dy)
            dy = layer.backward(params.scope(name), grads.scope(name), kept, dy, need_dx or i > 1)
        return dy


def gnn(kind: str, widths: tuple[int, ...], heads: int = 4) -> GNN:
    """Layers of `kind` from widths[0] features to widths[-1] outputs; the heads of "gat" are fewer where they do not
    divide the last width."""
    if len(widths) < 2:
        raise ValueError(f"gnn: widths is {widths}, expected input and output at least")
    return GNN(*(graph_layer(kind, a, b, heads if b % heads == 0 else 1) for a, b in pairwise(widths)))


def node_step(
    net: GNN,
    params: Params,
    grads: Params,
    operator: Sparse,
    x: np.ndarray | Sparse,
    y: np.ndarray,
    rows: np.ndarray,
) -> float:
    """Mean cross-entropy of the nodes `rows` with their labels y[rows]; adds its gradients into `grads`."""
    out, saved = net.forward(params, (operator, x))
    loss, p = ops.cross_entropy(out[rows], y[rows])
    dout = np.zeros_like(out)
    dout[rows] = ops.cross_entropy_backward(p, y[rows])
    net.backward(params, grads, saved, dout, need_dx=False)
    return float(loss)
