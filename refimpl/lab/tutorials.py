"""`refimpl tutorial`: the tutorials as they stand in `tutorials/<slug>.md`, found, executed, opened in Jupyter.

A tutorial is a MyST text notebook: Markdown, with the code in fenced blocks that begin with ```{code-cell}. This module
reads as much of that format as the tutorials use: executing one needs no notebook software, opening one Jupyter alone.

Where they are: in `tutorials/` beside the package in a clone, in `share/refimpl/` of the installation otherwise.
"""

from __future__ import annotations

import ast
import importlib.metadata
import linecache
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refimpl._names import expected
from refimpl.lab import files
from refimpl.lab.errors import RunError, UsageError
from refimpl.lab.machine import package_version

__all__ = [
    "QUICK",
    "Cell",
    "cells",
    "execute",
    "jupyter",
    "names",
    "notebook",
    "path",
    "results",
    "title",
    "write_notebook",
]

QUICK = "REFIMPL_TUTORIAL_QUICK"  # environment variable: a tutorial that finds it set trains less and draws less
_CLONE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Cell:
    """One piece of a tutorial: `code` or Markdown, the line of the file that its text begins on, its tags."""

    code: bool
    line: int
    source: str
    tags: tuple[str, ...] = ()


# ---------------------------------------------------------------- where they are


def _installed(folder: str, suffix: str) -> dict[str, Path]:
    """Files that the installation put into share/refimpl/<folder>, by stem."""
    try:
        listed = importlib.metadata.files("refimpl") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    inside = f"share/refimpl/{folder}/"
    found = [Path(str(f.locate())) for f in listed if inside in f.as_posix() and f.suffix == suffix]
    return {f.stem: f.resolve() for f in found if f.exists()}


def _files() -> dict[str, Path]:
    here = {f.stem: f for f in (_CLONE / "tutorials").glob("*.md")}
    return here or _installed("tutorials", ".md")


def names() -> list[str]:
    """Names of the tutorials: the general ones by number, then one a method."""
    return sorted(_files())


def path(name: str) -> Path:
    """The file of a tutorial; "gradients-by-hand" finds "00-gradients-by-hand". Raises UsageError for another name."""
    found = _files()
    if not found:
        raise RunError("no tutorials are installed; they are in the folder tutorials/ of the sources")
    for stem, file in found.items():
        if name == stem or re.fullmatch(r"\d\d-" + re.escape(name), stem):
            return file
    raise UsageError(f"no tutorial named {name!r}, {expected(name, sorted(found))}")


def results(slug: str) -> dict[str, Any]:
    """The published measurements of a method's claims, as `refimpl claims` wrote them. Raises RunError without any."""
    import json

    file = _CLONE / "docs" / "results" / f"{slug}.json"
    if not file.exists():
        file = _installed("results", ".json").get(slug, file)
    if not file.exists():
        raise RunError(f"no results of {slug} are published yet; measure them: refimpl claims {slug}")
    return json.loads(file.read_text(encoding="utf-8"))


# ---------------------------------------------------------------- reading

_FENCE = re.compile(r"(`{3,})\{code-cell\}")


def cells(text: str) -> list[Cell]:
    """The cells of a tutorial in order. Raises ValueError for a code cell that never ends."""
    lines = text.split("\n")
    i = _after_front_matter(lines)
    made: list[Cell] = []
    prose: list[str] = []
    begun = i + 1

    def flush() -> None:
        source = "\n".join(prose).strip("\n")
        if source.strip():
            skipped = next(n for n, l in enumerate(prose) if l.strip())
            made.append(Cell(False, begun + skipped, source))
        prose.clear()

    fence = ""  # of an ordinary block of code, in which nothing is a cell
    while i < len(lines):
        line = lines[i]
        opened = None if fence else _FENCE.match(line)
        if not opened:
            if not fence and (block := re.match(r"`{3,}|~{3,}", line)):
                fence = block[0]
            elif fence and line.strip() == fence:
                fence = ""
            prose.append(line)
            i += 1
            continue
        flush()
        end = next((j for j in range(i + 1, len(lines)) if lines[j].rstrip() == opened[1]), None)
        if end is None:
            raise ValueError(f"line {i + 1}: this code cell has no end")
        tags, first = _options(lines, i + 1, end)
        made.append(Cell(True, first + 1, "\n".join(lines[first:end]), tags))
        i = end + 1
        begun = i + 1
    flush()
    return made


def _after_front_matter(lines: list[str]) -> int:
    if lines[0].strip() != "---":
        return 0
    return next((i for i in range(1, len(lines)) if lines[i].strip() == "---"), -1) + 1


def _options(lines: list[str], first: int, end: int) -> tuple[tuple[str, ...], int]:
    """Tags of a code cell whose options may stand before its code (":tags: [a, b]"), and the line of the code."""
    tags: tuple[str, ...] = ()
    while first < end and (option := re.match(r":([\w-]+):(.*)", lines[first])):
        if option[1] == "tags":
            tags = tuple(re.findall(r"[\w-]+", option[2]))
        first += 1
    return tags, first


