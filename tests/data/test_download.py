"""Properties of fetching: only right files get their names, whatever happens on the way."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import refimpl.data as data
from refimpl.data import DownloadError, catalogue, write_idx
from refimpl.data.catalogue import Published
from refimpl.data.download import STALE

pytest.importorskip("pooch")


Files = dict[str, bytes]  # name -> content


def checksum(content: bytes, kind: str = "sha256") -> str:
    return f"{kind}:{hashlib.new(kind, content).hexdigest()}"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Files:
    """A MNIST of 6 + 6 images in the catalogue's place; returns its files."""
    rng = np.random.default_rng(0)
    files: Files = {}
    for file in catalogue.MNIST.downloads:
        shape = (6, 28, 28) if "images" in file.name else (6,)
        write_idx(tmp_path / file.name, rng.integers(0, 10, shape, dtype=np.uint8))
        files[file.name] = (tmp_path / file.name).read_bytes()
        (tmp_path / file.name).unlink()
    info = replace(
        catalogue.MNIST,
        downloads=tuple(Published(name, len(content), checksum(content)) for name, content in files.items()),
        contents=tuple((name[:-3], checksum(gzip.decompress(content))) for name, content in files.items()),
        n_train=6,
        n_test=6,
    )
    monkeypatch.setitem(catalogue.CATALOGUE, "mnist", info)
    return files


def serve(server: Any, files: Files, base: str = "/") -> None:
    server.files.update({base + name: content for name, content in files.items()})


def test_fetched_set_loads_and_verifies(server: Any, tiny: Files, tmp_path: Path) -> None:
    serve(server, tiny)
    folder = data.fetch("mnist", root=tmp_path, mirrors=[server.url])
    assert folder == tmp_path / "mnist"
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == tiny
    assert data.load("mnist", root=tmp_path).title == data.info("mnist").title
    assert all(check.ok for check in data.verify("mnist", root=tmp_path))


def test_fetch_goes_to_the_cache_by_default_even_where_refimpl_data_is_set(
    server: Any, tiny: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(server, tiny)
    monkeypatch.setenv("REFIMPL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REFIMPL_DATA", str(tmp_path / "shared"))
    assert data.fetch("mnist", progress=False, mirrors=[server.url]) == tmp_path / "cache" / "data" / "mnist"
    assert data.path("mnist") == tmp_path / "cache" / "data" / "mnist"
    assert not (tmp_path / "shared").exists()


def test_fetch_keeps_right_files_and_replaces_damaged_ones(server: Any, tiny: Files, tmp_path: Path) -> None:
    serve(server, tiny)
    folder = data.fetch("mnist", root=tmp_path, mirrors=[server.url])
    names = list(tiny)
    (folder / names[0]).unlink()
    (folder / names[1]).write_bytes(bytes(len(tiny[names[1]])))
    server.asked.clear()
    data.fetch("mnist", root=tmp_path, mirrors=[server.url])
    assert server.asked == [f"/{names[0]}", f"/{names[1]}"]
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == tiny


def test_fetch_of_the_embedded_digits_needs_no_network() -> None:
    assert data.fetch("digits") == data.path("digits")


def test_one_mirror_may_be_given_without_a_list(server: Any, tiny: Files, tmp_path: Path) -> None:
    serve(server, tiny)
    assert data.path("mnist", root=data.fetch("mnist", root=tmp_path, mirrors=server.url).parent)


def test_fetch_goes_on_to_the_next_mirror(server: Any, tiny: Files, tmp_path: Path) -> None:
    serve(server, {name: b"another page" for name in tiny}, "/bad/")
    serve(server, tiny, "/good/")
    folder = data.fetch("mnist", root=tmp_path, mirrors=[server.url + "none", server.url + "bad/", server.url + "good"])
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == tiny


def wrong_hash(server: Any, name: str, body: bytes) -> None:
    server.files["/" + name] = bytes([body[0] ^ 1]) + body[1:]


def too_short(server: Any, name: str, body: bytes) -> None:
    server.files["/" + name] = body[:-5]


def cut_on_the_way(server: Any, name: str, body: bytes) -> None:
    server.files["/" + name] = body[: len(body) // 2]
    server.promised["/" + name] = len(body)


def too_long(server: Any, name: str, body: bytes) -> None:
    server.files["/" + name] = body + bytes(100_000)


def not_there(server: Any, name: str, body: bytes) -> None:
    del server.files["/" + name]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (wrong_hash, "checksum sha256:[0-9a-f]{64}, expected sha256:"),
        (too_short, r"\d+ bytes, expected \d+"),
        (cut_on_the_way, "."),
        (too_long, "more than .* bytes"),
        (not_there, "404"),
    ],
)
def test_what_is_not_the_published_file_gets_no_name(
    harm: Callable, said: str, server: Any, tiny: Files, tmp_path: Path
) -> None:
    serve(server, tiny)
    name = next(iter(tiny))
    harm(server, name, tiny[name])
    with pytest.raises(DownloadError, match=rf"(?s)mnist: could not download {name}; nothing was put in place.*{said}"):
        data.fetch("mnist", root=tmp_path, mirrors=[server.url])
    assert list((tmp_path / "mnist").iterdir()) == []


