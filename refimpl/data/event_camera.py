"""Recordings of an event camera: N-MNIST in the form of SLAYER's example, `NMNISTsmall.tar.xz`.

The camera reports changes of brightness, each as an event: pixel (x, y), polarity (brighter or darker), time. A .bs2
file holds a recording as 5 bytes an event: x, y, then 24 bits of which the first is the polarity and the rest the time
in microseconds, big-endian. train1K.txt and test100.txt list "sample class".

As frames: the recording is cut into T slices of equal duration, and the events of each polarity and pixel counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from refimpl.data.catalogue import Info
from refimpl.data.errors import DataError
from refimpl.data.folders import Found, first
from refimpl.data.sequences import Sequences, tar_members

__all__ = ["EventRecordings", "read", "read_bs2", "read_n_mnist", "readers", "search"]

SIDE = 34
STEPS = 10
DURATION = 300_000  # microseconds of a recording: three saccades of 100 ms
LIMIT = 256 << 20
ARCHIVE = "NMNISTsmall.tar"
LISTS = {"train": "train1K.txt", "test": "test100.txt"}


@dataclass(frozen=True, eq=False)
class EventRecordings:
    """Events of n recordings one after the other, recording i at start[i] .. start[i + 1] - 1, and their labels.

    x, y (pixels), polarity (0 or 1) uint8 and time int32 (microseconds), all of one length; labels (n,) int64.
    """

    x: np.ndarray
    y: np.ndarray
    polarity: np.ndarray
    time: np.ndarray
    start: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def frames(self, T: int = STEPS, duration: int = DURATION) -> np.ndarray:
        """Counts (n, T, 2, 34, 34) float32 in T slices of `duration` / T microseconds; what is later than `duration`
        belongs to the last slice. Raises ValueError for T < 1 or duration < 1."""
        if T < 1 or duration < 1:
            raise ValueError(f"frames: T is {T} and duration {duration}, expected at least 1")
        n = len(self)
        sample = np.repeat(np.arange(n), np.diff(self.start))
        step = np.minimum(self.time.astype(np.int64) * T // duration, T - 1)
        cell = (((sample * T + step) * 2 + self.polarity) * SIDE + self.y) * SIDE + self.x
        counts = np.bincount(cell, minlength=n * T * 2 * SIDE * SIDE)
        return counts.reshape(n, T, 2, SIDE, SIDE).astype(np.float32)


def read_bs2(data: bytes, what: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, y, polarity, time of one recording. Raises DataError, naming `what`, for a length that is no multiple of 5, a
    pixel outside the camera or times that run backwards."""
    if len(data) % 5:
        raise DataError(f"{what}: {len(data)} bytes, expected a multiple of 5")
    a = np.frombuffer(data, np.uint8).reshape(-1, 5)
    x, y, polarity = a[:, 0], a[:, 1], a[:, 2] >> 7
    time = (a[:, 2] & 0x7F).astype(np.int32) << 16 | a[:, 3].astype(np.int32) << 8 | a[:, 4]
    if len(a) and max(x.max(), y.max()) >= SIDE:
        raise DataError(f"{what}: an event at pixel {max(x.max(), y.max())}, expected 0..{SIDE - 1}")
    if (np.diff(time) < 0).any():
        raise DataError(f"{what}: times run backwards")
    return x, y, polarity, time


def read_n_mnist(path: Path) -> dict[str, EventRecordings]:
    """The recordings of both splits, "train" and "test", in the order of their lists. Raises DataError for a damaged
    archive, a list or recording that is missing, or a class that is not 0..9."""
    files = {Path(name).name: content for name, content in tar_members(path, LIMIT)}
    found = {}
    for split, name in LISTS.items():
        if name not in files:
            raise DataError(f"{path}: lacks {name}")
        pairs = re.findall(rb"^[ \t]*(\d+)[ \t]+(\d+)[ \t\r]*$", files[name], flags=re.MULTILINE)
        if not pairs:
            raise DataError(f"{path}: {name} lists no samples")
        recordings, labels = [], np.array([int(label) for _, label in pairs], np.int64)
        if labels.max() > 9:
            raise DataError(f"{path}: {name} has class {labels.max()}, expected 0..9")
        for sample, _ in pairs:
            file = f"{int(sample)}.bs2"
            if file not in files:
                raise DataError(f"{path}: lacks {file}, which {name} lists")
            recordings.append(read_bs2(files[file], f"{path}: {file}"))
        start = np.concatenate([[0], np.cumsum([len(r[0]) for r in recordings])])
        x, y, polarity, time = (np.concatenate(part) for part in zip(*recordings))
        found[split] = EventRecordings(x, y, polarity, time, start, labels)
    return found


def search(info: Info, folder: Path) -> Found | str:
    """The archive in one folder, or what is missing there."""
    file = first(folder, ARCHIVE, (".xz", ".gz", ""))
    return f"lacks {ARCHIVE}.xz" if file is None else Found(folder, (file,), (file,))


def read(known: Info, found: Found) -> Sequences:
    """The set as counts of events in 10 frames of 30 ms."""
    parts = read_n_mnist(found.train[0])
    return Sequences(
        name=known.name,
        x_train=parts["train"].frames(),
        y_train=parts["train"].labels,
        x_test=parts["test"].frames(),
        y_test=parts["test"].labels,
        n_classes=known.n_classes,
        title=known.title,
        source=known.source,
        licence=known.licence,
    )


def readers(known: Info, found: Found) -> list[tuple[Path, Callable[[], object]]]:
    """The archive with the function that reads it."""
    return [(found.train[0], partial(read_n_mnist, found.train[0]))]
