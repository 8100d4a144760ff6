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
MULTILINE = re.MULTILINE | re.DOTALL
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


def section(file, word):
    """The cells from the heading that has `word` to the next of its level."""
    cells, inside = [], False
    for cell in tutorials.cells(file.read_text(encoding="utf-8")):
        parts = (
            [("", cell.source)] if cell.code else re.findall(r"^(## [^\n]*)?(.*?)(?=^## |\Z)", cell.source, MULTILINE)
        )
        for heading, text in parts:
            inside = word in heading.lower() if heading else inside
            if inside and (cell.code or text.strip()):
                cells.append((cell.code, text))
    return cells


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_tutorial_has_its_parts(file):
    """A title and a kernel; exercises, and at the very end the questions."""
    text = file.read_text(encoding="utf-8")
    parts = tutorials.cells(text)
    assert not parts[0].code and parts[0].source.startswith("# "), "begins with its title"
    assert text.startswith("---\n") and "name: python3" in text.split("---\n")[1], "names its kernel"
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert "exercises" in headings[-2].lower() and "questions" in headings[-1].lower(), headings[-2:]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_tutorial_has_three_exercises_each_with_a_solution_that_is_checked(file):
    found = []  # per exercise: E, then S for a solution, C for a cell with an assertion
    for code, text in section(file, "exercises"):
        if code:
            found.append("C" if "assert" in text else "c")
        else:
            marks = re.finditer(r"^\*\*(\d)\.\*\*|^:{3,}\{dropdown\} Solution\n(.*?)^:{3,}", text, MULTILINE)
            found += [m[1] or ("S" if len(m[2].split()) >= 8 else "s") for m in marks]
    assert re.fullmatch(r"1S[cC]*C[cC]*2S[cC]*C[cC]*3S[cC]*C[cC]*", "".join(found)), found


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_tutorial_ends_with_three_questions_and_their_answers(file):
    """What it does; the toy by hand, checked; where in the code an equation stands: a file that is there and has it."""
    cells = section(file, "questions")
    prose = "\n".join(text for code, text in cells if not code)
    asked = re.findall(r"^\*\*(.+?)\*\*(.*?)(?=^\*\*|\Z)", prose, MULTILINE)
    assert len(asked) == 3, [question for question, _ in asked]
    for (question, answer), begins in zip(asked, (r"What ", r"Compute .*?by hand", r"Where in the code is ")):
        assert re.match(begins, question, re.DOTALL), question
        assert len(answer.split()) >= 8, f"{question}: {answer}"
    assert any(code and "assert" in text for code, text in cells), "the numbers by hand are checked"
    where = asked[2][1]
    files = re.findall(r"(?:refimpl|native|tests)/[\w/]+\.(?:py|c|h)", where)
    names = re.findall(r"`([A-Za-z_]\w*)(?:\.\w+)*`", where)
    for name in files:
        assert (ROOT / name).is_file(), f"{name} is not there"
    sources = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in files) or file.read_text(encoding="utf-8")
    assert not names or any(re.search(rf"\b{name}\b", sources) for name in names), (names, files)


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


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_numbers_of_equations_are_those_that_the_page_shows(file):
    """Labelled equations are numbered in their order: what is called equation (2) is the second of them, and what a
    heading announces stands below it."""
    text = file.read_text(encoding="utf-8")
    labels = re.findall(r"^\$\$ \((\S+)\)$", text, re.MULTILINE)
    assert set(re.findall(r"\{eq\}`([^`]+)`", text)) <= set(labels)
    assert not re.findall(r"equations? \([^)]*[a-z][^)]*\)", text), "a label is no number: use {eq}"
    number = {str(i): label for i, label in enumerate(labels, 1)} | dict.fromkeys(re.findall(r"\\tag\{(\d+)\}", text))
    for told in re.findall(r"equations? (\(\d+\)(?:(?: to|,| and) \(\d+\))*)", text):
        assert set(re.findall(r"\d+", told)) <= set(number), told
    for heading, below in re.findall(r"^#+ ([^\n]*equations? \(\d[^\n]*)\n(.*?)(?=^## |\Z)", text, MULTILINE):
        for n in re.findall(r"\((\d+)\)", heading):
            assert f"$$ ({number[n]})" in below, heading
