"""The drawn map of the house: its floors as rows, its parts as boxes, the imports that are really there as lines."""

from __future__ import annotations

from collections import Counter
from html import escape

from tests import test_house

WIDTH, ROW, LEFT = 1000, 92, 40
TITLES = {
    0: "C core, disk",
    1: "which body runs",
    2: "the mathematics",
    3: "layers, optimisers, data",
    4: "contracts, architectures, baselines",
    5: "papers, figures",
    6: "running things",
    7: "the command",
}
# what a box is called, by module prefix; other parts are boxes under their own names
ALIAS = {
    "refimpl": "import refimpl",
    "refimpl._native": "native/ (C)",
    "refimpl.__main__": "cli",
    "refimpl.ops.native": "ops.native",
}


def part(module: str) -> str:
    """The box that a module belongs to."""
    if module in ALIAS:
        return ALIAS[module]
    if module.startswith("refimpl.ops.native"):
        return "ops.native"
    return module.split(".")[1]


def imports() -> tuple[dict[str, int], Counter, Counter]:
    """Floor of each box, number of modules in it, and how many imports lead from box to box."""
    floors: dict[str, int] = {"native/ (C)": 0}
    size: Counter = Counter()
    edges: Counter = Counter()
    for module, path in test_house.modules():
        box = part(module)
        floors.setdefault(box, test_house.floor(module))
        size[box] += 1
        for target in test_house.imports(path):
            if part(target) != box and module != "refimpl":
                edges[box, part(target)] += 1
    edges["backends", "native/ (C)"] += 1  # loaded by name, when refimpl is imported
    for box in {b for pair in edges for b in pair}:
        floors.setdefault(box, 0)
    return floors, size, edges


def svg(targets: dict[str, str]) -> str:
    """The map; `targets` says where a box links to."""
    floors, size, edges = imports()
    rows: dict[int, list[str]] = {}
    for box, floor in floors.items():
        rows.setdefault(floor, []).append(box)
    top = max(rows)
    place: dict[str, tuple[float, float, float]] = {}
    height = (top + 1) * ROW + 10
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Floors of refimpl and the imports between them">'
    ]
    for floor, boxes in sorted(rows.items()):
        y = (top - floor) * ROW + 8
        title = escape(TITLES.get(floor, ""))
        parts.append(f'<rect class="floor" x="0" y="{y}" width="{WIDTH}" height="{ROW - 10}" rx="8"/>')
        parts.append(f'<text class="label" x="10" y="{y + 18}">{floor}  {title}</text>')
        wide = sum(_wide(b) for b in boxes)
        gap = (WIDTH - LEFT - wide) / (len(boxes) + 1)
        x = LEFT + gap
        for box in sorted(boxes, key=_order):
            place[box] = (x, y + 30, _wide(box))
            x += _wide(box) + gap
    for (a, b), n in sorted(edges.items()):
        (xa, ya, wa), (xb, yb, wb) = place[a], place[b]
        if floors[a] == floors[b]:
            continue
        x1, y1, x2, y2 = xa + wa / 2, ya + 38, xb + wb / 2, yb
        bend = (y2 - y1) * 0.5
        line = f"M{x1:.0f},{y1:.0f} C{x1:.0f},{y1 + bend:.0f} {x2:.0f},{y2 - bend:.0f} {x2:.0f},{y2:.0f}"
        told = f"<title>{escape(a)} imports {escape(b)}: {n}</title>"
        parts.append(f'<path class="edge" stroke-width="{1 + min(3.0, n / 8):.1f}" d="{line}">{told}</path>')
    for box, (x, y, w) in place.items():
        below = sorted(b for (a, b) in edges if a == box)
        many = f"{size[box]} module{'s' * (size[box] != 1)}" if size[box] else "kernels"
        body = (
            f"<title>{escape(box)}: imports {escape(', '.join(below)) or 'nothing of ours'}</title>"
            f'<rect class="box" x="{x:.0f}" y="{y}" width="{w}" height="38" rx="6"/>'
            f'<text class="name" x="{x + w / 2:.0f}" y="{y + 17}" text-anchor="middle">{escape(box)}</text>'
            f'<text class="note" x="{x + w / 2:.0f}" y="{y + 31}" text-anchor="middle">{many}</text>'
        )
        parts.append(f'<a href="{targets[box]}">{body}</a>' if box in targets else f"<g>{body}</g>")
    parts.append("</svg>")
    return '<div class="house">' + "".join(parts) + "</div>"


def _wide(box: str) -> int:
    return max(86, 9 * len(box) + 18)


def _order(box: str) -> tuple:
    first = (
        "data",
        "nn",
        "optim",
        "record",
        "estimator",
        "models",
        "baselines",
        "methods",
        "viz",
        "import refimpl",
        "ops",
        "ops.native",
    )
    return (first.index(box) if box in first else len(first), box)
