"""How many threads the C core uses.

The number is set for the process (`set_num_threads`) and starts from REFIMPL_NUM_THREADS, else OMP_NUM_THREADS, else
the CPUs this process may run on. OpenMP's thread pool does not survive a fork, so a forked child runs on one thread
(a spawned process has a pool of its own and is not limited). Wisdom holds single calls to fewer (`limit`), in the
Python thread that makes them and nowhere else.
"""

from __future__ import annotations

import operator
import os
from contextvars import ContextVar

MAX_THREADS = 1024


def _from_environment() -> int:
    for variable in ("REFIMPL_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(variable, "").split(",")[0].strip()
        if text.isdigit() and 1 <= int(text) <= MAX_THREADS:
            return int(text)
        if text and variable == "REFIMPL_NUM_THREADS":
            raise ValueError(f"{variable}={text!r}: expected a whole number from 1 to {MAX_THREADS}")
    try:
        return min(len(os.sched_getaffinity(0)), MAX_THREADS)
    except AttributeError:  # not on every system
        return min(os.cpu_count() or 1, MAX_THREADS)


_threads = _from_environment()
_forked = False
limit: ContextVar[int] = ContextVar("refimpl_threads", default=0)  # what wisdom holds one call to; 0: nothing
_limits = False  # whether anything may be limited: until then nobody looks


def get_num_threads() -> int:
    """Threads that the next native operation may use."""
    return (limit.get() or _threads) if _limits else _threads


def set_num_threads(n: int) -> None:
    """Let native operations use at most `n` threads (1 to 1024). In a forked child the number stays 1."""
    global _threads
    n = operator.index(n)
    if not 1 <= n <= MAX_THREADS:
        raise ValueError(f"refimpl: number of threads is {n}, expected 1 to {MAX_THREADS}")
    _threads = 1 if _forked else n


def use_limits() -> None:
    """From now on `limit` counts."""
    global _limits
    _limits = True


def _after_fork() -> None:
    global _threads, _forked
    _threads, _forked = 1, True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
