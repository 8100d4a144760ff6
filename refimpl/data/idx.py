"""The IDX format of MNIST and Fashion-MNIST, read strictly.

A file is a header and the numbers, all big-endian::

    0  0  dtype  D        dtype: one byte, see DTYPES; D: number of dimensions
    n_1 ... n_D           D unsigned 32-bit sizes
    n_1 * ... * n_D numbers, last index fastest

Source: the description on the MNIST page, Y. LeCun, C. Cortes, C. J. C. Burges.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import IO

import numpy as np

from refimpl.data.errors import DataError
from refimpl.data.files import atomic, take, unpacked

__all__ = ["DTYPES", "read_idx", "write_idx"]

DTYPES: dict[int, np.dtype] = {
    0x08: np.dtype(np.uint8),
    0x09: np.dtype(np.int8),
    0x0B: np.dtype(np.int16),
    0x0C: np.dtype(np.int32),
    0x0D: np.dtype(np.float32),
    0x0E: np.dtype(np.float64),
}
MAX_DIMS = 32  # what every supported NumPy can hold


def read_idx(
    path: str | os.PathLike[str], *, dims: int | None = None, dtype: type | None = None, max_bytes: int = 1 << 30
) -> np.ndarray:
    """The array in an IDX file; a name in .gz or .xz is unpacked on the way. Byte order of the result is native.

    `dims` and `dtype`, when given, must be what the header says (3 and np.uint8 for grey images, 1 and np.uint8 for
    labels). A header that promises more than `max_bytes` is refused before anything is read, and at most one byte
    more than it promises is ever unpacked.

    Raises DataError, naming the file, for a wrong magic number, an unknown or unexpected dtype code, an unexpected
    number of dimensions, and fewer or more bytes than the dimensions ask for; DataNotFound for a missing file.
    """
    with unpacked(path) as stream:
        kind, shape = _read_header(path, stream)
        if dims is not None and len(shape) != dims:
            raise DataError(
                f"{path}: {len(shape)} dimensions {shape}, expected {dims}{_LIKELY.get((dims, len(shape)), '')}"
            )
        if dtype is not None and kind != np.dtype(dtype):
            raise DataError(f"{path}: numbers are {kind}, expected {np.dtype(dtype)}")
        promised = math.prod(shape) * kind.itemsize
        # Zeros are left out of the size that is judged: NumPy cannot hold a shape such as (0, 2^32 - 1, 2^32 - 1).
        if math.prod(n for n in shape if n) * kind.itemsize > max_bytes:
            raise DataError(f"{path}: header promises {kind} of shape {shape}, expected at most {max_bytes} bytes")
        data = take(stream, promised + 1)
    if len(data) != promised:
        found = f"only {len(data)}" if len(data) < promised else "more"
        raise DataError(f"{path}: {found} bytes after the header, expected {promised} for {kind} of shape {shape}")
    return np.frombuffer(data, kind.newbyteorder(">")).astype(kind, copy=False).reshape(shape)


def write_idx(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write `array` as IDX, packed with gzip when the name ends in .gz. The file appears whole or not at all.

    The same array gives the same bytes: the gzip header holds no time and no name.

    Raises ValueError for a dtype or a number of dimensions that IDX does not have.
    """
    codes = {kind: code for code, kind in DTYPES.items()}
    array = np.asarray(array)
    kind = array.dtype.newbyteorder("=")
    if kind not in codes:
        raise ValueError(f"{path}: cannot write {array.dtype} as IDX, expected one of {', '.join(map(str, codes))}")
    if not 1 <= array.ndim <= MAX_DIMS or max(array.shape) >= 1 << 32:
        raise ValueError(f"{path}: cannot write shape {array.shape}, expected 1..{MAX_DIMS} dimensions below 2^32")
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, codes[kind], array.ndim, *array.shape)
    content = header + array.astype(kind.newbyteorder(">"), copy=False).tobytes()
    with atomic(path) as file:
        if Path(path).suffix == ".gz":
            import gzip

            with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=9, mtime=0) as packed:
                packed.write(content)
        else:
            file.write(content)


# (expected, found) dimensions -> the mistake that usually lies behind it
_LIKELY = {(3, 1): " (is this a label file?)", (1, 3): " (is this an image file?)"}


def _read_header(path: str | os.PathLike[str], stream: IO[bytes]) -> tuple[np.dtype, tuple[int, ...]]:
    magic = take(stream, 4)
    if len(magic) < 4:
        raise DataError(f"{path}: {len(magic)} bytes, expected a 4-byte magic number")
    if magic[:2] != b"\0\0":
        hint = " (packed with gzip? then its name must end in .gz)" if magic[:2] == b"\x1f\x8b" else ""
        raise DataError(f"{path}: starts with bytes {magic.hex(' ')}, expected 00 00 <dtype> <dimensions>{hint}")
    _, _, code, n_dims = magic
    if code not in DTYPES:
        known = ", ".join(f"0x{c:02x} {kind}" for c, kind in DTYPES.items())
        raise DataError(f"{path}: dtype code 0x{code:02x}, expected one of {known}")
    if not 1 <= n_dims <= MAX_DIMS:
        raise DataError(f"{path}: {n_dims} dimensions, expected 1..{MAX_DIMS}")
    sizes = take(stream, 4 * n_dims)
    if len(sizes) < 4 * n_dims:
        raise DataError(
            f"{path}: {4 + len(sizes)} bytes, expected a header of {4 + 4 * n_dims} for {n_dims} dimensions"
        )
    return DTYPES[code], struct.unpack(f">{n_dims}I", sizes)
