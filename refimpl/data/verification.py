"""Looking again at the files of a data set: is each of them still what it should be?"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from refimpl.data.catalogue import Info, spec
from refimpl.data.errors import DataError
from refimpl.data.files import digest
from refimpl.data.folders import format_of, locate

__all__ = ["Check", "verify"]


class Check(NamedTuple):
    """What was found about one file."""

    file: Path
    ok: bool
    message: str


def verify(name: str, *, root: str | os.PathLike[str] | None = None) -> list[Check]:
    """Read every file of the copy that `load` would take; one (file, ok, message) for each.

    Checked are the format (an image file together with its label file) and, where one is known, the checksum of the
    unpacked content, so that a copy packed in another way is right too. Nothing is raised for a damaged or unreadable
    file: that is what the answer tells. Raises ValueError for an unknown name, DataNotFound when there is no whole
    copy.
    """
    info = spec(name)
    found = locate(name, root)
    return [_check(info, file, read) for file, read in format_of(info).readers(info, found)]


def _check(info: Info, file: Path, read: Callable[[], object]) -> Check:
    try:
        read()
        stem = file.name.removesuffix(".gz").removesuffix(".xz")
        expected = dict(info.contents).get(stem)
        if expected is None:
            return Check(file, True, "format right; no checksum is known for it")
        found = digest(file, expected.partition(":")[0], content=True)
    except (DataError, OSError) as error:
        return Check(file, False, str(error))
    if found != expected:
        return Check(file, False, f"checksum of the content is {found}, expected {expected}")
    return Check(file, True, "format and checksum right")
