"""Record every operation of a piece of work: what ran, on which arrays, how long, and which gradient belongs to what.

    with refimpl.trace() as trace:
        y, saved = layer.forward(params, x, train=True)
        layer.backward(params, grads, saved, dy)
    print(trace)                                # a table: operation, shapes, time, its partner
    call = trace.calls[0]
    call.op, call.equations, call.seconds, call.argument("x").value

Recorded are the calls of the thread or asyncio task that entered the block (a thread that it starts has a context of
its own), of all backends alike. Arrays are copied as they are at the moment of the call, up to `keep` bytes each; of a
larger one a thumbnail is kept. Nothing is kept alive: the memory curve says which arrays the work itself holds. Outside
the block calls cost what they cost before.

`write_page` (refimpl/lab/walk.py; `refimpl trace SLUG --out page.html`) turns a trace into a page to step through.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.backends import Operation, get_backend
from refimpl.backends.dispatch import watch
from refimpl.lab import anatomy, csource

__all__ = ["Array", "Call", "Place", "Trace", "trace"]

KEEP = 4 << 20  # bytes of an array that is copied whole
THUMBNAIL = 32  # entries along an axis of a thumbnail

Where = tuple[int, int, tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Array:
    """An array, or a number, as it was at one moment of a call."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    value: np.ndarray | None  # a copy; None where it was larger than `keep`
    thumbnail: np.ndarray | None  # then every k-th entry
    where: Where  # its memory: (allocation, offset, shape, strides); the same memory is the same array
    digest: bytes  # of its contents

    @property
    def whole(self) -> bool:
        return self.value is not None


@dataclass(frozen=True)
class Place:
    """A line of Python."""

    file: str
    line: int
    function: str


@dataclass
class Call:
    """One call of an operation.

    arguments   arrays by the name of the argument (`add_to[0]` for the first of a tuple)
    numbers     all other arguments that are not None
    results     arrays and numbers that it returned
    written     arrays that it changed in place, as they were afterwards
    seconds     time of the body; `before`: of the Python code since the call before
    places      the lines that led here, the innermost first
    parent      the call that this one is part of, or None
    partner     of a backward pass its forward one, and the other way round: index into Trace.calls, or None
    how         how the partner was found: "identity" (they share an array), "values" (equal ones), "order"
    alive       bytes of all arrays that operations saw and that the work still holds after the call
    error       the exception that it raised, or None
    """

    index: int
    op: str
    backend: str
    arguments: list[Array] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    results: list[Array] = field(default_factory=list)
    written: list[Array] = field(default_factory=list)
    seconds: float = 0.0
    before: float = 0.0
    places: tuple[Place, ...] = ()
    parent: int | None = None
    partner: int | None = None
    how: str | None = None
    alive: int = 0
    error: str | None = None
    bound: dict[str, Any] = field(default_factory=dict, repr=False)  # every argument given, arrays copied

    @property
    def kind(self) -> str:
        """ "forward", "backward" or "update"."""
        return anatomy.kind(self.op)

    @property
    def equations(self) -> tuple[str, ...]:
        return anatomy.equations(self.op)

    @property
    def numpy_source(self) -> anatomy.Source:
        return anatomy.numpy_source(self.op)

    @property
    def c_source(self) -> anatomy.Source | None:
        return csource.c_source(self.op)

    def argument(self, name: str) -> Array:
        """An array by the name of its argument. Raises KeyError."""
        return _named(self.arguments, name)

    def result(self, name: str) -> Array:
        """A result, or an array changed in place, by its name. Raises KeyError."""
        return _named([*self.results, *self.written], name)

    @property
    def replayable(self) -> bool:
        """Whether all arguments are here, so that the call can be made again."""
        return self.error is None and all(a.whole for a in self.arguments)


def _named(arrays: list[Array], name: str) -> Array:
    for a in arrays:
        if a.name == name:
            return a
    raise KeyError(name)


