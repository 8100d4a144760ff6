"""StreamBP: the exact gradient of a transformer on long sequences, in pieces.

Training on a long text is limited by activations, not by weights. Gradient checkpointing stores only each layer's
input, but two peaks remain: the logits, T x V of them, and all inner activations of the layer whose backward pass is
being computed. StreamBP removes both. The gradient is linear in the cotangent of a layer's output,

    dW = Σ_i (∂z_i/∂W)^T dz_i,      dx = Σ_i (∂z_i/∂x)^T dz_i      for any partition of the rows of z,

so one chunk of rows is computed again and sent backward, its share is added, and it is forgotten before the next. As
attention is causal, a chunk reads the keys and values of the rows up to its own only: D chunks compute (1 + D) / (2 D)
of the scores, and StreamBP needs less time than checkpointing on long texts, too. Nothing is approximated.

    objectives.py   SFT, GRPO, DPO: what is minimised            streams.py      the head and a layer, in chunks
    strategies.py   plain, checkpoint, mini-sequence, stream     distributed.py  data parallel on ranks; mpi.py
    measure.py      bytes alive, operations counted              learner.py      LanguageModel
    study.py        the experiment and the race                  claims.py       what the paper says, measured
    refimpl/models/gpt.py         the transformer                refimpl/models/tokenizer.py    bytes and BPE
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from refimpl.methods.memory.streambp import claims
from refimpl.methods.memory.streambp.learner import LanguageModel
from refimpl.methods.memory.streambp.objectives import DPO, GRPO, SFT, shifted
from refimpl.methods.memory.streambp.strategies import Checkpoint, MiniSequence, Plain, Stream
from refimpl.methods.memory.streambp.streams import chunks, linear_pair, stream_backward, stream_forward
from refimpl.methods.memory.streambp.study import experiment, race, teach
from refimpl.record import Paper

PAPER = Paper(
    slug="streambp",
    family="memory",
    title="StreamBP: Memory-Efficient Exact Backpropagation for Long Sequence Training of LLMs",
    authors=("Qijun Luo", "Mengqi Li", "Lei Zhao", "Xiao Li"),
    year=2025,
    arxiv="2506.03077",
    idea="The gradient of a layer is a sum over chunks of the sequence: each is computed again, sent backward, added "
    "and forgotten, so that memory grows with the layers' inputs alone.",
)
DATA = ("coriolanus", "tinyshakespeare")


def writer(arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> LanguageModel:
    """What `refimpl generate` writes with: a learner from its checkpoint."""
    return LanguageModel.from_checkpoint(dict(arrays), dict(meta))


__all__ = [
    "DATA",
    "DPO",
    "GRPO",
    "PAPER",
    "SFT",
    "Checkpoint",
    "LanguageModel",
    "MiniSequence",
    "Plain",
    "Stream",
    "chunks",
    "claims",
    "experiment",
    "linear_pair",
    "race",
    "shifted",
    "stream_backward",
    "stream_forward",
    "teach",
    "writer",
]
