"""Recurrent sequences: what the equivalence tests do not state."""

import numpy as np
import pytest

from refimpl import ops
from refimpl.backends import backend
from tests.harness import team

BODIES = pytest.mark.parametrize("body", ["numpy", "native"])
KINDS = pytest.mark.parametrize("kind", ["rnn", "gru", "lstm"])
GATES = {"rnn": 1, "gru": 3, "lstm": 4}


def arguments(kind, B=5, T=7, D=3, N=6, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    n = GATES[kind] * N
    shapes = [(B, T, D), (B, N), *([(B, N)] if kind == "lstm" else []), (D, n), (N, n), (n,)]
    shapes += [(n,)] if kind == "gru" else []
    return [(0.5 * rng.standard_normal(s)).astype(dtype) for s in shapes]


def split(kind, args):
    """x, states, the rest"""
    states = 2 if kind == "lstm" else 1
    return args[0], args[1 : 1 + states], args[1 + states :]


def forward(kind, args, name="sequence"):
    """Results as a tuple: states (and cells, gates)."""
    results = getattr(ops, f"{kind}_{name}")(*args)
    return results if isinstance(results, tuple) else (results,)


def backward(kind, dy, args, results, dc=None):
    x, states, rest = split(kind, args)
    given = (dy, dc) if kind == "lstm" else (dy,)
    return getattr(ops, f"{kind}_sequence_backward")(*given, x, *states, *rest[:2], *results)


def last(kind, results):
    """The states after the last step."""
    return [np.ascontiguousarray(r[:, -1]) for r in results[: 2 if kind == "lstm" else 1]]


@BODIES
@KINDS
def test_sequence_is_its_cells_one_after_another(kind, body):
    args = arguments(kind)
    x, states, rest = split(kind, args)
    with backend(body):
        results = forward(kind, args)
        for t in range(x.shape[1]):
            step = forward(kind, [x[:, t], *states, *rest], "cell")
            for whole, one in zip(results, step):
                assert np.allclose(whole[:, t], one, rtol=1e-12, atol=1e-14)
            states = step[: len(states)]


@BODIES
@KINDS
def test_two_halves_give_the_sequence_and_its_gradients(kind, body):
    args = arguments(kind)
    x, states, rest = split(kind, args)
    dy = np.random.default_rng(1).standard_normal((5, 7, 6))
    with backend(body):
        whole = forward(kind, args)
        first = [x[:, :4], *states, *rest]
        a = forward(kind, first)
        second = [x[:, 4:], *last(kind, a), *rest]
        b = forward(kind, second)
        for w, *halves in zip(whole, a, b):
            assert np.allclose(w, np.concatenate(halves, axis=1), rtol=1e-12, atol=1e-14)
        expected = backward(kind, dy, args, whole)
        late = backward(kind, dy[:, 4:], second, b)
        early_dy = dy[:, :4].copy()
        early_dy[:, -1] += late[1]
        dc = None
        if kind == "lstm":
            dc = np.zeros((5, 4, 6))
            dc[:, -1] = late[2]
        early = backward(kind, early_dy, first, a, dc)
    n = 1 + len(states)
    assert np.allclose(expected[0], np.concatenate([early[0], late[0]], axis=1))
    for e, got in zip(expected[1:n], early[1:n]):
        assert np.allclose(e, got)
    for e, one, two in zip(expected[n:], early[n:], late[n:]):
        assert np.allclose(e, one + two)


@BODIES
def test_plain_cell_by_hand(body):
    x, h = np.array([[1.0, 2.0]]), np.array([[0.5]])
    w_x, w_h, bias = np.array([[0.5], [-0.25]]), np.array([[2.0]]), np.array([-1.0])
    with backend(body):
        h_next = ops.rnn_cell(x, h, w_x, w_h, bias)  # tanh(0.5 - 0.5 - 1 + 1) = 0, slope 1
        assert h_next.tolist() == [[0.0]]
        dx, dh, dw_x, dw_h, dbias = ops.rnn_cell_backward(np.array([[4.0]]), x, h, w_x, w_h, h_next)
    assert dx.tolist() == [[2.0, -1.0]] and dh.tolist() == [[8.0]]
    assert dw_x.tolist() == [[4.0], [8.0]] and dw_h.tolist() == [[2.0]] and dbias.tolist() == [4.0]


@BODIES
def test_lstm_with_open_forget_and_shut_input_gate_keeps_its_cell(body):
    x, h0, c0, w_x, w_h, _ = arguments("lstm")
    bias = np.repeat([-100.0, 100.0, 0.0, 100.0], 6)  # i, f, g, o
    with backend(body):
        y, c, gates = ops.lstm_sequence(x, h0, c0, w_x, w_h, bias)
    assert np.allclose(c, c0[:, None], atol=1e-12)
    assert np.allclose(y, np.tanh(c0)[:, None], atol=1e-12)
    assert np.allclose(gates[..., :6], 0) and np.allclose(gates[..., 6:12], 1)


@BODIES
def test_gru_with_update_gate_at_one_keeps_its_state(body):
    x, h0, w_x, w_h, _, bias_h = arguments("gru")
    with backend(body):
        y, gates = ops.gru_sequence(x, h0, w_x, w_h, np.repeat([0.0, 100.0, 0.0], 6), bias_h)
    assert np.allclose(y, h0[:, None], atol=1e-12)
    assert np.allclose(gates[..., 6:12], 1)


@BODIES
def test_gru_with_reset_gate_at_zero_forgets_the_recurrent_product_but_for_the_update(body):
    x, h0, w_x, w_h, _, _ = arguments("gru")
    bias_x = np.repeat([-100.0, -100.0, 0.0], 6)
    with backend(body):
        y, _ = ops.gru_sequence(x, h0, w_x, w_h, bias_x, np.ones(18))
    assert np.allclose(y, np.tanh(x @ w_x[:, 12:]), atol=1e-12)


@BODIES
@KINDS
def test_no_steps_pass_no_gradient(kind, body):
    args = arguments(kind, T=0)
    with backend(body):
        results = forward(kind, args)
        assert all(r.shape[:2] == (5, 0) for r in results)
        gradients = backward(kind, np.zeros((5, 0, 6)), args, results)
    assert gradients[0].shape == (5, 0, 3)
    assert not any(g.any() for g in gradients)


@BODIES
@KINDS
def test_nan_stays_in_its_sample(kind, body):
    args = arguments(kind)
    args[0][2, 3, 1] = np.nan
    with backend(body):
        y = forward(kind, args)[0]
    bad = np.isnan(y)
    assert bad[2, 3:].all() and not bad[2, :3].any() and not np.delete(bad, 2, axis=0).any()


@KINDS
@pytest.mark.parametrize("B", [1, 2, 9, 33])
def test_bits_do_not_depend_on_threads(kind, B):
    args = arguments(kind, B=B, T=4, D=19, N=37, dtype=np.float32)
    dy = np.random.default_rng(1).standard_normal((B, 4, 37)).astype(np.float32)
    found = []
    for n in (1, 2, 3, 5):
        with team(n), backend("native"):
            results = forward(kind, args)
            found.append((*results, *backward(kind, dy, args, results)))
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other))


