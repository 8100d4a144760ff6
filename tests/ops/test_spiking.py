"""Spiking neurons: what the equivalence tests do not state."""

import itertools
import math

import numpy as np
import pytest

from refimpl import ops
from refimpl.backends import backend
from refimpl.ops.spiking import _surrogate
from tests.harness import central_differences, relative_error, team
from tests.strategies.spiking import SURROGATES, _smooth, lif_twin, primitive

BODIES = pytest.mark.parametrize("body", ["numpy", "native"])
RESETS = pytest.mark.parametrize("reset", ["subtract", "zero"])
KINDS = pytest.mark.parametrize("kind", SURROGATES)
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def normal(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def grid(*shape, dtype=np.float64, seed=0):
    """Eighths from -1 to 2."""
    return (np.random.default_rng(seed).integers(-8, 17, shape) / 8).astype(dtype)


def unrolled(x, v, *settings):
    """lif_step at each x[t]: spikes, last state, potentials."""
    spikes, potentials = [], []
    for x_t in x:
        s, v, u = ops.lif_step(x_t, v, *settings)
        spikes.append(s)
        potentials.append(u)
    return np.stack(spikes), v, np.stack(potentials)


# ---------------------------------------------------------------- forward


@BODIES
def test_three_steps_by_hand(body):
    """leak 1/2, threshold 1. Subtract: u = 1 (fires), 0 + 1.5 (fires), 0.25 + 0.5 = 0.75. Zero: 1, 1.5, 0.5."""
    x = np.array([[1.0], [1.5], [0.5]])
    with backend(body):
        spikes, v, u = ops.lif_sequence(x, np.zeros(1), 0.5)
        assert (spikes.ravel() == [1, 1, 0]).all() and (u.ravel() == [1, 1.5, 0.75]).all() and v == 0.75
        spikes, v, u = ops.lif_sequence(x, np.zeros(1), 0.5, reset="zero")
        assert (spikes.ravel() == [1, 1, 0]).all() and (u.ravel() == [1, 1.5, 0.5]).all() and v == 0.5


@DTYPES
@RESETS
def test_both_bodies_emit_the_same_bits_away_from_any_grid(reset, dtype):
    """200 steps of inexact sums, with numbers that no dtype holds: one rounding more or less would show."""
    x, v0 = normal(200, 37, dtype=dtype), normal(37, dtype=dtype, seed=1)
    settings = (0.9, 0.7, reset, 0.3)
    results = []
    for body in ("numpy", "native"):
        with backend(body):
            results.append((*ops.lif_sequence(x, v0, *settings), ops.leaky_integrator_sequence(x, v0, 0.9)))
    for a, b in zip(*results):
        assert np.array_equal(a, b)


@BODIES
@DTYPES
@RESETS
def test_a_sequence_is_its_steps_bit_for_bit(reset, dtype, body):
    x, v0 = normal(9, 5, 33, dtype=dtype), normal(5, 33, dtype=dtype, seed=1)
    settings = (0.9, 0.7, reset, 0.8)
    with backend(body):
        for a, b in zip(ops.lif_sequence(x, v0, *settings), unrolled(x, v0, *settings)):
            assert a.dtype == dtype and np.array_equal(a, b)


@BODIES
def test_time_axis_1_is_the_transposed_sequence(body):
    x, v0, d = normal(6, 3, 4, 5), normal(3, 4, 5, seed=1), normal(6, 3, 4, 5, seed=2)
    turn = [np.ascontiguousarray(np.moveaxis(a, 0, 1)) for a in (x, d)]
    with backend(body):
        s, v, u = ops.lif_sequence(x, v0, 0.5)
        s1, v1, u1 = ops.lif_sequence(turn[0], v0, 0.5, time_axis=1)
        dx, dv0 = ops.lif_sequence_backward(d, v0, u, 0.5)
        dx1, dv1 = ops.lif_sequence_backward(turn[1], v0, u1, 0.5, time_axis=1)
        y, y1 = ops.leaky_integrator_sequence(x, v0, 0.5), ops.leaky_integrator_sequence(turn[0], v0, 0.5, time_axis=1)
    for a, b in ((s, s1), (u, u1), (dx, dx1), (y, y1)):
        assert np.array_equal(a, np.moveaxis(b, 1, 0))
    assert np.array_equal(v, v1) and np.array_equal(dv0, dv1)


@BODIES
def test_what_goes_in_stays_or_leaves_as_spikes_when_nothing_leaks(body):
    """Subtract, leak 1: v_T = v_0 + Σ x_t - threshold Σ s_t, exactly on a grid."""
    x, v0 = grid(20, 4, 17), grid(4, 17, seed=1)
    with backend(body):
        spikes, v, _ = ops.lif_sequence(x, v0, 1.0, 0.75)
    assert spikes.any() and np.array_equal(v, v0 + x.sum(0) - 0.75 * spikes.sum(0))


@BODIES
def test_zero_reset_leaves_every_state_below_the_threshold(body):
    x = 3 * normal(30, 50)
    with backend(body):
        for t in range(1, 31):
            assert (ops.lif_sequence(x[:t], np.zeros(50), 0.9, 0.5, "zero")[1] < 0.5).all()


@BODIES
def test_a_constant_input_below_the_threshold_never_fires_and_from_twice_it_always(body):
    """gain = 1 - leak = 1/2: the membrane tends to its input, and reaches half of it in the first step."""
    below, twice = np.full((50, 3), 1 - 1 / 64), np.full((50, 3), 2.0)
    with backend(body):
        assert not ops.lif_sequence(below, np.zeros(3), 0.5, 1.0, "zero", 0.5)[0].any()
        assert ops.lif_sequence(twice, np.zeros(3), 0.5, 1.0, "zero", 0.5)[0].all()


@BODIES
def test_an_infinite_threshold_makes_a_leaky_integrator(body):
    x, v0, d = normal(8, 4, 9), normal(4, 9, seed=1), normal(8, 4, 9, seed=2)
    with backend(body):
        spikes, v, u = ops.lif_sequence(x, v0, 0.7, math.inf, "zero")
        expected = ops.leaky_integrator_sequence(x, v0, 0.7)
        assert not spikes.any() and np.array_equal(u, expected) and np.array_equal(v, expected[-1])
        dx, dv0 = ops.lif_sequence_backward(np.zeros_like(d), d[-1], u, 0.7, math.inf, "zero")
        last = np.zeros_like(d)
        last[-1] = d[-1]
        for a, b in zip((dx, dv0), ops.leaky_integrator_sequence_backward(last, 0.7)):
            assert np.allclose(a, b, rtol=1e-14)


@BODIES
def test_a_leaky_integrator_forgets_an_impulse_by_powers_of_the_leak(body):
    x = np.zeros((6, 1))
    x[1] = 1
    with backend(body):
        v = ops.leaky_integrator_sequence(x, np.array([32.0]), 0.5)
    assert (v.ravel() == [16, 9, 4.5, 2.25, 1.125, 0.5625]).all()


@BODIES
def test_no_steps_return_the_state(body):
    x, v0 = np.zeros((0, 3, 4)), normal(3, 4)
    with backend(body):
        spikes, v, u = ops.lif_sequence(x, v0, 0.5)
        assert spikes.shape == u.shape == x.shape and np.array_equal(v, v0) and v is not v0
        assert np.array_equal(ops.lif_sequence_backward(x, v0, u, 0.5)[1], v0)
        assert not ops.lif_sequence_backward(x, None, u, 0.5)[1].any()
        assert not ops.leaky_integrator_sequence_backward(x, 0.5)[1].any()


# ---------------------------------------------------------------- surrogates


@KINDS
@pytest.mark.parametrize("width", [0.2, 1.0, 3.0])
def test_a_surrogate_is_even_and_the_derivative_of_a_step_from_0_to_1(kind, width):
    z = np.linspace(-4, 4, 1601) * width + 1e-3 * width  # no point near a kink
    slope = _surrogate(z, kind, width)
    h = 1e-6 * width
    assert relative_error(slope, (primitive(z + h, kind, width) - primitive(z - h, kind, width)) / (2 * h)) < 1e-6
    assert np.array_equal(slope, _surrogate(-z, kind, width)) and (slope >= 0).all()
    assert abs(primitive(1e9, kind, width) - 1) < 1e-8 and abs(primitive(-1e9, kind, width)) < 1e-8


def test_surrogates_in_the_forms_of_the_papers():
    z = np.linspace(-3, 3, 61)
    q = 1 / (1 + np.exp(-4 * z))
    forms = [
        ("triangle", 1.0, np.maximum(0, 1 - np.abs(z))),
        ("triangle", 1 / 3, np.where(np.abs(z) <= 1 / 3, 3 - 9 * np.abs(z), 0)),
        ("rectangle", 1.0, (np.abs(z) <= 0.5).astype(float)),
        ("sigmoid", 1 / 4, 4 * q * (1 - q)),
        ("atan", 1 / 2, 1 / (1 + (np.pi * z) ** 2)),  # alpha 2
        ("atan", 1 / 5, 5 / 2 / (1 + (np.pi / 2 * 5 * z) ** 2)),  # alpha 5
    ]
    for kind, width, expected in forms:
        assert np.allclose(_surrogate(z, kind, width), expected, rtol=1e-12, atol=1e-14), kind


# ---------------------------------------------------------------- backward

CASES = [
    (kind, reset, detached, temporal)
    for kind, reset, detached, temporal in itertools.product(
        SURROGATES, ("subtract", "zero"), (False, True), (True, False)
    )
]


@BODIES
@pytest.mark.parametrize(("kind", "reset", "detached", "temporal"), CASES)
def test_backward_equals_central_differences_of_the_twin(kind, reset, detached, temporal, body):
    """Every case, on potentials away from the kinks: the spikes are real, the twin's slope at them is the surrogate."""
    neuron = {"leak": 0.8, "threshold": 0.9, "reset": reset, "gain": 0.7}
    options = {"surrogate": kind, "width": 1.3, "detach_reset": detached, "temporal": temporal}
    fired = 0
    for seed in range(12):
        x, v0 = 2 * normal(4, 3, seed=seed), normal(3, seed=100 + seed)
        if not _smooth(x, v0, **neuron, **options):
            continue
        ds, dv = normal(4, 3, seed=200 + seed), normal(3, seed=300 + seed) if temporal else None
        with backend(body):
            spikes, _, u = ops.lif_sequence(x, v0, **neuron)
            grads = ops.lif_sequence_backward(ds, dv, u, **neuron, **options)
        fired += spikes.sum()
        twin = lif_twin(x, v0, **neuron, **options)

        def loss(twin=twin, ds=ds, dv=dv):
            s, v, _ = twin()
            return float((ds * s).sum() + (0 if dv is None else (dv * v).sum()))

        for grad, at in zip(grads, (x, v0)):
            assert relative_error(grad, central_differences(loss, at)) < 1e-6
    assert fired > 20


@BODIES
@KINDS
def test_backward_equals_central_differences_of_a_smooth_neuron(kind, body):
    """Reset by subtraction: the backward pass reads the spikes nowhere, so on the potentials of a neuron whose spike is
    the primitive of the surrogate it must be that neuron's true gradient."""
    leak, threshold, width = 0.8, 0.9, 1.3
    x, v0, ds, dv = 2 * normal(5, 4), normal(4, seed=1), normal(5, 4, seed=2), normal(4, seed=3)

    def smooth():
        v, spikes, potentials = v0, [], []
        for x_t in x:
            u = leak * v + x_t
            s = primitive(u - threshold, kind, width)
            v = u - threshold * s
            spikes.append(s)
            potentials.append(u)
        return np.stack(spikes), v, np.stack(potentials)

    def loss():
        s, v, _ = smooth()
        return float((ds * s).sum() + (dv * v).sum())

    with backend(body):
        grads = ops.lif_sequence_backward(ds, dv, smooth()[2], leak, threshold, surrogate=kind, width=width)
    for grad, at in zip(grads, (x, v0)):
        assert relative_error(grad, central_differences(loss, at)) < 1e-6


@BODIES
@RESETS
@pytest.mark.parametrize("detached", [False, True])
def test_two_halves_give_the_sequence_and_its_gradients(reset, detached, body):
    x, v0, ds, dv = normal(7, 4, 6), normal(4, 6, seed=1), normal(7, 4, 6, seed=2), normal(4, 6, seed=3)
    neuron, options = (0.9, 0.7, reset), {"surrogate": "atan", "width": 0.4, "detach_reset": detached}
    with backend(body):
        spikes, v, u = ops.lif_sequence(x, v0, *neuron)
        first = ops.lif_sequence(x[:3], v0, *neuron)
        second = ops.lif_sequence(x[3:], first[1], *neuron)
        assert np.array_equal(spikes, np.concatenate([first[0], second[0]])) and np.array_equal(v, second[1])
        dx, dv0 = ops.lif_sequence_backward(ds, dv, u, *neuron, **options)
        late, middle = ops.lif_sequence_backward(ds[3:], dv, u[3:], *neuron, **options)
        early, dv0_halves = ops.lif_sequence_backward(ds[:3], middle, u[:3], *neuron, **options)
    assert np.array_equal(dx, np.concatenate([early, late])) and np.array_equal(dv0, dv0_halves)


@BODIES
@RESETS
@KINDS
def test_without_the_temporal_path_each_step_goes_back_alone(kind, reset, body):
    x, v0, ds = normal(5, 3, 9), normal(3, 9, seed=1), normal(5, 3, 9, seed=2)
    neuron, options = (0.9, 0.7, reset), {"surrogate": kind, "width": 0.8}
    with backend(body):
        u = ops.lif_sequence(x, v0, *neuron)[2]
        dx, dv0 = ops.lif_sequence_backward(ds, None, u, *neuron, **options, temporal=False)
        steps = [ops.lif_step_backward(ds[t], None, u[t], *neuron, **options)[0] for t in range(5)]
        through_time, _ = ops.lif_sequence_backward(ds, None, u, *neuron, **options)
        last_alone, _ = ops.lif_sequence_backward(ds[-1:], None, u[-1:], *neuron, **options)
        memoryless, _ = ops.lif_sequence_backward(ds, None, u, 0.0, *neuron[1:], **options)
    assert np.array_equal(dx, np.stack(steps)) and not dv0.any()
    assert not np.array_equal(dx, through_time)
    assert np.array_equal(dx[-1:], last_alone)  # T = 1: there is no path to drop
    assert np.array_equal(dx, memoryless)  # leak 0: nor here


@BODIES
def test_the_reset_damps_the_path_through_time_to_between_0_and_the_leak(body):
    """Triangle, threshold 1, width 1: du_{t+1}/du_t = leak (1 - σ'); detached it is the leak itself."""
    u = np.linspace(-1, 3, 81)[None]
    with backend(body):
        _, dv0 = ops.lif_sequence_backward(np.zeros_like(u), np.ones(81), u, 0.7)
        _, detached = ops.lif_sequence_backward(np.zeros_like(u), np.ones(81), u, 0.7, detach_reset=True)
    assert (dv0 >= 0).all() and (dv0 <= 0.7).all() and dv0.min() < 0.01
    assert (detached == 0.7).all()


@BODIES
def test_a_leaky_integrator_and_its_backward_pass_are_adjoint(body):
    """Linear: <dv, v(x, v0)> = <dx, x> + <dv0, v0>."""
    x, v0, dv = normal(9, 5, 7), normal(5, 7, seed=1), normal(9, 5, 7, seed=2)
    with backend(body):
        v = ops.leaky_integrator_sequence(x, v0, 0.8)
        dx, dv0 = ops.leaky_integrator_sequence_backward(dv, 0.8)
    assert abs((dv * v).sum() - (dx * x).sum() - (dv0 * v0).sum()) < 1e-11


@DTYPES
@pytest.mark.parametrize("shape", [(3, 2, 5001), (2, 3, 700)])
def test_the_number_of_threads_changes_no_bit(shape, dtype):
    x, ds = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=2)
    results = []
    for n in (1, 2, 3):
        with backend("native"), team(n):
            for time_axis in (0, 1):
                v0 = normal(*np.delete(shape, time_axis), dtype=dtype, seed=1)
                out = ops.lif_sequence(x, v0, 0.9, time_axis=time_axis)
                back = ops.lif_sequence_backward(ds, v0, out[2], 0.9, surrogate="sigmoid", time_axis=time_axis)
                results.append((*out, *back))
    for later in range(2, 6):
        for a, b in zip(results[later % 2], results[later]):
            assert np.array_equal(a, b)


