import json

import numpy as np
import pytest

from refimpl.backends import native, threads
from refimpl.lab import doctor, files


def test_the_doctor_sees_what_is_here():
    found = json.loads(files.dumps(doctor.examine()))
    assert found["numpy"]["version"] == np.__version__
    assert found["data"]["digits"]["here"] and not found["data"]["mnist"]["here"]
    assert found["core"]["in_use"] == (native.lib is not None)
    text = doctor.report(found)
    assert "refimpl data fetch NAME" in text and "mnist" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_the_doctor_says_what_to_do(monkeypatch):
    monkeypatch.setattr(native, "lib", None)
    monkeypatch.setattr(native, "ffi", None)
    monkeypatch.setattr(native, "why_not", "the extension is not built")
    monkeypatch.setattr(threads, "_threads", 1000)
    real = doctor.package_version
    monkeypatch.setattr(doctor, "package_version", lambda name: None if name == "tqdm" else real(name))
    text = " ".join(doctor.report(doctor.examine()).split())
    for told in (
        "not in use: the extension is not built",
        "install a C compiler",
        "pip install tqdm",
        "1000 threads on",
    ):
        assert told in text


def test_the_doctor_names_a_variable_that_holds_threads_back(monkeypatch):
    monkeypatch.setattr(doctor, "cores", lambda: 64)
    monkeypatch.setattr(threads, "_threads", 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert any("OMP_NUM_THREADS limits work to 1 of 64" in p["what"] for p in doctor.examine()["problems"])


@pytest.mark.parametrize("command", ["report"])
def test_a_healthy_machine_has_no_list(command):
    found = {**doctor.examine(), "problems": []}
    assert doctor.report(found).endswith("No problems found.")
