"""What a batch costs in memory, measured while it is trained.

Bytes are those that Python's allocation tracer sees, to which NumPy reports every array (outside of refimpl.arena).
Parameters, gradient buffers, data and whatever else lived before does not count; scratch memory inside the C core (some
hundred kB a thread) is not seen, so measure on the NumPy bodies.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from refimpl.backends.dispatch import watch

__all__ = ["peak_bytes", "timeline"]


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
    """Most bytes alive at any time during f(), beyond those before. f runs once before it is measured."""
    f()
    with _traced() as before:
        f()
        return tracemalloc.get_traced_memory()[1] - before


def timeline(f: Callable[[], Any]) -> list[int]:
    """Bytes alive beyond those before, after each operation of f(): a picture of its memory over time."""
    found: list[int] = []
    f()
    with _traced() as start:

        def see(op: Any, body: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
            result = body(*args, **kwargs)
            found.append(tracemalloc.get_traced_memory()[0] - start)
            return result

        with watch(see):
            f()
    return found
