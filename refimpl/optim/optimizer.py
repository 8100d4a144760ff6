"""Optimisers over params.flat. An optimiser is a description; its memory is an explicit `State`.

    optimizer = AdamW(lr=1e-3)
    state = optimizer.init(params)
    optimizer.step(params, grads, state)          # one fused pass over the vector

`lr` is a number or a schedule (a function of the step number). `weight_decay` is coupled (added to the gradient) in
SGD, Adam and RMSprop, and decoupled (p -= lr wd p) in AdamW or with decoupled=True; see the operations in
refimpl/ops/update.py for the equations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from refimpl import ops
from refimpl.nn import Params
from refimpl.optim.schedule import check_rate

Rate = float | Callable[[int], float]


@dataclass
class State:
    """Steps taken so far and the optimiser's vectors by name."""

    step: int = 0
    vectors: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Optimizer:
    """What all share. Subclasses say which vectors they keep and do one step."""

    lr: Rate

    def __post_init__(self):
        if not callable(self.lr):
            check_rate(self, self.lr)

    def rate(self, step: int) -> float:
        return self.lr(step) if callable(self.lr) else self.lr

    def vectors(self) -> tuple[str, ...]:
        raise NotImplementedError

    def init(self, params: Params) -> State:
        """Fresh memory for `params`."""
        return State(0, {name: np.zeros_like(params.flat) for name in self.vectors()})

    def step(self, params: Params, grads: Params, state: State) -> None:
        """Change `params` and `state` in place by one step along `grads`."""
        lr = self.rate(state.step)
        state.step += 1
        self._update(params.flat, grads.flat, state, lr)

    def _update(self, param: np.ndarray, grad: np.ndarray, state: State, lr: float) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Polyak) or Nesterov's."""

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    decoupled: bool = False

    def vectors(self):
        return ("velocity",) if self.momentum else ()

    def _update(self, param, grad, state, lr):
        velocity = state.vectors.get("velocity")
        ops.sgd_update(param, grad, velocity, lr, self.momentum, self.nesterov, self.weight_decay, self.decoupled)


@dataclass(frozen=True)
class Adam(Optimizer):
    """Kingma and Ba, 2015."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False

    def vectors(self):
        return ("m", "v")

    def _update(self, param, grad, state, lr):
        m, v = state.vectors["m"], state.vectors["v"]
        hyper = (lr, self.beta1, self.beta2, self.eps, self.weight_decay, self.decoupled)
        ops.adam_update(param, grad, m, v, state.step, *hyper)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay. Loshchilov and Hutter, 2019."""

    weight_decay: float = 1e-2
    decoupled: bool = True


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """Hinton, lecture 6e of "Neural networks for machine learning", 2012."""

    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    weight_decay: float = 0.0
    decoupled: bool = False

    def vectors(self):
        return ("v", "velocity") if self.momentum else ("v",)

    def _update(self, param, grad, state, lr):
        v, velocity = state.vectors["v"], state.vectors.get("velocity")
        hyper = (lr, self.alpha, self.eps, self.momentum, self.weight_decay, self.decoupled)
        ops.rmsprop_update(param, grad, v, velocity, *hyper)


def by_name(name: str, lr: Rate, weight_decay: float | None = None, **more) -> Optimizer:
    """ "sgd", "momentum" (0.9), "nesterov" (0.9), "adam", "adamw" or "rmsprop". Raises ValueError for another name."""
    makers: dict[str, Callable[..., Optimizer]] = {
        "sgd": SGD,
        "momentum": lambda lr, **k: SGD(lr, momentum=0.9, **k),
        "nesterov": lambda lr, **k: SGD(lr, momentum=0.9, nesterov=True, **k),
        "adam": Adam,
        "adamw": AdamW,
        "rmsprop": RMSprop,
    }
    if name not in makers:
        raise ValueError(f"optimizer is {name!r}, expected one of {', '.join(makers)}")
    if weight_decay is not None:
        more["weight_decay"] = weight_decay
    return makers[name](lr, **more)


def clip_by_norm(grads: Params, most: float) -> float:
    """Scale `grads` so that its Euclidean norm is at most `most`; returns the norm before.

    A norm that is not finite leaves the gradients as they are (the caller sees it in the result). Pascanu, Mikolov and
    Bengio, 2013, algorithm 1.
    """
    norm = float(np.sqrt(ops.sum_of_squares(grads.flat)))
    if np.isfinite(norm) and norm > most:
        ops.scale_inplace(grads.flat, most / norm)
    return norm


def clip_by_value(grads: Params, most: float) -> None:
    """Limit each entry of `grads` to [-most, most]."""
    np.clip(grads.flat, -most, most, out=grads.flat)


@dataclass(frozen=True)
class EMA:
    """An exponential moving average of parameters: average = decay average + (1 - decay) params."""

    decay: float

    def update(self, average: Params, params: Params) -> None:
        """Move `average` towards `params`; running statistics are copied."""
        ops.ema_update(average.flat, params.flat, self.decay)
        average.state[...] = params.state
