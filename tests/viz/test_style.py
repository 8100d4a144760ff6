import subprocess
import sys

import pytest

from refimpl.viz import style
from tests.viz.pages import contrast


def test_ink_is_readable_on_paper_and_every_line_is_seen():
    assert contrast(style.INK, style.PAPER) > 7 and contrast(style.MUTED, style.PAPER) > 4.5
    assert all(contrast(c, style.PAPER) > 2 for c in style.PALETTE)
    assert style.colour(8) == style.colour(0) and len(set(style.PALETTE)) == 8


def test_text_on_every_colour_stands_out():
    assert all(contrast(style.on(c), c) >= 4.5 for c in (*style.PALETTE, style.BASELINE))
    assert style.on(style.PALETTE[3]) == "#000000" and style.on(style.INK) == style.PAPER


def test_the_style_holds_inside_the_block_only():
    import matplotlib

    before = matplotlib.rcParams["axes.facecolor"]
    with style.use():
        assert matplotlib.rcParams["axes.facecolor"] == style.PAPER
        figure = style.figure(height=2)
        assert figure.get_size_inches().tolist() == [6.4, 7.2]
    assert matplotlib.rcParams["axes.facecolor"] == before


def test_the_style_alone_loads_no_matplotlib_and_figures_no_pyplot():
    code = (
        "import sys; from refimpl.viz import style; print('matplotlib' in sys.modules); style.use().__enter__(); "
        "style.figure(); print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=_root())
    assert done.stdout.split() == ["False", "False"]


def _root():
    from pathlib import Path

    return Path(__file__).resolve().parents[2]


def test_bars_show_every_seed():
    from refimpl.viz.bars import seed_bars

    figure = style.figure()
    ax = figure.subplots()
    seed_bars(ax, [{"a": 0.5, "b": 0.25}, {"a": 0.7, "b": 0.25}], {"a": "one", "b": "other"}, ("b",))
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([0.6, 0.25])
    assert [list(line.get_xdata()) for line in ax.lines] == [[0.5, 0.7], [0.25, 0.25]]
    assert [text.get_text() for text in ax.texts] == ["60.0 %", "25.0 %"]
    assert ax.get_xlim() == (0, 1) and ax.get_yticklabels()[0].get_text() == "one"
