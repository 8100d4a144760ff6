"""Texts: the embedded one, the split, damaged files."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import refimpl.data as data
from refimpl.data.text import Text


def test_embedded_text_is_whole_and_needs_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REFIMPL_DATA", str(tmp_path))
    text = data.load("coriolanus")
    assert len(text.train_bytes) + len(text.test_bytes) == 64_177
    assert text.train_bytes.tobytes().startswith(b"First Citizen:\nBefore we proceed any further")
    assert text.train == (text.train_bytes,) and text.test == (text.test_bytes,) and "training" in text.sizes
    assert all(check.ok for check in data.verify("coriolanus"))


def test_quick_is_a_small_part() -> None:
    text = data.load("coriolanus")
    assert len(text.quick(0).train_bytes) == 20_000 and len(text.quick(0).test_bytes) == 2_000
    assert set(text.arrays()) == {"train_bytes", "test_bytes"}


def test_the_last_tenth_of_a_packed_file_is_for_testing(tmp_path: Path) -> None:
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare" / "input.txt.gz").write_bytes(gzip.compress(bytes(range(100))))
    text = data.load("tinyshakespeare", root=tmp_path)
    assert text.train_bytes.tolist() == list(range(90)) and text.test_bytes.tolist() == list(range(90, 100))
    check = data.verify("tinyshakespeare", root=tmp_path)[0]
    assert not check.ok and "expected sha256:86c4" in check.message


@pytest.mark.parametrize(("content", "message"), [(b"", "empty, expected some text"), (b"a", "1 bytes, expected")])
def test_files_without_two_parts_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "tinyshakespeare").mkdir()
    (tmp_path / "tinyshakespeare" / "input.txt").write_bytes(content)
    with pytest.raises(data.DataError, match=message):
        data.load("tinyshakespeare", root=tmp_path)


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFIMPL_DATA", str(tmp_path))
    (tmp_path / "tinyshakespeare").mkdir()
    with pytest.raises(data.DataNotFound, match=r"lacks input.txt"):
        data.load("tinyshakespeare", root=tmp_path)


def test_text_must_be_bytes() -> None:
    good = np.zeros(3, np.uint8)
    with pytest.raises(ValueError, match="train_bytes is float64"):
        Text("t", np.zeros(3), good, "", "", "")
    with pytest.raises(ValueError, match="test_bytes is empty"):
        Text("t", good, good[:0], "", "", "")


def test_real_tiny_shakespeare_is_the_published_one(real_root: Callable) -> None:
    root = real_root("tinyshakespeare")
    text = data.load("tinyshakespeare", root=root)
    whole = np.concatenate([text.train_bytes, text.test_bytes])
    assert len(whole) == 1_115_394 and len(np.unique(whole)) == 65
    assert np.array_equal(whole[:64_177], np.concatenate(list(data.load("coriolanus").arrays().values())))
    assert [check.message for check in data.verify("tinyshakespeare", root=root)] == ["format and checksum right"]
