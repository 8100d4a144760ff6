"""Readers of event recordings and spoken digits: what is written comes back; what is damaged is refused by name."""

from __future__ import annotations

import io
import lzma
import tarfile
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import refimpl.data as data
from refimpl.data.event_camera import EventRecordings, read_bs2, read_n_mnist
from refimpl.data.sequences import Sequences, tar_members
from refimpl.data.spoken_digits import delta_events, log_mel, mel_filters, read_spoken_digits


def archive(path: Path, files: dict[str, bytes]) -> Path:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(packed.getvalue()) if path.suffix == ".xz" else packed.getvalue())
    return path


def bs2(events: list[tuple[int, int, int, int]]) -> bytes:
    return b"".join(bytes([x, y]) + (p << 23 | t).to_bytes(3, "big") for x, y, p, t in events)


EVENTS = st.lists(
    st.tuples(st.integers(0, 33), st.integers(0, 33), st.integers(0, 1), st.integers(0, 2**23 - 1)), max_size=40
)


@given(events=EVENTS)
def test_events_come_back_as_written(events: list) -> None:
    events = sorted(events, key=lambda e: e[3])
    columns = read_bs2(bs2(events), "x.bs2")
    assert [tuple(map(int, e)) for e in zip(*columns)] == events


def small(tmp_path: Path, **changes: bytes) -> Path:
    files = {
        "NMNISTsmall/1.bs2": bs2([(0, 1, 1, 0), (33, 2, 0, 149_999), (33, 2, 0, 150_000), (4, 4, 1, 336_000)]),
        "NMNISTsmall/2.bs2": bs2([(5, 6, 0, 10)] * 3),
        "NMNISTsmall/60001.bs2": bs2([]),
        "NMNISTsmall/train1K.txt": b"#sample #class\n1\t5\n2\t0\n",
        "NMNISTsmall/test100.txt": b"#sample #class\n60001\t7\n",
    }
    for name, content in changes.items():
        files[f"NMNISTsmall/{name}"] = content
    return archive(tmp_path / "n-mnist-small" / "NMNISTsmall.tar.xz", {k: v for k, v in files.items() if v != b"gone"})


def test_recordings_become_counts_in_slices_of_time(tmp_path: Path) -> None:
    found = read_n_mnist(small(tmp_path))
    train = found["train"]
    assert len(train) == 2 and train.labels.tolist() == [5, 0] and found["test"].labels.tolist() == [7]
    x = train.frames(2)
    assert x.shape == (2, 2, 2, 34, 34) and x.dtype == np.float32 and x.sum() == 7
    assert x[0, 0, 1, 1, 0] == 1 and x[0, 0, 0, 2, 33] == 1 and x[0, 1, 0, 2, 33] == 1
    assert x[0, 1, 1, 4, 4] == 1  # later than 300 ms: in the last slice
    assert x[1, 0, 0, 6, 5] == 3 and not found["test"].frames(4).any()
    loaded = data.load("n-mnist-small", root=tmp_path)
    assert isinstance(loaded, Sequences) and loaded.x_train.shape == (2, 10, 2, 34, 34) and loaded.T == 10
    assert np.array_equal(loaded.x_train.sum(axis=1), x.sum(axis=1))
    with pytest.raises(ValueError, match="T is 0"):
        train.frames(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"2.bs2": b"1234"}, "2.bs2: 4 bytes, expected a multiple of 5"),
        ({"2.bs2": bs2([(34, 0, 0, 1)])}, "2.bs2: an event at pixel 34, expected 0..33"),
        ({"2.bs2": bs2([(3, 0, 0, 9), (3, 0, 0, 8)])}, "2.bs2: times run backwards"),
        ({"2.bs2": b"gone"}, "lacks 2.bs2, which train1K.txt lists"),
        ({"train1K.txt": b"gone"}, "lacks train1K.txt"),
        ({"train1K.txt": b"#sample #class\n"}, "train1K.txt lists no samples"),
        ({"test100.txt": b"1\t10\n"}, "test100.txt has class 10, expected 0..9"),
    ],
)
def test_damaged_recordings_are_refused_by_name(tmp_path: Path, changes: dict, message: str) -> None:
    file = small(tmp_path, **changes)
    with pytest.raises(data.DataError, match=message) as caught:
        read_n_mnist(file)
    assert str(file) in str(caught.value)
    assert not data.verify("n-mnist-small", root=tmp_path)[0].ok


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    file = small(tmp_path)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(data.DataError, match="NMNISTsmall"):
        data.load("n-mnist-small", root=tmp_path)
    file.write_bytes(lzma.compress(b"no archive" * 100))
    with pytest.raises(data.DataError, match="not a tar archive"):
        list(tar_members(file, 10_000))
    with pytest.raises(data.DataError, match="more than 50 bytes"):
        list(tar_members(file, 50))


def test_missing_sets_say_what_they_lack(tmp_path: Path) -> None:
    for name, file in (("n-mnist-small", "NMNISTsmall.tar.xz"), ("fsdd", "recordings.tar.xz")):
        (tmp_path / name).mkdir()
        with pytest.raises(data.DataNotFound, match=f"lacks {file}"):
            data.load(name, root=tmp_path)


# ---------------------------------------------------------------- sound


def wav(samples: np.ndarray, rate: int = 8000, channels: int = 1) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(samples.astype("<i2").tobytes())
    return out.getvalue()


def tone(f: float, n: int = 4000) -> np.ndarray:
    return (20000 * np.sin(2 * np.pi * f * np.arange(n) / 8000)).astype(np.int16)


