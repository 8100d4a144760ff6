import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from refimpl.backends import native, operations, threads, wisdom
from refimpl.backends.wisdom import Entry, Way
from refimpl.lab import doctor, files, run, tune
from refimpl.lab.errors import RunError, UsageError

ROOT = Path(__file__).resolve().parents[2]
NUMPY = Entry("numpy", 0, 1e-6, 2e-6, 1_700_000_000)
DEFAULT = Entry("default", 0, 2e-6, 2e-6, 1_700_000_000)
pytestmark = pytest.mark.skipif(native.lib is None, reason="no C core")


@pytest.fixture(autouse=True)
def path(tmp_path, monkeypatch):
    path = tmp_path / "w" / "wisdom.json"
    monkeypatch.setenv("REFIMPL_WISDOM", str(path))
    monkeypatch.setattr(tune, "SAMPLE", 2e-4)
    before = threads._threads
    threads._threads = 2
    yield path
    threads._threads = before
    wisdom._apply({})


class Clock:
    """Time that passes only where a test lets it: other work on the machine changes no result."""

    monotonic, time = staticmethod(time.monotonic), staticmethod(time.time)

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def takes(self, seconds):
        """A function that takes so long."""

        def f():
            self.now += seconds

        return f


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(tune, "time", clock)
    return clock


@pytest.fixture
def bodies(monkeypatch, clock):
    """relu with bodies that take as long as is set here for NumPy, the C core on one thread, on two (or a function)."""
    relu = operations()["relu"]
    right = relu.numpy
    seconds = {"numpy": 1e-3, 1: 1e-3, 2: 1e-3}

    def wait(s, x):
        clock.now += s() if callable(s) else s
        return right(x)

    def numpy(x, out=None):
        return wait(seconds["numpy"], x)

    def c(x, out=None):
        return wait(seconds[threads.get_num_threads()], x)

    before = dict(relu.bodies)
    monkeypatch.setitem(wisdom._tunables, "relu", wisdom._tunables["relu"]._replace(classes=(4,)))
    relu.bodies["numpy"] = numpy
    relu.mirror("native")(c)
    yield seconds
    relu.bodies.update(before)
    relu.mirror("native")(before["native"])


def row(outcome):
    (row,) = outcome["rows"]
    return row


@pytest.mark.parametrize(
    ("numpy", "one", "two", "choice"),
    [(2e-4, 8e-4, 8e-4, ["numpy", 0, []]), (8e-4, 2e-4, 8e-4, ["native", 1, []]), (8e-4, 8e-4, 2e-4, None)],
)
def test_the_fastest_candidate_is_chosen_and_decides(bodies, clock, path, numpy, one, two, choice):
    bodies.update({"numpy": numpy, 1: one, 2: two})
    outcome = tune.run(["relu"], 10, show=False)
    r = row(outcome)
    assert (
        json.loads(json.dumps(r["choice"])) == choice
        and r["state"] == ("changed" if choice else "stays")
        and not r["wrong"]
    )
    stored = wisdom.read(str(path))[wisdom.machine_key()][2]["relu"][4]
    assert [stored.body, stored.threads, []] == (choice or ["default", 0, []])
    if choice:
        assert r["gain"] == pytest.approx(4) and r["choice_s"] == pytest.approx(2e-4)
        assert tune.report(outcome).count("relu") == 1
    before = clock.now
    operations()["relu"](np.ones(16, np.float32))
    assert clock.now - before == pytest.approx(2e-4)


def test_what_does_not_beat_the_noise_is_not_written(bodies, path):
    rng = np.random.default_rng(0)
    bodies.update(dict.fromkeys(bodies, lambda: rng.uniform(1e-4, 4e-4)))
    assert row(tune.run(["relu"], 10, show=False))["state"] == "stays"
    assert wisdom.read(str(path))[wisdom.machine_key()][2]["relu"][4].body == "default"
    assert wisdom.fingerprint(2) is None


