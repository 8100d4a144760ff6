import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from refimpl.lab import checkpoint
from refimpl.lab.errors import RunError

ARRAYS = {"a/b": np.arange(6, dtype=np.float32).reshape(2, 3), "none": np.zeros((0, 4)), "one": np.array(3)}
META = {"rng": {"state": 2**100, "inc": 5}, "loss": [0.1, float("nan")], "text": "ä"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "c.safetensors"


def same(found, arrays=ARRAYS):
    assert set(found) == set(arrays)
    for name, a in arrays.items():
        assert found[name].dtype == a.dtype and found[name].shape == a.shape and found[name].tobytes() == a.tobytes()


def test_arrays_and_meta_come_back_to_the_bit(path):
    checkpoint.save(path, ARRAYS, META)
    loaded = checkpoint.load(path)
    same(loaded.arrays)
    assert loaded.warning is None and loaded.meta["rng"] == META["rng"] and np.isnan(loaded.meta["loss"][1])
    assert checkpoint.load(path.with_name("other.safetensors")) is None


@given(
    a=st.sampled_from(["f4", "f8", "i8", "u1", "?"]).flatmap(lambda d: arrays(d, array_shapes(min_side=0, max_side=4))),
    name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(lambda n: n != "__metadata__"),
)
def test_any_array_under_any_name_comes_back(a, name, tmp_path_factory):
    path = tmp_path_factory.mktemp("c") / "c.safetensors"
    checkpoint.save(path, {name: a[::-1]}, {"name": name})
    loaded = checkpoint.load(path)
    same(loaded.arrays, {name: np.ascontiguousarray(a[::-1]).reshape(a.shape)})
    assert loaded.meta == {"name": name}


def damaged(content, how):
    flipped = bytearray(content)
    if how == "empty":
        return b""
    if how == "truncated":
        return content[:-3]
    if how == "foreign":
        return b"PK\x03\x04 this is something else" * 20
    flipped[-1 if how == "a bit of an array" else content.index(b"0.1")] ^= 4
    return bytes(flipped)


@pytest.mark.parametrize("how", ["empty", "truncated", "foreign", "a bit of an array", "a bit of the meta data"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(path, how):
    checkpoint.save(path, ARRAYS, {**META, "n": 1})
    checkpoint.save(path, {k: a + 1 for k, a in ARRAYS.items()}, {**META, "n": 2})
    path.write_bytes(damaged(path.read_bytes(), how))
    loaded = checkpoint.load(path)
    same(loaded.arrays)
    assert loaded.meta["n"] == 1
    assert "c.safetensors: damaged" in loaded.warning and "c.previous.safetensors" in loaded.warning
    checkpoint.previous(path).write_bytes(b"")
    with pytest.raises(RunError, match=r"c\.safetensors: damaged.*c\.previous\.safetensors: damaged"):
        checkpoint.load(path)


def test_a_file_of_another_program_is_refused(path):
    from safetensors.numpy import save_file

    save_file({"x": np.ones(2)}, path)
    with pytest.raises(RunError, match="not a checkpoint of a run: its format label is none"):
        checkpoint.load(path)


def test_between_the_two_renames_the_one_before_serves(path):
    checkpoint.save(path, ARRAYS, META)
    path.rename(checkpoint.previous(path))
    loaded = checkpoint.load(path)
    same(loaded.arrays)
    assert "missing" in loaded.warning
