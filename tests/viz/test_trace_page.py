"""The page of a trace in all its details, shown on one step of NoProp. What holds for the pages of every method is
tested in test_trace_of_every_method.py.
"""

import re

import numpy as np
import pytest

import refimpl
from refimpl import ops
from refimpl.backends import operations
from refimpl.lab import anatomy, replay, walk
from refimpl.methods.local import noprop
from refimpl.viz import style
from refimpl.viz.mathml import mathml
from tests.viz.pages import Reader, contrast, data_of

STEPS = noprop.teach()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """NoProp-DT's trace, its page as a file, and the page's data."""
    path = tmp_path_factory.mktemp("page") / "noprop.html"
    trace, memory = walk.record(STEPS[0])
    walk.write_page(trace, path, STEPS[0].name, noprop.PAPER, STEPS[0], memory)
    return trace, path, data_of(path.read_text(encoding="utf-8"))


# ---------------------------------------------------------------- the file


@pytest.mark.slow
def test_a_step_of_full_size_stays_below_three_megabytes_too():
    (step,) = noprop.race()
    trace, memory = walk.record(step)
    page = walk.page(trace, step.name, noprop.PAPER, step, memory)
    assert len(page.encode()) < 3e6
    assert all(k.ok for call in trace for k in trace._checks[call.index])


def test_text_of_a_page_cannot_end_its_element():
    from refimpl.viz.page import render

    page = render("a </title><b>", {"x": "</script><script>alert(1)</script>"})
    assert page.count("<script") == 2 and "<b>" not in page
    assert data_of(page) == {"x": "</script><script>alert(1)</script>"}


def test_a_page_of_any_trace_without_a_paper(tmp_path):
    x = np.random.default_rng(0).standard_normal((3, 2, 5, 4)).astype(np.float32)
    big = np.ones((300, 400), np.float32)
    with refimpl.trace(keep=100_000) as trace:
        with pytest.raises(TypeError):
            ops.relu(1)  # fails, and is left out
        y = ops.tanh(x)
        ops.tanh_backward(x, y)
        ops.relu(big)  # too large to be kept
        ops.relu(big[:50])  # too large to be shown whole
        ops.relu(np.array([np.nan, np.inf, -1.0]))
    size = walk.write_page(trace, tmp_path / "page.html", "Anything")
    data = data_of((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert size < 400_000 and [c["op"] for c in data["calls"]] == ["tanh", "tanh_backward", "relu", "relu", "relu"]
    large, middle = (data["arrays"][data["calls"][i]["in"][0]["k"]] for i in (2, 3))
    assert large["whole"] == [300, 400] and large["every"] == [10, 13] and large["s"] == [30, 31]
    assert middle["whole"] == [50, 400] and middle["every"] == [3, 3] and middle["stats"] == [1, 1, 1]
    assert [c["partner"] for c in data["calls"]] == [1, 0, None, None, None] and data["calls"][1]["in"][1]["from"] == 0


# ---------------------------------------------------------------- equations and colours


@pytest.mark.parametrize("name", operations())
def test_every_equation_is_well_formed_mathml_and_loses_no_symbol(name):
    from xml.dom import minidom

    for equation in anatomy.equations(name):
        tree = minidom.parseString(f"<p>{mathml(equation, anatomy.result_names(name))}</p>")
        shown = "".join(n.data for n in texts(tree))
        letters = re.findall(r"[A-Za-z]", re.sub(r"sqrt|sum_|" + "|".join(GREEK), "", equation))
        assert len(re.findall(r"[A-Za-z]", re.sub(r"sqrt|sum_|" + "|".join(GREEK), "", shown))) >= 0.9 * len(letters)
    assert any("<math" in mathml(e) for e in anatomy.equations(name)) or "=" not in "".join(anatomy.equations(name))


GREEK = ("alpha", "beta", "gamma", "sigma", "theta", "mu", "phi", "Phi", "eps", "delta", "eta", "lambda", "tau", "pi")


def texts(node):
    for child in node.childNodes:
        if child.nodeType == child.TEXT_NODE:
            yield child
        yield from texts(child)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("y = x W + b", ["<mi>x</mi>", "<mi>W</mi>", "<mo>+</mo>"]),
        ("dW = x^T dy", ["<msup><mi>x</mi><mrow><mi>T</mi></mrow></msup>", "<mi>dy</mi>"]),
        ("L = -1/B Σ_b log p_b", ["<mfrac>", "<munder>", "<mi>log</mi>", "<msub><mi>p</mi>"]),
        ("y = 1 / (1 + exp(-x))", ["<mfrac><mrow><mn>1</mn></mrow><mrow><mrow><mn>1</mn>"]),
        ("r = 1/sqrt(v + eps)", ["<mfrac>", "<msqrt>", "<mi>ε</mi>"]),
        ("dx = r (g - x^ mean(g x^))", ['<mover accent="true"><mi>x</mi><mo>^</mo></mover>']),
        ("h_{t-1} = h'", ["<msub><mi>h</mi><mrow><mi>t</mi><mo>−</mo><mn>1</mn></mrow></msub>", "<mo>′</mo>"]),
    ],
)
def test_mathml_of_the_notation_of_docstrings(text, expected):
    made = mathml(text)
    assert made.startswith("<math") and made.endswith("</math>")
    assert all(part in made for part in expected), made


