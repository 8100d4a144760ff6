"""Networks that look at an image and a noisy label and say what the label is: the blocks of NoProp and its baselines.

    h_x = image(x)      h_z = label(z)      e = time(t), in continuous time only
    f   = head(h_x M_x + h_z M_z + e M_t)   one linear layer on [h_x, h_z, e], written as three products

f are K logits, turned into an embedding by ops.softmax_mixture, or the D numbers of a velocity. The image's part
g = h_x M_x + bias depends on nothing else, so a rollout over many steps computes it once.

Beside the blocks: the class embeddings W_E and the read-outs that turn a denoised embedding into class logits.
Source of the networks: Li, Teh and Pascanu, "NoProp", 2025, figure 6, and a smaller version without convolutions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl import ops
from refimpl.nn import (
    Activation,
    BatchNorm,
    Conv2d,
    Dropout,
    Flatten,
    Layer,
    Linear,
    MaxPool2d,
    Parameter,
    Reshape,
    Residual,
    Sequential,
    declare_all,
    init,
)

__all__ = [
    "Denoiser",
    "Embedding",
    "ReadOut",
    "TimeFeatures",
    "add_rows",
    "denoiser",
    "embed",
    "prototypes",
]


@dataclass(frozen=True)
class TimeFeatures(Layer):
    """Sines and cosines of 1000 t at `width`/2 frequencies from 1 down to 1/10000: times (N,) to (N, width).

    Without the factor 1000, t in [0, 1] would turn most of them by nothing. After Vaswani et al., 2017. Times get no
    gradient.
    """

    width: int

    def forward(self, params, x, train=False, rng=None):
        half = self.width // 2
        angle = 1000 * x[:, None].astype(np.float64) * np.exp(-math.log(10000) * np.arange(half) / half)
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(x.dtype), None

    def backward(self, params, grads, saved, dy, need_dx=True):
        return None


@dataclass(frozen=True)
class Denoiser(Layer):
    """One block. `forward` takes (x, z) or, with a time path, (x, z, t): x (B, ...), z (B, D), t (B,) or one time (1,).

    `forward` is `features` then `denoise`, and `backward` the two backwards in turn; a rollout calls the parts.
    """

    image: Layer
    label: Layer
    head: Layer
    join_image: Linear
    join_label: Linear
    time: Layer | None = None
    join_time: Linear | None = None

    def declare(self):
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return declare_all(**{name: part for name, part in parts.items() if part is not None})

    def forward(self, params, x, train=False, rng=None):
        x, z, t = (*x, None)[:3]
        g, image = self.features(params, x, train, rng)
        f, rest = self.denoise(params, g, z, t, train, rng)
        return f, (image, rest)

    def backward(self, params, grads, saved, dy, need_dx=True):
        """Adds all parameter gradients; returns dL/dz, or None with need_dx False. x gets none."""
        image, rest = saved
        dg, dz = self.denoise_backward(params, grads, rest, dy, need_dx)
        self.features_backward(params, grads, image, dg)
        return dz

    def features(self, params, x, train=False, rng=None):
        """g = image(x) M_x + bias (B, width), and what its backward needs."""
        h, image = self.image.forward(params.scope("image"), x, train, rng)
        g, join = self.join_image.forward(params.scope("join_image"), h)
        return g, (image, join)

    def features_backward(self, params, grads, saved, dg):
        image, join = saved
        dh = self.join_image.backward(params.scope("join_image"), grads.scope("join_image"), join, dg)
        self.image.backward(params.scope("image"), grads.scope("image"), image, dh, need_dx=False)

    def denoise(self, params, g, z, t=None, train=False, rng=None):
        """f (B, K or D) from the image's features g, the noisy label z and, with a time path, the times t."""
        h, label = self.label.forward(params.scope("label"), z, train, rng)
        s, join = self.join_label.forward(params.scope("join_label"), h)
        s += g
        time = None
        if self.time is not None:
            e, early = self.time.forward(params.scope("time"), t.astype(z.dtype), train, rng)
            shift, late = self.join_time.forward(params.scope("join_time"), e)
            s += shift  # one row for all where t is one time
            time = early, late
        f, head = self.head.forward(params.scope("head"), s, train, rng)
        return f, (label, join, time, head)

    def denoise_backward(self, params, grads, saved, df, need_dz=True):
        """(dL/dg, dL/dz); dL/dz is None with need_dz False."""
        label, join, time, head = saved
        ds = self.head.backward(params.scope("head"), grads.scope("head"), head, df)
        if time is not None:
            early, late = time
            shared = len(late) == 1 and len(ds) > 1
            de = self.join_time.backward(
                params.scope("join_time"),
                grads.scope("join_time"),
                late,
                ds.sum(axis=0, keepdims=True) if shared else ds,
            )
            self.time.backward(params.scope("time"), grads.scope("time"), early, de, need_dx=False)
        dh = self.join_label.backward(params.scope("join_label"), grads.scope("join_label"), join, ds)
        return ds, self.label.backward(params.scope("label"), grads.scope("label"), label, dh, need_dz)


