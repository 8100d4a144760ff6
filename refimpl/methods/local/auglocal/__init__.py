"""AugLocal: local learning whose auxiliary networks are thinned copies of the rest of the network.

In local learning each layer learns from a little classifier of its own, and no error crosses a border: activations can
be let go as soon as a layer is updated, and no layer waits for those above. But a layer that serves a little head alone
makes features that the head likes, not those that later layers need. Here the head of layer l is built as d_l layers
picked evenly from those above l, of the same kind, widths and halvings, with weights of its own, and a classifier. The
nearer the top, the shallower it is. Give layer l a copy of all that is above it and local learning is back-propagation;
AugLocal lies between, at a depth of one's choice.

    schedule.py    depths (1), selection (2), strides (3)      thinned.py     the network g_l; how gradients agree
    learner.py     AugLocal: fit, predict, score               study.py       the experiment and the race
    claims.py      what the paper says, measured

The step itself, module by module, is in refimpl/models/isolated.py; other local rules are in
refimpl/models/local_losses.py and refimpl/baselines/local_blocks.py.
"""

from refimpl.methods.local.auglocal import claims
from refimpl.methods.local.auglocal.learner import AugLocal
from refimpl.methods.local.auglocal.schedule import depths, selected, strides
from refimpl.methods.local.auglocal.study import experiment, race, rules, teach
from refimpl.methods.local.auglocal.thinned import agreement, auxiliary, copied
from refimpl.record import Paper

PAPER = Paper(
    slug="auglocal",
    family="local",
    title="Scaling Supervised Local Learning with Augmented Auxiliary Networks",
    authors=("Chenxiang Ma", "Jibin Wu", "Chenyang Si", "Kay Chen Tan"),
    year=2024,
    arxiv="2402.17318",
    idea="Each layer learns from an auxiliary network of its own, a thinned copy of the layers above it; no error "
    "crosses from layer to layer.",
)

__all__ = [
    "PAPER",
    "AugLocal",
    "agreement",
    "auxiliary",
    "claims",
    "copied",
    "depths",
    "experiment",
    "race",
    "rules",
    "selected",
    "strides",
    "teach",
]
