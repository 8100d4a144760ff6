"""Optimisers against their equations, written out for one parameter."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl import optim
from refimpl.backends import backend
from refimpl.nn import Params

GRADIENTS = [0.5, -1.0, 0.25, 2.0, -0.125]


def train(optimizer, start=1.5, body="auto"):
    params = Params({"w": (1,)}, dtype="float64", flat=np.array([start]))
    state = optimizer.init(params)
    grads = params.zeros_like()
    path = []
    with backend(body):
        for g in GRADIENTS:
            grads.flat[...] = g
            optimizer.step(params, grads, state)
            path.append(float(params.flat[0]))
    assert state.step == len(GRADIENTS)
    return path


def sgd(lr, momentum=0.0, nesterov=False, wd=0.0, decoupled=False, start=1.5):
    p, v, path = start, 0.0, []
    for g in GRADIENTS:
        g = g + (0 if decoupled else wd * p)
        p = p - (lr * wd * p if decoupled else 0)
        v = momentum * v + g
        p -= lr * ((g + momentum * v) if nesterov else v)
        path.append(p)
    return path


def adam(lr, b1=0.9, b2=0.999, eps=1e-8, wd=0.0, decoupled=False, start=1.5):
    p, m, v, path = start, 0.0, 0.0, []
    for t, g in enumerate(GRADIENTS, 1):
        g = g + (0 if decoupled else wd * p)
        p = p - (lr * wd * p if decoupled else 0)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        p -= lr * (m / (1 - b1**t)) / (math.sqrt(v / (1 - b2**t)) + eps)
        path.append(p)
    return path


def rmsprop(lr, alpha=0.99, eps=1e-8, momentum=0.0, start=1.5):
    p, v, b, path = start, 0.0, 0.0, []
    for g in GRADIENTS:
        v = alpha * v + (1 - alpha) * g * g
        b = momentum * b + g / (math.sqrt(v) + eps)
        p -= lr * b
        path.append(p)
    return path


@pytest.mark.parametrize("body", ["numpy", "native"])
@pytest.mark.parametrize(
    ("optimizer", "path"),
    [
        (optim.SGD(0.1), sgd(0.1)),
        (optim.SGD(0.1, momentum=0.9), sgd(0.1, 0.9)),
        (optim.SGD(0.1, momentum=0.9, nesterov=True), sgd(0.1, 0.9, True)),
        (optim.SGD(0.1, momentum=0.9, weight_decay=0.1), sgd(0.1, 0.9, wd=0.1)),
        (optim.SGD(0.1, weight_decay=0.1, decoupled=True), sgd(0.1, wd=0.1, decoupled=True)),
        (optim.Adam(0.1), adam(0.1)),
        (optim.Adam(0.1, weight_decay=0.1), adam(0.1, wd=0.1)),
        (optim.AdamW(0.1, weight_decay=0.1), adam(0.1, wd=0.1, decoupled=True)),
        (optim.RMSprop(0.1), rmsprop(0.1)),
        (optim.RMSprop(0.1, momentum=0.9), rmsprop(0.1, momentum=0.9)),
    ],
)
def test_optimiser_follows_its_equations(optimizer, path, body):
    assert np.allclose(train(optimizer, body=body), path, rtol=1e-12, atol=1e-14)


@given(st.floats(0.01, 10), st.integers(0, 2**32 - 1))
def test_clip_by_norm_bounds_the_norm_and_keeps_the_direction(most, seed):
    grads = Params({"w": (17,)}, dtype="float64", flat=np.random.default_rng(seed).standard_normal(17))
    before = grads.flat.copy()
    norm = optim.clip_by_norm(grads, most)
    assert math.isclose(norm, np.linalg.norm(before), rel_tol=1e-12)
    assert np.linalg.norm(grads.flat) <= most * (1 + 1e-12) or norm <= most
    assert np.allclose(grads.flat * norm, before * np.linalg.norm(grads.flat))


def test_clip_by_norm_leaves_a_norm_that_is_not_finite():
    grads = Params({"w": (2,)}, flat=np.array([np.inf, 1.0]))
    assert optim.clip_by_norm(grads, 1.0) == np.inf and grads.flat[1] == 1.0


def test_clip_by_value():
    grads = Params({"w": (3,)}, flat=np.array([-3.0, 0.5, 2.0]))
    optim.clip_by_value(grads, 1.0)
    assert grads.flat.tolist() == [-1.0, 0.5, 1.0]


def test_ema_is_the_geometric_mean_of_the_past():
    average, params = Params({"w": (1,)}, {"s": (1,)}), Params({"w": (1,)}, {"s": (1,)})
    expected = 0.0
    for value in (1.0, 2.0, 4.0):
        params.flat[...] = params.state[...] = value
        optim.EMA(0.75).update(average, params)
        expected = 0.75 * expected + 0.25 * value
    assert average.flat[0] == expected and average.state[0] == 4.0


def test_schedules_at_their_corners():
    assert optim.Constant(0.5)(10**6) == 0.5
    step = optim.Step(1.0, (10, 20), 0.1)
    assert [step(t) for t in (0, 9, 10, 19, 20)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    cosine = optim.Cosine(1.0, 100, last=0.2)
    assert [cosine(t) for t in (0, 50, 100, 500)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    warmup = optim.Warmup(cosine, 4)
    assert [warmup(t) for t in (0, 1, 3, 4, 54)] == pytest.approx([0.25, 0.5, 1.0, 1.0, 0.6])


def test_schedule_drives_the_step():
    params = Params({"w": (1,)}, dtype="float64", flat=np.array([0.0]))
    optimizer = optim.SGD(optim.Step(1.0, (1,), 0.5))
    state, grads = optimizer.init(params), params.zeros_like()
    grads.flat[...] = 1
    optimizer.step(params, grads, state)
    optimizer.step(params, grads, state)
    assert params.flat[0] == -1.5


def test_unknown_optimiser_is_an_error_that_lists_the_known():
    with pytest.raises(ValueError, match="expected one of sgd, momentum"):
        optim.by_name("adagradient", 0.1)
    assert optim.by_name("adamw", 0.1).weight_decay == 1e-2
    assert optim.by_name("nesterov", 0.1, 0.3) == optim.SGD(0.1, 0.9, True, 0.3)


@pytest.mark.parametrize("lr", [np.nan, np.inf, -1e-3, "x", None, (), True])
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Constant", "Step", "Cosine"])
def test_a_rate_that_cannot_be_is_refused(name, lr):
    """Before the first step, not as NaN in all parameters after it."""
    more = {"Step": ((3,),), "Cosine": (10,)}.get(name, ())
    with pytest.raises(ValueError, match=f"{name}: lr is "):
        getattr(optim, name)(lr, *more)
