"""Vowels: the first three formants of spoken vowels at four times, and which vowel it was.

"hillenbrand-vowels" is the table of measurements (258 tokens of female speakers); "surrogate-vowels", embedded, is
drawn from its published means and deviations: 37 invented speakers of each vowel, always the same. With m and s of a
vowel's value,
    value = m + s (sqrt(r_f) a_f + sqrt(1 - r_f) e),  r = 0.6, 0.75, 0.8 for F1, F2, F3,
where a_f is one normal number a speaker and formant and e one a value: what is said high once is said high again.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.data.catalogue import Info
from refimpl.data.errors import DataError
from refimpl.data.files import take_all
from refimpl.data.folders import Found

__all__ = ["Vowels", "draw_vowels", "read", "read_statistics", "read_table", "readers", "search"]

TIMES = ("steady_state", "20%", "50%", "80%")
COLUMNS = tuple(f"F{formant}{time}" for time in TIMES for formant in (1, 2, 3))
TABLE, STATISTICS = "vowels.csv", "statistics.csv"
TOKENS, SPEAKERS = 258, 37
SHARED = (0.6, 0.75, 0.8)  # r_f


@dataclass(frozen=True, eq=False)
class Vowels:
    """x (N, 12) formants in Hz, y (N,) int64 in [0, len(classes)), and which rows are for training, which for testing.

    Raises ValueError where that does not hold, or a row is on both sides.
    """

    name: str
    title: str
    x: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...]
    rows: tuple[np.ndarray, np.ndarray]
    source: str
    licence: str

    def __post_init__(self) -> None:
        n = len(self.y)
        if self.x.shape != (n, len(COLUMNS)) or not np.isfinite(self.x).all():
            raise ValueError(f"{self.name}: x has shape {self.x.shape}, expected ({n}, 12) finite numbers")
        if self.y.dtype != np.int64 or not ((self.y >= 0) & (self.y < len(self.classes))).all():
            raise ValueError(f"{self.name}: y is {self.y.dtype}, expected int64 in [0, {len(self.classes)})")
        both = np.concatenate(self.rows)
        if min(map(len, self.rows)) < 1 or len(np.unique(both)) != len(both) or both.min() < 0 or both.max() >= n:
            raise ValueError(f"{self.name}: rows must name different tokens of {n}, at least one a side")

    @property
    def train(self) -> tuple[np.ndarray, np.ndarray]:
        """Formants and vowels for training: the arguments of `fit`."""
        return self.x[self.rows[0]], self.y[self.rows[0]]

    @property
    def test(self) -> tuple[np.ndarray, np.ndarray]:
        """Formants and vowels for testing: the arguments of `score`."""
        return self.x[self.rows[1]], self.y[self.rows[1]]

    @property
    def sizes(self) -> str:
        """How many tokens there are, in words."""
        return f"{len(self.rows[0])} training, {len(self.rows[1])} test vowels"

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name."""
        return {"x": self.x, "y": self.y, "train_rows": self.rows[0], "test_rows": self.rows[1]}

    def quick(self, seed: int) -> Vowels:
        """Itself: small enough."""
        return self

    def standardised(self) -> Vowels:
        """The same with x standardised by mean and deviation of the training tokens."""
        x = self.x[self.rows[0]]
        return replace(self, x=(self.x - x.mean(axis=0)) / x.std(axis=0))

    def split(self, seed: int, statistics: str = "train") -> Vowels:
        """The same tokens split anew by a random permutation: four fifths (206 of 258) for training, a fifth for tests.

        statistics="all" is what the paper's code does: x is standardised with mean and deviation of all tokens, the
        test tokens included. "train" leaves x in Hz for the learner to standardise.
        """
        if statistics not in ("train", "all"):
            raise ValueError(f"{self.name}: statistics is {statistics!r}, expected 'train' or 'all'")
        order = np.random.default_rng(seed).permutation(len(self.y))
        cut = len(order) * 4 // 5
        x = self.x if statistics == "train" else (self.x - self.x.mean(axis=0)) / self.x.std(axis=0)
        return replace(self, x=x, rows=(order[:cut], order[cut:]))


# ---------------------------------------------------------------- files


