"""From a trace to a page that a reader steps through, and the `refimpl trace` command.

    with refimpl.trace() as trace:
        ...
    write_page(trace, Path("step.html"), title="My step")

Everything on the page is measured when it is made: the NumPy body is run again line by line, every body is timed and
compared on the recorded arrays, and the gradients are checked by differences (refimpl/lab/replay.py). The layout is
refimpl/viz/page.
"""

from __future__ import annotations

import base64
import gc
import hashlib
import inspect
import linecache
import math
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from refimpl._version import __version__
from refimpl.backends import available_backends, backend, native, operations
from refimpl.backends.dispatch import watch
from refimpl.lab import anatomy, csource, replay
from refimpl.lab.errors import RunError, UsageError
from refimpl.lab.files import write
from refimpl.lab.trace import Array, Call, Trace, trace
from refimpl.record import Paper, Step
from refimpl.viz.mathml import mathml
from refimpl.viz.page import render

__all__ = ["page", "record", "run", "write_page"]

MOST_SHOWN = 4096  # entries of an array on the page; of a larger one every k-th along each axis
ALPHABET = (
    "Axes: B batch, T time, C channels, H and W height and width, K classes or kernel size, N nodes or neurons, "
    "E edges, D width of features, V vocabulary, L layers, S seeds. A gradient of x is dx."
)


# ---------------------------------------------------------------- the command


def run(module: Any, out: Path, which: str | None, backend_name: str, quiet: bool = False) -> list[str]:
    """Trace a step of a method and write its page; returns what there is to tell. Raises UsageError, RunError."""
    from refimpl.lab.progress import say

    slug = module.PAPER.slug
    offer: Any = getattr(module, "teach", None) or getattr(module, "race", list)
    offered: Sequence[Step] = offer()
    step = _choose(slug, offered, which)
    if backend_name not in (*available_backends(), "auto"):
        raise RunError(f"backend {backend_name} is not available: {native.why_not or 'see refimpl doctor'}")
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: expected the name of a file in a folder that exists")
    if not quiet:
        say(f"refimpl: tracing {step.name}, then running every operation again ...")
    recorded, memory = record(step, backend_name)
    if not recorded.calls:
        raise RunError(f"{slug}: the step {step.name!r} calls no operation: there is nothing to show")
    size = write_page(recorded, out, step.name, module.PAPER, step, memory, backend_name)
    others = [s.name for s in offered if s is not step]
    bad = [c for c in recorded.calls for k in _checks_of(recorded, c) if not k.ok]
    told = [f"{out}: {len(recorded)} operations, {size / 1e6:.2f} MB. Open it in a browser; the arrow keys step."]
    if bad:
        told.append(f"Gradients that differ from central differences: {', '.join(f'{c.index} {c.op}' for c in bad)}.")
    if others:
        told.append(f"Other steps of {slug}: {'; '.join(others)} (--step, any part of the name).")
    return told


def _choose(slug: str, offered: Sequence[Step], which: str | None) -> Step:
    if not offered:
        raise UsageError(f"{slug} offers no step to trace")
    if which is None:
        return offered[0]
    if found := [s for s in offered if which.lower() in s.name.lower()]:
        return found[0]
    raise UsageError(
        f"--step {which!r}: no step of {slug} is named so, expected a part of: {'; '.join(s.name for s in offered)}"
    )


def record(step: Step, backend_name: str = "auto") -> tuple[Trace, list[int]]:
    """Trace one run of a step; also the bytes of arrays that it holds after each operation, from a run before it."""
    work = step.make()
    with backend(backend_name):
        memory = _memory(work)
        with trace() as recorded:
            work()
    return recorded, memory if len(memory) == len(recorded.calls) else [c.alive for c in recorded.calls]


