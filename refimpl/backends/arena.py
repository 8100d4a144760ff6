"""Memory for arrays that is kept and handed out again while a training loop runs.

    with refimpl.arena():
        for batch in batches: ...           # the second step finds the memory of the first

A training step allocates the same arrays as the step before, and fresh pages cost as much as many kernels. Inside the
block NumPy takes the memory of arrays from the C core (native/src/arena.c), which keeps what dies and hands it out
again; when the last block ends, what is kept goes back to the system. Values never depend on it, and an array may
outlive the block. It holds for the current thread or task and all arrays that NumPy makes there, by the hook that NumPy
offers for it (NEP 49).

`Estimator.advance` opens one around each unit of training. Without the C core, and on the NumPy backend, whose timings
are those of plain NumPy, nothing happens.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from refimpl.backends import native
from refimpl.backends.dispatch import get_backend

__all__ = ["arena", "counts"]

# Places in NumPy's table of C functions, the same in all versions since 1.22.
_SET_HANDLER = 304


@functools.cache
def _hook() -> tuple[Callable[[Any], Any], Any] | None:
    """NumPy's function that changes the handler of array memory, and our handler; None where there is no such hook."""
    try:
        import ctypes

        numpy_core: Any = importlib.import_module("numpy._core._multiarray_umath")
        python = ctypes.pythonapi
        python.PyCapsule_New.restype = ctypes.py_object
        python.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        python.PyCapsule_GetPointer.restype = ctypes.POINTER(ctypes.c_void_p)
        python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
        table = python.PyCapsule_GetPointer(numpy_core._ARRAY_API, None)
        set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(table[_SET_HANDLER])
        address = int(native.ffi.cast("uintptr_t", native.lib.ri_arena_handler()))
        return set_handler, python.PyCapsule_New(address, b"mem_handler", None)
    except (ImportError, AttributeError, OSError, TypeError):  # another Python, or a NumPy without the hook
        return None


@contextmanager
def arena() -> Iterator[None]:
    """Reuse the memory of arrays within the block; see above."""
    hook = None if native.lib is None or get_backend() == "numpy" else _hook()
    if hook is None:
        yield
        return
    set_handler, ours = hook
    native.lib.ri_arena_open()
    before = set_handler(ours)
    try:
        yield
    finally:
        set_handler(before)
        native.lib.ri_arena_close()


class Counts(NamedTuple):
    """What the arena did: bytes kept now, blocks handed out again and blocks taken from the system so far (of those
    that are large enough to be kept)."""

    kept: int
    reused: int
    fresh: int


def counts() -> Counts:
    """The arena's counts; zeros without the C core."""
    if native.lib is None:
        return Counts(0, 0, 0)
    return Counts(*(native.lib.ri_arena_count(i) for i in range(3)))