def test_tuning_again_takes_back_a_choice_that_no_longer_wins(bodies, path):
    wisdom.store(str(tune.place()), 2, {"relu": {4: Entry("numpy", 0, 1e-6, 2e-6, 3)}, "tanh": {2: NUMPY}})
    bodies.update({"numpy": 8e-4, 1: 8e-4, 2: 2e-4})
    tune.run(["relu"], 10, show=False)
    found = wisdom.read(str(path))[wisdom.machine_key()][2]
    assert found["relu"][4].body == "default" and found["tanh"] == {2: NUMPY}


def test_a_loser_stops_early_and_the_untuned_choice_never(clock):
    calls = {way: 0 for way in tune.candidates(4)}
    assert list(calls) == [Way("native", 4), Way("numpy", 0), Way("native", 1), Way("native", 2)]
    pause = dict(zip(calls, (4e-4, 1e-4, 4e-4, 4e-4)))

    def racer(way):
        def f():
            calls[way] += 1
            clock.now += pause[way]

        return f

    ways = {way: racer(way) for way in calls}
    winner, times = tune._rounds(ways, dict.fromkeys(ways, 1), Way("native", 4), lambda: False)
    assert winner == Way("numpy", 0)
    assert len(times[Way("native", 1)]) == len(times[Way("native", 2)]) == 3
    assert len(times[Way("native", 4)]) == len(times[Way("numpy", 0)]) == tune.ROUNDS


def test_the_parameters_of_a_kernel_are_searched_one_after_the_other(clock, monkeypatch, path):
    kc = native.parameters()["gemm_kc_f32"]
    best = next(v for v in kc.values if v != kc.default)
    matmul = operations()["matmul"]
    inner = matmul.bodies["native"]

    def numpy(a, b, transpose_a=False, transpose_b=False, out=None):
        clock.now += 5e-3
        return matmul.numpy(a, b, transpose_a, transpose_b, out)

    def body(*args, **kwargs):
        values = native.parameters()
        clock.now += 1e-3 if values["gemm_kc_f32"].value == best else 2e-3
        clock.now += 5e-4 * (values["gemm_nc_f32"].value == values["gemm_nc_f32"].default)
        clock.now += 1e-2 * (threads.get_num_threads() < 2)
        return inner(*args, **kwargs)

    monkeypatch.setitem(matmul.bodies, "native", body)
    monkeypatch.setitem(matmul.bodies, "numpy", numpy)
    monkeypatch.setitem(wisdom._tunables, "matmul", wisdom.tunables()["matmul"]._replace(classes=(12,)))
    outcome = tune.run(["matmul"], 100, show=False)
    (found,) = outcome["rows"]
    assert found["state"] == "changed" and found["gain"] == pytest.approx(2.5, rel=0.01)
    chosen = dict(found["choice"][2])
    assert chosen.pop("gemm_kc_f32") == best and list(chosen) == ["gemm_nc_f32"]
    assert f"matmul 2^12: gemm_kc {best}, gemm_nc" in " ".join(tune.report(outcome).split())
    assert "gemm_kc" in tune.show(tune.state(2))
    entry = wisdom.read(str(path))[wisdom.machine_key()][2]["matmul"][12]
    assert dict(entry.parameters)["gemm_kc_f32"] == best


def test_the_duel_needs_wins_that_chance_does_not_bring(clock):
    assert [tune.needed(n, 0.01) for n in (7, 10, 15)] == [7, 10, 13]
    slow, fast = clock.takes(6e-4), clock.takes(1e-4)
    assert tune._duel(fast, slow, 1, 1, lambda: False) == pytest.approx((1e-4, 6e-4))
    assert tune._duel(clock.takes(0.98e-4), fast, 1, 1, lambda: False) is None
    assert tune._duel(slow, fast, 1, 1, lambda: False) is None
    assert tune._duel(fast, slow, 1, 1, lambda: True) is None