def _memory(work: Callable[[], Any]) -> list[int]:
    """Bytes of the arrays made since the beginning that are alive after each operation, as NumPy reports them.

    Nested operations appear in the order in which they began, as in a trace.
    """
    found: list[int] = []
    domain = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)

    def observer(op: Any, body: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        found.append(0)
        mine = len(found) - 1
        value = body(*args, **kwargs)
        snapshot = tracemalloc.take_snapshot().filter_traces([domain])
        found[mine] = sum(t.size for t in snapshot.traces)
        return value

    if tracemalloc.is_tracing():
        return []
    gc.collect()
    tracemalloc.start(1)
    try:
        with watch(observer):
            work()
    finally:
        tracemalloc.stop()
    return found


def write_page(
    recorded: Trace,
    out: Path,
    title: str,
    paper: Paper | None = None,
    step: Step | None = None,
    memory: list[int] | None = None,
    backend_name: str = "auto",
) -> int:
    """Write the page of a trace; returns its size in bytes. Raises RunError where it cannot be written."""
    content = page(recorded, title, paper, step, memory, backend_name).encode("utf-8")
    write(out, content)
    return len(content)


# ---------------------------------------------------------------- the page


def page(
    recorded: Trace,
    title: str,
    paper: Paper | None = None,
    step: Step | None = None,
    memory: list[int] | None = None,
    backend_name: str = "auto",
) -> str:
    """The page of a trace as HTML."""
    store = _Store()
    axes = _axes(recorded)
    origins = _origins(recorded)
    done = [c for c in recorded.calls if c.error is None]  # a call that failed has nothing to show
    number = {c.index: i for i, c in enumerate(done)}
    calls = [_call(recorded, c, store, axes, origins) for c in done]
    for call in calls:
        call["parent"], call["partner"] = number.get(call["parent"]), number.get(call["partner"])
        for a in call["in"]:
            a["from"] = number.get(a["from"])
    names = dict.fromkeys(c.op for c in done)
    held = memory if memory is not None else [c.alive for c in recorded.calls]
    seconds = sum(c.seconds for c in recorded.calls if c.parent is None)
    what = [f"{len(calls)} operations", f"{sum(len(c['steps']) for c in calls)} lines"]
    if step is not None:
        what += [step.shape, step.dtype]
    what.append(f"recorded with backend {backend_name}, {1e6 * seconds:.0f} µs inside operations")
    data = {
        "kicker": f"One training step, line by line: refimpl trace {paper.slug}" if paper else "A trace by refimpl",
        "lede": paper.idea if paper else "",
        "meta": ". ".join(part[0].upper() + part[1:] for part in [", ".join(what)])
        + "."
        + (f" Paper: {paper.title}, {paper.year}, arXiv:{paper.arxiv}." if paper else ""),
        "foot": f"Made by refimpl {__version__} from a real run; {_machine()}. Times are the least of repeated calls "
        "on the recorded arrays. The C line beside a NumPy line is the one that shares most names with it. "
        "Gradients are checked in double precision.",
        "alphabet": ALPHABET,
        "limit": replay.LIMIT,
        "ops": {name: _operation(name) for name in names},
        "calls": calls,
        "memory": [held[c.index] for c in done],
        "arrays": store.arrays,
    }
    return render(title, data)


def _machine() -> str:
    from refimpl.backends.processor import cpu

    return cpu()


def _operation(name: str) -> dict[str, Any]:
    op = operations()[name]
    forward = anatomy.forward_of(name)
    symbols = set(inspect.signature(op.numpy).parameters) | set(anatomy.result_names(name))
    if forward is not None:
        symbols |= set(inspect.signature(operations()[forward].numpy).parameters) | set(anatomy.result_names(forward))

    def lines(source: anatomy.Source | None) -> dict[str, Any] | None:
        if source is None:
            return None
        return {"file": source.file, "lines": [[n, text] for n, text in zip(source.numbers, source.lines)]}

    return {
        "kind": anatomy.kind(name),
        "equations": [mathml(e, symbols) for e in anatomy.equations(name)],
        "numpy": lines(anatomy.numpy_source(name)),
        "c": lines(csource.c_source(name)) if "native" in op.bodies else None,
    }


def _call(
    recorded: Trace, call: Call, store: _Store, axes: dict[tuple[int, str], tuple[str, ...]], origins: dict[Any, Any]
) -> dict[str, Any]:
    def entry(a: Array) -> dict[str, Any]:
        return {"name": a.name, "k": store.add_array(a), "axes": axes.get((call.index, a.name))}

    out = call.results + [w for w in call.written if not any(r.where == w.where for r in call.results)]
    found: dict[str, Any] = {
        "op": call.op,
        "parent": call.parent,
        "partner": call.partner,
        "how": call.how,
        "places": [_place(p) for p in call.places],
        "numbers": [[k, _short(v)] for k, v in call.numbers.items()],
        "in": [{**entry(a), "from": None, **origins.get((call.index, a.name), {})} for a in call.arguments],
        "out": [entry(a) for a in out],
        "bodies": {},
        "unchecked": replay.no_check(call) if call.kind == "backward" else None,
        "checks": [],
    }
    match = csource.counterpart(call.op)
    steps = []
    if call.replayable:
        by_shape = _by_shape(call, axes)
        for s in replay.steps(call):
            wrote = [
                {
                    "name": name,
                    "k": store.add(v),
                    "axes": axes.get((call.index, name)) or by_shape.get(v.shape),
                }
                for name, v in s.wrote
            ]
            steps.append(
                {"a": s.first, "b": s.last, "c": [list(match[s.first])] if s.first in match else [], "wrote": wrote}
            )
        found["bodies"] = {
            b.name: {"seconds": b.seconds, "difference": b.difference, "scratch": b.scratch}
            for b in replay.bodies(call)
        }
        found["checks"] = [_check(k, store, axes) for k in _checks_of(recorded, call)]
    if not steps:  # nothing to run again: one step for the whole call
        lines = anatomy.numpy_source(call.op).numbers
        steps = [{"a": lines[0], "b": lines[0], "c": [], "wrote": [entry(a) for a in out]}]
        found["bodies"] = found["bodies"] or {"numpy": {"seconds": call.seconds, "difference": 0.0, "scratch": 0}}
    found["steps"] = steps
    return found


def _checks_of(recorded: Trace, call: Call) -> list[replay.Check]:
    """The checks of a call, made once."""
    kept = recorded.__dict__.setdefault("_checks", {})
    if call.index not in kept:
        kept[call.index] = replay.checks(recorded, call)
    return kept[call.index]


def _check(k: replay.Check, store: _Store, axes: dict[tuple[int, str], tuple[str, ...]]) -> dict[str, Any]:
    every = len(k.entries) == k.value.size
    shape = k.value.shape
    value, gradient = (a if every else a.ravel()[k.entries] for a in (k.value, k.gradient))
    return {
        "name": k.name,
        "of": k.of,
        "axes": axes.get((k.call, k.of)),
        "value": store.add(value, whole=shape),
        "gradient": store.add(gradient, whole=shape),
        "entries": None if every else _base64(k.entries.astype("<i4")),
        "moved": _base64(k.value.ravel()[k.entries].astype("<f8")),
        "exact": _base64(k.gradient.ravel()[k.entries].astype("<f8")),
        "seen": _base64(k.recorded.ravel()[k.entries].astype("<f8")),
        "h": _base64(k.h.astype("<f8")),
        "plus": _base64(k.plus.astype("<f8")),
        "minus": _base64(k.minus.astype("<f8")),
        "scale": k.scale,
    }


def _place(place: Any) -> list[Any]:
    path = Path(place.file)
    package = Path(__file__).resolve().parents[2]
    shown = path.relative_to(package).as_posix() if path.is_relative_to(package) else path.name
    return [shown, place.line, place.function, linecache.getline(place.file, place.line).strip()]


def _short(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


# ---------------------------------------------------------------- arrays, each stored once


def _base64(a: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(a).tobytes()).decode("ascii")


class _Store:
    """The arrays of a page: equal ones are one."""

    def __init__(self) -> None:
        self.arrays: list[dict[str, Any]] = []
        self._known: dict[Any, int] = {}

    def add_array(self, a: Array) -> int:
        if a.value is not None:
            return self.add(a.value)
        assert a.thumbnail is not None
        every = [max(1, -(-n // m)) if m else 1 for n, m in zip(a.shape, a.thumbnail.shape)]
        return self.add(a.thumbnail, whole=a.shape, every=every)

    def add(self, a: np.ndarray, whole: tuple[int, ...] | None = None, every: list[int] | None = None) -> int:
        a = np.asarray(a)
        whole = a.shape if whole is None else whole
        dtype, stats = a.dtype.name, None
        if a.size > MOST_SHOWN:
            k = math.ceil((a.size / MOST_SHOWN) ** (1 / sum(n > 1 for n in a.shape)))
            steps = [k if n > 1 else 1 for n in a.shape]
            if a.ndim > 1 and min(n for n in a.shape if n > 1) < k:  # thin arrays: along the longest axis
                steps = [math.ceil(a.size / MOST_SHOWN) if i == int(np.argmax(a.shape)) else 1 for i in range(a.ndim)]
            finite = a[np.isfinite(a)] if a.dtype.kind == "f" else a
            stats = [float(f(finite)) for f in (np.min, np.max, np.mean)] if finite.size else None
            a, every = a[tuple(slice(None, None, s) for s in steps)], steps
        kinds = {"f8": "<f8", "f4": "<f4", "i4": "<i4", "u1": "u1"}
        t = {"f": f"f{min(8, max(4, a.dtype.itemsize))}", "b": "u1"}.get(a.dtype.kind, "i4")
        if t == "i4" and a.size and (np.abs(a.astype(np.float64)).max() >= 2**31):
            t = "f8"
        content = np.ascontiguousarray(a.astype(kinds[t]))
        key = (hashlib.blake2b(content.tobytes()).digest(), a.shape, dtype, whole)
        if key not in self._known:
            self._known[key] = len(self.arrays)
            made: dict[str, Any] = {"s": list(a.shape), "t": t, "dtype": dtype, "b": _base64(content)}
            made |= {"whole": list(whole)} if whole != a.shape else {}
            made |= {"every": every} if every else {}
            made |= {"stats": stats} if stats else {}
            self.arrays.append(made)
        return self._known[key]


# ---------------------------------------------------------------- names of axes, origins


def _axes(recorded: Trace) -> dict[tuple[int, str], tuple[str, ...]]:
    """(call, array) -> names of its axes: from the docstring; "..." and what it leaves open from where the array was
    seen before; for the rest from an array of the same shape in the same call."""
    seen: dict[Any, tuple[str, ...]] = {}
    found: dict[tuple[int, str], tuple[str, ...]] = {}
    for call in recorded.calls:
        arrays = [*call.arguments, *call.results, *call.written]
        open_ones = []
        for a in arrays:
            ndim = len(a.shape)
            before = seen.get((a.where[:2], a.shape))
            declared = anatomy.axes(call.op, a.name, ndim)
            if declared is None and a.name.startswith("add_to") and call.partner is not None:
                result = next((r for r in call.results if r.where == a.where), None)
                declared = anatomy.axes(call.op, result.name, ndim) if result is not None else None
            if declared is not None and "..." in declared:
                k, lead = declared.index("..."), ndim - len(declared) + 1
                first = before[:lead] if before else ("B", "T", "H", "W")[:lead]
                declared = (*declared[:k], *first, *declared[k + 1 :])
            names = declared or before
            if names is None or len(names) != ndim:
                open_ones.append(a)
                continue
            found[call.index, a.name] = names
            seen.setdefault((a.where[:2], a.shape), names)
        for a in open_ones:
            names = next(
                (found[call.index, b.name] for b in arrays if b.shape == a.shape and (call.index, b.name) in found),
                None,
            )
            if names is None:
                names = ("B",) if len(a.shape) == 1 and a.name == "target" else ("·",) * len(a.shape)
                if len(a.shape) == 2 and any(len(b.shape) == 2 for b in arrays):
                    names = ("B", "D")
            else:
                seen.setdefault((a.where[:2], a.shape), names)
            found[call.index, a.name] = names
    return found


def _by_shape(call: Call, axes: dict[tuple[int, str], tuple[str, ...]]) -> dict[tuple[int, ...], tuple[str, ...]]:
    """Axes of the variables inside a body: those of the only array of the same shape."""
    found: dict[tuple[int, ...], tuple[str, ...]] = {}
    for a in [*call.results, *call.arguments]:
        names = axes.get((call.index, a.name))
        if names is not None and a.shape:
            found.setdefault(a.shape, names)
    return found


def _span(a: Array) -> tuple[int, int]:
    """First byte and byte after the last of an array in its allocation."""
    _, offset, shape, strides = a.where
    size = sum((n - 1) * s for n, s in zip(shape, strides) if n > 0) + np.dtype(a.dtype).itemsize
    return offset, offset + size


def _origins(recorded: Trace) -> dict[tuple[int, str], dict[str, Any]]:
    """(call, argument) -> which call wrote that memory last, and whether it was changed since."""
    written: list[tuple[int, int, int, Array, int]] = []
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for call in recorded.calls:
        for a in call.arguments:
            lo, hi = _span(a)
            for serial, b, e, w, index in reversed(written):
                if serial == a.where[0] and b < hi and lo < e:
                    found[call.index, a.name] = {"from": index, "changed": w.shape == a.shape and w.digest != a.digest}
                    break
        for a in [*call.results, *call.written]:
            if a.where[0]:
                written.append((a.where[0], *_span(a), a, call.index))
    return found
