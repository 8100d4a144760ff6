"""Native mirrors of refimpl/ops/norm.py: check, make contiguous, call the kernel of the same name."""

from __future__ import annotations

import math

import numpy as np

from refimpl.backends.native import NULL, check, contiguous, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import norm as ops


def _in(*arrays):
    """Pointers to inputs, NULL for None."""
    return [NULL if a is None else p(a if a.flags.c_contiguous else contiguous(a)) for a in arrays]


def _bcs(x):
    """x (B, C, ...) as its sizes B, C and S, the number of positions."""
    return x.shape[0], x.shape[1], math.prod(x.shape[2:])


_layernorm, _layernorm_backward = kernel("layernorm"), kernel("layernorm_backward")


@ops.layernorm.mirror("native")
def layernorm(x, gain, bias, eps=1e-5):
    ops._layernorm("layernorm", x, gain, bias, eps)
    D, rows = x.shape[-1], x.shape[:-1]
    y, mean, rstd = np.empty(x.shape, x.dtype), np.empty(rows, x.dtype), np.empty(rows, x.dtype)
    status = _layernorm[x.dtype](*_in(x, gain, bias), eps, mean.size, D, p(y), p(mean), p(rstd), threads())
    check(status, "layernorm")
    return y, mean, rstd


@ops.layernorm_backward.mirror("native")
def layernorm_backward(dy, x, gain, mean, rstd):
    ops._layernorm_backward("layernorm_backward", dy, x, gain, mean, rstd)
    D = x.shape[-1]
    dx, dgain, dbias = np.empty(x.shape, x.dtype), np.empty(D, x.dtype), np.empty(D, x.dtype)
    status = _layernorm_backward[x.dtype](
        *_in(dy, x, gain, mean, rstd), mean.size, D, p(dx), p(dgain), p(dbias), threads()
    )
    check(status, "layernorm_backward")
    return dx, dgain, dbias


_rmsnorm, _rmsnorm_backward = kernel("rmsnorm"), kernel("rmsnorm_backward")


@ops.rmsnorm.mirror("native")
def rmsnorm(x, gain, eps=1e-5):
    ops._layernorm("rmsnorm", x, gain, None, eps)
    y, rrms = np.empty(x.shape, x.dtype), np.empty(x.shape[:-1], x.dtype)
    check(_rmsnorm[x.dtype](*_in(x, gain), eps, rrms.size, x.shape[-1], p(y), p(rrms), threads()), "rmsnorm")
    return y, rrms


@ops.rmsnorm_backward.mirror("native")
def rmsnorm_backward(dy, x, gain, rrms):
    ops._rmsnorm_backward("rmsnorm_backward", dy, x, gain, rrms)
    D = x.shape[-1]
    dx, dgain = np.empty(x.shape, x.dtype), np.empty(D, x.dtype)
    status = _rmsnorm_backward[x.dtype](*_in(dy, x, gain, rrms), rrms.size, D, p(dx), p(dgain), threads())
    check(status, "rmsnorm_backward")
    return dx, dgain


_groupnorm, _groupnorm_backward = kernel("groupnorm"), kernel("groupnorm_backward")


@ops.groupnorm.mirror("native")
def groupnorm(x, gain, bias, groups, eps=1e-5):
    ops._groupnorm("groupnorm", x, gain, bias, groups, eps)
    y = np.empty(x.shape, x.dtype)
    mean, rstd = (np.empty((len(x), groups), x.dtype) for _ in range(2))
    status = _groupnorm[x.dtype](*_in(x, gain, bias), groups, eps, *_bcs(x), p(y), p(mean), p(rstd), threads())
    check(status, "groupnorm")
    return y, mean, rstd


@ops.groupnorm_backward.mirror("native")
def groupnorm_backward(dy, x, gain, mean, rstd):
    ops._groupnorm_backward("groupnorm_backward", dy, x, gain, mean, rstd)
    dx = np.empty(x.shape, x.dtype)
    dgain, dbias = (np.empty(x.shape[1], x.dtype) for _ in range(2))
    status = _groupnorm_backward[x.dtype](
        *_in(dy, x, gain, mean, rstd), mean.shape[1], *_bcs(x), p(dx), p(dgain), p(dbias), threads()
    )
    check(status, "groupnorm_backward")
    return dx, dgain, dbias


