"""What the tests of the data floor share: a world without the user's own data, a scratch folder, a local server."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

REAL_DATA = os.environ.get("REFIMPL_DATA")


@pytest.fixture(autouse=True)
def _own_world(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.delenv("REFIMPL_DATA", raising=False)
    monkeypatch.setenv("REFIMPL_CACHE", str(tmp_path_factory.getbasetemp() / "no-such-cache"))
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)


@pytest.fixture(scope="session")
def real_root() -> Callable[[str], Path]:
    """The folder with real data sets; the test is skipped where REFIMPL_DATA does not hold the set asked for."""

    def root(name: str) -> Path:
        if not REAL_DATA or not (Path(REAL_DATA) / name).is_dir():
            pytest.skip(f"REFIMPL_DATA holds no {name}")
        return Path(REAL_DATA)

    return root


@pytest.fixture(scope="session")
def scratch() -> Callable[[], AbstractContextManager[Path]]:
    """A fresh folder for each example of a property."""

    @contextmanager
    def folder() -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)

    return folder


@dataclass
class Server:
    """A server on this machine. `files` maps a path to its body; `promised` to a Content-Length that is not the body's.

    A path in `stalls` gets its body and then nothing more, until the test ends.
    """

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    promised: dict[str, int] = field(default_factory=dict)
    stalls: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    release = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            world.asked.append(self.path)
            body = world.files.get(self.path)
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(world.promised.get(self.path, len(body))))
            self.end_headers()
            self.wfile.write(body)
            if self.path in world.stalls:
                self.wfile.flush()
                release.wait(30)

        def log_message(self, *_: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    world = Server(f"http://127.0.0.1:{http.server_address[1]}/")
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    yield world
    release.set()
    http.shutdown()
    thread.join()
    http.server_close()
