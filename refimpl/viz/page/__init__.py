"""The page that steps through a trace: one HTML file with its style, script and data inside. Nothing is loaded from
anywhere; the page's own policy (Content-Security-Policy) forbids it.

    trace.html   structure      trace.css   style      trace.js   behaviour: written by hand, without a library
"""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from typing import Any

from refimpl.viz import style

__all__ = ["render"]


def _theme() -> str:
    def block(colours: dict[str, str]) -> str:
        return " ".join(f"--{name}: {value};" for name, value in colours.items())

    dark = block(style.PAGE_DARK)
    return f":root {{ {block(style.PAGE)} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"


def render(title: str, data: Any) -> str:
    """The whole page; `data` is what trace.js shows (see refimpl/lab/walk.py)."""
    here = files(__package__)
    text = {name: (here / f"trace.{name}").read_text(encoding="utf-8") for name in ("html", "css", "js")}
    # "<" never stands in the data as such, so no text of it can end the element it is in
    content = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    page = text["html"].replace("{{style}}", text["css"].replace("{{theme}}", _theme()).strip())
    page = page.replace("{{script}}", text["js"].strip()).replace("{{title}}", escape(title))
    return page.replace("{{data}}", content)
