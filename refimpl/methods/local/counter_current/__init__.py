"""Counter-current learning: two networks run in opposite directions and teach each other, level by level.

Back-propagation sends an error down through the transposed forward weights, after the forward pass and through every
layer in turn. Here a second network, with weights of its own, carries the label down while the first carries the image
up. At each level they have activities of the same size, and a loss of that level alone makes them agree: the image's
a_l should be similar to c_l of its class and to no other. Low levels know the image well and the label badly, high ones
the other way round in the feedback network, so each side teaches the other where it is weak, as two streams exchange
heat along a wall. Gradients end at the input of every layer. No weights are transported, no layer waits for a later
one, and the feedback network costs next to nothing: it runs on the K classes, not on the batch.

    networks.py   both networks, level by level (1), (2)      losses.py    (3) to (9) with all gradients
    learner.py    CounterCurrent: fit, predict, score         study.py     the experiment
    autoencoder.py  (10) to (15): both networks on images, CounterCurrentAutoencoder
    twins.py      the same network by back-propagation, or its last layer alone
    claims.py     what the paper says, measured               racing.py    one step of each variant, for the race
"""

from refimpl.methods.local.counter_current import claims
from refimpl.methods.local.counter_current.autoencoder import (
    CounterCurrentAutoencoder,
    autoencoder_gradients,
    autoencoder_pair,
)
from refimpl.methods.local.counter_current.learner import CounterCurrent
from refimpl.methods.local.counter_current.losses import Terms, gradients, matching, normalised_matching
from refimpl.methods.local.counter_current.networks import Pair, conv_pair, mlp_pair
from refimpl.methods.local.counter_current.racing import race
from refimpl.methods.local.counter_current.study import experiment, rules, teach
from refimpl.record import Paper

PAPER = Paper(
    slug="counter_current",
    family="local",
    title="Counter-Current Learning: A Biologically Plausible Dual Network Approach for Deep Learning",
    authors=("Chia-Hsiang Kao", "Bharath Hariharan"),
    year=2024,
    arxiv="2409.19841",
    idea="A forward network carries the image up, a feedback network the label down; at every level a local loss makes "
    "the two agree.",
)

__all__ = [
    "PAPER",
    "CounterCurrent",
    "CounterCurrentAutoencoder",
    "Pair",
    "Terms",
    "autoencoder_gradients",
    "autoencoder_pair",
    "claims",
    "conv_pair",
    "experiment",
    "gradients",
    "matching",
    "mlp_pair",
    "normalised_matching",
    "race",
    "rules",
    "teach",
]
