"""What the tests of pages share: reading the file, colours, and a page in a browser as its reader uses it.

The tests marked `browser` need playwright and a Chromium (`make browser` installs and runs them). Without one they are
skipped, or fail where REFIMPL_REQUIRE_BROWSER=1 says that there must be one.
"""

import json
import os
import re
import shutil
from html.parser import HTMLParser

import pytest


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


class Checker(HTMLParser):
    VOID = ("meta", "link", "input", "br")

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.references = [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in self.VOID:
            self.open.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        self.references += [v for k, v in attributes.items() if k in ("src", "href", "action", "srcset")]

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def find_browser():
    given = os.environ.get("REFIMPL_BROWSER")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return given or next(filter(None, map(shutil.which, names)), None)


def without(reason):
    if os.environ.get("REFIMPL_REQUIRE_BROWSER") == "1":
        pytest.fail(f"REFIMPL_REQUIRE_BROWSER=1, but {reason}")
    pytest.skip(f"{reason} (make browser installs and runs these tests)")


class Reader:
    """A page in a browser, as a reader uses it; everything that goes wrong on it is collected."""

    def __init__(self, browser, path, at="", **context):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        self.page = self.context.new_page()
        self.troubles, self.requests = [], []
        self.page.on("console", lambda message: self.troubles.append(message.text))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(f"file://{path}{at}")

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.context.close()
        if kind is None:
            assert not self.troubles and len(self.requests) == 1, (self.troubles, self.requests)

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def text(self, selector):
        return self.page.locator(selector).first.inner_text()

    @property
    def step(self):
        return int(self.text("#count").split("/")[0])

    @property
    def call(self):
        return int(self.text("#op-number"))

    def shown(self, box, name):
        """The values on the page of an array, by the box it lies in."""
        return self.page.evaluate(
            "([box, name]) => { const n = [...document.querySelectorAll(`#${box} figure`)]"
            ".find((x) => x.dataset.name === name); return n.card ? Array.from(n.card.a.v) : null; }",
            [box, name],
        )
