"""A batch of CIFAR-10's python version, read without running what a pickle may ask to run.

The files are pickles of a dict {data: uint8 (N, 3072), labels: list of N ints, filenames, batch_label}. Unpickling a
foreign file is running a foreign program, so two fences stand before it:

1. `_walk` looks at every instruction before any is carried out. Only those that build dicts, lists, tuples, strings,
   bytes and small numbers, and those that name and build an array, may occur; their number is bounded, and so are
   the depth of tuples and every slot number of the memo (a single instruction with slot 2^32 - 1 would have the
   unpickler reserve gigabytes).
2. `_Unpickler.find_class` answers the five names that an array needs with stand-ins of our own, which only keep what
   they are given. No class or function of NumPy or of the standard library is ever handed to the file.
"""

from __future__ import annotations

import io
import os
import pickle
from typing import Any

import numpy as np

from refimpl.data.errors import DataError
from refimpl.data.files import take_all

__all__ = ["read_python_batch"]

PIXELS = 3 * 32 * 32
MAX_INSTRUCTIONS = 500_000  # a published batch has some 50,000
MAX_TUPLES = 1_000  # a published batch has some 10; hashing tuples nested without end would exhaust the C stack
# Protocol 2 of Python 3 writes bytes as UTF-8 text, two bytes for each above 127.
OVERHEAD = 200  # bytes a record may take beside its pixels: label, file name, memo

ALLOWED = frozenset(
    """PROTO FRAME STOP MARK EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    APPEND APPENDS SETITEM SETITEMS MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET
    NONE NEWTRUE NEWFALSE BININT BININT1 BININT2
    SHORT_BINSTRING BINSTRING SHORT_BINBYTES BINBYTES SHORT_BINUNICODE BINUNICODE
    GLOBAL STACK_GLOBAL REDUCE BUILD""".split()
)


def read_python_batch(path: str | os.PathLike[str], max_records: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) uint8 and labels (N,) int64 of a python-version batch with N <= max_records.

    Reads what the published files are (protocol 2, written by Python 2) and the same dict written again by Python 3
    with protocol 2 to 4 (file names as bytes need 3 or 4). Raises DataError, naming the file, for everything else.
    Labels are checked to be whole numbers, not to be in range.
    """
    program = take_all(path, max_records * (2 * PIXELS + OVERHEAD) + 10_000)
    _walk(path, program)
    try:
        return _arrays(path, _Unpickler(io.BytesIO(program), encoding="bytes").load())
    except DataError:
        raise
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise DataError(f"{path}: not a CIFAR-10 batch: {error}") from error


def _arrays(path: str | os.PathLike[str], batch: Any) -> tuple[np.ndarray, np.ndarray]:
    if not isinstance(batch, dict):
        raise DataError(f"{path}: the pickle holds a {type(batch).__name__}, expected a dict with data and labels")
    images = _pixels(path, _entry(path, batch, "data"))
    labels = _entry(path, batch, "labels")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{path}: labels are no list of whole numbers")
    if len(labels) != len(images):
        raise DataError(f"{path}: {len(images)} images and {len(labels)} labels, expected one label for each image")
    return images, np.array(labels, np.int64)


def _walk(path: str | os.PathLike[str], program: bytes | bytearray) -> None:
    """Refuse the pickle unless each of its instructions is harmless and the last of them ends the file."""
    import pickletools  # slow to import, and needed here alone

    end = count = tuples = 0
    try:
        for instruction, argument, position in pickletools.genops(io.BytesIO(program)):
            count += 1
            if instruction.name not in ALLOWED:
                raise DataError(f"{path}: instruction {instruction.name} at byte {position} has no place in a batch")
            if count > MAX_INSTRUCTIONS:
                raise DataError(f"{path}: more than {MAX_INSTRUCTIONS} instructions, expected a batch of images")
            tuples += instruction.name.startswith("TUPLE")
            if tuples > MAX_TUPLES:
                raise DataError(f"{path}: more than {MAX_TUPLES} tuples, expected a batch of images")
            if instruction.name in ("BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
                raise DataError(f"{path}: memo slot {argument} at byte {position}, expected at most {count}")
            end = (position or 0) + 1
    except DataError:
        raise
    except Exception as error:  # genops says ValueError, but lets others through on damaged text
        raise DataError(f"{path}: not a whole pickle: {error}") from error
    if end != len(program):
        raise DataError(f"{path}: {len(program) - end} bytes follow the end of the pickle")


class _Inert:
    """Something named by a pickle that can be passed on but neither called nor changed."""

    __slots__ = ()


class _DtypeMade:
    """Keeps the name of a dtype ("u1"); what the pickle adds (byte order, alignment) does not matter for one byte."""

    __slots__ = ("code",)

    def __init__(self, code: Any) -> None:
        self.code = _text(code)

    def __setstate__(self, state: Any) -> None:
        pass


class _ArrayMade:
    """Keeps the five parts of an array's state: version, shape, dtype, Fortran order, bytes."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Dtype(_Inert):
    __slots__ = ()

    def __call__(self, code: Any, *flags: Any) -> _DtypeMade:
        return _DtypeMade(code)


class _Reconstruct(_Inert):
    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, code: Any) -> _ArrayMade:
        return _ArrayMade()


class _Encode(_Inert):
    """Python 3 writes bytes into old protocols as text of code points 0..255 plus the name "latin1"."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str) or _text(encoding) not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"_codecs.encode with {encoding!r}, expected latin1")
        return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Knows the five names an array in a pickle needs, and nothing else."""

    def find_class(self, module: Any, name: Any) -> Any:
        module, name = _text(module), _text(name)
        # The stand-ins are made anew each time and have no place to store anything: no file can leave a trace in them.
        if (module, name) in (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
        ):
            return _Reconstruct()
        if (module, name) == ("numpy", "ndarray"):
            return _Inert()
        if (module, name) == ("numpy", "dtype"):
            return _Dtype()
        if (module, name) == ("_codecs", "encode"):
            return _Encode()
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR-10 batch needs; nothing was run")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to an object outside the file")


def _text(value: Any) -> Any:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _entry(path: str | os.PathLike[str], batch: dict, key: str) -> Any:
    for name in (key.encode(), key):
        if name in batch:
            return batch[name]
    raise DataError(f"{path}: the dict has keys {sorted(map(repr, batch))[:8]}, expected {key!r} among them")


def _pixels(path: str | os.PathLike[str], array: Any) -> np.ndarray:
    state = array.state if isinstance(array, _ArrayMade) else None
    if not isinstance(state, tuple) or len(state) != 5:
        raise DataError(f"{path}: data is no NumPy array")
    _, shape, dtype, fortran, content = state
    if not isinstance(dtype, _DtypeMade) or dtype.code not in ("u1", "|u1", "uint8"):
        raise DataError(f"{path}: data has dtype {getattr(dtype, 'code', dtype)!r}, expected u1")
    if not isinstance(content, bytes):
        raise DataError(f"{path}: data holds a {type(content).__name__}, expected bytes")
    n = len(content) // PIXELS
    if shape != (n, PIXELS) or len(content) != n * PIXELS:
        raise DataError(f"{path}: data has shape {shape} and {len(content)} bytes, expected (N, {PIXELS}) bytes")
    # A Fortran-ordered table is stored column by column.
    table = np.frombuffer(content, np.uint8).reshape(n, PIXELS, order="F" if fortran else "C")
    return table.reshape(n, 3, 32, 32).copy()
