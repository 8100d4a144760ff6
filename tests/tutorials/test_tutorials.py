"""Every tutorial runs top to bottom, in quick mode, in a process and a folder of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from refimpl.lab import tutorials

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "tutorials").glob("*.md"))
SECONDS = 60  # of processor time for one tutorial in quick mode; what they take together is shown after the tests


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_tutorial_runs_top_to_bottom(file, tmp_path, record_property):
    environment = {**os.environ, tutorials.QUICK: "1", "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HOME": str(tmp_path)}
    before = os.times()
    command = [
        sys.executable,
        "-W",
        "error",
        "-W",
        "ignore:refimpl:RuntimeWarning",
        "-m",
        "refimpl",
        "tutorial",
        str(file),
        "--run",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    record_property("tutorial_seconds", seconds)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert seconds < SECONDS, (
        f"{file.name} takes {seconds:.0f} s of processor time in quick mode, expected at most {SECONDS}"
    )


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_tutorial_has_its_parts(file):
    """A title, exercises with solutions, and three questions with their answers at the end."""
    text = file.read_text(encoding="utf-8")
    parts = tutorials.cells(text)
    assert not parts[0].code and parts[0].source.startswith("# "), "begins with its title"
    assert text.startswith("---\n") and "name: python3" in text.split("---\n")[1], "names its kernel"
    solutions = len(re.findall(r"^:{3,}\{dropdown\} Solution", text, re.MULTILINE))
    assert solutions >= 3, f"{solutions} exercises with solutions, expected 3"
    end = text[text.rindex("\n## ") :]
    assert "question" in end.split("\n")[1].lower(), "ends with the questions"
    assert len(re.findall(r"^(?:\d\. |\*\*|### )", end, re.MULTILINE)) >= 3, "three questions"


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_links_of_a_tutorial_lead_somewhere(file):
    prose = "\n".join(c.source for c in tutorials.cells(file.read_text(encoding="utf-8")) if not c.code)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose):
        if not re.match(r"\w+:", target):
            assert (file.parent / target).exists(), f"{file.name} links to {target}, which is not there"


def test_every_method_with_a_tutorial_is_registered():
    from refimpl import methods

    for file in FILES:
        assert re.match(r"\d\d-", file.stem) or file.stem in methods.slugs(), f"{file.name} belongs to no method"
