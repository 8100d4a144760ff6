"""The C behind an operation: the kernel's source, and which of its lines is which line of the NumPy body.

An installed wheel carries the C sources as `refimpl/_c/` (setup.py puts them there); a checkout reads native/ itself.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from refimpl.backends import operations
from refimpl.lab.anatomy import PACKAGE, Source, numpy_source, statements

__all__ = ["c_source", "counterpart"]

MOST_LINES = 160  # of C for one operation: the reader is not to lose the thread

# ---------------------------------------------------------------- C source


@functools.cache
def _c_folder() -> Path | None:
    for folder in (PACKAGE / "_c", PACKAGE.parent / "native"):
        if (folder / "src").is_dir():
            return folder
    return None


@functools.cache
def _c_functions() -> dict[str, tuple[str, list[str], int, int]]:
    """Kernel name -> (file, its lines, first and last line, 0-based) of `int RI(name)(...) {...}`."""
    found: dict[str, tuple[str, list[str], int, int]] = {}
    folder = _c_folder()
    for path in sorted((folder / "src").glob("*.c")) if folder else []:
        lines = path.read_text(encoding="utf-8").split("\n")
        for i, line in enumerate(lines):
            if match := re.match(r"int RI\((\w+)\)\(", line):
                end = next((j for j in range(i, len(lines)) if lines[j].startswith("}")), None)
                if end is not None and not any(text.endswith(";") and "{" not in text for text in lines[i : i + 1]):
                    found[match[1]] = (f"native/src/{path.name}", lines, i, end)
    return found


def _kernels(function: Callable[..., Any]) -> list[str]:
    """Names of the kernels that a mirror calls, itself or through the helpers of its module."""
    module = sys.modules[function.__module__]
    source = inspect.getsource(module)
    called: dict[str, str] = {}
    for left, right in re.findall(r"^(_\w+(?:, _\w+)*) = (kernel\(.*\))$", source, re.MULTILINE):
        called.update(zip(left.split(", "), re.findall(r'kernel\("(\w+)"\)', right)))
    seen: set[str] = set()
    names: list[str] = []

    def walk(code: Any) -> None:
        for word in code.co_names:
            if word in called:
                names.append(called[word])
            elif word not in seen:
                seen.add(word)
                helper = vars(module).get(word)
                if inspect.isfunction(helper) and helper.__module__ == module.__name__:
                    walk(helper.__code__)
                elif "native" in (bodies := getattr(helper, "bodies", {})):
                    walk(bodies["native"].__code__)

    walk(function.__code__)
    return list(dict.fromkeys(names))


@functools.cache
def c_source(name: str) -> Source | None:
    """The kernel behind an operation's C mirror, and the functions, macros and kernels of its file that it uses.

    None where the operation has no mirror or the sources are not here.
    """
    op, functions = operations()[name], _c_functions()
    mirror = op.bodies.get("native")
    kernel = name if name in functions else None
    if kernel is None and mirror is not None:
        kernel = next((k for k in _kernels(mirror) if k in functions), None)
    if kernel is None:
        return None
    file, lines, first, last = functions[kernel]
    helpers = _c_helpers(file)
    kept, todo, seen = [(first, last)], _words(lines[first : last + 1]), {kernel}
    while todo:  # what the kernel uses, what that uses, and so on, as long as there is room
        word = todo.pop(0)
        if word in helpers and word not in seen:
            seen.add(word)
            a, b = helpers[word]
            if b - a + 1 + sum(y - x + 1 for x, y in kept) <= MOST_LINES:
                kept.append((a, b))
                todo += _words(lines[a : b + 1])
    kept.sort()
    numbers: list[int] = []
    for a, b in kept:
        while a > 0 and (lines[a - 1].startswith(" *") or lines[a - 1].startswith("/*")) and a - 1 not in numbers:
            a -= 1  # the comment above
        numbers += [n for n in range(a, b + 1) if n not in numbers]
    return Source(file, tuple(n + 1 for n in numbers), tuple(lines[n] for n in numbers))


def _words(lines: list[str]) -> list[str]:
    """What C lines may use, in their order: words, and kernels where they call them."""
    kernels = _c_functions()
    found = re.findall(r"\b(RI\()?(\w+)(\)\()?", "\n".join(lines))
    return list(dict.fromkeys(word for call, word, end in found if word not in kernels or (call and end)))


@functools.cache
def _c_helpers(file: str) -> dict[str, tuple[int, int]]:
    """Static functions, multi-line macros and kernels of one file: name -> first and last line."""
    lines = next(lines for f, lines, _, _ in _c_functions().values() if f == file)
    found = {name: (first, last) for name, (f, _, first, last) in _c_functions().items() if f == file}
    for i, line in enumerate(lines):
        line = re.sub(r"__attribute__\(\(\w+\)\) ", "", line)
        if match := re.match(r"(?:static|INLINE|NOINLINE) [^=;]*?\b(?:RI\()?(\w+)\)?\(|LOOP\((\w+)\)", line):
            end = next((j for j in range(i, len(lines)) if lines[j].startswith("}")), i)
            found[match[1] or match[2]] = (i, end)
        elif match := re.match(r"#define (\w+)\(", line):
            end = i
            while lines[end].endswith("\\"):
                end += 1
            found[match[1]] = (i, end)
    return found


# ---------------------------------------------------------------- which C line is which NumPy line

_SAME = {
    "matmul": "gemm",
    "maximum": "max",
    "minimum": "min",
    "most": "max",
    "expm1": "exp",
    "where": "?",
    "log1p": "log",
    "mean": "mean",
    "xhat": "xhat",
    "empty_like": "",
    "gemm_bias": "gemm",
    "gemm_batch": "gemm",
}
_NOISE = {
    "np",
    "self",
    "return",
    "int",
    "i64",
    "real",
    "const",
    "static",
    "inline",
    "threads",
    "axis",
    "keepdims",
    "out",
}
_NOISE |= {
    "for",
    "if",
    "else",
    "R",
    "RI",
    "RI_EACH",
    "RI_INTERNAL",
    "pragma",
    "omp",
    "simd",
    "team",
    "copy",
    "None",
    "",
}


def _tokens(text: str) -> set[str]:
    words = {w.removeprefix("ri_").removeprefix("RI_") for w in re.findall(r"[A-Za-z_]\w*", text)}
    return {_plain(w) for w in words} - _NOISE


def _plain(word: str) -> str:
    """One spelling for both languages: m1, a local copy of m[i], is m."""
    word = word.lower() if word.isupper() and len(word) > 1 else word
    return _SAME.get(word, word.rstrip("0123456789") if len(word) <= 3 else word)


def _assigned(text: str) -> set[str]:
    """Names on the left of =, += and so on."""
    left = re.findall(r"([A-Za-z_]\w*)(?:\[[^=;]*?\])? ?[-+*/]?=(?!=)", text)
    return {_plain(w) for w in left} - _NOISE


_HEAD = re.compile(r"#define|#pragma|\s*\}|\s*(for|while) \(")
# Checks, addresses and sums that begin at zero are no step of the mathematics.
_NO_STEP = re.compile(r"RI_NOT_PLAIN|RI_BADARG|RI_NOMEM|^\s*(const )?real \*\w+ = |= R\(0\.0\)[,;]|\{0\};")


@functools.cache
def counterpart(name: str) -> Mapping[int, tuple[int, int]]:
    """For the first line of each computing NumPy statement: the lines of the C source that share most names with it.

    Both bodies have the same steps under the same names (a rule of the house), so shared names find the line; where
    nothing is shared the statement has no counterpart, such as an allocation.
    """
    c = c_source(name)
    if c is None:
        return {}
    numpy = dict(zip(numpy_source(name).numbers, numpy_source(name).lines))
    comment = head = False
    candidates: list[tuple[int, set[str], set[str]]] = []
    for number, text in zip(c.numbers, c.lines):
        comment = comment or text.lstrip().startswith("/*")
        head = head or bool(re.match(r"(int RI\(|static .*\(|INLINE |LOOP\()", text))
        if head and not comment:  # arguments are no computation
            head = text.rstrip()[-1:] not in ("{", "}", ";")
            continue
        code = "" if comment else re.sub(r"/\*.*?\*/|//.*", "", text)
        if comment and "*/" in text:
            comment = False
        skip = not code.strip() or _NO_STEP.search(code) or (_HEAD.match(code) and "=" not in code.split("{")[-1])
        candidates.append((number, set() if skip else _tokens(code), _assigned(code)))
    frequency: dict[str, int] = {}
    for _, tokens, _ in candidates:
        for t in tokens:
            frequency[t] = frequency.get(t, 0) + 1
    found: dict[int, tuple[int, int]] = {}
    done: set[int] = set()
    for first, last, computes, *_ in statements(name).values():
        if not computes or first in done:
            continue
        done.add(first)
        text = " ".join(numpy[n] for n in range(first, last + 1) if n in numpy)
        text = re.sub(r"\b\w+\.dtype(\.type)?\b", "", text)  # C has one type in a kernel
        tokens, left = _tokens(text), _assigned(text)
        best, where = 0.0, None
        for number, words, assigned in candidates:
            if not words:
                continue
            score = sum(1 / frequency[t] for t in tokens & words) + 1.5 * len(left & assigned)
            score /= 1 + 0.05 * len(words - tokens)
            if score > best + 1e-9:
                best, where = score, number
        if where is not None and best > 0.3:
            end, text_of = where, dict(zip(c.numbers, c.lines))
            while text_of[end].split("/*")[0].rstrip()[-1:] not in (";", "{", "}", "\\") and end + 1 in text_of:
                end += 1  # a statement of several lines
            found[first] = (where, end)
    return found
