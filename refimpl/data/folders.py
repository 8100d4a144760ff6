"""Where data lives: the folders that are searched, and which files in them make up a data set.

A set is looked for in `<root>/<name>/`, under its original file names, in the first of these roots that holds it whole:

1. the `root` given in the call;
2. the folder named by the environment variable `REFIMPL_DATA`;
3. the user's cache, where `fetch` puts its downloads: `data` in the folder named by `REFIMPL_CACHE`, or else in the
   cache folder of the platform (`~/.cache/refimpl`, `~/Library/Caches/refimpl`, `%LOCALAPPDATA%\\refimpl\\Cache`).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from refimpl._disk import cache_folder
from refimpl.data.catalogue import Info, spec
from refimpl.data.digits import FOLDER as DIGITS_FOLDER
from refimpl.data.digits import IMAGES as DIGITS_IMAGES
from refimpl.data.digits import LABELS as DIGITS_LABELS
from refimpl.data.errors import DataNotFound

__all__ = ["Found", "cache", "cifar_records", "locate", "roots", "search"]

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CIFAR_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
CIFAR_TEST = "test_batch"
CIFAR_FOLDERS = ("", "cifar-10-batches-bin", "cifar-10-batches-py")


@dataclass(frozen=True)
class Found:
    """A data set on the disk: its folder, and the files of the two splits.

    For IDX sets a split is (images, labels); for CIFAR-10 it is a row of batches in the order of their numbers.
    """

    folder: Path
    train: tuple[Path, ...]
    test: tuple[Path, ...]


def cache() -> Path:
    """The folder for downloads. It need not exist yet."""
    return Path(cache_folder()) / "data"


def roots(root: str | os.PathLike[str] | None = None) -> list[tuple[str, Path]]:
    """The roots that are searched, in order, each with a word on why."""
    found = [("given root", Path(root).expanduser())] if root is not None else []
    if given := os.environ.get("REFIMPL_DATA"):
        found.append(("REFIMPL_DATA", Path(given).expanduser()))
    found.append(("cache", cache()))
    return found


def locate(name: str, root: str | os.PathLike[str] | None = None) -> Found:
    """The first whole copy of a data set. The embedded digits are always found, whatever `root` is.

    Raises ValueError for an unknown name; DataNotFound, with each folder searched and what it lacks, when no copy is
    whole.
    """
    info = spec(name)
    if name == "digits":
        files = (DIGITS_FOLDER / DIGITS_IMAGES, DIGITS_FOLDER / DIGITS_LABELS)
        return Found(DIGITS_FOLDER, files, files)
    report = []
    for why, base in roots(root):
        folder = base / name
        found = search(info, folder)
        if isinstance(found, Found):
            return found
        report.append(f"  {folder} ({why}): {found}")
    raise DataNotFound(
        f"{name}: not found. Searched:\n" + "\n".join(report) + f"\nTo download it: refimpl data fetch {name}"
    )


def search(info: Info, folder: Path) -> Found | str:
    """The files of a set in one folder, or, where the set is not whole there, a sentence on what is missing."""
    if not folder.is_dir():
        return "no such folder"
    return _search_cifar(folder) if info.name == "cifar-10" else _search_idx(folder)


def _search_idx(folder: Path) -> Found | str:
    """Four files, each plain or in .gz (plain first: it reads faster)."""
    files = [_first(folder, name, ("", ".gz")) for name in IDX_FILES]
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
    whole = _first(folder, name, (".bin", ".bin.gz", ".bin.xz", ""))
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


def _first(folder: Path, name: str, endings: tuple[str, ...]) -> Path | None:
    return next((file for end in endings if (file := folder / (name + end)).is_file()), None)
