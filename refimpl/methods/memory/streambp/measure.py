"""What a gradient costs, counted while it is computed: bytes of arrays alive, and floating-point operations.

Bytes are those that Python's allocation tracer sees, to which NumPy reports every array. Parameters, gradients and
whatever else lived before does not count. Scratch memory inside the C core (a few hundred kB a thread) is not seen.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from refimpl import ops
from refimpl.backends import operations

__all__ = ["Flops", "flops", "peak_bytes", "timeline"]


@contextmanager
def _traced() -> Iterator[int]:
    """Tracing of allocations; gives the bytes alive at the start."""
    gc.collect()
    started = not tracemalloc.is_tracing()
    if started:
        tracemalloc.start(1)
    try:
        tracemalloc.reset_peak()
        yield tracemalloc.get_traced_memory()[0]
    finally:
        if started:
            tracemalloc.stop()


def peak_bytes(f: Callable[[], Any]) -> int:
    """Most bytes alive at any time during f(), beyond those alive before."""
    with _traced() as before:
        f()
        return tracemalloc.get_traced_memory()[1] - before


@contextmanager
def _watched(see: Callable[[str, tuple[Any, ...], dict[str, Any]], None]) -> Iterator[None]:
    """Tell `see` of each operation that is called through refimpl.ops, when it is done."""
    before = {name: getattr(ops, name) for name in operations()}

    def wrap(name: str, op: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = op(*args, **kwargs)
            see(name, args, kwargs)
            return result

        return call

    try:
        for name, op in before.items():
            setattr(ops, name, wrap(name, op))
        yield
    finally:
        for name, op in before.items():
            setattr(ops, name, op)


def timeline(f: Callable[[], Any]) -> list[int]:
    """Bytes alive beyond those before, after each operation of f(): a picture of its memory over time."""
    found: list[int] = []
    with _traced() as start, _watched(lambda *_: found.append(tracemalloc.get_traced_memory()[0] - start)):
        f()
    return found


@dataclass
class Flops:
    """Operations of products that go forward: scores q k^T alone, attention in all, linear maps."""

    scores: int = 0
    attention: int = 0
    linear: int = 0

    @property
    def total(self) -> int:
        return self.attention + self.linear


def flops(f: Callable[[], Any]) -> Flops:
    """Counted at each call of attention and of the linear map in f(); causal attention counts as the rectangle of
    queries and keys that it is given."""
    counts = Flops()

    def see(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name == "attention":
            (B, H, T, D), (S, E) = args[0].shape, args[2].shape[2:]
            counts.scores += 2 * B * H * T * S * D
            counts.attention += 2 * B * H * T * S * (D + E)
        elif name == "linear":
            x, w = args[:2]
            counts.linear += 2 * x.size * w.shape[1]

    with _watched(see):
        f()
    return counts
