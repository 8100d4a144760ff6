import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl import nn
from refimpl.nn import Params, init

shapes = st.dictionaries(
    st.text("abc", min_size=1, max_size=3),
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
    max_size=5,
)


@given(shapes)
def test_windows_tile_the_flat_vector_in_order(shapes):
    params = Params(shapes)
    params.flat[...] = np.arange(params.size)
    joined = [params[name].ravel() for name in shapes]
    assert np.array_equal(np.concatenate(joined) if joined else np.zeros(0), params.flat)
    assert params.size == sum(int(np.prod(s)) for s in shapes.values())


@given(shapes)
def test_windows_are_views_both_ways(shapes):
    params = Params(shapes, dtype="float64")
    for name in shapes:
        params[name][...] = 3
    assert (params.flat == 3).all()
    for name in shapes:
        assert params[name].size == 0 or np.shares_memory(params[name], params.flat)


def test_state_has_windows_of_its_own_that_no_optimiser_sees():
    params = Params({"w": (2,)}, {"mean": (3,)})
    params["mean"][...] = 5
    assert params.flat.shape == (2,) and (params.flat == 0).all() and (params.state == 5).all()
    assert "mean" not in params.zeros_like()


def test_copy_is_independent_and_assign_brings_it_back():
    params = Params({"w": (2, 2)}, {"s": (1,)})
    kept = params.copy()
    params.flat += 1
    params.state += 1
    assert (kept.flat == 0).all() and (kept.state == 0).all()
    params.assign(kept)
    assert (params.flat == 0).all() and (params.state == 0).all()
    with pytest.raises(ValueError, match="different names or shapes"):
        params.assign(Params({"w": (4,)}, {"s": (1,)}))


def test_scope_is_the_prefix_without_its_dot():
    params = Params({"a.b.w": (1,), "a.c": (2,), "ab": (3,)})
    assert list(params.scope("a")) == ["b.w", "c"]
    assert params.scope("a").scope("b")["w"] is params["a.b.w"]


def test_unknown_window_is_an_error_that_lists_the_known():
    with pytest.raises(KeyError, match="no parameter 'x', expected one of w"):
        Params({"w": (1,)})["x"]


def test_load_refuses_other_names_and_shapes_and_changes_nothing_then():
    params = Params({"a": (2,), "b": (1,)})
    for wrong in ({"a": np.ones(2)}, {"a": np.ones(2), "b": np.ones(2)}, {"a": np.ones(2), "b": np.ones(1), "c": 1}):
        with pytest.raises(ValueError, match=r"Params\.load"):
            params.load(wrong)
        assert (params.flat == 0).all()
    params.load({"a": np.ones(2), "b": np.full(1, 2)})
    assert params.flat.tolist() == [1, 1, 2]


def test_given_vector_must_fit():
    with pytest.raises(ValueError, match="expected a float vector of 2"):
        Params({"w": (2,)}, flat=np.zeros(3))
    vector = np.zeros(2)
    assert Params({"w": (2,)}, flat=vector).flat is vector


def test_the_same_seed_gives_the_same_parameters():
    layer = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    a, b = (nn.initialise(layer, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(a.flat, b.flat) and a.flat.std() > 0


@given(st.integers(1, 6), st.integers(1, 6), st.floats(0.1, 3))
def test_orthogonal_rows_or_columns(rows, columns, gain):
    w = init.orthogonal(gain)(np.random.default_rng(0), (rows, columns))
    gram = w @ w.T if rows <= columns else w.T @ w
    assert np.allclose(gram, gain**2 * np.eye(min(rows, columns)))


@pytest.mark.parametrize(
    ("made", "std"),
    [
        (init.kaiming_uniform(50), (2 / 50) ** 0.5),
        (init.kaiming_normal(50), (2 / 50) ** 0.5),
        (init.xavier_uniform(50, 30), (2 / 80) ** 0.5),
        (init.xavier_normal(50, 30), (2 / 80) ** 0.5),
        (init.normal(0.3), 0.3),
        (init.uniform(0.6), 0.6 / 3**0.5),
    ],
)
def test_initialisers_have_their_deviation(made, std):
    w = made(np.random.default_rng(1), (200, 500))
    assert abs(w.std() / std - 1) < 0.02 and abs(w.mean()) < 0.02 * std


def test_truncated_normal_stays_inside():
    w = init.truncated_normal(0.5, cut=2)(np.random.default_rng(1), (10_000,))
    assert np.abs(w).max() <= 1.0 and 0.4 < w.std() < 0.5


def test_pickles_and_copies_keep_windows_on_one_vector():
    params = Params({"a": (2,), "b": (1, 2)}, {"mean": (2,)}, np.float64)
    params["a"][...] = 7
    for other in (pickle.loads(pickle.dumps(params)), copy.deepcopy(params)):
        assert np.array_equal(other.flat, params.flat)
        other.flat += 1
        other.state += 1
        assert other["a"].tolist() == [8, 8] and other["mean"].tolist() == [1, 1] and params["a"][0] == 7
