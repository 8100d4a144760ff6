"""The race's cases under pytest-benchmark (never collected by `make test`: timings are benchmarks, not tests).

    python -m pytest tests/benchmarks/bench_ops.py                        all cases, both bodies
    python -m pytest tests/benchmarks/bench_ops.py -k 'softmax or call'   some

`refimpl bench` races the same cases interleaved, beside PyTorch, and relates them to the machine's limits.
"""

import numpy as np
import pytest

from refimpl.backends import dispatch, operations
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
