"""CIFAR-10 batches: the binary version (fixed records) and the python version (pickles, read without trusting them).

A binary batch is a row of records of 3073 bytes: one label byte 0..9, then 1024 red, 1024 green and 1024 blue bytes,
each plane row by row. Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, and the
page of the data set.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from refimpl.data.errors import DataError
from refimpl.data.files import take, unpacked

__all__ = ["RECORD", "SHAPE", "read_cifar10"]

SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32
N_CLASSES = 10
MAX_RECORDS = 60_000  # the whole of CIFAR-10 in one file


def read_cifar10(path: str | os.PathLike[str], *, records: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) uint8 and labels (N,) int64 of one batch file.

    A name in .bin, .bin.gz or .bin.xz is the binary version; any other name (`data_batch_1`, `test_batch`) is a batch
    of the python version. `records`, when given, is the number N that the file must hold (10,000 in a published batch);
    otherwise any N from 1 to 60,000 is right.

    Raises DataError, naming the file, for a size that is no whole number of records, another N than expected, a label
    outside 0..9, damaged packing, or a pickle that holds anything but a batch; DataNotFound for a missing file.
    """
    stem = Path(path).with_suffix("") if Path(path).suffix in (".gz", ".xz") else Path(path)
    limit = MAX_RECORDS if records is None else records
    if stem.suffix == ".bin":
        images, labels = _read_binary(path, limit)
    else:
        from refimpl.data.cifar_pickle import read_python_batch

        images, labels = read_python_batch(path, limit)
    if records is not None and len(labels) != records:
        raise DataError(f"{path}: {len(labels)} records, expected {records}")
    if len(labels) == 0:
        raise DataError(f"{path}: no records, expected at least 1")
    wrong = np.flatnonzero((labels < 0) | (labels >= N_CLASSES))
    if wrong.size:
        raise DataError(f"{path}: record {wrong[0]} has label {labels[wrong[0]]}, expected 0..{N_CLASSES - 1}")
    return images, labels


def _read_binary(path: str | os.PathLike[str], max_records: int) -> tuple[np.ndarray, np.ndarray]:
    limit = max_records * RECORD
    with unpacked(path) as stream:
        data = take(stream, limit + 1)
    if len(data) > limit:
        raise DataError(f"{path}: more than {limit} bytes, expected at most {max_records} records of {RECORD} bytes")
    if len(data) % RECORD:
        raise DataError(f"{path}: {len(data)} bytes, expected a multiple of {RECORD} ({len(data) % RECORD} left over)")
    table = np.frombuffer(data, np.uint8).reshape(-1, RECORD)
    return table[:, 1:].reshape(-1, *SHAPE), table[:, 0].astype(np.int64)
