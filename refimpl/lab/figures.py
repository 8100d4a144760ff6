"""Figures of the lab itself; what a method draws it brings along."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from refimpl.record import Score
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
        note = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "color": style.PAPER}
        right.annotate(score.text(r["score"]), (0, place), **note)


def roofline(figure: Any, rows: Sequence[Mapping[str, Any]], outcome: Mapping[str, Any]) -> None:
    """What each body reaches: under the roof of bandwidth and compute, and as a share of its own limit.

    The roof on the left is for working sets that no cache holds; a limit on the right is that of its working set.
    """
    import numpy as np

    limits, threads = outcome["limits"], outcome["threads"]
    peak, bandwidth = limits["gflops"], limits["copy_gbps"]
    roof, share = figure.subplots(1, 2, width_ratios=(5, 4))
    intensity = [r["flops"] / r["bytes"] for r in rows]
    x = np.geomspace(min(intensity) / 2, max(intensity) * 2, 200)
    roof.plot(x, np.minimum(peak, bandwidth * x), color=style.INK, linewidth=1.2)
    racers = (("numpy", "NumPy", style.MUTED, "s"), ("native", "C core", style.colour(0), "o"))
    places = range(len(rows))
    for key, label, colour, marker in (*racers, ("torch", "PyTorch", style.colour(1), "^")):
        seconds = [r[f"{key}_s"] for r in rows]
        rate = [r["flops"] / t / 1e9 if t else np.nan for r, t in zip(rows, seconds)]
        limit = [
            r["limit_fraction"] * (r["native_s"] or r["numpy_s"]) / t if t else np.nan for r, t in zip(rows, seconds)
        ]
        if any(seconds):
            roof.plot(intensity, rate, marker, color=colour, label=label, alpha=0.8, markersize=4)
            share.plot(limit, places, marker, color=colour, alpha=0.8)
    for i, (r, at) in enumerate(zip(rows, intensity)):
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
    roof.legend(loc="lower right")
    share.set_yticks(places, [f"{r['name']} {r['shape']}  {i + 1}" for i, r in enumerate(rows)], fontsize=7.5)
    share.invert_yaxis()
    share.axvline(1, color=style.INK, linewidth=1.2)
    share.set(xscale="log", xlabel="share of the limit (1: as fast as the machine allows)", title="by operation")
