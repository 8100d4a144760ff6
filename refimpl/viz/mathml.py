"""From the plain notation of the docstrings to MathML.

    mathml("dx = dy W^T, dW = x^T dy, sums over all rows", {"dx", "dy", "dW"})

A docstring mixes formulas with words. What reads as a formula becomes <math> elements, words stay text, so that long
lines wrap. Known are: sub- and superscripts (`W^T`, `p_bk`, `x_{t-1}`, `h'`, `²`), hats (`x^ `), sums (`Σ_b`), roots,
fractions, functions, indexing. Which words are symbols is told by `names`; one letter, a Greek letter and a word that
is given a value (`g = ...`) always are.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from html import escape

__all__ = ["mathml"]

_FUNCTIONS = {"exp", "log", "max", "min", "tanh", "sigmoid", "softmax", "sign", "mean", "sin", "cos", "log1p", "floor"}
_FUNCTIONS |= {
    "onehot",
    "op",
    "softplus",
    "relu",
    "KL",
    "var",
    "std",
    "clip",
    "abs",
    "diag",
    "spread",
    "collect",
    "correlate",
}
_GREEK = {
    "alpha": "α",
    "beta": "β",
    "gamma": "γ",
    "sigma": "σ",
    "theta": "θ",
    "mu": "μ",
    "phi": "φ",
    "Phi": "Φ",
    "eps": "ε",
}
_GREEK |= {"beta1": "β₁", "beta2": "β₂", "delta": "δ", "eta": "η", "lambda": "λ", "tau": "τ", "pi": "π"}
_SUPER = {"²": "2", "³": "3", "ᵀ": "T"}

_TOKEN = re.compile(
    r"""
    (?P<number>\d+(?:\.\d+)?(?:e-?\d+)?)
  | (?P<sum>(?:[ΣΠ∏∑]|sum(?=_))(?:_(?:\{[^}]*\}|\w+))?)
  | (?P<quoted>"[^"]*"|`[^`]*`)
  | (?P<words>[A-Za-zÀ-ž]+(?:-[A-Za-zÀ-ž]{2,})+)
  | (?P<name>[A-Za-zα-ωΑ-Ωĉû∂∇]\w*?(?:_\{[^}]*\}|_\w+)?'?)(?![A-Za-z0-9_{])
  | (?P<power>\^(?:\{[^}]*\}|-?\w+'?|\([^()]*\))|[²³ᵀ])
  | (?P<hat>\^(?=[\s,;)\]]|$))
  | (?P<operator>\+=|-=|>=|<=|->|:=|!=|\|\||[-+*/=<>|·×(){}\[\],;:.])
  | (?P<space>\s+)
  | (?P<other>.)
    """,
    re.VERBOSE,
)
_SIGNS = {"-": "−", "*": "·", ">=": "≥", "<=": "≤", "->": "→", "||": "‖", "!=": "≠"}
_OPEN, _CLOSE = {"(": ")", "[": "]", "{": "}"}, {")", "]", "}"}


def mathml(text: str, names: Collection[str] = ()) -> str:
    """`text` as HTML: formulas in <math>, words as they are. `names`: words that are symbols."""
    known = set(names) | {f"d{n}" for n in names} | set(re.findall(r"([A-Za-z]\w*)(?:\[[^\]]*\])? [+\-]?= ", text))
    tokens = [(m.lastgroup or "other", m.group()) for m in _TOKEN.finditer(text)]
    segments: list[tuple[bool, list[tuple[str, str]]]] = []
    for i, (kind, word) in enumerate(tokens):
        formula = _is_formula(kind, word, tokens, i, known)
        if formula is None:  # spaces and punctuation belong to what stands before, at an end to the words
            formula = segments[-1][0] if segments else False
        if not segments or segments[-1][0] != formula:
            segments.append((formula, []))
        segments[-1][1].append((kind, word))
    out = []
    for formula, part in segments:
        raw = "".join(word for _, word in part)
        if not formula:
            out.append(re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(raw)))
            continue
        inner = raw.strip()
        tail = ""
        while inner and (inner[-1] in ",;:." or (inner[-1] == "(" and inner.count("(") > inner.count(")"))):
            gap = " " if inner[-1] == "(" else ""
            tail, inner = gap + inner[-1] + tail, inner[:-1].rstrip()
        if inner.count("(") != inner.count(")") and not re.search(r"[=+^_]", inner):  # a bracket of the sentence
            out.append(escape(raw))
            continue
        lead = raw[: len(raw) - len(raw.lstrip())]
        after = raw[len(raw.rstrip()) :]
        pieces = [_math(p) for p in _clauses(inner)]
        out.append(f"{lead}{', '.join(pieces)}{escape(tail)}{after}")
    return "".join(out).strip()


def _is_formula(kind: str, word: str, tokens: list[tuple[str, str]], i: int, known: set[str]) -> bool | None:
    if kind in ("number", "sum", "power", "hat"):
        return True
    if kind in ("words", "quoted"):
        return False
    if kind == "operator":
        return None if word in ",;:." else True if word in "=+*/<>|" or len(word) == 2 else None
    if kind != "name":
        return None if kind == "space" else True
    base = re.split(r"[_']", word)[0]
    if word in ("a", "A", "I") and word not in known:
        following = next((t for t in tokens[i + 1 :] if t[0] != "space"), ("", ""))
        return following[0] == "operator" or not (following[0] in ("name", "words") and len(following[1]) > 1)
    if word in known or base in known or word in _FUNCTIONS or base in _GREEK or word == "sqrt":
        return True
    if len(base) <= 2 and not (len(base) == 2 and base.islower() and "_" not in word and not base.startswith("d")):
        return True
    if re.search(r"[α-ωΑ-Ωĉû]", word):
        return True
    return ("_" in word and len(word.split("_")[1]) <= 4) or "'" in word


def _clauses(text: str) -> list[str]:
    """Cut at commas and semicolons outside brackets where a new equation begins."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if c in ",;" and depth == 0 and re.match(r"[,;]\s+\S+(?: \S+)?(?:\[[^\]]*\])? [+\-]?= ", text[i:]):
            parts.append(text[start:i].strip())
            start = i + 1
    parts.append(text[start:].strip())
    return [p for p in parts if p]


