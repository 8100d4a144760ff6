"""Running error analysis: a formula evaluated on `Running` numbers yields its value and a bound of its rounding error.

Each value carries e >= |computed - exact|. An operation adds the propagated errors of its operands and its own
rounding, u times the result (Higham, "Accuracy and stability of numerical algorithms", 2002, section 3.3). So the bound
of a long formula, say a recurrence over many steps, is that formula itself:

    N = Running.of(eps)
    h = (N(x) @ N(w) + N(bias)).tanh()
    h.e                                   # how far a body in the precision of eps may be from the exact tanh(x w + b)

A body that contracts products and sums, or adds in another order, stays within the same bound. Values are computed in
double precision; that they are not exact matters only to second order.
"""

from __future__ import annotations

import numpy as np

from tests.harness import gamma


class Running:
    """An array `v`, its error bound `e` and the precision `eps` (distance from 1 to the next number)."""

    def __init__(self, v, e, eps):
        self.v, self.e, self.eps = np.asarray(v, np.float64), np.asarray(e, np.float64), eps

    @staticmethod
    def of(eps):
        return lambda a: Running(a, np.zeros(np.shape(a)), eps)

    @property
    def tiny(self):
        """Rounding below the normal range: an absolute error."""
        return float(np.finfo(np.float32 if self.eps > 1e-10 else np.float64).smallest_subnormal)

    @property
    def most(self):
        """Largest magnitude of the computed value."""
        return np.abs(self.v) + self.e

    def _new(self, v, e, ulps=0.5):
        """`e`: propagated; `ulps` of the result are added for the operation's own rounding."""
        return Running(v, e + ulps * self.eps * (np.abs(v) + e) + self.tiny, self.eps)

    def _other(self, other):
        return other if isinstance(other, Running) else Running(other, 0.5 * self.eps * np.abs(other), self.eps)

    def __add__(self, other):
        other = self._other(other)
        return self._new(self.v + other.v, self.e + other.e)

    def __sub__(self, other):
        other = self._other(other)
        return self._new(self.v - other.v, self.e + other.e)

    def __mul__(self, other):
        other = self._other(other)
        return self._new(self.v * other.v, np.abs(self.v) * other.e + other.most * self.e)

    def __truediv__(self, other):
        """|a/b - a'/b'| <= (|a - a'| + |a/b| |b - b'|) / |b'|, and |b'| >= |b| - e."""
        other = self._other(other)
        least = np.maximum(np.abs(other.v) - other.e, 0)
        q = self.v / other.v
        return self._new(q, (self.e + np.abs(q) * other.e) / least)

    def __radd__(self, other):
        return self + other

    def __rsub__(self, other):
        return self._other(other) - self

    def __rmul__(self, other):
        return self * other

    def __matmul__(self, other):
        K = self.v.shape[-1]
        e = np.abs(self.v) @ other.e + self.e @ other.most
        own = gamma(K + 2, self.eps) * (self.most @ other.most) + K * self.tiny
        return Running(self.v @ other.v, e + own, self.eps)

    def sum(self, axis):
        n = self.v.shape[axis]
        own = gamma(n + 1, self.eps) * self.most.sum(axis=axis)
        return Running(self.v.sum(axis=axis), self.e.sum(axis=axis) + own, self.eps)

    def sqrt(self):
        """|sqrt(a) - sqrt(a')| <= sqrt(|a - a'|), and <= |a - a'| / sqrt(a)."""
        root = np.sqrt(self.v)
        e = np.minimum(np.sqrt(self.e), self.e / np.maximum(root, 1e-300))
        return self._new(root, e)

    def tanh(self):
        """The slope 1 - tanh^2 = 4 q / (1 + q)^2, q = exp(-2 |v|), is largest at the end of [v - e, v + e] next to 0.
        4 ulp of its own."""
        q = np.exp(-2 * np.maximum(np.abs(self.v) - self.e, 0))
        return self._new(np.tanh(self.v), np.minimum(self.e * 4 * q / (1 + q) ** 2, 2), 4)

    def sigmoid(self):
        """The slope is q / (1 + q)^2, q = exp(-|v|); as tanh. 4 ulp of its own."""
        q = np.exp(-np.maximum(np.abs(self.v) - self.e, 0))
        tail = np.exp(-np.abs(self.v))
        value = np.where(self.v < 0, tail, 1) / (1 + tail)
        return self._new(value, np.minimum(self.e * q / (1 + q) ** 2, 1), 4)

    def __getitem__(self, key):
        return Running(self.v[key], self.e[key], self.eps)

    @property
    def T(self):
        return Running(self.v.T, self.e.T, self.eps)

    def reshape(self, *shape):
        return Running(self.v.reshape(*shape), self.e.reshape(*shape), self.eps)


def concatenate(parts, axis=-1):
    return Running(
        np.concatenate([a.v for a in parts], axis=axis),
        np.concatenate([a.e for a in parts], axis=axis),
        parts[0].eps,
    )


def stack(parts, axis):
    return Running(np.stack([a.v for a in parts], axis), np.stack([a.e for a in parts], axis), parts[0].eps)
