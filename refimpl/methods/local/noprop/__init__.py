"""NoProp: blocks that learn to denoise the label, each on its own.

A deep classifier is usually trained by sending an error back through all of its blocks. Here every block has a target
of its own that is known before training starts: the label. Block t gets the image and a sample z_{t-1} of the label's
embedding mixed with a prescribed amount of noise, and learns to say what the clean embedding is. It needs no other
block for that: no gradient crosses from block to block, none has to wait for another, and all can be trained in any
order, or at once on different machines. Only at inference are they chained: from pure noise, each block's answer is
mixed into the label by the reverse step of a diffusion,
    z_t = a_t uhat_t(z_{t-1}, x) + b_t z_{t-1} + sqrt(c_t) eps_t,                                              (3)
until z_T says the class. Variants: DT, T separate blocks; CT, one network for all times, with a noise schedule that may
be learned; FM, one network that learns the velocity from noise to label (flow matching). Inside a block ordinary
back-propagation is used.

    losses.py    L_t, L_CT and L_FM with all gradients       learner.py   NoProp: fit, predict, score
    study.py     the experiment and the race                 claims.py    what the paper says, measured
    refimpl/models/diffusion.py         schedules, (1)-(4), the flow (6)
    refimpl/models/label_denoiser.py    the blocks, class embeddings, read-outs
    refimpl/models/denoising_classifier.py    inference
"""

from refimpl.methods.local.noprop import claims
from refimpl.methods.local.noprop.learner import NoProp
from refimpl.methods.local.noprop.losses import Terms, ct_loss, dt_denoising, dt_loss, end_losses, fm_loss
from refimpl.methods.local.noprop.study import experiment, race, rules, teach
from refimpl.record import Paper

PAPER = Paper(
    slug="noprop",
    family="local",
    title="NoProp: Training Neural Networks without Full Back-propagation or Full Forward-propagation",
    authors=("Qinyu Li", "Yee Whye Teh", "Razvan Pascanu"),
    year=2025,
    arxiv="2503.24322",
    idea="Every block learns on its own to recover the label from a noisy copy of it; chained, they denoise from "
    "pure noise to the class.",
)

__all__ = [
    "PAPER",
    "NoProp",
    "Terms",
    "claims",
    "ct_loss",
    "dt_denoising",
    "dt_loss",
    "end_losses",
    "experiment",
    "fm_loss",
    "race",
    "rules",
    "teach",
]
