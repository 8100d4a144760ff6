"""The real sets, where REFIMPL_DATA holds them: counts, checksums, and statistics known from elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import refimpl.data as data


@pytest.mark.parametrize(("name", "mean", "std"), [("mnist", 0.1307, 0.3081), ("fashion-mnist", 0.2860, 0.3530)])
def test_real_grey_set_is_the_published_one(name: str, mean: float, std: float, real_root: Callable) -> None:
    root = real_root(name)
    found = data.load(name, root=root)
    assert found.x_train.shape == (60_000, 1, 28, 28) and found.x_test.shape == (10_000, 1, 28, 28)
    assert found.title == data.info(name).title
    assert abs(found.x_train.mean(dtype=np.float64) - mean) < 5e-5
    assert abs(found.x_train.std(dtype=np.float64) - std) < 5e-5
    checks = data.verify(name, root=root)
    assert [check.message for check in checks] == ["format and checksum right"] * 4
    for published in data.info(name).downloads:  # where the files are still packed as published, sizes agree
        file = root / name / published.name
        if file.exists():
            assert file.stat().st_size == published.size


def test_real_mnist_has_the_known_class_counts(real_root: Callable) -> None:
    labels = data.read_idx(real_root("mnist") / "mnist" / "train-labels-idx1-ubyte.gz", dims=1)
    assert np.bincount(labels).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


def test_real_cifar_is_the_published_one(real_root: Callable) -> None:
    root = real_root("cifar-10")
    found = data.load("cifar-10", root=root)
    assert found.x_train.shape[1:] == (3, 32, 32) and len(found.x_train) >= 10_000
    assert found.y_train[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]  # a frog, a truck, a truck, a deer, ...
    counts = np.bincount(found.y_train[:10_000]).tolist()
    assert counts == [1005, 974, 1032, 1016, 999, 937, 1030, 1001, 1025, 981]  # data_batch_1
    known = np.array([0.4914, 0.4822, 0.4465])  # means over all 50,000 training images
    part = found.x_train[:20_000].mean(axis=(0, 2, 3), dtype=np.float64)
    spread = found.x_train[:2_000].mean(axis=(2, 3)).std(axis=0) / np.sqrt(20_000)
    assert np.all(np.abs(part - known) < 5 * spread)


def test_real_cifar_test_part_verifies(real_root: Callable) -> None:
    folder = real_root("cifar-10") / "cifar-10"
    part = folder / "test_batch_first1000.bin.xz"
    if not part.exists():
        pytest.skip("this copy of CIFAR-10 is another")
    images, labels = data.read_cifar10(part, records=1000)
    assert images.shape == (1000, 3, 32, 32)
    assert np.bincount(labels).tolist() == [103, 89, 100, 103, 90, 86, 112, 102, 106, 109]
