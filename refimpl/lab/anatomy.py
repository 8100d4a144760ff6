"""What an operation says about itself, read from its own text: equations, axes, results, NumPy and C source.

Nothing here is a table of operations, so that a new one is described as soon as it is written: its docstring holds the
equation and the shapes (CONTRIBUTING.md), its `return` the names of the results, and the kernel of the same name in
native/src the C lines. An installed wheel carries the C sources as `refimpl/_c/`; a checkout reads native/ itself.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from refimpl.backends import Operation, operations

__all__ = [
    "Source",
    "Statement",
    "axes",
    "c_source",
    "counterpart",
    "doc",
    "equations",
    "forward_of",
    "gradient_names",
    "kind",
    "name_of_result",
    "numpy_source",
    "result_names",
    "statements",
]

PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Source:
    """Lines of one function: the file (as a reader finds it), the numbers and the texts of the lines."""

    file: str
    numbers: tuple[int, ...]
    lines: tuple[str, ...]


class Statement(NamedTuple):
    """First and last line of a statement of a NumPy body; whether it computes something; the variables that it sets."""

    first: int
    last: int
    computes: bool
    targets: tuple[str, ...]


# ---------------------------------------------------------------- names


def forward_of(name: str) -> str | None:
    """The operation whose gradient `name` is, or None: "softmax" for "softmax_backward"."""
    forward = name.removesuffix("_backward")
    return forward if forward != name and forward in operations() else None


def kind(name: str) -> str:
    """ "forward", "backward", or "update" for what changes arrays in place and has no gradient."""
    if name.endswith("_backward"):
        return "backward"
    return "update" if operations()[name].inplace else "forward"


@functools.cache
def _tree(name: str) -> tuple[ast.FunctionDef, int]:
    """The parsed NumPy body, and what to add to its line numbers to get those of the file."""
    lines, first = inspect.getsourcelines(operations()[name].numpy)
    tree = ast.parse(textwrap.dedent("".join(lines)))
    function = tree.body[0]
    assert isinstance(function, ast.FunctionDef)
    return function, first - 1


def _returns(function: ast.FunctionDef) -> list[ast.expr]:
    found: list[ast.expr] = []

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.Return) and child.value is not None:
                found.append(child.value)
            visit(child)

    visit(function)
    return found


# Where neither the `return` nor the docstring says the names.
_RESULTS = {
    "batchnorm": ("y", "mean", "rstd"),
    "groupnorm": ("y", "mean", "rstd"),
    "layernorm": ("y", "mean", "rstd"),
    "conv1d_backward": ("dx", "dweight", "dbias"),
    "conv2d_backward": ("dx", "dweight", "dbias"),
    "conv_transpose2d_backward": ("dx", "dweight", "dbias"),
    "cosine_similarity_backward": ("da", "db"),
    "kl_divergence_backward": ("dlog_p", "dlog_q"),
    "cosine_similarity": ("s", "norm_a", "norm_b"),
    "gru_cell": ("h_next", "gates"),
    "lstm_cell": ("h_next", "c_next", "gates"),
    "rnn_cell": ("h_next",),
    "gru_sequence_backward": ("dx", "dh0", "dw_x", "dw_h", "dbias_x", "dbias_h"),
    "lstm_sequence_backward": ("dx", "dh0", "dc0", "dw_x", "dw_h", "dbias"),
    "rnn_sequence_backward": ("dx", "dh0", "dw_x", "dw_h", "dbias"),
    "leaky_integrator_sequence_backward": ("dx", "dv0"),
    "reduce_max": ("y", "index"),
    "max_pool2d": ("y", "index"),
}


@functools.cache
def result_names(name: str) -> tuple[str, ...]:
    """Names of the results in order: those of the `return`, else of the docstring, else of the equation.

    A call may return more than can be told from the text; see `name_of_result`.
    """
    if name in _RESULTS:
        return _RESULTS[name]
    op, backward = operations()[name], name.endswith("_backward")
    function, _ = _tree(name)
    candidates: list[list[str | None]] = []
    for value in _returns(function):
        parts = value.elts if isinstance(value, ast.Tuple) else [value]
        candidates.append([p.id if isinstance(p, ast.Name) and p.id not in ("out", "result") else None for p in parts])
    if not candidates:
        return ()
    names = max(candidates, key=lambda c: (len(c), sum(n is not None for n in c)))
    text = " ".join((op.__doc__ or "").split())
    told: list[str] = []
    for sentence in re.findall(r"[Rr]eturns ([^.;:]*)", text):
        sentence = re.sub(r"\([^()]*\)", "", sentence).replace(" and ", ", ").replace("the ", "")
        words = [w.strip().split(" ")[0] for w in sentence.split(",")]
        if len(words) >= len(names) and all(w.isidentifier() for w in words[: len(names)]):
            told = words
            break
    pattern = r"(?:^|[,;.:(\n] |and |; )\s*([A-Za-z]\w*?)(?:\[[^\]]*\])?(?:_[a-z]{1,2})? \+?= "
    left = re.findall(pattern, f"\n {text}")
    if backward:
        left = [n for n in left if n.startswith("d")]
        if names == [None] and len(left) > 1:  # the body hands the results of a helper on
            names = [None] * len(left)
    for i, given in enumerate(names):
        if given is None or (backward and not given.startswith("d")):
            names[i] = told[i] if i < len(told) else left[i] if i < len(left) else None
    return tuple(n or (("dx" if backward else "y") + (str(i) if i else "")) for i, n in enumerate(names))


def name_of_result(name: str, i: int) -> str:
    """The name of result number i."""
    names = result_names(name)
    return names[i] if i < len(names) else f"result {i}"


def gradient_names(name: str) -> dict[int, str]:
    """For a backward operation: which result is the gradient of which argument of the forward one."""
    forward = forward_of(name)
    if forward is None:
        return {}
    arguments = list(inspect.signature(operations()[forward].numpy).parameters)
    named = {i: n[1:] for i, n in enumerate(result_names(name)) if n.startswith("d") and n[1:] in arguments}
    if not named and len(result_names(name)) == 1:
        named = {0: arguments[0]}  # one result: of the one array that has a gradient
    return named


# ---------------------------------------------------------------- docstrings


def doc(name: str) -> str:
    """The docstring as plain lines, without indentation."""
    return inspect.cleandoc(operations()[name].numpy.__doc__ or "")


_EQUATION = re.compile(r"(?:^|\s)\S+ [+\-*]?= |^\S.* = ")
_PROSE = re.compile(
    r"^(Shapes?|Source|Returns?|Takes?|Errors?|Raises?|Both|With|Without|Nothing|See)\b(?! dĉ| dn| dz)", re.IGNORECASE
)


@functools.cache
def equations(name: str) -> tuple[str, ...]:
    """The equations of the docstring, one text each; its first sentence where it has none."""
    paragraphs = doc(name).split("\n\n")
    found: list[str] = []
    for n, paragraph in enumerate(paragraphs):
        if n and (_PROSE.match(paragraph) and not re.match(r"(?i)with \S+ = ", paragraph)):
            break
        lines = paragraph.split("\n")
        if n == 0:
            paragraph = " ".join(lines)
            if " = " in paragraph or "+= " in paragraph:
                found += [_sentence(paragraph)]
            continue
        if not any(_EQUATION.search(line) for line in lines):
            continue
        joined: list[str] = []
        for line in lines:
            starts = bool(re.match(r"\s*\S+( \S+){0,2} [+\-]?= ", line))
            if joined and not starts:
                joined[-1] += " " + line.strip()
            else:
                joined.append(line.strip())
        found += [_sentence(line) for line in joined if "=" in line]
    if found:
        return tuple(found)
    return (_sentence(" ".join(paragraphs[0].split("\n"))),)


def _sentence(text: str) -> str:
    return re.split(r"\.(?:\s|$)", text.strip(), maxsplit=1)[0]


_AXES = re.compile(r"\b([A-Za-z]\w*)(?: = \w+)? \(((?:\.\.\.|[A-Z][A-Za-z_0-9]*'?|[a-z_]+|\d*[A-Z]?)(?:, ?[^()]{0,24})*,?)\)")


@functools.cache
def _declared_axes(name: str) -> dict[str, tuple[str, ...]]:
    op = operations()[name]
    module = sys.modules[op.numpy.__module__].__doc__ or ""
    known: dict[str, tuple[str, ...]] = {}
    forward = forward_of(name)
    texts = [module, *([doc(forward)] if forward else []), doc(name)]
    for text in texts:
        for word, inside in _AXES.findall(" ".join(text.split())):
            parts = tuple(p.strip() for p in inside.split(",") if p.strip())
            if all(p == "..." or re.fullmatch(r"[A-Z][A-Za-z_0-9]*'?|\d+[A-Z]?|\d ?\*? ?[A-Z]", p) for p in parts):
                known[word] = parts
    return known


def axes(name: str, array: str, ndim: int) -> tuple[str, ...] | None:
    """Names of an array's axes in the index alphabet, "..." where the docstring leaves leading axes open."""
    known = _declared_axes(name)
    base = re.sub(r"\[\d+\]$", "", array)
    for candidate in (array, base, *([base[1:]] if base.startswith("d") else [])):
        parts = known.get(candidate)
        if parts is None:
            continue
        if "..." in parts:
            if ndim >= len(parts) - 1:
                return parts
        elif len(parts) == ndim:
            return parts
    return None


