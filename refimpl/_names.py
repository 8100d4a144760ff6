"""Floor 0: what an error says about a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["expected"]


def expected(given: object, names: Iterable[str]) -> str:
    """`expected one of a, b, c`, and the one that was probably meant where `given` is nearly its name."""
    import difflib  # only mistakes pay for it

    known = list(dict.fromkeys(names))
    lower = {name.lower(): name for name in reversed(known)}
    near = difflib.get_close_matches(str(given).lower(), lower, n=1, cutoff=0.7)
    meant = f". Did you mean {lower[near[0]]}?" if near else ""
    return f"expected one of {', '.join(known)}{meant}"
