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


def roofline(figure: Any, rows: Sequence[Mapping[str, Any]], outcome: Mapping[str, Any]) -> None:
    """Rate over arithmetic intensity: what each body reaches, under the roof of bandwidth and compute."""
    import numpy as np

    limits = outcome["limits"]
    peak, bandwidth = limits["gflops"], limits["copy_gbps"]
    axes = figure.subplots()
    intensity = [r["flops"] / r["bytes"] for r in rows]
    x = np.geomspace(min(intensity) / 2, max(intensity) * 2, 200)
    axes.plot(x, np.minimum(peak, bandwidth * x), color=style.INK, linewidth=1.2)
    axes.annotate(f"{peak:.0f} GFLOP/s", (x[-1], peak), ha="right", va="bottom", color=style.MUTED)
    axes.annotate(f"copy {bandwidth:.0f} GB/s", (x[0], bandwidth * x[0]), ha="left", va="bottom", color=style.MUTED)
    racers = (("numpy", "NumPy", style.MUTED, "s"), ("native", "C core", style.colour(0), "o"))
    for key, label, colour, marker in (*racers, ("torch", "PyTorch", style.colour(1), "^")):
        points = [(r["flops"] / r["bytes"], r["flops"] / r[f"{key}_s"] / 1e9) for r in rows if r[f"{key}_s"]]
        if points:
            axes.plot(*zip(*points), marker, color=colour, label=label, alpha=0.85)
    for r, at in zip(rows, intensity):
        best = max(r["flops"] / r[k] / 1e9 for k in ("numpy_s", "native_s", "torch_s") if r[k])
        axes.annotate(
            r["name"], (at, best), xytext=(0, 5), textcoords="offset points", fontsize=6.5, rotation=40, color=style.INK
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="arithmetic intensity (nominal operations a byte)",
        ylabel="GFLOP/s",
        title=f"Operations under the roof: {outcome['machine']['cpu']}, {outcome['threads']} threads, float32",
    )
    axes.legend(loc="lower right")
