"""What every operation is tested with: drawn inputs, layouts, comparison within an error bound, gradient checks.

A file of tests/strategies registers, for each operation of its family,

    @inputs("layernorm")                      # drawn keyword arguments; arrays in the drawn dtype
    def _(draw, dtype): return {"x": ..., ...}

    @bound("layernorm")                       # how far two correct bodies may differ, from an error analysis
    def _(args, outs, eps): return tolerance  # array or number, or a tuple with one entry per output

    @gradient("layernorm", wrt=("x", "gain", "bias"))      # operations with a `_backward`
    def _(args, dy): return outputs, {"x": dx, ...}        # calls forward and backward as a user would

and, in tests/peers, `@peer("layernorm")`: the same in PyTorch. tests/ops/test_registry.py fails for an operation that
lacks one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import currently_in_test_context, reject
from hypothesis import strategies as st

from refimpl.backends import operations, threads

INPUTS: dict[str, Callable] = {}
BOUNDS: dict[str, Callable] = {}
PEERS: dict[str, Callable] = {}
GRADIENTS: dict[str, Gradient] = {}


@dataclass(frozen=True)
class Gradient:
    """One forward/backward pair. `outputs`: how many leading results of the forward operation receive a gradient
    (dy is an array for 1, else a tuple). `smooth(args)`: False where the function has a kink within the step of the
    central difference, so that no derivative exists to compare with.

    `options(draw)`: keyword arguments that only the backward operation knows (which surrogate, say). They go to `run`
    and `smooth`, and to the peer, behind the forward operation's arguments.

    `twin(args, **options)`: for an operation whose backward pass is by definition not its derivative (a spike's
    surrogate gradient). It returns a function without arguments which reads the arrays in `args` and computes the same
    results; central differences are taken of that function. At the arguments given to `twin` it must equal the
    operation (`differentiated` checks this)."""

    run: Callable
    wrt: tuple[str, ...]
    outputs: int
    smooth: Callable[..., bool]
    options: Callable[[Callable], dict]
    twin: Callable[..., Callable[[], tuple]] | None


def _register(table: dict, *names: str) -> Callable:
    def put(function: Callable) -> Callable:
        for name in names:
            assert name not in table, f"{name} is registered twice"
            table[name] = function
        return function

    return put


def inputs(*names: str) -> Callable:
    return _register(INPUTS, *names)


def bound(*names: str) -> Callable:
    return _register(BOUNDS, *names)


def peer(*names: str) -> Callable:
    return _register(PEERS, *names)


def gradient(
    name: str,
    wrt: tuple[str, ...],
    outputs: int = 1,
    smooth: Callable[..., bool] = lambda args, **options: True,
    options: Callable[[Callable], dict] = lambda draw: {},
    twin: Callable[..., Callable[[], tuple]] | None = None,
) -> Callable:
    def put(function: Callable) -> Callable:
        assert name not in GRADIENTS, f"{name} is registered twice"
        GRADIENTS[name] = Gradient(function, wrt, outputs, smooth, options, twin)
        return function

    return put


# ---------------------------------------------------------------- drawing

# Around the vector widths of all levels (4 to 16 floats), empty and one.
EDGES = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65)


def size(draw, least: int = 0, most: int = 65) -> int:
    """One extent: edge cases and anything between."""
    edges = [e for e in EDGES if least <= e <= most]
    return draw(st.one_of(st.sampled_from(edges), st.integers(least, most)))


def generator(draw) -> np.random.Generator:
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1)))


def array(draw, shape: tuple[int, ...], dtype, scale: float = 1.0, special: bool = False) -> np.ndarray:
    """Normal entries times `scale`; with `special`, some become 0, -0, infinite, NaN, subnormal or huge."""
    rng = generator(draw)
    a = np.asarray(rng.standard_normal(shape) * scale).astype(dtype)
    if special and a.size and draw(st.booleans()):
        info = np.finfo(dtype)
        values = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, info.smallest_subnormal, info.max / 4], dtype)
        chosen = rng.random(shape) < 0.2
        a[chosen] = rng.choice(values, int(chosen.sum()))
    return a


def layout(draw, a: np.ndarray) -> np.ndarray:
    """The same values in another memory layout."""
    if a.ndim == 0 or a.size == 0:
        return a
    kind = draw(st.sampled_from(["c", "c", "fortran", "strided", "reversed", "offset"]))
    if kind == "fortran":
        return np.asfortranarray(a)
    if kind == "strided":
        wide = np.full((*a.shape[:-1], 2 * a.shape[-1] + 1), 7, a.dtype)
        wide[..., 1::2] = a
        return wide[..., 1::2]
    if kind == "reversed":
        return np.ascontiguousarray(a[::-1])[::-1]
    if kind == "offset":  # aligned for its type, but not for a vector
        flat = np.empty(a.size + 1, a.dtype)
        flat[1:] = a.ravel()
        return flat[1:].reshape(a.shape)
    return a


@contextmanager
def team(n: int):
    """Exactly n threads, however small the work (kernels otherwise keep small work on one)."""
    before = threads._threads
    threads._threads = -n if n > 1 else 1
    try:
        yield
    finally:
        threads._threads = before


# ---------------------------------------------------------------- error bounds


def ulps(n: float) -> Callable:
    """An element-wise function: each body within n/2 units in the last place of the true value."""

    def tolerance(args, outs, eps):
        return tuple(n * eps * np.abs(o) + np.finfo(o.dtype).smallest_subnormal * n for o in outs)

    return tolerance


def gamma(n: int, eps: float) -> float:
    """Higham's gamma_n = n u / (1 - n u): the relative error of n roundings, u = eps / 2."""
    u = eps / 2
    return n * u / (1 - n * u)


