"""Data sets and batches: small real data, read strictly, fetched safely, always in the same shape.

    >>> from refimpl.data import load
    >>> digits = load("digits")
    >>> digits
    Dataset('digits', 1415 train + 382 test, shape (1, 8, 8), 10 classes)

`load(name)` knows "digits" (embedded) and whatever else `names()` tells; `fetch(name)` downloads, `verify(name)`
looks at the files again, `path(name)` says where they are, `info(name)` what they are. `batches` gives the order of an
epoch. `read_idx`, `write_idx` and `read_cifar10` read and write single files of these formats.

This package needs NumPy alone; `fetch` also needs pooch and tqdm, and imports them when it is called.
"""

from refimpl.data.catalogue import Info, names
from refimpl.data.cifar import read_cifar10
from refimpl.data.dataset import Data, Dataset, batches
from refimpl.data.download import fetch
from refimpl.data.errors import DataError, DataNotFound, DownloadError
from refimpl.data.idx import read_idx, write_idx
from refimpl.data.registry import info, load, path
from refimpl.data.verification import Check, verify

__all__ = [
    "Check",
    "Data",
    "DataError",
    "DataNotFound",
    "Dataset",
    "DownloadError",
    "Info",
    "batches",
    "fetch",
    "info",
    "load",
    "names",
    "path",
    "read_cifar10",
    "read_idx",
    "verify",
    "write_idx",
]
