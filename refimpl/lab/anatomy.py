"""What an operation says about itself, read from its own text: equations, axes, results, NumPy and C source.

Nothing here is a table of operations, so that a new one is described as soon as it is written: its docstring holds the
equation and the shapes (CONTRIBUTING.md), its `return` the names of the results, and the kernel of the same name in
native/src the C lines (csource.py).
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import re
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from refimpl.backends import operations

__all__ = [
    "Source",
    "Statement",
    "axes",
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
    """First and last line of a statement of a NumPy body; whether it computes something; the variables that it sets;
    whether it returns."""

    first: int
    last: int
    computes: bool
    targets: tuple[str, ...]
    returns: bool = False


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
    "batchnorm_relu": ("y", "mean", "rstd"),
    "batchnorm_relu_backward": ("dx", "dgain", "dbias"),
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
    "goodness_contrast": ("loss", "g", "dz"),
    "map_agreement": ("loss", "da", "dc"),
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
        forward = inspect.signature(operations()[name.removesuffix("_backward")].numpy).parameters
        left = [n for n in left if n.startswith("d") and n[1:] in forward]
        if names == [None] and len(left) > 1:  # the body hands the results of a helper on
            names = [None] * len(left)
    elif (gradient := operations().get(f"{name}_backward")) is not None:  # backward(dq, dk, dv, ...): q, k, v
        first = itertools.takewhile(lambda p: p.startswith("d"), inspect.signature(gradient.numpy).parameters)
        upstream = [p[1:] for p in first]
        left = upstream + left[len(upstream) :]
    for i, given in enumerate(names):
        if given is None or (backward and not given.startswith("d")):
            names[i] = told[i] if i < len(told) else left[i] if i < len(left) else None
    one = f"d{next(iter(forward))}" if backward else "y"
    return tuple(n or (one + (str(i) if i else "")) for i, n in enumerate(names))


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


_ABOUT_AN_ARGUMENT = re.compile(r"(With )?`\w+` = ")  # such as `add_to` = (dgain, dbias): how it is called


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
        found += [_sentence(line) for line in joined if "=" in line and not _ABOUT_AN_ARGUMENT.match(line)]
    if found:
        return tuple(found)
    return (_sentence(" ".join(paragraphs[0].split("\n"))),)


def _sentence(text: str) -> str:
    return re.split(r"(?<!\.\.)\.(?=\s|$)", text.strip(), maxsplit=1)[0]


_AXES = re.compile(
    r"\b([A-Za-z]\w*)(?: = \w+)? \(((?:\.\.\.|[A-Z][A-Za-z_0-9]*'?|[a-z_]+|\d*[A-Z]?)(?:, ?[^()]{0,24})*,?)\)"
)


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
                found[line + shift] = Statement(
                    node.lineno + shift, last + shift, _computes(node), _targets(node), isinstance(node, ast.Return)
                )

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
    if "np.empty(" in ast.unparse(node):  # what is allocated there is not computed yet
        return False
    if isinstance(value, ast.Call):
        called = ast.unparse(value.func)
        if isinstance(node, ast.Expr):
            return called.startswith("np.") or ("." in called and not called.startswith("_check"))
        if "check" in called:
            return False
    return True