# ---------------------------------------------------------------- comparing


def as_tuple(result: Any) -> tuple:
    return result if isinstance(result, tuple) else (result,)


def fresh(v: Any) -> Any:
    """A copy of an array, or of the arrays in a tuple; anything else itself."""
    if isinstance(v, tuple):
        return tuple(map(fresh, v))
    return v.copy() if isinstance(v, np.ndarray) else v


def call(name: str, body: str, args: dict) -> tuple:
    """Run one body on copies of what it writes to; results and written arguments together, without those that are
    None (a gradient that was not asked for, an optional argument not given)."""
    op: Any = operations()[name]
    args = {k: fresh(v) if k in op.inplace else v for k, v in args.items()}
    with np.errstate(all="ignore"):
        result = op.bodies[body](**args)
    outs = () if result is None else as_tuple(result)
    written = [a for k in op.inplace for a in as_tuple(args.get(k))]
    return tuple(a for a in (*outs, *written) if a is not None)


def assert_close(name: str, got: tuple, expected: tuple, tolerances: tuple) -> None:
    assert len(got) == len(expected), f"{name}: {len(got)} results, expected {len(expected)}"
    for i, (g, e, tol) in enumerate(zip(got, expected, tolerances)):
        g, e = np.asarray(g), np.asarray(e)
        assert g.shape == e.shape, f"{name}: result {i} has shape {g.shape}, expected {e.shape}"
        assert g.dtype == e.dtype, f"{name}: result {i} has dtype {g.dtype}, expected {e.dtype}"
        if e.dtype.kind in "iub":
            assert np.array_equal(g, e), f"{name}: result {i} differs: {g} != {e}"
            continue
        assert np.array_equal(np.isnan(g), np.isnan(e)), f"{name}: result {i}: NaN in different places"
        with np.errstate(all="ignore"):
            wrong = ~((g == e) | np.isnan(e) | (np.abs(g - e) <= tol))
        if wrong.any():
            at = tuple(np.argwhere(wrong)[0])
            limit = np.broadcast_to(tol, e.shape)[at]
            raise AssertionError(f"{name}: result {i}{list(map(int, at))}: {g[at]!r} is not {e[at]!r} within {limit}")


