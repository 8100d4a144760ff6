"""Native mirrors of refimpl/ops/softmax.py: check, make contiguous, call the kernel of the same name."""

from __future__ import annotations

import numpy as np

from refimpl.backends.native import check, contiguous, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import _check
from refimpl.ops import softmax as ops
from refimpl.ops.softmax import _one, _pair, _rows, _triple


def _forward(name, kernels, z, out):
    _one(name, z, out)
    z, K = contiguous(z), z.shape[-1]
    y = np.empty(z.shape, z.dtype) if out is None else out
    if z.size:
        check(kernels[z.dtype](p(z), z.size // K, K, p(y), threads()), name)
    return y


def _backward(name, kernels, dy, y, out):
    _pair(name, dy, y, out)
    dy, y, K = contiguous(dy), contiguous(y), y.shape[-1]
    dz = np.empty(y.shape, y.dtype) if out is None else out
    if y.size:
        check(kernels[y.dtype](p(dy), p(y), y.size // K, K, p(dz), threads()), name)
    return dz


_softmax, _softmax_backward = kernel("softmax"), kernel("softmax_backward")


@ops.softmax.mirror("native")
def softmax(z, out=None):
    return _forward("softmax", _softmax, z, out)


@ops.softmax_backward.mirror("native")
def softmax_backward(dy, y, out=None):
    return _backward("softmax_backward", _softmax_backward, dy, y, out)


_log_softmax, _log_softmax_backward = kernel("log_softmax"), kernel("log_softmax_backward")


@ops.log_softmax.mirror("native")
def log_softmax(z, out=None):
    return _forward("log_softmax", _log_softmax, z, out)


@ops.log_softmax_backward.mirror("native")
def log_softmax_backward(dy, y, out=None):
    return _backward("log_softmax_backward", _log_softmax_backward, dy, y, out)


_logsumexp, _logsumexp_backward = kernel("logsumexp"), kernel("logsumexp_backward")


@ops.logsumexp.mirror("native")
def logsumexp(z):
    _check.floats("logsumexp", "z", z)
    _rows("logsumexp", "z", z)
    z = contiguous(z)
    y = np.empty(z.shape[:-1], z.dtype)
    if z.size:
        check(_logsumexp[z.dtype](p(z), y.size, z.shape[-1], p(y), threads()), "logsumexp")
    return y


@ops.logsumexp_backward.mirror("native")
def logsumexp_backward(dy, z, y):
    _triple("logsumexp_backward", dy, z, y)
    dy, z, y = contiguous(dy), contiguous(z), contiguous(y)
    dz = np.empty(z.shape, z.dtype)
    if z.size:
        status = _logsumexp_backward[z.dtype](p(dy), p(z), p(y), y.size, z.shape[-1], p(dz), threads())
        check(status, "logsumexp_backward")
    return dz
