"""Bars that show every seed: what most claims about accuracy draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from refimpl.viz import style

__all__ = ["seed_bars"]


def seed_bars(
    ax: Any,
    values: Sequence[Mapping[str, Any]],
    names: Mapping[str, str],
    baselines: Sequence[str] = (),
    quantity: str = "test accuracy",
    title: str = "",
    whole: bool = True,
) -> None:
    """The mean over the seeds as a bar with its number, each seed as a circle.

    `values` has one mapping a seed; `names` says which of its fractions to draw, from above, and under which label.
    Names in `baselines` are grey; the others have a colour each as long as the palette lasts, else one for all. With
    `whole` the axis goes up to 100 %.
    """
    own = len(names) <= len(style.PALETTE)
    for i, (name, label) in enumerate(names.items()):
        colour = style.BASELINE if name in baselines else style.colour(i if own else 0)
        each = [v[name] for v in values]
        mean = float(np.mean([100 * e for e in each]))  # as the notes of the claims compute it, to the last digit shown
        ax.barh(label, mean / 100, color=colour, height=0.6)
        ax.plot(each, [label] * len(each), "o", color=style.INK, markersize=4, markerfacecolor="none")
        ax.annotate(f"{mean:.1f} %", (0.01, i), color=style.on(colour), va="center")
    if not ax.yaxis_inverted():  # axes that share it have it from the first
        ax.invert_yaxis()
    ax.set(xlabel=f"{quantity} (circles: seeds)", title=title)
    if whole:
        ax.set_xlim(0, 1)
    ax.grid(axis="y", visible=False)
    style.percent_axis(ax.xaxis)
