"""Floor 3: optimisers, schedules, clipping and moving averages, all over `params.flat`."""

from refimpl.optim.optimizer import (
    EMA,
    SGD,
    Adam,
    AdamW,
    Optimizer,
    Rate,
    RMSprop,
    State,
    by_name,
    clip_by_norm,
    clip_by_value,
)
from refimpl.optim.schedule import Constant, Cosine, PerEpoch, Step, Warmup

__all__ = [
    "EMA",
    "SGD",
    "Adam",
    "AdamW",
    "Constant",
    "Cosine",
    "Optimizer",
    "PerEpoch",
    "RMSprop",
    "Rate",
    "State",
    "Step",
    "Warmup",
    "by_name",
    "clip_by_norm",
    "clip_by_value",
]