def test_no_server_at_all_is_a_download_error(tiny: Files, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="nothing was put in place"):
        data.fetch("mnist", root=tmp_path, mirrors=["http://127.0.0.1:9/"])


def test_wrong_download_leaves_the_older_file(server: Any, tiny: Files, tmp_path: Path) -> None:
    serve(server, tiny)
    name = next(iter(tiny))
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / name).write_bytes(b"an older version")
    wrong_hash(server, name, tiny[name])
    with pytest.raises(DownloadError):
        data.fetch("mnist", root=tmp_path, mirrors=[server.url])
    assert (tmp_path / "mnist" / name).read_bytes() == b"an older version"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs a signal that cannot be caught")
def test_killed_half_way_leaves_no_file_under_the_final_name(server: Any, tiny: Files, tmp_path: Path) -> None:
    name = next(iter(tiny))
    body = os.urandom(1 << 20)
    server.files["/" + name] = body[: len(body) // 2]
    server.promised["/" + name] = len(body)
    server.stalls.add("/" + name)
    program = f"""
from dataclasses import replace
from refimpl.data import catalogue, fetch
info = replace(catalogue.MNIST, downloads=(catalogue.Published({name!r}, {len(body)}, {checksum(body)!r}),))
catalogue.CATALOGUE["mnist"] = info
fetch("mnist", root={str(tmp_path)!r}, mirrors=[{server.url!r}])
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 60
    while not any(part.stat().st_size > 100_000 for part in (tmp_path / "mnist").glob("*.part")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    left = list((tmp_path / "mnist").iterdir())
    assert len(left) == 1 and left[0].suffix == ".part"
    # Once it is surely nobody's, the next fetch clears it away.
    os.utime(left[0], (0, time.time() - STALE - 10))
    serve(server, tiny)
    server.promised.clear()
    server.stalls.clear()
    folder = data.fetch("mnist", root=tmp_path, mirrors=[server.url])
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == tiny


def test_a_fresh_temporary_file_of_another_process_is_left_alone(server: Any, tiny: Files, tmp_path: Path) -> None:
    serve(server, tiny)
    (tmp_path / "mnist").mkdir()
    other = tmp_path / "mnist" / "x.12345678.part"
    other.write_bytes(b"half")
    data.fetch("mnist", root=tmp_path, mirrors=[server.url])
    assert other.exists()


def test_full_disk_is_told_and_leaves_nothing(
    server: Any, tiny: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(server, tiny)

    class Full(io.FileIO):
        def write(self, data: object) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("refimpl._disk.open", lambda path, mode: Full(path, "xb"), raising=False)
    with pytest.raises(
        OSError, match=r"mnist: cannot write to .*mnist: No space left on device.*REFIMPL_CACHE"
    ) as caught:
        data.fetch("mnist", root=tmp_path, mirrors=[server.url, server.url])
    assert caught.value.errno == 28
    assert len(server.asked) == 1  # another mirror would not help
    assert list((tmp_path / "mnist").iterdir()) == []


def test_read_only_folder_is_told_before_anything_is_asked_for(server: Any, tiny: Files, tmp_path: Path) -> None:
    serve(server, tiny)
    folder = tmp_path / "mnist"
    folder.mkdir()
    folder.chmod(0o555)
    try:
        if os.access(folder, os.W_OK):
            pytest.skip("this user may write anywhere")
        with pytest.raises(PermissionError, match=r"mnist: cannot write to .*REFIMPL_CACHE"):
            data.fetch("mnist", root=tmp_path, mirrors=[server.url])
    finally:
        folder.chmod(0o755)
    assert server.asked == [] and list(folder.iterdir()) == []


def test_folder_that_refuses_a_file_is_told_before_anything_is_asked_for(
    server: Any, tiny: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    serve(server, tiny)
    monkeypatch.setattr("refimpl._disk.open", refuse, raising=False)
    with pytest.raises(PermissionError, match=r"mnist: cannot write to .*: Permission denied.*REFIMPL_CACHE"):
        data.fetch("mnist", root=tmp_path, mirrors=[server.url])
    assert server.asked == []


def test_root_that_is_a_file_is_told(tiny: Files, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"mnist: cannot write to"):
        data.fetch("mnist", root=tmp_path / "file", mirrors=["http://127.0.0.1:9/"])


def test_progress_bar_tells_the_file_and_its_size(
    server: Any, tiny: Files, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    """On a terminal; elsewhere no bar is drawn."""
    serve(server, tiny)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    data.fetch("mnist", root=tmp_path / "a", mirrors=[server.url])
    drawn = capsys.readouterr().err
    assert all(name in drawn for name in tiny) and "100%" in drawn
    data.fetch("mnist", progress=False, root=tmp_path / "b", mirrors=[server.url])
    assert capsys.readouterr().err == ""
