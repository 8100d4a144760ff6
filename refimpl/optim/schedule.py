"""Learning-rate schedules: functions of the step number (0, 1, 2, ...)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real


def check_rate(who: object, lr: object) -> None:
    """A rate is a finite number of at least 0. Raises ValueError: before the first step, not as NaN after it."""
    if not isinstance(lr, Real) or isinstance(lr, bool) or not 0 <= float(lr) < math.inf:
        raise ValueError(f"{type(who).__name__}: lr is {lr!r}, expected a finite number of at least 0")


@dataclass(frozen=True)
class Constant:
    """lr(t) = lr."""

    lr: float

    def __post_init__(self):
        check_rate(self, self.lr)

    def __call__(self, step: int) -> float:
        return self.lr


@dataclass(frozen=True)
class Step:
    """lr(t) = lr factor^k, k the number of milestones at or below t."""

    lr: float
    milestones: tuple[int, ...]
    factor: float = 0.1

    def __post_init__(self):
        check_rate(self, self.lr)

    def __call__(self, step: int) -> float:
        return self.lr * self.factor ** sum(step >= m for m in self.milestones)


@dataclass(frozen=True)
class Cosine:
    """lr(t) = last + (lr - last) (1 + cos(pi t / total)) / 2, `last` from `total` on.

    Source: Loshchilov and Hutter, "SGDR", 2017, equation (5), one period.
    """

    lr: float
    total: int
    last: float = 0.0

    def __post_init__(self):
        check_rate(self, self.lr)

    def __call__(self, step: int) -> float:
        t = min(step, self.total) / max(1, self.total)
        return self.last + (self.lr - self.last) * (1 + math.cos(math.pi * t)) / 2


@dataclass(frozen=True)
class Warmup:
    """lr(t) = schedule(t - steps) after `steps` steps of a linear rise to schedule(0)."""

    schedule: Constant | Step | Cosine
    steps: int

    def __call__(self, step: int) -> float:
        if step < self.steps:
            return self.schedule(0) * (step + 1) / self.steps
        return self.schedule(step - self.steps)


@dataclass(frozen=True)
class PerEpoch:
    """A schedule that changes once an epoch: lr(t) = schedule(t // steps), `steps` of them in an epoch."""

    schedule: Constant | Step | Cosine
    steps: int

    def __call__(self, step: int) -> float:
        return self.schedule(step // self.steps)
