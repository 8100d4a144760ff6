"""The processor at hand: its model and its caches, as the system tells them. What measured times depend on."""

from __future__ import annotations

import os
import platform
import sys

__all__ = ["caches", "cpu"]

_CACHES = "/sys/devices/system/cpu/cpu0/cache"


def cpu() -> str:
    """Model name of the processor."""
    try:
        # line by line: the first processor names the model, and the file is long where there are many
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() == "model name" and value.strip():
                    return " ".join(value.split())
    except OSError:
        pass
    return _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine() or "unknown"


def caches() -> str:
    """Sizes of the data caches of the first processor, such as "L1 48K, L2 1024K, L3 32768K"; "" where unknown."""
    found = []
    try:
        for index in sorted(os.listdir(_CACHES)):
            if index.startswith("index") and _line(index, "type") in ("Data", "Unified"):
                found.append((_line(index, "level"), _line(index, "size")))
    except OSError:
        pass
    if not found:
        sizes = [(level, _sysctl(name)) for level, name in (("1", "hw.l1dcachesize"), ("2", "hw.l2cachesize"))]
        found = [(level, f"{int(size) // 1024}K") for level, size in sizes if size.isdigit()]
    return ", ".join(f"L{level} {size}" for level, size in sorted(found))


def _line(index: str, name: str) -> str:
    with open(f"{_CACHES}/{index}/{name}", encoding="utf-8") as file:
        return file.readline().strip()


def _sysctl(name: str) -> str:
    """What macOS says; "" elsewhere."""
    if sys.platform != "darwin":
        return ""
    import subprocess

    try:
        command = ["/usr/sbin/sysctl", "-n", name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
