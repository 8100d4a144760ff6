import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import refimpl
from refimpl.backends import dispatch, native, operations, threads, wisdom
from refimpl.backends.wisdom import BadWisdom, Entry, Way
from refimpl.ops import tunables  # noqa: F401  (declares what can be tuned)

needs_native = pytest.mark.skipif(native.lib is None, reason="no C core")
ROOT = Path(__file__).resolve().parents[2]
NUMPY = Entry("numpy", 0, 1e-6, 2e-6, 1_700_000_000)
ONE = Entry("native", 1, 1e-6, 2e-6, 1_700_000_000)
DEFAULT = Entry("default", 0, 2e-6, 2e-6, 1_700_000_000)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """The file of this test; afterwards nothing decides any more."""
    path = str(tmp_path / "wisdom.json")
    monkeypatch.setenv("REFIMPL_WISDOM", path)
    yield path
    wisdom._apply({})


@pytest.fixture
def two_threads():
    before = threads._threads
    threads._threads = 2
    yield
    threads._threads = before


@pytest.fixture
def probe(monkeypatch):
    """A tunable operation whose bodies say who they are, and on how many threads."""

    @dispatch.operation
    def probe(x, out=None):
        return "numpy", threads.get_num_threads()

    probe.mirror("native")(lambda x, out=None: ("native", threads.get_num_threads()))
    monkeypatch.setitem(
        wisdom._tunables, "probe", wisdom.Tunable("probe", "x", None, lambda normal, n: {"x": normal(n)}, (4, 7))
    )
    yield probe
    wisdom._apply({})
    del dispatch._registry["probe"]


def x(n, dtype=np.float32):
    return np.zeros(n, dtype)


# ---------------------------------------------------------------- choosing


def test_between_sizes_that_agree_the_choice_holds_and_nowhere_above():
    measured = {3: NUMPY, 6: NUMPY, 9: ONE, 12: DEFAULT, 15: ONE}
    numpy, one = Way("numpy", 0), Way("native", 1)
    assert wisdom.spread(measured) == {**dict.fromkeys(range(0, 7), numpy), 9: one, 15: one}
    assert wisdom.spread({4: DEFAULT}) == {} == wisdom.spread({})


def test_the_body_and_the_threads_that_were_chosen_run(probe, two_threads):
    wisdom._apply({2: {"probe": {2: NUMPY, 4: ONE, 8: DEFAULT}}})
    assert probe(x(3)) == probe(x=x(7)) == ("numpy", 2)
    assert probe(x(16)) == probe(x(31)) == ("native", 1)
    assert probe(x(32)) == probe(x(256)) == probe(x(10**6)) == ("native", 2)
    assert threads.get_num_threads() == 2


def test_wisdom_holds_for_the_number_of_threads_it_was_learned_with(probe, two_threads):
    wisdom._apply({2: {"probe": {4: ONE}}, 1: {"probe": {4: NUMPY}}})
    assert probe(x(16)) == ("native", 1)
    threads._threads = 1
    assert probe(x(16)) == ("numpy", 1)
    threads._threads = 3
    assert probe(x(16)) == ("native", 3)


@pytest.fixture
def matmul_body():
    """Puts another body in the place of matmul's mirror, and returns that."""
    matmul = operations()["matmul"]
    before = matmul.bodies["native"]

    def put(body):
        matmul.mirror("native")(body)
        return before

    yield put
    wisdom._apply({})
    matmul.mirror("native")(before)


@needs_native
def test_parameters_are_set_around_the_call_and_nowhere_else(path, two_threads, matmul_body):
    seen = []

    def body(*args, **kwargs):
        seen.append(native.parameters()["gemm_kc_f32"].value)
        return inner(*args, **kwargs)

    inner = matmul_body(body)
    tuned = Entry("native", 2, 1e-6, 2e-6, 3, (("gemm_kc_f32", 128),))
    wisdom.store(path, 2, {"matmul": {6: tuned}})
    assert wisdom.read(path)[wisdom.machine_key()][2]["matmul"][6] == tuned
    wisdom.load()
    a = np.ones((4, 4), np.float32)
    refimpl.ops.matmul(a, a)
    refimpl.ops.matmul(np.ones((64, 64), np.float32), np.ones((64, 64), np.float32))
    with pytest.raises(ValueError, match="matmul"):
        refimpl.ops.matmul(a, np.ones((3, 3), np.float32))
    with refimpl.backend("native"):
        refimpl.ops.matmul(a, a)
    normal = native.parameters()["gemm_kc_f32"].default
    assert seen[0] == 128 and seen[-1] == normal and native.parameters()["gemm_kc_f32"].value == normal


