"""Checks that both bodies of an operation make before any work: what was given, what was expected."""

from __future__ import annotations

import operator
from numbers import Real

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
        if not plain(a):
            raise TypeError(f"{op}: {name} is a {type(a).__name__}, expected a numpy array{_hint(a)}")
        if a.dtype not in (_F32, _F64):
            raise TypeError(f"{op}: {name} has dtype {a.dtype}, expected float32 or float64")
        if a.dtype != first:
            raise TypeError(f"{op}: {name} has dtype {a.dtype}, but {names.split()[0]} has {first}")


def plain(a: object) -> bool:
    """Whether `a` is an ndarray that computes as one: a subclass may give `*` another meaning (np.matrix) or hide
    entries (masked arrays), which C would not know. A memory map is an ndarray that lies elsewhere."""
    return type(a) is np.ndarray or isinstance(a, np.memmap)


def _hint(a: object) -> str:
    return "; np.asarray(...) gives one" if isinstance(a, np.ndarray) else ""


def optional_floats(op: str, names: str, optional: str, *arrays: np.ndarray | None) -> None:
    """`floats` of those that are given; those named in `optional` may be None. Raises TypeError."""
    for a in arrays:
        if a is None:
            break
    else:
        return floats(op, names, *arrays)  # type: ignore[arg-type]
    may_lack = optional.split()
    given = [(n, a) for n, a in zip(names.split(), arrays) if a is not None or n not in may_lack]
    floats(op, " ".join(n for n, _ in given), *(a for _, a in given))  # type: ignore[arg-type]


def number(op: str, names: str, *values: object) -> None:
    """Each value is one real number (or an array of no axes that holds one). Raises TypeError."""
    for i, value in enumerate(values):
        if type(value) is float or type(value) is int or isinstance(value, Real):
            continue
        if not (isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "fiu"):
            raise TypeError(f"{op}: {names.split()[i]} is {value!r}, expected a number")


def whole(op: str, name: str, value: object) -> int:
    """`value` as an int. Raises TypeError where it is no whole number."""
    try:
        return int(operator.index(value))  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{op}: {name} is {value!r}, expected a whole number") from None


def integers(op: str, name: str, a: np.ndarray) -> None:
    """`a` is an ndarray of an integer dtype. Raises TypeError."""
    if not plain(a) or a.dtype.kind not in "iu":
        raise TypeError(f"{op}: {name} is {_given(a)}, expected an integer numpy array{_hint(a)}")


def flags(op: str, name: str, a: np.ndarray, *allowed: type[np.generic]) -> None:
    """`a` is an ndarray of one of the allowed dtypes. Raises TypeError."""
    if not plain(a) or a.dtype not in allowed:
        expected = " or ".join(np.dtype(t).name for t in allowed)
        raise TypeError(f"{op}: {name} is {_given(a)}, expected a numpy array of {expected}{_hint(a)}")


def _given(a: object) -> str:
    return str(a.dtype) if type(a) is np.ndarray else type(a).__name__


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
    """A number is not below a limit (and no NaN). Raises TypeError or ValueError."""
    if type(value) is not float and type(value) is not int:  # the common case without a call
        number(op, name, value)
    if not value >= least:
        raise ValueError(f"{op}: {name} is {value}, expected at least {least}")


def output(op: str, out: np.ndarray | None, like: np.ndarray) -> None:
    """An `out=` array, where given, can take a result of `like`'s shape and dtype. TypeError or ValueError."""
    if out is not None:
        writable(op, "out", out, like.shape, like.dtype)


def writable(op: str, name: str, a: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """An array to write (`out`, a gradient to add to): this dtype and shape, writable, C-contiguous. TypeError or
    ValueError."""
    if not plain(a) or a.dtype != dtype:
        raise TypeError(f"{op}: {name} is {_given(a)}, expected a numpy array of {dtype}")
    if a.shape != shape:
        raise ValueError(f"{op}: {name} has shape {a.shape}, expected {shape}")
    if not (a.flags.writeable and a.flags.c_contiguous):
        raise ValueError(f"{op}: {name} must be writable and C-contiguous")


def count(op: str, name: str, n: int, width: int = 1) -> int:
    """A whole number of rows, not negative, whose rows of `width` numbers can be addressed. Returns it as an int.

    Raises TypeError or ValueError.
    """
    n = whole(op, name, n)
    at_least(op, name, n, 0)
    if n * max(width, 1) >= 2**56:
        raise ValueError(f"{op}: {name} is {n}, more rows of width {width} than memory can hold")
    return n
