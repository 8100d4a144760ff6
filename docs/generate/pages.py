"""Everything that Sphinx reads, put together in one folder."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from generate import api, charts, comparison, house, methods, operations, text
from refimpl import methods as registry
from refimpl.backends import operations as registered
from refimpl.lab import tutorials


def write(root: Path, out: Path) -> None:
    (out / "_images").mkdir(parents=True)
    bench = charts.load(root)
    _prose(root, out)
    _tutorials(root, out)
    methods.write(root, out, bench)
    comparison.write(root, out)
    operations.write(root, out, bench)
    where = api.write(root, out)
    _architecture(out, where)
    _benchmarks(root, out, bench)
    _start(root, out)


def _prose(root: Path, out: Path) -> None:
    """What is written by hand: architecture, contributing, pictures; links follow the files to their new places."""
    shutil.copytree(root / "docs" / "images", out / "images")
    for file in sorted((root / "docs").glob("*.md")):
        (out / file.name).write_text(_moved(file.read_text(encoding="utf-8")), encoding="utf-8")
    contributing = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (out / "contributing.md").write_text(_moved(contributing), encoding="utf-8")


def _moved(markdown: str) -> str:
    markdown = re.sub(r"\]\(docs/([\w./-]+\.md)\)", r"](\1)", markdown)
    return re.sub(r"\]\(CONTRIBUTING\.md\)", "](contributing.md)", markdown)


def _tutorials(root: Path, out: Path) -> None:
    folder = out / "tutorials"
    folder.mkdir()
    files = sorted((root / "tutorials").glob("*.md"))
    general = [f for f in files if re.match(r"\d\d-", f.stem)]
    own = [f for f in files if f not in general]
    for file in files:
        shutil.copy(file, folder)
    lines = [
        "---\nhide-toc: true\n---\n# Tutorials\n",
        "Each runs from top to bottom, here and in the tests: every number and figure below a cell was computed when "
        "this site was built. "
        "`refimpl tutorial NAME` opens one in Jupyter.\n",
    ]
    for caption, group in (("Start here", general), ("One for each method", own)):
        if group:
            lines.append(f"## {caption}\n")
            rows = [(f"{{doc}}`{f.stem}`", _opening(f)) for f in group]
            lines.append(text.table(("tutorial", "begins with"), rows) + "\n")
    lines.append("```{toctree}\n:hidden:\n\n" + "\n".join(f.stem for f in (*general, *own)) + "\n```\n")
    (folder / "index.md").write_text("\n".join(lines), encoding="utf-8")


def _opening(file: Path) -> str:
    """The first sentence after the title."""
    first = next(c for c in tutorials.cells(file.read_text(encoding="utf-8")) if not c.code).source
    after = next(p for p in re.split(r"\n\s*\n", first) if not p.startswith("#")).replace("\n", " ")
    sentence = re.match(r".*?[.?!](?=\s|$)", after)
    return (sentence[0] if sentence else after).replace("|", "\\|")


def _architecture(out: Path, where: dict[str, str]) -> None:
    """The hand-written text, with the map of what is really imported above it."""
    file = out / "architecture.md"
    title, _, rest = file.read_text(encoding="utf-8").partition("\n")
    targets = {house.part(m): f"api/{page}" for m, page in reversed(list(where.items())) if m.count(".") <= 1}
    targets["methods"], targets["ops"] = "methods/index.html", "operations/index.html"
    drawn = house.svg(targets)
    told = (
        "The map is drawn from the imports in the source: a line leads from a part to one that it imports, thicker "
        "where more modules do; none leads upwards. Boxes are links, and tell their imports when pointed at."
    )
    file.write_text(f"{title}\n\n{drawn}\n\n{told}\n{rest}", encoding="utf-8")


def _benchmarks(root: Path, out: Path, bench: dict | None) -> None:
    parts = ["---\nhide-toc: true\n---\n# Benchmarks"]
    if bench is None:
        parts.append(
            "No race has been published with this version. On your own machine:\n\n"
            "```text\nrefimpl bench ops --against torch --json bench.json --plot roofline.png\n```"
        )
    else:
        parts.append(charts.conditions(bench))
        parts += _race(out, bench, "")
        one = charts.load(root, "bench-1-thread")
        if one is not None:
            parts.append(f"## On one thread\n\n{charts.conditions(one)}")
            parts += _race(out, one, "-1-thread", "#")
    (out / "benchmarks.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _race(out: Path, bench: dict, name: str, deeper: str = "") -> list[str]:
    """Charts and tables of one race; those of operations by family, folded."""
    parts = []
    steps = [r for r in bench["rows"] if r["kind"] != "operation"]  # of networks and of methods
    ops = [r for r in bench["rows"] if r["kind"] == "operation"]
    if steps:
        charts.save_speed_up(out / "_images" / f"race-methods{name}.png", steps)
        chart = f"![Training steps: speed of the C core](_images/race-methods{name}.png)"
        parts.append(f"{deeper}## Training steps\n\n{chart}")
        parts.append(text.table(charts.HEAD[:-1], [charts.cells(r)[:-1] for r in steps], "lrrrrr"))
    if charts.save_roofline(out / "_images" / f"roofline{name}.png", bench):
        limits = bench["limits"]
        parts.append(
            f"{deeper}## Under the roof\n\n"
            f"Limits of the same run: {limits['gflops']:.0f} GFLOP/s ({limits['gflops_from']}), "
            f"{limits['copy_gbps']:.0f} GB/s ({limits['copy_gbps_from']}). What a roofline says: "
            f"{{doc}}`tutorials/02-fast`.\n\n![Roofline](_images/roofline{name}.png)"
        )
    if ops:
        charts.save_strips(out / "_images" / f"race-families{name}.png", charts.by_family(ops))
        chart = f"![Operations by family: speed of the C core](_images/race-families{name}.png)"
        parts.append(f"{deeper}## Operations\n\nA point is a case, a black line the median of a family.\n\n{chart}")
        for family, rows in charts.by_family(ops).items():
            cases = text.table(charts.HEAD, [charts.cells(r) for r in rows], "lrrrrrr")
            title = f"{operations.title(family)} ({len(rows)} case{'s' * (len(rows) != 1)})"
            parts.append(f":::{{dropdown}} {title}\n{{doc}}`operations/{family}`\n\n{cases}\n:::")
    return parts


def _start(root: Path, out: Path) -> None:
    verdicts = methods.count(root)
    measured = sum(verdicts.values())
    n = len(registry.slugs())
    picture = "images/noprop-digits.png"
    readme = (root / "README.md").read_text(encoding="utf-8")
    example = re.search(r"## Ten lines\n\n(```python\n.*?```)", readme, re.DOTALL)
    (out / "index.md").write_text(
        f"""---
