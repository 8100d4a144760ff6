"""Charts of the race: speed-ups and the roofline, drawn from docs/results/bench.json."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from generate.text import table
from refimpl.lab import figures
from refimpl.lab.text import short
from refimpl.viz import style

Row = Mapping[str, Any]
NO_BREAK = "\N{NO-BREAK SPACE}"  # a number and its unit stay on one line


def load(root: Path, name: str = "bench") -> dict[str, Any] | None:
    """What `refimpl bench --json docs/results/bench.json` wrote, None where it has not been published."""
    file = root / "docs" / "results" / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def title(row: Row) -> str:
    """A row's name; of a method's step without the method, where the step says it too."""
    slug, _, step = row["name"].partition(" ")
    said = row["kind"] == "method" and slug.replace("_", "") in "".join(filter(str.isalnum, step)).lower()
    return step if said else row["name"]


def label(row: Row, wrap: bool = False) -> str:
    """Name and shape, on two lines where they are long."""
    long = wrap and len(title(row)) + len(row["shape"]) > 30
    return f"{title(row)}{chr(10) if long else '  '}{row['shape']}"


def speed_up(figure: Any, rows: Sequence[Row]) -> None:
    """How many times as fast as NumPy (and PyTorch) the C core is, a bar a case, a line for the quartiles."""
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
    _plain_ticks(ax)
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
        save(path, lambda figure: figures.roofline(figure, rows, outcome), *figures.roofline_size(rows))
    return bool(rows)


def by_family(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Cases of operations, by family."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(figures.family(row["name"]), []).append(row)
    return dict(sorted(found.items()))


def save_strips(path: Path, groups: Mapping[str, Sequence[Row]]) -> None:
    """How many times as fast as NumPy (and PyTorch) the C core is: a point a case, a line for the median of a group."""

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        for j, (key, name, colour, _) in enumerate(RACERS):
            for i, mine in enumerate(groups.values()):
                ratios = sorted(r[f"{key}_s"] / r["native_s"] for r in mine if r[f"{key}_s"] and r["native_s"])
                if not ratios:
                    continue
                at, label = i + 0.36 * (j - 0.5), f"against {name}" if i == 0 else None
                shape = {"marker": "os"[j], "linestyle": "", "markersize": 4, "alpha": 0.55}
                ax.plot(ratios, [at] * len(ratios), color=style.colour(colour), label=label, **shape)
                middle = math.exp(sum(map(math.log, _middle(ratios))) / len(_middle(ratios)))
                ax.plot([middle] * 2, [at - 0.17, at + 0.17], color=style.INK, linewidth=1.6)
        ax.axvline(1, color=style.INK, linewidth=1.2)
        ax.set_yticks(range(len(groups)), [f"{name} ({len(mine)})" for name, mine in groups.items()], fontsize=8)
        ax.set(ylim=(len(groups) - 0.4, -0.6), xscale="log")
        _plain_ticks(ax)
        ax.set_xlabel("time of the other / time of the C core (further right is better; 1: equally fast)")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)

    save(path, draw, 1.35, 0.45 + 0.075 * len(groups))


MOST_BARS = 24  # cases of a chart with a bar for each


def race(path: Path, picture: str, rows: Sequence[Row]) -> list[str]:
    """Chart and table of operations, as Markdown: bars of few cases, strips of many, whose table is folded."""
    cases = table(HEAD, [cells(r) for r in rows], "lrrrrrr")
    if len(rows) <= MOST_BARS:
        save_speed_up(path, rows)
        return [f"![Speed of the C core]({picture})", cases]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["name"], []).append(row)
    save_strips(path, groups)
    told = "A point is a case, a black line the median of an operation."
    return [told, f"![Speed of the C core]({picture})", f":::{{dropdown}} All {len(rows)} cases\n{cases}\n:::"]


def _middle(ordered: Sequence[float]) -> Sequence[float]:
    """The middle one of an odd number, the middle two of an even one."""
    return ordered[(len(ordered) - 1) // 2 : len(ordered) // 2 + 1]


def _plain_ticks(ax: Any) -> None:
    """Ticks of a logarithmic axis of ratios: 1, 2, 5, 10, ... as they are read."""
    from matplotlib.ticker import NullLocator

    low, high = ax.get_xlim()
    ticks = [t for t in (0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if low <= t <= high]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.xaxis.set_minor_locator(NullLocator())


HEAD = ("case", "NumPy", "C core", "PyTorch", "C against NumPy", "C against PyTorch", "share of the limit")


def cells(row: Row) -> list[str]:
    """One row of the table of times."""

    def ratio(key: str) -> str:
        return f"{row[f'{key}_s'] / row['native_s']:.1f} ×" if row[f"{key}_s"] and row["native_s"] else "-"

    limit = f"{100 * row['limit_fraction']:.0f} %" if row.get("limit_fraction") else "-"
    times = [short(row[f"{key}_s"]) for key in ("numpy", "native", "torch")]
    numbers = [*times, ratio("numpy"), ratio("torch"), limit]
    return [f"{title(row)} {row['shape']}", *(n.replace(" ", NO_BREAK) for n in numbers)]


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
