"""Independent work on several processes, or in this one: always through a concurrent.futures.Executor.

`processes(jobs)` starts fresh processes (spawn: nothing is inherited that a thread pool could break), each with its
share of the cores. Any other executor serves as well: Dask's `client.get_executor()`, mpi4py's `MPIPoolExecutor`.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from refimpl.lab.machine import cores

__all__ = ["Here", "processes", "threads_each"]

_THREAD_VARIABLES = ("REFIMPL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Here(concurrent.futures.Executor):
    """Runs each job at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future:
        future: concurrent.futures.Future = concurrent.futures.Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def threads_each(jobs: int) -> int:
    """Threads for each of `jobs` processes, so that together they use the cores there are."""
    return max(1, cores() // jobs)


def _begin() -> None:
    """First thing in a worker: leave Ctrl-C to the parent, and never outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def processes(jobs: int) -> Iterator[concurrent.futures.Executor]:
    """A pool of `jobs` processes with cores / jobs threads each. On an exception (Ctrl-C) the workers are ended."""
    if jobs == 1:
        yield Here()
        return
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    others = set(multiprocessing.active_children())
    # The number of threads of BLAS is read when NumPy is imported, so it must stand in the environment that a worker
    # starts with; workers start when work is handed in.
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads_each(jobs))))
    pool = concurrent.futures.ProcessPoolExecutor(
        jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_begin
    )
    try:
        yield pool
        pool.shutdown()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        raise
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