class Trace:
    """What `refimpl.trace()` recorded: `calls` in the order in which they began."""

    def __init__(self, keep: int = KEEP):
        self.calls: list[Call] = []
        self.keep = keep
        self.inputs = 0  # bytes alive before the first call: everything that came in from outside
        self._recording = True
        self._lock = threading.RLock()
        self._known: dict[
            int, tuple[weakref.ref[np.ndarray], int, int]
        ] = {}  # id of an allocation -> (.., serial, bytes)
        self._serial = 0
        self._alive = 0
        self._open: dict[int, list[Call]] = {}  # by thread
        self._quiet_since: float | None = None  # when the last call of the outermost level ended

    # ------------------------------------------------------------ reading

    def __len__(self) -> int:
        return len(self.calls)

    def __iter__(self) -> Iterator[Call]:
        return iter(self.calls)

    def __getitem__(self, i: int) -> Call:
        return self.calls[i]

    @property
    def pairs(self) -> list[tuple[Call, Call]]:
        """(forward, backward) calls that belong together, in the order of the forward ones."""
        calls = self.calls
        return [(c, calls[c.partner]) for c in calls if c.partner is not None and c.kind != "backward"]

    def __str__(self) -> str:
        from refimpl.lab.text import table

        rows = []
        for c in self.calls:
            shapes = " ".join(f"{a.name}{a.shape}".replace(" ", "") for a in c.arguments)
            name = "  " * self._depth(c) + c.op
            partner = "" if c.partner is None else str(c.partner)
            rows.append((str(c.index), name, shapes, f"{1e6 * c.seconds:.1f}", f"{c.alive:,}", partner))
        head = ("", "operation", "arrays", "µs", "bytes alive", "partner")
        return table(head, rows, right=(0, 3, 4, 5))

    def _depth(self, call: Call) -> int:
        depth = 0
        while call.parent is not None:
            call, depth = self.calls[call.parent], depth + 1
        return depth

    # ------------------------------------------------------------ recording

    def _observe(self, op: Operation, body: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._recording:  # a context that outlived the block
            return body(*args, **kwargs)
        start = time.perf_counter()
        with self._lock:
            stack = self._open.setdefault(threading.get_ident(), [])
            call = Call(len(self.calls), op.name, get_backend(), parent=stack[-1].index if stack else None)
            if not stack and self._quiet_since is not None:
                call.before = start - self._quiet_since
            call.places = _places(sys._getframe(2))
            self.calls.append(call)
            changed = self._take(op, args, kwargs, call)
            stack.append(call)
        start = time.perf_counter()
        try:
            value = body(*args, **kwargs)
            call.seconds = time.perf_counter() - start
        except BaseException as error:
            call.seconds = time.perf_counter() - start
            call.error = f"{type(error).__name__}: {error}"
            raise
        finally:
            with self._lock:
                stack.pop()
                if call.error is None:
                    parts = value if isinstance(value, tuple) else (value,)
                    for i, part in enumerate(parts):
                        if isinstance(part, np.ndarray | np.generic | float | int) and not isinstance(part, bool):
                            call.results.append(self._see(anatomy.name_of_result(op.name, i), part))
                    call.written = [self._see(name, a) for name, a in changed]
                call.alive = self._alive
                if not stack:
                    del self._open[threading.get_ident()]
                    self._quiet_since = time.perf_counter()
        return value

    def _take(self, op: Operation, args: tuple[Any, ...], kwargs: dict[str, Any], call: Call) -> list[tuple[str, Any]]:
        """Note the arguments of a call; returns the arrays that it will change."""
        try:
            given = inspect.signature(op.numpy).bind(*args, **kwargs).arguments
        except TypeError:  # the body says what is wrong
            return []
        changed: list[tuple[str, Any]] = []
        before = self._alive
        for name, value in given.items():
            written = name in op.inplace or name == "out"
            if isinstance(value, np.ndarray):
                seen = self._see(name, value)
                call.bound[name] = seen.value
                if name != "out":
                    call.arguments.append(seen)
                changed += [(name, value)] * written
            elif isinstance(value, tuple) and any(isinstance(v, np.ndarray) for v in value):
                copies = []
                for i, v in enumerate(value):
                    seen_part = self._see(f"{name}[{i}]", v) if isinstance(v, np.ndarray) else None
                    copies.append(v if seen_part is None else seen_part.value)
                    if seen_part is not None:
                        call.arguments.append(seen_part)
                        changed += [(f"{name}[{i}]", v)] * written
                call.bound[name] = tuple(copies)
            else:
                call.bound[name] = value
                if value is not None:
                    call.numbers[name] = value
        if call.index == 0:
            self.inputs = self._alive - before
        return changed

    def _see(self, name: str, value: Any) -> Array:
        whole = isinstance(value, np.ndarray)
        a = np.asarray(value)
        where = self._where(value) if whole else (0, 0, (), ())
        copy = thumbnail = None
        if a.nbytes <= self.keep:
            copy = np.array(a, order="C")
            digest = hashlib.blake2b(copy.tobytes(), digest_size=12).digest()
        else:
            steps = tuple(slice(None, None, max(1, -(-n // THUMBNAIL))) for n in a.shape)
            thumbnail = np.array(a[steps], order="C")
            digest = hashlib.blake2b(np.ascontiguousarray(a).tobytes(), digest_size=12).digest()
        return Array(name, a.shape, a.dtype.name, copy, thumbnail, where, digest)

    def _where(self, a: np.ndarray) -> Where:
        """The memory of an array: which allocation, where in it."""
        root = a
        while isinstance(root.base, np.ndarray):
            root = root.base
        known = self._known.get(id(root))
        if known is None or known[0]() is not root:
            self._serial += 1
            serial, size, key = self._serial, root.nbytes, id(root)

            def gone(_: Any, key: int = key, serial: int = serial, size: int = size) -> None:
                self._alive -= size
                if key in self._known and self._known[key][1] == serial:
                    del self._known[key]

            known = (weakref.ref(root, gone), serial, size)
            self._known[key] = known
            self._alive += size
        offset = a.__array_interface__["data"][0] - root.__array_interface__["data"][0]
        return known[1], offset, a.shape, a.strides

    def _finish(self) -> None:
        self._recording = False
        self._known.clear()
        _pair(self.calls)


@contextmanager
def trace(keep: int = KEEP) -> Iterator[Trace]:
    """Record every operation that this thread or task calls in the block. See the module's docstring.

    `keep`: arrays of more bytes than this are kept as thumbnails; calls with such arrays cannot be replayed.
    """
    if keep < 0:
        raise ValueError(f"trace: keep is {keep}, expected a number of bytes of at least 0")
    recorded = Trace(keep)
    try:
        with watch(recorded._observe):
            yield recorded
    finally:
        recorded._finish()


# ---------------------------------------------------------------- where a call comes from

_PACKAGE = str(Path(__file__).resolve().parents[1])
_SKIPPED = tuple(str(Path(_PACKAGE, part)) for part in ("backends", "ops"))
_LAB = str(Path(_PACKAGE, "lab"))


def _places(frame: Any) -> tuple[Place, ...]:
    """The lines of the library above the operations that led here, innermost first, and the caller's own line."""
    found: list[Place] = []
    while frame is not None and len(found) < 8:
        code = frame.f_code
        file = code.co_filename
        if not file.startswith(_PACKAGE):
            if not file.startswith("<frozen") and not found:
                found.append(Place(file, frame.f_lineno, code.co_name))
            elif found and "<" not in file and "contextlib" not in file:
                found.append(Place(file, frame.f_lineno, code.co_name))
            break
        if file.startswith(_LAB):
            break
        if not file.startswith(_SKIPPED):
            found.append(Place(file, frame.f_lineno, code.co_name))
        frame = frame.f_back
    return tuple(found)


# ---------------------------------------------------------------- which gradient belongs to which operation


def _pair(calls: list[Call]) -> None:
    """Find the forward call of every backward one: of the same name, sharing most arrays, the latest; each once."""
    free: dict[str, list[Call]] = {}
    for call in calls:
        if call.error is not None:
            continue
        forward = anatomy.forward_of(call.op)
        if forward is None:
            free.setdefault(call.op, []).append(call)
            continue
        candidates = free.get(forward, [])
        best, most, how = None, (0, 0, 0), None
        for candidate in reversed(candidates):
            same, equal = _shared(candidate, call)
            fits = same + equal > 0 or not call.arguments or _alike(candidate, call)
            score = (same, equal, _alike(candidate, call))
            if fits and (best is None or score > most):
                best, most = candidate, score
                how = "identity" if same else "values" if equal else "order"
        if best is not None:
            best.partner, call.partner, best.how, call.how = call.index, best.index, how, how
            candidates.remove(best)


def _shared(forward: Call, backward: Call) -> tuple[int, int]:
    """How many arrays the backward call has from the forward one: the same memory and contents; equal contents."""
    mine = [*forward.arguments, *forward.results, *forward.written]
    memory = {(a.where, a.digest) for a in mine if a.where[0]}
    contents = {(a.digest, a.shape, a.dtype) for a in mine if a.shape}
    given = [a for a in backward.arguments if not a.name.startswith("add_to")]
    same = sum((a.where, a.digest) in memory for a in given)
    equal = sum((a.digest, a.shape, a.dtype) in contents for a in given if (a.where, a.digest) not in memory)
    return same, equal


def _alike(forward: Call, backward: Call) -> int:
    """Whether upstream gradients have the shapes of results: 2 where all have, 1 where some have, else 0."""
    shapes = {r.shape for r in forward.results}
    found = [a.shape in shapes for a in backward.arguments if a.name.startswith("d")]
    return any(found) + (bool(found) and all(found))
