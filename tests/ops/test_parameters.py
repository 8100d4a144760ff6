"""Parameters of the C kernels: what may be set, and that results stay within the error bounds whatever is set."""

import threading
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tests.strategies  # noqa: F401
from refimpl import ops
from refimpl.backends import native, operations
from tests.harness import INPUTS, array, assert_close, call, size, team, tolerances

PARAMETERS = native.parameters()
BUILT_ON = {  # operations whose kernels read the parameters of a family
    "gemm": ("matmul", "matmul_backward", "linear", "linear_backward", "lstm_sequence", "gru_sequence_backward"),
    "dense": ("dense",),
    "target": ("target_step", "rnn_target_sequence"),
    "attention": ("attention", "attention_backward"),
    "conv": tuple(n for n in operations() if n.startswith("conv")),
    "recurrent": tuple(n for n in operations() if n.startswith(("rnn_", "gru_", "lstm_"))),
    "spiking": tuple(n for n in operations() if n.startswith(("lif_", "leaky_"))),
}
RELAXED = settings(deadline=None, suppress_health_check=list(HealthCheck))
pytestmark = pytest.mark.skipif(native.lib is None, reason="the C core is not built")


@contextmanager
def parameters(values):
    try:
        for name, value in values.items():
            native.set_parameter(name, value)
        yield
    finally:
        for name in values:
            native.set_parameter(name, None)


def drawn(data, family):
    mine = {name: p.values for name, p in PARAMETERS.items() if name.startswith(f"{family}_")}
    return {name: data.draw(st.sampled_from(values), label=name) for name, values in mine.items()}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("family", "name"), [(f, name) for f, names in BUILT_ON.items() for name in names])
@settings(parent=RELAXED, max_examples=20)
@given(data=st.data())
def test_results_stay_within_the_bound_for_all_values(family, name, dtype, data):
    args = data.draw(st.composite(lambda draw: INPUTS[name](draw, np.dtype(dtype)))(), label="args")
    expected = call(name, "numpy", args)
    with parameters(drawn(data, family)), team(data.draw(st.sampled_from([1, 2, 3]), label="threads")):
        got = call(name, "native", args)
    assert_close(name, got, expected, tolerances(name, args, expected, dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(parent=RELAXED, max_examples=30)
@given(data=st.data())
def test_products_beyond_all_blocks(dtype, data):
    """One extent is larger than every block of its kind."""
    large = data.draw(st.sampled_from([(530, 0, 0), (0, 4200, 0), (0, 0, 1600)]), label="large")
    M, N, K = (n - size(data.draw, 0, 33) if n else size(data.draw, 5, 40) for n in large)
    ta, tb = data.draw(st.booleans()), data.draw(st.booleans())
    a = array(data.draw, (K, M) if ta else (M, K), dtype)
    b = array(data.draw, (N, K) if tb else (K, N), dtype)
    args = {"a": a, "b": b, "transpose_a": ta, "transpose_b": tb}
    expected = call("matmul", "numpy", args)
    with parameters(drawn(data, "gemm")):
        results = []
        for threads in (1, 2, 3):
            with team(threads):
                results.append(call("matmul", "native", args))
    assert_close("matmul", results[0], expected, tolerances("matmul", args, expected, dtype))
    assert all(np.array_equal(r[0], results[0][0]) for r in results)  # no bit depends on the threads


@pytest.mark.parametrize("causal", [False, True])
@settings(parent=RELAXED, max_examples=20)
@given(data=st.data())
def test_attention_beyond_all_tiles(causal, data):
    rng = np.random.default_rng(0)
    T, S = (data.draw(st.integers(257, 300), label=axis) for axis in "TS")
    q, k, v, dy = (rng.standard_normal(s, np.float32) for s in ((1, 2, T, 7), (1, 1, S, 7), (1, 1, S, 5), (1, 2, T, 5)))
    args = {"q": q, "k": k, "v": v, "causal": causal}
    expected = call("attention", "numpy", args)
    back = {"dy": dy, **args, "y": expected[0], "lse": expected[1]}
    gradients = call("attention_backward", "numpy", back)
    with parameters(drawn(data, "attention")), team(data.draw(st.sampled_from([1, 2]), label="threads")):
        got, got_gradients = call("attention", "native", args), call("attention_backward", "native", back)
    assert_close("attention", got, expected, tolerances("attention", args, expected, "float32"))
    bounds = tolerances("attention_backward", back, gradients, "float32")
    assert_close("attention_backward", got_gradients, gradients, bounds)


def test_each_parameter_stands_at_its_default_which_is_allowed():
    assert PARAMETERS
    for name, p in PARAMETERS.items():
        assert p.value == p.default, name
        assert p.default in p.values and list(p.values) == sorted(set(p.values)), name
        assert name.endswith(("_f32", "_f64")), name


def test_every_parameter_is_drawn_by_a_test_of_results():
    assert {name.split("_")[0] for name in PARAMETERS} <= set(BUILT_ON)


def test_a_value_stays_until_it_is_set_again():
    name = "gemm_kc_f32"
    before = PARAMETERS[name]
    other = next(v for v in before.values if v != before.default)
    with parameters({name: other}):
        assert native.parameters()[name] == before._replace(value=other)
        assert native.parameters()["gemm_kc_f64"] == PARAMETERS["gemm_kc_f64"]
    assert native.parameters()[name] == before


def test_a_parameter_reaches_the_kernel_and_the_same_values_give_the_same_bits():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((100, 1000), np.float32), rng.standard_normal((1000, 100), np.float32)
    results = []
    for kc in (128, 768, 128):
        with parameters({"gemm_kc_f32": kc}):
            results.append(ops.matmul.bodies["native"](a, b))
    assert np.array_equal(results[0], results[2])
    assert not np.array_equal(results[0], results[1])  # other sums of blocks


def test_a_value_holds_for_the_thread_that_sets_it():
    name = "gemm_kc_f32"
    seen = []
    with parameters({name: next(v for v in PARAMETERS[name].values if v != PARAMETERS[name].default)}):
        thread = threading.Thread(target=lambda: seen.append(native.parameters()[name]))
        thread.start()
        thread.join()
    assert seen == [PARAMETERS[name]]


@pytest.mark.parametrize("value", [0, -1, 385, 384.5, "384", True, 1 << 80])
def test_other_values_are_refused_and_change_nothing(value):
    with pytest.raises(ValueError, match=r"gemm_kc_f32 is .*, expected one of 128, "):
        native.set_parameter("gemm_kc_f32", value)
    assert native.parameters() == PARAMETERS


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no parameter of the C core is named 'gemm_kc'"):
        native.set_parameter("gemm_kc", 384)


def test_without_the_core_there_are_none(monkeypatch):
    monkeypatch.setattr(native, "lib", None)
    assert native.parameters() == {}
    with pytest.raises(ValueError, match="no parameter"):
        native.set_parameter("gemm_kc_f32", 384)