def test_recordings_are_split_by_their_index(tmp_path: Path) -> None:
    files = {f"recordings/{d}_ann_{i}.wav": wav(tone(300 + 200 * d)) for d in (0, 9) for i in (0, 4, 5, 11)}
    path = archive(tmp_path / "fsdd" / "recordings.tar.xz", {**files, "recordings/README": b"hello"})
    found = read_spoken_digits(path)
    assert [(u.digit, u.speaker, u.index) for u in found[:4]] == [(0, "ann", i) for i in (0, 4, 5, 11)]
    assert np.array_equal(found[-1].samples, tone(2100))
    loaded = data.load("fsdd", root=tmp_path)
    assert loaded.x_train.shape == (4, 20, 2, 32) and loaded.y_train.tolist() == [0, 0, 9, 9]
    assert loaded.y_test.tolist() == [0, 0, 9, 9] and loaded.sizes.startswith("4 training, 4 test sequences")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"RIFF", "not a WAV file"),
        (wav(tone(300), rate=16000), "expected mono, 2 bytes, 8000 Hz"),
        (wav(tone(300), channels=2), "expected mono"),
        (wav(tone(300, 0)), "0 samples"),
    ],
)
def test_damaged_sound_is_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    path = archive(tmp_path / "recordings.tar", {"recordings/3_bob_7.wav": content})
    with pytest.raises(data.DataError, match=f"3_bob_7.wav: .*{message}"):
        read_spoken_digits(path)
    with pytest.raises(data.DataError, match="holds no recordings"):
        read_spoken_digits(archive(tmp_path / "empty.tar", {"recordings/x.txt": b""}))


@pytest.mark.parametrize("f", [200.0, 700.0, 1500.0, 3000.0])
def test_a_tone_is_loudest_in_the_filter_around_it(f: float) -> None:
    filters = mel_filters(32)
    assert filters.shape == (32, 129) and (filters >= 0).all() and (filters.sum(axis=1) > 0).all()
    loudest = log_mel(tone(f), T=5).argmax(axis=1)
    assert (loudest == filters[:, round(f * 256 / 8000)].argmax()).all()


@given(seed=st.integers(0, 99), delta=st.floats(0.1, 3))
def test_events_sum_up_to_the_level_that_is_reached(seed: int, delta: float) -> None:
    energies = np.random.default_rng(seed).uniform(np.log(1e-4), 5, (12, 3))
    events = delta_events(energies, delta)
    assert events.shape == (12, 2, 3) and (events >= 0).all() and (events == np.round(events)).all()
    assert not (events[:, 0] * events[:, 1]).any()  # rising or falling
    level = (events[:, 0] - events[:, 1]).cumsum(axis=0) * delta + np.log(1e-4)
    assert (level <= energies + 1e-3).all() and (energies < level + delta + 1e-3).all()


def test_bad_settings_of_the_ear_are_refused() -> None:
    for call in (lambda: log_mel(np.zeros(0, np.int16)), lambda: log_mel(tone(300), T=0)):
        with pytest.raises(ValueError, match="expected at least 1 of each"):
            call()
    with pytest.raises(ValueError, match="delta is 0"):
        delta_events(np.zeros((3, 2)), 0)
    assert log_mel(tone(300, 40)).shape == (20, 32)  # shorter than a window


# ---------------------------------------------------------------- the set itself


def test_a_subset_is_stratified_and_reproducible() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((60, 4, 3), np.float32), np.repeat([0, 1, 2], 20)
    whole = Sequences("s", x, y, x[:9], y[::7].copy(), 3, "t", "s", "l")
    part = whole.subset(12, 6, seed=3)
    assert np.bincount(part.y_train).tolist() == [4, 4, 4] and part.shape == (4, 3)
    assert np.array_equal(part.x_train, whole.subset(12, None, seed=3).x_train)
    assert repr(part) == "Sequences('s', 12 train + 6 test, shape (4, 3), 3 classes)"
    assert set(whole.arrays()) == {"x_train", "y_train", "x_test", "y_test"} and len(whole.quick(0).x_train) == 60
    for changes in ({"x_train": x.astype(np.float64)}, {"x_test": x[:0]}, {"y_train": y + 1}, {"x_test": x[:9, :2]}):
        fields = {"x_train": x, "y_train": y, "x_test": x[:9], "y_test": y[::7].copy(), **changes}
        with pytest.raises(ValueError, match=r"s: [xy]_"):
            Sequences("s", n_classes=3, title="t", source="s", licence="l", **fields)
    with pytest.raises(ValueError, match="not finite"):
        Sequences("s", x * np.float32(np.nan), y, x[:9], y[::7].copy(), 3, "t", "s", "l")


def test_real_n_mnist_is_the_published_part(real_root: Callable) -> None:
    root = real_root("n-mnist-small")
    found = read_n_mnist(root / "n-mnist-small" / "NMNISTsmall.tar.xz")
    assert {k: len(v) for k, v in found.items()} == {"train": 1000, "test": 100}
    assert isinstance(found["train"], EventRecordings) and found["train"].labels[:5].tolist() == [5, 0, 4, 1, 9]
    counts = np.diff(np.concatenate([found["train"].start, found["train"].start[-1] + found["test"].start[1:]]))
    assert counts.min() == 1069 and counts.max() == 7152 and abs(counts.sum() - 4.5e6) < 1e5
    assert data.verify("n-mnist-small", root=root)[0].message == "format and checksum right"


def test_real_spoken_digits_are_the_published_ones(real_root: Callable) -> None:
    root = real_root("fsdd")
    found = data.load("fsdd", root=root)
    assert np.bincount(found.y_train).tolist() == [270] * 10 and np.bincount(found.y_test).tolist() == [30] * 10
    assert data.verify("fsdd", root=root)[0].ok
