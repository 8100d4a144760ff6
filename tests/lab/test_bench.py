import time

import numpy as np
import pytest

from refimpl.backends import operations
from refimpl.lab import bench, cases
from refimpl.lab.errors import UsageError
from refimpl.lab.machine import limited_threads


def present():
    return [c for c in cases.CASES if c.op in operations()]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(bench, "BUDGET", 0.01)
    monkeypatch.setattr(bench, "SAMPLE", 0.0005)


@pytest.mark.parametrize("case", present(), ids=lambda c: f"{c.op} {c.shape}")
def test_every_case_fits_its_operation(case):
    """The arguments are those of the operation, and both bodies agree on them."""
    op = operations()[case.op]
    rng = np.random.default_rng(0)
    args = case.make(lambda *shape: rng.standard_normal(shape, np.float32))
    with limited_threads(1), np.errstate(all="raise", under="ignore"):
        results = {}
        for name, body in op.bodies.items():
            given = {k: v.copy() if k in op.inplace and v is not None else v for k, v in args.items()}
            out = body(**given)
            results[name] = [given[k] for k in op.inplace if given.get(k) is not None] or (
                list(out) if isinstance(out, tuple) else [out]
            )
    assert all(bench.agree(r, results["numpy"]) for r in results.values())
    assert case.flops >= 0 and all(np.isfinite(np.asarray(r, dtype=float)).all() for r in results["numpy"])


def test_the_slower_body_is_measured_slower():
    timings = bench.race({"short": lambda: time.sleep(0.001), "long": lambda: time.sleep(0.004)})
    assert 0.001 <= timings["short"].seconds < timings["long"].seconds
    assert timings["long"].iqr >= 0


def test_a_race_of_operations_gives_complete_rows(tmp_path):
    outcome = bench.run(("ops",), ["relu"], threads=1, show=False)
    row = outcome["rows"][0]
    assert set(row) >= {
        *("kind", "name", "shape", "dtype", "threads", "numpy_s", "native_s", "torch_s"),
        *("gflops", "gbps", "limit_fraction", "correct", "numpy_iqr_s"),
    }
    assert row["correct"] is True and row["numpy_s"] > 0 and row["gbps"] > 0 and row["torch_s"] is None
    assert 0 < row["limit_fraction"] and outcome["limits"]["gflops"] > 0.1
    assert outcome["dispatch_overhead_s"] < 20e-6
    text = bench.report(outcome)
    assert "relu" in text and "Limits" in text and max(map(len, text.splitlines())) <= 110
    bench.plot(outcome, tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match=r"ends in \.png"):
        bench.plot(outcome, tmp_path / "r.txt")


def test_a_body_with_other_results_is_shown_up(monkeypatch):
    relu = operations()["relu"]
    monkeypatch.setitem(relu.bodies, "native", lambda x: relu.bodies["numpy"](x) + 1)
    outcome = bench.run(("ops",), ["relu"], threads=1, show=False)
    assert outcome["rows"][0]["correct"] is False
    assert "WRONG: relu" in bench.report(outcome)


def test_a_training_step_is_raced_on_each_backend():
    outcome = bench.run(("methods",), ["fake"], threads=1, show=False)
    (row,) = outcome["rows"]
    assert row["kind"] == "method" and row["numpy_s"] > 0 and row["flops"] == 2.0 * 16 * 64 * 32


def test_a_name_that_cannot_be_raced_is_refused():
    with pytest.raises(UsageError, match=r"nothing to race is named 'nope', expected one of .*relu"):
        bench.run(("ops",), ["nope"], show=False)


def test_limits_grow_with_what_is_measured():
    limits = bench.Limits(1)
    limits.saw(1e15)
    assert limits.flops == 1e15 and limits.bandwidth(1 << 16) > 1e8


def test_a_network_is_raced_by_its_name():
    outcome = bench.run(("steps",), ["lenet"], threads=1, show=False)
    assert [r["kind"] for r in outcome["rows"]] == ["step", "step"]
    assert all(r["name"] == "LeNet" and r["correct"] and r["native_s"] > 0 for r in outcome["rows"])
    assert "LeNet" in bench.report(outcome)
    with pytest.raises(UsageError, match=r"expected one of gcn, gpt, lenet, mlp, resnet-8\. Did you mean lenet\?"):
        bench.run(("steps",), ["lennet"], show=False)
