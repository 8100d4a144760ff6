"""Where data lives: the folders that are searched, and which files in them make up a data set.

A set is looked for in `<root>/<name>/`, under its original file names, in the first of these roots that holds it whole:

1. the `root` given in the call;
2. the folder named by the environment variable `REFIMPL_DATA`;
3. the user's cache, where `fetch` puts its downloads: `data` in the folder named by `REFIMPL_CACHE`, or else in the
   cache folder of the platform (`~/.cache/refimpl`, `~/Library/Caches/refimpl`, `%LOCALAPPDATA%\\refimpl\\Cache`).
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refimpl._disk import cache_folder
from refimpl.data.catalogue import Info, spec
from refimpl.data.errors import DataNotFound

__all__ = ["Found", "cache", "first", "format_of", "locate", "roots", "search"]


@dataclass(frozen=True)
class Found:
    """A data set on the disk: its folder, and the files of the two splits, in the order that its format wants them."""

    folder: Path
    train: tuple[Path, ...]
    test: tuple[Path, ...]


def cache() -> Path:
    """The folder for downloads. It need not exist yet."""
    return Path(cache_folder()) / "data"


def roots(root: str | os.PathLike[str] | None = None) -> list[tuple[str, Path]]:
    """The roots that are searched, in order, each with a word on why."""
    found = [("given root", Path(root).expanduser())] if root is not None else []
    if given := os.environ.get("REFIMPL_DATA"):
        found.append(("REFIMPL_DATA", Path(given).expanduser()))
    found.append(("cache", cache()))
    return found


def locate(name: str, root: str | os.PathLike[str] | None = None) -> Found:
    """The first whole copy of a data set. Embedded sets are always found, whatever `root` is.

    Raises ValueError for an unknown name; DataNotFound, with each folder searched and what it lacks, when no copy is
    whole.
    """
    info = spec(name)
    if info.embedded:
        found = format_of(info).search(info, Path(__file__).parent / name)  # such a set has a folder here
        assert isinstance(found, Found), found
        return found
    report = []
    for why, base in roots(root):
        folder = base / (info.folder or name)
        found = search(info, folder)
        if isinstance(found, Found):
            return found
        report.append(f"  {folder} ({why}): {found}")
    raise DataNotFound(
        f"{name}: not found. Searched:\n" + "\n".join(report) + f"\nTo download it: refimpl data fetch {name}"
    )


def search(info: Info, folder: Path) -> Found | str:
    """The files of a set in one folder, or, where the set is not whole there, a sentence on what is missing."""
    return format_of(info).search(info, folder) if folder.is_dir() else "no such folder"


def format_of(info: Info) -> Any:
    """The module that knows the files of a set: `search(info, folder) -> Found | str`, `read(info, found) -> Data`, and
    `readers(info, found)`, pairs of each file and a function that reads it and raises DataError where it is damaged."""
    return importlib.import_module(f"refimpl.data.{info.format}")


def first(folder: Path, name: str, endings: tuple[str, ...]) -> Path | None:
    """The first of `name` with one of the endings that is a file in `folder`."""
    return next((file for end in endings if (file := folder / (name + end)).is_file()), None)