def _math(text: str) -> str:
    tokens = [(m.lastgroup or "other", m.group()) for m in _TOKEN.finditer(text)]
    items, _ = _row(tokens, 0, None)
    return f'<math displaystyle="true" alttext="{escape(text, quote=True)}"><mrow>{_join(items)}</mrow></math>'


# An item is (kind, markup): "o" operator, "s" space, "a" atom, "g" bracketed group, "f" function name.


def _row(tokens: list[tuple[str, str]], i: int, closing: str | None) -> tuple[list[tuple[str, str]], int]:
    items: list[tuple[str, str]] = []
    while i < len(tokens):
        kind, word = tokens[i]
        if kind == "space":
            items.append(("s", "wide" if len(word) > 1 else ""))
            i += 1
        elif kind == "operator" and word == closing:
            return _fractions(items), i + 1
        elif kind == "operator" and word in _OPEN:
            inner, i = _row(tokens, i + 1, _OPEN[word])
            last = next((item for item in reversed(items)), None)
            if last == ("f", "√"):
                items[-1] = ("a", f"<msqrt>{_join(inner)}</msqrt>")
            else:
                shown = "{" if word == "{" else word
                group = f"<mo>{shown}</mo>{_join(inner)}<mo>{_OPEN[word]}</mo>"
                items.append(("g" if word == "(" else "a", f"<mrow>{group}</mrow>"))
        elif kind in ("power", "hat"):
            i += 1
            base = items.pop() if items and items[-1][0] in "agf" else ("a", "<mi></mi>")
            if kind == "hat":
                items.append(("a", f'<mover accent="true">{base[1]}<mo>^</mo></mover>'))
                continue
            exponent = _SUPER.get(word) or word[1:].strip("{}()")
            items.append(("a", f"<msup>{base[1]}<mrow>{_inner(exponent)}</mrow></msup>"))
        else:
            items.append(_atom(kind, word))
            i += 1
    return _fractions(items), i


def _inner(text: str) -> str:
    tokens = [(m.lastgroup or "other", m.group()) for m in _TOKEN.finditer(text)]
    return _join(_row(tokens, 0, None)[0])