# ---------------------------------------------------------------- NumPy source


@functools.cache
def numpy_source(name: str) -> Source:
    """The NumPy body without its docstring."""
    op = operations()[name]
    lines, first = inspect.getsourcelines(op.numpy)
    function, shift = _tree(name)
    skip: set[int] = set()
    if ast.get_docstring(function) is not None:
        node = function.body[0]
        skip = set(range(node.lineno + shift, (node.end_lineno or node.lineno) + shift + 1))
    kept = [(first + i, line.rstrip("\n")) for i, line in enumerate(lines) if first + i not in skip]
    path = Path(inspect.getsourcefile(op.numpy) or "?").resolve()
    file = f"refimpl/{path.relative_to(PACKAGE).as_posix()}" if path.is_relative_to(PACKAGE) else path.name
    return Source(file, tuple(n for n, _ in kept), tuple(text for _, text in kept))


@functools.cache
def statements(name: str) -> dict[int, Statement]:
    """The statement of each line of the NumPy body.

    The docstring, the checks of the input, and the heads of `if`, `for` and `with` compute nothing.
    """
    function, shift = _tree(name)
    found: dict[int, Statement] = {}

    def visit(body: list[ast.stmt]) -> None:
        for node in body:
            inner = [getattr(node, part, []) for part in ("body", "orelse", "finalbody")]
            if any(inner):
                first = node.lineno
                head = min(child.lineno for part in inner for child in part) - 1
                for line in range(first, max(first, head) + 1):
                    found[line + shift] = Statement(first + shift, max(first, head) + shift, False, ())
                for part in inner:
                    visit(part)
                continue
            last = node.end_lineno or node.lineno
            for line in range(node.lineno, last + 1):
                found[line + shift] = Statement(node.lineno + shift, last + shift, _computes(node), _targets(node))

    visit(function.body)
    return found


