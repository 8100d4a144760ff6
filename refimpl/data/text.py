"""Plain text, for language models: one file, its beginning for training and its last tenth for testing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from refimpl.data.catalogue import Info
from refimpl.data.errors import DataError
from refimpl.data.files import take_all
from refimpl.data.folders import Found, first

__all__ = ["Text", "read", "read_text", "readers", "search"]

FILE = "input.txt"
MOST = 1 << 30  # bytes that a text may have


@dataclass(frozen=True, eq=False)
class Text:
    """A text in two parts, as bytes (n,) uint8; what its tokens are is the learner's business."""

    name: str
    train_bytes: np.ndarray
    test_bytes: np.ndarray
    title: str
    source: str
    licence: str

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            a = getattr(self, f"{part}_bytes")
            if a.ndim != 1 or a.dtype != np.uint8:
                raise ValueError(f"{self.name}: {part}_bytes is {a.dtype}{list(a.shape)}, expected a vector of uint8")
            if not a.size:
                raise ValueError(f"{self.name}: {part}_bytes is empty, expected some text")

    def __repr__(self) -> str:
        return f"Text({self.name!r}, {self.sizes})"

    @property
    def train(self) -> tuple[np.ndarray]:
        """The argument of `fit`."""
        return (self.train_bytes,)

    @property
    def test(self) -> tuple[np.ndarray]:
        """The argument of `score`."""
        return (self.test_bytes,)

    @property
    def sizes(self) -> str:
        return f"{len(self.train_bytes):,} training, {len(self.test_bytes):,} test bytes"

    def arrays(self) -> dict[str, np.ndarray]:
        return {"train_bytes": self.train_bytes, "test_bytes": self.test_bytes}

    def quick(self, seed: int) -> Text:
        """The first 20,000 bytes for training and the first 2,000 for testing, whatever the seed: text has an order."""
        return replace(self, train_bytes=self.train_bytes[:20_000], test_bytes=self.test_bytes[:2_000])


def search(info: Info, folder: Path) -> Found | str:
    """The file of a text in one folder."""
    file = first(folder, FILE, ("", ".gz", ".xz"))
    return f"lacks {FILE}" if file is None else Found(folder, (file,), (file,))


def read_text(file: Path) -> np.ndarray:
    """The bytes of a file (n,) uint8. Raises DataError for an empty or damaged one."""
    content = take_all(file, MOST)
    if not content:
        raise DataError(f"{file}: empty, expected some text")
    return np.frombuffer(content, np.uint8)


def read(known: Info, found: Found) -> Text:
    """The text: nine tenths for training, the rest for testing. Raises DataError for a file without two parts."""
    text = read_text(found.train[0])
    middle = len(text) * 9 // 10
    if middle == 0:
        raise DataError(f"{found.train[0]}: {len(text)} bytes, expected at least 2")
    return Text(known.name, text[:middle], text[middle:], known.title, known.source, known.licence)


def readers(known: Info, found: Found) -> list[tuple[Path, Callable[[], object]]]:
    """The file with a function that reads it."""
    return [(file, partial(read_text, file)) for file in found.train]
