"""Properties of packed reading and of writing whole files or none."""

from __future__ import annotations

import gzip
import lzma
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl.data.errors import DataError
from refimpl.data.files import atomic, digest, take, take_all, unpacked

PACK = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}
kinds = st.sampled_from(sorted(PACK))


@given(content=st.binary(max_size=5000), kind=kinds, repeat=st.integers(1, 50))
def test_unpacked_gives_back_what_was_packed(content: bytes, kind: str, repeat: int, scratch: Callable) -> None:
    content *= repeat
    with scratch() as folder:
        file = folder / f"a{kind}"
        file.write_bytes(PACK[kind](content))
        assert take_all(file, len(content)) == content
        with unpacked(file) as stream:
            assert take(stream, len(content) // 2) == content[: len(content) // 2]
        assert digest(file, "sha256", content=True) == digest_of(content)
        if content:
            with pytest.raises(DataError, match=f"more than {len(content) - 1} bytes"):
                take_all(file, len(content) - 1)


def digest_of(content: bytes) -> str:
    import hashlib

    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@given(content=st.binary(min_size=1, max_size=300), kind=st.sampled_from([".gz", ".xz"]), data=st.data())
def test_unpacked_rejects_a_packed_file_cut_anywhere(
    content: bytes, kind: str, data: st.DataObject, scratch: Callable
) -> None:
    packed = PACK[kind](content)
    cut = data.draw(st.integers(1, len(packed) - 1))
    with scratch() as folder:
        file = folder / f"a{kind}"
        file.write_bytes(packed[:cut])
        with pytest.raises(DataError, match=f"{file}: damaged or not a {kind} file"):
            take_all(file, 1000)


@given(content=st.binary(min_size=20, max_size=300), kind=st.sampled_from([".gz", ".xz"]), data=st.data())
def test_unpacked_gives_the_content_or_an_error_when_a_byte_changes(
    content: bytes, kind: str, data: st.DataObject, scratch: Callable
) -> None:
    packed = bytearray(PACK[kind](content))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= data.draw(st.integers(1, 255))
    with scratch() as folder:
        file = folder / f"a{kind}"
        file.write_bytes(packed)
        try:
            found = take_all(file, 1000)
        except DataError as error:
            assert str(file) in str(error)
        else:
            assert found == content  # a byte of the header that means nothing: time, system


@pytest.mark.parametrize("kind", [".gz", ".xz"])
def test_unpacked_rejects_bytes_after_the_end(kind: str, tmp_path: Path) -> None:
    (tmp_path / f"a{kind}").write_bytes(PACK[kind](b"abc") + b"tail")
    with pytest.raises(DataError, match="damaged"):
        take_all(tmp_path / f"a{kind}", 100)


def test_unpacked_xz_is_bounded_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refimpl.data.files.XZ_MEMORY", 1 << 20)
    (tmp_path / "a.xz").write_bytes(lzma.compress(b"abc", preset=9))
    with pytest.raises(DataError, match="emory"):
        take_all(tmp_path / "a.xz", 100)


def test_atomic_replaces_in_one_step_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"old")
    with atomic(file) as out:
        out.write(b"new")
        assert file.read_bytes() == b"old"
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("x")])
def test_atomic_keeps_the_old_file_when_anything_fails(error: BaseException, tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"old")
    with pytest.raises(type(error)), atomic(file) as out:
        out.write(b"half")
        raise error
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(os.name == "nt", reason="permission bits of POSIX")
def test_atomic_files_are_as_readable_as_others(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    with atomic(tmp_path / "a") as out:
        out.write(b"x")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
