"""Properties of unpacking the archive of CIFAR-10: the expected files come out, and no path in it is followed."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refimpl.data as data
from refimpl.data import DataError, catalogue
from refimpl.data.catalogue import Published
from refimpl.data.download import unpack


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content, usedforsecurity=False).hexdigest()}"


TOP = "cifar-10-batches-bin"
CONTENTS = {"data_batch_1.bin": b"a" * 5000, "test_batch.bin": b"b" * 3000, "batches.meta.txt": b"airplane\n"}
MEMBERS = tuple(Published(name, len(content), md5(content)) for name, content in CONTENTS.items())


def member(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type, entry.linkname = len(content), kind, link
    return entry, content


GOOD = [
    member(TOP, kind=tarfile.DIRTYPE),
    *(member(f"{TOP}/{name}", content) for name, content in CONTENTS.items()),
    member(f"{TOP}/readme.html", b"<html>"),
]


def archive(entries: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for entry, content in entries:
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> bytes:
    content = archive(GOOD)
    info = replace(
        catalogue.CIFAR_10,
        downloads=(Published("cifar-10-binary.tar.gz", len(content), md5(content)),),
        members=MEMBERS,
    )
    monkeypatch.setitem(catalogue.CATALOGUE, "cifar-10", info)
    return content


def test_archive_is_fetched_unpacked_and_removed_and_not_fetched_again(
    server: Any, packed: bytes, tmp_path: Path
) -> None:
    server.files["/cifar-10-binary.tar.gz"] = packed
    for _ in range(2):
        folder = data.fetch("cifar-10", root=tmp_path, mirrors=[server.url])
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == CONTENTS
    assert server.asked == ["/cifar-10-binary.tar.gz"]


def test_archive_left_by_an_interrupted_fetch_is_used(server: Any, packed: bytes, tmp_path: Path) -> None:
    (tmp_path / "cifar-10").mkdir()
    (tmp_path / "cifar-10" / "cifar-10-binary.tar.gz").write_bytes(packed)
    folder = data.fetch("cifar-10", root=tmp_path, mirrors=[server.url])
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == CONTENTS
    assert server.asked == []


def without(name: str) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [entry for entry in GOOD if not entry[0].name.endswith(name)]


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (without("test_batch.bin"), "lacks test_batch.bin"),
        ([*GOOD, member("../outside", b"x")], "'../outside' has no place in it"),
        ([*GOOD, member("/outside", b"x")], "'/outside' has no place in it"),
        ([*GOOD, member(f"{TOP}/../../outside", b"x")], "has no place in it"),
        ([member("../test_batch.bin", CONTENTS["test_batch.bin"]), *GOOD], "has no place in it"),
        ([*GOOD, member(f"{TOP}/other.bin", b"x")], "other.bin' has no place in it"),
        ([*GOOD, member(f"{TOP}/test_batch.bin", CONTENTS["test_batch.bin"])], "has no place in it"),
        (
            [*without("test_batch.bin"), member(f"{TOP}/test_batch.bin", kind=tarfile.SYMTYPE, link="/etc/passwd")],
            "has no place",
        ),
        (
            [*without("test_batch.bin"), member(f"{TOP}/test_batch.bin", kind=tarfile.LNKTYPE, link="/etc/passwd")],
            "has no place",
        ),
        ([*GOOD, member(f"{TOP}/pipe", kind=tarfile.FIFOTYPE)], "has no place in it"),
        ([*GOOD, member(f"{TOP}/disk", kind=tarfile.CHRTYPE)], "has no place in it"),
        ([member(f"{TOP}/deep", kind=tarfile.DIRTYPE), *GOOD], "has no place in it"),
        ([*without("test_batch.bin"), member(f"{TOP}/test_batch.bin", b"b" * 2999)], "2999 bytes, expected 3000"),
        ([*without("test_batch.bin"), member(f"{TOP}/test_batch.bin", b"b" * 3001)], "more than 3000 bytes"),
        ([*without("test_batch.bin"), member(f"{TOP}/test_batch.bin", b"c" * 3000)], "checksum md5:"),
        ([member(f"{TOP}/readme.html", bytes(4 << 20)), *GOOD], "unpacks to more than"),
    ],
)
def test_archive_with_anything_unexpected_is_refused(entries: list, said: str, tmp_path: Path) -> None:
    file, folder = tmp_path / "a.tar.gz", tmp_path / "in" / "here"
    folder.mkdir(parents=True)
    file.write_bytes(archive(entries))
    with pytest.raises(DataError, match=said) as caught:
        unpack(file, folder, MEMBERS)
    assert str(file) in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar.gz", "in"}
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["here"]
    for path in folder.iterdir():  # what stands there is whole
        assert path.read_bytes() == CONTENTS[path.name] and not path.is_symlink()


@pytest.mark.parametrize("keep", [0, 10, 100, -1, -9])
def test_archive_cut_anywhere_is_refused(keep: int, tmp_path: Path) -> None:
    file = tmp_path / "a.tar.gz"
    file.write_bytes(archive(GOOD)[:keep])
    with pytest.raises(DataError, match="damaged"):
        unpack(file, tmp_path, MEMBERS)


def test_archive_of_noise_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.tar.gz"
    file.write_bytes(gzip.compress(np.random.default_rng(0).bytes(20_000)))
    with pytest.raises(DataError, match="damaged archive"):
        unpack(file, tmp_path, MEMBERS)