def test_words_stay_words_and_markup_is_escaped():
    made = mathml("y = x: every row <of> x & more", {"x", "y"})
    assert "every row" in made and "<mi>every" not in made and "&amp;" in made and "<of>" not in made


@pytest.mark.parametrize("page", [style.PAGE, style.PAGE_DARK], ids=["light", "dark"])
def test_text_of_the_page_is_readable_in_both_colour_schemes(page):
    assert set(page) == set(style.PAGE)
    for ink in ("ink", "muted", "link", "good", "bad", "code-comment", "code-keyword", "code-number"):
        assert contrast(page[ink], page["paper"]) >= 4.5 and contrast(page[ink], page["raised"]) >= 4.5, ink
    assert contrast(page["ink"], page["mark"]) >= 7
    for ink in ("muted", "code-comment", "code-keyword", "code-number"):  # on the line that is computed now
        assert contrast(page[ink], page["mark"]) >= 4.5, ink
    assert contrast(page["paper"], page["ink"]) >= 7  # the main button, the tip below the mouse
    for tone in ("forward", "backward", "update", "focus", "minus", "plus"):
        assert contrast(page[tone], page["paper"]) >= 3, tone
    assert contrast(page["zero"], page["minus"]) >= 3 and contrast(page["zero"], page["plus"]) >= 3


# ---------------------------------------------------------------- in a browser


@pytest.fixture
def reader(chromium, made):
    with Reader(chromium, made[1]) as reader:
        yield reader


@pytest.mark.browser
def test_it_loads_without_an_error_and_without_a_request(reader, made):
    assert reader.text("h1") == STEPS[0].name and reader.text("#op-name") == "fma_combine"
    assert reader.page.locator("#list button").count() == len(made[0])
    assert reader.page.locator("#equations math").count() >= 1
    assert reader.page.locator("#timeline svg").count() == 1


@pytest.mark.browser
def test_arrow_keys_step_forward_and_back_through_lines_and_operations(reader, made):
    data = made[2]
    steps = [(c, s) for c, call in enumerate(data["calls"]) for s in call["steps"]]
    for n, (c, s) in enumerate(steps, 1):
        assert (reader.step, reader.call) == (n, c)
        now = reader.page.locator("#numpy .row.now")
        assert int(now.first.get_attribute("data-line")) == s["a"]
        lines = [int(row.get_attribute("data-line")) for row in reader.page.locator("#c .row.now").all()]
        assert lines == [k for a, b in s["c"] for k in range(a, b + 1)]
        reader.press("ArrowRight")
    assert reader.step == len(steps)
    reader.press("ArrowLeft")
    assert reader.step == len(steps) - 1
    reader.press("Home")
    assert reader.step == 1
    reader.press("Shift+ArrowRight", "Shift+ArrowRight")
    assert reader.call == 2
    reader.press("Shift+ArrowLeft")
    assert reader.call == 1
    reader.press("End")
    assert reader.call == len(made[0]) - 1
    assert reader.page.locator("#next").is_disabled()


