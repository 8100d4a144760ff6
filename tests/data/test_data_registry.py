"""Properties of loading by name: where sets are looked for, what a set must hold, what is said when it is not there."""

from __future__ import annotations

import gzip
import lzma
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import refimpl.data as data
from refimpl.data import DataError, DataNotFound, write_idx
from refimpl.data.folders import cache
from refimpl.data.images import cifar_records

IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def fill_idx(root: Path, name: str = "mnist", n: int = 6, end: str = ".gz", seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    folder = root / name
    folder.mkdir(parents=True)
    for split in ("train", "t10k"):
        write_idx(folder / f"{split}-images-idx3-ubyte{end}", rng.integers(0, 256, (n, 28, 28), dtype=np.uint8))
        write_idx(folder / f"{split}-labels-idx1-ubyte{end}", rng.integers(0, 10, n, dtype=np.uint8))
    return folder


def batch(n: int, seed: int) -> bytes:
    table = np.random.default_rng(seed).integers(0, 256, (n, 3073), dtype=np.uint8)
    table[:, 0] %= 10
    return table.tobytes()


def test_every_name_has_its_facts() -> None:
    assert data.names("images") == ["digits", "mnist", "fashion-mnist", "cifar-10"]
    assert {"coriolanus", "tinyshakespeare"} <= set(data.names("text")) <= set(data.names())
    for name in data.names():
        info = data.info(name)
        assert info.name == name and info.title and info.source and info.licence and info.what
        if info.kind == "images":
            assert len(info.classes) == info.n_classes == 10 and len(info.shape) == 3
        for file in (*info.downloads, *info.members):
            assert file.size > 0
            if file.checksum is not None:
                kind, _, value = file.checksum.partition(":")
                assert len(value) == {"sha256": 64, "md5": 32}[kind]
                int(value, 16)


@pytest.mark.parametrize("call", [data.load, data.info, data.path, data.verify, data.fetch])
def test_unknown_name_lists_the_known_ones(call: Callable) -> None:
    with pytest.raises(ValueError, match="unknown data set 'minst', expected one of digits, mnist, fashion"):
        call("minst")


def test_digits_load_without_any_folder_and_equal_their_origin() -> None:
    digits = data.load("digits")
    assert digits.x_train.shape == (1415, 1, 8, 8) and digits.x_test.shape == (382, 1, 8, 8)
    assert digits.title == data.info("digits").title
    images = np.concatenate([digits.x_train, digits.x_test])[:, 0]
    labels = np.concatenate([digits.y_train, digits.y_test])
    assert np.array_equal(images * 16, np.round(images * 16)) and images.max() == 1
    origin = pytest.importorskip("sklearn.datasets").load_digits()
    assert np.array_equal(images * 16, origin.images) and np.array_equal(labels, origin.target)


def test_digits_split_cuts_no_form() -> None:
    """What `refimpl.data.digits` says of forms: labels begin anew at these rows; the split is at one."""
    digits = data.load("digits")
    labels = "".join(map(str, np.concatenate([digits.y_train, digits.y_test])))
    starts = [0, 130, 256, 386, 516, 646, 776, 906, 1029, 1157, 1287, 1415, 1545, 1667]
    for start in starts:
        assert labels[start:].startswith("123456789" if start == 906 else "0123456789")
    changed = 0
    for start, end in zip(starts, [*starts[1:], len(labels)]):
        form = iter(labels[:130])
        changed += not all(label in form for label in labels[start:end])
    assert changed == 1
    assert len(digits.y_train) in starts


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_set_loads_plain_or_packed(end: str, tmp_path: Path) -> None:
    folder = fill_idx(tmp_path, end=end)
    mnist = data.load("mnist", root=tmp_path)
    raw = data.read_idx(folder / f"train-images-idx3-ubyte{end}")
    assert mnist.x_train.dtype == np.float32
    assert np.array_equal(mnist.x_train[:, 0], raw.astype(np.float32) / np.float32(255))
    assert mnist.title.endswith("(a part: 6 of 60,000 training and 6 of 10,000 test images)")
    assert data.path("mnist", root=tmp_path) == folder


def test_search_goes_from_root_to_variable_to_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, variable, cached = tmp_path / "given", tmp_path / "variable", tmp_path / "cached"
    monkeypatch.setenv("REFIMPL_DATA", str(variable))
    monkeypatch.setenv("REFIMPL_CACHE", str(cached))
    fill_idx(cached / "data")
    assert data.path("mnist", root=given) == cached / "data" / "mnist"
    fill_idx(variable)
    assert data.path("mnist", root=given) == variable / "mnist"
    fill_idx(given)
    assert data.path("mnist", root=given) == given / "mnist"
    assert data.path("mnist") == variable / "mnist"


def test_a_copy_that_is_not_whole_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fill_idx(tmp_path / "half") / f"{IDX[3]}.gz").unlink()
    fill_idx(tmp_path / "whole")
    monkeypatch.setenv("REFIMPL_DATA", str(tmp_path / "whole"))
    assert data.path("mnist", root=tmp_path / "half") == tmp_path / "whole" / "mnist"


