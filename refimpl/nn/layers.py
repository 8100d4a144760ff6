"""Layers: parameters plus operations. Each is a frozen dataclass that holds no arrays; see layer.py for the contract.

Index alphabet: B batch, T time, C channels, H/W height/width, D width of features, V vocabulary. A feature array is
(..., D), an image (B, C, H, W).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from refimpl import ops
from refimpl.nn import init
from refimpl.nn.layer import Layer
from refimpl.nn.params import Init, Parameter
from refimpl.ops.matmul import ACTIVATIONS, FROM_OUTPUT

Pair = int | tuple[int, int]


def _pair(v: Pair) -> tuple[int, int]:
    return (v, v) if isinstance(v, int) else v


@dataclass(frozen=True)
class Linear(Layer):
    """y = x W + b, W (d_in, d_out). Initialised as He et al. for ReLU unless `weight_init` is given."""

    d_in: int
    d_out: int
    bias: bool = True
    weight_init: Init | None = None
    bias_init: Init = init.zeros

    def declare(self):
        weight = Parameter((self.d_in, self.d_out), self.weight_init or init.kaiming_uniform(self.d_in))
        return {"weight": weight, **({"bias": Parameter((self.d_out,), self.bias_init)} if self.bias else {})}

    def forward(self, params, x, train=False, rng=None):
        return ops.linear(x, params["weight"], params["bias"] if self.bias else None), x

    def backward(self, params, grads, saved, dy, need_dx=True):
        add_to = (grads["weight"], grads["bias"] if self.bias else None)
        return ops.linear_backward(dy, saved, params["weight"], need_dx, add_to)[0]

    def takes(self, activation):
        return type(self) is Linear and activation in ACTIVATIONS

    def forward_with(self, activation, params, x, train=False):
        y, kept = ops.dense(x, params["weight"], params["bias"] if self.bias else None, activation)
        return y, x, kept

    def backward_with(self, activation, params, grads, saved, above, dy, need_dx=True):
        add_to = (grads["weight"], grads["bias"] if self.bias else None)
        return ops.dense_backward(dy, saved, params["weight"], above, activation, need_dx, add_to)[0]


@dataclass(frozen=True)
class RowLinear(Linear):
    """y = x W^T + b, W (d_out, d_in): one row a unit, for rules that visit a layer unit by unit (ops.target_step)."""

    def declare(self):
        weight = Parameter((self.d_out, self.d_in), self.weight_init or init.kaiming_uniform(self.d_in))
        return {"weight": weight, **({"bias": Parameter((self.d_out,), self.bias_init)} if self.bias else {})}

    def forward(self, params, x, train=False, rng=None):
        return ops.linear(x, params["weight"].T, params["bias"] if self.bias else None), x

    def backward(self, params, grads, saved, dy, need_dx=True):
        rows, x = dy.reshape(-1, self.d_out), saved.reshape(-1, self.d_in)
        grads["weight"][...] += ops.matmul(rows, x, transpose_a=True)
        if self.bias:
            grads["bias"][...] += rows.sum(axis=0)
        return ops.matmul(rows, params["weight"]).reshape(saved.shape) if need_dx else None


class _Convolution(Layer):
    """What the convolutions share: weight, optional bias, and the geometry that their operation takes."""

    op: str
    bias: bool

    def geometry(self) -> tuple:
        raise NotImplementedError

    def _declare(self, shape, fan_in, weight_init=None):
        weight = Parameter(shape, weight_init or init.kaiming_uniform(fan_in))
        return {"weight": weight, **({"bias": Parameter((self.c_out,), init.zeros)} if self.bias else {})}

    def forward(self, params, x, train=False, rng=None):
        bias = params["bias"] if self.bias else None
        return getattr(ops, self.op)(x, params["weight"], bias, *self.geometry()), x

    def backward(self, params, grads, saved, dy, need_dx=True):
        add_to = (grads["weight"], grads["bias"] if self.bias else None)
        backward = getattr(ops, f"{self.op}_backward")
        return backward(dy, saved, params["weight"], *self.geometry(), need_dx, add_to)[0]


@dataclass(frozen=True)
class Conv2d(_Convolution):
    """Cross-correlation of (B, C, H, W) with `c_out` kernels; see ops.conv2d."""

    op = "conv2d"

    c_in: int
    c_out: int
    size: Pair
    stride: Pair = 1
    padding: Pair = 0
    dilation: Pair = 1
    groups: int = 1
    bias: bool = True
    weight_init: Init | None = None

    def declare(self):
        kh, kw = _pair(self.size)
        c = self.c_in // self.groups
        return self._declare((self.c_out, c, kh, kw), c * kh * kw, self.weight_init)

    def geometry(self):
        return self.stride, self.padding, self.dilation, self.groups


@dataclass(frozen=True)
class Conv1d(_Convolution):
    """Cross-correlation of (B, C, T) with `c_out` kernels; see ops.conv1d."""

    op = "conv1d"

    c_in: int
    c_out: int
    size: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1
    bias: bool = True

    def declare(self):
        c = self.c_in // self.groups
        return self._declare((self.c_out, c, self.size), c * self.size)

    def geometry(self):
        return self.stride, self.padding, self.dilation, self.groups


@dataclass(frozen=True)
class ConvTranspose2d(_Convolution):
    """The adjoint of Conv2d: (B, c_in, H, W) to a larger (B, c_out, H', W'); see ops.conv_transpose2d."""

    op = "conv_transpose2d"

    c_in: int
    c_out: int
    size: Pair
    stride: Pair = 1
    padding: Pair = 0
    output_padding: Pair = 0
    dilation: Pair = 1
    groups: int = 1
    bias: bool = True

    def declare(self):
        kh, kw = _pair(self.size)
        return self._declare((self.c_in, self.c_out // self.groups, kh, kw), self.c_in // self.groups * kh * kw)

    def geometry(self):
        return self.stride, self.padding, self.output_padding, self.dilation, self.groups


@dataclass(frozen=True)
class MaxPool2d(Layer):
    """Maximum over windows of (B, C, H, W)."""

    size: Pair
    stride: Pair | None = None
    padding: Pair = 0

    def forward(self, params, x, train=False, rng=None):
        y, index = ops.max_pool2d(x, self.size, self.stride, self.padding)
        return y, (index, x.shape)

    def backward(self, params, grads, saved, dy, need_dx=True):
        index, (_, _, height, width) = saved
        return ops.max_pool2d_backward(dy, index, height, width) if need_dx else None


@dataclass(frozen=True)
class AvgPool2d(Layer):
    """Mean over windows of (B, C, H, W)."""

    size: Pair
    stride: Pair | None = None
    padding: Pair = 0

    def forward(self, params, x, train=False, rng=None):
        return ops.avg_pool2d(x, self.size, self.stride, self.padding), x.shape

    def backward(self, params, grads, saved, dy, need_dx=True):
        _, _, height, width = saved
        return ops.avg_pool2d_backward(dy, height, width, self.size, self.stride, self.padding) if need_dx else None


@dataclass(frozen=True)
class GlobalAvgPool2d(Layer):
    """(B, C, H, W) to (B, C): the mean over each plane."""

    def forward(self, params, x, train=False, rng=None):
        return ops.global_avg_pool2d(x), x.shape

    def backward(self, params, grads, saved, dy, need_dx=True):
        return ops.global_avg_pool2d_backward(dy, saved[2], saved[3]) if need_dx else None


@dataclass(frozen=True)
class Upsample2d(Layer):
    """Enlarge (B, C, H, W) by a whole factor, mode "nearest" or "bilinear"."""

    factor: Pair = 2
    mode: str = "nearest"

    def __post_init__(self):
        if self.mode not in ("nearest", "bilinear"):
            raise ValueError(f"Upsample2d: mode is {self.mode!r}, expected 'nearest' or 'bilinear'")

    def forward(self, params, x, train=False, rng=None):
        return getattr(ops, f"upsample_{self.mode}2d")(x, self.factor), None

    def backward(self, params, grads, saved, dy, need_dx=True):
        return getattr(ops, f"upsample_{self.mode}2d_backward")(dy, self.factor) if need_dx else None


@functools.lru_cache(maxsize=64)
def _means(n: int, m: int, dtype: str) -> np.ndarray:
    """(n, m): column i averages entries floor(i n / m) .. ceil((i + 1) n / m) - 1 of n."""
    a = np.zeros((n, m), dtype)
    for i in range(m):
        first, last = i * n // m, -(-(i + 1) * n // m)
        a[first:last, i] = 1 / (last - first)
    a.flags.writeable = False  # shared by all calls
    return a


@functools.lru_cache(maxsize=64)
def _between(n: int, m: int, dtype: str) -> np.ndarray:
    """(n, m): column i interpolates linearly at i (n - 1) / (m - 1), so that both ends stay."""
    a = np.zeros((n, m), dtype)
    for i in range(m):
        at = i * (n - 1) / (m - 1) if m > 1 else 0.0
        left = min(int(at), max(n - 2, 0))
        a[left, i] += 1 - (at - left)
        if n > 1:
            a[left + 1, i] += at - left
    a.flags.writeable = False
    return a


@dataclass(frozen=True)
class _Resample(Layer):
    """y[b, c] = R^T x[b, c] S: another extent (height, width) by one matrix along each axis."""

    size: Pair

    def matrices(self, x_shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def forward(self, params, x, train=False, rng=None):
        R, S = self.matrices(x.shape, x.dtype)
        return ops.matmul(R, ops.matmul(x, S), transpose_a=True), x.shape

    def backward(self, params, grads, saved, dy, need_dx=True):
        if not need_dx:
            return None
        R, S = self.matrices(saved, dy.dtype)
        return ops.matmul(ops.matmul(R, dy), S, transpose_b=True)


@dataclass(frozen=True)
class AdaptiveAvgPool2d(_Resample):
    """(B, C, H, W) to (B, C, *size): means over windows that cover the plane, of nearly equal extents."""

    def matrices(self, x_shape, dtype):
        h, w = _pair(self.size)
        return _means(x_shape[2], h, dtype.name), _means(x_shape[3], w, dtype.name)


@dataclass(frozen=True)
class Resize2d(_Resample):
    """(B, C, H, W) to (B, C, *size) by bilinear interpolation; the corners stay where they are (PyTorch's
    align_corners=True)."""

    def matrices(self, x_shape, dtype):
        h, w = _pair(self.size)
        return _between(x_shape[2], h, dtype.name), _between(x_shape[3], w, dtype.name)


@dataclass(frozen=True)
class Reshape(Layer):
    """(B, ...) to (B, *shape)."""

    shape: tuple[int, ...]

    def forward(self, params, x, train=False, rng=None):
        return x.reshape(len(x), *self.shape), x.shape

    def backward(self, params, grads, saved, dy, need_dx=True):
        return dy.reshape(saved)


@dataclass(frozen=True)
class Flatten(Layer):
    """(B, ...) to (B, D)."""

    def forward(self, params, x, train=False, rng=None):
        return x.reshape(len(x), math.prod(x.shape[1:])), x.shape

    def backward(self, params, grads, saved, dy, need_dx=True):
        return dy.reshape(saved)


@dataclass(frozen=True)
class Activation(Layer):
    """An element-wise function by its name in refimpl.ops; "identity" is the linear one."""

    name: str

    def __post_init__(self):
        known = ("identity", *ACTIVATIONS)
        if self.name not in known:
            raise ValueError(f"Activation: name is {self.name!r}, expected one of {', '.join(known)}")

    def forward(self, params, x, train=False, rng=None):
        if self.name == "identity":
            return x, None
        y = getattr(ops, self.name)(x)
        return y, (y if self.name in FROM_OUTPUT else x)

    def backward(self, params, grads, saved, dy, need_dx=True):
        if self.name == "identity":
            return dy
        return getattr(ops, f"{self.name}_backward")(dy, saved) if need_dx else None


@dataclass(frozen=True)
class LayerNorm(Layer):
    """Normalise the last axis (D) of each position, then scale and shift. Ba, Kiros and Hinton, 2016."""

    d: int
    eps: float = 1e-5

    def declare(self):
        return {"gain": Parameter((self.d,), init.ones), "bias": Parameter((self.d,), init.zeros)}

    def forward(self, params, x, train=False, rng=None):
        y, mean, rstd = ops.layernorm(x, params["gain"], params["bias"], self.eps)
        return y, (x, mean, rstd)

    def backward(self, params, grads, saved, dy, need_dx=True):
        x, mean, rstd = saved
        dx, dgain, dbias = ops.layernorm_backward(dy, x, params["gain"], mean, rstd)
        grads["gain"][...] += dgain
        grads["bias"][...] += dbias
        return dx


@dataclass(frozen=True)
class RMSNorm(Layer):
    """Divide by the root mean square of the last axis, then scale. Zhang and Sennrich, 2019."""

    d: int
    eps: float = 1e-5

    def declare(self):
        return {"gain": Parameter((self.d,), init.ones)}

    def forward(self, params, x, train=False, rng=None):
        y, rrms = ops.rmsnorm(x, params["gain"], self.eps)
        return y, (x, rrms)

    def backward(self, params, grads, saved, dy, need_dx=True):
        x, rrms = saved
        dx, dgain = ops.rmsnorm_backward(dy, x, params["gain"], rrms)
        grads["gain"][...] += dgain
        return dx


@dataclass(frozen=True)
class GroupNorm(Layer):
    """Normalise groups of channels of (B, C, ...). Wu and He, 2018."""

    c: int
    groups: int
    eps: float = 1e-5

    def declare(self):
        return {"gain": Parameter((self.c,), init.ones), "bias": Parameter((self.c,), init.zeros)}

    def forward(self, params, x, train=False, rng=None):
        y, mean, rstd = ops.groupnorm(x, params["gain"], params["bias"], self.groups, self.eps)
        return y, (x, mean, rstd)

    def backward(self, params, grads, saved, dy, need_dx=True):
        x, mean, rstd = saved
        dx, dgain, dbias = ops.groupnorm_backward(dy, x, params["gain"], mean, rstd)
        grads["gain"][...] += dgain
        grads["bias"][...] += dbias
        return dx


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Normalise each channel (axis 1) of (B, C, ...) over the batch. Ioffe and Szegedy, 2015.

    With train=True by the batch's own statistics, which also move the running ones:
    running = (1 - momentum) running + momentum batch (the variance there is the unbiased one, as is usual). Otherwise
    by the running statistics, which live in the parameters' state.
    """

    c: int
    momentum: float = 0.1
    eps: float = 1e-5

    def declare(self):
        return {
            "gain": Parameter((self.c,), init.ones),
            "bias": Parameter((self.c,), init.zeros),
            "mean": Parameter((self.c,), init.zeros, trained=False),
            "variance": Parameter((self.c,), init.ones, trained=False),
        }

    def forward(self, params, x, train=False, rng=None):
        if not train:
            args = (params["gain"], params["bias"], params["mean"], params["variance"])
            return ops.batchnorm_inference(x, *args, self.eps), (x, None, None)
        y, mean, rstd = ops.batchnorm(x, params["gain"], params["bias"], self.eps)
        self._move(params, x.size // self.c, mean, rstd)
        return y, (x, mean, rstd)

    def _move(self, params, n, mean, rstd):
        """The running statistics, by those of n numbers a channel."""
        variance = (1 / rstd**2 - self.eps) * (n / max(1, n - 1))
        params["mean"][...] += self.momentum * (mean - params["mean"])
        params["variance"][...] += self.momentum * (variance - params["variance"])

    def backward(self, params, grads, saved, dy, need_dx=True):
        x, mean, rstd = saved
        if mean is None:
            dx, dgain, dbias = ops.batchnorm_inference_backward(
                dy, x, params["gain"], params["mean"], params["variance"], self.eps
            )
        else:
            dx, dgain, dbias = ops.batchnorm_backward(dy, x, params["gain"], mean, rstd)
        self._learn(grads, dgain, dbias)
        return dx

    def _learn(self, grads, dgain, dbias):
        grads["gain"][...] += dgain
        grads["bias"][...] += dbias

    def takes(self, activation):
        return activation == "relu"

    def forward_with(self, activation, params, x, train=False):
        if not train:
            z, saved = self.forward(params, x)
            y = ops.relu(z)
            return y, saved, y
        y, mean, rstd = ops.batchnorm_relu(x, params["gain"], params["bias"], self.eps)
        self._move(params, x.size // self.c, mean, rstd)
        return y, (x, mean, rstd), y

    def backward_with(self, activation, params, grads, saved, above, dy, need_dx=True):
        x, mean, rstd = saved
        if mean is None:
            return self.backward(params, grads, saved, ops.relu_backward(dy, above), need_dx)
        dx, dgain, dbias = ops.batchnorm_relu_backward(dy, above, x, params["gain"], mean, rstd)
        self._learn(grads, dgain, dbias)
        return dx


@dataclass(frozen=True)
class Embedding(Layer):
    """Rows of a table (V, D) by integer index."""

    v: int
    d: int
    weight_init: Init | None = None  # the standard normal distribution

    def declare(self):
        return {"table": Parameter((self.v, self.d), self.weight_init or init.normal(1.0))}

    def forward(self, params, x, train=False, rng=None):
        return ops.embedding(x, params["table"]), x

    def backward(self, params, grads, saved, dy, need_dx=True):
        grads["table"][...] += ops.embedding_backward(dy, saved, self.v)
        return None  # an index has no gradient


@dataclass(frozen=True)
class Dropout(Layer):
    """Set entries to zero with probability `rate` and divide the rest by 1 - rate; the identity at inference.

    Srivastava et al., 2014 (inverted form). With train=True and rate > 0, `rng` must be given.
    """

    rate: float

    def __post_init__(self):
        if not 0 <= self.rate < 1:
            raise ValueError(f"Dropout: rate is {self.rate}, expected 0 <= rate < 1")

    def forward(self, params, x, train=False, rng=None):
        if not train or self.rate == 0:
            return x, None
        if rng is None:
            raise ValueError("Dropout: forward(train=True) needs rng, the source of the mask")
        mask = rng.random(x.shape, np.float32) >= self.rate
        return ops.dropout(x, mask, self.rate), mask

    def backward(self, params, grads, saved, dy, need_dx=True):
        return dy if saved is None else ops.dropout_backward(dy, saved, self.rate)
