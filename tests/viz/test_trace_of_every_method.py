"""`refimpl trace` of every registered method, each step that it offers: one sound file, readable in a real browser.

A method that is added is covered without another line. What a page does in detail is tested in test_trace_page.py.
"""

import base64
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from refimpl import methods
from refimpl.backends import operations
from refimpl.lab import walk
from refimpl.lab.trace import Trace
from refimpl.record import Step
from tests.viz.pages import Checker, Reader, data_of

ROOT = Path(__file__).resolve().parents[2]
LARGEST = 1.5e6  # bytes of a page that can still be read; a method whose step is larger offers a small one with teach()


@dataclass(frozen=True)
class Page:
    step: Step
    trace: Trace
    path: Path
    html: str
    data: dict


@pytest.fixture(scope="session", params=methods.slugs())
def pages(request, tmp_path_factory):
    """The pages of all steps that a method offers, made once."""
    module, folder, found = methods.module(request.param), tmp_path_factory.mktemp(request.param), []
    offered = getattr(module, "teach", None) or module.race
    for i, step in enumerate(offered()):
        trace, memory = walk.record(step)
        path = folder / f"{i}.html"
        walk.write_page(trace, path, step.name, module.PAPER, step, memory)
        html = path.read_text(encoding="utf-8")
        found.append(Page(step, trace, path, html, data_of(html)))
    return found


@pytest.fixture
def first(pages, chromium):
    """A reader before the first page of a method, and that page."""
    with Reader(chromium, pages[0].path) as reader:
        yield reader, pages[0]


# ---------------------------------------------------------------- the files


def test_a_page_is_well_formed_and_refers_to_nothing_outside(pages):
    for page in pages:
        checker = Checker()
        checker.feed(page.html)
        checker.close()
        assert not checker.open and len(set(checker.ids)) == len(checker.ids)
        assert all(r.startswith("#") or r == "data:," for r in checker.references)
        without_data = re.sub(r'(?s)<script type="application/json".*?</script>', "", page.html)
        # a name, never fetched
        assert set(re.findall(r"\w+://[\w./]+", without_data)) == {"http://www.w3.org/2000/svg"}
        assert "default-src 'none'" in page.html and "{{" not in page.html
        assert not re.search(r"\beval\(|new Function|document\.write|import\(", page.html)
        assert page.html.count("<script") == 2 and 'lang="en"' in page.html


def test_a_page_is_small_enough_to_be_read(pages):
    for page in pages:
        size = len(page.html.encode())
        assert size < LARGEST, f"{page.step.name}: {size / 1e6:.1f} MB, at most {LARGEST / 1e6} (a small step: teach())"


def test_steps_have_names_of_their_own(pages):
    assert len({page.step.name for page in pages}) == len(pages)
    assert all(page.step.shape and page.step.dtype in ("float32", "float64") for page in pages)


def test_a_page_holds_every_call_with_lines_of_both_bodies(pages):
    for page in pages:
        data, limit = page.data, 1e-12 if page.step.dtype == "float64" else 1e-3
        assert [c["op"] for c in data["calls"]] == [c.op for c in page.trace]
        assert len(data["memory"]) == len(page.trace) and max(data["memory"]) > 0
        for shown, call in zip(data["calls"], page.trace):
            assert shown["partner"] == call.partner and shown["steps"]
            op = data["ops"][call.op]
            numbers = {n for n, _ in op["numpy"]["lines"]}
            assert all({s["a"], s["b"]} <= numbers for s in shown["steps"])
            assert op["equations"] and all("<math" in e or "=" not in e for e in op["equations"][:1])
            if "native" in operations()[call.op].bodies:
                assert op["c"]["file"].startswith("native/src/")
                assert shown["bodies"]["native"]["difference"] < limit, (page.step.name, call.index, call.op)


def test_all_lines_shown_are_those_of_the_sources(pages):
    files = {}
    for page in pages:
        for op in page.data["ops"].values():
            for source in filter(None, (op["numpy"], op["c"])):
                name = source["file"]
                lines = files.setdefault(name, (ROOT / name).read_text(encoding="utf-8").split("\n"))
                assert all(lines[n - 1].strip() == text.strip() for n, text in source["lines"]), name


def test_every_gradient_agrees_with_central_differences(pages):
    """Or the page says why it cannot, or its forward operation is not in the trace."""
    checked = 0
    for page in pages:
        for call in page.data["calls"]:
            for k in call["checks"]:
                h, plus, minus, exact = (
                    np.frombuffer(base64.b64decode(k[n]), "<f8") for n in ("h", "plus", "minus", "exact")
                )
                error = np.abs((plus - minus) / (2 * h) - exact)
                assert (error <= page.data["limit"] * k["scale"]).all(), (page.step.name, call["op"], k["name"])
            checked += len(call["checks"])
            if call["op"].endswith("_backward"):
                assert call["checks"] or call["unchecked"] or call["partner"] is None, (page.step.name, call["op"])
    assert checked >= 2


