"""Wisdom: what `refimpl tune` learned on this machine, its file, and how `backend("auto")` uses it. FFTW's idea.

A choice says which body of an operation was fastest for calls of one size, on how many threads of the C core, and
with which parameters of its kernels (sizes of blocks; native/include/parameter.h). The size class of a call is
floor(log2(n)), where n is the number of elements of the argument that carries the data, or of multiplications where
an operation multiplies matrices. What was measured holds for float32; other calls, sizes beyond the largest that was
measured, and operations that were not tuned run as they would without wisdom. So do `backend("native")` and
`backend("numpy")`, always.

The file is the one named by REFIMPL_WISDOM, else `wisdom.json` in the user's cache folder. REFIMPL_WISDOM=off switches
wisdom off; an empty value counts as not set. A process reads it once, before its first call in "auto" (and again after
tuning), so that importing costs nothing. One file serves several machines: entries belong to a processor with its
caches, an instruction-set level, the versions of refimpl and NumPy, and a number of threads. It is replaced in one
step under a lock, and what others stored meanwhile is kept. A file that is not as it should be is set aside (`.bad`)
with one warning: the library then works as if there were none.

    {"format": "refimpl wisdom 1",
     "machines": {"<processor> | <caches> | <level> | refimpl <version> | numpy <version>":
        {"<threads>": {"<operation> float32": {"<size class>":
            {"body": "numpy", "threads": 0, "seconds": 2e-6, "default_seconds": 4e-6, "when": 1767225600}}}}}}

"body": "default" records that this size was measured and nothing was faster than the choice without wisdom. An entry
whose kernels run with other parameters than by default has {"parameters": {"gemm_kc_f32": 256}} besides.
"""

from __future__ import annotations

import functools
import os
import stat
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from refimpl._disk import atomic
from refimpl._disk import wisdom_file as file
from refimpl._version import __version__
from refimpl.backends import dispatch, native, threads
from refimpl.backends.processor import caches, cpu

__all__ = [
    "BadWisdom",
    "Entry",
    "Parameters",
    "Tunable",
    "Way",
    "check_writable",
    "chooser",
    "file",
    "fingerprint",
    "in_force",
    "load",
    "machine_key",
    "read",
    "size",
    "spread",
    "store",
    "tunable",
    "tunables",
]

FORMAT = "refimpl wisdom 1"
MAX_BYTES = 1 << 20
MAX_CLASS = 62
LOCK_SECONDS = 10.0
BODIES = ("default", "numpy", "native")
FLOAT32 = np.dtype(np.float32)


class BadWisdom(ValueError):
    """The file holds something else than wisdom of this format."""


Parameters = tuple[tuple[str, int], ...]  # names and values, sorted


class Way(NamedTuple):
    """How a call is run: its body, threads (0 but for "native"), and parameters of the kernels that are not default."""

    body: str
    threads: int
    parameters: Parameters = ()


class Entry(NamedTuple):
    """What was measured for one size: the choice, its time and that of the untuned choice, and when (Unix time).

    `body` is "default" where nothing was faster. `threads` is 0 but for "native", whose kernels run with `parameters`.
    """

    body: str
    threads: int
    seconds: float
    default_seconds: float
    when: int
    parameters: Parameters = ()

    @property
    def way(self) -> Way:
        """What was chosen."""
        return Way(self.body, self.threads, self.parameters)


Learned = dict[str, dict[int, Entry]]  # operation -> size class -> entry
Machines = dict[str, dict[int, Learned]]  # machine -> number of threads -> ...


class Tunable(NamedTuple):
    """An operation whose body is chosen by size.

    of        the argument that carries the data: its dtype counts, and its number of elements
    work      n of a call (the number of multiplications), where elements are no measure
    make      arguments of a call of about n: make(normal, n), with a source of normal arrays
    classes   the size classes that are measured
    kernels   families of parameters ("gemm") that its kernels run with
    """

    op: str
    of: str
    work: Callable[..., int] | None
    make: Callable[..., dict[str, Any]]
    classes: tuple[int, ...]
    kernels: tuple[str, ...] = ()

    def parameters(self) -> dict[str, native.Parameter]:
        """The search space: parameters by name, with their default and all values that they may take."""
        known = native.parameters()
        return {n: p for n, p in known.items() if n.endswith("_f32") and n.partition("_")[0] in self.kernels}


