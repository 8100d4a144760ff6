"""What the schemes of training share: a layer's forward and backward pass, inputs computed once, class nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from refimpl import ops
from refimpl.data.graphs import Graph
from refimpl.methods.graph.forward_gnn.inputs import label_matrix, normalised, with_class_nodes, with_virtual_rows
from refimpl.nn.graph import Features, GCNConv, SAGEConv, Sparse

if TYPE_CHECKING:
    from refimpl.methods.graph.forward_gnn.learner import ForwardGNN

__all__ = ["Scheme", "ready"]


def ready(layer: Any, operator: Sparse, x: Features, rows: np.ndarray) -> tuple[Any, bool]:
    """The input of a layer whose features will not change, with all done that does not depend on the weights.

    Neighbours are summed once where the features are dense [0]; outputs are limited to `rows` where the layer can do
    so: the flag says whether. (Sparse features stay apart: x W is cheaper than the dense S x would be.)
    """
    if isinstance(layer, GCNConv):
        part = operator.take(rows)
        return (layer.aggregate(part, x) if isinstance(x, np.ndarray) else (part, x)), True
    if isinstance(layer, SAGEConv) and isinstance(x, np.ndarray):
        return (None, (operator.take(rows) @ x, x[rows])), True
    return (operator, x), False


class Scheme:
    """How the layers of a ForwardGNN `m` are trained. Subclasses are its sections [1] to [5]."""

    def __init__(self, m: ForwardGNN):
        self.m = m

    # ------------------------------------------------------------ to be implemented

    def shapes(self) -> list[tuple[int, int]]:
        """(d_in, d_out) of each layer."""
        raise NotImplementedError

    def phases(self) -> list[list[str]]:
        """Layer by layer, unless a scheme trains all at once."""
        return [[f"layer{i}"] for i in range(1, self.m.layers + 1)]

    def derive(self) -> None:
        """Compute what depends on the data and on what was drawn for the whole run."""

    def enter(self, phase: int) -> None:
        """Begin a phase: compute once what its epochs need."""
        raise NotImplementedError

    def epoch(self, phase: int) -> float:
        """One step of the phase's layers on all training nodes; returns the loss."""
        raise NotImplementedError

    def validate(self, phase: int) -> float:
        """Accuracy on the validation nodes, the layers below included; nan where there are none."""
        raise NotImplementedError

    def scores(self, graph: Graph) -> np.ndarray:
        """Scores of the classes for each node, (N, K)."""
        raise NotImplementedError

    # ------------------------------------------------------------ layers

    def output(self, i: int, given: Any) -> np.ndarray:
        """Z = relu(GNN(x, graph)) of layer i = 0, 1, ... without learning."""
        z = self.m._layers[i].apply(self.m._params[f"layer{i + 1}"], given)
        return ops.relu(z, out=z)

    def forward(self, i: int, given: Any) -> tuple[np.ndarray, Any]:
        z, saved = self.m._layers[i].forward(self.m._params[f"layer{i + 1}"], given)
        return ops.relu(z, out=z), saved

    def backward(self, i: int, saved: Any, z: np.ndarray, dz: np.ndarray) -> None:
        """G = dZ * 1[Z > 0], then the layer's own backward pass; nothing goes below [0]. Overwrites dz."""
        name = f"layer{i + 1}"
        ops.relu_backward(dz, z, out=dz)
        self.m._layers[i].backward(self.m._params[name], self.m._grads[name], saved, dz, need_dx=False)

    # ------------------------------------------------------------ inputs

    def operator(self, A: Sparse) -> Sparse:
        """What the layers read of a graph."""
        return self.m._layers[0].operator(A, np.dtype(self.m.dtype))

    def class_graph(self, A: Sparse, nodes: np.ndarray, classes: np.ndarray) -> Sparse:
        """The operator of A' [3.1]."""
        return self.operator(with_class_nodes(A, nodes, classes, self.m._n_classes, self.m.bidirectional))

    def class_features(self, x: Sparse) -> Sparse:
        """X' with the class nodes' rows that were drawn once for the run."""
        return with_virtual_rows(x, self.m._params["fixed"]["virtual"])

    def appended(self, i: int) -> bool:
        """Whether labels are appended to the input of layer i."""
        return self.m.append_label == "all" or (self.m.append_label == "input" and i == 0)

    def layer_input(self, i: int, x: np.ndarray | Sparse, nodes: np.ndarray, classes: np.ndarray) -> Features:
        """nrm of the features, or of the features with labels appended; class nodes, if any, have their own label."""
        if not self.appended(i):
            return normalised(x)
        n, N, K = x.shape[0], self.m._n, self.m._n_classes
        nodes, classes = np.concatenate([nodes, np.arange(N, n)]), np.concatenate([classes, np.arange(n - N)])
        labels = label_matrix(n, nodes, classes, K, x.dtype or self.m.dtype)
        return normalised(np.concatenate([x, labels], axis=1) if isinstance(x, np.ndarray) else (x, labels))

    def greedy_shapes(self) -> list[tuple[int, int]]:
        """Widths F, H, ..., H, with room for appended labels."""
        widths = [self.m.n_features_in_, *[self.m.width] * self.m.layers]
        K = self.m._n_classes
        return [(widths[i] + K * self.appended(i), widths[i + 1]) for i in range(self.m.layers)]