def title(text: str) -> str:
    """The first heading."""
    found = next((c for c in cells(text) if not c.code), None)
    heading = re.search(r"^# +(.+)$", found.source, re.MULTILINE) if found else None
    return heading[1] if heading else ""


# ---------------------------------------------------------------- executing


def execute(file: Path, tell: Callable[[str], None] = lambda message: None) -> float:
    """Run the code cells of a file in order, in one namespace; figures are drawn and closed. Returns seconds.

    Raises RunError with the place in the file and the traceback for a cell that fails, and for a cell tagged
    raises-exception that does not.
    """
    os.environ.setdefault("MPLBACKEND", "agg")
    text = file.read_text(encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": "__main__", "display": print}
    code = [c for c in cells(text) if c.code]
    started = time.perf_counter()
    for n, cell in enumerate(code, start=1):
        tell(f"cell {n} of {len(code)}, line {cell.line}")
        wanted = "raises-exception" in cell.tags
        try:
            _run(cell, file, namespace)
            _finish_figures()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if wanted:
                continue
            where = next(
                (f.lineno for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename == str(file)), None
            )
            where = getattr(error, "lineno", None) or where or cell.line
            told = "".join(traceback.format_exception(error)).rstrip()
            raise RunError(f"{file.name}, line {where}: {type(error).__name__}: {error}\n{told}") from None
        if wanted:
            raise RunError(f"{file.name}, line {cell.line}: this cell is to raise an error and did not")
    return time.perf_counter() - started


def _run(cell: Cell, file: Path, namespace: dict[str, Any]) -> None:
    """Lines count as in the file, so that a traceback shows the tutorial's own lines."""
    tree = ast.parse("\n" * (cell.line - 1) + cell.source, str(file))
    linecache.checkcache(str(file))
    exec(compile(tree, str(file), "exec"), namespace)


def _finish_figures() -> None:
    if "matplotlib.pyplot" in sys.modules:
        import matplotlib.pyplot as plt

        for number in plt.get_fignums():
            plt.figure(number).canvas.draw()
        plt.close("all")


# ---------------------------------------------------------------- for Jupyter


def notebook(text: str) -> dict[str, Any]:
    """The tutorial as a notebook (nbformat 4): what only Sphinx understands becomes plain Markdown and HTML."""
    made: list[dict[str, Any]] = []
    for n, cell in enumerate(cells(text)):
        entry: dict[str, Any] = {"id": f"cell-{n}", "metadata": {"tags": list(cell.tags)} if cell.tags else {}}
        if cell.code:
            entry |= {"cell_type": "code", "source": cell.source, "outputs": [], "execution_count": None}
        else:
            entry |= {"cell_type": "markdown", "source": _plain(cell.source)}
        made.append(entry)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _plain(source: str) -> str:
    """:::{dropdown} blocks become <details>, other ::: blocks quotations with a bold title, roles code."""
    # the name of an equation: "$$ (name)" becomes a tag that any renderer shows, {eq}`name` refers to it
    source = re.sub(r"^\$\$ \(([\w-]+)\)$", r"\\tag{\1}\n$$", source, flags=re.MULTILINE)
    source = re.sub(r"\{eq\}`([\w-]+)`", r"(\1)", source)
    out: list[str] = []
    stack: list[tuple[str, str]] = []
    for line in source.split("\n"):
        opened = re.match(r"(:{3,})\{([\w-]+)\}\s*(.*)", line)
        if opened:
            kind, heading = opened[2], opened[3] or opened[2].capitalize()
            stack.append((opened[1], kind))
            out += [f"<details><summary>{heading}</summary>", ""] if kind == "dropdown" else [f"> **{heading}**", ">"]
        elif stack and line.rstrip() == stack[-1][0]:
            _, kind = stack.pop()
            out += ["", "</details>"] if kind == "dropdown" else []
        elif stack and re.match(r":[\w-]+:", line):
            continue  # an option of the directive
        else:
            line = re.sub(r"\{[\w:+-]+\}`~?([^`<]+?)(?: <[^`]*>)?`", r"`\1`", line)
            out.append(f"> {line}" if stack and stack[-1][1] != "dropdown" else line)
    return "\n".join(out)


def write_notebook(file: Path, folder: Path) -> tuple[Path, bool]:
    """Write a tutorial as a notebook into `folder`, where none of its name is there: that may hold a reader's work.

    Returns its path and whether it is new.
    """
    target = folder / f"{file.stem}.ipynb"
    if target.exists():
        return target, False
    files.make_folder(folder)
    files.write_json(target, notebook(file.read_text(encoding="utf-8")))
    return target, True


def jupyter() -> list[str]:
    """The command that opens a notebook here. Raises RunError, saying what to install, where there is none."""
    for package, module in (("jupyterlab", "jupyterlab"), ("notebook", "notebook")):
        if package_version(package) is not None:
            return [sys.executable, "-m", module]
    raise RunError("Jupyter is not installed: pip install jupyterlab. Without it: refimpl tutorial NAME --run")
