import concurrent.futures
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from refimpl.data import DataNotFound
from refimpl.lab import claims, files, pool
from refimpl.lab.errors import UsageError
from tests.lab.test_run import command


def verdicts(reports):
    return {(e["id"], e["data"]): e["verdict"] for r in reports for e in r["claims"]}


def test_claims_are_measured_judged_and_published(tmp_path):
    reports = claims.run(claims.plan(["fake"]), 2, tmp_path / "c", show=False)
    assert verdicts(reports) == {
        ("learns", "digits"): "holds",
        ("learns", "mnist"): "not measured",
        ("false", ""): "does not hold",
    }
    published = json.loads((tmp_path / "c/fake.json").read_text(), parse_constant=lambda c: pytest.fail(c))
    assert set(published) >= {"slug", "version", "machine", "date", "seconds", "seeds", "claims"}
    assert published["seeds"] == [0, 1] and published["machine"]["cores"] >= 1
    entry = published["claims"][0]
    assert set(entry) >= {"id", "data", "sentence", "threshold", "measured", "verdict", "note"}
    assert [m["seed"] for m in entry["measured"]] == [0, 1]
    assert entry["measured"][0]["values"]["a"] > 0.8 and entry["measured"][0]["values"]["nan"] is None
    assert "refimpl data fetch mnist" in published["claims"][1]["note"]
    assert (tmp_path / "c" / entry["figure"]).read_bytes().startswith(b"\x89PNG")
    text = claims.report(reports, tmp_path / "c")
    assert "[does not hold] false" in text and "threshold: 1 > 2" in text


def test_a_claim_without_a_threshold_is_measured_and_not_judged(tmp_path):
    (part,) = (p for p in claims.plan(["fake"]) if p.claim.id == "false")
    plain = replace(part, claim=replace(part.claim, judge=lambda values: (None, "1 beside 2")))
    (report,) = claims.run([plain], 1, tmp_path / "c", show=False)
    assert verdicts([report]) == {("false", ""): "measured"} and report["claims"][0]["note"] == "1 beside 2"
    assert "1 measured" in claims.report([report], tmp_path / "c")
    (report,) = claims.run([plain], 1, tmp_path / "d", quick=True, show=False)
    assert report["claims"][0]["verdict"] == "measured"  # a fake claim is judged in quick mode too


def test_what_is_measured_is_not_measured_again(tmp_path):
    parts = claims.plan(["fake"], "digits")
    log = tmp_path / "c/work/fake-learns-digits-0/log"
    claims.run(parts, 1, tmp_path / "c", show=False)
    claims.run(parts, 2, tmp_path / "c", show=False)
    assert log.read_text() == "measured\n"
    with open(tmp_path / "c/measurements.jsonl", "a") as file:
        file.write('{"key": ["fake", "lea')
    claims.run(parts, 2, tmp_path / "c", quick=True, show=False)  # another size is another measurement
    assert log.read_text() == "measured\n" * 2


def test_quick_measurements_that_cannot_decide_say_so(tmp_path):
    found = verdicts(claims.run(claims.plan(["fake"]), 1, tmp_path / "c", quick=True, show=False))
    assert found[("learns", "digits")] == "not at this scale"
    assert found[("false", "")] == "does not hold"


def test_a_failed_measurement_is_no_verdict_and_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_FAIL", "1")
    parts = claims.plan(["fake"])
    reports = claims.run(parts, 2, tmp_path / "c", show=False)
    entry = reports[0]["claims"][-1]
    assert (
        entry["verdict"] == "not measured"
        and "2 of 2 measurements failed; seed 0: RuntimeError: no luck" in entry["note"]
    )
    assert verdicts(reports)[("learns", "digits")] == "holds"
    monkeypatch.delenv("FAKE_FAIL")
    assert verdicts(claims.run(parts, 2, tmp_path / "c", show=False))[("false", "")] == "does not hold"


def test_names_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match="no method named 'nope'"):
        claims.plan(["nope"])
    with pytest.raises(UsageError, match="unknown data set 'nope'"):
        claims.plan(["fake"], "nope")
    with pytest.raises(DataNotFound, match="refimpl data fetch mnist"):
        claims.plan(["fake"], "mnist")


def test_any_executor_serves(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        reports = claims.run(claims.plan(["fake"], "digits"), 3, tmp_path / "c", executor, 2, show=False)
    assert verdicts(reports) == {("learns", "digits"): "holds"}


def test_a_pool_of_processes_shares_the_cores_and_measures_the_same(tmp_path):
    here = claims.run(claims.plan(["fake"], "digits"), 2, tmp_path / "here", show=False)
    process = command("claims", "fake", "--data", "digits", "--seeds", "2", "--jobs", "2", "--out", "there")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    there = json.loads(Path("there/fake.json").read_text())
    values = [[m["values"] for m in r["claims"][0]["measured"]] for r in (here[0], there)]
    assert [v["a"] for v in values[0]] == [v["a"] for v in values[1]]
    assert os.getpid() not in {v["pid"] for v in values[1]} and "holds" in out
    assert there["machine"]["threads"] == pool.threads_each(2)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_keeps_what_is_measured(jobs, tmp_path):
    arguments = ("claims", "fake", "--data", "digits", "--seeds", "4", "--jobs", jobs, "--out", "c")
    process = command(*arguments, FAKE_SLEEP="0.4")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not files.read_lines(tmp_path / "c/measurements.jsonl"):
        time.sleep(0.02)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 10
    assert process.returncode == 130 and "finished measurements are stored" in err and "Traceback" not in err
    stored = len(files.read_lines(tmp_path / "c/measurements.jsonl"))
    assert 1 <= stored < 4
    process = command(*arguments)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0 and f"{stored} of 4 measurements are here already" in err