_batchnorm, _batchnorm_backward = kernel("batchnorm"), kernel("batchnorm_backward")


@ops.batchnorm.mirror("native")
def batchnorm(x, gain, bias, eps=1e-5):
    ops._batchnorm("batchnorm", x, gain, bias, eps)
    y = np.empty(x.shape, x.dtype)
    mean, rstd = (np.empty(x.shape[1], x.dtype) for _ in range(2))
    status = _batchnorm[x.dtype](*_in(x, gain, bias), eps, *_bcs(x), p(y), p(mean), p(rstd), threads())
    check(status, "batchnorm")
    return y, mean, rstd


@ops.batchnorm_backward.mirror("native")
def batchnorm_backward(dy, x, gain, mean, rstd):
    ops._batchnorm_backward("batchnorm_backward", dy, x, gain, mean, rstd)
    dx = np.empty(x.shape, x.dtype)
    dgain, dbias = (np.empty(x.shape[1], x.dtype) for _ in range(2))
    status = _batchnorm_backward[x.dtype](*_in(dy, x, gain, mean, rstd), *_bcs(x), p(dx), p(dgain), p(dbias), threads())
    check(status, "batchnorm_backward")
    return dx, dgain, dbias


_relu, _relu_backward = kernel("batchnorm_relu"), kernel("batchnorm_relu_backward")


@ops.batchnorm_relu.mirror("native")
def batchnorm_relu(x, gain, bias, eps=1e-5):
    ops._batchnorm("batchnorm_relu", x, gain, bias, eps)
    y = np.empty(x.shape, x.dtype)
    mean, rstd = (np.empty(x.shape[1], x.dtype) for _ in range(2))
    status = _relu[x.dtype](*_in(x, gain, bias), eps, *_bcs(x), p(y), p(mean), p(rstd), threads())
    check(status, "batchnorm_relu")
    return y, mean, rstd


@ops.batchnorm_relu_backward.mirror("native")
def batchnorm_relu_backward(dy, y, x, gain, mean, rstd):
    ops._batchnorm_relu_backward("batchnorm_relu_backward", dy, y, x, gain, mean, rstd)
    dx = np.empty(x.shape, x.dtype)
    dgain, dbias = (np.empty(x.shape[1], x.dtype) for _ in range(2))
    arrays = _in(dy, y, x, gain, mean, rstd)
    status = _relu_backward[x.dtype](*arrays, *_bcs(x), p(dx), p(dgain), p(dbias), threads())
    check(status, "batchnorm_relu_backward")
    return dx, dgain, dbias


_inference, _inference_backward = kernel("batchnorm_inference"), kernel("batchnorm_inference_backward")


@ops.batchnorm_inference.mirror("native")
def batchnorm_inference(x, gain, bias, mean, variance, eps=1e-5):
    ops._inference("batchnorm_inference", x, gain, bias, mean, variance, eps)
    y = np.empty(x.shape, x.dtype)
    status = _inference[x.dtype](*_in(x, gain, bias, mean, variance), eps, *_bcs(x), p(y), threads())
    check(status, "batchnorm_inference")
    return y


@ops.batchnorm_inference_backward.mirror("native")
def batchnorm_inference_backward(dy, x, gain, mean, variance, eps=1e-5):
    ops._inference_backward("batchnorm_inference_backward", dy, x, gain, mean, variance, eps)
    dx = np.empty(x.shape, x.dtype)
    dgain, dbias = (np.empty(x.shape[1], x.dtype) for _ in range(2))
    status = _inference_backward[x.dtype](
        *_in(dy, x, gain, mean, variance), eps, *_bcs(x), p(dx), p(dgain), p(dbias), threads()
    )
    check(status, "batchnorm_inference_backward")
    return dx, dgain, dbias
