"""Data sets by name: `load("mnist")`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from refimpl.data.catalogue import Info, names, spec
from refimpl.data.folders import format_of, locate

__all__ = ["info", "load", "names", "path"]


def info(name: str) -> Info:
    """Title, source, licence and sizes of a set, without reading it. ValueError for an unknown name."""
    return spec(name)


def path(name: str, *, root: str | os.PathLike[str] | None = None) -> Path:
    """The folder in which `load` finds a data set. Raises as `load` does when there is none."""
    return locate(name, root).folder


def load(name: str, *, root: str | os.PathLike[str] | None = None) -> Any:
    """Read a data set by the name that `refimpl data list` shows: "digits" (embedded), "mnist", "cifar-10", ...

    A set of images comes as `Dataset`, each other kind as a class of its own that offers what `Data` says; the module
    of its format (`refimpl.data.images`, ...) says how values are scaled. The set is looked for in `<root>/<name>/`,
    then under `$REFIMPL_DATA`, then in the user's cache (`refimpl.data.folders`).

    Raises ValueError for an unknown name, DataNotFound with the folders searched when the set is nowhere whole, and
    DataError with the name of the file when one is damaged.
    """
    known = spec(name)
    return format_of(known).read(known, locate(name, root))