def search(info: Info, folder: Path) -> Found | str:
    """The one file of a set in a folder, or what is missing there."""
    name = STATISTICS if info.embedded else TABLE
    file = folder / name
    return Found(folder, (file,), (file,)) if file.is_file() else f"lacks {name}"


def read(info: Info, found: Found) -> Vowels:
    """The data set. Raises DataError with the name of the file when it is damaged."""
    (file,) = found.train
    x, y = draw_vowels(*read_statistics(file, info.classes)) if info.embedded else read_table(file, info.classes)
    halves = np.array_split(np.arange(len(y)), 2)
    whole = Vowels(info.name, info.title, x, y, info.classes, (halves[0], halves[1]), info.source, info.licence)
    return whole.split(0)


def readers(info: Info, found: Found) -> list[tuple[Path, Callable[[], Any]]]:
    """The file with a function that reads it."""
    reader = read_statistics if info.embedded else read_table
    return [(file, partial(reader, file, info.classes)) for file in found.train]


def _lines(file: Path, header: tuple[str, ...]) -> list[list[str]]:
    """The lines of a table below its header, each as long as it. Raises DataError."""
    try:
        lines = list(csv.reader(io.StringIO(take_all(file, 1_000_000).decode("ascii")), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: not a table of comma-separated values: {error}") from error
    if not lines or tuple(lines[0]) != header:
        given = ",".join(lines[0]) if lines else "nothing"
        raise DataError(f"{file}: the first line is {given!r}, expected {','.join(header)!r}")
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(header):
            raise DataError(f"{file}: line {number} has {len(line)} fields, expected {len(header)}")
    return lines[1:]


def _numbers(file: Path, number: int, fields: list[str], least: float) -> list[float]:
    found = []
    for field in fields:
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", field) or not least <= float(field) <= 10_000:
            raise DataError(f"{file}: line {number} has {field!r}, expected a frequency of {least:g} to 10000 Hz")
        found.append(float(field))
    return found


def read_table(file: Path, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Formants (258, 12) and vowels (258,) of the measured table. Raises DataError."""
    lines = _lines(file, ("token", *COLUMNS))
    if len(lines) != TOKENS:
        raise DataError(f"{file}: {len(lines)} tokens, expected {TOKENS}")
    seen: set[str] = set()
    x, y = np.empty((TOKENS, len(COLUMNS))), np.empty(TOKENS, np.int64)
    for i, (token, *fields) in enumerate(lines):
        if not re.fullmatch(r"w[0-9]{2}[a-z]{2}", token) or token[3:] not in classes or token in seen:
            raise DataError(f"{file}: line {i + 2} has token {token!r}, expected one of its own such as w01ae")
        seen.add(token)
        x[i], y[i] = _numbers(file, i + 2, fields, 50), classes.index(token[3:])
    return x, y


def read_statistics(file: Path, classes: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Means and deviations (K, 12) of the formants of each vowel. Raises DataError."""
    lines = _lines(file, ("vowel", "statistic", *COLUMNS))
    expected = [(vowel, what) for vowel in classes for what in ("mean", "deviation")]
    if [(line[0], line[1]) for line in lines] != expected:
        raise DataError(f"{file}: expected a mean and a deviation of each of {', '.join(classes)}, in this order")
    values = np.array([_numbers(file, i + 2, line[2:], 1) for i, line in enumerate(lines)])
    return values[::2], values[1::2]


def draw_vowels(mean: np.ndarray, deviation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """37 invented speakers of each vowel, vowel by vowel: formants (37 K, 12), vowels (37 K,)."""
    rng, K = np.random.default_rng(1995), len(mean)
    shared = np.tile(SHARED, len(TIMES))
    speaker = np.tile(rng.standard_normal((K, SPEAKERS, 3)), len(TIMES))
    noise = rng.standard_normal((K, SPEAKERS, len(COLUMNS)))
    z = np.sqrt(shared) * speaker + np.sqrt(1 - shared) * noise
    x = np.round(mean[:, None] + deviation[:, None] * z)
    return x.reshape(-1, len(COLUMNS)), np.repeat(np.arange(K), SPEAKERS)
