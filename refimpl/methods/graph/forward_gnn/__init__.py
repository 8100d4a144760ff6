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

Numbers in square brackets, in all of these files, are the sections of this outline; x is always a constant:

- [0] a layer: Z = relu(GNN(x, graph)); G = dZ 1[Z > 0], then its own dW, db; what does not depend on W is done once
- [1] FF-LA: 1 labels beside the features, uniform ones where none is known; 2 x = nrm(output below), layer by layer;
  3 goodness and loss, one positive and R negative passes; 4 freeze, go on; 5 prediction: a run for each class,
  validation nodes with their labels
- [2] FF-VN: the same with right and wrong edges to class nodes; next inputs are the outputs of the positive pass
- [3] SF: 1 A' and X' with class nodes; 2 cross-entropy of dot products with them; 3 best weights, then the next layer;
  4 prediction: softmax summed over the layers
- [4] SF-Top-To-Input: 1 first states from below, zeros above; 2 layers in alternating order; 3 ten steps to predict
- [5] SF-Top-To-Loss: the loss looks at the mean of Z and the states above
- [6] link prediction
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
