"""Properties of the CIFAR-10 reader, binary version and python version."""

from __future__ import annotations

import gzip
import lzma
import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.data import DataError, DataNotFound, read_cifar10

PACK = {"": bytes, ".gz": gzip.compress, ".xz": lambda data: lzma.compress(data, preset=0)}


def make(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), rng.integers(0, 10, n)


def binary(images: np.ndarray, labels: np.ndarray) -> bytes:
    return np.hstack([labels.astype(np.uint8)[:, None], images.reshape(len(images), -1)]).tobytes()


def text(value: bytes) -> bytes:
    """A string as Python 2 writes it into protocol 2."""
    return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value


def published(images: np.ndarray, labels: np.ndarray) -> bytes:
    """A batch instruction by instruction, as the published files are written (protocol 2 of Python 2)."""
    n = len(images)
    small = b"".join(b"K" + bytes([label]) for label in labels.tolist())
    names = b"".join(text(b"image_%d.png" % i) + b"r" + struct.pack("<I", 20 + i) for i in range(n))
    dtype = (
        b"cnumpy\ndtype\nq\x08" + text(b"u1") + b"K\x00K\x01\x87Rq\x09(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ"
    )
    dtype += b"\xff\xff\xff\xffK\x00tb"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85q\x05" + text(b"b") + b"\x87Rq\x07"
    )
    state = (
        b"(K\x01" + b"J" + struct.pack("<i", n) + b"M\x00\x0c\x86" + dtype + b"\x89" + text(images.tobytes()) + b"tb"
    )
    entries = text(b"data") + b"q\x02" + array + state
    entries += text(b"labels") + b"q\x0b]q\x0c(" + small + b"e"
    entries += text(b"batch_label") + b"q\x0d" + text(b"training batch 1 of 5") + b"q\x0e"
    entries += text(b"filenames") + b"q\x0f]q\x10(" + names + b"e"
    return b"\x80\x02}q\x01(" + entries + b"u."


@settings(max_examples=30)
@given(n=st.integers(1, 6), seed=st.integers(0, 99), kind=st.sampled_from(sorted(PACK)))
def test_binary_batch_comes_back_however_it_is_packed(n: int, seed: int, kind: str, scratch: Callable) -> None:
    images, labels = make(n, seed)
    with scratch() as folder:
        file = folder / f"data_batch_1.bin{kind}"
        file.write_bytes(PACK[kind](binary(images, labels)))
        x, y = read_cifar10(file, records=n)
    assert x.dtype == np.uint8 and y.dtype == np.int64 and x.flags.writeable
    assert np.array_equal(x, images) and np.array_equal(y, labels)


@settings(max_examples=30)
@given(n=st.integers(1, 6), seed=st.integers(0, 99))
def test_python_batch_of_the_published_form_comes_back(n: int, seed: int, scratch: Callable) -> None:
    images, labels = make(n, seed)
    program = published(images, labels)
    # The form made here is one that Python itself takes for such a batch.
    genuine = pickle.loads(program, encoding="bytes")
    assert np.array_equal(genuine[b"data"], images.reshape(n, -1)) and genuine[b"labels"] == labels.tolist()
    with scratch() as folder:
        (folder / "data_batch_1").write_bytes(program)
        x, y = read_cifar10(folder / "data_batch_1")
    assert x.dtype == np.uint8 and y.dtype == np.int64 and x.flags.writeable
    assert np.array_equal(x, images) and np.array_equal(y, labels)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("key", [str, str.encode])
def test_python_batch_written_again_by_python_3_comes_back(
    protocol: int, order: str, key: Callable, tmp_path: Path
) -> None:
    images, labels = make(4)
    batch = {key("data"): np.asarray(images.reshape(4, -1), order=order), key("labels"): labels.tolist()}
    (tmp_path / "test_batch").write_bytes(pickle.dumps({**batch, key("filenames"): ["a.png"] * 4}, protocol))
    x, y = read_cifar10(tmp_path / "test_batch", records=4)
    assert np.array_equal(x, images) and np.array_equal(y, labels)


@pytest.mark.parametrize("kind", sorted(PACK))
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda b: b[:-1], "6145 bytes, expected a multiple of 3073"),
        (lambda b: b + b"\0", "expected at most 2 records of 3073 bytes"),
        (lambda b: b[:3073], "1 records, expected 2"),
        (lambda b: b"", "0 records, expected 2"),
        (lambda b: b + b[:3073], "expected at most 2 records"),
        (lambda b: b[:3073] + b"\x0a" + b[3074:], r"record 1 has label 10, expected 0\.\.9"),
        (lambda b: b"\xff" + b[1:], r"record 0 has label 255, expected 0\.\.9"),
    ],
)
def test_binary_reader_says_what_is_wrong(kind: str, change: Callable, said: str, tmp_path: Path) -> None:
    file = tmp_path / f"data_batch_1.bin{kind}"
    file.write_bytes(PACK[kind](change(binary(*make(2)))))
    with pytest.raises(DataError, match=said) as caught:
        read_cifar10(file, records=2)
    assert str(caught.value).startswith(f"{file}: ")


