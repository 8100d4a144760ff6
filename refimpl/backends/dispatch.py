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
    auto     the fastest body this machine has: native before numpy, or, for an operation that was tuned here, the body
             and the number of threads that were fastest for calls of this size (see wisdom.py). The default.

The choice is made per call, by one lookup. `backend(...)` holds for the current thread or asyncio task
(a context variable); `set_backend(...)` and the environment variable REFIMPL_BACKEND hold for the whole process.

`watch(observer)` hands every call of the current thread or task to an observer (refimpl.trace is one). A watched choice
is a key that no table has, so that calls nobody watches pay nothing for it.
"""

from __future__ import annotations

import functools
import os
import threading
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

# None: the process-wide default; a Watched: one of the others, and who sees the calls
_choice: ContextVar[str | Watched | None] = ContextVar("refimpl_backend", default=None)
_default = "auto"
_registry: dict[str, Operation] = {}

Body = Callable[..., Any]
Observer = Callable[["Operation", Body, tuple[Any, ...], dict[str, Any]], Any]
# Operations for which "auto" decides call by call: name -> what makes the deciding function from the bodies.
_choosers: dict[str, Callable[[dict[str, Body]], Body]] = {}
_prepare: Callable[[], None] | None = None  # what is to be done before the first call in "auto"
_preparing = threading.RLock()


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


class Watched:
    """A choice of backend whose calls go to `observer(operation, body, args, kwargs)`, which calls
    body(*args, **kwargs) and returns its result. `inner` is the choice that it stands for, perhaps watched by another
    observer."""

    __slots__ = ("inner", "observer")

    def __init__(self, inner: str | Watched | None, observer: Observer):
        self.inner, self.observer = inner, observer

    def body(self, op: Operation) -> Body:
        """What runs for a call of `op`."""
        inner = self.inner
        body = inner.body(op) if isinstance(inner, Watched) else cast(Any, op).table[inner]
        return lambda *args, **kwargs: self.observer(op, body, args, kwargs)

    def with_backend(self, name: str) -> Watched:
        """The same observers for another backend."""
        inner = self.inner
        return Watched(inner.with_backend(name) if isinstance(inner, Watched) else name, self.observer)


def _name_of(choice: str | Watched | None) -> str | None:
    while isinstance(choice, Watched):
        choice = choice.inner
    return choice


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
    table: dict[Any, Callable[..., Any]] = {}
    get = _choice.get

    @functools.wraps(body)
    def dispatch(*args: Any, **kwargs: Any) -> Any:
        try:
            chosen = table[get()]
        except KeyError:
            chosen = cast(Watched, get()).body(op)
        return chosen(*args, **kwargs)

    def mirror(backend_name: str) -> Callable[[F], F]:
        if backend_name not in ("native", "opencl"):
            raise ValueError(f"refimpl: {name}: a mirror is for 'native' or 'opencl', not {backend_name!r}")

        def register(function: F) -> F:
            bodies[backend_name] = function
            _fill(name, table, bodies)
            return function

        return register

    op = cast(Any, dispatch)
    op.name, op.numpy, op.bodies, op.table, op.inplace, op.mirror = name, body, bodies, table, tuple(inplace), mirror
    _fill(name, table, bodies)
    _registry[name] = op
    return op


def _fill(operation_name: str, table: dict[Any, Body], bodies: dict[str, Body]) -> None:
    for name, order in _PREFERENCE.items():
        table[name] = next(bodies[b] for b in order if b in bodies)
    if _prepare is not None:
        table["auto"] = _first_call(operation_name, table, bodies)
    elif operation_name in _choosers:
        table["auto"] = _choosers[operation_name](bodies)
    table[None] = table[_default]


def _first_call(name: str, table: dict[Any, Body], bodies: dict[str, Body]) -> Body:
    def wait(*args: Any, **kwargs: Any) -> Any:
        prepare()
        _fill(name, table, bodies)
        return table["auto"](*args, **kwargs)

    return wait


def prepare_with(function: Callable[[], None]) -> None:
    """Call `function` before the first call in "auto": what that costs is not paid by an import."""
    global _prepare
    _prepare = function
    _refill()


def prepare() -> None:
    """Do now what is left to do before the first call in "auto"."""
    global _prepare
    with _preparing:  # calls of other threads wait: they must find the same bodies
        function, _prepare = _prepare, None
        if function is not None:
            function()
            _refill()


def _refill() -> None:
    for op in _registry.values():
        _fill(op.name, cast(Any, op).table, op.bodies)


def untuned(bodies: dict[str, Body]) -> Body:
    """What "auto" runs where nothing was tuned."""
    return next(bodies[b] for b in _PREFERENCE["auto"] if b in bodies)


def set_chooser(name: str, make: Callable[[dict[str, Body]], Body] | None) -> None:
    """Let `make(bodies)` serve the calls of one operation in "auto"; None: as if it had never been tuned."""
    if make is not None:
        _choosers[name] = make
    elif _choosers.pop(name, None) is None:
        return
    op = cast(Any, _registry[name])
    _fill(name, op.table, op.bodies)


def operations() -> dict[str, Operation]:
    """All registered operations by name."""
    return dict(_registry)


def available_backends() -> tuple[str, ...]:
    """The backends that have bodies of their own on this machine, e.g. ('numpy', 'native')."""
    opencl = any("opencl" in op.bodies for op in _registry.values())
    return ("numpy", *(("native",) if native.lib is not None else ()), *(("opencl",) if opencl else ()))


def get_backend() -> str:
    """The setting in force here: 'numpy', 'native', 'opencl' or 'auto'."""
    return _name_of(_choice.get()) or _default


def set_backend(name: str) -> None:
    """Choose the process-wide backend (a surrounding `with backend(...)` still wins)."""
    global _default
    _default = _check_name(name)
    _refill()


@contextmanager
def backend(name: str) -> Iterator[None]:
    """`with refimpl.backend("numpy"): ...` chooses the backend of the current thread or task for a block."""
    now = _choice.get()
    _check_name(name)
    token = _choice.set(now.with_backend(name) if isinstance(now, Watched) else name)
    try:
        yield
    finally:
        _choice.reset(token)


@contextmanager
def watch(observer: Observer) -> Iterator[None]:
    """Hand every call of an operation in this thread or task to `observer` for a block, which runs it (see Watched)."""
    token = _choice.set(Watched(_choice.get(), observer))
    try:
        yield
    finally:
        _choice.reset(token)


def _after_fork() -> None:
    global _preparing
    _preparing = threading.RLock()  # another thread may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

if os.environ.get("REFIMPL_BACKEND"):
    if os.environ["REFIMPL_BACKEND"] not in BACKENDS:
        raise ValueError(f"REFIMPL_BACKEND={os.environ['REFIMPL_BACKEND']!r}: expected one of {', '.join(BACKENDS)}")
    _default = os.environ["REFIMPL_BACKEND"]
