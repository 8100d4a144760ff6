"""The door to the C core: load the extension, choose the instruction-set level, hand arrays and errors across.

`kernel("softmax")` is the pair of C functions for float32 and float64. A mirror calls one as

    check(_softmax[z.dtype](p(z), B, K, p(y), threads()), "softmax")

where `p(a)` is the C pointer to a C-contiguous array; cffi refuses any other layout, so a forgotten `contiguous(a)` is
an error and never a wrong read. `lib is None` on a machine without the extension: kernels are then empty and no mirror
is registered.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

ffi: Any = None
lib: Any = None
level: int | None = None
why_not: str | None = None  # why the C core is not in use

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_LEVELS = {"base": 0, "v2": 2, "v3": 3, "v4": 4}


def _load() -> None:
    global ffi, lib, level, why_not
    if os.environ.get("REFIMPL_NATIVE", "1") == "0":
        why_not = "switched off by REFIMPL_NATIVE=0"
        return
    try:
        _native: Any = importlib.import_module("refimpl._native")
    except ImportError as error:
        why_not = f"the extension is not built or cannot be loaded: {error}"
        warnings.warn(
            "refimpl: the C core is not available, NumPy bodies will run (see `refimpl doctor`)", RuntimeWarning, 2
        )
        return
    wanted = os.environ.get("REFIMPL_ISA", "")
    if wanted and wanted not in _LEVELS:
        raise ValueError(f"REFIMPL_ISA={wanted!r}: expected one of {', '.join(_LEVELS)}")
    chosen = _native.lib.ri_select(_LEVELS.get(wanted, -1))
    if chosen < 0:
        why_not = f"no kernels for this CPU (built: {_native.ffi.string(_native.lib.ri_levels()).decode()})"
        return
    ffi, lib, level = _native.ffi, _native.lib, chosen


_load()


def kernel(name: str) -> dict[np.dtype, Any]:
    """The C functions of one kernel by dtype, {} without the C core. A name the core lacks is an AttributeError."""
    if lib is None:
        return {}
    return {FLOAT32: getattr(lib, f"ri_{name}_f32"), FLOAT64: getattr(lib, f"ri_{name}_f64")}


if lib is not None:
    p = ffi.from_buffer
    NULL = ffi.NULL
else:
    p = NULL = None


def contiguous(a: np.ndarray) -> np.ndarray:
    """`a` itself when it is C-contiguous and aligned for its type, else such a copy (0-d stays 0-d)."""
    flags = a.flags
    return a if flags.c_contiguous and flags.aligned else a.copy(order="C")


def check(status: int, name: str) -> None:
    """Turn a kernel's error code into an exception."""
    if status:
        fail(status, name)


def fail(status: int, name: str) -> None:
    if status == 1:
        raise MemoryError(f"{name}: the C core could not allocate its workspace")
    if status == 2:
        raise ValueError(f"{name}: an index lies outside its range")
    raise RuntimeError(f"{name}: the C core refused its arguments (code {status}); please report this")


class Parameter(NamedTuple):
    """A number that kernels of one dtype are run with, on this instruction-set level: the size of a block, say."""

    value: int
    default: int
    values: tuple[int, ...]  # all that it may be


def _parameter_names() -> dict[str, int]:
    """The number that the C core knows a parameter by."""
    count = 0 if lib is None else lib.ri_parameters()
    return {ffi.string(lib.ri_parameter_name(i)).decode(): i for i in range(count)}


def parameters() -> dict[str, Parameter]:
    """The parameters of the C core by name ("gemm_kc_f32"), {} without the C core. They change the speed, and the
    order of sums, but no result by more than the error bound of its operation."""
    found = {}
    for name, i in _parameter_names().items():
        room = ffi.new("i64[]", 8)  # RI_MOST_VALUES
        count = lib.ri_parameter_values(i, room)
        values = tuple(room[k] for k in range(count))
        found[name] = Parameter(lib.ri_get_parameter(i), lib.ri_parameter_default(i), values)
    return found


def set_parameter(name: str, value: int | None) -> None:
    """Set a parameter for the calls that this thread makes from now on; None: its default. Raises ValueError for a name
    that is none, and for a value that is not allowed."""
    i = _parameter_names().get(name)
    if i is None:
        raise ValueError(f"refimpl: no parameter of the C core is named {name!r}")
    if value is None:
        value = lib.ri_parameter_default(i)
    allowed = parameters()[name].values
    if isinstance(value, bool) or value not in allowed or lib.ri_set_parameter(i, int(value)):
        raise ValueError(f"refimpl: {name} is {value!r}, expected one of {', '.join(map(str, allowed))}")


def with_parameters(body: Callable[..., Any], values: Iterable[tuple[str, int]]) -> Callable[..., Any]:
    """`body`, with parameters set while it runs. Raises KeyError for a name that is none."""
    names, get, put = _parameter_names(), lib.ri_get_parameter, lib.ri_set_parameter
    wanted = [(names[name], value) for name, value in values]

    def call(*args: Any, **kwargs: Any) -> Any:
        before = [(i, get(i)) for i, _ in wanted]
        for i, value in wanted:
            put(i, value)
        try:
            return body(*args, **kwargs)
        finally:
            for i, value in before:
                put(i, value)

    return call


def isa() -> str | None:
    """Name of the instruction-set level in use: 'base', 'v2', 'v3', 'v4', or None without the C core."""
    return next((n for n, number in _LEVELS.items() if number == level), None)


def built_levels() -> str:
    return "" if ffi is None else ffi.string(lib.ri_levels()).decode()


def has_openmp() -> bool:
    return lib is not None and lib.ri_openmp() > 0