def test_binary_reader_of_any_size_rejects_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(DataError, match="no records, expected at least 1"):
        read_cifar10(tmp_path / "a.bin")


@pytest.mark.parametrize("kind", [".gz", ".xz"])
def test_binary_reader_rejects_damaged_packing(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"data_batch_1.bin{kind}"
    packed = bytearray(PACK[kind](binary(*make(2))))
    packed[len(packed) // 2] ^= 0xFF
    file.write_bytes(packed)
    with pytest.raises(DataError, match=f"{file}: "):
        read_cifar10(file, records=2)
    file.write_bytes(b"this was never packed")
    with pytest.raises(DataError, match=f"{file}: damaged or not a {kind} file"):
        read_cifar10(file, records=2)


def test_binary_reader_unpacks_no_more_than_it_needs(tmp_path: Path) -> None:
    (tmp_path / "a.bin.xz").write_bytes(lzma.compress(bytes(64 << 20), preset=0))
    tracemalloc.start()
    with pytest.raises(DataError, match="more than 9219 bytes"):
        read_cifar10(tmp_path / "a.bin.xz", records=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_reader_says_that_a_batch_is_missing(tmp_path: Path) -> None:
    for name in ("data_batch_1.bin", "data_batch_1.bin.xz", "data_batch_1"):
        with pytest.raises(DataNotFound, match=f"{name}: no such file"):
            read_cifar10(tmp_path / name)


class _Attack:
    """Unpickled as usual, it calls what it holds."""

    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("place", ["top", "data", "labels", "filenames"])
def test_malicious_pickle_is_refused_and_not_run(protocol: int, place: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    attack = _Attack(os.system, f"touch {trace}")
    images, labels = make(2)
    batch: object = {b"data": images.reshape(2, -1), b"labels": labels.tolist(), b"filenames": []}
    batch = attack if place == "top" else {**batch, place.encode(): attack}  # type: ignore[dict-item]
    program = pickle.dumps(batch, protocol)
    (tmp_path / "data_batch_1").write_bytes(program)
    with pytest.raises(DataError, match=r"has no place in a batch|nothing was run"):
        read_cifar10(tmp_path / "data_batch_1")
    assert not trace.exists()
    if place == "top":  # the attack is a real one
        pickle.loads(program)
        assert trace.exists()


def wrapped(value: bytes, key: bytes = b"filenames") -> bytes:
    """A batch of one image in which `key` has the value that these instructions make."""
    whole = published(*make(1))
    return whole[:-2] + text(key) + value + b"u."


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"cbuiltins\neval\n", "builtins.eval, which no CIFAR-10 batch needs; nothing was run"),
        (b"cnumpy\nload\n", "numpy.load"),
        (b"cnumpy.core.multiarray\nfromfile\n", "numpy.core.multiarray.fromfile"),
        (b"cnumpy\nndarray.tofile\n", "numpy.ndarray.tofile"),
        (b"c_codecs\ndecode\n", "_codecs.decode"),
        (b"cnumpy\nndarray\n)R", "not a CIFAR-10 batch"),  # a stand-in is not to be called
        (b"cnumpy\nndarray\n}U\x01aK\x01sb", "not a CIFAR-10 batch"),  # nor to be changed
        (b"cnumpy\ndtype\nN}U\x08__call__K\x01s\x86b", "not a CIFAR-10 batch"),
        (b"c_codecs\nencode\nX\x01\x00\x00\x00aU\x03hex\x86R", "_codecs.encode with .*hex.*, expected latin1"),
        (b"cnumpy\ndtype\n)\x81", "instruction NEWOBJ"),
        (b"(cnumpy\ndtype\no", "instruction OBJ"),
        (b"(inumpy\ndtype\n", "instruction INST"),
        (b"U\x01aQ", "instruction BINPERSID"),
        (b"\x82\x01", "instruction EXT1"),
        (b"Nr\xff\xff\xff\xff", "memo slot 4294967295"),
        (b")" + b"\x85" * 2000 + b"}(h\x01Nu", "more than 1000 tuples"),
        (b"T\xff\xff\xff\x7fabc", "not a whole pickle"),
        (b"B\xff\xff\xff\x7fabc", "not a whole pickle"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc", "not a whole pickle"),
        (b"h\xf0", "not a CIFAR-10 batch"),
    ],
)
def test_python_reader_refuses_every_instruction_a_batch_does_not_need(value: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(wrapped(value))
    with pytest.raises(DataError, match=said):
        read_cifar10(tmp_path / "data_batch_1")


def test_python_reader_takes_the_harmless_wrapping_of_these_tests(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(wrapped(b"N"))
    assert len(read_cifar10(tmp_path / "data_batch_1")[1]) == 1


def test_python_reader_bounds_the_number_of_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refimpl.data.cifar_pickle.MAX_INSTRUCTIONS", 60)
    (tmp_path / "data_batch_1").write_bytes(wrapped(b"N" * 60))
    with pytest.raises(DataError, match="more than 60 instructions"):
        read_cifar10(tmp_path / "data_batch_1")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda b: {k: v for k, v in b.items() if k != "data"}, "expected 'data' among them"),
        (lambda b: {k: v for k, v in b.items() if k != "labels"}, "expected 'labels' among them"),
        (lambda b: {**b, "labels": b["labels"][:-1]}, "3 images and 2 labels"),
        (lambda b: {**b, "labels": [0, 1, 10]}, r"record 2 has label 10, expected 0\.\.9"),
        (lambda b: {**b, "labels": [0, -1, 1]}, r"record 1 has label -1, expected 0\.\.9"),
        (lambda b: {**b, "labels": [0, True, 1]}, "labels are no list of whole numbers"),
        (lambda b: {**b, "labels": [0, "1", 1]}, "labels are no list of whole numbers"),
        (lambda b: {**b, "labels": tuple(b["labels"])}, "labels are no list of whole numbers"),
        (lambda b: {**b, "data": [1, 2, 3]}, "data is no NumPy array"),
        (lambda b: {**b, "data": b["data"].astype(np.int16)}, "dtype 'i2', expected u1"),
        (lambda b: {**b, "data": b["data"][:, :-1].copy()}, r"expected \(N, 3072\) bytes"),
        (lambda b: {**b, "data": b["data"].ravel()}, r"expected \(N, 3072\) bytes"),
        (lambda b: [b], "the pickle holds a list, expected a dict"),
        (lambda b: {"data": b["data"][:0], "labels": []}, "no records|0 records"),
    ],
)
def test_python_reader_says_what_is_wrong(change: Callable, said: str, tmp_path: Path) -> None:
    images, labels = make(3)
    batch = change({"data": images.reshape(3, -1), "labels": labels.tolist()})
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(batch, 3))
    with pytest.raises(DataError, match=said) as caught:
        read_cifar10(tmp_path / "data_batch_1")
    assert str(caught.value).startswith(f"{tmp_path / 'data_batch_1'}: ")


