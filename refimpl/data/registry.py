"""Data sets by name: `load("mnist")`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from refimpl.data.catalogue import Info, names, spec
from refimpl.data.cifar import read_cifar10
from refimpl.data.dataset import Dataset
from refimpl.data.digits import N_TRAIN, read_digits
from refimpl.data.errors import DataError
from refimpl.data.folders import cifar_records, locate
from refimpl.data.idx import read_idx

__all__ = ["info", "load", "names", "path", "read_idx_pair"]

GREY_LEVELS = np.float32(255)
DIGIT_LEVELS = np.float32(16)


def info(name: str) -> Info:
    """Title, source, licence, sizes and class names of a set, without reading it. ValueError for an unknown name."""
    return spec(name)


def path(name: str, *, root: str | os.PathLike[str] | None = None) -> Path:
    """The folder in which `load` finds a data set. Raises as `load` does when there is none."""
    return locate(name, root).folder


def load(name: str, *, root: str | os.PathLike[str] | None = None) -> Dataset:
    """Read a data set: "digits" (embedded), "mnist", "fashion-mnist" or "cifar-10".

    Images come as float32 in [0, 1] (bytes over 255; the digits' 0..16 over 16) of shape (N, C, H, W), labels as int64.
    The set is looked for in `<root>/<name>/`, then under `$REFIMPL_DATA`, then in the user's cache
    (`refimpl.data.folders`).

    CIFAR-10 may be there in part only: the training split is every training batch present, in the order of their
    numbers, then a file `data_batch_5_first2500.bin` counts as the batch 5 that it is the beginning of, and the test
    split is `test_batch` or its beginning. The `title` of such a set says how much of it there is. Whole, CIFAR-10
    takes 0.7 GB of memory; `subset` gives less.

    Raises ValueError for an unknown name, DataNotFound with the folders searched when the set is nowhere whole, and
    DataError with the name of the file when one is damaged.
    """
    known = spec(name)
    found = locate(name, root)
    if name == "digits":
        images, labels = read_digits()
        x = _scaled(images[:, None], DIGIT_LEVELS)
        x_train, y_train, x_test, y_test = x[:N_TRAIN], labels[:N_TRAIN], x[N_TRAIN:], labels[N_TRAIN:]
    elif name == "cifar-10":
        (x_train, y_train), (x_test, y_test) = _read_batches(found.train), _read_batches(found.test)
    else:
        x_train, y_train = read_idx_pair(known, *found.train)
        x_test, y_test = read_idx_pair(known, *found.test)
    return Dataset(
        name=name,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        n_classes=known.n_classes,
        shape=known.shape,
        title=_title(known, len(x_train), len(x_test)),
        source=known.source,
        licence=known.licence,
    )


def read_idx_pair(known: Info, images_file: Path, labels_file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 1, H, W) float32 in [0, 1] and labels (N,) int64 of an IDX image file and its label file.

    Raises DataError when the images have another size than the set's, the counts differ, or a label is out of range.
    """
    images = read_idx(images_file, dims=3, dtype=np.uint8)
    labels = read_idx(labels_file, dims=1, dtype=np.uint8)
    if images.shape[1:] != known.shape[1:]:
        raise DataError(f"{images_file}: images of {images.shape[1:]} pixels, expected {known.shape[1:]}")
    if len(images) != len(labels):
        raise DataError(f"{images_file}: {len(images)} images, but {labels_file.name} has {len(labels)} labels")
    if len(images) == 0:
        raise DataError(f"{images_file}: no images, expected at least 1")
    if labels.max() >= known.n_classes:
        raise DataError(f"{labels_file}: label {labels.max()}, expected 0..{known.n_classes - 1}")
    return _scaled(images[:, None], GREY_LEVELS), labels.astype(np.int64)


def _read_batches(files: tuple[Path, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Batches read one after the other into one array, so that no second copy of the whole is ever in memory."""
    counts = [cifar_records(file) for file in files]
    x = np.empty((sum(counts), 3, 32, 32), np.float32)
    y = np.empty(sum(counts), np.int64)
    end = 0
    for file, count in zip(files, counts):
        start, end = end, end + count
        images, y[start:end] = read_cifar10(file, records=count)
        np.divide(images, GREY_LEVELS, out=x[start:end], dtype=np.float32)
    return x, y


def _scaled(images: np.ndarray, levels: np.float32) -> np.ndarray:
    return np.divide(images, levels, dtype=np.float32)


def _title(known: Info, n_train: int, n_test: int) -> str:
    if (n_train, n_test) == (known.n_train, known.n_test):
        return known.title
    part = f"{n_train:,} of {known.n_train:,} training and {n_test:,} of {known.n_test:,} test images"
    return f"{known.title} (a part: {part})"
