"""Properties of the IDX reader and writer: what is written comes back; what is damaged is refused by name."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refimpl.data import DataError, DataNotFound, read_idx, write_idx
from refimpl.data.idx import DTYPES

arrays = hnp.arrays(
    dtype=st.sampled_from(list(DTYPES.values())), shape=hnp.array_shapes(max_dims=5, min_side=0, max_side=6)
)
IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def idx(code: int, shape: tuple[int, ...], content: bytes) -> bytes:
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, code, len(shape), *shape) + content


@given(array=arrays, packed=st.booleans())
def test_idx_round_trip_keeps_dtype_shape_and_bits(array: np.ndarray, packed: bool, scratch: Callable) -> None:
    with scratch() as folder:
        file = folder / ("a.gz" if packed else "a")
        write_idx(file, array)
        back = read_idx(file)
        assert list(folder.iterdir()) == [file]
    assert back.dtype == array.dtype and back.shape == array.shape and back.dtype.isnative
    assert back.tobytes() == array.tobytes()


@given(array=arrays)
def test_idx_writes_any_byte_order_and_stride(array: np.ndarray, scratch: Callable) -> None:
    with scratch() as folder:
        write_idx(folder / "swapped", array.astype(array.dtype.newbyteorder("S")))
        write_idx(folder / "transposed", array.T)
        assert read_idx(folder / "swapped").tobytes() == array.tobytes()
        assert read_idx(folder / "transposed").tobytes() == array.T.tobytes()


def test_idx_layout_is_the_published_one(tmp_path: Path) -> None:
    write_idx(tmp_path / "a", np.array([[1, -2]], np.int16))
    assert (tmp_path / "a").read_bytes() == bytes.fromhex("00000b02 00000001 00000002 0001 fffe")


def test_idx_writer_gives_the_same_packed_bytes_at_any_time_and_name(tmp_path: Path) -> None:
    write_idx(tmp_path / "a.gz", IMAGES)
    write_idx(tmp_path / "b.gz", IMAGES)
    first = (tmp_path / "a.gz").read_bytes()
    assert first == (tmp_path / "b.gz").read_bytes()
    assert first[4:8] == b"\0\0\0\0"  # the time in the header


@pytest.mark.parametrize(
    "array", [np.zeros(3, np.uint16), np.zeros(3, complex), np.zeros(3, bool), np.array(1, np.uint8)]
)
def test_idx_writer_rejects_what_the_format_has_not(array: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot write .* expected"):
        write_idx(tmp_path / "a", array)
    assert list(tmp_path.iterdir()) == []


@given(array=arrays, packed=st.booleans(), data=st.data())
def test_idx_reader_rejects_truncated_file(
    array: np.ndarray, packed: bool, data: st.DataObject, scratch: Callable
) -> None:
    with scratch() as folder:
        write_idx(folder / "whole", array)
        whole = (folder / "whole").read_bytes()
        cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
        file = folder / ("a.gz" if packed else "a")
        file.write_bytes(gzip.compress(cut) if packed else cut)
        with pytest.raises(DataError, match=f"{file}: .*expected"):
            read_idx(file)


@given(array=arrays, packed=st.booleans(), extra=st.binary(min_size=1, max_size=9))
def test_idx_reader_rejects_trailing_bytes(array: np.ndarray, packed: bool, extra: bytes, scratch: Callable) -> None:
    with scratch() as folder:
        write_idx(folder / "whole", array)
        long = (folder / "whole").read_bytes() + extra
        file = folder / ("a.gz" if packed else "a")
        file.write_bytes(gzip.compress(long) if packed else long)
        with pytest.raises(DataError, match=f"{file}: more bytes after the header, expected"):
            read_idx(file)


@given(noise=st.binary(max_size=60), packed=st.sampled_from(["", ".gz", ".xz"]))
def test_idx_reader_raises_nothing_but_data_error_on_noise(noise: bytes, packed: str, scratch: Callable) -> None:
    with scratch() as folder:
        file = folder / f"a{packed}"
        file.write_bytes(noise)
        try:
            read_idx(file)
        except DataError as error:
            assert str(file) in str(error)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "0 bytes, expected a 4-byte magic number"),
        (b"\x01\x00\x08\x01" + bytes(8), "starts with bytes 01 00 08 01, expected 00 00"),
        (gzip.compress(b"x", mtime=0), r"packed with gzip\? then its name must end in \.gz"),
        (idx(0x0A, (3,), b"abc"), "dtype code 0x0a, expected one of 0x08 uint8"),
        (idx(0x08, (), b"a"), r"0 dimensions, expected 1\.\.32"),
        (bytes((0, 0, 8, 33)) + bytes(4 * 33), r"33 dimensions, expected 1\.\.32"),
        (b"\0\0\x08\x03" + bytes(7), "11 bytes, expected a header of 16 for 3 dimensions"),
        (
            idx(0x08, (2**31, 2**31), b"abc"),
            r"header promises uint8 of shape \(2147483648, 2147483648\), expected at most",
        ),
        (idx(0x08, (0, 2**32 - 1, 2**32 - 1), b""), "header promises"),
        (idx(0x0E, (2**32 - 1,) * 32, b""), "header promises"),
        (idx(0x08, (5,), b"abc"), r"only 3 bytes after the header, expected 5 for uint8 of shape \(5,\)"),
    ],
)
def test_idx_reader_says_what_is_wrong(content: bytes, text: str, tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(content)
    with pytest.raises(DataError, match=text) as caught:
        read_idx(file)
    assert str(caught.value).startswith(f"{file}: ")


def test_idx_reader_names_the_file_swapped_for_another(tmp_path: Path) -> None:
    write_idx(tmp_path / "labels", np.zeros(5, np.uint8))
    write_idx(tmp_path / "images", IMAGES)
    with pytest.raises(DataError, match=r"labels: 1 dimensions \(5,\), expected 3 \(is this a label file\?\)"):
        read_idx(tmp_path / "labels", dims=3)
    with pytest.raises(DataError, match=r"images: 3 dimensions .* expected 1 \(is this an image file\?\)"):
        read_idx(tmp_path / "images", dims=1)
    with pytest.raises(DataError, match="numbers are uint8, expected float32"):
        read_idx(tmp_path / "images", dtype=np.float32)


def test_idx_reader_takes_memory_for_what_is_there_not_for_what_is_promised(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(0x08, (1 << 29,), b"abc")))
    tracemalloc.start()
    with pytest.raises(DataError, match="only 3 bytes"):
        read_idx(tmp_path / "a.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_idx_reader_unpacks_no_more_than_the_header_promises(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(0x08, (10,), bytes(64 << 20)), compresslevel=1))
    tracemalloc.start()
    with pytest.raises(DataError, match="more bytes after the header, expected 10"):
        read_idx(tmp_path / "a.gz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_idx_reader_honours_its_bound(tmp_path: Path) -> None:
    write_idx(tmp_path / "a", IMAGES)
    assert np.array_equal(read_idx(tmp_path / "a", max_bytes=24), IMAGES)
    with pytest.raises(DataError, match="expected at most 23 bytes"):
        read_idx(tmp_path / "a", max_bytes=23)


def test_idx_reader_says_that_a_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match=r"nowhere: no such file"):
        read_idx(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        read_idx(tmp_path / "nowhere")
