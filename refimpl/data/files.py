"""Reading packed files without trusting their promises, and writing files so that no half file is ever seen."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from refimpl._disk import atomic
from refimpl.data.errors import DataError, DataNotFound

__all__ = ["CHUNK", "atomic", "digest", "take", "take_all", "unpacked"]

CHUNK = 1 << 20
# An .xz header may demand a dictionary of 4 GiB; `xz -9` needs 65 MiB to unpack.
XZ_MEMORY = 256 << 20


@contextmanager
def unpacked(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open `path` for reading; a name in .gz or .xz is unpacked on the way.

    Inside the `with`, whatever the unpackers have to say about damaged input comes out as a `DataError` that names the
    file. Nothing is unpacked beyond what is read. Raises DataNotFound when there is no such file.
    """
    # zlib and lzma are imported only when a packed file is met.
    path = Path(path)
    damage: tuple[type[Exception], ...] = (EOFError,)
    try:
        with open(path, "rb") as file:
            if path.suffix == ".gz":
                import gzip
                import zlib

                damage += (gzip.BadGzipFile, zlib.error)
                with gzip.GzipFile(fileobj=file, mode="rb") as stream:
                    yield cast(IO[bytes], stream)
            elif path.suffix == ".xz":
                import lzma

                damage += (lzma.LZMAError,)
                decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
                yield cast(IO[bytes], _Xz(file, decompressor))
            else:
                yield file
    except damage as error:
        raise DataError(f"{path}: damaged or not a {path.suffix} file: {error}") from error
    except FileNotFoundError as error:
        if isinstance(error, DataNotFound):
            raise
        raise DataNotFound(f"{path}: no such file") from error


class _Xz(io.RawIOBase):
    """One .xz stream that must end where its file ends.

    `lzma.LZMAFile` would do but for two things: it sets no bound on memory, and it takes whatever a header asks for.
    """

    def __init__(self, file: IO[bytes], decompressor: Any) -> None:
        self._file = file
        self._xz = decompressor

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._xz.eof:
            packed = self._file.read(CHUNK) if self._xz.needs_input else b""
            if self._xz.needs_input and not packed:
                raise EOFError("file ended before the end of the stream")
            plain = self._xz.decompress(packed, max_length=len(buffer))
            if plain:
                buffer[: len(plain)] = plain
                return len(plain)
        if self._xz.unused_data or self._file.read(1):
            raise EOFError("bytes follow the end of the stream")
        return 0


def take(stream: IO[bytes], n: int) -> bytearray:
    """Read `n` bytes, or fewer where the stream ends. Memory grows with what is there, not with what was promised."""
    out = bytearray()
    while len(out) < n:
        chunk = stream.read(min(CHUNK, n - len(out)))
        if not chunk:
            break
        out += chunk
    return out


def take_all(path: str | os.PathLike[str], limit: int) -> bytearray:
    """The whole (unpacked) content of a file. Raises DataError when it is longer than `limit` bytes."""
    with unpacked(path) as stream:
        data = take(stream, limit + 1)
    if len(data) > limit:
        raise DataError(f"{path}: more than {limit} bytes, expected at most {limit}")
    return data


def digest(path: str | os.PathLike[str], kind: str, *, content: bool = False) -> str:
    """Checksum of a file as "sha256:..." or "md5:..."; with `content`, of what is left after unpacking .gz or .xz."""
    import hashlib  # takes longer to import than the rest of this package

    state = hashlib.new(kind, usedforsecurity=False)
    if content:
        with unpacked(path) as stream:
            while chunk := stream.read(CHUNK):
                state.update(chunk)
    else:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                state.update(chunk)
    return f"{kind}:{state.hexdigest()}"