def test_not_found_says_where_it_looked_what_lacks_and_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fill_idx(tmp_path) / f"{IDX[3]}.gz").unlink()
    monkeypatch.setenv("REFIMPL_DATA", str(tmp_path / "empty"))
    with pytest.raises(DataNotFound) as caught:
        data.load("mnist", root=tmp_path)
    said = str(caught.value)
    assert f"{tmp_path / 'mnist'} (given root): lacks t10k-labels-idx1-ubyte.gz" in said
    assert f"{tmp_path / 'empty' / 'mnist'} (REFIMPL_DATA): no such folder" in said
    assert f"{cache() / 'mnist'} (cache): no such folder" in said
    assert "refimpl data fetch mnist" in said
    assert isinstance(caught.value, DataError) and isinstance(caught.value, FileNotFoundError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == said  # as a worker process hands it back


def test_cache_follows_the_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFIMPL_CACHE", str(tmp_path))
    assert cache() == tmp_path / "data"
    monkeypatch.setenv("REFIMPL_CACHE", "")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache() == tmp_path / "xdg" / "refimpl" / "data"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache() == Path.home() / "Library" / "Caches" / "refimpl" / "data"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache() == tmp_path / "local" / "refimpl" / "Cache" / "data"


def damage_count(folder: Path) -> None:
    write_idx(folder / f"{IDX[1]}.gz", np.zeros(5, np.uint8))


def damage_label(folder: Path) -> None:
    write_idx(folder / f"{IDX[1]}.gz", np.full(6, 10, np.uint8))


def damage_swap(folder: Path) -> None:
    os.replace(folder / f"{IDX[1]}.gz", folder / f"{IDX[0]}.gz")
    write_idx(folder / f"{IDX[1]}.gz", np.zeros(6, np.uint8))


def damage_size(folder: Path) -> None:
    write_idx(folder / f"{IDX[0]}.gz", np.zeros((6, 27, 28), np.uint8))


def damage_empty(folder: Path) -> None:
    write_idx(folder / f"{IDX[0]}.gz", np.zeros((0, 28, 28), np.uint8))
    write_idx(folder / f"{IDX[1]}.gz", np.zeros(0, np.uint8))


def damage_packing(folder: Path) -> None:
    (folder / f"{IDX[0]}.gz").write_bytes(b"not gzip")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (damage_count, "6 images, but train-labels-idx1-ubyte.gz has 5 labels"),
        (damage_label, r"train-labels-idx1-ubyte.gz: label 10, expected 0\.\.9"),
        (damage_swap, r"train-images-idx3-ubyte.gz: 1 dimensions \(6,\), expected 3 \(is this a label file\?\)"),
        (damage_size, r"train-images-idx3-ubyte.gz: images of \(27, 28\) pixels, expected \(28, 28\)"),
        (damage_empty, "train-images-idx3-ubyte.gz: no images"),
        (damage_packing, r"train-images-idx3-ubyte.gz: damaged or not a \.gz file"),
    ],
)
def test_damaged_idx_set_is_refused_by_load_and_told_by_verify(damage: Callable, said: str, tmp_path: Path) -> None:
    damage(fill_idx(tmp_path))
    with pytest.raises(DataError, match=said):
        data.load("mnist", root=tmp_path)
    checks = data.verify("mnist", root=tmp_path)
    assert [check.ok for check in checks] == [False] * 4  # the other pair is sound, but it is not MNIST
    with pytest.raises(DataError, match=said):
        raise DataError(checks[0].message)


