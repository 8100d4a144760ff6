"""Gradient-isolated modules: a network in pieces that each learn from a loss of their own.

A module is some layers of a column and an *objective*: an auxiliary loss with parameters of its own. A training step
goes from module to module,

    h, loss, kept = module.forward(params, x, target)      the layers, then the local loss
    module.backward(params, grads, kept)                   back through the objective and these layers, no further
    x = h                                                  a constant from here on; `kept` is let go

so that no gradient crosses a border (that is all that "stop gradient" means here: the input's gradient is not even
computed), and what one module kept for its backward pass is free before the next one runs. The objective of the last
module is the network's own classifier. One module alone is back-propagation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl import ops
from refimpl.backends.dispatch import watch
from refimpl.nn import Layer, Params, Scope, Sequential
from refimpl.nn.params import Parameter

__all__ = ["CrossEntropy", "Isolated", "Objective", "Target", "flops", "kept_bytes", "local_step"]


@dataclass(frozen=True)
class Target:
    """What the modules of a step may see besides their input: class numbers (B,), and for objectives that reconstruct
    it the image as it is, in [0, 1]."""

    labels: np.ndarray
    image: np.ndarray | None = None


class Objective:
    """A local loss of a module's output h, with parameters of its own: a description without arrays, as a layer.

    An objective may wrap another one (run h through more layers and hand it on): parameter names are dotted.
    """

    def declare(self) -> dict[str, Parameter]:
        """Its parameters by name, in a fixed order; with trained=False those that no gradient step moves."""
        raise NotImplementedError

    def forward(
        self, params: Scope, h: np.ndarray, target: Target, rng: np.random.Generator | None = None
    ) -> tuple[float, Any]:
        """The loss of a batch in training, and what `backward` needs of it."""
        raise NotImplementedError

    def backward(self, params: Scope, grads: Scope, saved: Any) -> np.ndarray:
        """dL/dh; adds the gradients of its own parameters into `grads`."""
        raise NotImplementedError


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Cross-entropy of net(h), any network that ends in one logit a class."""

    net: Layer

    def declare(self):
        return self.net.declare()

    def forward(self, params, h, target, rng=None):
        logits, saved = self.net.forward(params, h, True, rng)
        loss, p = ops.cross_entropy(logits, target.labels)
        return float(loss), (saved, p, target.labels)

    def backward(self, params, grads, saved):
        kept, p, labels = saved
        return self.net.backward(params, grads, kept, ops.cross_entropy_backward(p, labels))


@dataclass(frozen=True)
class Isolated:
    """A module: layers by name (layer3, layer4, ...), and its objective, whose parameters are named objective.*"""

    layers: dict[str, Layer]
    objective: Objective

    @property
    def body(self) -> Sequential:
        return Sequential(**self.layers)

    def declare(self) -> dict[str, Parameter]:
        return self.body.declare() | {f"objective.{k}": v for k, v in self.objective.declare().items()}

    def forward(
        self, params: Scope, x: np.ndarray, target: Target, rng: np.random.Generator | None = None
    ) -> tuple[np.ndarray, float, Any]:
        """The module's output, its loss, and what its backward pass needs."""
        h, body = self.body.forward(params, x, True, rng)
        loss, objective = self.objective.forward(params.scope("objective"), h, target, rng)
        return h, loss, (body, objective)

    def backward(self, params: Scope, grads: Scope, saved: Any) -> None:
        """Adds into `grads`; the gradient stops at the module's input."""
        body, objective = saved
        dh = self.objective.backward(params.scope("objective"), grads.scope("objective"), objective)
        self.body.backward(params, grads, body, dh, need_dx=False)

    def apply(self, params: Scope, x: np.ndarray) -> np.ndarray:
        """The layers alone, as at inference: objectives are for training."""
        return self.body.apply(params, x)

    def initialise(self, rngs: dict[str, np.random.Generator], dtype: np.dtype | type | str = np.float32) -> Params:
        """First parameters, those of each layer from its own generator, those of the objective from "objective": so
        layers start alike whatever is cut where, and whatever objectives there are."""
        specs = self.declare()
        params = Params(
            {k: s.shape for k, s in specs.items() if s.trained},
            {k: s.shape for k, s in specs.items() if not s.trained},
            dtype,
        )
        for name, spec in specs.items():
            params[name][...] = spec.init(rngs[name.split(".")[0]], spec.shape)
        return params


def local_step(
    modules: Sequence[Isolated],
    params: Sequence[Params],
    grads: Sequence[Params],
    x: np.ndarray,
    target: Target,
    rng: np.random.Generator | None = None,
    done: Callable[[int], None] = lambda j: None,
    kept: Callable[[int, Any], None] | None = None,
) -> list[float]:
    """One pass from the first module to the last; adds gradients, returns the local losses.

    `done(j)` is called when the gradients of module j are complete, and before module j + 1 runs: an early update of
    module j there changes nothing for the others, since its output is already computed. `kept(j, saved)` sees what
    module j keeps between its forward and its backward pass.
    """
    losses = []
    for j, module in enumerate(modules):
        h, loss, saved = module.forward(params[j], x, target, rng)
        if kept is not None:
            kept(j, saved)
        module.backward(params[j], grads[j], saved)
        del saved
        done(j)
        losses.append(loss)
        x = h
    return losses


# ---------------------------------------------------------------- what a step costs, counted


def _arrays(saved: Any) -> Iterable[np.ndarray]:
    if isinstance(saved, np.ndarray):
        yield saved
    elif isinstance(saved, Target):
        yield from _arrays([saved.labels, saved.image])
    elif isinstance(saved, dict):
        for part in saved.values():
            yield from _arrays(part)
    elif isinstance(saved, list | tuple):
        for part in saved:
            yield from _arrays(part)


def kept_bytes(*saved: Any) -> int:
    """Bytes of floating-point arrays that `saved` holds alive: an array that several layers keep, or keep views of,
    counts once."""
    owners: dict[int, int] = {}
    for a in _arrays(saved):
        if a.dtype.kind == "f":
            while isinstance(a.base, np.ndarray):
                a = a.base
            owners[id(a)] = a.nbytes
    return sum(owners.values())


def flops(f: Callable[[], Any]) -> int:
    """Floating-point operations of the products in f(): convolutions, linear maps and matrix products, forward and
    backward, counted at each call by the shapes that it is given."""
    count = 0

    def see(op: Any, body: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        nonlocal count
        result = body(*args, **kwargs)
        name = op.__name__
        if name in ("conv2d", "linear", "matmul"):
            count += 2 * result.size * _terms(name, args, kwargs)
        elif name in ("conv2d_backward", "linear_backward"):
            dy, weight, need_dx = args[0], args[2], result[0] is not None
            inner = weight.shape[0] if name == "linear_backward" else math.prod(weight.shape[1:])
            count += 2 * dy.size * inner * (1 + need_dx)
        return result

    with watch(see):
        f()
    return count


def _terms(name: str, args: tuple, kwargs: dict) -> int:
    """Products that are added up for one entry of the result."""
    if name == "conv2d":
        return math.prod(args[1].shape[1:])
    transposed = kwargs.get("transpose_a", args[2] if name == "matmul" and len(args) > 2 else False)
    return args[0].shape[-2 if transposed else -1]