def _atom(kind: str, word: str) -> tuple[str, str]:
    if kind == "number":
        return "a", f"<mn>{word}</mn>"
    if kind == "sum":
        sign, _, below = word.partition("_")
        below = below.strip("{}")
        mo = f'<mo largeop="true">{"∑" if sign in ("Σ", "∑", "sum") else "∏"}</mo>'
        return "f", f"<munder>{mo}<mrow>{_inner(below)}</mrow></munder>" if below else mo
    if kind in ("name", "words"):
        if word == "sqrt":
            return "f", "√"
        name, prime = (word[:-1], "′") if word.endswith("'") else (word, "")
        base, _, below = name.partition("_")
        if below and len(below.strip("{}")) > 4:
            base, below = name, ""
        letter = _GREEK.get(base, base)
        upright = ' mathvariant="normal"' if base in _FUNCTIONS and len(base) == 1 else ""
        mi = f"<mi{upright}>{escape(letter)}</mi>"
        if below:
            inside = below.strip("{}")
            sub = f"<mrow>{_inner(' '.join(inside) if inside.isalpha() and len(inside) > 1 else inside)}</mrow>"
            mi = f"<msubsup>{mi}{sub}<mo>{prime}</mo></msubsup>" if prime else f"<msub>{mi}{sub}</msub>"
        elif prime:
            mi = f"<msup>{mi}<mo>{prime}</mo></msup>"
        return ("f" if base in _FUNCTIONS else "a"), mi
    if kind == "operator":
        if word == "/":
            return "o", "/"
        return "o", f"<mo>{escape(_SIGNS.get(word, word))}</mo>"
    return "a", f"<mo>{escape(word)}</mo>"


def _fractions(items: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Slashes that bind as a fraction bar: `a/b`, and `... / (...)` up to the last sign, comma or equals."""
    while ("o", "/") in items:
        i = items.index(("o", "/"))
        spaced = i + 1 < len(items) and items[i + 1][0] == "s"
        after = next((j for j in range(i + 1, len(items)) if items[j][0] != "s"), None)
        before = next((j for j in range(i - 1, -1, -1) if items[j][0] != "s"), None)
        if after is None or before is None or items[after][0] == "o" or items[before][0] == "o":
            items[i] = ("o", "<mo>/</mo>")
            continue
        end = after + 1
        if items[after][0] == "f":  # a function and its argument
            rest = [j for j in range(after + 1, len(items)) if items[j][0] != "s"]
            stop = next((n for n, j in enumerate(rest) if items[j][0] == "o"), len(rest))
            is_sum = "largeop" in items[after][1]
            factors = rest[:stop]
            if is_sum and factors and items[factors[0]][0] == "f":
                factors = factors[:2] if len(factors) == 2 else factors
            need = 2 if is_sum and factors and items[factors[0]][0] == "f" else 1
            if len(factors) < need or (is_sum and len(factors) > need):
                items[i] = ("o", "<mo>/</mo>")
                continue
            end = factors[need - 1] + 1
        start = before
        if spaced:
            while start > 0 and items[start - 1][0] != "o" and items[start - 1] != ("s", "wide"):
                start -= 1
        elif start > 0 and items[start][0] == "g" and items[start - 1][0] == "f":
            start -= 1
        top = [t for t in items[start:i]]
        while top and top[0][0] == "s":
            top.pop(0)
            start += 1
        over, under = _bare(_trim(top)), _bare(_trim(items[after:end]))
        items[start:end] = [("a", f"<mfrac><mrow>{_join(over)}</mrow><mrow>{_join(under)}</mrow></mfrac>")]
    return items


def _trim(items: list[tuple[str, str]]) -> list[tuple[str, str]]:
    while items and items[-1][0] == "s":
        items = items[:-1]
    return items


def _bare(items: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without the brackets that a fraction bar makes needless."""
    if len(items) == 1 and items[0][0] == "g":
        inner = items[0][1]
        return [("a", inner.replace("<mrow><mo>(</mo>", "<mrow>", 1)[: -len("<mo>)</mo></mrow>")] + "</mrow>")]
    return items


_THIN = '<mspace width="0.2em"></mspace>'


def _join(items: list[tuple[str, str]]) -> str:
    """Neighbours that multiply get a thin space between them."""
    out: list[str] = []
    last = "o"
    pending = False
    for kind, markup in items:
        if kind == "s":
            pending = True
            continue
        if kind != "o" and last != "o" and pending:
            out.append(_THIN)
        out.append("<mo>/</mo>" if markup == "/" else "<mi>√</mi>" if markup == "√" else markup)
        last, pending = kind, False
    return "".join(out)
