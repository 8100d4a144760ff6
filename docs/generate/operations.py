"""A page for each operation: equation, derivation, NumPy body and C body side by side, error bound, race."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from generate import charts, text
from refimpl.backends import operations
from refimpl.lab import csource
from refimpl.lab.anatomy import Source

BACK = "_backward"
TITLES = {
    "activation": "Activations",
    "conv": "Convolutions",
    "denoise": "Label denoising",
    "embedding": "Embeddings and dropout",
    "graph": "Attention on graphs",
    "heads": "Heads of attention",
    "loss": "Losses",
    "matmul": "Matrix products",
    "norm": "Normalisation",
    "pool": "Pooling",
    "recurrent": "Recurrent networks",
    "reduce": "Reductions",
    "rotary": "Rotary positions",
    "segment": "Segments",
    "sparse": "Sparse products",
    "spiking": "Spiking neurons",
    "update": "Updates",
    "upsample": "Enlarging maps",
}


def title(family: str) -> str:
    return TITLES.get(family, family.capitalize())


def families() -> dict[str, list[str]]:
    """Names of the operations by module, a forward operation once and without its backward."""
    found: dict[str, list[str]] = {}
    every = operations()
    for name, op in every.items():
        if not (name.endswith(BACK) and name.removesuffix(BACK) in every):
            found.setdefault(op.numpy.__module__.split(".")[-1], []).append(name)
    return dict(sorted(found.items()))


def write(root: Path, out: Path, bench: Mapping[str, Any] | None) -> None:
    folder = out / "operations"
    folder.mkdir(parents=True, exist_ok=True)
    bounds = _bounds()
    for family, names in families().items():
        (folder / f"{family}.md").write_text(_family(root, out, family, names, bench), encoding="utf-8")
        for name in names:
            (folder / f"{page(name)}.md").write_text(_page(root, family, name, bounds, bench), encoding="utf-8")
    (folder / "index.md").write_text(_index(), encoding="utf-8")


def page(name: str) -> str:
    """The document of an operation: its name, unless a family is called the same."""
    return f"op-{name}" if name in families() else name


# ---------------------------------------------------------------- index and families


def _index() -> str:
    lines = [
        "---",
        "hide-toc: true",
        "---",
        "# Operations",
        "",
        f"The mathematics: {len(operations())} pure functions, forward and backward, each defined by a NumPy body and "
        "mirrored in C. A page shows both bodies side by side, with the equation and where it comes from.",
        "",
        "```{toctree}",
        ":hidden:",
        "",
        *families(),
        "```",
        "",
    ]
    for family, names in families().items():
        lines.append(f"- {{doc}}`{family}`: {', '.join(f'{{doc}}`{n} <{page(n)}>`' for n in names)}")
    return "\n".join(lines) + "\n"


def _module(family: str) -> Any:
    return inspect.getmodule(operations()[families()[family][0]].numpy)


def _family(root: Path, out: Path, family: str, names: list[str], bench: Mapping[str, Any] | None) -> str:
    parts = [f"# {title(family)}", text.prose(_module(family).__doc__)]
    parts.append("```{toctree}\n:hidden:\n\n" + "\n".join(page(n) for n in names) + "\n```")
    every = operations()
    rows = [
        (
            f"{{doc}}`{n} <{page(n)}>`",
            text.escape(text.summary(every[n].numpy.__doc__)),
            "yes" if n + BACK in every else "-",
        )
        for n in names
    ]
    parts.append(text.table(("operation", "", "gradient"), rows))
    mine = [r for r in (bench or {"rows": []})["rows"] if r["kind"] == "operation" and _forward(r["name"]) in names]
    parts.append("## Race")
    if mine:
        assert bench is not None
        parts.append(charts.conditions(bench))
        parts += charts.race(out / "_images" / f"race-{family}.png", f"../_images/race-{family}.png", mine)
    else:
        parts.append(f"None of these is published yet. `refimpl bench ops {' '.join(names[:3])}` races them here.")
    return "\n\n".join(parts) + "\n"


def _forward(name: str) -> str:
    stem = name.removesuffix(BACK)
    return stem if stem in operations() else name


# ---------------------------------------------------------------- one operation


def _page(root: Path, family: str, name: str, bounds: Mapping[str, str], bench: Mapping[str, Any] | None) -> str:
    every = operations()
    pair = [n for n in (name, name + BACK) if n in every]
    parts = [f"---\nhide-toc: true\n---\n# {name}", '<span class="wide-page"></span>']
    file = f"{every[name].numpy.__module__.replace('.', '/')}.py"
    in_c = _c_source(name)
    parts.append(f"Family {{doc}}`{family}`. NumPy in `{file}`{f', C in `{in_c.file}`' if in_c else ''}.")
    for n in pair:
        parts.append("## Definition" if n == name else "## Gradient")
        head = f"````{{py:function}} {n}{text.signature(every[n].numpy)}\n:module: refimpl.ops"
        parts.append(f"{head}\n\n{text.prose(every[n].numpy.__doc__)}\n````")
    derivation = _derivation(root, family, name)
    if derivation:
        parts.append(f"## Derivation\n\n{derivation}")
    parts.append("## The two bodies")
    parts.append(
        "The NumPy body is the definition; tests hold the C body equal to it within an error bound. In C, `real` is "
        "float or double, `RI(name)` the kernel's name for that type and instruction set."
    )
    for n in pair:
        if len(pair) > 1:
            parts.append("### Forward" if n == name else "### Backward")
        parts.append(_bodies(every[n]))
    told = [f"`{n}`: {text.escape(bounds[n])}" for n in pair if bounds.get(n)]
    if told:
        parts.append("## How far two correct bodies may differ\n\n" + "\n\n".join(told))
    mine = [r for r in (bench or {"rows": []})["rows"] if r["kind"] == "operation" and _forward(r["name"]) == name]
    if mine:
        parts.append("## Race\n\n" + text.table(charts.HEAD, [charts.cells(r) for r in mine], "lrrrrrr"))
    return "\n\n".join(parts) + "\n"


def _derivation(root: Path, family: str, name: str) -> str:
    """The section "## name" of docs/maths/<family>.md."""
    file = root / "docs" / "maths" / f"{family}.md"
    if not file.exists():
        return ""
    found = re.search(
        rf"^## [^\n]*\b{name}\b[^\n]*\n(.*?)(?=^## |\Z)", file.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    return found[1].strip() if found else ""


def _bounds() -> dict[str, str]:
    """What the tests say about the error bound of each operation ({} where they or what they need is not there)."""
    try:
        from tests import harness, strategies  # noqa: F401
    except ImportError:
        return {}
    found = getattr(harness, "BOUNDS", {})
    return {name: inspect.cleandoc(f.__doc__ or "").replace("\n", " ") for name, f in found.items()}


def _bodies(op: Any) -> str:
    code = _without_docstring(inspect.getsource(op.numpy))
    numpy = f":::{{container}} body\nNumPy\n\n```python\n{code.rstrip()}\n```\n:::"
    in_c = _c_source(op.name)
    told = "C\n\nNo body in C: NumPy serves every backend."
    if in_c:
        told = f"C, `{in_c.file}`\n\n```c\n{c_text(in_c)}\n```"
    return f"::::{{container}} bodies\n{numpy}\n\n:::{{container}} body\n{told}\n:::\n::::"


def _c_source(name: str) -> Source | None:
    return csource.c_source(name) if "native" in operations()[name].bodies else None


def c_text(source: Source) -> str:
    """The lines, with an empty one where some are left out."""
    found: list[str] = []
    for before, number, line in zip((source.numbers[0] - 1, *source.numbers), source.numbers, source.lines):
        found += [line] if number == before + 1 else ["", line]
    return "\n".join(found)


def _without_docstring(code: str) -> str:
    """The docstring stands on the page already."""
    function = ast.parse(code).body[0]
    first = function.body[0]  # type: ignore[attr-defined]
    if not (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    ):
        return code
    lines = code.split("\n")
    return "\n".join(lines[: first.lineno - 1] + lines[first.end_lineno :])