def _targets(node: ast.stmt) -> tuple[str, ...]:
    """Names that a statement assigns to, or changes in place."""
    left: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        left = list(node.targets)
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        left = [node.target]
    value = getattr(node, "value", None)
    if isinstance(value, ast.Call):
        left += [k.value for k in value.keywords if k.arg == "out"]
    names: list[str] = []
    for target in left:
        for part in target.elts if isinstance(target, ast.Tuple) else [target]:
            while isinstance(part, ast.Subscript | ast.Attribute | ast.Starred):
                part = part.value
            if isinstance(part, ast.Name):
                names.append(part.id)
    return tuple(names)


def _computes(node: ast.stmt) -> bool:
    if isinstance(node, ast.Return):
        parts = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
        return not all(p is None or isinstance(p, ast.Name | ast.Constant) for p in parts)
    if isinstance(node, ast.Import | ast.ImportFrom | ast.Raise | ast.Pass | ast.Nonlocal):
        return False
    value = getattr(node, "value", None)
    if isinstance(value, ast.Constant) and isinstance(node, ast.Expr):
        return False
    if isinstance(value, ast.Call):
        called = ast.unparse(value.func)
        if isinstance(node, ast.Expr):
            return called.startswith("np.") or "." in called and not called.startswith("_check")
        if "check" in called:
            return False
    return True


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
    called = {}
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
                elif hasattr(helper, "bodies") and "native" in helper.bodies:
                    walk(helper.bodies["native"].__code__)

    walk(function.__code__)
    return list(dict.fromkeys(names))


