"""The gallery, and a page for each method from its own card of facts."""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from generate import charts, text
from refimpl import methods, record
from refimpl.estimator import Estimator
from refimpl.lab.errors import LabError
from refimpl.lab.text import duration


def write(root: Path, out: Path, bench: Mapping[str, Any] | None) -> None:
    found = [(slug, methods.module(slug)) for slug in methods.slugs()]
    for slug, module in found:
        (out / "methods").mkdir(parents=True, exist_ok=True)
        (out / "methods" / f"{slug}.md").write_text(_page(root, out, slug, module, bench), encoding="utf-8")
    (out / "methods" / "index.md").write_text(_gallery(root, out, found), encoding="utf-8")
    (out / "results.md").write_text(_verdicts(root, found), encoding="utf-8")


def _results(root: Path, slug: str) -> dict[str, Any] | None:
    file = root / "docs" / "results" / f"{slug}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def count(root: Path) -> dict[str, int]:
    """How many claims have each verdict, over all methods."""
    found: dict[str, int] = {}
    for slug in methods.slugs():
        for entry in (_results(root, slug) or {"claims": []})["claims"]:
            found[entry["verdict"]] = found.get(entry["verdict"], 0) + 1
    return found


# ---------------------------------------------------------------- gallery


def _gallery(root: Path, out: Path, found: list) -> str:
    lines = [
        "---",
        "hide-toc: true",
        "---",
        "# Methods",
        "",
        "One card a paper: what it says, what was measured here, how to run it. Also as a table: {doc}`all claims and "
        "their verdicts <../results>`.",
        "",
        "```{toctree}",
        ":hidden:",
        "",
        *(slug for slug, _ in found),
        "```",
    ]
    families: dict[str, list] = {}
    for slug, module in found:
        families.setdefault(module.PAPER.family, []).append((slug, module))
    for family, members in sorted(families.items()):
        lines += ["", f"## {FAMILIES.get(family, family.replace('_', ' ').capitalize())}", "", '<div class="gallery">']
        lines += [_card(root, out, slug, module) for slug, module in members]
        lines += ["</div>", ""]
    return "\n".join(lines)


FAMILIES = {
    "local": "Local learning",
    "spiking": "Spiking networks",
    "memory": "Training with less memory",
    "graph": "Graphs",
}


def _card(root: Path, out: Path, slug: str, module: Any) -> str:
    paper, results = module.PAPER, _results(root, slug)
    verdicts = [e["verdict"] for e in results["claims"] if e["verdict"] != "measured"] if results else []
    told = f"{verdicts.count('holds')} of {len(verdicts)} measurements hold" if results else "not measured yet"
    picture = _thumbnail(root, out, slug, results)
    image = f'<img src="../_images/{picture}" alt="" loading="lazy">' if picture else ""
    name = _short_name(module)
    by = f"{_html(paper.authors[0])}{' et al.' * (len(paper.authors) > 1)}, {paper.year}"
    return (
        f'<a class="card" href="{slug}.html">{image}<div class="text"><strong>{name}</strong>'
        f"{_html(paper.idea)}<small>{by} · {told}</small></div></a>"
    )


def _html(plain: str) -> str:
    return plain.replace("&", "&amp;").replace("<", "&lt;")


def learners(module: Any) -> list[type]:
    """The learner classes that a method's module brings."""
    public = [getattr(module, name) for name in getattr(module, "__all__", [])]
    return [c for c in public if inspect.isclass(c) and issubclass(c, Estimator)]


def _short_name(module: Any) -> str:
    """What people call the method: the title of its tutorial up to the colon, else that of the paper."""
    tutorial = Path(__file__).resolve().parents[2] / "tutorials" / f"{module.PAPER.slug}.md"
    found = (
        re.search(r"^# ([^:\n]+)", tutorial.read_text(encoding="utf-8"), re.MULTILINE) if tutorial.exists() else None
    )
    return found[1].strip() if found else module.PAPER.title.split(":")[0]


def _claim(slug: str, id: str) -> Any:
    return next((c for c in record.claims(slug) if c.id == id), None)


def _drawn(
    out: Path, slug: str, entry: Mapping[str, Any], name: str, width: float = 1.0, height: float = 1.0
) -> str | None:
    """Draw a claim's figure from its published numbers; its file name, or None where the claim draws none."""
    claim = _claim(slug, entry["id"])
    values = [m["values"] for m in entry["measured"] if m["values"]]
    if claim is None or claim.draw is None or not values:
        return None
    charts.save(out / "_images" / name, lambda figure: claim.draw(figure, values), width, height)
    return name


