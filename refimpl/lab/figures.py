"""Figures of the lab itself; what a method draws it brings along."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from refimpl.viz import style

__all__ = ["learning", "png", "roofline"]


def png(draw: Callable[[Any], None], width: float = 1.0, height: float = 1.0) -> bytes:
    """The PNG of what `draw(figure)` draws, in our style."""
    with style.use():
        figure = style.figure(width, height)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def learning(figure: Any, results: Sequence[Mapping[str, Any]]) -> None:
    """For an experiment that brings no drawing: metrics over training, and test accuracy as bars."""
    names = list(dict.fromkeys(name for r in results for m in r["history"] for name in m))
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    if names:
        for i, r in enumerate(results):
            points = [(u + 1, m[names[0]]) for u, m in enumerate(r["history"]) if names[0] in m]
            if points:
                kind = {"color": style.BASELINE, "linestyle": "--"} if r["role"] == "baseline" else {}
                left.plot(*zip(*points), label=r["name"], **({"color": style.colour(i)} | kind))
        left.set(xlabel="unit of training", title=f"{names[0]} while training")
        left.legend()
    colours = [style.BASELINE if r["role"] == "baseline" else style.colour(i) for i, r in enumerate(results)]
    places = range(len(results))
    right.barh(places, [r["test_accuracy"] for r in results], color=colours)
    right.set_yticks(places, [r["name"] for r in results])
    right.invert_yaxis()
    right.set(xlim=(0, 1), title="test accuracy")
    right.grid(axis="y", visible=False)
    style.percent_axis(right.xaxis)
    for place, r in zip(places, results):
        right.text(0.02, place, f"{100 * r['test_accuracy']:.1f} %", va="center", color=style.PAPER)
