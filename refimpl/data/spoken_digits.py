"""Spoken digits: the Free Spoken Digit Dataset, recordings/<digit>_<speaker>_<index>.wav, 8 kHz, mono, 16 bit.

As spikes, after the model of an ear: the waveform goes through a bank of filters (triangles on the mel scale over the
power of short windows), and a channel sends an event each time its log energy has risen or fallen by a fixed amount
("send on delta"). A recording is cut into T windows that span it from end to end, so quick and slow speakers have as
many frames.
"""

from __future__ import annotations

import io
import re
import wave
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from refimpl.data.catalogue import Info
from refimpl.data.errors import DataError
from refimpl.data.folders import Found, first
from refimpl.data.sequences import Sequences, tar_members

__all__ = ["Utterance", "delta_events", "log_mel", "mel_filters", "read", "read_spoken_digits", "readers", "search"]

RATE = 8000
WINDOW = 256  # samples of a short window
STEPS, CHANNELS = 20, 32
DELTA = 1.0  # natural units of log energy for an event
TEST_INDICES = 5  # recordings 0..4 of each speaker and digit are the test set
ARCHIVE = "recordings.tar"
LIMIT = 256 << 20


@dataclass(frozen=True, eq=False)
class Utterance:
    """One recording: samples (n,) int16 at 8 kHz."""

    samples: np.ndarray
    digit: int
    speaker: str
    index: int


def mel_filters(channels: int, window: int = WINDOW, rate: int = RATE, lowest: float = 60.0) -> np.ndarray:
    """Triangles (channels, window / 2 + 1) with centres at equal distances on the mel scale 1127 ln(1 + f / 700), from
    `lowest` to half the rate. Each has at least one line of the spectrum under it."""

    def mel(f):
        return 1127 * np.log1p(np.asarray(f) / 700)

    edges = 700 * np.expm1(np.linspace(mel(lowest), mel(rate / 2), channels + 2) / 1127)
    f = np.arange(window // 2 + 1) * rate / window
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.maximum(0, np.minimum((f - left) / (centre - left), (right - f) / (right - centre)))
    nearest = np.abs(f - centre).argmin(axis=1)
    bare = triangles.sum(axis=1) == 0
    triangles[np.flatnonzero(bare), nearest[bare]] = 1
    return triangles


def log_mel(samples: np.ndarray, T: int = STEPS, channels: int = CHANNELS) -> np.ndarray:
    """Log energies (T, channels) in T Hann windows spread evenly over the recording; the floor is 1e-4 of full scale
    squared. Raises ValueError for an empty recording or T or channels < 1."""
    if not len(samples) or T < 1 or channels < 1:
        raise ValueError(f"log_mel: {len(samples)} samples, T {T}, channels {channels}, expected at least 1 of each")
    x = samples.astype(np.float64) / 32768
    x = np.pad(x, (0, max(0, WINDOW - len(x))))
    starts = np.round(np.linspace(0, len(x) - WINDOW, T)).astype(int)
    windows = x[starts[:, None] + np.arange(WINDOW)] * np.hanning(WINDOW)
    power = np.abs(np.fft.rfft(windows, axis=1)) ** 2
    return np.log(power @ mel_filters(channels).T + 1e-4)


def delta_events(energies: np.ndarray, delta: float = DELTA) -> np.ndarray:
    """Counts of events (T, 2, channels) float32, rising [:, 0] and falling [:, 1]: how many multiples of `delta` the
    log energy has crossed since the step before (before the first: since silence)."""
    if not delta > 0:
        raise ValueError(f"delta_events: delta is {delta}, expected a positive number")
    level = np.floor((energies - np.log(1e-4)) / delta)
    change = np.diff(level, axis=0, prepend=0)
    return np.stack([np.maximum(change, 0), np.maximum(-change, 0)], axis=1).astype(np.float32)


def read_spoken_digits(path: Path) -> list[Utterance]:
    """All recordings in the order of their names. Raises DataError for a damaged archive or recording, or where it
    holds none."""
    found = []
    for name, content in tar_members(path, LIMIT):
        match = re.fullmatch(r"(\d)_([A-Za-z]+)_(\d+)\.wav", Path(name).name)
        if match is None:
            continue
        try:
            with wave.open(io.BytesIO(content)) as sound:
                kind = sound.getnchannels(), sound.getsampwidth(), sound.getframerate()
                samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2").astype(np.int16)
        except (wave.Error, EOFError, ValueError) as error:
            raise DataError(f"{path}: {name}: not a WAV file: {error}") from error
        if kind != (1, 2, RATE) or not len(samples):
            raise DataError(f"{path}: {name}: {kind}, {len(samples)} samples, expected mono, 2 bytes, {RATE} Hz, some")
        found.append(Utterance(samples, int(match[1]), match[2], int(match[3])))
    if not found:
        raise DataError(f"{path}: holds no recordings <digit>_<speaker>_<index>.wav")
    return sorted(found, key=lambda u: (u.digit, u.speaker, u.index))


def search(info: Info, folder: Path) -> Found | str:
    """The archive in one folder, or what is missing there."""
    file = first(folder, ARCHIVE, (".xz", ".gz", ""))
    return f"lacks {ARCHIVE}.xz" if file is None else Found(folder, (file,), (file,))


def read(known: Info, found: Found) -> Sequences:
    """The set as events (T = 20, rising and falling, 32 channels)."""
    utterances = read_spoken_digits(found.train[0])

    def split(chosen: Sequence[Utterance]) -> tuple[np.ndarray, np.ndarray]:
        events = [delta_events(log_mel(u.samples)) for u in chosen]
        return np.stack(events), np.array([u.digit for u in chosen], np.int64)

    train = [u for u in utterances if u.index >= TEST_INDICES]
    test = [u for u in utterances if u.index < TEST_INDICES]
    if not train or not test:
        raise DataError(
            f"{found.train[0]}: {len(train)} training and {len(test)} test recordings, expected some of both"
        )
    (x_train, y_train), (x_test, y_test) = split(train), split(test)
    return Sequences(
        name=known.name,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        n_classes=known.n_classes,
        title=known.title,
        source=known.source,
        licence=known.licence,
    )


def readers(known: Info, found: Found) -> list[tuple[Path, Callable[[], object]]]:
    """The archive with the function that reads it."""
    return [(found.train[0], partial(read_spoken_digits, found.train[0]))]
