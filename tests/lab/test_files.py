import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from refimpl.lab import files
from refimpl.lab.errors import RunError, WriteError

ROOT = Path(__file__).resolve().parents[2]


def test_a_written_file_is_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_json(path, {"n": 1})

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"a\.json: not written: the disk is full.*intact"):
        files.write_json(path, {"n": 2})
    monkeypatch.undo()
    assert json.loads(path.read_text()) == {"n": 1}
    assert os.listdir(tmp_path) == ["a.json"], "a part was left behind"


def test_a_full_line_file_loses_no_line(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    files.append_line(path, {"n": 1})

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="disk is full"):
        files.append_line(path, {"n": 2})
    monkeypatch.undo()
    files.append_line(path, {"n": 3})
    assert files.read_lines(path) == [{"n": 1}, {"n": 3}]


def test_torn_lines_are_passed_over_and_do_not_swallow_the_next(tmp_path):
    path = tmp_path / "a.jsonl"
    files.append_line(path, {"n": 1})
    with open(path, "ab") as file:
        file.write(b'{"n": 2, "tor')
    files.append_line(path, {"n": 3})
    assert files.read_lines(path) == [{"n": 1}, {"n": 3}]
    assert files.read_lines(tmp_path / "none") == []


def test_json_is_strict_and_lines_keep_what_python_reads(tmp_path):
    value = {"a": np.float32(0.5), "b": np.arange(2), "c": (1, np.nan), "d": np.bool_(True), "e": tmp_path}
    read = json.loads(files.dumps(value), parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))
    assert read == {"a": 0.5, "b": [0, 1], "c": [1, None], "d": True, "e": str(tmp_path)}
    path = tmp_path / "a.jsonl"
    files.append_line(path, {"x": float("inf")})
    assert files.read_lines(path)[0]["x"] == float("inf")
    with pytest.raises(TypeError, match="object has no place in JSON"):
        files.dumps({"a": object()})


@pytest.mark.skipif(os.name != "posix", reason="folder permissions")
def test_a_read_only_folder_is_named():
    """In a process of its own, which gives up root's right to write anywhere where it has it."""
    code = """
import os, sys
from pathlib import Path
from refimpl.lab import files
if os.getuid() == 0:
    os.setuid(65534)
for write in (files.write_json, files.append_line):
    try:
        write(Path(sys.argv[1]) / "a.json", 1)
    except files.WriteError as error:
        print(error)
try:
    files.make_folder(Path(sys.argv[1]) / "new")
except files.WriteError as error:
    print(error)
"""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        done = subprocess.run(
            [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True, cwd=ROOT
        )
        os.chmod(folder, 0o755)
    assert done.stdout.count(": not written: the folder cannot be written to (Permission denied)") == 3


def test_a_folder_is_held_by_one_process_at_a_time(tmp_path):
    with files.lock(tmp_path):
        with pytest.raises(RunError, match="another process is working there"), files.lock(tmp_path):
            pass
    with files.lock(tmp_path):
        pass