_tunables: dict[str, Tunable] = {}
_in_force: dict[int, Learned] = {}  # number of threads -> ...


def tunable(
    op: str,
    of: str,
    make: Callable[..., dict[str, Any]],
    classes: range,
    work: Callable[..., int] | None = None,
    kernels: str = "",
) -> None:
    """Declare that an operation can be tuned; `kernels` names families of parameters ("gemm conv")."""
    _tunables[op] = Tunable(op, of, work, make, tuple(classes), tuple(kernels.split()))


def tunables() -> dict[str, Tunable]:
    """What can be tuned here: the declared operations that have a C mirror."""
    ops = dispatch.operations()
    return {name: t for name, t in _tunables.items() if name in ops and "native" in ops[name].bodies}


# ---------------------------------------------------------------- choosing


def size(t: Tunable, args: Mapping[str, Any]) -> int:
    """n of a call."""
    return t.work(**args) if t.work is not None else args[t.of].size


def spread(measured: Mapping[int, Entry]) -> dict[int, Way]:
    """The choice of every size class from those that were measured.

    Between two measured classes it is their choice where they agree; below the smallest it is that of the smallest
    (calls so small are all overhead); anything else stays untuned.
    """
    known = sorted(measured)
    choices: dict[int, Way] = {}
    for below, here in zip([-1, *known], known):
        choice = measured[here].way
        if choice.body != "default":
            first = below + 1 if below < 0 or measured[below].way == choice else here
            choices.update((c, choice) for c in range(first, here + 1))
    return choices


def chooser(
    t: Tunable, choices: Mapping[tuple[int, int], Way], bodies: dict[str, Callable[..., Any]]
) -> Callable[..., Any]:
    """The body that runs in "auto": it takes the size of the call and runs what `choices` names for it.

    `choices` goes from (threads that are set, size class) to a way. A call of the function that this returns
    costs 0.3 to 0.5 µs more than a call of the body (`refimpl bench` measures it).
    """
    of, work, plain = t.of, t.work, (dispatch.untuned(bodies), 0)
    position = bodies["numpy"].__code__.co_varnames.index(of)
    # number of threads -> by bit length of n: (body, threads to hold it to; 0: as many as are set)
    ways = {n: [plain] * (MAX_CLASS + 2) for n, _ in choices}
    for (n, c), (name, limit, parameters) in choices.items():
        body = native.with_parameters(bodies[name], parameters) if parameters else bodies[name]
        ways[n][c + 1] = (body, 0 if limit == n else limit)
    ways_with = ways.get
    limit_to, unlimit = threads.limit.set, threads.limit.reset
    threads.use_limits()

    def choose(*args: Any, **kwargs: Any) -> Any:
        body, limit = plain
        try:
            a = args[position] if len(args) > position else kwargs[of]
            if a.dtype is FLOAT32 and (row := ways_with(threads._threads)) is not None:
                body, limit = row[(a.size if work is None else work(*args, **kwargs)).bit_length()]
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            pass  # arguments that are wrong: the body says how
        if not limit:
            return body(*args, **kwargs)
        token = limit_to(limit)
        try:
            return body(*args, **kwargs)
        finally:
            unlimit(token)

    return choose


def _apply(learned: Mapping[int, Learned]) -> None:
    """Put choosers into the tables of the operations that `learned` (number of threads -> ...) has choices for."""
    global _in_force
    _in_force = {n: dict(ops) for n, ops in learned.items()}
    for name, t in tunables().items():
        space = t.parameters()
        choices = {
            (n, c): way
            for n, ops in learned.items()
            for c, way in spread(ops.get(name, {})).items()
            if all(p in space and v in space[p].values for p, v in way.parameters)
        }
        dispatch.set_chooser(name, functools.partial(chooser, t, choices) if choices else None)


