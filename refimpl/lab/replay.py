"""Run a recorded call again: line by line, in other bodies, and with single entries moved.

    steps(call)        the statements of the NumPy body that compute something, with what each wrote
    bodies(call)       every body timed and compared on the recorded arguments
    checks(call, ...)  hand-written gradients against central differences, entry by entry, in double precision

All of it works on copies; the recorded call is not changed.
"""

from __future__ import annotations

import math
import sys
import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl.backends import backend, operations
from refimpl.lab import anatomy
from refimpl.lab.trace import Call, Trace

__all__ = ["Body", "Check", "Step", "bodies", "checks", "no_check", "steps"]

MOST_STEPS = 60  # of one call: a loop over time is shown from its beginning
LIMIT = 1e-6  # largest error of a gradient, relative to its largest entry


def _arguments(call: Call, double: bool = False) -> dict[str, Any]:
    """Fresh copies of all arguments; with `double`, floats in double precision."""

    def copy(v: Any) -> Any:
        if isinstance(v, np.ndarray):
            return v.astype(np.float64) if double and v.dtype.kind == "f" else v.copy()
        return tuple(map(copy, v)) if isinstance(v, tuple) else v

    return {name: copy(v) for name, v in call.bound.items()}


def _numpy(name: str, args: Mapping[str, Any]) -> Any:
    with backend("numpy"), np.errstate(all="ignore"):
        return operations()[name].numpy(**args)


