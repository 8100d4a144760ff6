"""What numbers depend on: the processor, versions, the C core, threads. No host names, no paths."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from refimpl._version import __version__
from refimpl.backends import get_num_threads, native, set_num_threads
from refimpl.lab.errors import RunError

__all__ = ["core", "cores", "cpu", "describe", "limited_threads", "machine", "need", "package_version", "versions"]


def cores() -> int:
    """Processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def cpu() -> str:
    """Model name of the processor, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return " ".join(value.split())
    except OSError:
        pass
    if sys.platform == "darwin":
        try:
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            pass
    return platform.processor() or platform.machine() or "unknown"


def machine() -> dict[str, Any]:
    """Processor, cores that may be used, system."""
    return {"cpu": cpu(), "cores": cores(), "system": f"{platform.system()} {platform.machine()}"}


def describe() -> str:
    """The machine in one line."""
    m = machine()
    return f"{m['cpu']}, {m['cores']} core{'s' * (m['cores'] != 1)}, {m['system']}"


def package_version(name: str) -> str | None:
    """Installed version of a package, None without it; does not import it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def need(*packages: str) -> None:
    """Raise RunError for packages that are not installed: before any work, not after it."""
    missing = [name for name in packages if package_version(name) is None]
    if missing:
        raise RunError(f"{' and '.join(missing)} not installed: pip install {' '.join(missing)}")


def versions() -> dict[str, str]:
    """Versions that results depend on."""
    return {
        "refimpl": __version__,
        "numpy": package_version("numpy") or "unknown",
        "python": platform.python_version(),
    }


def core() -> str:
    """The instruction-set level of the C core in use ("v3", ...), or "none"."""
    return native.isa() or "none"


@contextmanager
def limited_threads(n: int | None) -> Iterator[int]:
    """At most `n` threads for native operations and, where threadpoolctl is installed, for NumPy's BLAS.

    None: as many as are set. Gives the number in force.
    """
    before = get_num_threads()
    set_num_threads(before if n is None else n)
    try:
        if package_version("threadpoolctl") is None:
            yield get_num_threads()
        else:
            from threadpoolctl import threadpool_limits

            with threadpool_limits(limits=get_num_threads(), user_api="blas"):
                yield get_num_threads()
    finally:
        set_num_threads(before)
