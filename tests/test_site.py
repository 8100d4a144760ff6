"""The pages of the site that are made from the library: nothing of the library is missing on them."""

import ast
import inspect
import re
import sys
from pathlib import Path

import pytest

from refimpl import methods
from refimpl.backends import operations
from refimpl.lab import csource

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "docs"))

from generate import api, charts, house, links, text
from generate import operations as op_pages

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    from generate import pages

    out = tmp_path_factory.mktemp("site") / "source"
    pages.write(ROOT, out)
    return out


FORWARD = [n for names in op_pages.families().values() for n in names]


def test_every_operation_has_a_page_and_no_two_share_one(source):
    pages = [op_pages.page(n) for n in FORWARD]
    assert len(set(pages)) == len(pages)
    for name in FORWARD:
        body = (source / "operations" / f"{op_pages.page(name)}.md").read_text(encoding="utf-8")
        for n in (name, f"{name}_backward"):
            if n in operations():
                assert f"{{py:function}} {n}(" in body
                assert f"def {n}(" in body


@pytest.mark.parametrize("name", FORWARD)
def test_every_mirrored_operation_shows_its_c_body(name, source):
    page = (source / "operations" / f"{op_pages.page(name)}.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```c\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    mirrored = [n for n in (name, f"{name}_backward") if n in operations() and "native" in operations()[n].bodies]
    assert len(shown) == len(mirrored)
    for n, body in zip(mirrored, shown):
        assert "RI(" in body, f"{n}: no C body found"
        assert body.count("{") == body.count("}"), f"{n}: the C body is cut"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("rnn_sequence", "NOINLINE void rnn_steps("),  # two calls below the kernel, and behind a word of its own
        ("layernorm", "int RI(groupnorm)("),  # another kernel of the file
        ("conv2d", "static int collect("),
        ("sgd_update", "LOOP(sgd_momentum) {"),
    ],
)
def test_the_c_body_comes_with_the_functions_that_do_the_work(name, line):
    assert line in op_pages.c_text(csource.c_source(name))


def _family(name):
    return operations()[name].numpy.__module__.split(".")[-1]


@pytest.mark.parametrize("name", [n for n in FORWARD if f"{n}_backward" in operations()])
def test_every_gradient_has_a_derivation(name):
    assert op_pages._derivation(ROOT, _family(name), name), f"docs/maths/{_family(name)}.md has no section {name}"


