"""ForwardGNN: graph neural networks whose layers learn without back-propagation through one another.

A graph neural network is usually trained end to end: all activations are kept, and each layer waits for an error that
travels back through the stack. Here every layer has a loss and an optimiser of its own, and nothing flows back across
its boundary. In the core method, SF (single-forward), each class becomes a node of the graph, joined to the training
nodes of that class. A layer makes embeddings Z of real and of class nodes in one pass, and learns by
    L = mean over training nodes i of cross-entropy(softmax_c <Z_i, Z_c> / tau, y_i).
A node's class is the class node that its embeddings, over all layers, point to. Two variants let layers above help:
their last outputs are part of a layer's input, or of what its loss looks at. Forward-forward on graphs, which SF
improves on, comes in two forms: labels in the features (FF-LA), or right and wrong edges to the class nodes (FF-VN).
Inside a layer the gradient of its loss is taken by hand; "no back-propagation" means that none crosses layers.

    inputs.py            class nodes, appended labels, rows of unit length         losses.py      losses of one layer
    single_forward.py    SF [3]            forward_forward.py    FF-LA [1], FF-VN [2]
    top_down.py          SF-Top-To-Input [4], SF-Top-To-Loss [5]                   scheme.py      what they share
    learner.py           ForwardGNN: fit, predict, score                           links.py       link prediction [6]
    study.py             the experiment and the race     claims.py    what the paper says, measured
    refimpl/nn/graph.py  graphs, GCN, GraphSAGE, GAT     refimpl/models/graph_learner.py    phases, early stopping
Numbers in square brackets are the sections in which the tutorial and these files present the paper.
"""

from refimpl.methods.graph.forward_gnn import claims
from refimpl.methods.graph.forward_gnn.learner import ForwardGNN
from refimpl.methods.graph.forward_gnn.links import ForwardGNNLinks
from refimpl.methods.graph.forward_gnn.losses import (
    class_probabilities,
    goodness,
    goodness_loss,
    link_goodness_loss,
    single_forward_loss,
)
from refimpl.methods.graph.forward_gnn.study import experiment, race, teach
from refimpl.record import Paper

PAPER = Paper(
    slug="forward_gnn",
    family="graph",
    title="Forward Learning of Graph Neural Networks",
    authors=(
        "Namyong Park",
        "Xing Wang",
        "Antoine Simoulin",
        "Shuai Yang",
        "Grey Yang",
        "Ryan Rossi",
        "Puja Trivedi",
        "Nesreen Ahmed",
    ),
    year=2024,
    arxiv="2403.11004",
    idea="Each layer of a graph neural network learns to point its nodes at a node that stands for their class; no "
    "gradient crosses layers.",
)
DATA = ("karate", "cora", "citeseer")

__all__ = [
    "DATA",
    "PAPER",
    "ForwardGNN",
    "ForwardGNNLinks",
    "claims",
    "class_probabilities",
    "experiment",
    "goodness",
    "goodness_loss",
    "link_goodness_loss",
    "race",
    "single_forward_loss",
    "teach",
]