def load() -> None:
    """Read the file and let what it says about this machine decide; without a file, decide nothing."""
    path = file()
    machines = {} if path is None else _read_or_set_aside(path)
    _apply(machines.get(machine_key(), {}) if machines else {})


def in_force(n: int | None = None) -> Learned:
    """What decides here, for `n` threads (None: as many as are set), entries that say "default" included."""
    dispatch.prepare()
    return _in_force.get(threads.get_num_threads() if n is None else n, {})


def fingerprint(n: int | None = None) -> str | None:
    """What the bits of results depend on: a hash of the choices that decide for `n` threads; None without any."""
    known = in_force(n)
    choices = {op: spread(known[op]) for op in tunables() if op in known}
    told = sorted((op, sorted(c.items())) for op, c in choices.items() if c)
    if not told:
        return None
    import hashlib

    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


# ---------------------------------------------------------------- the file


@functools.cache
def machine_key() -> str:
    """What measured times belong to, but for the number of threads."""
    level = native.isa() or "no C core"
    return " | ".join((cpu(), caches(), level, f"refimpl {__version__}", f"numpy {np.__version__}"))


def read(path: str) -> Machines:
    """All of a file. Raises BadWisdom, or OSError where it cannot be read."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise BadWisdom("not a regular file")
    with open(path, "rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise BadWisdom(f"larger than {MAX_BYTES} bytes")
    import json  # only machines with wisdom pay for it

    try:
        tree = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadWisdom(f"no JSON: {error}") from None
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        given = tree.get("format") if isinstance(tree, dict) else type(tree).__name__
        raise BadWisdom(f"format is {str(given)[:40]!r}, expected {FORMAT!r}")
    return {
        machine: {
            _whole("number of threads", n, 1, threads.MAX_THREADS): {
                _operation(op): {
                    _whole("size class", c, 0, MAX_CLASS): _entry(entry, int(n))
                    for c, entry in _mapping(op, entries).items()
                }
                for op, entries in _mapping(f"{n} threads", ops).items()
            }
            for n, ops in _mapping("a machine", sections).items()
        }
        for machine, sections in _mapping("machines", tree.get("machines")).items()
    }


def _mapping(what: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadWisdom(f"{what}: expected an object, not {type(value).__name__}")
    return value


def _whole(what: str, text: str, least: int, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6 and least <= int(text) <= most):
        raise BadWisdom(f"{what} is {text[:40]!r}, expected {least} to {most}")
    return int(text)


def _operation(text: str) -> str:
    op, _, dtype = text.partition(" ")
    if not op.isidentifier() or len(op) > 100 or dtype != "float32":
        raise BadWisdom(f"{text[:40]!r}: expected the name of an operation and float32")
    return op


def _entry(value: Any, n: int) -> Entry:
    """Checked: types exactly (True is no number), ranges, no more and no fewer names."""
    if not isinstance(value, dict) or {*value, "parameters"} != set(Entry._fields):
        raise BadWisdom(f"an entry is {str(value)[:60]}, expected {', '.join(Entry._fields)}")
    given = _mapping("parameters", value.get("parameters", {}))
    if len(given) > 100 or not all(type(v) is int and 0 <= v < 1 << 40 and len(k) < 100 for k, v in given.items()):
        raise BadWisdom(f"parameters are {str(given)[:60]}, expected names and whole numbers")
    entry = Entry(**{**value, "parameters": tuple(sorted(given.items()))})
    if entry.body not in BODIES:
        raise BadWisdom(f"body is {str(entry.body)[:40]!r}, expected one of {', '.join(BODIES)}")
    least, most = (1, n) if entry.body == "native" else (0, 0)
    for name, most_here in (("threads", most), ("when", 1 << 40)):
        number = getattr(entry, name)
        if type(number) is not int or not (least if name == "threads" else 0) <= number <= most_here:
            raise BadWisdom(f"{name} is {str(number)[:40]}, expected a whole number up to {most_here}")
    for name in ("seconds", "default_seconds"):
        number = getattr(entry, name)
        if type(number) not in (int, float) or not 0 <= number < 1e6:  # NaN fails too
            raise BadWisdom(f"{name} is {str(number)[:40]}, expected seconds")
    return entry


def _read_or_set_aside(path: str) -> Machines:
    """The file, {} without one; a bad one gets out of the way with a warning."""
    try:
        return read(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        _warn(f"{path}: wisdom cannot be read ({error.strerror}) and is not used")
        return {}
    except BadWisdom:
        pass
    try:
        with _lock(path):
            return _read_or_rename(path)
    except OSError as error:
        why = error.strerror or error
        _warn(f"{path}: not wisdom, and cannot be set aside ({why}); it is not used. Remove it, then: refimpl tune")
        return {}


def _read_or_rename(path: str) -> Machines:
    """The same with the lock held. Another process may have mended it meanwhile."""
    try:
        return read(path)
    except FileNotFoundError:
        return {}
    except BadWisdom as error:
        if not os.path.isfile(path):
            raise OSError(None, str(error)) from None
        os.replace(path, f"{path}.bad")
        _warn(f"{path}: not wisdom ({error}); set aside as {path}.bad. To learn again: refimpl tune")
        return {}


def _warn(text: str) -> None:
    warnings.warn(f"refimpl: {text}", RuntimeWarning, stacklevel=2)


@contextmanager
def _lock(path: str) -> Iterator[None]:
    """Hold the file against other processes; a killed one lets go by itself. OSError where that cannot be had.

    Where the system has no such locks (Windows), nothing is locked: the file is still whole at every moment.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        until = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError(None, f"another process has held it for {LOCK_SECONDS:.0f} seconds") from None
                time.sleep(0.01)
        yield
    finally:
        os.close(handle)