@pytest.mark.parametrize("sub", ["", "cifar-10-batches-bin"])
@pytest.mark.parametrize("kind", ["", ".gz", ".xz"])
def test_cifar_set_of_parts_loads_in_the_order_of_its_batches(sub: str, kind: str, tmp_path: Path) -> None:
    pack = {"": bytes, ".gz": gzip.compress, ".xz": lambda b: lzma.compress(b, preset=0)}[kind]
    folder = tmp_path / "cifar-10" / sub
    folder.mkdir(parents=True)
    parts = {
        "data_batch_2_first3.bin": batch(3, 2),
        "data_batch_5_first2.bin": batch(2, 5),
        "test_batch_first4.bin": batch(4, 9),
    }
    for name, content in parts.items():
        (folder / (name + kind)).write_bytes(pack(content))
    cifar = data.load("cifar-10", root=tmp_path)
    table = np.frombuffer(parts["data_batch_2_first3.bin"] + parts["data_batch_5_first2.bin"], np.uint8).reshape(
        -1, 3073
    )
    assert np.array_equal(cifar.y_train, table[:, 0])
    assert np.array_equal(cifar.x_train.reshape(5, -1), table[:, 1:].astype(np.float32) / np.float32(255))
    assert cifar.x_test.shape == (4, 3, 32, 32)
    assert "a part: 5 of 50,000 training and 4 of 10,000 test images" in cifar.title


def test_cifar_part_must_hold_what_its_name_says(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10"
    folder.mkdir()
    (folder / "data_batch_1_first3.bin").write_bytes(batch(2, 0))
    (folder / "test_batch_first1.bin").write_bytes(batch(1, 0))
    with pytest.raises(DataError, match=r"data_batch_1_first3.bin: 2 records, expected 3"):
        data.load("cifar-10", root=tmp_path)


def test_cifar_whole_batch_goes_before_its_part_and_plain_before_packed(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10"
    folder.mkdir()
    for name in ("data_batch_1.bin", "data_batch_1.bin.xz", "data_batch_1", "data_batch_1_first9.bin", "test_batch"):
        (folder / name).write_bytes(b"")
    for name in ("data_batch_4_first9.bin", "data_batch_4_first10.bin", "data_batch_6.bin", "data_batch_3_firstx.bin"):
        (folder / name).write_bytes(b"")
    from refimpl.data.folders import locate

    found = locate("cifar-10", tmp_path)
    assert [file.name for file in found.train] == ["data_batch_1.bin", "data_batch_4_first10.bin"]
    assert [file.name for file in found.test] == ["test_batch"]


def test_cifar_without_test_or_training_batches_is_not_found(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10"
    folder.mkdir()
    with pytest.raises(DataNotFound, match=r"lacks data_batch_1.bin, ..., data_batch_5.bin"):
        data.load("cifar-10", root=tmp_path)
    (folder / "data_batch_1_first1.bin").write_bytes(batch(1, 0))
    with pytest.raises(DataNotFound, match=r"lacks test_batch.bin"):
        data.load("cifar-10", root=tmp_path)


@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("data_batch_1.bin", 10_000),
        ("data_batch_5.bin.xz", 10_000),
        ("test_batch", 10_000),
        ("data_batch_5_first2500.bin.xz", 2500),
        ("test_batch_first1.bin", 1),
        ("data_batch_6.bin", 0),
        ("data_batch_1_first0.bin", 0),
        ("data_batch_1_first5", 0),
        ("data_batch_1.bin.zip", 0),
    ],
)
def test_cifar_records_are_told_by_the_name(name: str, n: int) -> None:
    assert cifar_records(Path("somewhere") / name) == n


def test_verify_of_the_embedded_digits_is_clean() -> None:
    assert [(check.file.name, check.ok) for check in data.verify("digits")] == [
        ("digits-images-idx3-ubyte.gz", True),
        ("digits-labels-idx1-ubyte.gz", True),
    ]


def test_verify_tells_a_well_formed_file_with_other_content(tmp_path: Path) -> None:
    fill_idx(tmp_path)
    for check in data.verify("mnist", root=tmp_path):
        assert not check.ok and "checksum of the content is sha256:" in check.message


def test_verify_says_when_no_checksum_is_known(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10"
    folder.mkdir()
    (folder / "data_batch_1_first3.bin").write_bytes(batch(3, 0))
    (folder / "test_batch_first1000.bin").write_bytes(batch(1000, 0))
    first, second = data.verify("cifar-10", root=tmp_path)
    assert first.ok and "no checksum is known" in first.message
    assert not second.ok and "checksum" in second.message


def test_import_brings_in_numpy_alone() -> None:
    foreign = ("pooch", "tqdm", "requests", "scipy", "matplotlib", "sklearn", "torch")
    program = f"""
import sys
import refimpl.data
refimpl.data.load("digits")
print([name for name in {foreign!r} if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
