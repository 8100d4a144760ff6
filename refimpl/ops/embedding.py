"""Embedding tables and dropout, with their gradients. C mirror: native/src/embedding.c."""

from __future__ import annotations

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check

__all__ = ["dropout", "dropout_backward", "embedding", "embedding_backward"]


def _checked(op: str, index: np.ndarray, table: np.ndarray) -> None:
    _check.floats(op, "table", table)
    _check.integers(op, "index", index)
    _check.ndim(op, "table", table, 2)


def _checked_backward(op: str, dy: np.ndarray, index: np.ndarray, V: int) -> int:
    _check.floats(op, "dy", dy)
    _check.integers(op, "index", index)
    if dy.ndim != index.ndim + 1 or dy.shape[:-1] != index.shape:
        raise ValueError(f"{op}: dy has shape {dy.shape}, expected {index.shape} and a width")
    return _check.count(op, "V", V, dy.shape[-1])


def _checked_dropout(op: str, name: str, x: np.ndarray, mask: np.ndarray, rate: float) -> None:
    _check.floats(op, name, x)
    _check.flags(op, "mask", mask, np.bool_, np.uint8)
    _check.shape(op, "mask", mask, x.shape)
    _check.number(op, "rate", rate)
    if not 0 <= rate < 1:
        raise ValueError(f"{op}: rate is {rate}, expected a number in [0, 1)")


@operation
def embedding(index: np.ndarray, table: np.ndarray) -> np.ndarray:
    """y = table[index]: a row of the table for each entry of the index.

    index: integers in [0, V) of any shape; table (V, D). Returns y of shape index.shape + (D,). Errors: TypeError for
    dtypes, ValueError for a table without 2 axes or an index out of range (negative ones too), naming its value.
    """
    _checked("embedding", index, table)
    _check.index_range("embedding", "index", index, len(table))
    return table[index.ravel()].reshape(*index.shape, table.shape[1])


@operation
def embedding_backward(dy: np.ndarray, index: np.ndarray, V: int) -> np.ndarray:
    """dtable (V, D): row v is the sum of the dy whose index is v, added one by one in the order of the index."""
    V = _checked_backward("embedding_backward", dy, index, V)
    _check.index_range("embedding_backward", "index", index, V)
    dtable = np.zeros((V, dy.shape[-1]), dy.dtype)
    np.add.at(dtable, index, dy)
    return dtable


@operation
def dropout(x: np.ndarray, mask: np.ndarray, rate: float) -> np.ndarray:
    """y = x mask / (1 - rate): what is kept grows, so that the expectation stays.

    mask: bool or uint8 of x's shape, True (not 0) keeps; drawn by the caller with P(keep) = 1 - rate, 0 <= rate < 1.
    What is dropped is 0, even an infinity. Errors: TypeError for dtypes, ValueError for shapes or the rate.
    Source: Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", 2014, in the
    inverted form, which leaves nothing to do at test time.
    """
    _checked_dropout("dropout", "x", x, mask, rate)
    return np.where(mask, x * x.dtype.type(1 / (1 - rate)), x.dtype.type(0))


@operation
def dropout_backward(dy: np.ndarray, mask: np.ndarray, rate: float) -> np.ndarray:
    """dx = dy mask / (1 - rate)."""
    _checked_dropout("dropout_backward", "dy", dy, mask, rate)
    return np.where(mask, dy * dy.dtype.type(1 / (1 - rate)), dy.dtype.type(0))
