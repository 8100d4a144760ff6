"""Fetching data sets from where their authors publish them.

A file is written under a temporary name in its own folder, judged by size and checksum while it comes, forced to the
disk and renamed. So a name in the data folder always stands for a whole and right file, whatever interrupts a fetch;
running it again goes on with the files still missing.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, cast

from refimpl.data.catalogue import Info, Published, spec
from refimpl.data.errors import DataError, DownloadError
from refimpl.data.files import CHUNK, atomic, digest, unpacked
from refimpl.data.folders import cache, locate

__all__ = ["fetch", "unpack"]

TIMEOUT = (10, 60)  # seconds: to connect, and without a byte coming
STALE = 3600  # a temporary file not written for so many seconds belongs to a process that died
ARCHIVE_SLACK = 1 << 20  # bytes of an unpacked archive that are not content: headers, padding, the page in it


def fetch(
    name: str,
    progress: bool = True,
    *,
    root: str | os.PathLike[str] | None = None,
    mirrors: str | Sequence[str] | None = None,
) -> Path:
    """Download a data set into `<root>/<name>/` and return that folder. Files already there and right are kept.

    `root` is the user's cache unless given. (Not `$REFIMPL_DATA`: that may be shared and not ours to write.)
    `mirrors` replaces the published addresses of the folder with others, tried in order; size and checksum are judged
    all the same. `progress` shows a bar for each file when standard error is a terminal. "digits" needs no download.

    MNIST and Fashion-MNIST are checked by SHA-256. CIFAR-10 comes as an archive with an MD5, the only checksum its
    author publishes; it is unpacked (only the expected regular files of the expected size) and removed.

    Raises ValueError for an unknown name; DownloadError when no address delivers the right file; DataError for an
    archive that is not what it should be; OSError (PermissionError, ...) when the folder cannot be written or the
    disk is full. Needs the packages pooch and tqdm.
    """
    info = spec(name)
    if not info.downloads:
        return locate(name).folder
    if mirrors is None:
        mirrors = info.mirrors
    elif isinstance(mirrors, str):
        mirrors = (mirrors,)
    folder = (cache() if root is None else Path(root).expanduser()) / (info.folder or name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        if info.members and all(_right(folder / file.name, file, content=True) for file in info.members):
            return folder
        for file in info.downloads:
            if not _right(folder / file.name, file):
                _download(info, file, folder, mirrors, progress)
            if info.members:
                unpack(folder / file.name, folder, info.members)
                (folder / file.name).unlink()
    except DataError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            error.errno or errno.EIO,
            f"{name}: cannot write to {folder}: {reason}. Another folder: root=... or the variable REFIMPL_CACHE",
        ) from error
    return folder


def unpack(archive: Path, folder: Path, members: Sequence[Published]) -> None:
    """Unpack `<any one folder>/<member>` of a .tar.gz into `folder`, each member whole or not at all.

    Only regular files with the names and sizes of `members` are written; a directory entry and a `readme.html` are
    passed over; no path of the archive is ever used as a path. Raises DataError for anything else (links, devices,
    other names, other sizes, a member twice or missing, a wrong checksum, an archive that unpacks to more than
    expected).
    """
    import tarfile

    missing = {file.name: file for file in members}
    limit = sum(file.size for file in members) + ARCHIVE_SLACK
    with unpacked(archive) as plain:
        bounded = _Bounded(plain, limit, archive)
        try:
            with tarfile.open(fileobj=cast(IO[bytes], bounded), mode="r|") as tar:
                for member in tar:
                    top, _, name = member.name.partition("/")
                    if top not in ("", ".", "..") and _passed_over(member, name):
                        continue
                    if top in ("", ".", "..") or not member.isfile() or name not in missing:
                        raise DataError(
                            f"{archive}: member {member.name!r} has no place in it, expected {sorted(missing)}"
                        )
                    source = tar.extractfile(member)
                    assert source is not None  # it is a regular file
                    with atomic(folder / name) as target:
                        sink = _Sink(target, missing.pop(name), f"{archive}: member {name}")
                        while chunk := source.read(CHUNK):
                            sink.write(chunk)
                        sink.finish()
            while bounded.read(CHUNK):  # the checksum of the packing stands at its very end
                pass
        except tarfile.TarError as error:
            raise DataError(f"{archive}: damaged archive: {error}") from error
    if missing:
        raise DataError(f"{archive}: lacks {', '.join(missing)}")


def _passed_over(member: Any, name: str) -> bool:
    """The folder itself, and the page that the published archive holds beside the data."""
    return member.isdir() if not name else member.isfile() and name == "readme.html"


def _download(info: Info, file: Published, folder: Path, mirrors: Sequence[str], progress: bool) -> None:
    import pooch
    from requests import RequestException

    reasons = []
    for mirror in mirrors:
        url = mirror.rstrip("/") + "/" + file.name
        try:
            with atomic(folder / file.name) as target, _bar(file, progress) as bar:
                sink = _Sink(target, file, url)
                # Without "identity" a server may unpack a .gz on the way, and nothing would match.
                get = pooch.HTTPDownloader(
                    progressbar=False if bar is None else bar,
                    chunk_size=1 << 16,
                    timeout=TIMEOUT,
                    headers={"Accept-Encoding": "identity"},
                )
                get(url, sink, None)
                sink.finish()
            return
        except RequestException as error:
            reasons.append(f"  {url}: {error}")
        except DataError as error:
            reasons.append(f"  {error}")
    raise DownloadError(
        f"{info.name}: could not download {file.name}; nothing was put in place. Tried:\n"
        + ("\n".join(reasons) or "  no address")
    )


def _bar(file: Published, progress: bool) -> Any:
    if not progress:
        return nullcontext()
    from tqdm import tqdm

    # disable=None: no bar where standard error is no terminal.
    return tqdm(total=file.size, desc=file.name, unit="B", unit_scale=True, disable=None)


class _Sink:
    """A file for writing that refuses a byte too many and, at the end, a byte too few or a wrong checksum."""

    def __init__(self, target: IO[bytes], file: Published, what: str) -> None:
        self._target, self._file, self._what = target, file, what
        self._kind = file.checksum.partition(":")[0] if file.checksum else ""
        import hashlib

        self._state = hashlib.new(self._kind, usedforsecurity=False) if self._kind else None
        self._size = 0

    def write(self, data: bytes) -> int:
        self._size += len(data)
        if self._size > self._file.size:
            raise DataError(f"{self._what}: more than {self._file.size} bytes, expected exactly as many")
        if self._state is not None:
            self._state.update(data)
        self._target.write(data)
        return len(data)

    def flush(self) -> None:
        """Called after each piece; the one flush that counts is made at the end."""

    def finish(self) -> None:
        if self._size != self._file.size:
            raise DataError(f"{self._what}: {self._size} bytes, expected {self._file.size}")
        if self._state is not None:
            found = f"{self._kind}:{self._state.hexdigest()}"
            if found != self._file.checksum:
                raise DataError(f"{self._what}: checksum {found}, expected {self._file.checksum}")


class _Bounded:
    """A stream that ends with a DataError instead of going on for ever."""

    def __init__(self, stream: IO[bytes], limit: int, path: Path) -> None:
        self._stream, self._left, self._limit, self._path = stream, limit, limit, path

    def read(self, n: int) -> bytes:
        data = self._stream.read(n)
        self._left -= len(data)
        if self._left < 0:
            raise DataError(f"{self._path}: unpacks to more than {self._limit} bytes, expected less")
        return data


def _right(path: Path, file: Published, *, content: bool = False) -> bool:
    """Whether the file is there and as published. A file without a known checksum is judged by its size."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    return file.checksum is None or digest(path, file.checksum.partition(":")[0], content=content) == file.checksum


def _sweep(folder: Path) -> None:
    """Remove what killed downloads left behind."""
    for part in folder.glob("*.part"):
        if time.time() - part.stat().st_mtime > STALE:
            part.unlink(missing_ok=True)