def test_derivations_are_about_operations():
    for file in (ROOT / "docs" / "maths").glob("*.md"):
        for heading in re.findall(r"^## (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE):
            assert heading in operations() and _family(heading) == file.stem, (
                f"{file.name}: {heading} is no operation of this family"
            )


def test_every_method_has_a_card_and_a_page(source):
    gallery = (source / "methods" / "index.md").read_text(encoding="utf-8")
    for slug in methods.slugs():
        body = (source / "methods" / f"{slug}.md").read_text(encoding="utf-8")
        assert f'href="{slug}.html"' in gallery
        assert "## Claims" in body and "## Race" in body and f"refimpl run {slug}" in body


def test_a_method_without_results_tutorial_race_or_trace_has_a_page(tmp_path, monkeypatch):
    from generate import methods as pages

    from tests.lab import fake

    monkeypatch.setattr(methods, "MODULES", fake.MODULES)
    pages.write(tmp_path, tmp_path / "source", None)
    for slug in fake.MODULES:
        body = (tmp_path / "source" / "methods" / f"{slug}.md").read_text(encoding="utf-8")
        assert "Not measured yet" in body and "No race has been published yet" in body and "tutorials/" not in body


def test_a_claim_that_could_not_be_measured_is_shown_with_its_reason():
    from generate import methods as pages

    entry = {"id": "refinement", "data": "mnist", "sentence": "s", "threshold": "t", "figure": None}
    entry |= {
        "measured": [{"seed": 0, "seconds": 1.0, "values": None, "error": "E"}],
        "verdict": "not measured",
        "note": "why",
    }
    machine = {"cpu": "c", "cores": 2, "backend": "auto", "threads": 1}
    report = {"date": "d", "version": "v", "seeds": [0], "seconds": 1.0, "machine": machine, "claims": [entry]}
    shown = pages._claims(ROOT, ROOT, "noprop", report)
    assert "– not measured" in shown and "*Came out:* why" in shown and "![" not in shown


def test_every_public_name_is_in_the_api_reference(source):
    import importlib

    written = "\n".join(f.read_text(encoding="utf-8") for f in (source / "api").glob("*.md"))
    for module in api.modules():
        found = importlib.import_module(module)
        for name in api.public(found):
            if inspect.ismodule(getattr(found, name)) or name in operations():
                continue
            assert re.search(rf"(\}} |`){re.escape(name)}\b", written), f"{module}.{name}"


def test_the_map_shows_every_part_and_no_import_that_leads_upwards():
    floors, size, edges = house.imports()
    drawn = house.svg({})
    for box in floors:
        assert f">{box}</text>" in drawn
    assert sum(size.values()) == len(list(house.test_house.modules()))
    assert all(floors[b] <= floors[a] for a, b in edges)


def test_docstrings_become_markdown_that_says_the_same():
    doc = "y = x W + b.\n\nTakes `x_i` and a_b <c> $d$.\n\n- one\n- two\n\n    code = 1\n\nEnd."
    made = text.prose(doc)
    assert ":class: formula\n\ny = x W + b." in made
    assert r"Takes `x_i` and a\_b \<c\> \$d\$." in made
    assert "- one\n- two" in made and "\n\ncode = 1\n" in made


def test_signatures_are_shown_as_written():
    def f(a, b: int = 3, *, c: "np.ndarray | None" = None) -> "float": ...  # noqa: F821

    assert text.signature(f) == "(a, b: int = 3, *, c: np.ndarray | None = None) -> float"


def test_broken_links_are_found(tmp_path):
    (tmp_path / "a.html").write_text('<h1 id="x"></h1><a href="b.html#y">1</a><a href="#x">2</a><a href="c.html">3</a>')
    (tmp_path / "b.html").write_text('<p id="z"></p><script src="https://cdn.example/x.js"></script>')
    found = links.broken(tmp_path)
    assert len(found) == 3
    assert any("b.html#y has no such anchor" in m for m in found) and any("c.html is not there" in m for m in found)
    assert any("loads something from the network" in m for m in found)


def test_names_with_their_meanings_in_two_columns_become_a_list():
    doc = """What it is.

    first, second    what they are,
                     on two lines
    third            another

    y = x W,  with two spaces."""
    assert text.prose(doc).split("\n\n") == [
        "What it is.",
        "- `first, second`: what they are, on two lines\n- `third`: another",
        "y = x W,  with two spaces.",
    ]


def test_a_race_is_told_with_its_conditions_and_drawn(tmp_path):
    row = {
        "kind": "operation",
        "name": "relu",
        "shape": "n=8",
        "dtype": "float32",
        "threads": 1,
        "flops": 8.0,
        "bytes": 64,
    }
    for i, racer in enumerate(("native", "numpy", "torch"), start=1):
        row |= {f"{racer}_s": i * 1e-6, f"{racer}_iqr_s": 1e-8}
    row |= {"limit_fraction": 0.5, "torch_s": None, "torch_iqr_s": None}
    assert [c.replace(charts.NO_BREAK, " ") for c in charts.cells(row)[1:]] == [
        "2.00 µs",
        "1.00 µs",
        "-",
        "2.0 ×",
        "-",
        "50 %",
    ]
    charts.save_speed_up(tmp_path / "a.png", [row])
    charts.save_strips(tmp_path / "b.png", charts.by_family([row, {**row, "name": "matmul"}]))
    for name in ("a.png", "b.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_charts_of_a_race_stay_readable_however_many_cases_there_are(source):
    """Width and height in pixels: no chart of the benchmarks' page is a scroll of its own."""
    from PIL import Image

    for name in ("race-families", "roofline", "race-families-1-thread", "roofline-1-thread"):
        with Image.open(source / "_images" / f"{name}.png") as image:
            assert image.height < 1.5 * image.width, f"{name}: {image.size}"


def test_the_pages_written_for_the_site_parse_as_python_where_they_say_python(source):
    for file in (source / "operations").glob("*.md"):
        for block in re.findall(r"```python\n(.*?)```", file.read_text(encoding="utf-8"), re.DOTALL):
            ast.parse(block)


# ---------------------------------------------------------------- external links, as far as they can be judged here


def test_papers_have_sound_records_and_none_is_there_twice():
    """arXiv numbers are YYMM.NNNNN; a paper is not younger than its record says."""
    papers = [methods.module(slug).PAPER for slug in methods.slugs()]
    assert len({p.title for p in papers}) == len({p.arxiv for p in papers if p.arxiv}) == len(papers)
    for p in papers:
        assert p.slug in methods.slugs() and p.authors and p.idea
        number = re.fullmatch(r"(\d\d)(\d\d)\.\d{4,5}", p.arxiv)
        assert number and 1 <= int(number[2]) <= 12, f"{p.slug}: arXiv:{p.arxiv}"
        assert 2000 + int(number[1]) <= p.year <= 2002 + int(number[1]), f"{p.slug}: {p.year}, arXiv:{p.arxiv}"


TEXTS = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "docs" / "maths").glob("*.md"),
    *(ROOT / "docs" / "results").glob("*.md"),
    *(ROOT / "tutorials").glob("*.md"),
]


