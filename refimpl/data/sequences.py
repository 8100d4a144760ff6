"""A labelled set of sequences in memory: T frames a sample, of events from a camera or an ear."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from refimpl.data.dataset import QUICK_TEST, QUICK_TRAIN, _stratified
from refimpl.data.errors import DataError
from refimpl.data.files import take_all

__all__ = ["Sequences", "tar_members"]


@dataclass(frozen=True, eq=False)
class Sequences:
    """Training and test sequences with their labels.

    Shapes: x_train (N, T, ...) float32, y_train (N,) int64 in [0, K), the same for x_test and y_test. The other fields
    are as in `Dataset`. Raises ValueError where they are not so, or a split is empty.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    n_classes: int
    title: str
    source: str
    licence: str

    def __post_init__(self) -> None:
        for split, x, y in (("train", *self.train), ("test", *self.test)):
            if x.ndim < 3 or x.dtype != np.float32 or len(x) == 0:
                given = f"{x.dtype} of shape {x.shape}"
                raise ValueError(f"{self.name}: x_{split} is {given}, expected float32 (N, T, ...), N at least 1")
            if x.shape[1:] != self.shape:
                raise ValueError(f"{self.name}: x_{split} has shape {x.shape}, expected (N, *{self.shape})")
            if not np.isfinite(x).all():
                raise ValueError(f"{self.name}: x_{split} holds numbers that are not finite")
            if y.shape != (len(x),) or y.dtype != np.int64:
                raise ValueError(f"{self.name}: y_{split} is {y.dtype} of shape {y.shape}, expected int64 ({len(x)},)")
            if y.min() < 0 or y.max() >= self.n_classes:
                raise ValueError(f"{self.name}: y_{split} has labels {y.min()}..{y.max()}, expected 0..K-1")

    def __repr__(self) -> str:
        counts = f"{len(self.x_train)} train + {len(self.x_test)} test"
        return f"Sequences({self.name!r}, {counts}, shape {self.shape}, {self.n_classes} classes)"

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, ...) of one sample."""
        return self.x_train.shape[1:]

    @property
    def T(self) -> int:
        """Frames of a sample."""
        return self.x_train.shape[1]

    @property
    def train(self) -> tuple[np.ndarray, np.ndarray]:
        """Training sequences and labels: the arguments of `fit`."""
        return self.x_train, self.y_train

    @property
    def test(self) -> tuple[np.ndarray, np.ndarray]:
        """Test sequences and labels: the arguments of `score`."""
        return self.x_test, self.y_test

    @property
    def sizes(self) -> str:
        """How many sequences there are, in words."""
        return f"{len(self.x_train):,} training, {len(self.x_test):,} test sequences of {self.T} frames"

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name."""
        return {"x_train": self.x_train, "y_train": self.y_train, "x_test": self.x_test, "y_test": self.y_test}

    def subset(self, n_train: int | None = None, n_test: int | None = None, seed: int = 0) -> Sequences:
        """A smaller set, drawn without replacement and stratified by class, as Dataset.subset; None keeps a split."""
        rngs = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
        train = _stratified(self.y_train, n_train, self.n_classes, next(rngs), f"{self.name}: n_train")
        test = _stratified(self.y_test, n_test, self.n_classes, next(rngs), f"{self.name}: n_test")
        x, y = (self.x_train[train], self.y_train[train]), (self.x_test[test], self.y_test[test])
        return replace(self, x_train=x[0], y_train=x[1], x_test=y[0], y_test=y[1])

    def quick(self, seed: int) -> Sequences:
        """At most 400 training and 200 test sequences."""
        return self.subset(min(QUICK_TRAIN, len(self.x_train)), min(QUICK_TEST, len(self.x_test)), seed)


def tar_members(path: Path, limit: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of every regular file in a tar archive (plain, .gz or .xz), in its order; nothing is written to
    the disk. Raises DataError when the archive is damaged or unpacks to more than `limit` bytes."""
    packed = take_all(path, limit)
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as archive:
            for member in archive:
                if member.isreg():
                    stream = archive.extractfile(member)
                    assert stream is not None
                    yield member.name, stream.read()
    except tarfile.TarError as error:
        raise DataError(f"{path}: not a tar archive: {error}") from error
