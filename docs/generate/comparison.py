"""The page of `refimpl compare`: one network trained by every rule, from the published numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median, pstdev
from typing import Any

from generate import charts, text
from refimpl.record import SIGNALS
from refimpl.viz import style

FILES = "comparison-*.json"
TITLES = {"mnist": "MNIST", "digits": "the digits"}


def write(root: Path, out: Path) -> None:
    found = [
        json.loads(f.read_text(encoding="utf-8")) for f in sorted((root / "docs" / "results").glob(FILES), reverse=True)
    ]
    lines = [
        "---\nhide-toc: true\n---\n# Rules compared",
        "",
        "One network, the same data, passes and size of batch: what does an update have to see, and what does that "
        "cost? Each rule trains the same multilayer perceptron with its own learning rate, the best of three on a "
        "tenth of the training data; then with every seed on all of it. Papers compare at sizes and budgets of their "
        "own; this is what the rules are worth side by side, small. Repeat it with `refimpl compare`.",
        "",
    ]
    for outcome in found:
        lines += _part(out, outcome)
    lines += [
        "## What an update may see",
        "",
        "Beyond the input and output of the layer itself, the update of a hidden layer's weights depends on:",
        "",
        *(f"- **{name}**: {meaning}" for name, meaning in SIGNALS.items()),
        "",
        "That no update depends on anything else is tested: for each method everything that it may not see is changed, "
        "and the update stays the same bit for bit.",
        "",
    ]
    (out / "comparison.md").write_text("\n".join(lines), encoding="utf-8")


def _part(out: Path, outcome: Mapping[str, Any]) -> list[str]:
    rules = sorted(outcome["rules"], key=lambda r: -mean(r["scores"]))
    name, network = outcome["data"], outcome["network"]
    charts.save(out / "_images" / f"comparison-{name}.png", lambda figure: _draw(figure, rules), 1.3, 1.5)
    columns = [signal for signal in SIGNALS if any(signal in r["signals"] for r in rules)]
    rows = []
    for r in rules:
        score = f"{100 * mean(r['scores']):.1f} ± {100 * pstdev(r['scores']):.1f}"
        cost = (f"{median(r['seconds']):.2f}", f"{r['step_bytes'] / 1e6:.1f}")
        marks = ["●" if signal in r["signals"] else "" for signal in columns]
        rows.append((text.escape(r["name"]), score.replace(" ", "\u00a0"), *cost, *marks))
    notes = [f"- **{text.escape(r['name'])}**: {text.escape(r['note'])}" for r in rules if r["note"]]
    head = ("rule", "test accuracy, %", "s a pass", "MB a step", *columns)
    hidden = "-".join(map(str, network["hidden"]))
    return [
        f"## On {TITLES.get(name, name)}",
        "",
        f"{outcome['sizes']}; hidden layers of {hidden}, {network['epochs']} passes in batches of "
        f"{network['batch_size']}, seeds 0 to {outcome['seeds'] - 1} (± is their deviation). Processor time on one "
        f"thread; memory is the most that arrays of one step on {outcome['step_samples']} samples hold at once, beyond "
        "weights, gradients and optimiser state.",
        "",
        f"![Accuracy of each rule, and accuracy over memory](_images/comparison-{name}.png)",
        "",
        f":::{{container}} rules\n{text.table(head, rows)}\n:::",
        "",
        "Not as in the common network:",
        "",
        *notes,
        "",
    ]


def _draw(figure: Any, rules: Sequence[Mapping[str, Any]]) -> None:
    bars, scatter = figure.subplots(1, 2, width_ratios=(1.35, 1))
    for i, r in enumerate(rules):
        colour = style.colour(0 if r["role"] == "method" else 7)
        at = 100 * mean(r["scores"])
        bars.barh(i, at, color=colour, alpha=0.85 if r["role"] == "method" else 0.45, height=0.7)
        bars.plot([100 * s for s in r["scores"]], [i] * len(r["scores"]), "o", color=style.INK, markersize=2.5)
        scatter.plot(r["step_bytes"] / 1e6, at, "os"[r["role"] == "baseline"], color=colour, markersize=5)
        scatter.annotate(str(i + 1), (r["step_bytes"] / 1e6, at), xytext=(3, 3), textcoords="offset points", fontsize=7)
    bars.set_yticks(range(len(rules)), [f"{r['name']}  {i + 1}" for i, r in enumerate(rules)], fontsize=7)
    bars.invert_yaxis()
    lowest = min(100 * min(r["scores"]) for r in rules)
    bars.set(xlabel="test accuracy, % (dots: seeds)", xlim=(max(0, 5 * int(lowest / 5) - 5), 100))
    scatter.set(xlabel="memory of a step, MB", ylabel="test accuracy, %")
    scatter.set_xlim(left=0)
    scatter.plot([], [], "o", color=style.colour(0), label="methods")
    scatter.plot([], [], "s", color=style.colour(7), label="baselines")
    scatter.legend(fontsize=7, loc="lower right")
