"""Checks that both bodies of an operation make before any work: what was given, what was expected."""

from __future__ import annotations

import operator

import numpy as np

_F32, _F64 = np.dtype(np.float32), np.dtype(np.float64)


def floats(op: str, names: str, *arrays: np.ndarray) -> None:
    """All arrays are ndarrays of one dtype, float32 or float64. `names` lists them, separated by blanks.

    Raises TypeError. Operations convert nothing silently: mixed precision is the caller's explicit `astype`.
    """
    first = getattr(arrays[0], "dtype", None)
    if first is _F32 or first is _F64:  # the common case, without a slow dtype comparison
        for a in arrays:
            if type(a) is not np.ndarray or a.dtype is not first:
                break
        else:
            return
    for name, a in zip(names.split(), arrays):
        if not isinstance(a, np.ndarray):
            raise TypeError(f"{op}: {name} is a {type(a).__name__}, expected a numpy array")
        if a.dtype not in (_F32, _F64):
            raise TypeError(f"{op}: {name} has dtype {a.dtype}, expected float32 or float64")
        if a.dtype != first:
            raise TypeError(f"{op}: {name} has dtype {a.dtype}, but {names.split()[0]} has {first}")


def integers(op: str, name: str, a: np.ndarray) -> None:
    """`a` is an ndarray of an integer dtype. Raises TypeError."""
    if not isinstance(a, np.ndarray) or a.dtype.kind not in "iu":
        given = a.dtype if isinstance(a, np.ndarray) else type(a).__name__
        raise TypeError(f"{op}: {name} is {given}, expected an integer numpy array")


def ndim(op: str, name: str, a: np.ndarray, *allowed: int) -> None:
    """`a` has one of the allowed numbers of axes. Raises ValueError."""
    if a.ndim not in allowed:
        expected = " or ".join(map(str, allowed))
        raise ValueError(f"{op}: {name} has shape {a.shape}, expected {expected} axes")


def shape(op: str, name: str, a: np.ndarray, expected: tuple[int, ...]) -> None:
    """`a` has exactly the expected shape. Raises ValueError."""
    if a.shape != expected:
        raise ValueError(f"{op}: {name} has shape {a.shape}, expected {expected}")


def index_range(op: str, name: str, a: np.ndarray, n: int, ignored: int | None = None) -> None:
    """All entries of the integer array lie in [0, n), or equal `ignored`. Raises ValueError."""
    inside = (a >= 0) & (a < n)
    if ignored is not None:
        inside |= a == ignored
    if not inside.all():
        bad = a[~inside].flat[0]
        raise ValueError(f"{op}: {name} holds {bad}, expected values in [0, {n})")


def at_least(op: str, name: str, value: float, least: float) -> None:
    """A number is not below a limit (and no NaN). Raises ValueError."""
    if not value >= least:
        raise ValueError(f"{op}: {name} is {value}, expected at least {least}")


def output(op: str, out: np.ndarray | None, like: np.ndarray) -> None:
    """An `out=` array, where given, can take a result of `like`'s shape and dtype. TypeError or ValueError."""
    if out is not None:
        writable(op, "out", out, like.shape, like.dtype)


def writable(op: str, name: str, a: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """An array to write (`out`, a gradient to add to): this dtype and shape, writable, C-contiguous. TypeError or
    ValueError."""
    if not isinstance(a, np.ndarray) or a.dtype != dtype:
        given = a.dtype if isinstance(a, np.ndarray) else type(a).__name__
        raise TypeError(f"{op}: {name} is {given}, expected a numpy array of {dtype}")
    if a.shape != shape:
        raise ValueError(f"{op}: {name} has shape {a.shape}, expected {shape}")
    if not (a.flags.writeable and a.flags.c_contiguous):
        raise ValueError(f"{op}: {name} must be writable and C-contiguous")


def count(op: str, name: str, n: int, width: int = 1) -> int:
    """A whole number of rows, not negative, whose rows of `width` numbers can be addressed. Returns it as an int.

    Raises TypeError or ValueError.
    """
    try:
        n = operator.index(n)
    except TypeError:
        raise TypeError(f"{op}: {name} is {n!r}, expected a whole number") from None
    at_least(op, name, n, 0)
    if n * max(width, 1) >= 2**56:
        raise ValueError(f"{op}: {name} is {n}, more rows of width {width} than memory can hold")
    return n