@pytest.mark.browser
def test_buttons_slider_list_links_and_address_lead_to_a_step(chromium, reader, made):
    reader.page.click("#next")
    reader.page.click("#next")
    reader.page.click("#back")
    assert reader.step == 2
    reader.page.locator("#slider").fill("30")
    assert reader.step == 30
    loss = next(call.index for call in made[0] if call.op == "denoise_loss")
    reader.page.click(f"#list li:nth-child({loss + 1}) button")
    assert reader.call == loss and reader.text("#op-name") == "denoise_loss"
    reader.page.locator("#in-arrays button.link").first.click()
    assert reader.call == made[2]["calls"][loss]["in"][0]["from"]
    assert reader.page.evaluate("location.hash") == f"#{reader.step}"
    with Reader(chromium, made[1], "#42") as other:
        assert other.step == 42


@pytest.mark.browser
def test_g_jumps_between_an_operation_and_its_gradient(reader, made):
    for call in made[0]:
        reader.page.evaluate("c => refimpl.go(refimpl.calls[c].start)", call.index)
        assert reader.page.locator("#jump").is_disabled() == (call.partner is None)
        reader.press("g")
        if call.partner is not None:
            assert reader.call == call.partner
            reader.press("g")
        assert reader.call == call.index


@pytest.mark.browser
def test_the_numbers_on_the_page_are_those_that_were_recorded(reader, made):
    trace = made[0]
    for call in trace:
        reader.page.evaluate("c => refimpl.go(refimpl.calls[c].start)", call.index)
        for a in call.arguments:
            shown = reader.shown("in-arrays", a.name)
            assert (
                np.array_equal(shown, a.value.ravel()) if shown is not None else not a.value.any() or a.value.ndim == 0
            )
        for a in call.results:
            shown = reader.shown("out-arrays", a.name)
            assert (
                np.array_equal(shown, a.value.ravel()) if shown is not None else not a.value.any() or a.value.ndim == 0
            )


@pytest.mark.browser
def test_the_last_line_of_an_operation_computes_its_result(reader, made):
    linear = next(call for call in made[0] if call.op == "linear")
    reader.page.evaluate("i => refimpl.go(refimpl.calls[i + 1].start - 1)", linear.index)
    assert reader.call == linear.index and "y += bias" in reader.text("#numpy .row.now")
    assert np.array_equal(reader.shown("line-arrays", "y"), linear.result("y").value.ravel())


@pytest.mark.browser
def test_an_array_is_read_by_keyboard_and_its_colours_are_its_values(reader, made):
    relu = next(call for call in made[0] if call.op == "relu")  # of one line: the next step is the next operation
    reader.page.evaluate("i => refimpl.go(refimpl.calls[i].start)", relu.index)
    x = relu.argument("x").value
    canvas = reader.page.locator("#in-arrays canvas").first
    assert canvas.get_attribute("aria-label").startswith("x, 4 by 8, from ")
    canvas.focus()
    reader.press("Home", "ArrowDown", "ArrowRight", "ArrowRight")
    told = reader.text("#in-arrays figure .value").replace("−", "-")
    assert told.startswith("x[B 1, D_out 2] = ") and float(told.split("= ")[1]) == pytest.approx(x[1, 2], rel=1e-5)
    assert reader.page.locator("#live").inner_text().replace("−", "-") == told
    assert reader.call == relu.index  # the arrows did not step
    reader.press("Escape", "ArrowRight")
    assert reader.call == relu.index + 1
    reader.press("ArrowLeft")
    colours = reader.page.evaluate(
        "() => { const c = document.querySelector('#in-arrays figure').card, { width: w, height: h } = c.canvas;"
        "const d = c.canvas.getContext('2d').getImageData(0, 0, w, h).data, s = devicePixelRatio;"
        "return Array.from(c.a.v, (_, i) => { const [r, k] = c.plan.at(i), [x, y] = c.corner(r, k);"
        "const j = 4 * (Math.round((y + 2) * s) * w + Math.round((x + 2) * s));"
        "return Array.from(d.slice(j, j + 3)); }); }"
    )
    most = np.abs(x).max()
    minus, zero, plus = ([int(style.PAGE[n][i : i + 2], 16) for i in (1, 3, 5)] for n in ("minus", "zero", "plus"))
    for value, colour in zip(x.ravel(), colours):
        end = np.array(plus if value > 0 else minus)
        expected = zero + (end - np.array(zero)) * (abs(value) / most) ** 0.85
        assert np.abs(np.array(colour[:3]) - expected).max() <= 1.5