def check_writable(path: str) -> None:
    """Raise OSError, before the work, where `store` would fail after it."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.exists(path) and not os.path.isfile(path):
        raise IsADirectoryError(None, "not a regular file")
    with _lock(path), open(probe := f"{path}.{os.urandom(4).hex()}.part", "xb"):
        os.unlink(probe)


def store(path: str, n: int, learned: Mapping[str, Mapping[int, Entry]]) -> None:
    """Add what was learned with `n` threads to the file; of what it held, only the same sizes are replaced.

    Raises OSError; the file then is as it was. The sections that are oldest go where it would become too large.
    """
    import json

    os.makedirs(os.path.dirname(path), exist_ok=True)
    with _lock(path):
        machines = _read_or_rename(path)
        mine = machines.setdefault(machine_key(), {}).setdefault(n, {})
        for op, entries in learned.items():
            mine.setdefault(op, {}).update(entries)
        while True:
            tree = {
                machine: {
                    str(k): {
                        f"{op} float32": {str(c): _plain(entry) for c, entry in sorted(entries.items())}
                        for op, entries in sorted(ops.items())
                    }
                    for k, ops in sections.items()
                }
                for machine, sections in machines.items()
            }
            content = json.dumps({"format": FORMAT, "machines": tree}, indent=1, ensure_ascii=False).encode()
            others = [(machine, k) for machine, s in machines.items() for k, ops in s.items() if ops is not mine]
            if len(content) <= MAX_BYTES or not others:
                break
            machine, k = min(others, key=lambda at: _newest(machines[at[0]][at[1]]))
            del machines[machine][k]
            if not machines[machine]:
                del machines[machine]
        with atomic(path) as stream:
            stream.write(content)


def _plain(entry: Entry) -> dict[str, Any]:
    """As the file has it."""
    fields = entry._asdict()
    fields["parameters"] = dict(entry.parameters)
    return fields if entry.parameters else {k: v for k, v in fields.items() if k != "parameters"}


def _newest(ops: Learned) -> int:
    return max((entry.when for entries in ops.values() for entry in entries.values()), default=0)