@functools.cache
def c_source(name: str) -> Source | None:
    """The kernel behind an operation's C mirror: the static functions and macros of its file that it uses, then itself.

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
    parts = [(first, last)]
    helpers = _c_helpers(file)
    wanted, done = _words(lines[first : last + 1]), set()
    for _ in range(2):  # helpers of helpers, no further: the reader is not to lose the thread
        new = [h for h in helpers if h in wanted and h not in done]
        done.update(new)
        for h in new:
            a, b = helpers[h]
            parts.append((a, b))
            wanted |= _words(lines[a : b + 1])
    parts = sorted(set(parts), key=lambda part: (part == (first, last), part))
    total, kept = 0, []
    for a, b in reversed(parts):  # the kernel itself, then the helpers that stand nearest
        total += b - a + 1
        if kept and total > 160:
            break
        kept.append((a, b))
    kept.sort()
    numbers: list[int] = []
    for a, b in kept:
        while a > 0 and (lines[a - 1].startswith(" *") or lines[a - 1].startswith("/*")) and a - 1 not in numbers:
            a -= 1  # the comment above
        numbers += [n for n in range(a, b + 1) if n not in numbers]
    return Source(file, tuple(n + 1 for n in numbers), tuple(lines[n] for n in numbers))


def _words(lines: list[str]) -> set[str]:
    return set(re.findall(r"\w+", "\n".join(lines)))


@functools.cache
def _c_helpers(file: str) -> dict[str, tuple[int, int]]:
    """Static functions and multi-line macros of one file: name -> first and last line."""
    lines = next(lines for f, lines, _, _ in _c_functions().values() if f == file)
    found: dict[str, tuple[int, int]] = {}
    for i, line in enumerate(lines):
        if match := re.match(r"static [^=;]*?\b(?:RI\()?(\w+)\)?\(", line):
            end = next((j for j in range(i, len(lines)) if lines[j].startswith("}")), i)
            found[match[1]] = (i, end)
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
_NOISE = {"np", "self", "return", "int", "i64", "real", "const", "static", "inline", "threads", "axis", "keepdims", "out"}
_NOISE |= {"for", "if", "else", "R", "RI", "RI_EACH", "RI_INTERNAL", "pragma", "omp", "simd", "team", "copy", "None", ""}


def _tokens(text: str) -> set[str]:
    words = {w.removeprefix("ri_").removeprefix("RI_") for w in re.findall(r"[A-Za-z_]\w*", text)}
    return {_SAME.get(w.lower() if w.isupper() and len(w) > 1 else w, w) for w in words} - _NOISE


def _assigned(text: str) -> set[str]:
    """Names on the left of =, += and so on."""
    left = re.findall(r"([A-Za-z_]\w*)(?:\[[^=;]*?\])? ?[-+*/]?=(?!=)", text)
    return {_SAME.get(w, w) for w in left} - _NOISE


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
    comment = False
    candidates: list[tuple[int, set[str], set[str]]] = []
    for number, text in zip(c.numbers, c.lines):
        comment = comment or text.lstrip().startswith("/*")
        code = "" if comment else re.sub(r"/\*.*?\*/|//.*", "", text)
        if comment and "*/" in text:
            comment = False
        skip = re.match(r"(int RI|static |#define|#pragma|\s*\}|\s*(for|while) \()", code) and "=" not in code.split("{")[-1]
        candidates.append((number, set() if skip or not code.strip() else _tokens(code), _assigned(code)))
    frequency: dict[str, int] = {}
    for _, tokens, _ in candidates:
        for t in tokens:
            frequency[t] = frequency.get(t, 0) + 1
    found: dict[int, tuple[int, int]] = {}
    done: set[int] = set()
    for first, last, computes, _ in statements(name).values():
        if not computes or first in done:
            continue
        done.add(first)
        text = " ".join(numpy[n] for n in range(first, last + 1) if n in numpy)
        tokens, left = _tokens(text), _assigned(text)
        best, where = 0.0, None
        for number, words, assigned in candidates:
            if not words:
                continue
            score = sum(1 / frequency[t] for t in tokens & words) + 1.5 * len(left & assigned)
            score /= 1 + 0.05 * len(words - tokens)
            if score > best + 1e-9:
                best, where = score, number
        if where is not None and best > 0.3 and "np.empty" not in text:
            found[first] = (where, where)
    return found
