"""SLTT: spiking networks trained without back-propagation through time.

A spiking network that is run for T time steps is a recurrent network: each neuron carries its membrane potential from
step to step. Back-propagation through time goes back over all steps, so it keeps every potential of every layer and
step, and memory grows with T. But the way back in time is steep: each step multiplies the error by at most the leak of
the membrane, and with the usual small leak next to nothing arrives. SLTT leaves that way out. The error goes from layer
to layer within a step only,
    delta[t] = g[t] sg(u[t] - threshold)                            in the place of   ... + delta[t+1] eps[t],
so each step can be back-propagated as soon as it is computed, its gradient added up, its activations let go: memory is
that of one step. SLTT-K goes back through K of the T steps only, chosen at random for each batch, so that the backward
work does not depend on T either.

    gradients.py    SLTT and SLTT-K                              learner.py    SLTT: fit, predict, score
    study.py        the experiment and the race                  claims.py     what the paper says, measured
    refimpl/nn/spiking.py                   neurons and layers with a state, step by step
    refimpl/models/snn.py                   spiking MLP, VGG, ResNet, NF-ResNet; how T steps are run
    refimpl/models/spiking_classifier.py    the loss of a step, training and inference
    refimpl/baselines/bptt.py, ottt.py      what it is compared with
"""

from refimpl.methods.spiking.sltt import claims
from refimpl.methods.spiking.sltt.gradients import draw_steps, sltt_gradient
from refimpl.methods.spiking.sltt.learner import SLTT
from refimpl.methods.spiking.sltt.study import experiment, race, step_costs, teach
from refimpl.record import Paper

PAPER = Paper(
    slug="sltt",
    family="spiking",
    title="Towards Memory- and Time-Efficient Backpropagation for Training Spiking Neural Networks",
    authors=("Qingyan Meng", "Mingqing Xiao", "Shen Yan", "Yisen Wang", "Zhouchen Lin", "Zhi-Quan Luo"),
    year=2023,
    arxiv="2302.14311",
    idea="The error of a spiking network is sent back through space only, right after each time step: the memory is "
    "that of one step, whatever their number.",
)

DATA = ("digits", "mnist", "fashion-mnist", "cifar-10", "n-mnist-small", "fsdd")

__all__ = [
    "DATA",
    "PAPER",
    "SLTT",
    "claims",
    "draw_steps",
    "experiment",
    "race",
    "sltt_gradient",
    "step_costs",
    "teach",
]
