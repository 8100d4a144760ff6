"""Floor 0: the user's files: the cache folder, the place of wisdom, files that are whole or not there at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

__all__ = ["atomic", "cache_folder", "wisdom_file"]


def cache_folder() -> str:
    """The folder named by REFIMPL_CACHE, or else the platform's (`~/.cache/refimpl`, `~/Library/Caches/refimpl`,
    `%LOCALAPPDATA%\\refimpl\\Cache`). It need not exist yet."""
    home = os.path.expanduser("~")
    if given := os.environ.get("REFIMPL_CACHE"):
        return os.path.expanduser(given)
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
        return os.path.join(local, "refimpl", "Cache")
    if sys.platform == "darwin":
        return os.path.join(home, "Library", "Caches", "refimpl")
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache"), "refimpl")


def wisdom_file() -> str | None:
    """Where wisdom is kept (see refimpl/backends/wisdom.py; the file need not exist); None where it is switched off."""
    given = os.environ.get("REFIMPL_WISDOM") or os.path.join(cache_folder(), "wisdom.json")
    return None if given.lower() == "off" else os.path.realpath(os.path.expanduser(given))


@contextmanager
def atomic(path: str | os.PathLike[str], keep: str | os.PathLike[str] | None = None) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path`; it takes the name `path` only after the `with` ended well.

    The bytes are forced to the disk (fsync) before the renaming, and the renaming replaces an older file in one step:
    at every moment `path` is the old file, the new one, or absent. With `keep`, the old file gets that name. When
    anything fails the temporary file goes. A killed process leaves at most a file named `<name>.<random>.part`.
    """
    path = os.fspath(path)
    part = f"{path}.{os.urandom(4).hex()}.part"
    try:
        with open(part, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and os.path.exists(path):
            os.replace(path, keep)
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):  # the first error is the one to tell
            os.unlink(part)
        raise
    _sync_folder(os.path.dirname(path) or ".")


def _sync_folder(folder: str) -> None:
    """Force the new name to the disk; where the system cannot sync a folder (Windows), there is nothing to do."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        with suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
