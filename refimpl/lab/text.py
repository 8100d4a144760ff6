"""Text for a terminal of 80 columns: tables, numbers with units, wrapped paragraphs."""

from __future__ import annotations

import math
import shutil
import textwrap
from collections.abc import Sequence

__all__ = ["duration", "memory", "paragraph", "percent", "short", "table", "width"]


def width() -> int:
    """Columns of the terminal, 80 where there is none."""
    return max(40, min(shutil.get_terminal_size((80, 24)).columns, 120))


def duration(seconds: float | None) -> str:
    """0.12 s, 3.4 s, 2 min 05 s, 1 h 02 min."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def short(seconds: float | None) -> str:
    """The time of one call in three digits: 1.23 µs, 45.6 ms, 7.89 s."""
    if seconds is None:
        return "-"
    for scale, unit in ((1e6, "µs"), (1e3, "ms")):
        if seconds * scale < 999.5:
            value = seconds * scale
            return f"{value:.{max(0, 2 - int(math.log10(max(value, 1))))}f} {unit}"
    return f"{seconds:.2f} s"


def memory(n: float | None) -> str:
    """Bytes in units people read (1 MB is a million bytes)."""
    if n is None:
        return "-"
    unit = "B"
    for larger in ("kB", "MB", "GB"):
        if n < 999.5:
            break
        n, unit = n / 1000, larger
    return f"{n:.0f} {unit}" if unit in ("B", "kB") or n >= 99.95 else f"{n:.1f} {unit}"


def percent(fraction: float | None) -> str:
    """0.9424 as 94.2 %."""
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Columns set apart by two blanks; those numbered in `right` are flush right. No trailing blanks."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = []
    for row in (head, ["-" * w for w in widths], *rows):
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def paragraph(text: str, indent: str = "", first: str | None = None) -> str:
    """`text` wrapped to the terminal, `first` in place of the indent of the first line."""
    start = indent if first is None else first
    return textwrap.fill(
        " ".join(text.split()),
        width() - 1,
        initial_indent=start,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