@needs_native
@pytest.mark.parametrize("unknown", [("gemm_kc_f32", 385), ("gemm_no_f32", 1), ("attention_keys_f32", 16)])
def test_a_choice_with_parameters_that_are_not_offered_is_not_used(unknown):
    wisdom._apply({2: {"matmul": {6: Entry("native", 2, 1e-6, 2e-6, 3, (unknown,))}}})
    assert operations()["matmul"].table["auto"] is operations()["matmul"].bodies["native"]


def test_other_backends_and_other_dtypes_are_never_changed(probe, two_threads):
    wisdom._apply({2: {"probe": {4: NUMPY}}})
    before = dict(probe.table)
    for name, expected in (("native", "native"), ("numpy", "numpy"), ("opencl", "native"), ("auto", "numpy")):
        with refimpl.backend(name):
            assert probe(x(16))[0] == expected
    wisdom._apply({2: {"probe": {4: ONE}}})
    assert all(probe.table[name] is before[name] for name in ("native", "numpy", "opencl"))
    with refimpl.backend("native"):
        assert probe(x(16)) == ("native", 2)
    assert probe(x(16, np.float64)) == ("native", 2)


def test_an_operation_without_wisdom_runs_its_body_directly(probe, two_threads):
    wisdom._apply({2: {"probe": {4: DEFAULT}}})
    assert probe.table["auto"] is probe.bodies["native"]
    wisdom._apply({2: {"probe": {4: ONE}}})
    assert probe.table["auto"] is not probe.bodies["native"]
    wisdom._apply({})
    assert probe.table["auto"] is probe.table[None] is probe.bodies["native"]


def test_wisdom_survives_a_change_of_the_process_wide_backend(probe, two_threads):
    wisdom._apply({2: {"probe": {4: NUMPY}}})
    try:
        refimpl.set_backend("native")
        assert probe(x(16))[0] == "native"
        refimpl.set_backend("auto")
        assert probe(x(16))[0] == "numpy"
    finally:
        refimpl.set_backend("auto")


def test_fewer_threads_hold_for_one_call_of_one_thread(two_threads, probe):
    inside, go_on = threading.Event(), threading.Event()

    def body(x, out=None):
        inside.set()
        assert go_on.wait(10)
        return threads.get_num_threads()

    probe.bodies["native"] = body
    wisdom._apply({2: {"probe": {4: ONE}}})
    got = []
    other = threading.Thread(target=lambda: got.append(probe(x(16))))
    other.start()
    assert inside.wait(10) and threads.get_num_threads() == 2
    go_on.set()
    other.join()
    assert got == [1]

    def fails(x, out=None):
        raise KeyError("on purpose")

    probe.bodies["native"] = fails
    wisdom._apply({2: {"probe": {4: ONE}}})
    with pytest.raises(KeyError, match="on purpose"):
        probe(x(16))
    assert threads.get_num_threads() == 2


@needs_native
@pytest.mark.parametrize("bad", [(), ([1.0],), (None, None), (np.ones(3, np.float32),)], ids=repr)
def test_wrong_arguments_are_told_by_the_body(bad, two_threads):
    def told():
        with pytest.raises((TypeError, ValueError, AttributeError)) as error:
            refimpl.ops.matmul(*bad)
        return type(error.value), str(error.value).split("positional")[0]

    before = told()
    wisdom._apply({2: {"matmul": {6: NUMPY}}})
    try:
        assert told() == before
    finally:
        wisdom._apply({})


@needs_native
@pytest.mark.parametrize("name", wisdom.tunables())
def test_every_declaration_fits_its_operation(name):
    """Arguments of the size that was asked for, by name and by position; both bodies take them."""
    t, op = wisdom.tunables()[name], operations()[name]
    rng = np.random.default_rng(0)
    sizes = list(t.classes)[:2]
    assert list(t.classes) == sorted(t.classes) and sizes
    for c in sizes:
        args = t.make(lambda *shape: rng.standard_normal(shape, np.float32), 1 << c)
        assert wisdom.size(t, args).bit_length() - 1 == c and args[t.of].dtype == np.float32
        # "native" would fail: it runs where the size of the call is not recognised
        choose = wisdom.chooser(
            t, {(threads.get_num_threads(), c): Way("numpy", 0)}, {"numpy": op.numpy, "native": NotImplemented}
        )
        with np.errstate(all="ignore"):
            choose(**args)
            if list(args) == list(op.numpy.__code__.co_varnames[: len(args)]):
                choose(*args.values())
            op.bodies["native"](**args)


