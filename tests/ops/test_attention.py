import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl import ops
from refimpl.backends import backend, native
from tests.harness import team

BODIES = pytest.mark.parametrize("body", ["numpy", "native"])


def draw(B=2, H=4, G=2, T=7, S=9, D=6, E=5, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    shapes = [(B, H, T, D), (B, G, S, D), (B, G, S, E), (B, H, T, E)]
    return [rng.standard_normal(s).astype(dtype) for s in shapes]


@BODIES
def test_two_keys_by_hand(body):
    # scores 0 and log 3, so weights 1/4 and 3/4: y = 1/4 * 8 + 3/4 * 4 = 5 and lse = log 4
    q, k = np.array([[[[1.0]]]]), np.array([[[[0.0], [np.log(3.0)]]]])
    v = np.array([[[[8.0], [4.0]]]])
    with backend(body):
        y, lse = ops.attention(q, k, v)
        # dp = dy v = (8, 4), delta = 5, ds = (3/4, -3/4), dq = -3/4 log 3
        dq, dk, dv = ops.attention_backward(np.ones_like(y), q, k, v, y, lse)
    np.testing.assert_allclose(y, [[[[5.0]]]])
    np.testing.assert_allclose(lse, [[[np.log(4.0)]]])
    np.testing.assert_allclose(dq, [[[[-0.75 * np.log(3.0)]]]])
    np.testing.assert_allclose(dk, [[[[0.75], [-0.75]]]])
    np.testing.assert_allclose(dv, [[[[0.25], [0.75]]]])


@BODIES
def test_a_query_that_sees_no_key_gives_zero_and_minus_infinity(body):
    q, k, v, dy = draw(T=9, S=4)
    padding = np.zeros((2, 4), bool)
    padding[1] = True
    with backend(body):
        y, lse = ops.attention(q, k, v, causal=True, padding=padding)
        grads = ops.attention_backward(dy, q, k, v, y, lse, causal=True, padding=padding)
    blind = np.ones((2, 4, 9), bool)
    blind[0, :, 5:] = False  # query t sees keys up to t - 5
    assert np.array_equal(np.isneginf(lse), blind)
    assert (y[blind] == 0).all() and np.isfinite(y).all()
    assert all(np.isfinite(g).all() for g in grads)
    assert (grads[0][blind] == 0).all() and (grads[1][1] == 0).all() and (grads[2][1] == 0).all()


@BODIES
@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (0, 0)])
def test_no_keys_or_no_queries(body, shape):
    q, k, v, dy = draw(T=shape[0], S=shape[1])
    with backend(body):
        y, lse = ops.attention(q, k, v)
        dq, dk, dv = ops.attention_backward(dy, q, k, v, y, lse)
    assert (y == 0).all() and np.isneginf(lse).all()
    assert not dq.any() and not dk.any() and not dv.any()


@BODIES
def test_causal_aligns_the_last_query_with_the_last_key(body):
    q, k, v, _ = draw(T=3, S=5)
    mask = np.where(np.arange(5) <= np.arange(3)[:, None] + 2, 0.0, -np.inf)[None, None]
    with backend(body):
        for a, b in zip(ops.attention(q, k, v, causal=True), ops.attention(q, k, v, mask=mask)):
            np.testing.assert_array_equal(a, b)


@BODIES
def test_causal_query_does_not_depend_on_later_keys(body):
    q, k, v, _ = draw(T=150, S=150, seed=3)
    with backend(body):
        y, _ = ops.attention(q, k, v, causal=True)
        k[:, :, 100:] += 1
        v[:, :, 100:] -= 1
        later, _ = ops.attention(q, k, v, causal=True)
    np.testing.assert_array_equal(y[:, :, :100], later[:, :, :100])
    assert (y[:, :, 100:] != later[:, :, 100:]).any()


@BODIES
def test_padding_equals_leaving_the_keys_out(body):
    q, k, v, dy = draw(B=1, S=200)
    padding = np.ones((1, 200), bool)
    padding[0, [3, 70, 71, 199]] = False
    seen = ~padding[0]
    with backend(body):
        y, lse = ops.attention(q, k, v, padding=padding)
        few = ops.attention(q, k[:, :, seen], v[:, :, seen])
        dq, dk, dv = ops.attention_backward(dy, q, k, v, y, lse, padding=padding)
        few_d = ops.attention_backward(dy, q, k[:, :, seen], v[:, :, seen], *few)
    for a, b in zip((y, lse, dq, dk[:, :, seen], dv[:, :, seen]), (*few, *few_d)):
        np.testing.assert_allclose(a, b, atol=1e-13)
    assert not dk[:, :, padding[0]].any() and not dv[:, :, padding[0]].any()