def _thumbnail(root: Path, out: Path, slug: str, results: Mapping[str, Any] | None) -> str | None:
    """A curve is worth more than bars: the last claim of the method that draws lines, else any that draws."""
    if results is None:
        return None
    best = None
    for entry in results["claims"]:
        name = _drawn(out, slug, entry, f"thumbnail-{slug}.png", 0.8, 0.8)
        best = name or best
        if name and _is_curve(entry):
            break
    return best


def _is_curve(entry: Mapping[str, Any]) -> bool:
    values = (m["values"] or {} for m in entry["measured"])
    return any(isinstance(v, list) and len(v) > 4 for each in values for v in each.values())


# ---------------------------------------------------------------- one method


def _page(root: Path, out: Path, slug: str, module: Any, bench: Mapping[str, Any] | None) -> str:
    paper, results = module.PAPER, _results(root, slug)
    classes = learners(module)
    parts = [f"# {_short_name(module)}", f"{{.lead}}\n{text.escape(paper.idea)}"]
    facts = [
        ("Paper", f"{text.escape(paper.title)}"),
        ("Authors", text.escape(", ".join(paper.authors))),
        ("Year", str(paper.year)),
        *([("arXiv", f"[{paper.arxiv}](https://arxiv.org/abs/{paper.arxiv})")] if paper.arxiv else []),
        ("Family", FAMILIES.get(paper.family, paper.family)),
        ("Import", ", ".join(f"{{class}}`{c.__name__} <{class_name(c)}>`" for c in classes) or f"`{module.__name__}`"),
        ("Code", f"`{module.__name__.replace('.', '/')}`"),
    ]
    parts.append(text.table(("", ""), [(f"**{k}**", v) for k, v in facts]))
    if (root / "tutorials" / f"{slug}.md").exists():
        parts.append(f"Learn it step by step: {{doc}}`the tutorial <../tutorials/{slug}>`.")
    parts.append("## In the paper's order")
    parts.append(text.prose(module.__doc__))
    parts.append(
        f"## Run it\n\n```text\nrefimpl run {slug}\nrefimpl claims {slug}\nrefimpl bench methods {slug}\n"
        f"refimpl tutorial {slug}\n```"
    )
    trace = _trace(out, slug, module)
    if trace:
        link = f"<a href='{trace}'>A training step, operation by operation</a>"
        parts.append(f"## Step through it\n\n{link}: every array, its formula and its gradient.")
    picture = next(iter(sorted((root / "docs" / "images").glob(f"{slug}*.png"))), None)
    if picture:
        parts.append(f"![What refimpl run {slug} draws](../images/{picture.name})")
    parts.append(_claims(root, out, slug, results))
    parts.append(_parameters(classes))
    parts.append(_race(out, slug, bench))
    return "\n\n".join(p for p in parts if p) + "\n"


def class_name(c: type) -> str:
    """The name under which the API documents a class."""
    import refimpl

    return f"refimpl.{c.__name__}" if c.__name__ in refimpl.__all__ else f"{c.__module__}.{c.__name__}"


def _trace(out: Path, slug: str, module: Any) -> str | None:
    """The step-through page of `refimpl trace SLUG`, where this version has that command and the method such a step."""
    try:
        from refimpl.lab import walk
    except ImportError:
        return None
    target = out / "traces" / f"{slug}.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        walk.run(module, target, None, "auto", quiet=True)
    except LabError as error:  # it has no step that can be shown
        print(f"no step-through page of {slug}: {error}", file=sys.stderr)
        return None
    return f"../traces/{slug}.html"