# ---------------------------------------------------------------- errors

A, S = np.zeros((4, 3, 5)), np.zeros((3, 5))


@BODIES
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.lif_sequence(A, np.zeros((4, 5)), 0.5), r"lif_sequence: v0 has shape \(4, 5\), expected \(3, 5\)"),
        (lambda: ops.lif_sequence(A, S, 0.5, time_axis=1), r"v0 has shape \(3, 5\), expected \(4, 5\)"),
        (lambda: ops.lif_sequence(A, S, 0.5, time_axis=2), r"time_axis is 2, expected 0 or 1"),
        (lambda: ops.lif_sequence(A[:, 0, 0], S, 0.5), r"x has shape \(4,\), expected at least 2 axes"),
        (lambda: ops.lif_step(S, S, 1.1), r"lif_step: leak is 1.1, expected a number in \[0, 1\]"),
        (lambda: ops.lif_step(S, S, math.nan), "leak is nan"),
        (lambda: ops.lif_step(S, S, 0.5, 0.0), "lif_step: threshold is 0.0, expected a positive number"),
        (lambda: ops.lif_step(S, S, 0.5, math.nan), "threshold is nan"),
        (lambda: ops.lif_step(S, S, 0.5, math.inf), 'threshold is inf, expected a finite number with reset="subtract"'),
        (lambda: ops.lif_step(S, S, 0.5, reset="soft"), "lif_step: reset is 'soft', expected one of subtract, zero"),
        (lambda: ops.lif_step(S, S, 0.5, gain=math.inf), "lif_step: gain is inf, expected a finite number"),
        (lambda: ops.lif_step_backward(S, None, S, 0.5, surrogate="relu"), "surrogate is 'relu', expected one of rect"),
        (lambda: ops.lif_step_backward(S, None, S, 0.5, width=0), "width is 0, expected a positive finite number"),
        (lambda: ops.lif_step_backward(S, S[:2], S, 0.5), r"lif_step_backward: dv_next has shape \(2, 5\)"),
        (lambda: ops.lif_sequence_backward(A, S, A, 0.5, temporal=False), "dv_last is given, expected None"),
        (lambda: ops.lif_sequence_backward(A[:2], S, A, 0.5), r"lif_sequence_backward: dspikes has shape \(2, 3, 5\)"),
        (lambda: ops.leaky_integrator_sequence(A, S, -0.1), "leaky_integrator_sequence: leak is -0.1"),
        (lambda: ops.leaky_integrator_sequence_backward(A, 2), "leaky_integrator_sequence_backward: leak is 2"),
    ],
)
def test_bad_arguments_are_named(call, message, body):
    with backend(body), pytest.raises(ValueError, match=message):
        call()