def tolerances(name: str, args: dict, outs: tuple, dtype) -> tuple:
    """Two bodies, each within the bound of the true value, differ by at most twice the bound.

    Bounds speak of relative roundings; where results underflow, each of (at most some 32) roundings may also lose one
    smallest subnormal number.
    """
    eps, subnormal = float(np.finfo(dtype).eps), float(np.finfo(dtype).smallest_subnormal)
    with np.errstate(all="ignore"):
        result = BOUNDS[name](args, outs, eps)
    result = result if isinstance(result, tuple) else (result,) * len(outs)
    assert len(result) == len(outs), f"{name}: bound gives {len(result)} tolerances for {len(outs)} results"
    return tuple(2 * np.asarray(t, np.float64) + 32 * subnormal for t in result)


def central_difference(f: Callable[[], float], x: np.ndarray, i: tuple, h: float) -> float:
    """(f(x+h) - f(x-h)) / 2h for entry i of x, which f reads and this function changes and restores."""
    old = x[i]
    x[i] = old + h
    up = f()
    x[i] = old - h
    down = f()
    x[i] = old
    return (up - down) / (2 * h)


def central_differences(f: Callable[[], float], x: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """df/dx by central differences for each entry of x, with a step of `step` times the larger of 1 and |x|."""
    d = np.empty_like(x)
    for i in np.ndindex(x.shape):
        d[i] = central_difference(f, x, i, step * max(1.0, abs(x[i])))
    return d


def assert_gradient(gradient: np.ndarray, f: Callable[[], float], x: np.ndarray, step: float = 1e-5, of: str = ""):
    """`gradient` is that of f at x to 1e-6 of its largest entry, wherever f has one.

    An entry that is off is forgiven if f has a kink there (ReLU, pooling): its central difference changes by more than
    1e-7 when the step is halved, whatever `gradient` says. A draw with a kink in most of its entries is rejected.
    """
    numeric = central_differences(f, x, step)
    scale = max(1.0, np.abs(gradient).max(initial=0), np.abs(numeric).max(initial=0))
    off, kinks = np.argwhere(~(np.abs(gradient - numeric) <= 1e-6 * scale)), 0
    for i in map(tuple, off):
        finer = central_difference(f, x, i, step / 2 * max(1.0, abs(x[i])))
        kink = abs(finer - numeric[i]) > 1e-7 * scale
        assert kink, f"gradient {of} at {i} is {gradient[i]:.9g}, the central difference {numeric[i]:.9g}"
        kinks += 1
    if 2 * kinks > x.size and currently_in_test_context():
        reject()
    assert 2 * kinks <= x.size, f"gradient {of}: {kinks} of {x.size} entries have a kink next to them"


def differentiated(name: str, args: dict, options: dict) -> Callable[[], tuple]:
    """What central differences are taken of: the operation, or its twin, which must be it at these arguments."""
    spec, op = GRADIENTS[name], operations()[name]
    if spec.twin is None:
        return lambda: as_tuple(op(**args))
    twin = spec.twin(args, **options)
    results, expected = as_tuple(twin()), as_tuple(op(**args))
    assert len(results) == len(expected), f"{name}: its twin has {len(results)} results, expected {len(expected)}"
    for result, own in zip(results, expected):
        assert relative_error(np.asarray(result), np.asarray(own)) < 1e-12, f"{name}: its twin is another function"
    return twin


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference over the larger of 1 and the largest entry. Equal infinities agree."""
    differ = ~(np.isinf(a) & (a == b))
    a, b = a[differ], b[differ]
    if a.size == 0:
        return 0.0
    return float(np.abs(a - b).max() / max(1.0, np.abs(a).max(), np.abs(b).max()))