@pytest.mark.browser
def test_the_mouse_shows_the_entry_below_it(reader, made):
    reader.page.evaluate("refimpl.go(refimpl.calls[1].start)")
    x = made[0][1].argument("x").value
    canvas = reader.page.locator("#in-arrays canvas").first
    canvas.evaluate("n => n.scrollIntoView({ block: 'center' })")
    box = canvas.bounding_box()
    w, h = reader.page.evaluate("document.querySelector('#in-arrays figure').card.cell")
    reader.page.mouse.move(box["x"] + 20.5 * w, box["y"] + 2.5 * h)
    told = reader.text("#tip").replace("−", "-")
    assert told.startswith("x[B 2, D_in 20] = ") and float(told.split("= ")[1]) == pytest.approx(x[2, 20], rel=1e-5)


@pytest.mark.browser
def test_the_check_of_a_chosen_entry_is_a_measured_difference_quotient(reader, made):
    """The numbers on the page against central differences that this test takes itself."""
    trace = made[0]
    call = next(c for c in trace if c.op == "linear_backward")
    reader.page.evaluate("c => refimpl.go(refimpl.calls[c].start)", call.index)
    assert reader.text("#verdict").startswith("✓ 32 of 32 entries checked")
    reader.page.select_option("#which", label="dweight, of weight")
    forward = trace[call.partner]
    x, w, b = (forward.argument(n).value for n in ("x", "weight", "bias"))
    dy = call.argument("dy").value
    gradient = reader.page.locator("#check-arrays canvas").nth(1)
    for row, column in ((1, 0), (5, 3)):
        cell = reader.page.evaluate("document.querySelectorAll('#check-arrays figure')[1].card.cell")
        gradient.click(position={"x": (column + 0.5) * cell[0], "y": (row + 0.5) * cell[1]})
        told = dict(
            zip(
                reader.page.locator("#check-numbers dt").all_inner_texts(),
                reader.page.locator("#check-numbers dd").all_inner_texts(),
            )
        )
        told = {k: float(v.replace("−", "-").replace("±", "")) for k, v in told.items()}
        h, at = 1e-5, (row, column)
        moved = [w.copy(), w.copy()]
        moved[0][at] += h
        moved[1][at] -= h
        up, down = (np.vdot(dy, x @ m + b) for m in moved)
        where = f"[D_in {row}, D_out {column}]"
        assert told[f"weight{where}"] == pytest.approx(w[at], rel=1e-14)
        assert told["(L(+) − L(−)) / 2h"] == pytest.approx((up - down) / (2 * h), abs=1e-10)
        assert told[f"dweight{where} by hand"] == pytest.approx(call.result("dweight").value[at], rel=1e-12)
        assert reader.page.locator("#check-numbers [data-verdict=ok]").count() == 1


