"""The one dispatcher: an operation is a name with several bodies, and a setting says which body a call runs.

    @operation
    def softmax(z): ...            # the NumPy body is the definition of the operation

    @softmax.mirror("native")
    def _(z): ...                  # same argument names, same results

    with refimpl.backend("numpy"):
        softmax(z)                 # runs the NumPy body

Backends:

    numpy    the NumPy body.
    native   the C mirror; an operation without one (or a machine without the C core) runs its NumPy body.
    opencl   the OpenCL mirror, where one is registered; else as native.
    auto     the fastest body this machine has: today native before numpy. The default.

The choice is made per call, by one lookup. `backend(...)` holds for the current thread or asyncio task
(a context variable); `set_backend(...)` and the environment variable REFIMPL_BACKEND hold for the whole process.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar, cast

from refimpl.backends import native

BACKENDS = ("numpy", "native", "opencl", "auto")

# For each backend, the bodies to try, in order.
_PREFERENCE = {
    "numpy": ("numpy",),
    "native": ("native", "numpy"),
    "opencl": ("opencl", "native", "numpy"),
    "auto": ("native", "numpy"),
}

_choice: ContextVar[str | None] = ContextVar("refimpl_backend", default=None)  # None: the process-wide default
_default = "auto"
_registry: dict[str, Operation] = {}


class Operation(Protocol):
    """What `@operation` returns: the dispatching function, with its bodies as attributes."""

    __name__: str
    name: str
    numpy: Callable[..., Any]
    bodies: dict[str, Callable[..., Any]]
    inplace: tuple[str, ...]

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def mirror(self, backend_name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...


F = TypeVar("F", bound=Callable[..., Any])


def _check_name(name: object) -> str:
    if name not in BACKENDS:
        raise ValueError(f"refimpl: backend is {name!r}, expected one of {', '.join(BACKENDS)}")
    return cast(str, name)


def operation(body: F | None = None, *, inplace: tuple[str, ...] = ()) -> Any:
    """Register a NumPy body as an operation and return the function that dispatches over its bodies.

    `inplace` names the arguments that the operation writes to (an optimiser's parameters, say); all others are
    only read. Operations have unique names.
    """
    if body is None:
        return functools.partial(operation, inplace=inplace)
    name = body.__name__
    if name in _registry:
        raise ValueError(f"refimpl: an operation named {name!r} exists already")
    bodies: dict[str, Callable[..., Any]] = {"numpy": body}
    table: dict[str | None, Callable[..., Any]] = {}
    get = _choice.get

    @functools.wraps(body)
    def dispatch(*args: Any, **kwargs: Any) -> Any:
        return table[get()](*args, **kwargs)

    def mirror(backend_name: str) -> Callable[[F], F]:
        if backend_name not in ("native", "opencl"):
            raise ValueError(f"refimpl: {name}: a mirror is for 'native' or 'opencl', not {backend_name!r}")

        def register(function: F) -> F:
            bodies[backend_name] = function
            _fill(table, bodies)
            return function

        return register

    op = cast(Any, dispatch)
    op.name, op.numpy, op.bodies, op.table, op.inplace, op.mirror = name, body, bodies, table, tuple(inplace), mirror
    _fill(table, bodies)
    _registry[name] = op
    return op


def _fill(table: dict[str | None, Callable[..., Any]], bodies: dict[str, Callable[..., Any]]) -> None:
    for name, order in _PREFERENCE.items():
        table[name] = next(bodies[b] for b in order if b in bodies)
    table[None] = table[_default]


def operations() -> dict[str, Operation]:
    """All registered operations by name."""
    return dict(_registry)


def available_backends() -> tuple[str, ...]:
    """The backends that have bodies of their own on this machine, e.g. ('numpy', 'native')."""
    opencl = any("opencl" in op.bodies for op in _registry.values())
    return ("numpy", *(("native",) if native.lib is not None else ()), *(("opencl",) if opencl else ()))


def get_backend() -> str:
    """The setting in force here: 'numpy', 'native', 'opencl' or 'auto'."""
    return _choice.get() or _default


def set_backend(name: str) -> None:
    """Choose the process-wide backend (a surrounding `with backend(...)` still wins)."""
    global _default
    _default = _check_name(name)
    for op in _registry.values():
        _fill(cast(Any, op).table, op.bodies)


@contextmanager
def backend(name: str) -> Iterator[None]:
    """`with refimpl.backend("numpy"): ...` chooses the backend of the current thread or task for a block."""
    token = _choice.set(_check_name(name))
    try:
        yield
    finally:
        _choice.reset(token)


if os.environ.get("REFIMPL_BACKEND"):
    if os.environ["REFIMPL_BACKEND"] not in BACKENDS:
        raise ValueError(f"REFIMPL_BACKEND={os.environ['REFIMPL_BACKEND']!r}: expected one of {', '.join(BACKENDS)}")
    _default = os.environ["REFIMPL_BACKEND"]
