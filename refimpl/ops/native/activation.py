"""Native mirrors of refimpl/ops/activation.py: check, make contiguous, call the kernel of the same name."""

from __future__ import annotations

import numpy as np

from refimpl.backends.native import check, contiguous, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import activation as ops
from refimpl.ops.activation import _gated, _gated_backward, _one, _pair


def _forward(name, kernels, x, out, **numbers):
    _one(name, x, out, **numbers)
    x = contiguous(x)
    y = np.empty(x.shape, x.dtype) if out is None else out
    check(kernels[x.dtype](p(x), *numbers.values(), x.size, p(y), threads()), name)
    return y


def _backward(name, kernels, dy, a_name, a, out, **numbers):
    _pair(name, dy, a_name, a, out, **numbers)
    dy, a = contiguous(dy), contiguous(a)
    dx = np.empty(a.shape, a.dtype) if out is None else out
    check(kernels[a.dtype](p(dy), p(a), *numbers.values(), a.size, p(dx), threads()), name)
    return dx


_relu, _relu_backward = kernel("relu"), kernel("relu_backward")


@ops.relu.mirror("native")
def relu(x, out=None):
    return _forward("relu", _relu, x, out)


@ops.relu_backward.mirror("native")
def relu_backward(dy, y, out=None):
    return _backward("relu_backward", _relu_backward, dy, "y", y, out)


_leaky_relu, _leaky_relu_backward = kernel("leaky_relu"), kernel("leaky_relu_backward")


@ops.leaky_relu.mirror("native")
def leaky_relu(x, slope=0.01, out=None):
    return _forward("leaky_relu", _leaky_relu, x, out, slope=slope)


@ops.leaky_relu_backward.mirror("native")
def leaky_relu_backward(dy, x, slope=0.01, out=None):
    return _backward("leaky_relu_backward", _leaky_relu_backward, dy, "x", x, out, slope=slope)


_elu, _elu_backward = kernel("elu"), kernel("elu_backward")


@ops.elu.mirror("native")
def elu(x, alpha=1.0, out=None):
    return _forward("elu", _elu, x, out, alpha=alpha)


@ops.elu_backward.mirror("native")
def elu_backward(dy, x, alpha=1.0, out=None):
    return _backward("elu_backward", _elu_backward, dy, "x", x, out, alpha=alpha)


_gelu, _gelu_backward = kernel("gelu"), kernel("gelu_backward")


@ops.gelu.mirror("native")
def gelu(x, out=None):
    return _forward("gelu", _gelu, x, out)


@ops.gelu_backward.mirror("native")
def gelu_backward(dy, x, out=None):
    return _backward("gelu_backward", _gelu_backward, dy, "x", x, out)


_gelu_tanh, _gelu_tanh_backward = kernel("gelu_tanh"), kernel("gelu_tanh_backward")


@ops.gelu_tanh.mirror("native")
def gelu_tanh(x, out=None):
    return _forward("gelu_tanh", _gelu_tanh, x, out)


@ops.gelu_tanh_backward.mirror("native")
def gelu_tanh_backward(dy, x, out=None):
    return _backward("gelu_tanh_backward", _gelu_tanh_backward, dy, "x", x, out)


_silu, _silu_backward = kernel("silu"), kernel("silu_backward")


@ops.silu.mirror("native")
def silu(x, out=None):
    return _forward("silu", _silu, x, out)


@ops.silu_backward.mirror("native")
def silu_backward(dy, x, out=None):
    return _backward("silu_backward", _silu_backward, dy, "x", x, out)


_tanh, _tanh_backward = kernel("tanh"), kernel("tanh_backward")


@ops.tanh.mirror("native")
def tanh(x, out=None):
    return _forward("tanh", _tanh, x, out)


@ops.tanh_backward.mirror("native")
def tanh_backward(dy, y, out=None):
    return _backward("tanh_backward", _tanh_backward, dy, "y", y, out)


_sigmoid, _sigmoid_backward = kernel("sigmoid"), kernel("sigmoid_backward")


@ops.sigmoid.mirror("native")
def sigmoid(x, out=None):
    return _forward("sigmoid", _sigmoid, x, out)


@ops.sigmoid_backward.mirror("native")
def sigmoid_backward(dy, y, out=None):
    return _backward("sigmoid_backward", _sigmoid_backward, dy, "y", y, out)


_softplus, _softplus_backward = kernel("softplus"), kernel("softplus_backward")


@ops.softplus.mirror("native")
def softplus(x, out=None):
    return _forward("softplus", _softplus, x, out)


@ops.softplus_backward.mirror("native")
def softplus_backward(dy, x, out=None):
    return _backward("softplus_backward", _softplus_backward, dy, "x", x, out)


_swiglu, _swiglu_backward = kernel("swiglu"), kernel("swiglu_backward")


@ops.swiglu.mirror("native")
def swiglu(x):
    shape = _gated("swiglu", x)
    x, y = contiguous(x), np.empty(shape, x.dtype)
    D = shape[-1]
    if y.size:
        check(_swiglu[x.dtype](p(x), y.size // D, D, p(y), threads()), "swiglu")
    return y


@ops.swiglu_backward.mirror("native")
def swiglu_backward(dy, x):
    _gated_backward("swiglu_backward", dy, x)
    dy, x = contiguous(dy), contiguous(x)
    dx, D = np.empty(x.shape, x.dtype), dy.shape[-1]
    if x.size:
        check(_swiglu_backward[x.dtype](p(dy), p(x), dy.size // D, D, p(dx), threads()), "swiglu_backward")
    return dx