hide-toc: true
---
# refimpl

{{.lead}}
Deep-learning papers about learning with, around and without back-propagation, that you can read, step through,
import and race. Every algorithm is written twice: in NumPy for the eye, in C for the clock. Every gradient is derived
by hand and proved by a test; the claims of each paper are measured again, and published whether they hold or not.

![One figure of one run: NoProp on the digits, from noise to label]({picture})

`refimpl run noprop` trains three variants of one paper and their baselines in less than a minute, and draws this.

::::{{grid}} 1 2 3 5
:gutter: 3

:::{{grid-item-card}} Learn
:link: tutorials/index
:link-type: doc

From the chain rule to a method of your own. Every page runs.
:::

:::{{grid-item-card}} {n} method{"s" * (n != 1)}
:link: methods/index
:link-type: doc

A page each: idea, code in the paper's order, claims, race.
:::

:::{{grid-item-card}} {len(registered())} operations
:link: operations/index
:link-type: doc

Equation, derivation, NumPy and C side by side.
:::

:::{{grid-item-card}} {measured} measurements
:link: results
:link-type: doc

{verdicts.get("holds", 0)} hold, {verdicts.get("does not hold", 0)} do not hold here.
:::

:::{{grid-item-card}} Rules compared
:link: comparison
:link-type: doc

One network by every rule: accuracy, time, memory, and what an update may see.
:::
::::

## Ten lines

{example[1] if example else ""}

## Two commands

From a clean clone, with Python 3.10 or newer and a C compiler:

```text
make demo     builds, trains NoProp on the embedded digits, prints a table and the path of a figure
make test     builds, runs the tests
```

```{{toctree}}
:hidden:
:maxdepth: 2

tutorials/index
methods/index
operations/index
results
comparison
benchmarks
architecture
api/index
contributing
```
""",
        encoding="utf-8",
    )