@pytest.mark.parametrize("file", TEXTS, ids=lambda f: f"{f.parent.name}/{f.name}")
def test_external_links_are_well_formed(file):
    from urllib.parse import urlsplit

    prose = file.read_text(encoding="utf-8")
    for link in re.findall(r"https?://[^\s)>\]\"'`]+", prose):
        parts = urlsplit(link)
        assert parts.scheme == "https" and re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), link
        if parts.netloc == "arxiv.org":
            assert re.fullmatch(r"/(?:abs|pdf)/\d{4}\.\d{4,5}", parts.path), link
        if parts.netloc == "doi.org":
            assert re.fullmatch(r"/10\.\d{4,}/\S+", parts.path), link


@pytest.mark.parametrize("file", TEXTS, ids=lambda f: f"{f.parent.name}/{f.name}")
def test_links_between_files_lead_somewhere(file):
    prose = re.sub(r"(?s)```.*?```|`[^`\n]*`", "", file.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", prose):
        if not re.match(r"\w+:", target):
            assert (file.parent / target).exists(), f"{file.name} links to {target}, which is not there"


def test_a_map_of_files_becomes_a_list_with_a_file_a_line():
    doc = """What it is.

        learner.py     the learner     study.py, race.py   what is run
        refimpl/ops/x.py: one <line>        refimpl/nn/y.py

    The end."""
    assert text.prose(doc).split("\n\n") == [
        "What it is.",
        "- `learner.py`: the learner\n- `study.py, race.py`: what is run\n- `refimpl/ops/x.py`: one \\<line\\>\n"
        "- `refimpl/nn/y.py`",
        "The end.",
    ]


@pytest.mark.parametrize("slug", methods.slugs())
def test_a_method_s_page_lists_its_files_and_has_the_name_of_its_tutorial(slug, source):
    page = (source / "methods" / f"{slug}.md").read_text(encoding="utf-8")
    assert "- `learner.py`: " in page
    tutorial = (ROOT / "tutorials" / f"{slug}.md").read_text(encoding="utf-8")
    name = re.search(r"^# (.+)$", page, re.MULTILINE)[1]
    assert f"\n# {name}: " in tutorial


@pytest.mark.parametrize(
    ("kind", "name", "shown"),
    [
        ("method", "counter_current counter-current step", "counter-current step"),
        ("method", "tpsgd tpSGD, a batch", "tpSGD, a batch"),
        ("method", "streambp back-propagation step", "streambp back-propagation step"),
        ("operation", "relu", "relu"),
    ],
)
def test_a_step_that_names_its_method_does_not_name_it_twice(kind, name, shown):
    assert charts.title({"kind": kind, "name": name}) == shown
