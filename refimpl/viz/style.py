"""One visual language for all figures.

    with style.use():
        figure = style.figure(height=1.5)

    style.apply()        # in a notebook: from here on

Colours are Okabe and Ito's (2008), which people with the common colour blindnesses can tell apart; lines may differ in
dashes too (`DASHES`), so that a grey print stays readable. Figures have an opaque, slightly warm paper of their own
with dark ink: they read the same on a dark page and on a light one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = [
    "BASELINE",
    "DASHES",
    "INK",
    "MUTED",
    "PAGE",
    "PAGE_DARK",
    "PALETTE",
    "PAPER",
    "apply",
    "colour",
    "figure",
    "on",
    "percent_axis",
    "use",
]

PAPER, INK, MUTED, GRID = "#fdfcf9", "#22252b", "#6b6f76", "#dedbd2"
# blue, vermilion, green, orange, purple, sky, olive, ink
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#8a7f00", "#22252b")
# Pages (refimpl/viz/page): the same colours as names of CSS, on light paper and on dark. Heat maps go from blue over
# the paper to orange, which the common colour blindnesses tell apart and which differ in brightness from the middle.
PAGE = {
    "paper": PAPER,
    "raised": "#f6f4ee",
    "ink": INK,
    "muted": "#5f636b",
    "line": GRID,
    "link": "#00588a",
    "focus": PALETTE[0],
    "mark": "#f9e7b0",
    "forward": PALETTE[0],
    "backward": PALETTE[1],
    "update": PALETTE[2],
    "memory": PALETTE[4],
    "minus": "#00558a",
    "zero": "#f4f1e9",
    "plus": PALETTE[1],
    "odd": "#a0518a",
    "good": "#00694d",
    "bad": "#c22a1a",
    "code-comment": "#62666d",
    "code-keyword": "#7a3b8f",
    "code-number": "#00588a",
}
PAGE_DARK = {
    "paper": "#16181c",
    "raised": "#1e2126",
    "ink": "#eceae4",
    "muted": "#a3a7ae",
    "line": "#383c43",
    "link": "#7cc4f0",
    "focus": PALETTE[5],
    "mark": "#3a3110",
    "forward": PALETTE[5],
    "backward": "#f2803a",
    "update": "#2fbf96",
    "memory": PALETTE[4],
    "minus": PALETTE[5],
    "zero": "#23262c",
    "plus": "#f5913e",
    "odd": "#cc79a7",
    "good": "#43cfa4",
    "bad": "#ff7a66",
    "code-comment": "#949aa3",
    "code-keyword": "#d9a3ea",
    "code-number": "#8fd0f5",
}
BASELINE = MUTED  # what a method is compared with is grey
DASHES = ("-", "--", "-.", ":")
WIDTH, HEIGHT = 6.4, 3.6  # inches


def on(colour: str) -> str:
    """The colour for text on `colour` (#rrggbb): paper or black, whichever stands out more."""

    def luminance(c: str) -> float:  # relative, as WCAG 2 defines it
        parts = (int(c[k : k + 2], 16) / 255 for k in (1, 3, 5))
        r, g, b = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    paper, behind = luminance(PAPER), luminance(colour)
    return PAPER if (paper + 0.05) * 0.05 > (behind + 0.05) ** 2 else "#000000"


def colour(i: int) -> str:
    """Colour number i; they repeat after eight."""
    return PALETTE[i % len(PALETTE)]


def _settings() -> Any:
    from cycler import cycler  # a part of matplotlib that is a package of its own

    return {
        "figure.facecolor": PAPER,
        "figure.edgecolor": PAPER,
        "figure.dpi": 100,
        "figure.titlesize": 12,
        "figure.constrained_layout.use": True,
        "savefig.facecolor": PAPER,
        "savefig.dpi": 160,
        "font.size": 9.5,
        "font.family": "DejaVu Sans",  # comes with matplotlib: figures look the same everywhere
        "axes.facecolor": PAPER,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.titlesize": 10.5,
        "axes.titlelocation": "left",
        "axes.titlecolor": INK,
        "axes.linewidth": 0.8,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=list(PALETTE)),
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "lines.linewidth": 1.8,
        "lines.markersize": 5,
        "patch.edgecolor": PAPER,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "image.cmap": "cividis",  # even steps in brightness, also for the colour-blind
    }


def _matplotlib() -> Any:
    """The package, also where MPLBACKEND names a window system that it does not know: our figures need none."""
    try:
        import matplotlib
    except ValueError:
        if "MPLBACKEND" not in os.environ:
            raise
        unknown = os.environ.pop("MPLBACKEND")
        for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
            del sys.modules[name]  # the half of it that was imported
        try:
            import matplotlib
        finally:
            os.environ["MPLBACKEND"] = unknown
    return matplotlib


@contextmanager
def use() -> Iterator[None]:
    """matplotlib in our style inside the block, as it was after it."""
    matplotlib = _matplotlib()
    with matplotlib.rc_context(_settings()):
        yield


def apply() -> None:
    """matplotlib in our style from here on: for notebooks, where pyplot draws."""
    matplotlib = _matplotlib()
    matplotlib.rcParams.update(_settings())


def figure(width: float = 1.0, height: float = 1.0) -> Any:
    """An empty figure, `width` and `height` in units of the standard size; needs no display and keeps no state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(WIDTH * width, HEIGHT * height))
    FigureCanvasAgg(made)
    return made


def percent_axis(axis: Any) -> None:
    """Show fractions of 1 as percent on this axis."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, symbol=" %", decimals=None))
