"""Properties of Dataset, its subsets, and batches."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl.data import Dataset, batches, load


def make(n_train: int = 60, n_test: int = 20, n_classes: int = 4, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    return Dataset(
        name="made",
        x_train=rng.random((n_train, 1, 2, 3), dtype=np.float32),
        y_train=rng.integers(0, n_classes, n_train),
        x_test=rng.random((n_test, 1, 2, 3), dtype=np.float32),
        y_test=rng.integers(0, n_classes, n_test),
        n_classes=n_classes,
        shape=(1, 2, 3),
        title="t",
        source="s",
        licence="l",
    )


@given(n=st.integers(1, 300), size=st.integers(1, 320), seed=st.integers(0, 2**32))
def test_batches_bring_every_index_once(n: int, size: int, seed: int) -> None:
    parts = list(batches(n, size, np.random.default_rng(seed)))
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(n))
    assert all(len(part) == size for part in parts[:-1]) and 1 <= len(parts[-1]) <= size


@given(n=st.integers(1, 300), size=st.integers(1, 300), seed=st.integers(0, 2**32))
def test_batches_with_drop_last_are_the_full_batches_of_the_same_epoch(n: int, size: int, seed: int) -> None:
    if n < size:
        with pytest.raises(ValueError, match="leaves no batch"):
            batches(n, size, np.random.default_rng(seed), drop_last=True)
        return
    full = [part for part in batches(n, size, np.random.default_rng(seed)) if len(part) == size]
    dropped = list(batches(n, size, np.random.default_rng(seed), drop_last=True))
    assert len(full) == len(dropped) == n // size
    assert all(np.array_equal(a, b) for a, b in zip(full, dropped))


def test_batches_draw_from_rng_at_the_call_and_afresh_each_epoch() -> None:
    rng, twin = np.random.default_rng(5), np.random.default_rng(5)
    first = batches(50, 7, rng)
    twin.permutation(50)
    assert rng.bit_generator.state == twin.bit_generator.state
    second = batches(50, 7, rng)
    assert not np.array_equal(np.concatenate(list(first)), np.concatenate(list(second)))


@pytest.mark.parametrize(("n", "size"), [(0, 1), (-3, 1), (5, 0), (5, -1)])
def test_batches_reject_nothing_to_do(n: int, size: int) -> None:
    with pytest.raises(ValueError, match="expected at least 1"):
        batches(n, size, np.random.default_rng(0))


@given(st.data())
def test_subset_is_stratified_to_less_than_one_image_a_class(data: st.DataObject) -> None:
    full = make(n_train=data.draw(st.integers(1, 120)), n_classes=data.draw(st.integers(1, 6)), seed=3)
    total = len(full.y_train)
    n = data.draw(st.integers(1, total))
    part = full.subset(n, 5, seed=data.draw(st.integers(0, 9)))
    exact = n * np.bincount(full.y_train, minlength=full.n_classes) / total
    drawn = np.bincount(part.y_train, minlength=full.n_classes)
    assert drawn.sum() == n == len(part.x_train)
    assert np.all(np.abs(drawn - exact) < 1)


def test_subset_takes_each_image_with_its_label_and_at_most_once() -> None:
    full = make()
    part = full.subset(40, 15, seed=1)
    for x_all, y_all, x, y in (
        (full.x_train, full.y_train, part.x_train, part.y_train),
        (full.x_test, full.y_test, part.x_test, part.y_test),
    ):
        known = {image.tobytes(): label for image, label in zip(x_all, y_all)}
        assert [known[image.tobytes()] for image in x] == list(y)
        assert len({image.tobytes() for image in x}) == len(x)


def test_subset_depends_on_the_seed_alone_and_test_images_not_on_n_train() -> None:
    full = make()
    a, b, c = full.subset(30, 10, seed=7), full.subset(20, 10, seed=7), full.subset(30, 10, seed=8)
    assert np.array_equal(a.x_train, full.subset(30, 10, seed=7).x_train)
    assert np.array_equal(a.x_test, b.x_test)
    assert not np.array_equal(a.x_train, c.x_train)


def test_subset_of_none_keeps_a_split_as_it_is() -> None:
    full = make()
    part = full.subset(n_test=3)
    assert np.array_equal(part.x_train, full.x_train) and len(part.x_test) == 3


@pytest.mark.parametrize("n", [0, -1, 61])
def test_subset_rejects_sizes_that_are_not_there(n: int) -> None:
    with pytest.raises(ValueError, match=rf"made: n_train is {n}, expected 1\.\.60"):
        make().subset(n, 5)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"x_train": np.zeros((3, 1, 2, 4), np.float32)}, r"x_train has shape \(3, 1, 2, 4\), expected \(N, 1, 2, 3\)"),
        ({"x_train": np.zeros((60, 1, 2, 3))}, "x_train is float64, expected float32"),
        ({"x_test": np.zeros((0, 1, 2, 3), np.float32)}, "x_test is empty"),
        ({"x_test": np.full((20, 1, 2, 3), 1.5, np.float32)}, "expected 0 to 1"),
        ({"x_test": np.full((20, 1, 2, 3), np.nan, np.float32)}, "expected 0 to 1"),
        ({"y_test": np.zeros(19, np.int64)}, r"expected int64 of shape \(20,\)"),
        ({"y_test": np.zeros(20, np.int32)}, "y_test is int32"),
        ({"y_test": np.full(20, 4)}, r"labels 4\.\.4, expected 0\.\.3"),
        ({"y_test": np.full(20, -1)}, r"labels -1\.\.-1, expected 0\.\.3"),
        ({"n_classes": 0}, "n_classes is 0"),
    ],
)
def test_dataset_rejects_what_is_no_labelled_image_set(changes: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        dataclasses.replace(make(), **changes)


def test_dataset_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().name = "other"  # type: ignore[misc]


def test_embedded_digits_subset_holds_every_class_equally() -> None:
    part = load("digits").subset(200, 100, seed=0)
    assert set(np.bincount(part.y_train)) <= {19, 20, 21} and set(np.bincount(part.y_test)) <= {9, 10, 11}