@pytest.mark.browser
def test_a_wrong_gradient_is_shown_in_red(chromium, tmp_path):
    backward = operations()["tanh_backward"]
    right, x = backward.numpy, np.linspace(-1, 1, 6).reshape(2, 3)
    with refimpl.trace() as trace:
        y = ops.tanh(x)
        ops.tanh_backward(np.ones_like(x), y)
    try:
        backward.numpy = lambda dy, y, out=None: right(dy, y) + np.array([[0, 0, 0], [0, 0.1, 0]])
        trace._checks = {1: replay.checks(trace, trace[1])}
    finally:
        backward.numpy = right
    walk.write_page(trace, tmp_path / "wrong.html", "Wrong")
    with Reader(chromium, tmp_path / "wrong.html") as reader:
        reader.press("g")
        assert reader.text("#verdict").startswith("✗ 1 of 6 entries disagree")
        verdict = reader.page.locator("#check-numbers [data-verdict=wrong]")
        assert verdict.count() == 1 and "✗ They differ" in verdict.inner_text()
        red = verdict.evaluate("n => getComputedStyle(n).color")
        r, g, b = map(int, re.findall(r"\d+", red))
        assert r > 150 and g < 100 and b < 100
        assert "dx[·" not in reader.text("#check-numbers")


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen_at_any_step(chromium, made, scheme):
    phone = {"viewport": {"width": 360, "height": 740}, "color_scheme": scheme, "has_touch": True, "is_mobile": True}
    with Reader(chromium, made[1], **phone) as reader:
        n = len(reader.page.evaluate("refimpl.steps"))
        for i in range(n):
            wide = reader.page.evaluate("i => { refimpl.go(i); return document.documentElement.scrollWidth; }", i)
            assert wide <= 360, f"step {i + 1} is {wide} wide"
        for name in ("back", "next", "jump", "help"):
            box = reader.page.locator(f"#{name}").bounding_box()
            assert box["width"] >= 40 and box["height"] >= 40, name
        paper = reader.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        wanted = (style.PAGE if scheme == "light" else style.PAGE_DARK)["paper"]
        assert [int(v) for v in re.findall(r"\d+", paper)] == [int(wanted[i : i + 2], 16) for i in (1, 3, 5)]
        reader.page.locator("#back").tap()
        assert reader.step == n - 1


@pytest.mark.browser
def test_a_screen_reader_is_told_what_a_step_does(reader):
    assert reader.page.locator("#live").get_attribute("aria-live") == "polite"
    reader.press("ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight")
    told = reader.page.locator("#live").inner_text()
    assert re.match(r"Step 5 of \d+\. Operation \d+, \w+, line \d+: .+\. Computes \w+", told), told
    assert reader.page.locator("#list button[aria-current]").count() == 1
    assert reader.page.locator("#numpy .row[aria-current=step]").count() == 1
    snapshot = reader.page.locator("body").aria_snapshot()
    for expected in ("heading", "navigation", "main", 'toolbar "Steps"', 'button "Back"', 'slider "Step', "math"):
        assert expected in snapshot, expected
    unnamed = reader.page.evaluate(
        "[...document.querySelectorAll('button, canvas, select, input, [role=region]')].filter((n) =>"
        " !(n.getAttribute('aria-label') || n.textContent.trim() || n.labels?.length)).length"
    )
    assert unnamed == 0


# Every visible text of the page with the colour behind it: [contrast, text].
CONTRASTS = """() => {
  const parse = (text) => {
    const n = text.match(/[\\d.]+/g).map(Number);
    return n.length > 3 && n[3] === 0 ? null : n;
  };
  const light = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
  const behind = (n) => parse(getComputedStyle(n).backgroundColor) || behind(n.parentElement);
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const n = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !n.checkVisibility() || n.closest("script, noscript, :disabled")) continue;
    const style = getComputedStyle(n);
    const [a, b] = [parse(n.closest("svg") ? style.fill : style.color), behind(n)].map(light).sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), texts.currentNode.data.trim().slice(0, 40)]);
  }
  return found;
}"""


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_on_the_page_stands_out_from_what_is_behind_it(chromium, made, scheme):
    with Reader(chromium, made[1], color_scheme=scheme) as reader:
        backward = next(c for c in made[0] if made[2]["calls"][c.index]["checks"])
        reader.page.evaluate("c => refimpl.go(refimpl.calls[c].start)", backward.index)
        reader.page.locator("#in-arrays details summary").first.click()
        reader.press("?")
        found = reader.page.evaluate(CONTRASTS)
        assert len(found) > 200
        assert not [f for f in found if f[0] < 4.5]


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_numbers_in_heat_maps_stand_out_from_their_cells(chromium, made, scheme):
    """The colours that the page gives to cells and to the numbers in them, from the least to the largest value."""
    with Reader(chromium, made[1], color_scheme=scheme) as reader:
        cells = reader.page.evaluate("Array.from({ length: 201 }, (_, i) => refimpl.cell((i - 100) / 100, 1))")
        ratios = [contrast("#" + "".join(f"{c:02x}" for c in shade), ink) for shade, ink in cells]
        assert min(ratios) >= 4.5