def _call(kind, **changes):
    """The forward sequence with some arguments replaced."""
    names = {"rnn": "x h0 w_x w_h bias", "gru": "x h0 w_x w_h bias_x bias_h", "lstm": "x h0 c0 w_x w_h bias"}[kind]
    return getattr(ops, f"{kind}_sequence")(**dict(zip(names.split(), arguments(kind))) | changes)


@BODIES
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: _call("lstm", x=np.zeros((5, 3))),
            ValueError,
            r"lstm_sequence: x has shape \(5, 3\), expected 3 axes",
        ),
        (lambda: _call("lstm", h0=np.zeros((4, 6))), ValueError, r"h0 has shape \(4, 6\), expected \(5, 6\)"),
        (lambda: _call("lstm", c0=np.zeros((5, 7))), ValueError, r"c0 has shape \(5, 7\), expected \(5, 6\)"),
        (lambda: _call("lstm", w_x=np.zeros((24, 3))), ValueError, r"w_x has shape \(24, 3\), expected \(3, 24\)"),
        (lambda: _call("lstm", bias=np.zeros(6)), ValueError, r"bias has shape \(6,\), expected \(24,\)"),
        (lambda: _call("gru", w_h=np.zeros((6, 24))), ValueError, r"w_h has shape \(6, 24\), expected \(6, 18\)"),
        (
            lambda: _call("gru", bias_h=np.zeros(18, np.float32)),
            TypeError,
            "bias_h has dtype float32, but x has float64",
        ),
        (lambda: _call("rnn", h0=np.zeros(6)), ValueError, r"h0 has shape \(6,\), expected 2 axes"),
        (lambda: _call("rnn", w_h=[[1.0]]), TypeError, "rnn_sequence: w_h is a list"),
    ],
)
def test_bad_input_is_named(body, call, error, message):
    with backend(body), pytest.raises(error, match=message):
        call()


@BODIES
@KINDS
def test_gradients_are_added_to_given_arrays_and_dx_is_left_out(kind, body):
    args = arguments(kind)
    x, states, rest = split(kind, args)
    with backend(body):
        results = forward(kind, args)
        dy = np.cos(results[0])
        dx, *plain = backward(kind, dy, args, results)
        given = (dy, None) if kind == "lstm" else (dy,)
        add_to = tuple(np.full_like(w, 2) for w in rest)
        f = getattr(ops, f"{kind}_sequence_backward")
        got = f(*given, x, *states, *rest[:2], *results, need_dx=False, add_to=add_to)
    assert got[0] is None and dx.shape == x.shape
    n = len(states)
    assert all(np.array_equal(a, b) for a, b in zip(got[1 : 1 + n], plain[:n]))
    assert all(a is b for a, b in zip(got[1 + n :], add_to))
    assert all(np.allclose(a, 2 + d, rtol=1e-12) for a, d in zip(add_to, plain[n:]))


@BODIES
@KINDS
def test_wrong_arrays_to_add_to_are_told(kind, body):
    args = arguments(kind)
    x, states, rest = split(kind, args)
    with backend(body):
        results = forward(kind, args)
        given = (results[0], None) if kind == "lstm" else (results[0],)
        f = getattr(ops, f"{kind}_sequence_backward")
        for add_to, error, message in (
            (list(rest), TypeError, "add_to is list, expected the tuple"),
            (tuple(rest[:-1]), TypeError, "add_to is a tuple of"),
            ((rest[0].T, *rest[1:]), ValueError, r"add_to\[0\]"),
            ((rest[0].astype(np.float32), *rest[1:]), TypeError, r"add_to\[0\] is float32"),
        ):
            with pytest.raises(error, match=f"^{kind}_sequence_backward: {message}"):
                f(*given, x, *states, *rest[:2], *results, add_to=add_to)