# ---------------------------------------------------------------- in a browser


@pytest.mark.browser
def test_it_loads_without_an_error_and_without_a_request(first):
    reader, page = first  # the reader fails, when it leaves, for anything on the console and for any request
    assert reader.text("h1") == page.step.name and reader.text("#op-name") == page.trace[0].op
    assert reader.page.locator("#list button").count() == len(page.trace)
    assert reader.page.locator("#equations math").count() >= 1
    assert reader.page.locator("#timeline svg").count() == 1
    assert f"refimpl trace {page.path.parent.name.rstrip('0123456789')}" in reader.text("#kicker")


# Keys as the page receives them, without a round trip through the browser for each.
KEYS = (
    "const key = (name) => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key: name,"
    " bubbles: true, cancelable: true }));"
    " const look = () => [refimpl.now + 1, Number(document.getElementById('op-number').textContent),"
    " Number(document.querySelector('#numpy .row.now').dataset.line),"
    " [...document.querySelectorAll('#c .row.now')].map((n) => Number(n.dataset.line))];"
)


@pytest.mark.browser
def test_arrow_keys_step_forward_and_back_through_every_line(first):
    reader, page = first
    steps = [(c, s) for c, call in enumerate(page.data["calls"]) for s in call["steps"]]
    expected = [[n, c, s["a"], [k for a, b in s["c"] for k in range(a, b + 1)]] for n, (c, s) in enumerate(steps, 1)]
    walk_through = (
        f"([n, name]) => {{ {KEYS} const seen = [look()];"
        " while (--n) { key(name); seen.push(look()); } return seen; }"
    )
    assert reader.page.evaluate(walk_through, [len(steps), "ArrowRight"]) == expected
    assert reader.page.locator("#next").is_disabled()
    assert reader.page.evaluate(walk_through, [len(steps), "ArrowLeft"]) == expected[::-1]
    assert reader.page.locator("#back").is_disabled()
    reader.press("ArrowRight", "ArrowRight", "ArrowLeft")
    assert (reader.step, reader.call) == (2, steps[1][0])


@pytest.mark.browser
def test_g_jumps_between_an_operation_and_its_gradient(first):
    """From each call to its partner and back; calls without a partner stay. Partners are each other's."""
    reader, page = first
    there_and_back = (
        f"n => {{ {KEYS} return Array.from({{ length: n }}, (_, c) => {{ refimpl.go(refimpl.calls[c].start);"
        " const off = document.getElementById('jump').disabled; key('g'); const there = look()[1]; key('g');"
        " return [off, there, look()[1]]; }); }"
    )
    expected = [[c.partner is None, c.index if c.partner is None else c.partner, c.index] for c in page.trace]
    assert reader.page.evaluate(there_and_back, len(page.trace)) == expected
    paired = next((c for c in page.trace if c.partner is not None), None)
    if paired:
        reader.page.evaluate("c => refimpl.go(refimpl.calls[c].start)", paired.index)
        reader.press("g")
        assert reader.call == paired.partner


def _expected(a, card):
    """The entries of a recorded array that a card shows: all, or every k-th."""
    value = a.value if a.value is not None else a.thumbnail
    if card["every"] and a.value is not None:
        value = value[tuple(slice(None, None, k) for k in card["every"])]
    return value.astype(np.float64).ravel()


@pytest.mark.browser
def test_the_numbers_on_the_page_are_those_that_were_recorded(first):
    reader, page = first
    look = (
        "c => { refimpl.go(refimpl.calls[c].start + refimpl.calls[c].steps.length - 1);"
        " const show = (box) => [...document.querySelectorAll(`#${box} figure`)].map((n) => [n.dataset.name, n.card"
        " ? { every: n.card.a.every, v: Array.from(n.card.a.v, String) } : n.querySelector('.value').textContent]);"
        " return { in: show('in-arrays'), out: show('out-arrays') }; }"
    )
    compared = 0
    for call in page.trace:
        shown = reader.page.evaluate(look, call.index)
        for box, arrays in (("in", call.arguments), ("out", call.results)):
            cards = dict(shown[box])
            for a in arrays:
                card = cards[a.name]
                if isinstance(card, dict):
                    values = np.array(card["v"], dtype=np.float64)
                    assert np.array_equal(values, _expected(a, card), equal_nan=True), (call.index, call.op, a.name)
                    compared += values.size
                elif card.startswith("all 0"):
                    assert not np.any(a.value)
                else:
                    number = float(card.replace("−", "-").replace("∞", "inf"))
                    assert number == pytest.approx(float(a.value), rel=1e-7)
    assert compared > 100


def _recorded(call, name):
    """A gradient as the call computed it: what its buffer held before is taken off."""
    result = call.result(name)
    before = [a.value for a in call.arguments if a.name.startswith("add_to") and a.where == result.where]
    return result.value - (before[0] if before else 0)


