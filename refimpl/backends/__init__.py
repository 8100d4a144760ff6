"""Floor 1: which body of an operation runs, and on how many threads. Knows no mathematics."""

from refimpl.backends.arena import arena
from refimpl.backends.dispatch import (
    BACKENDS,
    Operation,
    available_backends,
    backend,
    get_backend,
    operation,
    operations,
    set_backend,
)
from refimpl.backends.threads import get_num_threads, set_num_threads

__all__ = [
    "BACKENDS",
    "Operation",
    "arena",
    "available_backends",
    "backend",
    "get_backend",
    "get_num_threads",
    "operation",
    "operations",
    "set_backend",
    "set_num_threads",
]
