"""A page for each operation: equation, derivation, NumPy body and C body side by side, error bound, race."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from generate import charts, text
from refimpl.backends import operations

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
        charts.save_speed_up(out / "_images" / f"race-{family}.png", mine)
        parts.append(f"{charts.conditions(bench)}\n\n![Speed of the C core](../_images/race-{family}.png)")
        parts.append(text.table(charts.HEAD, [charts.cells(r) for r in mine], "lrrrrrr"))
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
    kernels = {n: _kernels(family, n) for n in pair}
    c_file = f", C in `native/src/{_c_file(kernels[name])}`" if any(kernels[name]) and _c_file(kernels[name]) else ""
    parts.append(f"Family {{doc}}`{family}`. NumPy in `{file}`{c_file}.")
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
        parts.append(_bodies(every[n], kernels[n]))
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


def _bodies(op: Any, kernels: list[str]) -> str:
    code = _without_docstring(inspect.getsource(op.numpy))
    numpy = f":::{{container}} body\nNumPy\n\n```python\n{code.rstrip()}\n```\n:::"
    in_c = c_source(kernels)
    told = "C\n\nNo body in C: NumPy serves every backend."
    if in_c:
        told = f"C, `native/src/{_c_file(kernels)}`\n\n```c\n{in_c.rstrip()}\n```"
    return f"::::{{container}} bodies\n{numpy}\n\n:::{{container}} body\n{told}\n:::\n::::"


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


# ---------------------------------------------------------------- finding the C body


@cache
def _mirrors(family: str) -> dict[str, list[str]]:
    """Kernels that the mirror of each operation calls, read from refimpl/ops/native/<family>.py."""
    import refimpl.ops.native as native

    tree = ast.parse((Path(native.__file__).parent / f"{family}.py").read_text(encoding="utf-8"))
    kernels: dict[str, str] = {}
    uses: dict[str, set[str]] = {}
    serves: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            for target, value in _pairs(node.targets[0], node.value):
                if (
                    isinstance(value, ast.Call)
                    and getattr(value.func, "id", "") == "kernel"
                    and isinstance(value.args[0], ast.Constant)
                ):
                    kernels[target] = value.args[0].value
        if isinstance(node, ast.FunctionDef):
            uses[node.name] = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            for d in node.decorator_list:
                if isinstance(d, ast.Call) and getattr(d.func, "attr", "") == "mirror":
                    serves[d.func.value.attr] = node.name  # type: ignore[attr-defined]
    found = {}
    for op, function in serves.items():
        seen, todo = set(), [function]
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += [u for u in uses.get(name, ()) if u in uses]
        names = {kernels[u] for f in seen for u in uses.get(f, ()) if u in kernels}
        found[op] = sorted(names, key=lambda k: (k != op, k))
    return found


def _pairs(target: ast.expr, value: ast.expr) -> list[tuple[str, ast.expr]]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        return [(t.id, v) for t, v in zip(target.elts, value.elts) if isinstance(t, ast.Name)]
    return [(target.id, value)] if isinstance(target, ast.Name) else []


def _kernels(family: str, name: str) -> list[str]:
    found = _mirrors(family).get(name, [])
    if name in found:  # its own kernel; variants for special layouts are left to the reader of the file
        return [name, *(k for k in found if k.startswith(name) and k != name and not k.endswith(("_plain", BACK)))][:1]
    return found[:2] or [name]


ROOT = Path(__file__).resolve().parents[2]


@cache
def _sources() -> dict[str, str]:
    return {f.name: f.read_text(encoding="utf-8") for f in sorted((ROOT / "native" / "src").glob("*.c"))}


def _c_file(kernels: list[str]) -> str:
    for kernel in kernels:
        for name, source in _sources().items():
            if re.search(rf"^\w.* RI\({kernel}\)\(", source, re.MULTILINE):
                return name
    return ""


def c_source(kernels: list[str], lines: int = 130) -> str:
    """The kernels, after the functions and macros of the same file that they use, as far as they fit into `lines`."""
    file = _c_file(kernels)
    if not file:
        return ""
    blocks = _blocks(_sources()[file])
    by_name = {name: n for n, (name, _) in enumerate(blocks) if name}
    wanted: list[int] = []
    todo = [by_name[k] for k in kernels if k in by_name]
    while todo and sum(blocks[n][1].count("\n") + 2 for n in wanted) < lines:
        n = todo.pop(0)
        if n in wanted:
            continue
        if wanted and sum(blocks[k][1].count("\n") + 2 for k in [*wanted, n]) > lines:
            continue
        wanted.append(n)
        todo += [
            by_name[w]
            for w in dict.fromkeys(re.findall(r"\b[A-Za-z_]\w*\b", blocks[n][1]))
            if w in by_name and by_name[w] < n
        ]
    return "\n\n".join(blocks[n][1] for n in sorted(wanted))


def _blocks(source: str) -> list[tuple[str, str]]:
    """The file's definitions, each with its name (a kernel's without RI) and the comment above it."""
    lines = source.split("\n")
    found: list[tuple[str, str]] = []
    comment: list[str] = []
    i = 0
    while i < len(lines):
        line = lines[i]
        if line.startswith("/*"):
            begun = i
            while "*/" not in lines[i]:
                i += 1
            comment = lines[begun : i + 1]
            i += 1
            continue
        if line.startswith("#define"):
            begun = i
            while lines[i].endswith("\\"):
                i += 1
            name = re.match(r"#define\s+(\w+)", line)
            found.append((name[1] if name else "", "\n".join([*comment, *lines[begun : i + 1]])))
            comment = []
        elif line and not line.startswith(("#", " ", "}", "\t")):
            begun = i
            text_ = line
            while not (
                lines[i].startswith("}")
                or (lines[i].rstrip().endswith(("}", ";", ")")) and "{" not in text_)
                or _one_line(text_)
            ):
                i += 1
                if i >= len(lines):
                    break
                text_ += "\n" + lines[i]
            name = re.search(r"\bRI(?:_INTERNAL)?\((\w+)\)\s*\(", text_) or re.match(r"[\w\s*]*?\b(\w+)\s*\(", text_)
            found.append((name[1] if name else "", "\n".join([*comment, text_])))
            comment = []
        elif not line:
            comment = [] if i and not lines[i - 1] else comment
        i += 1
    return found


def _one_line(code: str) -> bool:
    """A definition that opens and closes on its line."""
    return "\n" not in code and code.count("{") == code.count("}") > 0