def _parts(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


# ---------------------------------------------------------------- line by line


@dataclass(frozen=True)
class Step:
    """One statement of the NumPy body: its lines, and the variables that it set, as they were after it."""

    first: int
    last: int
    wrote: tuple[tuple[str, np.ndarray], ...]


def steps(call: Call, most: int = MOST_STEPS, entries: int = 1 << 16) -> list[Step]:
    """The statements that the NumPy body executes for these arguments, in order (at most `most`).

    What the last one returns has the names of the results. Arrays of more than `entries` elements are left out of
    `wrote`, because telling whether they changed takes too long.
    """
    op = operations()[call.op]
    code, lines = op.numpy.__code__, anatomy.statements(call.op)
    found: list[Step] = []
    state: dict[str, bytes] = {}
    now: list[anatomy.Statement | None] = [None]

    def variables(frame: Any) -> dict[str, np.ndarray]:
        seen = {}
        for name, value in frame.f_locals.items():
            for i, v in enumerate(value) if isinstance(value, tuple) else [(None, value)]:
                if isinstance(v, np.ndarray | np.floating | float) and np.size(v) <= entries:
                    seen[name if i is None else f"{name}[{i}]"] = np.asarray(v)
        return seen

    def changes(frame: Any) -> list[tuple[str, np.ndarray]]:
        changed, targets = [], now[0].targets if now[0] is not None else ()
        for name, v in variables(frame).items():
            digest = v.tobytes() + str((v.shape, v.dtype)).encode()
            if state.get(name) != digest or name in targets:
                state[name] = digest
                changed.append((name, v.copy()))
        same = {(v.tobytes(), v.shape) for name, v in changed if "[" not in name}  # add_to[0] has a name of its own
        return [(name, v) for name, v in changed if "[" not in name or (v.tobytes(), v.shape) not in same]

    def close(frame: Any, returned: Any = None) -> None:
        statement = now[0]
        changed = changes(frame)
        if statement is None or not statement.computes or len(found) >= most:
            return
        if returned is not None:
            known = {name for name, _ in changed}
            for i, v in enumerate(_parts(returned)):
                name = anatomy.name_of_result(call.op, i)
                if isinstance(v, np.ndarray | np.floating | float) and np.size(v) <= entries and name not in known:
                    changed.append((name, np.array(v)))
        if changed:
            found.append(Step(statement.first, statement.last, tuple(changed)))

    def local(frame: Any, event: str, arg: Any) -> Any:
        if event == "line":
            statement = lines.get(frame.f_lineno)
            if now[0] is not None and now[0].returns and (statement is None or not statement.computes):
                return local  # a `with` around the return is left
            if statement is None or now[0] is None or statement[:2] != now[0][:2]:
                close(frame)
                now[0] = statement
        elif event == "return":
            close(frame, arg)
        return local

    def entered(frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code is code and not state:
            changes(frame)
            return local
        return None

    args = _arguments(call)
    before = sys.gettrace()
    sys.settrace(entered)
    try:
        _numpy(call.op, args)
    finally:
        sys.settrace(before)
    return found


# ---------------------------------------------------------------- all bodies


@dataclass(frozen=True)
class Body:
    """A body on the recorded arguments: its least time, its largest difference to the NumPy body (relative to the
    largest entry of the result), and the bytes that it allocates over those of its results."""

    name: str
    seconds: float
    difference: float
    scratch: int


def bodies(call: Call, budget: float = 0.01) -> list[Body]:
    """The NumPy body, then the mirrors, each timed for about `budget` seconds."""
    op = operations()[call.op]
    reference: list[np.ndarray] = []
    out = []
    for name, function in sorted(op.bodies.items(), key=lambda item: item[0] != "numpy"):
        with backend(name), np.errstate(all="ignore"):
            best, spent, turns = math.inf, 0.0, 0
            while turns < 3 or (spent < budget and turns < 200):
                args = _arguments(call)
                start = time.perf_counter()
                value = function(**args)
                took = time.perf_counter() - start
                best, spent, turns = min(best, took), spent + took, turns + 1
            results = [np.array(v) for v in _parts(value) if isinstance(v, np.ndarray | np.generic | float)]
            results += [np.array(args[n]) for n in op.inplace if isinstance(args.get(n), np.ndarray)]
            scratch = _scratch(function, _arguments(call))
        reference = reference or results
        out.append(Body(name, best, max(map(_difference, results, reference), default=0.0), scratch))
    return out


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    if a.size == 0:
        return 0.0
    a, b = a.astype(np.float64), b.astype(np.float64)
    if np.array_equal(a, b, equal_nan=True):
        return 0.0
    return float(np.abs(a - b).max() / max(np.abs(b).max(), np.finfo(float).tiny))


def _scratch(function: Callable[..., Any], args: dict[str, Any]) -> int:
    """Peak bytes inside the call, less its results: what Python's allocation tracer sees (not C's own workspace)."""
    running = tracemalloc.is_tracing()
    if not running:
        tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        value = function(**args)
        after, peak = tracemalloc.get_traced_memory()
        del value
        return max(0, peak - max(after, before))
    finally:
        if not running:
            tracemalloc.stop()


# ---------------------------------------------------------------- gradients


@dataclass(frozen=True)
class Check:
    """One gradient against central differences of L = Σ dy y, summed over all results that a gradient came in for.

    name, of      the gradient, and the argument that it belongs to
    call          index of the call whose argument was moved (the forward one)
    gradient      by the hand-written backward pass, in double precision, for all entries
    recorded      as the trace saw it
    entries       which ones were moved (flat indices), by `h`; plus, minus: L on either side
    """

    name: str
    of: str
    call: int
    value: np.ndarray
    gradient: np.ndarray
    recorded: np.ndarray
    entries: np.ndarray
    h: np.ndarray
    plus: np.ndarray
    minus: np.ndarray

    @property
    def quotient(self) -> np.ndarray:
        return (self.plus - self.minus) / (2 * self.h)

    @property
    def scale(self) -> float:
        """The largest entry of the gradient, or what rounding of L can hide, where that is more."""
        largest = float(np.abs(self.gradient).max(initial=0.0))
        L = max((float(np.abs(v).max(initial=0.0)) for v in (self.plus, self.minus)), default=0.0)
        noise = 32 * np.finfo(float).eps * L / float(self.h.min(initial=1.0))
        return max(largest, noise / LIMIT) or 1.0

    @property
    def error(self) -> np.ndarray:
        """|quotient - gradient| of each entry that was moved, relative to `scale`."""
        return np.abs(self.quotient - self.gradient.ravel()[self.entries]) / self.scale

    @property
    def ok(self) -> bool:
        return bool((self.error <= LIMIT).all())

    @property
    def agreement(self) -> float:
        """How far the recorded gradient is from the one in double precision, relative to `scale`."""
        return float(np.abs(self.recorded - self.gradient).max(initial=0.0)) / self.scale


_SURROGATE = "A spike has no derivative: its gradient is a surrogate, which no difference quotient can equal."
_NO_CHECK = {"lif_step": _SURROGATE, "lif_sequence": _SURROGATE, "batchnorm_lif_step": _SURROGATE}

# Forward operations that return gradients themselves: result -> argument, and the loss from arguments and results.
_OWN: dict[str, tuple[dict[str, str], Callable[[Mapping[str, Any], tuple[Any, ...]], float]]] = {
    "denoise_loss": ({"df": "f"}, lambda args, results: float(args["weight"] @ results[0])),
    "goodness_contrast": ({"dz": "z"}, lambda args, results: float(results[0].sum() / max(1, len(results[0])))),
    "map_agreement": ({"da": "a", "dc": "c"}, lambda args, results: float(results[0])),
    "target_loss": ({"d": "z"}, lambda args, results: float(args.get("scale", 1.0) * results[1].sum())),
}


def no_check(call: Call) -> str | None:
    """Why the gradient of this call cannot be checked by differences, where that is so by its nature."""
    return _NO_CHECK.get(anatomy.forward_of(call.op) or call.op)


def checks(trace: Trace, call: Call, entries: int = 512, budget: float = 1.0) -> list[Check]:
    """Check the gradients that a call computed: those of a backward call with its forward one, or of an operation that
    returns its own. At most `entries` of each array, evenly spread, are moved, no more than `budget` seconds allow."""
    if no_check(call) or not call.replayable:
        return []
    if call.op in _OWN:
        return _own_checks(call, entries, budget)
    if call.kind != "backward" or call.partner is None:
        return []
    forward = trace.calls[call.partner]
    return _pair_checks(forward, call, entries, budget) if forward.replayable else []


def _own_checks(call: Call, entries: int, budget: float) -> list[Check]:
    gradients, loss = _OWN[call.op]
    args = _arguments(call, double=True)
    results = _parts(_numpy(call.op, args))
    names = [anatomy.name_of_result(call.op, i) for i in range(len(results))]

    def L(moved: Mapping[str, Any]) -> float:
        return loss(moved, _parts(_numpy(call.op, moved)))

    found = []
    for name, of in gradients.items():
        recorded = next((r.value for r in call.results if r.name == name), None)
        if recorded is not None:
            gradient = results[names.index(name)]
            found.append(_differences(L, args, name, of, call.index, gradient, recorded, entries, budget))
    return found


def _pair_checks(forward: Call, backward: Call, entries: int, budget: float) -> list[Check]:
    args = _arguments(forward, double=True)
    args.pop("out", None)
    outputs = _parts(_numpy(forward.op, args))
    names = [anatomy.name_of_result(forward.op, i) for i in range(len(outputs))]
    given = _arguments(backward, double=True)
    for dropped in ("out", "add_to"):
        given.pop(dropped, None)
    upstream = _upstream(backward, given, names)
    for name in given:  # what was saved: from the forward pass in double precision
        if name in names and name not in args:
            given[name] = outputs[names.index(name)]
    gradients = _parts(_numpy(backward.op, given))

    def L(moved: Mapping[str, Any]) -> float:
        values = _parts(_numpy(forward.op, moved))
        return float(sum(np.sum(d * values[k]) for k, d in upstream.items()))

    found = []
    for i, of in anatomy.gradient_names(backward.op).items():
        value = args.get(of)
        if i >= len(gradients) or gradients[i] is None or not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            continue
        recorded = _recorded(backward, i)
        if recorded is None or recorded.shape != value.shape or np.shape(gradients[i]) != value.shape:
            continue
        name = anatomy.name_of_result(backward.op, i)
        found.append(_differences(L, args, name, of, forward.index, gradients[i], recorded, entries, budget))
    return found


def _upstream(backward: Call, given: Mapping[str, Any], names: list[str]) -> dict[int, Any]:
    """Result of the forward operation -> the gradient that came in for it."""
    found: dict[int, Any] = {}
    for name, value in given.items():
        if name.startswith("d") and name[1:] in names and value is not None:
            found[names.index(name[1:])] = value
    if not found:
        first = next((v for n, v in given.items() if n.startswith("d") and isinstance(v, np.ndarray | float)), 1.0)
        found[0] = first
    return found


def _recorded(call: Call, i: int) -> np.ndarray | None:
    """Gradient number i as it was computed; what a buffer held before is taken off."""
    name = anatomy.name_of_result(call.op, i)
    try:
        result = call.result(name)
    except KeyError:
        return None
    if result.value is None:
        return None
    value = result.value.astype(np.float64)
    for a in call.arguments:
        if a.name.startswith("add_to") and a.where == result.where and a.value is not None:
            value = value - a.value
    return value


def _differences(
    L: Callable[[Mapping[str, Any]], float],
    args: dict[str, Any],
    name: str,
    of: str,
    index: int,
    gradient: np.ndarray,
    recorded: np.ndarray,
    entries: int,
    budget: float,
) -> Check:
    value = np.array(args[of], dtype=np.float64, order="C")
    moved = {**args, of: value}
    flat = value.reshape(-1)
    start = time.perf_counter()
    L(moved)
    once = max(time.perf_counter() - start, 1e-6)
    n = min(value.size, entries, max(8, int(budget / (2 * once))))
    chosen = np.unique(np.linspace(0, value.size - 1, n).round().astype(np.int64)) if value.size else np.empty(0, int)
    h, plus, minus = np.empty(len(chosen)), np.empty(len(chosen)), np.empty(len(chosen))
    for k, i in enumerate(chosen):
        x = flat[i]
        step = np.cbrt(np.finfo(float).eps) * max(1.0, abs(x))
        step = (x + step) - x  # exactly what is added
        flat[i] = x + step
        plus[k] = L(moved)
        flat[i] = x - step
        minus[k] = L(moved)
        flat[i] = x
        h[k] = step
    exact = np.asarray(gradient, dtype=np.float64)
    return Check(name, of, index, value, exact, np.asarray(recorded, np.float64), chosen, h, plus, minus)
