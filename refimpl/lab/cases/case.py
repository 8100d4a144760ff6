"""One case of the race: an operation at one size, and PyTorch's same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Args = dict[str, Any]


Torch = Callable[[Any, Mapping[str, Any]], Callable[[], Any]]


@dataclass(frozen=True)
class Case:
    """One operation at one size. `make(normal)` gives its arguments from a source of float32 normal arrays.

    `torch(torch, t)` gets the arguments with arrays as tensors and returns a function that computes the same; what that
    returns is compared with the first results of ours (for an operation that works in place: with what it wrote).
    """

    op: str
    shape: str
    flops: float
    make: Callable[[Callable[..., np.ndarray]], Args]
    torch: Torch | None = None


def gradient(f: Callable[..., Any], *names: str) -> Torch:
    """A backward pass as PyTorch does it: the graph is built once, walking back through it is timed."""

    def prepare(torch: Any, t: Mapping[str, Any]) -> Callable[[], Any]:
        inputs = [t[n].detach().clone().requires_grad_() for n in names]
        with torch.enable_grad():
            y = f(torch, dict(t) | dict(zip(names, inputs)))
        return lambda: torch.autograd.grad(y, inputs, t["dy"], retain_graph=True)

    return prepare


def call(f: Callable[[Any, Mapping[str, Any]], Any]) -> Torch:
    return lambda torch, t: lambda: f(torch, t)


def aten(f: Callable[[Any, Mapping[str, Any]], Any]) -> Torch:
    """`f(torch.ops.aten, t)`"""
    return lambda torch, t: lambda: f(torch.ops.aten, t)


def functional(name: str, *more: Any) -> Torch:
    return call(lambda torch, t: getattr(torch.nn.functional, name)(t["x"], *more))


def words(n: int) -> str:
    return f"{n:,}".replace(",", " ")
