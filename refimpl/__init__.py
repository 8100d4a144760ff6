"""refimpl: deep-learning papers you can read, step through, import and race.

Importing this package needs NumPy and cffi alone; methods, figures and data are loaded when they are first used.
"""

from __future__ import annotations

from refimpl import ops
from refimpl._version import __version__
from refimpl.backends import (
    available_backends,
    backend,
    get_backend,
    get_num_threads,
    set_backend,
    set_num_threads,
)

__all__ = [
    "__version__",
    "available_backends",
    "backend",
    "get_backend",
    "get_num_threads",
    "ops",
    "set_backend",
    "set_num_threads",
]
