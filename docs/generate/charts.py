"""Charts of the race: speed-ups and the roofline, drawn from docs/results/bench.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refimpl.lab import figures
from refimpl.lab.text import short
from refimpl.viz import style

Row = Mapping[str, Any]


def load(root: Path) -> dict[str, Any] | None:
    """What `refimpl bench --json docs/results/bench.json` wrote, None where it has not been published."""
    file = root / "docs" / "results" / "bench.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def label(row: Row, wrap: bool = False) -> str:
    """Name and shape, on two lines where they are long."""
    long = wrap and len(row["name"]) + len(row["shape"]) > 30
    return f"{row['name']}{chr(10) if long else '  '}{row['shape']}"


def speed_up(figure: Any, rows: Sequence[Row]) -> None:
    """How many times as fast as NumPy (and PyTorch) the C core is, a bar a case, a line for the quartiles."""
    from matplotlib.ticker import NullLocator

    ax = figure.subplots()
    racers = [r for r in RACERS if any(row[f"{r[0]}_s"] and row["native_s"] for row in rows)]
    height = 0.8 / max(1, len(racers))
    ends = [1.0]
    for j, (key, name, colour, hatch) in enumerate(racers):
        kept = [(i, row) for i, row in enumerate(rows) if row[f"{key}_s"] and row["native_s"]]
        at = [i + (j - (len(racers) - 1) / 2) * height for i, _ in kept]
        ratios = [row[f"{key}_s"] / row["native_s"] for _, row in kept]
        spreads = [ratio * _spread(row, key) for ratio, (_, row) in zip(ratios, kept)]
        ax.barh(at, ratios, height * 0.9, color=style.colour(colour), hatch=hatch, label=f"against {name}")
        for y, ratio, spread in zip(at, ratios, spreads):
            ax.plot([ratio - spread, ratio + spread], [y, y], color=style.INK, linewidth=1)
            ends += [ratio, ratio + spread]
            note = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
            ax.annotate(f"{ratio:.1f}", (max(ratio + spread, 1), y), **note)
    ax.axvline(1, color=style.INK, linewidth=1.2)
    ax.set_yticks(range(len(rows)), [label(r, wrap=True) for r in rows], fontsize=8)
    ax.set(ylim=(len(rows) - 0.4, -0.6), xlim=(min(0.7, min(ends) * 0.8), max(2.0, max(ends) * 1.35)), xscale="log")
    low, high = ax.get_xlim()
    ticks = [t for t in (0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if low <= t <= high]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("time of the other / time of the C core (longer is better; 1: equally fast)")
    ax.grid(axis="y", visible=False)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)


RACERS = (("numpy", "NumPy", 0, ""), ("torch", "PyTorch", 3, "//"))  # key, name, colour, hatching


def _spread(row: Row, key: str) -> float:
    """Half the interquartile range of a ratio of two times, as a share of the ratio."""
    shares = ((row[f"{k}_iqr_s"] or 0) / row[f"{k}_s"] for k in (key, "native"))
    return math.hypot(*shares) / 2


def save(path: Path, draw: Any, width: float = 1.0, height: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(figures.png(draw, width, height))


def save_speed_up(path: Path, rows: Sequence[Row]) -> None:
    save(path, lambda figure: speed_up(figure, rows), 1.35, 0.4 + 0.15 * len(rows))


def save_roofline(path: Path, outcome: Mapping[str, Any]) -> bool:
    rows = [r for r in outcome["rows"] if r["flops"] and r["bytes"]]
    if rows:
        save(path, lambda figure: figures.roofline(figure, rows, outcome), 1.7, 0.6 + 0.045 * len(rows))
    return bool(rows)


HEAD = ("case", "NumPy", "C core", "PyTorch", "C against NumPy", "C against PyTorch", "share of the limit")


def cells(row: Row) -> list[str]:
    """One row of the table of times."""

    def ratio(key: str) -> str:
        return f"{row[f'{key}_s'] / row['native_s']:.1f} ×" if row[f"{key}_s"] and row["native_s"] else "-"

    limit = f"{100 * row['limit_fraction']:.0f} %" if row.get("limit_fraction") else "-"
    times = [short(row[f"{key}_s"]) for key in ("numpy", "native", "torch")]
    return [f"{row['name']} {row['shape']}", *times, ratio("numpy"), ratio("torch"), limit]


def conditions(outcome: Mapping[str, Any]) -> str:
    """What the numbers were measured on, in a sentence."""
    m = outcome["machine"]
    against = f", PyTorch {outcome['torch']}" if outcome.get("torch") else ""
    many = f"{outcome['threads']} thread{'s' * (outcome['threads'] != 1)}"
    return (
        f"Measured on {outcome['date']} with refimpl {outcome['version']}{against}: {m['cpu']}, {m['cores']} cores, "
        f"C core at level {m['core']}, {many}, float32. Medians; all racers in one process, in turns, on the same "
        "arrays."
    )
