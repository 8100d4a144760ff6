"""Labelled images: the digits, IDX sets (MNIST and its kin), CIFAR-10. Which files, and how they become a Dataset.

Images come as float32 in [0, 1] (bytes over 255; the digits' 0..16 over 16) of shape (N, C, H, W), labels as int64.
CIFAR-10 may be there in part only: the training split is every training batch present, in the order of their numbers,
then a file `data_batch_5_first2500.bin` counts as the batch 5 that it is the beginning of, and the test split is
`test_batch` or its beginning. The `title` of such a set says how much of it there is. Whole, CIFAR-10 takes 0.7 GB of
memory; `subset` gives less.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from refimpl.data.catalogue import Info
from refimpl.data.cifar import read_cifar10
from refimpl.data.dataset import Dataset
from refimpl.data.digits import FOLDER as DIGITS_FOLDER
from refimpl.data.digits import IMAGES as DIGITS_IMAGES
from refimpl.data.digits import LABELS as DIGITS_LABELS
from refimpl.data.digits import N_TRAIN, read_digits
from refimpl.data.errors import DataError
from refimpl.data.folders import Found, first
from refimpl.data.idx import read_idx

__all__ = ["cifar_records", "read", "readers", "search"]

GREY_LEVELS = np.float32(255)
DIGIT_LEVELS = np.float32(16)
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CIFAR_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
CIFAR_TEST = "test_batch"
CIFAR_FOLDERS = ("", "cifar-10-batches-bin", "cifar-10-batches-py")


def search(info: Info, folder: Path) -> Found | str:
    """The files of a set in one folder, or what is missing there. An IDX split is (images, labels); a split of CIFAR-10
    is a row of batches in the order of their numbers."""
    if info.name == "digits":
        files = (DIGITS_FOLDER / DIGITS_IMAGES, DIGITS_FOLDER / DIGITS_LABELS)
        return Found(DIGITS_FOLDER, files, files)
    return _search_cifar(folder) if info.name == "cifar-10" else _search_idx(folder)


def read(known: Info, found: Found) -> Dataset:
    """The data set. Raises DataError with the name of the file when one is damaged."""
    if known.name == "digits":
        images, labels = read_digits()
        x = _scaled(images[:, None], DIGIT_LEVELS)
        x_train, y_train, x_test, y_test = x[:N_TRAIN], labels[:N_TRAIN], x[N_TRAIN:], labels[N_TRAIN:]
    elif known.name == "cifar-10":
        (x_train, y_train), (x_test, y_test) = _read_batches(found.train), _read_batches(found.test)
    else:
        x_train, y_train = _read_idx_pair(known, *found.train)
        x_test, y_test = _read_idx_pair(known, *found.test)
    return Dataset(
        name=known.name,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        n_classes=known.n_classes,
        shape=(known.shape[0], known.shape[1], known.shape[2]),
        title=_title(known, len(x_train), len(x_test)),
        source=known.source,
        licence=known.licence,
    )


def readers(known: Info, found: Found) -> list[tuple[Path, Callable[[], object]]]:
    """Each file with a function that reads it (an image file together with its label file)."""
    if known.name == "digits":
        return [(file, read_digits) for file in found.train]
    if known.name == "cifar-10":
        files = found.train + found.test
        return [(file, partial(read_cifar10, file, records=cifar_records(file))) for file in files]
    return [(file, partial(_read_idx_pair, known, *pair)) for pair in (found.train, found.test) for file in pair]


def _search_idx(folder: Path) -> Found | str:
    """Four files, each plain or in .gz (plain first: it reads faster)."""
    files = [first(folder, name, ("", ".gz")) for name in IDX_FILES]
    missing = [f"{name}.gz" for name, file in zip(IDX_FILES, files) if file is None]
    if missing:
        return f"lacks {', '.join(missing)}"
    whole = tuple(file for file in files if file is not None)
    return Found(folder, whole[:2], whole[2:])


def _search_cifar(folder: Path) -> Found | str:
    """Any of the five training batches and a test batch, in the folder itself or as their archives unpack.

    A batch is binary (plain, .gz or .xz) or of the python version. Where a whole batch is missing, a part of it, named
    `<batch>_first<n>.bin`, stands in.
    """
    lacks = ""
    for sub in CIFAR_FOLDERS:
        place = folder / sub
        if not place.is_dir():
            continue
        train = tuple(batch for name in CIFAR_TRAIN if (batch := _cifar_batch(place, name)) is not None)
        test = _cifar_batch(place, CIFAR_TEST)
        if train and test is not None:
            return Found(folder, train, (test,))
        if train or test is not None or not lacks:
            lacks = f"lacks {'test_batch.bin' if train else 'data_batch_1.bin, ..., data_batch_5.bin'}"
    return lacks


def _cifar_batch(folder: Path, name: str) -> Path | None:
    whole = first(folder, name, (".bin", ".bin.gz", ".bin.xz", ""))
    if whole is not None:
        return whole
    parts = [file for file in folder.glob(f"{name}_first*.bin*") if cifar_records(file) and file.is_file()]
    return max(parts, key=lambda file: (cifar_records(file), file.name), default=None)


_BATCH = re.compile(r"(data_batch_[1-5]|test_batch)(?:(?:_first([1-9]\d{0,3}))?\.bin(?:\.gz|\.xz)?)?")


def cifar_records(file: Path) -> int:
    """How many records a batch must hold by its name: 10,000, or n for `<batch>_first<n>.bin`; 0 for no such name."""
    match = _BATCH.fullmatch(file.name)
    if match is None:
        return 0
    return int(match[2] or 10_000)


def _read_idx_pair(known: Info, images_file: Path, labels_file: Path) -> tuple[np.ndarray, np.ndarray]:
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