def test_a_candidate_with_other_results_is_never_chosen_and_shown_up(bodies):
    bodies.update({"numpy": 4e-4, 2: 4e-4})
    relu, c = operations()["relu"], operations()["relu"].bodies["native"]

    def wrong(x, out=None):
        return np.zeros_like(x) if threads.get_num_threads() == 1 else c(x)

    relu.bodies["native"] = wrong
    outcome = tune.run(["relu"], 10, show=False)
    assert row(outcome)["wrong"] == [["native", 1, ()]] and row(outcome)["choice"] != ["native", 1, ()]
    assert "WRONG: relu 2^4: C x1 has other results than NumPy" in tune.report(outcome)
    relu.bodies["native"] = lambda x, out=None: x
    outcome = tune.run(["relu"], 10, show=False)
    assert row(outcome)["state"] == "wrong" and row(outcome)["choice"] is None


def test_the_budget_holds_and_what_was_not_measured_is_told(path):
    started = time.monotonic()
    outcome = tune.run((), 0.5, show=False)
    assert time.monotonic() - started < 3
    states = [r["state"] for r in outcome["rows"]]
    assert 0 < states.count("no time") < len(states)
    assert "not measured in the budget (--budget gives more)" in " ".join(tune.report(outcome).split())
    assert wisdom.read(str(path))


def test_several_operations_with_real_bodies_give_a_table_of_80_columns(path):
    outcome = json.loads(files.dumps(tune.run(["matmul", "conv_transpose2d_backward", "adam_update"], 3, show=False)))
    assert {r["operation"] for r in outcome["rows"]} == {"matmul", "conv_transpose2d_backward", "adam_update"}
    assert not any(r["wrong"] for r in outcome["rows"]) and outcome["threads"] == 2
    for r in outcome["rows"]:  # as wide as can be
        r.update(state="changed", untuned=["native", 256], untuned_s=999e-6, choice=["native", 128], choice_s=9.99e-6)
    outcome["rows"][0]["operation"] = max(wisdom.tunables(), key=len)
    text = tune.report({**outcome, "file": "f"})
    assert max(map(len, text.splitlines())) <= 80 and "conv_transpose2d_backward" in text


def test_fewer_threads_are_tuned_for_on_their_own(path):
    outcome = tune.run(["relu"], 2, threads=1, show=False)
    assert outcome["threads"] == 1 and list(wisdom.read(str(path))[wisdom.machine_key()]) == [1]
    assert threads.get_num_threads() == 2


