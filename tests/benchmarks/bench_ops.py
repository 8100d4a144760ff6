"""The race's cases under pytest-benchmark (never collected by `make test`: timings are benchmarks, not tests).

    python -m pytest tests/benchmarks/bench_ops.py                        all cases, both bodies
    python -m pytest tests/benchmarks/bench_ops.py -k 'softmax or call'   some

`refimpl bench` races the same cases interleaved, beside PyTorch, and relates them to the machine's limits.
"""

import numpy as np
import pytest

from refimpl.backends import dispatch, get_num_threads, operations, wisdom
from refimpl.lab.cases import CASES


@pytest.mark.parametrize("body", ["numpy", "native"])
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.op}-{c.shape}")
def test_operation(benchmark, case, body):
    op = operations()[case.op]
    if body not in op.bodies:
        pytest.skip(f"{case.op} has no {body} body")
    rng = np.random.default_rng(0)
    args = case.make(lambda *shape: rng.standard_normal(shape, np.float32))
    benchmark(op.bodies[body], **args)


@pytest.mark.parametrize("way", ["body", "dispatcher"])
def test_cost_of_a_call(benchmark, way):
    """The dispatcher's own cost: the budget is 1.5 microseconds above the body."""
    try:

        @dispatch.operation
        def nothing(x, y=None):
            return x

        benchmark(nothing.numpy if way == "body" else nothing, 1, y=2)
    finally:
        dispatch._registry.pop("nothing", None)


@pytest.mark.parametrize("way", ["body", "untuned size", "chosen", "chosen, fewer threads"])
def test_cost_of_wisdom(benchmark, way):
    """What a call of a tuned operation pays for the decision: the budget is half a microsecond above the body."""

    def nothing(x, out=None):
        return x

    declared = wisdom.Tunable("nothing", "x", None, lambda normal, n: {"x": normal(n)}, (4,))
    n = get_num_threads()
    ways = {(n, 4): ("native", -1 if way == "chosen, fewer threads" else n)}  # -1: a limit even where one thread is set
    choose = wisdom.chooser(declared, ways, {"numpy": nothing, "native": nothing})
    x = np.ones(16 if way != "untuned size" else 64, np.float32)
    benchmark(nothing if way == "body" else choose, x)
