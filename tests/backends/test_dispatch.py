import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import refimpl
from refimpl import ops
from refimpl.backends import dispatch, native, operations, threads

needs_native = pytest.mark.skipif(native.lib is None, reason="no C core")


@pytest.fixture
def probe():
    """An operation whose bodies say who they are."""

    @dispatch.operation
    def probe(x):
        return "numpy"

    yield probe
    del dispatch._registry["probe"]


@needs_native
def test_backend_context_chooses_the_body_and_is_undone(probe):
    probe.mirror("native")(lambda x: "native")
    assert probe(1) == "native"
    with refimpl.backend("numpy"):
        assert probe(1) == "numpy"
        with refimpl.backend("auto"):
            assert probe(1) == "native"
        assert probe(1) == "numpy"
    assert probe(1) == "native"


def test_backend_context_is_undone_by_an_exception(probe):
    before = refimpl.get_backend()
    with pytest.raises(KeyError), refimpl.backend("numpy"):
        raise KeyError
    assert refimpl.get_backend() == before


def test_opencl_mirror_registers_through_the_same_door(probe):
    probe.mirror("opencl")(lambda x: "opencl")
    with refimpl.backend("opencl"):
        assert probe(1) == "opencl"
    with refimpl.backend("auto"):
        assert probe(1) == "numpy"


def test_set_backend_is_process_wide_and_context_wins(probe):
    probe.mirror("native")(lambda x: "native")
    try:
        refimpl.set_backend("numpy")
        assert probe(1) == "numpy"
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(probe, 1).result() == "numpy"
        with refimpl.backend("native"):
            assert probe(1) == "native"
    finally:
        refimpl.set_backend("auto")
    assert probe(1) == "native"


def test_threads_choose_their_backends_independently(probe):
    probe.mirror("native")(lambda x: "native")
    barrier, seen = threading.Barrier(2), {}

    def work(name):
        with refimpl.backend(name):
            barrier.wait()
            seen[name] = [probe(1) for _ in range(1000)]

    workers = [threading.Thread(target=work, args=(n,)) for n in ("numpy", "native")]
    [w.start() for w in workers]
    [w.join() for w in workers]
    assert set(seen["numpy"]) == {"numpy"} and set(seen["native"]) == {"native"}


@pytest.mark.parametrize("bad", ["cuda", "", None, 3])
def test_unknown_backend_is_an_error_that_lists_the_known(bad):
    with pytest.raises(ValueError, match="expected one of numpy, native, opencl, auto"), refimpl.backend(bad):
        pass
    with pytest.raises(ValueError, match="expected one of"):
        refimpl.set_backend(bad)


def test_two_operations_cannot_share_a_name():
    with pytest.raises(ValueError, match="exists already"):

        @dispatch.operation
        def relu(x): ...


def test_bad_number_of_threads_is_an_error():
    for bad in (0, -1, 10**6):
        with pytest.raises(ValueError, match="expected 1 to"):
            refimpl.set_num_threads(bad)
    with pytest.raises(TypeError):
        refimpl.set_num_threads(1.5)


def run(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, timeout=120
    )


def test_environment_variables_choose_backend_threads_and_level():
    done = run("import refimpl; print(refimpl.get_backend(), refimpl.get_num_threads())", REFIMPL_BACKEND="numpy",
               REFIMPL_NUM_THREADS="3")  # fmt: skip
    assert done.stdout.split() == ["numpy", "3"]
    for variable, value in (("REFIMPL_BACKEND", "fast"), ("REFIMPL_NUM_THREADS", "many"), ("REFIMPL_ISA", "v9")):
        done = run("import refimpl", **{variable: value})
        assert done.returncode and variable in done.stderr and value in done.stderr


@needs_native
def test_every_built_level_that_the_cpu_has_gives_the_same_relu():
    code = "import numpy as np, refimpl; from refimpl.backends import native; x = np.arange(-50, 50, dtype='f');\
 print(native.isa(), float(refimpl.ops.relu(x).sum()))"
    for name in native.built_levels().split(","):
        level, total = run(code, REFIMPL_ISA=name).stdout.split()
        assert native._LEVELS[level] <= native._LEVELS[name] and float(total) == 1225


def test_without_the_c_core_numpy_serves_and_nothing_else_changes():
    code = "import numpy as np, refimpl; assert refimpl.available_backends() == ('numpy',);\
 print(refimpl.ops.relu(np.array([-1., 2.])))"
    done = run(code, REFIMPL_NATIVE="0")
    assert done.stdout.strip() == "[0. 2.]" and not done.stderr
    with_backend = run(code.replace("print(", "refimpl.set_backend('native'); print("), REFIMPL_NATIVE="0")
    assert with_backend.stdout.strip() == "[0. 2.]"


@needs_native
def test_native_operations_work_in_a_forked_child():
    """OpenMP's team does not survive a fork; the child must neither hang nor compute something else."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this system")
    code = """
import os, numpy as np, refimpl
from refimpl import ops
refimpl.set_num_threads(2)
x = np.linspace(-3, 3, 400_000)
expected = ops.tanh(x)
pid = os.fork()
if pid == 0:
    ok = np.array_equal(ops.tanh(x), expected) and refimpl.get_num_threads() == 1
    refimpl.set_num_threads(2)
    ok = ok and refimpl.get_num_threads() == 1 and np.array_equal(ops.tanh(x), expected)
    os._exit(0 if ok else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert np.array_equal(ops.tanh(x), expected)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


@needs_native
def test_native_operations_are_thread_safe():
    rng = np.random.default_rng(0)
    xs = [rng.standard_normal(50_000) for _ in range(8)]
    expected = [ops.gelu(x) for x in xs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            got = list(pool.map(ops.gelu, xs))
            assert all(np.array_equal(g, e) for g, e in zip(got, expected))


@needs_native
def test_kernel_errors_become_exceptions():
    for code, kind in ((1, MemoryError), (2, ValueError), (3, RuntimeError)):
        with pytest.raises(kind, match="someop"):
            native.check(code, "someop")
    with pytest.raises(AttributeError):
        native.kernel("no_such_kernel")


def test_registry_is_a_copy_and_operations_keep_their_documentation():
    operations().clear()
    assert operations()
    for name, op in operations().items():
        assert op.__doc__ and op.__name__ == name, f"{name} has no docstring"


def test_number_of_threads_starts_from_the_environment(monkeypatch):
    monkeypatch.setenv("REFIMPL_NUM_THREADS", "5")
    assert threads._from_environment() == 5
    monkeypatch.delenv("REFIMPL_NUM_THREADS")
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert threads._from_environment() == 3
