"""From docstrings and signatures to MyST Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any


def escape(text: str) -> str:
    """Plain text as Markdown; what stands in backticks is code there too."""
    parts = re.split(r"(``[^`]+``|`[^`\n]+`)", text)
    return "".join(p if i % 2 else re.sub(r"([\\*_<>|$\[\]#{}~`])", r"\\\1", p) for i, p in enumerate(parts))


def _equation(paragraph: str) -> bool:
    """Lines that are formulas, not sentences: an equality sign near their beginning, and no sentence's end."""
    lines = paragraph.split("\n")
    first = re.match(r"[^=≤]{1,40}[=≤] ", lines[0])
    words = re.findall(
        r"[a-z]{3,}",
        re.sub(
            r"\b(exp|log|sqrt|tanh|mean|max|min|softmax|sigmoid|floor|bias|gain|slope|alpha|weight)\b", "", paragraph
        ),
    )
    short = paragraph.rstrip().endswith(".") and len(lines) == 1 and len(words) <= 2
    ended = paragraph.rstrip().endswith((".", ":"))
    return bool(first) and (short or not ended) and len(lines) <= 4 and "`" not in paragraph


_TERM = re.compile(r"([A-Za-z_][\w.]*(?:, [A-Za-z_][\w.]*)*) {2,}(\S.*)")  # name    what it means


_FILE = re.compile(r"([\w./]+\.py(?:, [\w./]+\.py)*)(?:: | {2,}|$)(.*)")  # name.py    what is in it


def _files(block: str) -> str | None:
    """A map of files, several a line, as a list with one a line; None for any other block."""
    parts = [p for line in block.split("\n") for p in re.split(r" {2,}(?=[\w./]+\.py\b)", line.strip())]
    found = [_FILE.fullmatch(p) for p in parts]
    if not all(found):
        return None
    return "\n".join(f"- `{f[1]}`{': ' + escape(f[2].strip()) if f[2] else ''}" for f in found if f)


def prose(doc: str | None) -> str:
    """A docstring as Markdown: paragraphs, lists, formulas and indented blocks in a fixed width."""
    out: list[str] = []
    run: list[str] = []  # lines of a paragraph or list
    block: list[str] = []  # indented lines
    terms: list[list[str]] = []  # names and what they mean, in two columns

    def flush() -> None:
        if run:
            text = "\n".join(run)
            out.append(formula(text) if _equation(text) else escape(text))
        if block:
            text = inspect.cleandoc("\n" + "\n".join(block))
            out.append(_files(text) or formula(text))
        if terms:
            out.append("\n".join(f"- `{name}`: {escape(meaning)}" for name, meaning in terms))
        run.clear()
        block.clear()
        terms.clear()

    for line in [*inspect.cleandoc(doc or "").split("\n"), ""]:
        if not line.strip():
            if block:
                block.append("")
            else:
                flush()
        elif terms and line.startswith(" "):
            terms[-1][1] += f" {line.strip()}"
        elif found := _TERM.match(line):
            if not terms:
                flush()
            terms.append([found[1], found[2]])
        elif line.startswith(" ") and not any(r.startswith("- ") for r in run):
            if run:
                flush()
            block.append(line)
        else:
            if block or terms or (line.startswith("- ") and run and not run[0].startswith("- ")):
                flush()
            run.append(line)
    flush()
    return "\n\n".join(out)


def formula(text: str) -> str:
    return f"```{{code-block}} text\n:class: formula\n\n{text}\n```"


def summary(doc: str | None) -> str:
    """The first sentence or line of a docstring."""
    first = re.split(r"\n\s*\n", inspect.cleandoc(doc or ""))[0].replace("\n", " ")
    return first


def signature(function: Any, skip_self: bool = False) -> str:
    """The signature as written, annotations without quotes."""
    try:
        found = inspect.signature(function)
    except (TypeError, ValueError):
        return "(...)"
    shown, star = [], False
    for p in found.parameters.values():
        if skip_self and not shown and p.name in ("self", "cls"):
            skip_self = False
            continue
        if p.kind == p.KEYWORD_ONLY and not star:
            shown.append("*")
            star = True
        star = star or p.kind == p.VAR_POSITIONAL
        text = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "") + p.name
        if p.annotation is not p.empty:
            text += f": {_type(p.annotation)}"
        if p.default is not p.empty:
            value = re.sub(r"<.*", "...", repr(p.default)).replace("\n", " ")
            text += f" = {value}" if p.annotation is not p.empty else f"={value}"
        shown.append(text)
    back = "" if found.return_annotation is found.empty else f" -> {_type(found.return_annotation)}"
    return f"({', '.join(shown)}){back}"


def _type(annotation: Any) -> str:
    if isinstance(annotation, str):
        return annotation
    text = getattr(annotation, "__name__", None) if isinstance(annotation, type) else repr(annotation)
    return (text or repr(annotation)).replace("typing.", "").replace("~", "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """A Markdown table; `align` has one of "l", "r" a column."""
    align = align or "l" * len(head)
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join({'l': ' :-- ', 'r': ' --: '}[a] for a in align)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def verdict(text: str) -> str:
    """A verdict as a badge that differs in sign, colour and word."""
    kind, sign = {"holds": ("holds", "✓"), "does not hold": ("fails", "✗")}.get(text, ("open", "–"))
    return f'<span class="verdict {kind}">{sign} {text}</span>'
