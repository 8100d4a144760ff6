"""How deep each auxiliary network is, which layers it copies, and where it halves the extent: equations (1) to (3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["SELECTIONS", "depths", "selected", "strides"]

SELECTIONS = ("uniform", "consecutive", "repeated")


def depths(n: int, d: int, tau: float = 0.5) -> tuple[int, ...]:
    """d_l of the local layers l = 0..N-2, N = n - d: the pyramid

        d_l = max(1, round(d (1 - tau l / (N - 2)) + tau l / (N - 2)))                                  (1)

    with halves rounded to the even number; N = 2 has d_0 = d, N = 1 no local layer (back-propagation).
    Raises ValueError unless 1 <= d < n and 0 <= tau <= 1.
    """
    if not 1 <= d < n:
        raise ValueError(f"depths: d is {d}, expected 1..{n - 1}: the network has {n} layers")
    if not 0 <= tau <= 1:
        raise ValueError(f"depths: tau is {tau}, expected a number in [0, 1]")
    N = n - d
    slope = [tau * l / (N - 2) if N > 2 else 0.0 for l in range(N - 1)]
    return tuple(max(1, int(np.rint(d * (1 - s) + s))) for s in slope)


def selected(n: int, l: int, depth: int, how: str = "uniform") -> tuple[int, ...]:
    """The layers that the auxiliary network of layer l copies.

    "uniform":      round(l + i (n - 1 - l) / depth), i = 1..depth: spread evenly, ending with layer n - 1    (2)
    "consecutive":  l + 1, l + 2, ..., l + depth
    "repeated":     layer l itself, `depth` times (it keeps its width and extent)

    Where fewer than `depth` layers are left, all that are. Raises ValueError for a layer that has none above it.
    """
    if how not in SELECTIONS:
        raise ValueError(f"selected: how is {how!r}, expected one of {', '.join(SELECTIONS)}")
    if not 0 <= l < n - 1 or depth < 1:
        raise ValueError(f"selected: layer {l} of {n} and depth {depth}, expected 0 <= l < n - 1 and depth >= 1")
    above = n - 1 - l
    depth = min(depth, above)
    if how == "repeated":
        return (l,) * depth
    if how == "consecutive":
        return tuple(range(l + 1, l + 1 + depth))
    return tuple(int(np.rint(l + i * above / depth)) for i in range(1, depth + 1))


def strides(widths: Sequence[int], l: int, picks: Sequence[int]) -> tuple[int, ...]:
    """The stride of each copied block: widths double where the network halves its extent, so each doubling on the way
    from C_l owes one stride of 2, which the next block pays.                                             (3)"""
    owed, c, found = 0, widths[l], []
    for k in picks:
        owed += int(math.log2(widths[k] / c))
        found.append(2 if owed >= 1 else 1)
        owed -= found[-1] - 1
        c = widths[k]
    return tuple(found)
