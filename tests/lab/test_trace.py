"""Traces: all of the block is recorded and nothing outside it, gradients find what they belong to, replays agree."""

import asyncio
import contextvars
import gc
import sys
import threading
import weakref

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import refimpl
import tests.strategies  # noqa: F401
from refimpl import ops
from refimpl.backends import dispatch, native, operations
from refimpl.lab import anatomy, csource, replay
from tests.harness import GRADIENTS, INPUTS, array, as_tuple

needs_native = pytest.mark.skipif(native.lib is None, reason="no C core")
RELAXED = settings(deadline=None, suppress_health_check=list(HealthCheck))


def normal(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def step(x, w, b, v):
    """Two layers, forward and backward."""
    h = ops.linear(x, w, b)
    a = ops.relu(h)
    y = ops.linear(a, v)
    dv = np.zeros_like(v)
    da, _, _ = ops.linear_backward(y, a, v, add_to=(dv, None))
    dh = ops.relu_backward(da, a)
    return ops.linear_backward(dh, x, w, need_dx=False)


def arrays():
    return normal(4, 5), normal(5, 3, seed=1), normal(3, seed=2), normal(3, 2, seed=3)


# ---------------------------------------------------------------- what is recorded


def test_every_operation_of_the_block_is_recorded_in_order_with_its_arrays():
    x, w, b, v = arrays()
    with refimpl.trace() as trace:
        step(x, w, b, v)
    names = ["linear", "relu", "linear", "linear_backward", "relu_backward", "linear_backward"]
    assert [c.op for c in trace] == names and len(trace) == 6
    first = trace[0]
    assert first.argument("weight").shape == (5, 3) and np.array_equal(first.argument("weight").value, w)
    assert np.array_equal(first.result("y").value, x @ w + b)
    assert first.equations[0].startswith("y = x W + b") and first.seconds > 0 and first.kind == "forward"
    assert "np.matmul(x, weight, out=y)" in "\n".join(first.numpy_source.lines)
    assert "RI(linear)" in "\n".join(first.c_source.lines)
    last = trace[5]
    assert last.numbers == {"need_dx": False} and [r.name for r in last.results] == ["dweight", "dbias"]
    assert "linear_backward" in str(trace) and "weight(5,3)" in str(trace)


@pytest.mark.parametrize("backend", ["numpy", "native", "auto"])
def test_all_backends_are_recorded_and_compute_what_they_compute_untraced(backend):
    x, w, b, v = arrays()
    with refimpl.backend(backend):
        expected = step(x, w, b, v)
        with refimpl.trace() as trace:
            got = step(x, w, b, v)
            assert refimpl.get_backend() == backend
    assert len(trace) == 6 and {c.backend for c in trace} == {backend}
    for a, e in zip(got[1:], expected[1:]):
        assert np.array_equal(a, e)


def test_a_backend_chosen_inside_the_block_is_recorded_too():
    with refimpl.trace() as trace:
        with refimpl.backend("numpy"):
            ops.relu(normal(3))
        ops.relu(normal(3))
    assert [c.backend for c in trace] == ["numpy", refimpl.get_backend()]


def test_arrays_are_kept_as_they_were_at_the_call_and_changes_in_place_as_they_became():
    param, grad = normal(6), normal(6, seed=1)
    before = param.copy()
    with refimpl.trace() as trace:
        ops.sgd_update(param, grad, None, 0.5)
        param[...] = 0
    call = trace[0]
    assert call.kind == "update" and np.array_equal(call.argument("param").value, before)
    assert np.array_equal(call.result("param").value, before - 0.5 * grad)
    out = np.empty(6)
    with refimpl.trace() as trace:
        ops.relu(grad, out=out)
    assert np.array_equal(trace[0].result("out").value, out) and "out" not in [a.name for a in trace[0].arguments]


def test_of_large_arrays_a_thumbnail_is_kept():
    x = normal(100, 100)
    with refimpl.trace(keep=1000) as trace:
        ops.relu(x)
    a = trace[0].argument("x")
    assert a.value is None and a.thumbnail.shape == (25, 25) and np.array_equal(a.thumbnail, x[::4, ::4])
    assert not trace[0].replayable and replay.checks(trace, trace[0]) == []
    with pytest.raises(ValueError, match="keep is -1, expected"):
        with refimpl.trace(keep=-1):
            pass


def test_the_lines_that_led_to_a_call_are_recorded():
    from refimpl.nn import Linear, initialise

    layer = Linear(5, 3)
    params = initialise(layer, np.random.default_rng(0))
    with refimpl.trace() as trace:
        layer.forward(params, normal(2, 5, dtype=np.float32))
    inner, outer = trace[0].places
    assert inner.file.endswith("layers.py") and inner.function == "forward"
    assert outer.file == __file__ and outer.function == "test_the_lines_that_led_to_a_call_are_recorded"


def test_an_operation_inside_an_operation_names_its_parent():
    @dispatch.operation
    def outer_probe(x):
        """y = relu(x)."""
        return ops.relu(x)

    try:
        with refimpl.trace() as trace:
            outer_probe(normal(3))
            ops.tanh(normal(3))
    finally:
        del dispatch._registry["outer_probe"]
    assert [(c.op, c.parent) for c in trace] == [("outer_probe", None), ("relu", 0), ("tanh", None)]


def test_an_exception_passes_and_is_recorded():
    with refimpl.trace() as trace:
        with pytest.raises(TypeError, match="relu: x has dtype int64"):
            ops.relu(np.arange(3))
        with pytest.raises(TypeError):
            ops.relu()
        ops.relu(normal(3))
    assert [c.error is None for c in trace] == [False, False, True]
    assert trace[0].error.startswith("TypeError: relu") and trace[2].parent is None
    with pytest.raises(KeyError), refimpl.trace() as trace:
        ops.relu(normal(3))
        raise KeyError("mine")
    assert len(trace) == 1
    ops.relu(normal(3))
    assert len(trace) == 1


# ---------------------------------------------------------------- what is not


def test_nothing_is_recorded_before_or_after_the_block_or_by_other_threads():
    ops.relu(normal(3))
    with refimpl.trace() as trace:
        worker = threading.Thread(target=ops.tanh, args=(normal(3),))
        worker.start()
        worker.join()
        ops.relu(normal(3))
        context = contextvars.copy_context()
    ops.sigmoid(normal(3))
    assert [c.op for c in trace] == ["relu"]
    assert np.array_equal(context.run(ops.relu, np.ones(3)), np.ones(3))  # a context that outlives the block
    assert len(trace) == 1


def test_traces_of_two_threads_are_apart():
    barrier, found = threading.Barrier(2), {}

    def work(name):
        with refimpl.trace() as trace:
            barrier.wait()
            for _ in range(20):
                getattr(ops, name)(normal(3))
        found[name] = [c.op for c in trace]

    workers = [threading.Thread(target=work, args=(n,)) for n in ("relu", "tanh")]
    [w.start() for w in workers]
    [w.join() for w in workers]
    assert found == {"relu": ["relu"] * 20, "tanh": ["tanh"] * 20}


def test_tasks_of_one_thread_are_apart():
    async def work(op, n):
        with refimpl.trace() as trace:
            for _ in range(n):
                op(normal(3))
                await asyncio.sleep(0)
        return [c.op for c in trace]

    async def both():
        return await asyncio.gather(work(ops.relu, 3), work(ops.tanh, 5))

    assert asyncio.run(both()) == [["relu"] * 3, ["tanh"] * 5]


def test_both_of_two_nested_traces_see_a_call():
    with refimpl.trace() as outer:
        ops.relu(normal(3))
        with refimpl.trace() as inner, refimpl.backend("numpy"):
            ops.tanh(normal(3))
    assert [c.op for c in outer] == ["relu", "tanh"] and [c.op for c in inner] == ["tanh"]


def test_a_call_that_nobody_traces_runs_two_functions_and_touches_no_table():
    """The dispatcher and the body, while a trace is on in another thread as well as without one."""

    @dispatch.operation
    def traced_probe(x):
        return x

    def functions_of_a_call():
        seen = []
        sys.setprofile(lambda frame, event, arg: seen.append(frame.f_code.co_name) if event == "call" else None)
        try:
            traced_probe(1)
        finally:
            sys.setprofile(None)
        return seen

    expected = ["dispatch", "traced_probe"]
    tables = {name: dict(op.table) for name, op in operations().items()}
    inside, leave = threading.Event(), threading.Event()

    def trace_elsewhere():
        with refimpl.trace():
            inside.set()
            leave.wait()

    try:
        assert functions_of_a_call() == expected
        other = threading.Thread(target=trace_elsewhere)
        other.start()
        inside.wait()
        assert functions_of_a_call() == expected
        assert {name: dict(op.table) for name, op in operations().items()} == tables
        with refimpl.trace() as trace:
            traced_probe(1)
        assert len(trace) == 1
        assert functions_of_a_call() == expected
    finally:
        leave.set()
        other.join()
        del dispatch._registry["traced_probe"]


# ---------------------------------------------------------------- memory


def test_a_trace_keeps_nothing_alive_and_says_what_the_work_holds():
    x = normal(10, 10)
    with refimpl.trace() as trace:
        y = ops.relu(x)
        seen = weakref.ref(y)
        del y
        gc.collect()
        assert seen() is None
        z = ops.tanh(x)
        z = ops.tanh(z)
        w = x[:5]
        ops.relu(w)
    assert trace.inputs == 800
    assert [c.alive for c in trace] == [1600, 1600, 2400, 1600 + 400]  # x; relu's result, then tanh's, both, the last
    assert z is not None


# ---------------------------------------------------------------- which gradient belongs to what


def test_gradients_find_their_operations_by_the_arrays_they_share():
    x, w, b, v = arrays()
    with refimpl.trace() as trace:
        step(x, w, b, v)
    assert [c.partner for c in trace] == [5, 4, 3, 2, 1, 0]
    assert {c.how for c in trace} == {"identity"}
    assert [(f.index, g.index) for f, g in trace.pairs] == [(0, 5), (1, 4), (2, 3)]


def test_layers_in_any_order_and_a_weight_that_is_used_twice():
    w, xs = normal(3, 3), [normal(2, 3, seed=s) for s in (1, 2, 3)]
    with refimpl.trace() as trace:
        ys = [ops.linear(x, w) for x in xs]
        for i in (1, 2, 0):
            ops.linear_backward(ys[i], xs[i], w)
    assert [c.partner for c in trace] == [5, 3, 4, 1, 2, 0]


def test_copies_are_found_by_their_values_and_else_the_last_one_of_that_shape():
    x, dy = normal(3, 4), normal(3, 4, seed=1)
    with refimpl.trace() as trace:
        y = ops.tanh(x)
        ops.tanh_backward(dy, y.copy())
        ops.relu(x)
        ops.relu(normal(2, 2))
        ops.relu_backward(dy, np.ones((3, 4)))
    assert (trace[1].partner, trace[1].how) == (0, "values")
    assert (trace[4].partner, trace[4].how) == (2, "order")
    assert trace[3].partner is None


def test_a_gradient_without_its_operation_stays_alone():
    with refimpl.trace() as trace:
        ops.relu_backward(normal(3), normal(3))
        ops.relu(normal(3))
    assert [c.partner for c in trace] == [None, None]


def draw_args(data, name):
    args = data.draw(st.composite(lambda draw: INPUTS[name](draw, np.dtype("float64")))(), label="args")
    floats = [v for v in args.values() if isinstance(v, np.ndarray) and v.dtype.kind == "f"]
    assume(all(np.isfinite(v).all() and (v.size == 0 or np.abs(v).max() < 100) for v in floats))
    return args


@pytest.mark.parametrize("name", [n for n, spec in GRADIENTS.items() if spec.twin is None])
@settings(parent=RELAXED, max_examples=4)
@given(data=st.data())
def test_every_gradient_of_the_library_is_paired_checked_and_right(name, data):
    """Also that names of arguments, results and gradients fit: they are all that the check knows an operation by."""
    spec, args = GRADIENTS[name], draw_args(data, name)
    given_arrays = {w for w in spec.wrt if args.get(w) is not None}
    assume(0 < sum(args[w].size for w in given_arrays) <= 200)
    options = data.draw(st.composite(lambda draw: spec.options(draw))(), label="options")
    assume(spec.smooth(args, **options))
    outs = as_tuple(operations()[name].numpy(**args))[: spec.outputs]
    dys = tuple(array(data.draw, np.shape(o), np.float64) for o in outs)
    with refimpl.trace() as trace:
        operations()[name](**args)
        spec.run(args, dys[0] if spec.outputs == 1 else dys, **options)
    backward = next((c for c in trace if c.op == f"{name}_backward" and c.parent is None), trace[0])
    if backward.op != name:
        assert trace[backward.partner].op == name and trace[backward.partner].partner == backward.index
    checks = replay.checks(trace, backward, budget=10.0)
    apart = {"target"} if name in ("mse", "l1") else set()  # its gradient is the negative of the prediction's
    apart |= {name for name in spec.wrt if args.get(f"need_d{name}") is False}
    told = f"{backward.op}: gradients of {[c.of for c in checks]}, expected {given_arrays}: see anatomy.result_names"
    assert (checks or apart == set(spec.wrt)) and (
        {c.of for c in checks} == given_arrays - apart or backward.op == name
    ), told
    for c in checks:
        assert c.name == f"d{c.of}" or len(checks) == 1
        assert len(c.entries) == c.value.size
        largest = max(1.0, float(np.abs(c.gradient).max(initial=0)))
        difference = float(np.abs(c.quotient - c.gradient.ravel()[c.entries]).max(initial=0.0))
        assert difference / largest < 1e-6, f"{c.name}: {difference}"
        assert c.agreement * c.scale <= 1e-9 * largest, f"{c.name}: recorded and recomputed gradients differ"


def test_a_wrong_gradient_fails_its_check():
    x, dy = normal(3, 4), normal(3, 4, seed=1)
    with refimpl.trace() as trace:
        y = ops.tanh(x)
        ops.tanh_backward(dy, y)
    backward = operations()["tanh_backward"]
    right = backward.numpy
    try:
        backward.numpy = lambda dy, y, out=None: dy * (1 - y)
        (check,) = replay.checks(trace, trace[1])
    finally:
        backward.numpy = right
    assert not check.ok and check.error.max() > 0.01
    (check,) = replay.checks(trace, trace[1])
    assert check.ok and check.error.max() < 1e-8


def test_a_surrogate_gradient_is_not_checked_and_it_is_said_why():
    x, v = normal(3, 4), normal(3, 4, seed=1)
    with refimpl.trace() as trace:
        s, v_next, u = ops.lif_step(x, v, 0.5)
        ops.lif_step_backward(s, v_next, u, 0.5)
    assert trace[1].partner == 0 and replay.checks(trace, trace[1]) == []
    assert "surrogate" in replay.no_check(trace[1])


def test_what_was_in_a_buffer_before_is_taken_off_a_gradient():
    x, w, dy = normal(4, 3), normal(3, 2, seed=1), normal(4, 2, seed=2)
    buffer = np.full((3, 2), 7.0)
    with refimpl.trace() as trace:
        ops.linear(x, w)
        ops.linear_backward(dy, x, w, add_to=(buffer, None))
    check = next(c for c in replay.checks(trace, trace[1]) if c.name == "dweight")
    assert np.allclose(check.recorded, x.T @ dy) and check.ok


# ---------------------------------------------------------------- running it again


@pytest.mark.parametrize("name", INPUTS)
@settings(parent=RELAXED, max_examples=2)
@given(data=st.data())
def test_every_body_can_be_run_again_line_by_line_with_the_same_result(name, data):
    args = draw_args(data, name)
    assume(all(v.size <= 4000 for v in args.values() if isinstance(v, np.ndarray)))
    with refimpl.backend("numpy"), refimpl.trace() as trace:
        operations()[name](**args)
    call = trace[0]
    before = [a.value.copy() for a in call.arguments]
    taken = replay.steps(call, most=10_000)
    assert all(np.array_equal(a.value, b, equal_nan=True) for a, b in zip(call.arguments, before))
    numbers = call.numpy_source.numbers
    assert all(numbers[0] <= s.first <= s.last <= numbers[-1] for s in taken)
    results = [r for r in call.results if r.dtype.startswith("float")]
    if results and all(r.value.size for r in results):
        wrote = {v.tobytes() for s in taken for _, v in s.wrote}
        returned = [r for r in results if any(r.value.shape == v.shape for s in taken for _, v in s.wrote)]
        assert taken and all(r.value.tobytes() in wrote for r in returned) and returned


def test_bodies_are_timed_and_compared():
    x, w, b, v = arrays()
    with refimpl.trace() as trace:
        step(x, w, b, v)
    found = {b.name: b for b in replay.bodies(trace[0])}
    assert found["numpy"].difference == 0 and all(b.seconds > 0 and b.difference < 1e-14 for b in found.values())
    assert set(found) == set(operations()["linear"].bodies)


# ---------------------------------------------------------------- what an operation says about itself


@pytest.mark.parametrize("name", operations())
def test_every_operation_has_equations_names_of_results_and_source(name):
    assert anatomy.equations(name), name
    words = anatomy.result_names(name)
    assert len(set(words)) == len(words), f"{name}: two results have one name: {words}"
    source = anatomy.numpy_source(name)
    assert source.file.startswith("refimpl/ops/") and any(line.startswith("def ") for line in source.lines)
    assert not any('"""' in line for line in source.lines)
    c = csource.c_source(name)
    if "native" in operations()[name].bodies:
        assert c is not None and any(line.startswith("int RI(") for line in c.lines), f"{name}: no kernel found"
        assert all(a in c.numbers for lines in csource.counterpart(name).values() for a in lines)


def test_the_c_line_beside_a_numpy_line_is_the_same_step():
    def beside(name, text):
        numpy, c = anatomy.numpy_source(name), csource.c_source(name)
        line = next(n for n, t in zip(numpy.numbers, numpy.lines) if text in t)
        first, last = csource.counterpart(name)[line]
        return " ".join(t.strip() for n, t in zip(c.numbers, c.lines) if first <= n <= last)

    assert "gemm_bias" in beside("linear", "np.matmul") and "gemm_bias" in beside("linear", "y += bias")
    assert "(real)(dloss *" in beside("cross_entropy_backward", "(dloss)")
    assert beside("denoise_loss", "squared = ") == "squared += r * r;"
    assert beside("adam_update", "m[...] =").startswith("real m1 = beta1 * m[i]")
    assert "SQRT(v1)" in beside("adam_update", "param -=")
    assert "ri_relu(x[i])" in beside("relu", "np.maximum")
    assert "!transposed" in beside("linear_backward", "dx = np.matmul")
