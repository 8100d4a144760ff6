"""Arithmetic of sliding windows, shared by convolutions, pooling and upsampling: sizes given as a number or a pair."""

from __future__ import annotations

import operator
from typing import Any

_MOST = 2**31 - 1  # of a stride, padding, dilation or factor
_MOST_ELEMENTS = 2**58  # of an array and of its padded form: byte counts stay within 63 bits


def numbers(op: str, name: str, value: Any, axes: int, least: int) -> tuple[int, int]:
    """`value`, an integer for all axes or one integer per axis, as a pair for (H, W).

    One axis (T) is the axis W of a picture of height 1, whose own number is returned as `least`: the stride, window or
    dilation 1, the padding 0. Raises TypeError for what is no integer, ValueError outside [least, 2^31).
    """
    try:
        if isinstance(value, (tuple, list)):
            given = [operator.index(v) for v in value]
        else:
            given = [operator.index(value)] * axes
        if len(given) != axes:
            raise TypeError
    except TypeError:
        expected = "an integer or a pair of integers" if axes == 2 else "an integer"
        raise TypeError(f"{op}: {name} is {value!r}, expected {expected}") from None
    if min(given) < least or max(given) > _MOST:
        raise ValueError(f"{op}: {name} is {value!r}, expected at least {least} and less than 2^31")
    return (given[0], given[1]) if axes == 2 else (least, given[0])


def positions(
    op: str,
    what: str,
    extents: tuple[int, ...],
    window: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
) -> tuple[int, int]:
    """How many windows fit along (H, W): floor((H + 2 padding - dilation (window - 1) - 1) / stride) + 1.

    Raises ValueError where none does.
    """
    count = []
    for n, k, s, p, d in zip(extents, window, stride, padding, dilation):
        span, padded = d * (k - 1) + 1, n + 2 * p
        if span > padded:
            raise ValueError(f"{op}: {what} spans {span}, but the padded input has only {padded}")
        count.append((padded - span) // s + 1)
    return count[0], count[1]


def affordable(op: str, name: str, *shape: int) -> None:
    """The number of elements of an array of this shape can be counted. Raises ValueError."""
    n = 1
    for extent in shape:
        n *= max(extent, 1)
    if n > _MOST_ELEMENTS:
        raise ValueError(f"{op}: {name} would have shape {shape}, more than 2^58 elements")


def nonempty(op: str, name: str, shape: tuple[int, ...], first: int) -> None:
    """No axis from `first` on is empty. Raises ValueError."""
    if 0 in shape[first:]:
        raise ValueError(f"{op}: {name} has shape {shape}, expected only its batch axis to be 0 at most")
