"""Whether every internal link and picture of the built site leads to something that is there."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ("href", "src"):
                self.targets.append(value)
            if value and name in ("id", "name"):
                self.ids.add(value)


def broken(site: Path) -> list[str]:
    """One message for each link to a file or an anchor that is not there, and each that loads from elsewhere."""
    pages: dict[Path, _Page] = {}
    for file in sorted(site.rglob("*.html")):
        pages[file] = _Page()
        pages[file].feed(file.read_text(encoding="utf-8"))
    found = []
    for file, page in pages.items():
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            other = file if not parts.path else (file.parent / unquote(parts.path)).resolve()
            if other.is_dir():
                other = other / "index.html"
            where = file.relative_to(site)
            if not other.exists():
                found.append(f"{where}: {target} is not there")
            elif parts.fragment and other in pages and unquote(parts.fragment) not in pages[other].ids | {"top"}:
                found.append(f"{where}: {target} has no such anchor")
    for file in pages:
        text = file.read_text(encoding="utf-8")
        for piece in (
            '<script src="http',
            '<script async="async" src="http',
            '<link rel="stylesheet" href="http',
            '<img src="http',
        ):
            if piece in text:
                found.append(f"{file.relative_to(site)}: loads something from the network ({piece})")
    return found
