"""What a data set of any kind offers to the lab, a labelled image set in memory, and the order of an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

__all__ = ["Data", "Dataset", "batches"]


class Data(Protocol):
    """A data set of any kind (images, events, text, a graph), as the lab sees it.

    A learner that fits this kind of data is trained by `learner.begin(*data.train)` and judged by
    `learner.score(*data.test)`. `sizes` says in a few words how much there is; `arrays()` holds all that the results
    depend on; `quick(seed)` is a small part for trying things out.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def train(self) -> tuple[Any, ...]: ...
    @property
    def test(self) -> tuple[Any, ...]: ...
    @property
    def sizes(self) -> str: ...
    def arrays(self) -> Mapping[str, np.ndarray]: ...
    def quick(self, seed: int) -> Data: ...


QUICK_TRAIN, QUICK_TEST = 400, 200


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test images with their labels.

    Shapes: x_train (N, C, H, W) float32 in [0, 1], y_train (N,) int64 in [0, K), the same for x_test and y_test.

    Fields: `name` as in `refimpl.data.names()`; `n_classes` K; `shape` (C, H, W); `title` says in words what this is,
    also when it is only a part of the published set; `source` says who made it, `licence` under which terms.

    Raises ValueError at construction when shapes, dtypes or values are not as above, or a split is empty.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    n_classes: int
    shape: tuple[int, int, int]
    title: str
    source: str
    licence: str

    def __post_init__(self) -> None:
        if self.n_classes < 1:
            raise ValueError(f"{self.name}: n_classes is {self.n_classes}, expected at least 1")
        _check_split(self.name, "train", self.x_train, self.y_train, tuple(self.shape), self.n_classes)
        _check_split(self.name, "test", self.x_test, self.y_test, tuple(self.shape), self.n_classes)

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}, {len(self.x_train)} train + {len(self.x_test)} test, "
            f"shape {self.shape}, {self.n_classes} classes)"
        )

    @property
    def train(self) -> tuple[np.ndarray, np.ndarray]:
        """Training images and labels: the arguments of `fit`."""
        return self.x_train, self.y_train

    @property
    def test(self) -> tuple[np.ndarray, np.ndarray]:
        """Test images and labels: the arguments of `score`."""
        return self.x_test, self.y_test

    @property
    def sizes(self) -> str:
        """How many images there are, in words."""
        return f"{len(self.x_train):,} training, {len(self.x_test):,} test images"

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name."""
        return {"x_train": self.x_train, "y_train": self.y_train, "x_test": self.x_test, "y_test": self.y_test}

    def quick(self, seed: int) -> Dataset:
        """At most 400 training and 200 test images."""
        return self.subset(min(QUICK_TRAIN, len(self.x_train)), min(QUICK_TEST, len(self.x_test)), seed)

    def subset(self, n_train: int | None = None, n_test: int | None = None, seed: int = 0) -> Dataset:
        """A smaller set, drawn without replacement and stratified by class; None keeps the whole split.

        Class k with N_k of the N images gets n N_k / N of the n drawn, rounded by largest remainder (ties to the
        lower class), so no class is off by one image or more. Within a class the images are drawn at random; the
        result is in random order, so its first rows are no single class. The same seed gives the same images.
        Train and test are drawn from separate random streams: changing `n_train` does not change the test images.

        Raises ValueError for a size below 1 or above what is there.
        """
        train_rng, test_rng = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
        train = _stratified(self.y_train, n_train, self.n_classes, train_rng, f"{self.name}: n_train")
        test = _stratified(self.y_test, n_test, self.n_classes, test_rng, f"{self.name}: n_test")
        return replace(
            self,
            x_train=self.x_train[train],
            y_train=self.y_train[train],
            x_test=self.x_test[test],
            y_test=self.y_test[test],
        )


def batches(n: int, batch_size: int, rng: np.random.Generator, drop_last: bool = False) -> Iterator[np.ndarray]:
    """One epoch: a fresh permutation of 0..n-1, cut into index arrays of `batch_size` (the last one may be shorter).

    Every index comes exactly once; with `drop_last` a shorter last batch is left out. The permutation is drawn when
    `batches` is called, not at the first step of the loop, so the state of `rng` afterwards does not depend on how
    far the loop ran.

    Raises ValueError for n < 1, batch_size < 1, or a `drop_last` that would leave no batch at all.
    """
    if n < 1:
        raise ValueError(f"batches: n is {n}, expected at least 1 sample")
    if batch_size < 1:
        raise ValueError(f"batches: batch_size is {batch_size}, expected at least 1")
    if drop_last and n < batch_size:
        raise ValueError(f"batches: drop_last with {n} samples and batch_size {batch_size} leaves no batch")
    order = rng.permutation(n)
    end = n - n % batch_size if drop_last else n
    return (order[i : i + batch_size] for i in range(0, end, batch_size))


def _check_split(name: str, split: str, x: np.ndarray, y: np.ndarray, shape: tuple[int, ...], n_classes: int) -> None:
    where = f"{name}: x_{split}"
    if x.ndim != 4 or x.shape[1:] != shape:
        raise ValueError(f"{where} has shape {x.shape}, expected (N, {', '.join(map(str, shape))})")
    if x.dtype != np.float32:
        raise ValueError(f"{where} is {x.dtype}, expected float32")
    if len(x) == 0:
        raise ValueError(f"{where} is empty, expected at least 1 image")
    if y.shape != (len(x),) or y.dtype != np.int64:
        raise ValueError(f"{name}: y_{split} is {y.dtype} of shape {y.shape}, expected int64 of shape ({len(x)},)")
    low, high = x.min(), x.max()
    if not (low >= 0 and high <= 1):  # written so that NaN fails too
        raise ValueError(f"{where} has values from {low} to {high}, expected 0 to 1")
    if y.min() < 0 or y.max() >= n_classes:
        raise ValueError(f"{name}: y_{split} has labels {y.min()}..{y.max()}, expected 0..{n_classes - 1}")


def _stratified(
    y: np.ndarray, n: int | None, n_classes: int, rng: np.random.Generator, what: str
) -> np.ndarray | slice:
    if n is None:
        return slice(None)
    if not 1 <= n <= len(y):
        raise ValueError(f"{what} is {n}, expected 1..{len(y)}")
    # Quotas in whole numbers: n N_k = quota_k N + rest_k.
    quota, rest = np.divmod(n * np.bincount(y, minlength=n_classes), len(y))
    quota[np.argsort(-rest, kind="stable")[: n - quota.sum()]] += 1
    drawn = [rng.permutation(np.flatnonzero(y == k))[: quota[k]] for k in range(n_classes)]
    return rng.permutation(np.concatenate(drawn))