def test_a_fingerprint_tells_choices_apart_and_nothing_else(probe):
    wisdom._apply({2: {"probe": {4: NUMPY, 8: DEFAULT}}})
    first = wisdom.fingerprint(2)
    assert first and wisdom.fingerprint(1) is None
    wisdom._apply({2: {"probe": {4: NUMPY._replace(seconds=9.0, when=5)}}})
    assert wisdom.fingerprint(2) == first
    wisdom._apply({2: {"probe": {4: ONE}}})
    assert wisdom.fingerprint(2) != first
    wisdom._apply({2: {"probe": {4: DEFAULT}}})
    assert wisdom.fingerprint(2) is None


# ---------------------------------------------------------------- the file


def test_what_is_stored_is_read_again_and_decides(path, probe, two_threads):
    wisdom.store(path, 2, {"probe": {4: NUMPY, 7: DEFAULT}})
    wisdom.store(path, 1, {"probe": {4: ONE}})
    assert wisdom.read(path) == {wisdom.machine_key(): {2: {"probe": {4: NUMPY, 7: DEFAULT}}, 1: {"probe": {4: ONE}}}}
    wisdom.load()
    assert probe(x(16)) == ("numpy", 2) and wisdom.in_force()["probe"][4] == NUMPY


def test_storing_keeps_what_it_does_not_replace(path):
    wisdom.store(path, 2, {"relu": {4: NUMPY, 7: ONE}, "tanh": {4: ONE}})
    tree = json.loads(Path(path).read_text())
    tree["machines"]["another machine"] = tree["machines"][wisdom.machine_key()]
    Path(path).write_text(json.dumps(tree))
    wisdom.store(path, 2, {"relu": {4: DEFAULT}, "an_operation_of_the_future": {4: ONE}})
    found = wisdom.read(path)
    assert found["another machine"] == {2: {"relu": {4: NUMPY, 7: ONE}, "tanh": {4: ONE}}}
    expected = {"relu": {4: DEFAULT, 7: ONE}, "tanh": {4: ONE}, "an_operation_of_the_future": {4: ONE}}
    assert found[wisdom.machine_key()] == {2: expected}
    wisdom.load()  # what this version does not know is not its concern


def test_wisdom_of_another_machine_or_version_does_not_decide(path, probe, two_threads, monkeypatch):
    wisdom.store(path, 2, {"probe": {4: NUMPY}})
    monkeypatch.setattr(wisdom, "machine_key", lambda: "another machine")
    wisdom.load()
    assert probe(x(16)) == ("native", 2)


def _write(path, op):
    for c in range(20):
        wisdom.store(path, 2, {op: {c: ONE}})


