"""Pictures behind sliders: all are there, one is shown, and the sliders name their values."""

import re

import pytest

from refimpl.viz.sliders import Sliders


def test_every_combination_is_there_and_the_start_is_shown():
    made = Sliders({"d": (1, 2), "tau": (0.0, 0.5, 1.0)}, lambda d, tau: f"<i>{d} {tau}</i>", start={"tau": 0.5})
    html = made._repr_html_()
    found = re.findall(r'<div data-at="(\d),(\d)"( hidden)?><i>(\S+) (\S+)</i></div>', html)
    assert [(d, tau) for *_, d, tau in found] == [(str(d), str(tau)) for d in (1, 2) for tau in (0.0, 0.5, 1.0)]
    assert all((1, 2)[int(i)] == int(d) and (0.0, 0.5, 1.0)[int(j)] == float(tau) for i, j, _, d, tau in found)
    assert [(d, tau) for *_, hidden, d, tau in found if not hidden] == [("1", "0.5")]
    assert html.count('type="range"') == 2 and 'max="2" value="1"' in html and 'data-values="0.0|0.5|1.0"' in html


def test_names_and_values_are_text_and_not_html():
    html = Sliders({"<b>": ("<", '"')}, lambda **how: "picture")._repr_html_()
    assert "<b>" not in html and 'data-values="&lt;|&quot;"' in html


@pytest.mark.parametrize(
    ("knobs", "start", "message"),
    [
        ({"d": ()}, {}, "d has no values"),
        ({"d": (1,)}, {"d": 2}, "start d = 2 is none of the knobs' values"),
        ({"d": (1,)}, {"e": 1}, "start e = 1"),
    ],
)
def test_knobs_without_values_and_unknown_starts_are_clear_errors(knobs, start, message):
    with pytest.raises(ValueError, match=message):
        Sliders(knobs, lambda **how: "", start)


@pytest.mark.browser
def test_moving_a_slider_shows_another_picture(chromium):
    made = Sliders({"d": (1, 2), "tau": (0.0, 0.5, 1.0)}, lambda d, tau: f"<i>{d} and {tau}</i>", start={"tau": 0.5})
    page = chromium.new_page()
    try:
        page.set_content(made._repr_html_())

        def shown():
            return page.inner_text("[data-at]:visible"), page.locator("output").all_inner_texts()

        assert shown() == ("1 and 0.5", ["1", "0.5"])
        for slider, key, expected in (
            (0, "ArrowRight", ("2 and 0.5", ["2", "0.5"])),
            (1, "ArrowLeft", ("2 and 0.0", ["2", "0.0"])),
            (1, "ArrowLeft", ("2 and 0.0", ["2", "0.0"])),  # there is nothing further left
        ):
            page.locator("input").nth(slider).press(key)
            assert shown() == expected
    finally:
        page.close()