@BODIES
@pytest.mark.parametrize("D", [1, 6, 40])
def test_one_query_at_a_time_equals_all_at_once(body, D):
    q, k, v, _ = draw(T=20, S=150, D=D, E=D)
    mask = np.where(np.random.default_rng(1).random((2, 1, 20, 150)) < 0.5, 0.5, -np.inf)
    padding = np.arange(150) < np.array([[10], [80]])
    with backend(body):
        y, lse = ops.attention(q, k, v, mask=mask, padding=padding, causal=True)
        for t in range(20):
            keys = slice(0, t + 131)
            one, lse_one = ops.attention(
                q[:, :, [t]], k[:, :, keys], v[:, :, keys], mask[:, :, [t], keys], padding[:, keys], causal=True
            )
            np.testing.assert_allclose(one, y[:, :, [t]], atol=1e-13)
            np.testing.assert_allclose(lse_one, lse[:, :, [t]], atol=1e-13)


@BODIES
def test_shared_key_heads_equal_repeated_ones(body):
    q, k, v, dy = draw(H=6, G=2, T=40, S=70)
    repeated = [np.repeat(a, 3, axis=1) for a in (k, v)]
    with backend(body):
        y, lse = ops.attention(q, k, v, causal=True)
        y2, lse2 = ops.attention(q, *repeated, causal=True)
        dq, dk, dv = ops.attention_backward(dy, q, k, v, y, lse, causal=True)
        dq2, dk2, dv2 = ops.attention_backward(dy, q, *repeated, y2, lse2, causal=True)
    summed = [a.reshape(2, 2, 3, *a.shape[2:]).sum(axis=2) for a in (dk2, dv2)]
    for a, b in zip((y, lse, dq, dk, dv), (y2, lse2, dq2, *summed)):
        np.testing.assert_allclose(a, b, atol=1e-12)


@BODIES
def test_adding_a_number_to_all_scores_changes_only_lse(body):
    q, k, v, _ = draw()
    with backend(body):
        y, lse = ops.attention(q, k, v)
        y2, lse2 = ops.attention(q, k, v, mask=np.full((1, 1, 1, 1), 100.0))
    np.testing.assert_allclose(y, y2, atol=1e-12)
    np.testing.assert_allclose(lse + 100, lse2, atol=1e-12)


@BODIES
def test_huge_scores_do_not_overflow(body):
    q, k, v, _ = draw(dtype=np.float32)
    with backend(body):
        y, lse = ops.attention(q * np.float32(1e4), k * np.float32(1e4), v)
    assert np.isfinite(y).all() and np.isfinite(lse).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(B=st.integers(1, 2), T=st.integers(1, 200), S=st.integers(1, 200), causal=st.booleans())
def test_the_bits_do_not_depend_on_the_number_of_threads(dtype, B, T, S, causal):
    q, k, v, dy = draw(B=B, T=T, S=S, dtype=dtype)
    results = []
    for n in (1, 2, 3, 5):  # with B = 1 and 3 or 5 threads, pairs are too few: the gradients take the other way
        with team(n), backend("native"):
            y, lse = ops.attention(q, k, v, causal=causal)
            results.append((y, lse, *ops.attention_backward(dy, q, k, v, y, lse, causal=causal)))
    for result in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(result, results[0]))


@BODIES
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"k": np.zeros((2, 3, 9, 6))}, ValueError, "v has shape"),
        ({"k": np.zeros((2, 3, 9, 6)), "v": np.zeros((2, 3, 9, 5))}, ValueError, "q has 4 heads and k has 3"),
        ({"q": np.zeros((2, 4, 7, 0)), "k": np.zeros((2, 2, 9, 0))}, ValueError, "expected a width of at least 1"),
        ({"mask": np.zeros((2, 4, 7, 8))}, ValueError, "mask has shape"),
        ({"mask": np.zeros((7, 9))}, ValueError, "mask has shape"),
        ({"mask": np.zeros((1, 1, 7, 9), bool)}, TypeError, "mask has dtype bool"),
        ({"padding": np.zeros((2, 9))}, TypeError, "padding is float64"),
        ({"padding": np.zeros((2, 7), bool)}, ValueError, "padding has shape"),
        ({"q": np.zeros((2, 4, 7, 6), np.float32)}, TypeError, "k has dtype float64"),
    ],
)
def test_bad_arguments_are_named(body, change, error, message):
    args = {**dict(zip("qkv", draw())), **change}
    with backend(body), pytest.raises(error, match=f"^attention: .*{message}"):
        ops.attention(**args)