@pytest.mark.browser
def test_roles_names_and_order_of_headings(reader, made):
    """No ARIA name where there may be none, one h1, no level of headings left out, all ids that are referred to exist,
    and everything that scrolls or is drawn is named."""
    reader.page.evaluate("c => refimpl.go(refimpl.calls[c].start)", len(made[0]) - 1)
    reader.page.locator("#in-arrays details summary").first.click()
    troubles = reader.page.evaluate(
        """() => {
          const found = [];
          const all = [...document.querySelectorAll("body *")];
          for (const n of all) {
            const name = n.getAttribute("aria-label");
            const role = n.getAttribute("role"), begins = n.outerHTML.slice(0, 80);
            if (name && /^(SPAN|DIV|P|I|B)$/.test(n.tagName) && !role) found.push(`name on ${begins}`);
            for (const k of ["aria-labelledby", "for", "aria-controls", "aria-describedby"])
              if (n.hasAttribute(k) && !document.getElementById(n.getAttribute(k))) found.push(`${k} leads nowhere`);
            const plain = !/^(A|BUTTON|INPUT|SELECT|SUMMARY|MAIN)$/.test(n.tagName);
            if (n.tabIndex >= 0 && plain && !(role && name)) found.push(`no role or name: ${begins}`);
          }
          const levels = all.filter((n) => /^H[1-6]$/.test(n.tagName)).map((n) => Number(n.tagName[1]));
          if (levels.filter((k) => k === 1).length !== 1) found.push("not one h1");
          levels.forEach((k, i) => { if (i && k > levels[i - 1] + 1) found.push(`h${levels[i - 1]}, then h${k}`); });
          return found;
        }"""
    )
    assert not troubles


@pytest.mark.browser
def test_the_keyboard_reaches_everything_in_reading_order(reader):
    seen = []
    for _ in range(60):
        reader.press("Tab")
        name = reader.page.evaluate("document.activeElement.id || document.activeElement.tagName.toLowerCase()")
        seen.append(name)
        ring = reader.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring != "none" or name in ("body", "slider"), f"{name} shows no focus"
    order = [n for n in seen if n in ("timeline", "next", "slider", "help", "numpy", "c", "canvas")]
    assert [n for i, n in enumerate(order) if n not in order[:i]] == [
        "timeline",
        "next",
        "slider",
        "help",
        "numpy",
        "c",
        "canvas",
    ]


@pytest.mark.browser
def test_help_opens_with_its_key_and_closes(reader):
    reader.press("?")
    assert reader.page.locator("#keys").is_visible() and "next and previous line" in reader.text("#keys")
    reader.press("ArrowRight")
    assert reader.step == 1
    reader.press("Escape")
    assert not reader.page.locator("#keys").is_visible()


@pytest.mark.browser
def test_arrays_of_many_axes_show_without_an_error(chromium, tmp_path):
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 4))
    with refimpl.trace() as trace:
        ops.relu(x)
        ops.relu(np.ones((200, 300)))
        ops.relu(np.array([np.nan, np.inf, -1.0]))
        ops.total(x)
    walk.write_page(trace, tmp_path / "page.html", "Many axes")
    with Reader(chromium, tmp_path / "page.html") as reader:
        canvas = reader.page.locator("#in-arrays canvas")
        canvas.focus()
        reader.press("Home", *["ArrowRight"] * 5, *["ArrowDown"] * 6)  # the second channel, the second sample
        told = reader.text("#in-arrays figure .value").replace("−", "-")
        assert float(told.split("= ")[1]) == pytest.approx(x[1, 1, 1, 1], rel=1e-5) and "1, " in told
        for _ in range(3):
            reader.press("Escape", "Shift+ArrowRight")
        assert reader.call == 3