@pytest.mark.skipif(not hasattr(signal, "SIGINT") or sys.platform == "win32", reason="no signals to send")
def test_ctrl_c_keeps_what_was_learned(path):
    code = """
import os, signal, sys
from refimpl import cli
from refimpl.lab import tune
measure = tune._measure
done = []
def counting(*args):
    result = measure(*args)
    done.append(result)
    if len(done) == 5:
        os.kill(os.getpid(), signal.SIGINT)
    return result
tune._measure = counting
sys.exit(cli.main(["tune", "--threads", "1"]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 130 and "Traceback" not in done.stderr
    assert "Stopping after this turn; what was learned is kept" in done.stderr
    assert f"refimpl: stopped; what was learned is in {path}" in done.stderr
    assert "not measured before it was stopped" in " ".join(done.stdout.split())
    learned = wisdom.read(str(path))[wisdom.machine_key()][1]
    assert 1 <= sum(map(len, learned.values())) <= 5


def test_a_second_ctrl_c_keeps_it_too(bodies, path, monkeypatch):
    bodies.update({"numpy": 2e-4, 1: 8e-4, 2: 8e-4})
    monkeypatch.setitem(wisdom._tunables, "relu", wisdom._tunables["relu"]._replace(classes=(4, 7)))
    measure, done = tune._measure, []

    def interrupted(job, *args):
        if done:
            raise KeyboardInterrupt
        done.append(job)
        return measure(job, *args)

    monkeypatch.setattr(tune, "_measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune.run(["relu"], 10, show=False)
    assert wisdom.read(str(path))[wisdom.machine_key()][2]["relu"][4].body == "numpy"


def test_what_cannot_be_tuned_is_refused_before_any_work(path, monkeypatch):
    with pytest.raises(UsageError, match=r"cannot tune 'nope', expected one of adam_update, .*matmul"):
        tune.run(["nope"], show=False)
    path.parent.mkdir()
    path.mkdir()
    with pytest.raises(RunError, match=r"wisdom cannot be stored there \(not a regular file\)\. Name another file"):
        tune.run(["relu"], show=False)
    path.rmdir()
    monkeypatch.setenv("REFIMPL_WISDOM", "off")
    with pytest.raises(UsageError, match="REFIMPL_WISDOM=off switches wisdom off"):
        tune.run(["relu"], show=False)
    monkeypatch.setattr(native, "lib", None)
    monkeypatch.setenv("REFIMPL_WISDOM", str(path))
    with pytest.raises(RunError, match="nothing to choose"):
        tune.run(["relu"], show=False)


def test_a_read_only_place_is_an_error_for_tune_and_none_for_users(path, monkeypatch):
    wisdom.store(str(tune.place()), 2, {"relu": {4: NUMPY}})
    real = os.open

    def refuse(name, flags, *more, **others):
        if flags & os.O_CREAT or flags & os.O_RDWR:
            raise OSError(30, os.strerror(30))
        return real(name, flags, *more, **others)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(RunError, match=r"wisdom cannot be stored there \(Read-only file system\)"):
        tune.run(["relu"], show=False)
    wisdom.load()
    assert wisdom.in_force(2) == {"relu": {4: NUMPY}}


def test_the_doctor_and_show_tell_what_is_in_force(path):
    assert "wisdom    none (to find the fastest body of each operation here: refimpl tune)" in doctor.report(
        doctor.examine()
    )
    when = int(time.time()) - 3 * 86400 - 50
    wisdom.store(str(tune.place()), 2, {"relu": {4: NUMPY._replace(when=when), 7: DEFAULT}, "tanh": {2: NUMPY}})
    found = json.loads(files.dumps(doctor.examine()))["wisdom"]
    assert found["file"] == str(path) and found["measured"] == 3 and len(found["choices"]) == 2 and found["hash"]
    told = " ".join(doctor.report(doctor.examine()).split())
    assert "wisdom 2 choices in force for 2 threads (3 sizes measured), learned 3 days ago, from" in told
    line = next(line for line in tune.show(found).splitlines() if line.startswith("relu"))
    assert line.split() == ["relu", "2^4", "C", "x2", "2.00", "µs", "NumPy", "1.00", "µs", "2.00x"]
    told = " ".join(tune.show(tune.state(1)).split())
    assert "nothing about this machine, these versions and 1 thread (to learn it: refimpl tune)" in told


def test_times_that_have_passed_are_told_roughly():
    assert [tune.age(s) for s in (0, 59, 60, 7200, 86400, 9e6)] == [
        *["less than a minute"] * 2,
        *("1 minute", "2 hours", "1 day", "104 days"),
    ]


def test_a_run_remembers_the_wisdom_and_is_not_resumed_under_another(path, tmp_path):
    run.start(run.Config("fake", settings={"epochs": 1}), tmp_path / "before", show=False)
    config = json.loads((tmp_path / "before/config.json").read_text())
    assert config["wisdom"] is None
    del config["wisdom"]  # a run from before there was wisdom
    (tmp_path / "before/config.json").write_text(json.dumps(config))
    run.resume(tmp_path / "before", show=False)
    wisdom.store(str(tune.place()), 2, {"relu": {4: NUMPY}})
    wisdom.load()
    with pytest.raises(RunError, match=r"wisdom is None in the run, '[0-9a-f]{16}' is here now"):
        run.resume(tmp_path / "before", show=False)
    run.start(run.Config("fake", settings={"epochs": 1}), tmp_path / "after", show=False)
    assert json.loads((tmp_path / "after/config.json").read_text())["wisdom"] == wisdom.fingerprint(2)
    run.start(run.Config("fake", settings={"epochs": 1}, threads=1), tmp_path / "other", show=False)
    assert json.loads((tmp_path / "other/config.json").read_text())["wisdom"] is None
    run.start(run.Config("fake", settings={"epochs": 1}, backends=("numpy",)), tmp_path / "numpy", show=False)
    wisdom._apply({})
    run.resume(tmp_path / "numpy", show=False)
    with pytest.raises(RunError, match=r"wisdom is '[0-9a-f]{16}' in the run, None is here now"):
        run.resume(tmp_path / "after", show=False)