@pytest.mark.parametrize("body", ["numpy", "native"])
@pytest.mark.parametrize(("B", "G"), [(1, 1), (1, 2), (3, 1), (2, 2)])
def test_the_first_keys_of_a_longer_cache_are_read_and_added_to_where_they_lie(body, B, G):
    rng = np.random.default_rng(0)
    cache_k, cache_v = rng.standard_normal((2, B, G, 90, 8))
    old_k, old_v = rng.standard_normal((2, B, G, 90, 8))
    q, dy = rng.standard_normal((2, B, 2 * G, 5, 8))
    k, v = cache_k[:, :, :70], cache_v[:, :, :70]
    with backend(body):
        y, lse = ops.attention(q, k, v, causal=True)
        expected, expected_lse = ops.attention(q, k.copy(), v.copy(), causal=True)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(lse, expected_lse)
        dq, dk, dv = ops.attention_backward(dy, q, k.copy(), v.copy(), y, lse, causal=True)
        into_k, into_v = old_k.copy(), old_v.copy()
        prefix = into_k[:, :, :70], into_v[:, :, :70]
        got = ops.attention_backward(dy, q, k, v, y, lse, causal=True, add_to=prefix)
    np.testing.assert_array_equal(got[0], dq)
    assert got[1] is prefix[0] and got[2] is prefix[1]
    for into, old, d in ((into_k, old_k, dk), (into_v, old_v, dv)):
        np.testing.assert_allclose(into[:, :, :70], old[:, :, :70] + d, atol=1e-14)
        np.testing.assert_array_equal(into[:, :, 70:], old[:, :, 70:])


@pytest.mark.parametrize("body", ["numpy", "native"])
def test_gradients_to_add_to_must_fit(body):
    a = np.zeros((1, 1, 2, 4))
    lse = np.zeros((1, 1, 2))
    with backend(body):
        with pytest.raises(TypeError, match=r"add_to is ndarray, expected the pair \(dk, dv\)"):
            ops.attention_backward(a, a, a, a, a, lse, add_to=a)
        with pytest.raises(ValueError, match=r"add_to\[1\] has shape \(1, 1, 2, 3\)"):
            ops.attention_backward(a, a, a, a, a, lse, add_to=(a.copy(), np.zeros((1, 1, 2, 3))))


MEASURE = """
import sys
import numpy as np
from refimpl import ops
from refimpl.backends import set_num_threads
from refimpl.lab.memory import Peak

set_num_threads(2)
H, G, T, S, D = map(int, sys.argv[1:])
q, dy = np.ones((2, 1, H, T, D), np.float32)
k, v = np.ones((2, 1, G, S, D), np.float32)
peak = Peak()
y, lse = ops.attention(q, k, v)
if sys.argv[3] == sys.argv[4]:
    ops.attention_backward(dy, q, k, v, y, lse)
print(peak.bytes())
"""


def peak_bytes(H, G, T, S, D):
    """Peak of forward and (T = S) backward pass over what was there before, the C core's scratch memory included."""
    arguments = map(str, (H, G, T, S, D))
    done = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(native.lib is None, reason="the NumPy body makes all scores at once")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is only measured on Linux")
def test_memory_grows_with_the_length_not_with_its_square():
    short, long = (peak_bytes(1, 1, T, T, 16) for T in (2048, 8192))
    scores = 4 * 8192**2
    assert long < scores / 8  # results, gradients, and what is packed
    assert long - short < 8 * 6144 * 4 * (4 * 16 + 3 * 64)  # linear: at most so many numbers for each further row


@pytest.mark.skipif(native.lib is None, reason="the NumPy body copies")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is only measured on Linux")
def test_keys_that_heads_share_are_not_copied():
    S, D = 32768, 64
    assert peak_bytes(8, 1, 1, S, D) < 4 * S * D / 2  # not even half of the one head of keys
