"""Target projection SGD: learning with local gradients at the edge.

Back-propagation keeps the activities of all layers until the error has come back through all of them. Direct random
target projection needs no error: each hidden layer is nudged along a fixed random projection of the one-hot label. Here
that becomes an ordinary local problem. The projected label is the layer's *target*, and the layer goes down a loss
between its output and the target,
    t_i = y* P_i,   J_i = loss(y_i, t_i),   W_i -= eta_i dJ_i/dW_i,
with any loss; a linear one gives target projection back. The update follows right after the layer's forward pass, its
input counts as a constant, and what it needed is let go of: one layer's memory, whatever the depth, one step's memory
in a recurrent network, whatever its length. And as a unit's error needs its own activity alone, a weight is read and
written in one visit (ops.target_step), which no rule can do that waits for later layers.

    codes.py    targets (1) from a key                 layers.py     networks cut into layers that learn alone
    learner.py  TPSGD (2) to (5), adaptors             recurrent.py  TPSGDRecurrent (6) to (8), rnn, lstm, stacked
    study.py    the experiment, the race               claims.py     what the paper says, measured; measure.py: memory
    refimpl/ops/target.py: losses, errors, steps       refimpl/baselines/feedback.py, recurrent.py: what it is held to

Of the paper the abstract and the l2 and l1 updates could be read; the other losses, the LSTM, the greedy schedule and
how adaptors get their targets are completions.
"""

from refimpl.methods.local.tpsgd import claims
from refimpl.methods.local.tpsgd.codes import Projections, class_means, reach
from refimpl.methods.local.tpsgd.layers import LocalLayer, convnet, local_layers, rows_mlp
from refimpl.methods.local.tpsgd.learner import TPSGD
from refimpl.methods.local.tpsgd.measure import peak_bytes, timeline
from refimpl.methods.local.tpsgd.recurrent import TPSGDRecurrent, step_weights
from refimpl.methods.local.tpsgd.study import experiment, race, teach
from refimpl.record import Paper

PAPER = Paper(
    slug="tpsgd",
    family="local",
    title="Learning with Local Gradients at the Edge",
    authors=("Michael Lomnitz", "Zachary Daniels", "David Zhang", "Michael Piacentino"),
    year=2022,
    arxiv="2208.08503",
    idea="Every layer has a random code for each class as its own target, and learns to reach it by a local loss right "
    "after its forward pass: no backward pass, and the memory of one layer.",
)
DATA = ("digits", "mnist", "fashion-mnist", "cifar-10", "fsdd", "n-mnist-small")

__all__ = [
    "DATA",
    "PAPER",
    "TPSGD",
    "LocalLayer",
    "Projections",
    "TPSGDRecurrent",
    "claims",
    "class_means",
    "convnet",
    "experiment",
    "local_layers",
    "peak_bytes",
    "race",
    "reach",
    "rows_mlp",
    "step_weights",
    "teach",
    "timeline",
]