def test_two_processes_that_write_at_once_lose_nothing(path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write, args=(path, op)) for op in ("relu", "tanh")]
    for w in workers:
        w.start()
    for w in workers:
        w.join(60)
    assert [w.exitcode for w in workers] == [0, 0]
    found = wisdom.read(path)[wisdom.machine_key()][2]
    assert found == {op: dict.fromkeys(range(20), ONE) for op in ("relu", "tanh")}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_a_writer_that_is_killed_leaves_the_old_file_and_no_lock(path):
    wisdom.store(path, 2, {"relu": {4: ONE}})
    before = Path(path).read_bytes()
    code = f"""
import os, signal
from refimpl.backends import wisdom
os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
wisdom.store({path!r}, 2, {{"relu": {{4: wisdom.Entry("numpy", 0, 1.0, 2.0, 3)}}}})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert Path(path).read_bytes() == before
    wisdom.store(path, 2, {"relu": {7: ONE}})
    assert wisdom.read(path)[wisdom.machine_key()][2]["relu"] == {4: ONE, 7: ONE}


def good():
    entries = {"4": wisdom._plain(NUMPY)}
    return {"format": wisdom.FORMAT, "machines": {wisdom.machine_key(): {"2": {"relu float32": entries}}}}


def changed(**fields):
    tree = good()
    tree["machines"][wisdom.machine_key()]["2"]["relu float32"]["4"].update(fields)
    return json.dumps(tree)


BAD = {
    "empty": "",
    "no JSON": "{",
    "truncated": json.dumps(good())[:-20],
    "not UTF-8": b"\xff\xfe\x00",
    "deeply nested": "[" * 100_000,
    "a huge number": json.dumps(good()).replace("1700000000", "9" * 10_000),
    "not an object": "[]",
    "another version": json.dumps({**good(), "format": "refimpl wisdom 2"}),
    "no version": json.dumps({"machines": {}}),
    "machines missing": json.dumps({"format": wisdom.FORMAT}),
    "machines a list": json.dumps({**good(), "machines": []}),
    "too large": json.dumps(good()) + " " * wisdom.MAX_BYTES,
    "unknown body": changed(body="gpu"),
    "body a list": changed(body=["numpy"]),
    "threads beyond": changed(body="native", threads=3),
    "no threads": changed(body="native", threads=0),
    "threads of numpy": changed(threads=1),
    "threads true": changed(body="native", threads=True),
    "threads a float": changed(body="native", threads=1.0),
    "negative seconds": changed(seconds=-1),
    "NaN": changed(seconds=float("nan")),
    "infinity": changed(default_seconds=float("inf")),
    "seconds text": changed(seconds="1"),
    "when null": changed(when=None),
    "a name more": changed(colour="red"),
    "size class text": json.dumps(good()).replace('"4"', '"four"'),
    "size class beyond": json.dumps(good()).replace('"4"', '"63"'),
    "threads zero": json.dumps(good()).replace('"2"', '"0"'),
    "another dtype": json.dumps(good()).replace("relu float32", "relu int8"),
    "no operation": json.dumps(good()).replace("relu float32", "re-lu float32"),
}


def test_the_good_file_is_good(path):
    Path(path).write_text(json.dumps(good()))
    assert wisdom.read(path)[wisdom.machine_key()][2]["relu"][4] == NUMPY


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_set_aside_with_one_warning(path, kind):
    content = BAD[kind] if isinstance(BAD[kind], bytes) else BAD[kind].encode()
    Path(path).write_bytes(content)
    with pytest.raises(BadWisdom):
        wisdom.read(path)
    with pytest.warns(
        RuntimeWarning, match=r"not wisdom .*set aside as .*\.bad\. To learn again: refimpl tune"
    ) as told:
        wisdom.load()
    assert len(told) == 1 and len(str(told[0].message)) < 500
    assert not os.path.exists(path) and Path(f"{path}.bad").read_bytes() == content
    wisdom.load()  # silent: warnings are errors in these tests
    assert wisdom.in_force(2) == {}
    wisdom.store(path, 2, {"relu": {4: ONE}})
    assert wisdom.read(path)


def test_storing_over_a_bad_file_sets_it_aside(path):
    Path(path).write_text("nonsense")
    with pytest.warns(RuntimeWarning, match="set aside"):
        wisdom.store(path, 2, {"relu": {4: ONE}})
    assert wisdom.read(path) and Path(f"{path}.bad").read_text() == "nonsense"


@pytest.mark.parametrize("kind", ["folder", "fifo"])
def test_what_is_no_file_is_left_alone(path, kind):
    if kind == "fifo" and not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes")
    (os.mkdir if kind == "folder" else os.mkfifo)(path)
    with pytest.warns(RuntimeWarning, match=r"not wisdom, and cannot be set aside \(not a regular file\)"):
        wisdom.load()
    with pytest.raises(OSError, match="not a regular file"):
        wisdom.check_writable(path)
    assert os.path.exists(path)


def test_a_bad_file_in_a_read_only_place_is_one_warning(path, monkeypatch):
    Path(path).write_text("nonsense")

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.warns(RuntimeWarning, match=r"cannot be set aside \(Read-only file system\)") as told:
        wisdom.load()
    assert len(told) == 1 and wisdom.in_force() == {}


def test_a_file_that_may_not_be_read_is_one_warning(path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(wisdom, "read", refuse)
    with pytest.warns(RuntimeWarning, match=r"cannot be read \(Permission denied\) and is not used"):
        wisdom.load()


def test_a_full_disk_leaves_the_old_file(path, monkeypatch):
    wisdom.store(path, 2, {"relu": {4: ONE}})
    before = Path(path).read_bytes()

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            wisdom.store(path, 2, {"relu": {7: ONE}})
    assert Path(path).read_bytes() == before
    assert sorted(p.name for p in Path(path).parent.iterdir()) == ["wisdom.json", "wisdom.json.lock"]


def test_a_lock_that_is_held_too_long_is_an_error_and_no_hang(path, monkeypatch):
    pytest.importorskip("fcntl")
    monkeypatch.setattr(wisdom, "LOCK_SECONDS", 0.05)
    with wisdom._lock(path), pytest.raises(TimeoutError, match=r"another process has held it"):
        wisdom.store(path, 2, {"relu": {4: ONE}})


def test_the_oldest_sections_make_room(path, monkeypatch):
    for n in (1, 2, 3):
        wisdom.store(path, n, {"relu": {4: DEFAULT._replace(when=1000 * n)}})
    monkeypatch.setattr(wisdom, "MAX_BYTES", os.path.getsize(path) + 10)
    wisdom.store(path, 4, {"relu": {4: DEFAULT._replace(when=1)}})
    assert set(wisdom.read(path)[wisdom.machine_key()]) == {2, 3, 4}


def test_a_link_is_followed(path, tmp_path):
    os.makedirs(tmp_path / "kept")
    os.symlink(tmp_path / "kept" / "real.json", path)
    wisdom.store(wisdom.file(), 2, {"relu": {4: ONE}})
    assert os.path.islink(path) and wisdom.read(path)


# ---------------------------------------------------------------- where, and whether


def test_the_file_is_named_by_the_environment_or_lies_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("REFIMPL_CACHE", str(tmp_path / "cache"))
    for empty in ("", None):
        monkeypatch.delenv("REFIMPL_WISDOM") if empty is None else monkeypatch.setenv("REFIMPL_WISDOM", empty)
        assert wisdom.file() == str(tmp_path / "cache" / "wisdom.json")
    monkeypatch.setenv("REFIMPL_WISDOM", str(tmp_path / "mine.json"))
    assert wisdom.file() == str(tmp_path / "mine.json")
    for off in ("off", "OFF"):
        monkeypatch.setenv("REFIMPL_WISDOM", off)
        assert wisdom.file() is None


def python(code, **environment):
    env = {**os.environ, "REFIMPL_NUM_THREADS": "2", **environment}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), done.stderr


@needs_native
def test_a_new_process_follows_the_file_from_its_first_call_on_and_off_switches_it_off(path):
    wisdom.store(path, 2, {"relu": {4: NUMPY}})
    code = """
