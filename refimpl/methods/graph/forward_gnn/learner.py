"""ForwardGNN: classes of nodes without back-propagation through the layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from refimpl import ops
from refimpl.methods.graph.forward_gnn.forward_forward import LabelAppending, VirtualNodes
from refimpl.methods.graph.forward_gnn.inputs import wrong_classes
from refimpl.methods.graph.forward_gnn.scheme import Scheme
from refimpl.methods.graph.forward_gnn.single_forward import SingleForward
from refimpl.methods.graph.forward_gnn.top_down import TopToInput, TopToLoss
from refimpl.models.gnn import graph_layer
from refimpl.models.graph_learner import NodeLearner, states
from refimpl.nn import initialise

__all__ = ["SCHEMES", "ForwardGNN"]

SCHEMES: dict[str, type[Scheme]] = {
    "sf": SingleForward,
    "sf-top-to-input": TopToInput,
    "sf-top-to-loss": TopToLoss,
    "ff-la": LabelAppending,
    "ff-vn": VirtualNodes,
}
_CLASS_NODES = ("sf", "sf-top-to-input", "sf-top-to-loss", "ff-vn")


class ForwardGNN(NodeLearner):
    """Classes of nodes by graph layers, each trained by a loss of its own with an optimiser of its own.

    variant     "sf" (single-forward), "sf-top-to-input", "sf-top-to-loss", "ff-la" (label appending), "ff-vn" (virtual
                nodes)
    kind        "gcn", "sage" or "gat" (with `heads`)
    layers, width    how many graph layers, and their outputs (the last of "sf-top-to-input" has one a class)
    epochs      at most so many for each layer ("sf-top-to-...": for all at once); validate_every, patience: see
                refimpl.models.graph_learner
    lr, weight_decay    of Adam, the decay added to the gradient
    temperature    tau of the softmax ("sf..."); threshold: theta of the goodness ("ff-...")
    negatives    how many wrong classes a training node gets in "ff-..."; None: all
    bidirectional    whether class nodes also send to their training nodes
    append_label    "none", "input" or "all": layers that read labels beside their features ("sf" and "ff-vn")
    clip        largest gradient norm of a layer in "sf-top-to-loss", or None
    strict_reference    "sf-top-to-loss" with the reference's bottom-up pass on raw outputs
    """

    def __init__(
        self,
        variant: str = "sf",
        kind: str = "gcn",
        layers: int = 2,
        width: int = 128,
        heads: int = 4,
        epochs: int = 1000,
        validate_every: int = 2,
        patience: int = 100,
        lr: float = 1e-3,
        weight_decay: float | None = 5e-4,
        temperature: float = 1.0,
        threshold: float = 2.0,
        negatives: int | None = None,
        bidirectional: bool = True,
        append_label: str = "none",
        clip: float | None = 1.0,
        strict_reference: bool = False,
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
        self.temperature = temperature
        self.threshold = threshold
        self.negatives = negatives
        self.bidirectional = bidirectional
        self.append_label = append_label
        self.clip = clip
        self.strict_reference = strict_reference
        self.dtype = dtype
        self.random_state = random_state

    # ------------------------------------------------------------ training

    def _check(self) -> None:
        self._check_settings(layers=1, width=1, heads=1)
        if self.variant not in SCHEMES:
            raise self._bad("variant", f"one of {', '.join(SCHEMES)}")
        if self.append_label not in ("none", "input", "all"):
            raise self._bad("append_label", "none, input or all")
        if self.append_label != "none" and self.variant not in ("sf", "ff-vn"):
            raise self._bad("append_label", f"none for {self.variant}")
        if not (np.isfinite(self.temperature) and self.temperature > 0):
            raise self._bad("temperature", "a positive number")
        if not np.isfinite(self.threshold):
            raise self._bad("threshold", "a finite number")
        if self.clip is not None and not self.clip > 0:
            raise self._bad("clip", "None or a positive number")
        if self.strict_reference and self.variant != "sf-top-to-loss":
            raise self._bad("strict_reference", f"False for {self.variant}")

    def _begin(self, X, y):
        self._check()
        self._take_nodes(X, y)
        K = self._n_classes
        if self.negatives is not None and not (
            isinstance(self.negatives, int | np.integer) and 1 <= self.negatives < K
        ):
            raise self._bad("negatives", f"None or a whole number from 1 to {K - 1}")
        rng = self._start(0.0 if self.weight_decay is None else self.weight_decay)
        self._scheme = SCHEMES[self.variant](self)
        fixed, drawn = {}, {}
        if self.variant in _CLASS_NODES:  # class nodes' features: drawn once, never trained [notation]
            drawn["virtual"] = rng.standard_normal((K, self.n_features_in_))
        if self.variant.startswith("ff"):
            drawn["negatives"] = wrong_classes(self._labels[self._train], K, rng)[:, : self.negatives]
        fixed = {name: a.shape for name, a in drawn.items()}
        self._params = {"fixed": states(fixed, self.dtype)}
        for name, a in drawn.items():
            self._params["fixed"][name][...] = a
        shapes = self._scheme.shapes()
        self._layers = [
            graph_layer(self.kind, d_in, d_out, self.heads if d_out % self.heads == 0 else 1) for d_in, d_out in shapes
        ]
        self._params |= {f"layer{i}": initialise(f, rng, self.dtype) for i, f in enumerate(self._layers, 1)}
        if self.variant.startswith("sf-top"):
            rows = self._n + K
            self._params["states"] = states({f"s{i}": (rows, w) for i, (_, w) in enumerate(shapes, 1)}, self.dtype)
        self._scheme.derive()

    def _restored(self):
        self._scheme.derive()

    def _phases(self):
        return self._scheme.phases()

    def _enter(self, phase):
        self._scheme.enter(phase)

    def _epoch(self, phase):
        return self._scheme.epoch(phase)

    def _validate(self, phase):
        return self._scheme.validate(phase)

    # ------------------------------------------------------------ prediction

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the classes, (N, K), averaged over the layers that vote; "ff-...": softmax of the summed
        goodness, and the known label where there is one."""
        self._check_fitted()
        return self._scheme.scores(self._take_graph(X, reset=False))

    def embed(self, X: Any) -> list[np.ndarray]:
        """The outputs of each layer of "sf", class nodes last: [(N + K, width), ...]. ValueError for others."""
        self._check_fitted()
        if not isinstance(self._scheme, SingleForward):
            raise ValueError(f"ForwardGNN: embed is for variant 'sf', this is {self.variant!r}")
        graph, scheme = self._take_graph(X, reset=False), self._scheme
        S = scheme.class_graph(graph.A, self._train, self._labels[self._train])
        x = scheme.class_features(graph.x)
        return [np.asarray(scheme.chain(S, x, depth)[0]) for depth in range(1, self.layers + 1)]

    def layer_proba(self, X: Any) -> list[np.ndarray]:
        """What each layer of "sf" says by itself: softmax of the dot products with the class nodes, [(N, K), ...]."""
        n = self._n
        tau = self.temperature
        return [ops.softmax(z[:n] @ z[n:].T / z.dtype.type(tau)) for z in self.embed(X)]
