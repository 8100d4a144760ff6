"""Charts of the race: speed-ups and the roofline, drawn from docs/results/bench.json."""

from __future__ import annotations

import json
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
    """How many times as fast as NumPy (and PyTorch) the C core is, a bar a case; the interquartile range as a line."""
    from matplotlib.ticker import NullLocator

    ax = figure.subplots()
    racers = [
        r for r in (("numpy", "NumPy", 0, ""), ("torch", "PyTorch", 3, "//")) if any(x[f"{r[0]}_s"] for x in rows)
    ]
    height = 0.8 / max(1, len(racers))
    for j, (key, name, colour, hatch) in enumerate(racers):
        for i, row in enumerate(rows):
            if not row[f"{key}_s"] or not row["native_s"]:
                continue
            ratio = row[f"{key}_s"] / row["native_s"]
            at = i + (j - (len(racers) - 1) / 2) * height
            first = i == next(n for n, r in enumerate(rows) if r[f"{key}_s"] and r["native_s"])
            ax.barh(
                at,
                ratio,
                height * 0.9,
                color=style.colour(colour),
                hatch=hatch,
                label=f"against {name}" if first else None,
            )
            spread = (
                ratio
                * ((row[f"{key}_iqr_s"] or 0) / row[f"{key}_s"] + (row["native_iqr_s"] or 0) / row["native_s"])
                / 2
            )
            ax.plot([ratio - spread, ratio + spread], [at, at], color=style.INK, linewidth=1)
            ax.annotate(
                f"{ratio:.1f}",
                (max(ratio, 1) + spread, at),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
    ax.axvline(1, color=style.INK, linewidth=1.2)
    ax.set_yticks(range(len(rows)), [label(r, wrap=True) for r in rows], fontsize=8)
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="time of the other / time of the C core (longer is better; 1: equally fast)")
    top = max(
        (r[f"{k}_s"] / r["native_s"] for r in rows for k, *_ in racers if r[f"{k}_s"] and r["native_s"]), default=1
    )
    low = min(
        (r[f"{k}_s"] / r["native_s"] for r in rows for k, *_ in racers if r[f"{k}_s"] and r["native_s"]), default=1
    )
    ax.set_xlim(min(0.7, low * 0.8), max(2, top * 1.6))
    ticks = [
        t
        for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
        if ax.get_xlim()[0] <= t <= ax.get_xlim()[1]
    ]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.grid(axis="y", visible=False)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)


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
