"""Momentum auxiliary networks (MAN): local modules that hear of the next one through its weights.

A network is cut into modules, each with a head and a loss of its own, and no gradient crosses a border. That saves
memory and waiting, and costs accuracy: a module makes features that its small head likes, not features that the next
module can use. Here the next module's first layer stands in front of the head, as a copy E that is never trained but
follows that layer slowly: e <- m e + (1 - m) theta. The module's gradient goes through E, so it learns to feed the next
layer; the border stays closed, for what crosses it are weights, going down, not gradients. A second block A of the same
form is trained beside E and makes up for what a foreign layer does not fit.

    blocks.py      E, A, their three variants and backward passes (1) to (5)
    objectives.py  the local loss behind them (6), heads of MAN (7), (8)
    learner.py     MomentumAuxiliary: fit, predict, score
    study.py       the experiment, the race, a step to read      claims.py   what the paper says, measured
"""

from refimpl.methods.local.momentum_auxiliary import claims
from refimpl.methods.local.momentum_auxiliary.blocks import Following, input_gradient
from refimpl.methods.local.momentum_auxiliary.learner import MomentumAuxiliary
from refimpl.methods.local.momentum_auxiliary.objectives import Momentum
from refimpl.methods.local.momentum_auxiliary.study import experiment, race, rules, teach
from refimpl.record import Paper

PAPER = Paper(
    slug="momentum_auxiliary",
    family="local",
    title="Momentum Auxiliary Network for Supervised Local Learning",
    authors=(
        "Junhao Su",
        "Changpeng Cai",
        "Feiyu Zhu",
        "Chenghao He",
        "Xiaojie Xu",
        "Dongzhi Guan",
        "Chenyang Si",
    ),
    year=2024,
    arxiv="2407.05623",
    idea="Local modules hear of the next one through its weights: a slowly following copy of its first layer stands in "
    "front of each local head.",
)

__all__ = [
    "PAPER",
    "Following",
    "Momentum",
    "MomentumAuxiliary",
    "claims",
    "experiment",
    "input_gradient",
    "race",
    "rules",
    "teach",
]