def test_python_reader_rejects_an_array_whose_shape_lies(tmp_path: Path) -> None:
    program = published(*make(2)).replace(b"J\x02\x00\x00\x00", b"J\x03\x00\x00\x00")
    (tmp_path / "data_batch_1").write_bytes(program)
    with pytest.raises(DataError, match=r"shape \(3, 3072\) and 6144 bytes"):
        read_cifar10(tmp_path / "data_batch_1")


def test_python_reader_rejects_more_than_it_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(published(*make(3)))
    with pytest.raises(DataError, match="3 records, expected 2"):
        read_cifar10(tmp_path / "data_batch_1", records=2)
    (tmp_path / "data_batch_1").write_bytes(published(*make(20)))
    with pytest.raises(DataError, match=r"more than .* bytes"):
        read_cifar10(tmp_path / "data_batch_1", records=2)


def test_python_reader_rejects_trailing_bytes(tmp_path: Path) -> None:
    (tmp_path / "data_batch_1").write_bytes(published(*make(1)) + b"abc")
    with pytest.raises(DataError, match="3 bytes follow the end of the pickle"):
        read_cifar10(tmp_path / "data_batch_1")


@settings(max_examples=60)
@given(data=st.data())
def test_python_reader_rejects_truncated_file(data: st.DataObject, scratch: Callable) -> None:
    whole = published(*make(1))
    middle = st.sampled_from([*range(300), *range(len(whole) - 150, len(whole))])
    with scratch() as folder:
        (folder / "data_batch_1").write_bytes(whole[: data.draw(middle)])
        with pytest.raises(DataError, match="data_batch_1: "):
            read_cifar10(folder / "data_batch_1")


@settings(max_examples=150)
@given(data=st.data())
def test_python_reader_raises_nothing_but_data_error_when_bytes_change(data: st.DataObject, scratch: Callable) -> None:
    program = bytearray(published(*make(1)))
    frame = [*range(230), *range(len(program) - 110, len(program))]  # all but the pixels
    for at in data.draw(st.lists(st.sampled_from(frame), min_size=1, max_size=3)):
        program[at] = data.draw(st.integers(0, 255))
    with scratch() as folder:
        (folder / "data_batch_1").write_bytes(program)
        try:
            x, y = read_cifar10(folder / "data_batch_1")
        except DataError as error:
            assert "data_batch_1: " in str(error)
        else:
            assert x.shape[1:] == (3, 32, 32) and len(x) == len(y)


@given(noise=st.binary(max_size=80))
def test_reader_raises_nothing_but_data_error_on_noise(noise: bytes, scratch: Callable) -> None:
    with scratch() as folder:
        for name in ("data_batch_1", "data_batch_1.bin", "data_batch_1.bin.gz", "data_batch_1.bin.xz"):
            (folder / name).write_bytes(noise)
            with pytest.raises(DataError, match=name):
                read_cifar10(folder / name)
