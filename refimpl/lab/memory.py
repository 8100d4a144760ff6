"""How much memory a piece of work needed, at its worst moment, over what the process held before.

The number is a difference of resident set sizes: the high-water mark during the work minus the size at its start,
both as the system counts pages of this process. Training data that was loaded before does not count; what libraries
touch for the first time does. Measuring costs nothing while the work runs. On Linux the high-water mark is reset at the
start (/proc/self/clear_refs), so each piece of work is measured on its own. Elsewhere the mark of the whole process is
all there is: work that stays below an earlier peak then shows 0, and where not even that exists the answer is None.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

__all__ = ["Peak"]

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _linux(key: str) -> int | None:
    try:
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _high_water() -> int | None:
    mark = _linux("VmHWM")
    if mark is not None:
        return mark
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _give_back() -> None:
    """Return freed memory to the system, so that the next learner does not get for free what an earlier one left."""
    gc.collect()
    if sys.platform.startswith("linux"):
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (OSError, AttributeError):  # not glibc
            pass


class Peak:
    """Starts measuring when made; `bytes()` is the peak so far."""

    def __init__(self) -> None:
        _give_back()
        self.forget()
        now = _linux("VmRSS")
        self._start = _high_water() if now is None else now

    def forget(self) -> None:
        """Let what happened up to now not count (storing a checkpoint, say); the start stays the start. Linux only."""
        try:
            with open(_RESET, "w") as file:
                file.write("5")  # proc(5): reset the peak resident set size
        except OSError:
            pass

    def bytes(self) -> int | None:
        """Peak since the start, over the size at the start; None where the system does not tell."""
        mark = _high_water()
        if mark is None or self._start is None:
            return None
        return max(0, mark - self._start)
