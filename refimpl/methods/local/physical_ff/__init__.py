"""Physical forward-forward: deep physical networks trained without back-propagation.

Sound in a cavity, microwaves in a box, light in a fibre: a physical system turns an input into an output quickly and
cheaply, but nobody knows its derivative, so an error cannot be sent back through it. Here each layer is such a system,
fixed and unknown, followed by a trained linear map, and each layer learns alone. The input is shown twice: with the
right label written into it, and with a wrong one. A layer's goodness is the cosine between the magnitudes of its output
and a fixed random vector,
    g = cos(|z|, p),   z = W u + b,   u = [Phi(h), h],                                                           (1)
and training pulls the goodness of right labels over that of wrong ones,
    L = 1/B Σ_b log(1 + exp(-theta (g+_b - g-_b))).                                                              (2)
The gradient of (2) needs what came out of the physics, u, and never the derivative of Phi. The physics is asked once a
layer and batch; 10 to 25 steps of Adam then use the same u. At the end every label is tried, and the one with the most
goodness, summed over the layers, is the answer.

    learner.py   the layers, labels, PhysicalForwardForward       study.py    the experiment and the race
    claims.py    what the paper says, measured                    refimpl/ops/goodness.py       (1), (2), the inner loop
    refimpl/models/physics.py         the simulated systems       refimpl/baselines/physical.py, ridge.py

Also here: the digital variant (GELU layers, the same loss without the magnitude). The unsupervised variant that a later
abstract names is not: how it works was not seen.
"""

from refimpl.methods.local.physical_ff import claims
from refimpl.methods.local.physical_ff.learner import (
    GoodnessLayer,
    LabelledInput,
    PhysicalForwardForward,
    digital_steps,
    train_layer,
)
from refimpl.methods.local.physical_ff.study import experiment, race, rules, teach
from refimpl.record import Paper

PAPER = Paper(
    slug="physical_ff",
    family="local",
    title="Backpropagation-free Training of Deep Physical Neural Networks",
    authors=("Ali Momeni", "Babak Rahmani", "Matthieu Mallejac", "Philipp del Hougne", "Romain Fleury"),
    year=2023,
    arxiv="2304.11042",
    idea="Unknown physical systems as layers: each one's linear map learns alone to tell data with the right label "
    "from data with a wrong one, and no derivative of the physics is needed.",
)
DATA = ("surrogate-vowels", "hillenbrand-vowels", "digits", "mnist", "fashion-mnist")

__all__ = [
    "DATA",
    "PAPER",
    "GoodnessLayer",
    "LabelledInput",
    "PhysicalForwardForward",
    "claims",
    "digital_steps",
    "experiment",
    "race",
    "rules",
    "teach",
    "train_layer",
]