@pytest.mark.browser
def test_every_verdict_on_a_gradient_is_green_and_its_numbers_are_the_recorded_ones(first):
    reader, page = first
    checked = [c for c in page.trace if page.data["calls"][c.index]["checks"]]
    assert checked
    for call in checked:
        reader.page.evaluate("c => refimpl.go(refimpl.calls[c].start)", call.index)
        assert reader.page.locator("#check").is_visible()
        for i, k in enumerate(page.data["calls"][call.index]["checks"]):
            reader.page.select_option("#which", value=str(i))
            assert reader.text("#verdict").startswith("✓ "), (call.index, call.op, k["name"])
            dt, dd = (reader.page.locator(f"#check-numbers {tag}").all_inner_texts() for tag in ("dt", "dd"))
            told = dict(zip(dt, (float(v.replace("−", "-").replace("±", "")) for v in dd)))
            (up,) = (v for name, v in told.items() if name.startswith("L(") and "+" in name)
            (down,) = (v for name, v in told.items() if name.startswith("L(") and "−" in name)
            quotient = (up - down) / (2 * told["moved by h"])
            # L is shown with 15 digits: what the last of them is worth in the quotient
            digits = 1e-14 * max(abs(up), abs(down)) / told["moved by h"]
            assert told["(L(+) − L(−)) / 2h"] == pytest.approx(quotient, rel=1e-9, abs=digits)
            assert np.isclose(_recorded(call, k["name"]), told[f"{k['name']} as recorded"], rtol=1e-12, atol=0).any()
            assert reader.page.locator("#check-numbers [data-verdict=ok]").count() == 1


@pytest.mark.browser
def test_numpy_and_c_stand_side_by_side(first):
    reader, page = first
    done = set()
    for call in page.trace:
        if call.op in done:
            continue
        done.add(call.op)
        reader.page.evaluate("c => refimpl.go(refimpl.calls[c].start)", call.index)
        op = page.data["ops"][call.op]
        rows = (
            "box => [...document.querySelectorAll(`#${box} .row`)].map((n) =>"
            " [Number(n.dataset.line), n.textContent.slice(n.firstChild.textContent.length)])"
        )
        assert reader.page.evaluate(rows, "numpy") == op["numpy"]["lines"]
        assert f"def {call.op}(" in reader.text("#numpy")
        if op["c"]:
            assert reader.page.evaluate(rows, "c") == op["c"]["lines"]
            assert re.search(r"\bRI\(\w+\)\(", reader.page.locator("#c").text_content())


@pytest.mark.browser
def test_the_keyboard_alone_reads_a_page(first):
    """Tab reaches everything in the order of the page, with a name and a visible ring; nothing keeps the focus."""
    reader, page = first
    call = next((c.index for c in page.trace if page.data["calls"][c.index]["checks"]), 0)
    for _ in range(call):
        reader.press("Shift+ArrowRight")
    assert reader.call == call
    everything = (
        "() => [...document.querySelectorAll('a[href], button, input, select, summary, [tabindex=\"0\"]')]"
        ".filter((n) => !n.disabled && n.checkVisibility() && !n.closest('dialog')"
        " && !(n.closest('details:not([open])') && n.tagName !== 'SUMMARY')).length"
    )
    n, seen, last = reader.page.evaluate(everything), [], None
    for _ in range(n):
        reader.press("Tab")
        name, after, ring, words = reader.page.evaluate(
            "([last]) => { const n = document.activeElement, style = getComputedStyle(n);"
            " const after = !window.lastFocus || !!(window.lastFocus.compareDocumentPosition(n) & 4);"
            " window.lastFocus = n; return [n.id || n.tagName.toLowerCase(), after,"
            " style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2,"
            " (n.getAttribute('aria-label') || n.labels?.[0]?.textContent || n.textContent || '').trim()]; }",
            [last],
        )
        assert after, f"{name} comes after what stands below it"
        assert ring, f"{name} shows no focus"
        assert words, f"{name} has no name"
        seen.append(name)
    assert {"timeline", "next", "slider", "numpy", "c", "canvas"} <= set(seen)
    if page.data["calls"][call]["checks"]:
        assert "which" in seen
    summary = reader.page.locator("#in-arrays details summary").first
    if summary.count():
        summary.focus()
        reader.press("Enter")
        reader.page.locator("#in-arrays details[open] td").first.wait_for(state="attached", timeout=5000)


@pytest.mark.browser
def test_on_a_phone_no_step_of_any_page_is_wider_than_the_screen(chromium, pages):
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    for page in pages:
        with Reader(chromium, page.path, **phone) as reader:
            wide = reader.page.evaluate(
                "() => refimpl.steps.map((_, i) => { refimpl.go(i); return document.documentElement.scrollWidth; })"
            )
            assert max(wide) <= 360, f"{page.step.name}: step {wide.index(max(wide)) + 1} is {max(wide)} wide"
            assert reader.step == len(wide)
