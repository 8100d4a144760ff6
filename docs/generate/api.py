"""The API reference: every public name with its docstring, under the name by which it is imported."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path
from typing import Any

import refimpl
from generate import operations as op_pages
from generate import text
from refimpl.backends import operations

SKIP = ("refimpl.ops.", "refimpl.__main__", "refimpl.data.digits")  # operations have pages of their own
FIRST = ("refimpl", "refimpl.ops", "refimpl.nn", "refimpl.optim", "refimpl.data", "refimpl.models", "refimpl.baselines")


def modules() -> list[str]:
    """Public modules: those users start from, then the rest."""
    found = ["refimpl"]
    for info in pkgutil.walk_packages(refimpl.__path__, "refimpl."):
        hidden = any(p.startswith("_") for p in info.name.split(".")[1:])
        if not hidden and not info.name.startswith(SKIP):
            found.append(info.name)
    return sorted(found, key=lambda m: (FIRST.index(m) if m in FIRST else len(FIRST), m))


def public(module: Any) -> list[str]:
    """Public names of a module, as it declares them, else those it defines."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__, key=lambda n: (n.lower(), n))
    own = [
        n
        for n, v in vars(module).items()
        if not n.startswith("_") and getattr(v, "__module__", None) == module.__name__
    ]
    return own


def write(root: Path, out: Path) -> dict[str, str]:
    """Write the pages; where each module's page is."""
    folder = out / "api"
    folder.mkdir(parents=True, exist_ok=True)
    seen: dict[int, str] = {}
    own: dict[str, list[str]] = {}  # names that are documented on a module's page, because it is the first to show them
    for name in modules():
        module = importlib.import_module(name)
        own[name] = [n for n in public(module) if not _elsewhere(getattr(module, n), seen)]
        for n in own[name]:
            if _documented(value := getattr(module, n)):
                seen[id(value)] = f"{name}.{n}"
    inner = [m for m in modules() if not own[m] and m.rpartition(".")[0] in own and not m.startswith("refimpl.methods")]
    pages = [m for m in modules() if m not in inner]
    rows = []
    for name in pages:
        parts = [i for i in inner if i.rpartition(".")[0] == name]
        (folder / f"{name}.md").write_text(_module(name, own[name], seen, parts), encoding="utf-8")
        rows.append((f"{{doc}}`{name}`", text.escape(text.summary(importlib.import_module(name).__doc__))))
    toctree = "```{toctree}\n:hidden:\n\n" + "\n".join(f"{m.removeprefix('refimpl.')} <{m}>" for m in pages) + "\n```"
    head = (
        "---\nhide-toc: true\n---\n# API reference\n\nEvery public name, under the module it is imported from. "
        "Operations have {doc}`pages of their own <../operations/index>`."
    )
    listed = f":::{{container}} stacked\n{text.table(('module', ''), rows)}\n:::"
    (folder / "index.md").write_text(f"{head}\n\n{toctree}\n\n{listed}\n", encoding="utf-8")
    return {name: f"{name}.html" for name in pages}


def _elsewhere(value: Any, seen: dict[int, str]) -> bool:
    """Whether a public value has its entry on another page."""
    if inspect.ismodule(value) or (callable(value) and getattr(value, "name", None) in operations()):
        return True
    return _documented(value) and id(value) in seen


def _module(name: str, own: list[str], seen: dict[int, str], inner: list[str]) -> str:
    module = importlib.import_module(name)
    parts = [f"# {name}", f"```{{py:module}} {name}\n```", text.prose(module.__doc__)]
    if name == "refimpl.ops":
        rows = [
            (family, ", ".join(f"{{func}}`{n} <refimpl.ops.{n}>`" for n in names))
            for family, names in op_pages.families().items()
        ]
        parts.append("Each has a page with equation, gradient and both bodies.")
        parts.append(text.table(("family", "operations"), rows))
        return "\n\n".join(parts) + "\n"
    parts += [_entry(name, n, getattr(module, n)) for n in own]
    rows = []
    for n in public(module):
        value = getattr(module, n)
        if n not in own and id(value) in seen:
            rows.append((f"`{n}`", f"{{py:{'class' if inspect.isclass(value) else 'func'}}}`{seen[id(value)]}`"))
    if rows:
        parts.append("Also here:\n\n" + text.table(("name", "documented as"), rows))
    for other in inner:
        parts.append(f"## Inside: {other}\n\n{text.prose(importlib.import_module(other).__doc__)}")
    return "\n\n".join(p for p in parts if p) + "\n"


def _documented(value: Any) -> bool:
    return inspect.isclass(value) or inspect.isroutine(value)


def _directive(kind: str, head: str, body: str, depth: int, options: str = "") -> str:
    fence = "`" * (6 - depth)
    return f"{fence}{{py:{kind}}} {head}\n{options}\n{body}\n{fence}"


def _entry(module: str, name: str, value: Any) -> str:
    option = f":module: {module}\n"
    if inspect.isclass(value):
        return _directive("class", f"{name}{text.signature(value)}", _class(value), 0, option)
    if inspect.isroutine(value):
        return _directive("function", f"{name}{text.signature(value)}", text.prose(value.__doc__), 0, option)
    shown = repr(value)
    return _directive(
        "data", name, f"`{shown}`" if len(shown) < 200 and "`" not in shown else type(value).__name__, 0, option
    )


def _class(value: type) -> str:
    doc = inspect.getdoc(value) if value.__doc__ else ""
    if doc and doc.startswith(f"{value.__name__}("):  # made by dataclass, says no more than the signature
        doc = ""
    bases = [b.__name__ for b in value.__bases__ if b is not object and not b.__name__.startswith("_")]
    parts = [text.prose(doc), f"Bases: {', '.join(f'`{b}`' for b in bases)}" if bases else ""]
    for owner in (
        value,
        *(b for b in value.__mro__[1:] if b.__name__.startswith("_") and b.__module__.startswith("refimpl")),
    ):
        for n, member in vars(owner).items():
            if n.startswith("_") or (owner is not value and n in vars(value)):
                continue
            bare = member.__func__ if isinstance(member, staticmethod | classmethod) else member
            doc = getattr(bare, "__doc__", None) or _inherited(value, n)
            if isinstance(member, property):
                parts.append(_directive("property", n, text.prose(doc), 1))
            elif inspect.isroutine(bare):
                kind = (
                    "classmethod"
                    if isinstance(member, classmethod)
                    else "staticmethod"
                    if isinstance(member, staticmethod)
                    else "method"
                )
                skip = not isinstance(member, staticmethod)
                parts.append(_directive(kind, f"{n}{text.signature(bare, skip)}", text.prose(doc), 1))
    return "\n\n".join(p for p in parts if p)


def _inherited(value: type, name: str) -> str:
    """The docstring of the method that this one stands for."""
    return next((m.__doc__ for b in value.__mro__[1:] if (m := vars(b).get(name)) is not None and m.__doc__), "") or ""
