"""Files that survive a crash: whole or not at all (`write`), or line by line (`append_line`).

`write` puts the bytes into a temporary file of the same folder, forces them to the disk and renames it, so the name
always stands for a whole file: the old one or the new one. A killed process leaves at most `<name>.<random>.part`.
`append_line` adds one line of JSON and forces it to the disk; a line torn by a crash is dropped by `read_lines`.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from refimpl._disk import atomic
from refimpl.lab.errors import RunError, WriteError

__all__ = [
    "append_line",
    "dumps",
    "explain",
    "lock",
    "make_folder",
    "plain",
    "read_json",
    "read_lines",
    "write",
    "write_json",
    "write_lines",
]


def explain(error: OSError, path: Path) -> WriteError:
    """An OSError while writing, as a sentence that says what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        why = "the disk is full. Free some space and go on; what was stored earlier is intact"
    elif error.errno in (errno.EEXIST, errno.ENOTDIR):
        why = "a file stands where a folder is expected. Choose another name"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        why = f"the folder cannot be written to ({error.strerror}). Choose another one"
    else:
        why = f"{error.strerror or error}. What was stored earlier is intact"
    return WriteError(f"{path}: not written: {why}")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise explain(error, path) from error


def make_folder(path: Path, exist_ok: bool = True) -> None:
    """Create a folder and its parents. Raises RunError where that is not possible."""
    with _explained(path):
        path.mkdir(parents=True, exist_ok=exist_ok)


def write(path: Path, content: bytes, keep: Path | None = None) -> None:
    """Replace `path` by `content` in one step; with `keep`, the file it had before gets that name.

    Raises RunError when the disk is full or the folder read-only; what was stored before is then still there.
    """
    with _explained(path), atomic(path, keep) as file:
        file.write(content)


def plain(value: Any, finite: bool = True) -> Any:
    """`value` in JSON's own types: arrays become lists, NumPy's numbers become Python's, paths become text.

    JSON has no NaN and no infinity: with `finite` they become null. Raises TypeError for what has no place in JSON.
    """
    if isinstance(value, Mapping):
        return {str(k): plain(v, finite) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v, finite) for v in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist(), finite)
    if isinstance(value, np.generic):
        return plain(value.item(), finite)
    if isinstance(value, float):
        return value if not finite or math.isfinite(value) else None
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON: {value!r}")


def dumps(value: Any) -> str:
    """`value` as JSON for people and programs: indented, UTF-8, no NaN."""
    return json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Store `value` as a JSON file, whole or not at all."""
    write(path, dumps(value).encode())


def read_json(path: Path, what: str) -> Any:
    """The content of a JSON file; `what` says in errors what was expected there. Raises RunError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: no such file, expected {what}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path}: cannot be read as {what}: {error}") from None


def append_line(path: Path, value: Any, force: bool = True) -> None:
    """Add one line of JSON to a file (NaN and infinity stay, as Python's json reads them) and force it to the disk.

    Where a crash tore the last line, the new one starts on a line of its own. Raises RunError; the file then ends
    where it did.
    """
    line = json.dumps(plain(value, finite=False), ensure_ascii=False).encode() + b"\n"
    with _explained(path), open(path, "a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                line = b"\n" + line
        try:
            if file.write(line) != len(line):  # the disk took a part
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if force:
                os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(end)
            raise


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a file of JSON objects; torn ones are passed over. [] where there is no file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from None
    found = []
    for line in content.split(b"\n"):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(entry, dict):
            found.append(entry)
    return found


def write_lines(path: Path, entries: list[dict[str, Any]]) -> None:
    """Replace a file of JSON lines in one step."""
    lines = [json.dumps(plain(entry, finite=False), ensure_ascii=False) + "\n" for entry in entries]
    write(path, "".join(lines).encode())


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; a killed process lets go by itself. Raises RunError while another one holds it.

    Where the system has no such locks (Windows), nothing is locked.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    path = folder / ".lock"
    with _explained(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"{folder}: another process is working there; wait for it or choose another --out") from None
        yield
    finally:
        os.close(handle)
