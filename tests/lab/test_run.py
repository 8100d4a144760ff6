import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from refimpl import methods
from refimpl.lab import checkpoint, files, run
from refimpl.lab.errors import Interrupted, RunError, UsageError, WriteError
from tests.lab import fake

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments, **environment):
    """The command line with the fake method, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests/lab/fake.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def arrays(folder):
    found = {}
    for path in sorted((Path(folder) / "checkpoints").glob("*.safetensors")):
        if ".previous" not in path.name:
            loaded = checkpoint.load(path)
            found |= {f"{path.name}/{k}": a.tobytes() for k, a in loaded.arrays.items()}
            assert loaded.meta["result"] is not None
            found[f"{path.name}/rngs"] = json.dumps(loaded.meta["learner"]["rngs"])
            found[f"{path.name}/accuracy"] = loaded.meta["result"]["score"]
    return found


def metrics(folder):
    lines = files.read_lines(Path(folder) / "metrics.jsonl")
    return [(e["backend"], e["name"], e["unit"], e["metrics"]) for e in lines]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "MODULES", fake.MODULES)
        outcome = run.start(run.Config("fake", seed=3, settings={"epochs": 8}), folder, show=False)
    return folder, outcome


def test_a_run_leaves_everything_in_its_folder(whole):
    folder, outcome = whole
    assert {p.name for p in folder.iterdir()} == {
        ".lock",
        "checkpoints",
        "config.json",
        "figure.png",
        "metrics.jsonl",
        "result.json",
    }
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    stored = json.loads((folder / "result.json").read_text())
    assert stored["results"] == outcome["results"] and stored["figure"] == "figure.png"
    assert str(folder) not in (folder / "result.json").read_text()
    assert [r["name"] for r in outcome["results"]] == ["fast", "slow"]
    for r in outcome["results"]:
        assert r["score"] > 0.8 and r["seconds"] > 0 and r["peak_bytes"] >= 0 and r["units"] == 8
    assert [m[:3] for m in metrics(folder)] == [("auto", n, u) for n in ("fast", "slow") for u in range(8)]
    text = run.report(outcome)
    assert "baseline" in text and "figure.png" in text and max(map(len, text.splitlines()[:7])) <= 80


@pytest.mark.parametrize(("die", "every"), [("0:5", "0"), ("0:5", "60"), ("1:0", "0"), ("1:7", "0")])
def test_a_killed_run_resumes_to_the_same_bits(whole, die, every, tmp_path):
    options = ("run", "fake", "--seed", "3", "--set", "epochs=8", "--out", "killed")
    process = command(*options, FAKE_DIE=die, FAKE_EVERY=every)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed/result.json").exists()
    contender, unit = map(int, die.split(":"))
    stored = checkpoint.load(tmp_path / f"killed/checkpoints/auto-{contender:02d}.safetensors")
    assert (stored.meta["learner"]["progress"] if stored else 0) == (unit if every == "0" else 0)
    run.resume(Path("killed"), show=False)
    assert arrays("killed") == arrays(whole[0])
    assert metrics("killed") == metrics(whole[0])
    assert json.loads(Path("killed/result.json").read_text())["results"][0]["units"] == 8


def test_back_propagation_killed_and_resumed_gives_the_same_bits(tmp_path):
    settings = {"real": True, "epochs": 4}
    run.start(run.Config("fake", settings=settings), tmp_path / "whole", show=False)
    process = command(
        "run", "fake", "--set", "real=True", "--set", "epochs=4", "--out", "killed", FAKE_DIE="1:2", FAKE_EVERY="0"
    )
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    run.resume(Path("killed"), show=False)
    assert arrays("killed") == arrays("whole") and metrics("killed") == metrics("whole")


def test_a_run_killed_between_checkpoints_resumes_from_the_last(whole, tmp_path):
    """With a checkpoint after each unit, the kill comes wherever it comes."""
    process = command(
        "run", "fake", "--seed", "3", "--set", "epochs=8", "--set", "pause=0.05", "--out", "killed", FAKE_EVERY="0"
    )
    lines = tmp_path / "killed/metrics.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(files.read_lines(lines)) < 11:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    with open(lines, "a") as file:
        file.write('{"backend": "auto", "name": "slow", "un')  # and its last line is torn
    outcome = run.resume(Path("killed"), every=0.0, show=False)
    assert [r["name"] for r in outcome["results"]] == ["fast", "slow"]
    assert arrays("killed") == arrays(whole[0])
    assert metrics("killed") == metrics(whole[0])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stores_and_says_how_to_go_on(whole, number, code):
    process = command("run", "fake", "--seed", "3", "--set", "epochs=8", "--set", "pause=0.1", "--out", "stopped")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(files.read_lines(Path("stopped/metrics.jsonl"))) < 2:
        time.sleep(0.01)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == code
    assert "all of it is stored. To go on: refimpl run fake --resume stopped" in told and "Traceback" not in told
    # what was stored is the unit that had just ended: nothing is repeated
    stored = checkpoint.load(Path("stopped/checkpoints/auto-00.safetensors"))
    assert stored.meta["learner"]["progress"] == len(metrics("stopped"))
    run.resume(Path("stopped"), show=False)
    assert arrays("stopped") == arrays(whole[0])


def test_resume_of_a_finished_run_trains_nothing_and_tells_the_same(whole):
    folder, outcome = whole
    before = arrays(folder)
    again = run.resume(folder, show=False)
    assert again["results"] == outcome["results"] and arrays(folder) == before


def test_a_run_refuses_to_go_on_under_other_conditions(tmp_path, monkeypatch):
    run.start(run.Config("fake", settings={"epochs": 2}), tmp_path / "r", show=False)
    with pytest.raises(RunError, match=r"cannot go on to the same bits: seed is 0 in the run, 1 was asked for now"):
        run.resume(tmp_path / "r", {"seed": 1}, show=False)
    with pytest.raises(RunError, match=r"settings is \{'epochs': 2\} in the run"):
        run.resume(tmp_path / "r", {"settings": {"epochs": 3}}, show=False)
    with pytest.raises(RunError, match=r"backends is \['auto'\] in the run, \['numpy'\] was asked"):
        run.resume(tmp_path / "r", {"backends": ("numpy",)}, show=False)
    run.resume(tmp_path / "r", {"seed": 0, "settings": {"epochs": 2}, "backends": ("auto",)}, show=False)
    config = tmp_path / "r/config.json"
    stored = json.loads(config.read_text())
    for key, value, told in (
        ("versions", {**stored["versions"], "refimpl": "0.0"}, "versions.refimpl is '0.0' in the run"),
        ("core", "v9", "core is 'v9' in the run"),
        ("data_sha256", "00", "data_sha256 is '00' in the run"),
        ("machine", {"cpu": "abacus"}, "machine.cpu is 'abacus' in the run"),
    ):
        files.write_json(config, {**stored, key: value})
        with pytest.raises(RunError, match=told):
            run.resume(tmp_path / "r", show=False)
    config.write_text('{"format": "refimpl run 1"')
    with pytest.raises(RunError, match=r"config\.json: cannot be read as the configuration of a run"):
        run.resume(tmp_path / "r", show=False)
    files.write_json(config, {"format": "refimpl run 1"})
    with pytest.raises(RunError, match="not the configuration of a run"):
        run.resume(tmp_path / "r", show=False)
    with pytest.raises(RunError, match="no such folder"):
        run.resume(tmp_path / "none", show=False)


def test_a_damaged_checkpoint_costs_time_and_no_bits(whole, tmp_path, capsys):
    process = command("run", "fake", "--seed", "3", "--set", "epochs=8", "--out", "r", FAKE_DIE="1:7")
    process.communicate(timeout=60)
    path = tmp_path / "r/checkpoints/auto-00.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(RunError, match=r"auto-00\.safetensors: damaged"):
        run.resume(Path("r"), show=False)
    path.unlink()
    run.resume(Path("r"), show=False)
    assert arrays("r") == arrays(whole[0])


def test_an_earlier_checkpoint_serves_when_the_newest_is_damaged(whole, tmp_path, capsys):
    run.start(run.Config("fake", seed=3, settings={"epochs": 8}), tmp_path / "r", every=0.0, show=False)
    path = tmp_path / "r/checkpoints/auto-01.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    run.resume(tmp_path / "r", show=False)
    assert "damaged" in (told := capsys.readouterr().err) and "Going on from the checkpoint before it" in told
    assert arrays("r") == arrays(whole[0])


@pytest.mark.parametrize("at", [3, 6, 11])
def test_a_full_disk_stops_the_run_and_resume_goes_on(whole, tmp_path, monkeypatch, at):
    real, count = os.fsync, 0

    def fsync(handle):
        nonlocal count
        count += stat.S_ISREG(os.fstat(handle).st_mode)
        if count == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    config = run.Config("fake", seed=3, settings={"epochs": 8})
    with pytest.raises(WriteError, match=r"disk is full.*To go on: refimpl run fake --resume .*/r"):
        run.start(config, tmp_path / "r", every=0.0, show=False)
    monkeypatch.setattr(os, "fsync", real)
    run.resume(tmp_path / "r", show=False)
    assert arrays("r") == arrays(whole[0])


@pytest.mark.skipif(not sys.platform.startswith("linux") or os.getuid() != 0, reason="mounting needs root on Linux")
def test_a_disk_that_is_really_full_stops_the_run_and_resume_goes_on(whole, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        (small / "ballast").write_bytes(bytes(36_000))
        process = command("run", "fake", "--seed", "3", "--set", "epochs=8", "--out", "small/r")
        _, told = process.communicate(timeout=60)
        assert process.returncode == 1 and "Traceback" not in told
        assert "the disk is full" in told and "To go on: refimpl run fake --resume small/r" in told
        (small / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=4m", str(small)], check=True)
        run.resume(small / "r", show=False)
        assert arrays(small / "r") == arrays(whole[0])
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_both_backends_side_by_side(tmp_path):
    from refimpl.backends import available_backends

    if "native" not in available_backends():
        with pytest.raises(RunError, match="backend native is not available"):
            run.start(run.Config("fake", backends=("numpy", "native")), show=False)
        return
    config = run.Config("fake", backends=("numpy", "native"), settings={"epochs": 2})
    outcome = run.start(config, show=False)
    assert [(r["backend"], r["name"]) for r in outcome["results"]] == [
        ("numpy", "fast"),
        ("numpy", "slow"),
        ("native", "fast"),
        ("native", "slow"),
    ]
    text = run.report(outcome)
    for column in ("%, NumPy", "%, C", "s, NumPy", "s, C", "ratio", "MB, NumPy", "MB, C"):
        assert column in text
    assert "NumPy and C core" in text and "slow *" in text and max(map(len, text.splitlines())) <= 80
    assert outcome["folder"] == "runs/fake-digits-001"


def test_quick_takes_a_small_part_of_the_data_and_says_so(tmp_path):
    outcome = run.start(run.Config("fake", quick=True, settings={"epochs": 1}), tmp_path / "r", show=False)
    assert outcome["sizes"] == "400 training, 200 test images"
    assert "quick: too small to judge anything by it" in run.report(outcome)


def test_nothing_is_left_behind_by_a_request_that_makes_no_sense(tmp_path):
    for config, told in (
        (run.Config("nope"), "no method named 'nope'"),
        (run.Config("fake", data="nope"), "unknown data set 'nope'"),
        (run.Config("fake", settings={"nope": 1}), "no setting 'nope'"),
        (run.Config("fake", backends=("nope",)), "no backend named 'nope'"),
    ):
        with pytest.raises(UsageError, match=told):
            run.start(config, show=False)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(RunError, match="opencl is not available"):
        run.start(run.Config("fake", backends=("opencl",)), show=False)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r/letter.txt").write_text("dear")
    with pytest.raises(RunError, match=r"not empty \(letter.txt\)"):
        run.start(run.Config("fake"), tmp_path / "r", show=False)
    (tmp_path / "r/config.json").write_text("{}")
    with pytest.raises(RunError, match="already holds a run; go on with --resume"):
        run.start(run.Config("fake"), tmp_path / "r", show=False)


def test_the_second_signal_stops_at_once(tmp_path, monkeypatch):
    def advance(self, unit):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    monkeypatch.setattr(fake.Softmax, "_advance", advance)
    with pytest.raises(Interrupted, match="To go on from the last checkpoint: refimpl run fake --resume") as stopped:
        run.start(run.Config("fake"), tmp_path / "r", show=False)
    assert stopped.value.code == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measured in steps of the whole process here")
def test_peak_memory_sees_an_array_that_was_there_for_a_moment():
    # in a process of its own: what earlier tests left in the allocator would count
    script = """