def _image_path(shape: tuple[int, int, int], width: int, dropout: float, norm: bool, act: Activation) -> list[Layer]:
    """Figure 6: three 3x3 convolutions with two 2x2 poolings, a linear layer and batch norm."""
    c, h, w = shape
    flat = 128 * (h // 4) * (w // 4)
    convolutions = [Conv2d(c, 32, 3, padding=1), act, MaxPool2d(2), Dropout(dropout)]
    convolutions += [Conv2d(32, 64, 3, padding=1), act, Dropout(dropout)]
    convolutions += [Conv2d(64, 128, 3, padding=1), act, MaxPool2d(2), Dropout(dropout)]
    return [*convolutions, Flatten(), Linear(flat, width), *([BatchNorm(width)] if norm else [])]


def denoiser(
    kind: str,
    shape: tuple[int, ...],
    D: int,
    d_out: int,
    width: int,
    timed: bool = False,
    image_label: bool = False,
    dropout: float = 0.0,
    activation: str = "relu",
    time_width: int = 64,
) -> Denoiser:
    """A block for inputs of `shape`, labels of D numbers and `d_out` outputs.

    kind "mlp": one hidden layer of `width` on each of image and label, one joint hidden layer, a linear output.
    kind "conv": the network of the paper's figure 6 for images (C, H, W) of at least 4 x 4 pixels; with batch norm
    unless `timed` (continuous time), and, where `image_label` says that labels are images too (prototypes), with a copy
    of the image path for the label. Raises ValueError for another kind or a shape that it cannot take.
    """
    act = Activation(activation)
    timing: dict[str, Any] = {}
    if timed:
        timing = {
            "time": Sequential(TimeFeatures(time_width), Linear(time_width, time_width), act),
            "join_time": Linear(time_width, width, bias=False),
        }
    joins: dict[str, Any] = {"join_image": Linear(width, width), "join_label": Linear(width, width, bias=False)}
    last = init.kaiming_uniform(width, 1.0)
    if kind == "mlp":
        d_in = math.prod(shape)
        return Denoiser(
            image=Sequential(Flatten(), Linear(d_in, width), act),
            label=Sequential(Linear(D, width), act),
            head=Sequential(act, Linear(width, d_out, weight_init=last)),
            **joins,
            **timing,
        )
    if kind != "conv":
        raise ValueError(f"block is {kind!r}, expected 'mlp' or 'conv'")
    if len(shape) != 3 or min(shape[1:]) < 4:
        raise ValueError(
            f"block 'conv' takes images (C, H, W) of at least 4 x 4 pixels, but the input has shape {shape}"
        )
    c, h, w = shape

    def norm(n: int) -> list[Layer]:
        return [] if timed else [BatchNorm(n)]

    if image_label:
        label: list[Layer] = [Reshape((c, h, w)), *_image_path((c, h, w), width, dropout, not timed, act)]
    else:
        inner = Sequential(Linear(width, width), *norm(width), act, Linear(width, width), *norm(width))
        label = [Linear(D, width), *norm(width), act, Residual(inner)]
    half = max(1, width // 2)
    head = [*norm(width), act, Linear(width, half), *norm(half), act]
    return Denoiser(
        image=Sequential(*_image_path((c, h, w), width, dropout, not timed, act)),
        label=Sequential(*label),
        head=Sequential(*head, Linear(half, d_out, weight_init=init.kaiming_uniform(half, 1.0))),
        **joins,
        **timing,
    )


# ---------------------------------------------------------------- class embeddings


def prototypes(X: np.ndarray, y: np.ndarray, K: int) -> np.ndarray:
    """For each class the training image whose median distance to the other images of its class is smallest, (K, D)."""
    X = X.reshape(len(X), -1)
    chosen = np.empty((K, X.shape[1]), X.dtype)
    for k in range(K):
        own = X[y == k]
        power = (own * own).sum(axis=1)
        medians = [
            np.median(power[i : i + 512, None] + power - 2 * own[i : i + 512] @ own.T, axis=1)
            for i in range(0, len(own), 512)
        ]
        chosen[k] = own[np.argmin(np.concatenate(medians))]
    return chosen


@dataclass(frozen=True)
class Embedding(Layer):
    """W_E (K, D), one row a class. kind "onehot" (the identity: no parameters), "learned" (orthogonal start) or
    "prototype" (starts at `start`, see `prototypes`, and is then learned).

    Wherever a class embedding is an argument, None stands for one-hot.
    """

    kind: str
    K: int
    D: int
    start: np.ndarray | None = None

    def declare(self):
        first = {"learned": init.orthogonal(), "prototype": lambda rng, shape: self.start}
        return {} if self.kind == "onehot" else {"table": Parameter((self.K, self.D), first[self.kind])}

    def table(self, params) -> np.ndarray | None:
        """W_E, or its gradient in a gradient's windows; None for one-hot."""
        return None if self.kind == "onehot" else params["table"]


def embed(W: np.ndarray | None, y: np.ndarray, like: np.ndarray) -> np.ndarray:
    """u_b = W[y_b], the clean embeddings, with the shape (B, D) and dtype of `like`."""
    if W is not None:
        return W[y]
    u = np.zeros_like(like)
    u[np.arange(len(y)), y] = 1
    return u


def add_rows(dW: np.ndarray, y: np.ndarray, rows: np.ndarray) -> None:
    """dW[y_b] += rows_b for every b, the gradient of `embed` (S in the equations)."""
    dW += ops.embedding_backward(rows, y, len(dW))


@dataclass(frozen=True)
class ReadOut(Layer):
    """Class logits o (B, K) from an embedding z (B, D).

    kind "linear":    o = z theta + b.
    kind "nearest":   o_k = -||z - W_k||^2 / (2 sigma^2): a Gaussian around each class embedding, no parameters.
    kind "distance":  "nearest" of yhat = softmax(z theta + b) W.
    forward takes (z, W), W None for one-hot; backward returns dL/dz and adds dL/dW into `dW`, where that is not None.
    """

    kind: str
    K: int
    D: int
    sigma: float = 1.0

    def declare(self):
        if self.kind == "nearest":
            return {}
        return declare_all(linear=Linear(self.D, self.K, weight_init=init.kaiming_uniform(self.D, 1.0)))

    def _nearest(self, z, W):
        squared = (z * z).sum(axis=1, keepdims=True) - 2 * ops.matmul(z, W, transpose_b=True) + (W * W).sum(axis=1)
        return squared / z.dtype.type(-2 * self.sigma**2)

    def forward(self, params, x, train=False, rng=None):
        z, W = x
        if self.kind != "linear" and W is None:
            W = np.eye(self.K, dtype=z.dtype)
        if self.kind == "nearest":
            return self._nearest(z, W), (z, W, None)
        f = ops.linear(z, params["linear.weight"], params["linear.bias"])
        if self.kind == "linear":
            return f, (z, W, None)
        yhat, p = ops.softmax_mixture(f, W)
        return self._nearest(yhat, W), (z, W, (yhat, p))

    def _nearest_backward(self, do, z, W, dW):
        """do_k/dz = (W_k - z) / sigma^2 = -do_k/dW_k."""
        do = do / do.dtype.type(self.sigma**2)
        if dW is not None:
            dW += ops.matmul(do, z, transpose_a=True) - do.sum(axis=0)[:, None] * W
        return ops.matmul(do, W) - do.sum(axis=1, keepdims=True) * z

    def backward(self, params, grads, saved, dy, need_dx=True, dW=None):
        z, W, mixture = saved
        if self.kind == "nearest":
            return self._nearest_backward(dy, z, W, dW)
        if mixture is not None:
            yhat, p = mixture
            dy, through_mixture = ops.softmax_mixture_backward(self._nearest_backward(dy, yhat, W, dW), p, W)
            if dW is not None:
                dW += through_mixture
        add_to = (grads["linear.weight"], grads["linear.bias"])
        return ops.linear_backward(dy, z, params["linear.weight"], need_dx, add_to)[0]