def _claims(root: Path, out: Path, slug: str, results: Mapping[str, Any] | None) -> str:
    if results is None:
        return f"## Claims\n\nNot measured yet. `refimpl claims {slug}` measures them."
    m = results["machine"]
    lines = [
        "## Claims",
        "",
        f"Measured on {results['date']} with refimpl {results['version']}, "
        f"seeds {', '.join(map(str, results['seeds']))}, "
        f"{duration(results['seconds'])}: {m['cpu']}, {m['cores']} cores, backend {m['backend']}, "
        f"{m['threads']} thread{'s' * (m['threads'] != 1)}. "
        "Thresholds were written down before the first run.",
        "",
        text.table(
            ("claim", "data", "verdict"),
            [
                (f"[{e['id']}](#{_anchor(slug, e)})", e["data"] or "-", text.verdict(e["verdict"]))
                for e in results["claims"]
            ],
        ),
    ]
    for e in results["claims"]:
        where = f" on {e['data']}" if e["data"] else ""
        lines += ["", f"({_anchor(slug, e)})=", f"### {e['id']}{where}", "", text.verdict(e["verdict"]), ""]
        lines += [text.escape(e["sentence"]), "", f"*Threshold:* {text.escape(e['threshold'])}", ""]
        if e["note"]:
            lines += [f"*Came out:* {text.escape(e['note'])}", ""]
        numbers = _numbers(e)
        if numbers:
            lines += [numbers, ""]
        name = _drawn(out, slug, e, "-".join(filter(None, (slug, e["id"], e["data"]))) + ".png")
        if name:
            lines += [f"![{text.escape(e['sentence'])}](../_images/{name})", ""]
    notes = _notes(root, slug)
    if notes:
        lines += ["### What to know when reading these numbers", "", notes]
    return "\n".join(lines)


def _anchor(slug: str, e: Mapping[str, Any]) -> str:
    return "-".join(filter(None, ("claim", slug, e["id"], e["data"])))


def _numbers(entry: Mapping[str, Any]) -> str:
    """The single numbers of a claim's measurement, one row a seed; lists are in the figure."""
    rows = [m for m in entry["measured"] if m["values"]]
    names = [k for k, v in rows[0]["values"].items() if isinstance(v, int | float)] if rows else []
    if not names:
        return ""
    head = ("seed", *(f"`{n}`" for n in names), "seconds")
    body = [(str(m["seed"]), *(_number(m["values"].get(n)) for n in names), f"{m['seconds']:.1f}") for m in rows]
    return text.table(head, body, "r" * len(head))


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def _notes(root: Path, slug: str) -> str:
    """The section of docs/results/README.md about this method."""
    file = root / "docs" / "results" / "README.md"
    found = re.search(
        rf"^## [^\n]*{slug}\.json\n(.*?)(?=^## |\Z)", file.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    return found[1].strip() if found else ""


def _parameters(classes: list[type]) -> str:
    parts = []
    for c in classes:
        rows = [
            (f"`{p.name}`", f"`{p.default!r}`" if p.default is not p.empty else "")
            for p in inspect.signature(c.__init__).parameters.values()
            if p.name != "self"
        ]
        table = text.table(("argument", "default"), rows)
        parts.append(f"### {{class}}`{c.__name__} <{class_name(c)}>`\n\n{text.prose(c.__doc__)}\n\n{table}")
    return "## Hyper-parameters\n\n" + "\n\n".join(parts) if parts else ""


def _race(out: Path, slug: str, bench: Mapping[str, Any] | None) -> str:
    rows = [r for r in (bench or {"rows": []})["rows"] if r["kind"] == "method" and r["name"].split()[0] == slug]
    if not rows:
        return f"## Race\n\nNo race has been published yet. `refimpl bench methods {slug} --against torch` runs it."
    assert bench is not None
    charts.save_speed_up(out / "_images" / f"race-{slug}.png", rows)
    table = text.table(charts.HEAD[:-1], [charts.cells(r)[:-1] for r in rows], "lrrrrr")
    return f"## Race\n\nOne training step. {charts.conditions(bench)}\n\n![Race](../_images/race-{slug}.png)\n\n{table}"


# ---------------------------------------------------------------- all verdicts


def _verdicts(root: Path, found: list) -> str:
    lines = [
        "# Verified claims",
        "",
        "What papers say, measured again. Thresholds stand before the first run; what does not hold is published as "
        "that.",
        "",
    ]
    for slug, module in found:
        entries = (_results(root, slug) or {"claims": []})["claims"]
        rows = []
        for e in entries:
            link = f"[{e['id']}](methods/{slug}.md#{_anchor(slug, e)})"
            where = f"<br>on {e['data']}" if e["data"] else ""
            rows.append((f"{link}{where}", f"{text.verdict(e['verdict'])} {text.escape(e['note'] or '')}"))
        lines += [f"## [{_short_name(module)}](methods/{slug}.md)", ""]
        lines += [text.table(("claim", "came out"), rows) if rows else "Not measured yet.", ""]
    return "\n".join(lines) + "\n"
