"""The command line as a user meets it: in-process where that is enough, in a process of its own where it is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from refimpl import cli, methods, ops
from refimpl.backends import native, wisdom
from refimpl.cli import parts
from refimpl.record import Step
from tests.lab import fake

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def one_method(monkeypatch, tmp_path):
    monkeypatch.setattr(methods, "MODULES", fake.MODULES)
    monkeypatch.delenv("REFIMPL_DATA", raising=False)
    monkeypatch.setenv("REFIMPL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REFIMPL_WISDOM")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refimpl(capsys):
    def call(*arguments):
        code = cli.main(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


@pytest.mark.parametrize("command", [None, *cli.COMMANDS])
def test_help_teaches_with_examples(refimpl, command):
    code, out, err = refimpl(*filter(None, [command]), "--help")
    assert code == 0 and not err
    assert "examples:\n  refimpl" in out
    assert max(map(len, out.splitlines())) <= 80
    if command:
        assert f"refimpl {command}" in out.split("examples:")[1]


@pytest.mark.skipif(sys.platform == "win32", reason="no processor times of child processes")
def test_help_is_quick():
    """Processor time, which other work on the machine stretches less than the clock on the wall."""

    def once():
        before = os.times()
        subprocess.run([sys.executable, "-m", "refimpl", "--help"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(once() for _ in range(5)) < 0.3


def test_help_loads_neither_matplotlib_nor_tqdm_nor_a_method():
    code = (
        "import sys; from refimpl import cli; cli.main(['--help']); "
        "print([m for m in ('matplotlib', 'tqdm', 'safetensors', 'scipy', 'refimpl.methods') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_command_loads_its_own_module_and_no_other_command():
    code = (
        "import sys; from refimpl import cli; cli.main(['trace', '--help']); "
        "print(sorted(m for m in sys.modules if m.startswith('refimpl.cli.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['refimpl.cli.parts', 'refimpl.cli.trace']"


def test_list_and_info(refimpl):
    code, out, _ = refimpl("list")
    assert code == 0 and "fake  local" in out
    assert json.loads(refimpl("list", "--json")[1])[0]["slug"] == "fake"
    code, out, _ = refimpl("info", "fake")
    assert code == 0 and "It learns." in out and "refimpl run fake" in out
    assert [c["id"] for c in json.loads(refimpl("info", "fake", "--json")[1])["claims"]] == ["learns", "false"]


def test_run_and_resume(refimpl, tmp_path):
    code, out, _ = refimpl("run", "fake", "--quick", "--set", "epochs=2", "--out", "r", "--json", "r.json")
    assert code == 0 and "test accuracy" in out and "r/figure.png" in out
    assert json.loads((tmp_path / "r.json").read_text())["settings"] == {"epochs": 2}
    code, out, _ = refimpl("run", "fake", "--resume", "r", "--json", "-")
    assert code == 0 and json.loads(out)["results"][1]["role"] == "baseline"
    code, _, err = refimpl("run", "fake", "--resume", "r", "--set", "epochs=3")
    assert code == 1 and "settings is {'epochs': 2} in the run, {'epochs': 3} was asked for now" in err


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ([], 2, "COMMAND"),
        (["nope"], 2, "invalid choice: 'nope'"),
        (["info", "fak"], 2, "no method named 'fak', expected one of fake. Did you mean fake? (see: refimpl list)"),
        (["run", "fake", "--data", "Digit"], 2, "Did you mean digits?"),
        (["run", "fake", "--out", __file__], 1, "a file stands where a folder is expected"),
        (["tune", "matmull"], 2, "Did you mean matmul?"),
        (["info", "nope"], 2, "no method named 'nope', expected one of fake (see: refimpl list)"),
        (["run"], 2, "required: SLUG (see: refimpl run --help)"),
        (["run", "nope"], 2, "no method named 'nope'"),
        (["run", "fake", "--data", "nope"], 2, "unknown data set 'nope', expected one of digits"),
        (["run", "fake", "--data", "mnist"], 1, "refimpl data fetch mnist"),
        (["run", "fake", "--seed", "-1"], 2, "'-1': expected a whole number of at least 0"),
        (["run", "fake", "--threads", "0"], 2, "'0': expected a whole number of at least 1"),
        (["run", "fake", "--threads", "5000"], 2, "'5000': expected at most 1024"),
        (["run", "fake", "--backend", "gpu"], 2, "invalid choice: 'gpu'"),
        (["run", "fake", "--backend", "opencl"], 1, "backend opencl is not available"),
        (["run", "fake", "--backend", "numpy", "--compare-backends"], 2, "leave out --backend"),
        (["run", "fake", "--set", "epochs"], 2, "'epochs': expected key=value"),
        (["run", "fake", "--set", "nope=1"], 2, "no setting 'nope'"),
        (["run", "fake", "--set", "epochs=0"], 2, "epochs is 0, expected at least 1"),
        (["run", "fake", "--resume", "nope"], 1, "nope: no such folder"),
        (["run", "fake", "--resume", "r", "--out", "s"], 2, "leave out --out"),
        (["run", "fake", "--json", "nope/r.json"], 2, "--json nope/r.json: cannot be written there"),
        (["claims", "nope"], 2, "no method named 'nope'"),
        (["claims", "fake", "--data", "mnist"], 1, "refimpl data fetch mnist"),
        (["claims", "--seeds", "0"], 2, "'0': expected a whole number of at least 1"),
        (["bench", "relu"], 2, "expected ops, steps or methods first, as in: refimpl bench ops relu"),
        (["bench", "ops", "nope"], 2, "nothing to race is named 'nope'"),
        (["tune", "nope"], 2, "cannot tune 'nope', expected one of"),
        (["tune", "--budget", "0"], 2, "'0': expected a number of seconds above 0"),
        (["tune", "--budget", "nan"], 2, "'nan': expected a number of seconds above 0"),
        (["tune", "--show", "relu"], 2, "--show measures nothing: leave out the rest"),
        (["tune", "--json", "nope/t.json"], 2, "--json nope/t.json: cannot be written there"),
        (["trace", "nope"], 2, "no method named 'nope'"),
        (["trace", "fake", "--step", "nope"], 2, "--step 'nope': no step of fake is named so, expected a part of: "),
        (["trace", "fake", "--out", "nope/page.html"], 2, "expected the name of a file in a folder that exists"),
        (["trace", "fake", "--backend", "opencl"], 1, "backend opencl is not available"),
        (["data", "burn"], 2, "invalid choice: 'burn'"),
        (["data", "fetch"], 2, "which one? expected one of digits"),
        (["data", "path", "nope"], 2, "unknown data set 'nope'"),
        (["data", "path", "mnist"], 1, "mnist: not found"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_mistake_is_one_clear_line(refimpl, arguments, code, told):
    found, out, err = refimpl(*arguments)
    assert found == code and not out
    assert err.startswith("refimpl: ") and told in err
    assert err.count("\n") == 1 or "Searched:" in err


def test_comparing_without_a_c_core_runs_numpy_and_says_so(refimpl, monkeypatch):
    from refimpl.backends import native

    monkeypatch.setattr(native, "lib", None)
    monkeypatch.setattr(native, "why_not", "the extension is not built")
    code, out, err = refimpl("run", "fake", "--quick", "--compare-backends", "--set", "epochs=1")
    assert code == 0 and "no C core to compare with (the extension is not built): NumPy alone." in err
    assert "seed 0, NumPy, " in out
    code, _, err = refimpl("run", "fake", "--backend", "native")
    assert code == 1 and "backend native is not available: the extension is not built" in err


def test_settings_read_as_python_or_text():
    values = {"a=3": 3, "a=1e-3": 1e-3, "a=true": True, "a=None": None, "a=(1, 2)": (1, 2), "a=x y": "x y", "a==": "="}
    for text, value in values.items():
        assert parts.setting(text) == ("a", value)


def test_claims(refimpl, tmp_path):
    code, out, err = refimpl("claims", "fake", "--quick", "--out", "c", "--json", "c.json")
    assert code == 0 and "[not at this scale] learns on digits" in out
    assert "skipped: data set mnist is not here; get it with: refimpl data fetch mnist" in err
    assert json.loads((tmp_path / "c.json").read_text())[0]["seeds"] == [0]


def test_a_failed_measurement_fails_the_command(refimpl, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL", "1")
    code, out, _ = refimpl("claims", "fake", "--quick", "--out", "c")
    assert code == 1 and "RuntimeError: no luck" in out


def test_bench_doctor_and_data(refimpl, tmp_path, monkeypatch):
    from refimpl.lab import bench

    monkeypatch.setattr(bench, "BUDGET", 0.01)
    code, out, _ = refimpl("bench", "ops", "relu", "--threads", "1", "--json", "b.json", "--plot", "b.png")
    assert code == 0 and "relu" in out and (tmp_path / "b.png").exists()
    assert json.loads((tmp_path / "b.json").read_text())["threads"] == 1
    code, out, _ = refimpl("doctor")
    assert code == 0 and "NumPy" in out
    assert "problems" in json.loads(refimpl("doctor", "--json")[1])
    code, out, _ = refimpl("data", "list")
    assert code == 0 and "1,415 + 382" in out and "not here" in out
    code, out, _ = refimpl("data", "verify")
    assert code == 0 and "digits" in out and "mnist: not here" in out
    assert Path(refimpl("data", "path", "digits")[1].strip()).is_dir()
    assert refimpl("data", "fetch", "digits")[0] == 0


@pytest.mark.skipif(native.lib is None, reason="no C core")
def test_tune(refimpl, tmp_path):
    try:
        code, out, err = refimpl("tune", "relu", "--budget", "1", "--threads", "1", "--json", "t.json")
        assert code == 0 and not err and "7 sizes of 1 operation in" in out
        assert (
            "In force from now on, for 1 thread: " in out.replace("\n", " ")
            and max(map(len, out.splitlines()[:-2])) <= 80
        )
        assert json.loads((tmp_path / "t.json").read_text())["threads"] == 1
        assert (tmp_path / "cache" / "wisdom.json").exists()
        code, out, _ = refimpl("tune", "--show", "--threads", "1")
        assert code == 0 and "for 1 thread (7 sizes measured), learned less than a minute ago" in " ".join(out.split())
        assert json.loads(refimpl("tune", "--show", "--json", "-")[1])["file"].endswith("wisdom.json")
        assert "wisdom    " in refimpl("doctor")[1]
    finally:
        wisdom._apply({})


def test_tune_needs_wisdom_switched_on(refimpl, monkeypatch):
    monkeypatch.setenv("REFIMPL_WISDOM", "off")
    code, out, err = refimpl("tune", "relu")
    assert code == 2 and not out and err.startswith("refimpl: tune: REFIMPL_WISDOM=off switches wisdom off")
    assert refimpl("tune", "--show")[1] == "Wisdom: switched off by REFIMPL_WISDOM=off\n"


def test_trace(refimpl, tmp_path, monkeypatch):
    code, out, err = refimpl("trace", "fake")
    assert code == 1 and not out and "calls no operation" in err and not (tmp_path / "fake-trace.html").exists()

    def make():
        x, w = np.ones((2, 3)), np.ones((3, 2))
        return lambda: ops.linear_backward(ops.linear(x, w), x, w)

    steps = [Step(name, "B=2", "float64", make) for name in ("first", "second")]
    monkeypatch.setattr(sys.modules[fake.NAME], "teach", lambda: steps, raising=False)
    code, out, err = refimpl("trace", "fake", "--step", "sec", "--backend", "numpy")
    assert code == 0 and "fake-trace.html: 2 operations" in out and "Other steps of fake: first" in out
    page = (tmp_path / "fake-trace.html").read_text(encoding="utf-8")
    assert "<title>second</title>" in page and "linear_backward" in page
    code, out, err = refimpl("trace", "fake", "--out", ".")
    assert code == 2 and "expected the name of a file" in err
    monkeypatch.setattr(sys.modules[fake.NAME], "teach", list)
    code, out, err = refimpl("trace", "fake")
    assert code == 2 and "fake offers no step to trace" in err


def test_a_missing_package_is_told_before_any_work(refimpl, monkeypatch, tmp_path):
    from refimpl.lab import machine

    monkeypatch.setattr(machine, "package_version", lambda name: None)
    for arguments in (("run", "fake"), ("claims", "fake"), ("bench", "ops", "--plot", "a.png")):
        code, out, err = refimpl(*arguments)
        assert code == 1 and not out and "matplotlib not installed: pip install" in err
    assert not any(tmp_path.glob("runs/*/*"))


def test_a_reader_that_goes_away_is_no_error():
    code = "import sys; from refimpl.cli import main; sys.exit(main(['doctor']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    with process.stderr as stderr:
        told = stderr.read()
    assert process.wait(timeout=60) == 0 and "Traceback" not in told and "Exception" not in told


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "refimpl", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("refimpl ")


def test_a_terminal_without_all_letters_loses_no_table():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [
        sys.executable,
        "-c",
        "import sys; from refimpl.cli import main; sys.exit(main(['bench', 'ops', 'relu']))",
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "relu" in done.stdout and "Traceback" not in done.stderr


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_closed_stream_stops_nothing(closed):
    code = (
        f"import sys; sys.{closed} = None; from refimpl.cli import main; sys.exit(main(['data', 'verify', 'digits']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    assert bool(done.stdout) == (closed == "stderr")


def test_training_goes_on_when_nobody_reads_its_progress(tmp_path):
    """`refimpl run ... 2>&1 | head -1`: the run is finished all the same."""
    command = [sys.executable, "-m", "tests.lab.fake", "run", "fake", "--quick", "--out", str(tmp_path / "r")]
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=writing, stderr=writing)
    os.close(writing)
    assert done.returncode == 0
    assert json.loads((tmp_path / "r" / "result.json").read_text())["figure"] == "figure.png"


def test_a_figure_needs_no_window_system(tmp_path):
    command = [sys.executable, "-m", "tests.lab.fake", "run", "fake", "--quick", "--out", str(tmp_path / "r")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "no such thing"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and (tmp_path / "r" / "figure.png").exists()
