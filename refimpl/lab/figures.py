"""Figures of the lab itself; what a method draws it brings along."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from refimpl.record import Score
from refimpl.viz import style

__all__ = ["family", "learning", "png", "roofline", "roofline_size"]

MOST_NAMED = 40  # cases that a chart can name; of more, it shows families


def png(draw: Callable[[Any], None], width: float = 1.0, height: float = 1.0) -> bytes:
    """The PNG of what `draw(figure)` draws, in our style."""
    with style.use():
        figure = style.figure(width, height)
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def learning(figure: Any, results: Sequence[Mapping[str, Any]], score: Score) -> None:
    """For an experiment that brings no drawing: metrics over training, and the scores as bars."""
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
    right.barh(places, [r["score"] for r in results], color=colours)
    right.set_yticks(places, [r["name"] for r in results])
    right.invert_yaxis()
    right.set(title=score.name)
    right.grid(axis="y", visible=False)
    if score.fraction:
        right.set(xlim=(0, 1))
        style.percent_axis(right.xaxis)
    for place, r in zip(places, results):
        note = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
        right.annotate(score.text(r["score"]), (0, place), color=style.on(colours[place]), **note)


def family(name: str) -> str:
    """The family of an operation, as its module is called."""
    from refimpl.backends import operations

    return operations()[name].numpy.__module__.split(".")[-1]


def roofline_size(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Width and height of the chart, in units of the style."""
    named = len(rows) if len(rows) <= MOST_NAMED else 2 * len({family(r["name"]) for r in rows})
    return 1.7, 0.6 + 0.045 * named


def roofline(figure: Any, rows: Sequence[Mapping[str, Any]], outcome: Mapping[str, Any]) -> None:
    """What each body reaches: under the roof of bandwidth and compute, and as a share of its own limit.

    The roof on the left is for working sets that no cache holds; a limit on the right is that of its working set. Few
    cases are named one by one, many by family.
    """
    import numpy as np

    limits, threads = outcome["limits"], outcome["threads"]
    peak, bandwidth = limits["gflops"], limits["copy_gbps"]
    roof, share = figure.subplots(1, 2, width_ratios=(5, 4))
    intensity = [r["flops"] / r["bytes"] for r in rows]
    x = np.geomspace(min(intensity) / 2, max(intensity) * 2, 200)
    roof.plot(x, np.minimum(peak, bandwidth * x), color=style.INK, linewidth=1.2)
    named = len(rows) <= MOST_NAMED
    families = sorted({family(r["name"]) for r in rows}) if not named else []
    places = np.arange(len(rows)) if named else np.array([families.index(family(r["name"])) for r in rows])
    look: dict[str, Any] = {"alpha": 0.8, "markersize": 4} if named else {"alpha": 0.45, "markersize": 3}
    racers = (("numpy", "NumPy", style.MUTED, "s"), ("native", "C core", style.colour(0), "o"))
    for k, (key, label, colour, marker) in enumerate((*racers, ("torch", "PyTorch", style.colour(1), "^"))):
        seconds = [r[f"{key}_s"] for r in rows]
        rate = [r["flops"] / t / 1e9 if t else np.nan for r, t in zip(rows, seconds)]
        limit = [
            r["limit_fraction"] * (r["native_s"] or r["numpy_s"]) / t if t else np.nan for r, t in zip(rows, seconds)
        ]
        if any(seconds):
            roof.plot(intensity, rate, marker, color=colour, label=label, **look)
            share.plot(limit, places + (0 if named else 0.26 * (k - 1)), marker, color=colour, **look)
    for i, (r, at) in enumerate(zip(rows, intensity) if named else ()):
        rate = r["flops"] / (r["native_s"] or r["numpy_s"]) / 1e9
        note = {"xytext": (4, -2), "textcoords": "offset points", "fontsize": 7, "color": style.INK}
        roof.annotate(str(i + 1), (at, rate), **note)
    many = f"{threads} thread{'s' * (threads != 1)}"
    roof.set(
        xscale="log",
        yscale="log",
        xlabel=f"nominal operations a byte      (roof: {peak:.0f} GFLOP/s, copy {bandwidth:.0f} GB/s)",
        ylabel="GFLOP/s",
        title=f"{outcome['machine']['cpu']}, {many}, float32",
    )
    roof.legend(loc="lower right", markerscale=1 if named else 1.6)
    if named:
        share.set_yticks(places, [f"{r['name']} {r['shape']}  {i + 1}" for i, r in enumerate(rows)], fontsize=7.5)
    else:
        share.set_yticks(range(len(families)), families, fontsize=8)
        share.set_ylim(-0.6, len(families) - 0.4)
    share.invert_yaxis()
    share.axvline(1, color=style.INK, linewidth=1.2)
    what = "by operation" if named else "by family, a point a case"
    share.set(xscale="log", xlabel="share of the limit (1: as fast as the machine allows)", title=what)