import sys, numpy as np, refimpl
from refimpl.backends import wisdom
relu = refimpl.ops.relu
print("json" in sys.modules, "refimpl.ops.tunables" in sys.modules)
refimpl.ops.relu(np.ones(16, "f"))
native = relu.bodies["native"]
print(relu.table["auto"] is not native, bool(wisdom.fingerprint()), relu.table["native"] is native)
"""
    assert python(code)[0] == ["False", "False", "True", "True", "True"]
    assert python(code, REFIMPL_WISDOM="off")[0] == ["False", "False", "False", "False", "True"]
    assert python(code, REFIMPL_WISDOM=f"{path}.none")[0] == ["False", "False", "False", "False", "True"]
    code = "import refimpl; from refimpl.backends import wisdom; print(bool(wisdom.fingerprint()))"
    assert python(code)[0] == ["True"]
    assert python(code, REFIMPL_NUM_THREADS="1")[0] == ["False"]


def test_a_new_process_with_a_bad_file_works_and_says_so_once(path):
    Path(path).write_text("nonsense")
    code = "import numpy as np, refimpl; print(refimpl.ops.relu(np.ones(2)).sum(), refimpl.ops.tanh(np.zeros(2)).sum())"
    out, err = python(code)
    assert out == ["2.0", "0.0"] and err.count("RuntimeWarning") == 1 and "set aside" in err
    assert python(code)[1] == ""


def test_without_the_c_core_nothing_is_chosen(path):
    wisdom.store(path, 2, {"relu": {4: NUMPY}})
    code = "import numpy as np, refimpl; from refimpl.backends import wisdom; \
refimpl.ops.relu(np.ones(2)); print(wisdom.tunables(), wisdom.fingerprint())"
    assert python(code, REFIMPL_NATIVE="0") == (["{}", "None"], "")


@needs_native
def test_threads_that_make_the_first_call_at_once_all_follow_the_file(probe, two_threads):
    def slow():
        time.sleep(0.05)
        wisdom._apply({2: {"probe": {4: NUMPY}}})

    dispatch.prepare_with(slow)
    got = []
    workers = [threading.Thread(target=lambda: got.append(probe(x(16))[0])) for _ in range(4)]
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    assert got == ["numpy"] * 4 and dispatch._prepare is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert probe(x(16))[0] == "numpy"


def test_every_operation_with_a_mirror_can_be_tuned():
    mirrored = {name for name, op in operations().items() if "native" in op.bodies}
    assert mirrored == set(wisdom.tunables())
