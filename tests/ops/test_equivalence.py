"""Every mirror equals its NumPy body; every backward pass equals central differences; bad input fails alike."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import tests.strategies  # noqa: F401
from refimpl.backends import backend, operations
from tests.harness import (
    GRADIENTS,
    INPUTS,
    array,
    as_tuple,
    assert_close,
    call,
    central_differences,
    differentiated,
    layout,
    relative_error,
    team,
    tolerances,
)

OPERATIONS = operations()
MIRRORED = [(name, b) for name, op in OPERATIONS.items() for b in op.bodies if b != "numpy"]
RELAXED = settings(deadline=None, suppress_health_check=list(HealthCheck))


def draw_args(data, name, dtype):
    return data.draw(st.composite(lambda draw: INPUTS[name](draw, np.dtype(dtype)))(), label="args")


def draw_options(data, spec):
    return data.draw(st.composite(lambda draw: spec.options(draw))(), label="options")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "body"), MIRRORED)
@RELAXED
@given(data=st.data())
def test_mirror_equals_numpy_body(name, body, dtype, data):
    op = OPERATIONS[name]
    args = draw_args(data, name, dtype)
    expected = call(name, "numpy", args)
    varied = {
        k: layout(data.draw, v) if isinstance(v, np.ndarray) and k not in op.inplace else v for k, v in args.items()
    }
    with team(data.draw(st.sampled_from([1, 2, 3]), label="threads")):
        got = call(name, body, varied)
    assert_close(name, got, expected, tolerances(name, args, expected, dtype))


@pytest.mark.parametrize(("name", "body"), MIRRORED)
@settings(parent=RELAXED, max_examples=10)
@given(data=st.data())
def test_same_call_gives_same_bits_and_leaves_inputs_alone(name, body, data):
    args = draw_args(data, name, "float32")
    before = {k: v.copy() for k, v in args.items() if isinstance(v, np.ndarray)}
    with team(2):
        first, second = call(name, body, args), call(name, body, args)
    for a, b in zip(first, second):
        assert np.array_equal(np.asarray(a), np.asarray(b), equal_nan=np.asarray(a).dtype.kind == "f")
    for k, v in before.items():
        assert np.array_equal(v, args[k], equal_nan=v.dtype.kind == "f"), f"{name} changed {k}"


@pytest.mark.parametrize("body", ["numpy", "native"])
@pytest.mark.parametrize("name", GRADIENTS)
@settings(parent=RELAXED, max_examples=15)
@given(data=st.data())
def test_backward_equals_central_differences(name, body, data):
    spec = GRADIENTS[name]
    args = draw_args(data, name, "float64")
    floats = [v for v in args.values() if isinstance(v, np.ndarray) and v.dtype.kind == "f"]
    assume(all(np.isfinite(v).all() and (v.size == 0 or np.abs(v).max() < 100) for v in floats))
    assume(sum(args[w].size for w in spec.wrt if args.get(w) is not None) <= 400)
    options = draw_options(data, spec)
    assume(spec.smooth(args, **options))
    op = OPERATIONS[name]
    with backend(body):
        outs = as_tuple(op(**args))[: spec.outputs]
        dys = tuple(array(data.draw, np.shape(o), np.float64) for o in outs)
        _, grads = spec.run(args, dys[0] if spec.outputs == 1 else dys, **options)
        assert set(grads) == {w for w in spec.wrt if args.get(w) is not None}

        function = differentiated(name, args, options)

        def loss():
            return sum(float(np.sum(dy * o)) for dy, o in zip(dys, function()))

        for w, analytic in grads.items():
            numeric = central_differences(loss, args[w])
            assert analytic.shape == args[w].shape, f"{name}: d{w} has shape {analytic.shape}"
            error = relative_error(analytic, numeric)
            assert error < 1e-6, f"{name}: d{w} is off by {error:.2e}"


SPOILS = ("int", "half", "mixed", "list", "axis", "longer", "scalar", "none", "matrix", "masked")


def outcome(name, body, args):
    """The results' shapes, or the exception's type (message kept for the report)."""
    try:
        return [np.shape(o) for o in call(name, body, args)], ""
    except (TypeError, ValueError, IndexError) as error:
        return type(error), str(error)


@pytest.mark.parametrize("name", OPERATIONS)
@settings(parent=RELAXED, max_examples=25)
@given(data=st.data())
def test_bad_arrays_fail_alike_in_every_body(name, data):
    args = draw_args(data, name, "float32")
    arrays = [k for k, v in args.items() if isinstance(v, np.ndarray)]
    chosen = data.draw(st.sampled_from(arrays), label="spoiled")
    good = args[chosen]
    spoil = data.draw(st.sampled_from(SPOILS), label="how")
    bad = {
        "int": lambda: np.ones(good.shape, np.int32 if good.dtype.kind == "f" else np.float32),
        "half": lambda: np.ones(good.shape, np.float16),
        "mixed": lambda: np.ones(good.shape, np.float64),
        "list": lambda: good.tolist(),
        "axis": lambda: good[None],
        "longer": lambda: np.concatenate([good, good[:1], good[:1]]) if good.ndim and len(good) else good[..., None],
        "scalar": lambda: np.ones((), good.dtype),
        "none": lambda: None,
        "matrix": lambda: np.ones((2, 2), good.dtype).view(np.matrix),
        "masked": lambda: np.ma.masked_array(good, mask=good > 0),
    }[spoil]()
    args[chosen] = bad
    results = {body: outcome(name, body, args) for body in OPERATIONS[name].bodies}
    kinds = [r[0] for r in results.values()]
    assert all(k == kinds[0] for k in kinds), f"{name}({chosen} {spoil}): {results}"
    if isinstance(kinds[0], type):
        for _, message in results.values():
            assert message.startswith(f"{name}: "), f"{name}({chosen} {spoil}): unclear error {message!r}"
    elif spoil in ("half", "list", "matrix", "masked"):
        raise AssertionError(f"{name}: {chosen} given as {spoil} was accepted")


def numbers(name):
    """The arguments of an operation that are numbers, as its body declares them."""
    declared = OPERATIONS[name].bodies["numpy"].__annotations__
    return [
        k for k, kind in declared.items() if k != "return" and kind in ("int", "float", "int | None", "float | None")
    ]


@pytest.mark.parametrize("name", [name for name in OPERATIONS if numbers(name)])
@settings(parent=RELAXED, max_examples=10)
@given(data=st.data())
def test_bad_numbers_fail_alike_in_every_body(name, data):
    """A number that is text, nothing or an array of two is told by name: NumPy would take some for NaN or broadcast."""
    args = draw_args(data, name, "float32")
    chosen = data.draw(st.sampled_from(numbers(name)), label="spoiled")
    spoil = data.draw(st.sampled_from(["x", None, (), [3.0], np.array([2.0, 2.0])]), label="how")
    args[chosen] = spoil
    results = {body: outcome(name, body, args) for body in OPERATIONS[name].bodies}
    kinds = [r[0] for r in results.values()]
    assert all(k == kinds[0] for k in kinds), f"{name}({chosen}={spoil!r}): {results}"
    if isinstance(kinds[0], type):
        for _, message in results.values():
            assert message.startswith(f"{name}: "), f"{name}({chosen}={spoil!r}): unclear error {message!r}"
    else:
        assert not isinstance(spoil, str), f"{name}: {chosen}={spoil!r} was accepted"