import numpy as np
from refimpl.lab.memory import Peak
peak = Peak()
a = np.ones(4_000_000)
del a
print(peak.bytes(), Peak().bytes())
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    first, second = map(int, done.stdout.split())
    assert 30e6 < first < 45e6
    assert second < 5e6


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("slug", v) for v in (3, ["fake"], {})],
        *[("data", v) for v in (None, [])],
        *[("seed", v) for v in (-1, "x", 1.5, None)],
        *[("backends", v) for v in ([], "numpy", {}, [3])],
        *[("threads", v) for v in (0, -1, 10**30, "x", None)],
        *[("settings", v) for v in (None, 3, [])],
        *[("quick", v) for v in (None, "x")],
    ],
)
def test_a_damaged_configuration_is_told_and_nothing_is_trained(tmp_path, monkeypatch, key, value):
    monkeypatch.setattr(methods, "MODULES", fake.MODULES)
    config = run.Config("fake", "digits", quick=True)
    good = run._describe(config, run._prepare(config)[0])
    (tmp_path / "config.json").write_text(json.dumps({**good, key: value}))
    with pytest.raises((RunError, UsageError)):
        run.resume(tmp_path, show=False)
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize("content", ["", "null", "3", "[]", "{}", "[" * 100_000])
def test_what_is_no_configuration_is_told(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(RunError, match=r"config\.json: "):
        run.resume(tmp_path, show=False)
    (tmp_path / "lines").write_text(f'{content}\n{{"unit": 1}}\n')
    assert {"unit": 1} in files.read_lines(tmp_path / "lines")
