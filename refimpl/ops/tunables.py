"""Which operations `refimpl tune` can tune: how large a call is, and what a typical call of a size looks like.

One line an operation: the argument that carries the data, how to make arguments of about n elements (or n
multiplications, with `work`), and the size classes log2(n) that are measured. The helpers split n = 2^c into shapes
that the papers use: rows about as long as there are many, images of 8 x 8, square matrices. This module is imported
only to tune, and where there is wisdom.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.backends import operations
from refimpl.backends.wisdom import tunable

__all__: list[str] = []

Normal = Callable[..., np.ndarray]

ELEMENTS = range(2, 21, 3)  # 4 to a million
IMAGES = range(8, 21, 3)
PRODUCTS = range(6, 28, 3)  # 4 x 4 x 4 to 512 x 512 x 512
CONVOLUTIONS = range(15, 28, 3)
SEQUENCES = range(15, 25, 3)
ATTENTION = range(12, 25, 3)


def _run(name: str, **args: Any) -> tuple[Any, ...]:
    """Results of a NumPy body, for backward passes that need them."""
    result = operations()[name].numpy(**args)
    return result if isinstance(result, tuple) else (result,)


def _bits(n: int) -> int:
    return n.bit_length() - 1


def _rows(n: int) -> tuple[int, int]:
    """(B, D) with B D = n and D = B or 2 B."""
    columns = 1 << (_bits(n) + 1) // 2
    return n // columns, columns


def _images(n: int) -> tuple[int, int, int, int]:
    """(B, C, 8, 8), or 4 x 4 below 1024 elements."""
    side = 8 if n >= 1024 else 4
    b, c = _rows(n // side**2)
    return b, c, side, side


# ---------------------------------------------------------------- element by element

for _op, _others in {
    "relu": {},
    "leaky_relu": {"slope": 0.01},
    "elu": {"alpha": 1.0},
    "gelu": {},
    "gelu_tanh": {},
    "silu": {},
    "tanh": {},
    "sigmoid": {},
    "softplus": {},
    "total": {},
    "sum_of_squares": {},
    "scale_inplace": {"factor": 1.0},
}.items():
    tunable(_op, "x", lambda normal, n, others=_others: {"x": normal(n), **others}, ELEMENTS)

for _op, _second in {
    "relu_backward": "y",
    "leaky_relu_backward": "x",
    "elu_backward": "x",
    "gelu_backward": "x",
    "gelu_tanh_backward": "x",
    "silu_backward": "x",
    "tanh_backward": "y",
    "sigmoid_backward": "y",
    "softplus_backward": "x",
}.items():
    tunable(_op, "dy", lambda normal, n, second=_second: {"dy": normal(n), second: normal(n)}, ELEMENTS)

tunable("dot", "x", lambda normal, n: {"x": normal(n), "y": normal(n)}, ELEMENTS)
tunable("axpy", "y", lambda normal, n: {"y": normal(n), "x": normal(n), "alpha": 1e-6}, ELEMENTS)
tunable("fma_combine", "x", lambda normal, n: {"a": 0.5, "x": normal(n), "b": 0.5, "y": normal(n)}, ELEMENTS)
tunable("ema_update", "average", lambda normal, n: {"average": normal(n), "value": normal(n), "decay": 0.99}, ELEMENTS)
tunable(
    "sgd_update",
    "param",
    lambda normal, n: {
        "param": normal(n),
        "grad": normal(n),
        "velocity": np.zeros(n, np.float32),
        "lr": 1e-6,
        "momentum": 0.9,
    },
    ELEMENTS,
)
tunable(
    "adam_update",
    "param",
    lambda normal, n: {
        "param": normal(n),
        "grad": normal(n),
        "m": np.zeros(n, np.float32),
        "v": np.zeros(n, np.float32),
        "step": 1,
        "lr": 1e-6,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-8,
        "weight_decay": 0.0,
    },
    ELEMENTS,
)
tunable(
    "rmsprop_update",
    "param",
    lambda normal, n: {
        "param": normal(n),
        "grad": normal(n),
        "v": np.zeros(n, np.float32),
        "velocity": None,
        "lr": 1e-6,
    },
    ELEMENTS,
)
tunable(
    "dropout", "x", lambda normal, n: {"x": normal(n), "mask": np.arange(n) % 2 == 0, "rate": 0.5}, ELEMENTS
)  # fmt: skip

# ---------------------------------------------------------------- rows

for _op in ("softmax", "log_softmax", "logsumexp"):
    tunable(_op, "z", lambda normal, n: {"z": normal(*_rows(n))}, ELEMENTS)


def _softmax_backward(normal: Normal, n: int, forward: str) -> dict[str, Any]:
    z = normal(*_rows(n))
    return {"dy": normal(*z.shape), "y": _run(forward, z=z)[0]}


for _op in ("softmax", "log_softmax"):
    tunable(f"{_op}_backward", "dy", lambda normal, n, op=_op: _softmax_backward(normal, n, op), ELEMENTS)


def _target(b: int, k: int) -> np.ndarray:
    return np.arange(b, dtype=np.int64) * 7919 % k


def _cross_entropy(normal: Normal, n: int) -> dict[str, Any]:
    logits = normal(*_rows(n))
    return {"logits": logits, "target": _target(*logits.shape)}


def _cross_entropy_backward(normal: Normal, n: int) -> dict[str, Any]:
    args = _cross_entropy(normal, n)
    return {"p": _run("cross_entropy", **args)[1], "target": args["target"]}


tunable("cross_entropy", "logits", _cross_entropy, ELEMENTS)
tunable("cross_entropy_backward", "p", _cross_entropy_backward, ELEMENTS)
for _op in ("mse", "mse_backward", "l1", "l1_backward"):
    tunable(
        _op, "prediction", lambda normal, n: {"prediction": normal(*_rows(n)), "target": normal(*_rows(n))}, ELEMENTS
    )

tunable("map_agreement", "a", lambda normal, n: {"a": normal(*_images(n)), "c": normal(*_images(n)), "sD": 1.0}, IMAGES)

for _op in ("binary_cross_entropy_with_logits", "binary_cross_entropy_with_logits_backward"):
    tunable(
        _op,
        "logits",
        lambda normal, n: {"logits": normal(*_rows(n)), "target": np.full(_rows(n), 0.5, np.float32)},
        ELEMENTS,
    )

for _op in ("reduce_sum", "reduce_mean", "reduce_max"):
    tunable(_op, "x", lambda normal, n: {"x": normal(*_rows(n)), "axis": 0}, ELEMENTS)
tunable("sum_rows", "x", lambda normal, n: {"x": normal(*_rows(n))}, ELEMENTS)


def _norm(normal: Normal, n: int, shape: Callable[[int], tuple[int, ...]], axis: int, bias: bool) -> dict[str, Any]:
    x = normal(*shape(n))
    d = x.shape[axis]
    return {"x": x, "gain": normal(d), **({"bias": normal(d)} if bias else {})}


def _norm_backward(normal: Normal, n: int, op: str, names: str, *how: Any) -> dict[str, Any]:
    args = _norm(normal, n, *how)
    saved = _run(op, **args)[1:]
    return {"dy": normal(*args["x"].shape), "x": args["x"], "gain": args["gain"], **dict(zip(names.split(), saved))}


for _op, _names, _how, _classes in (
    ("layernorm", "mean rstd", (_rows, -1, True), ELEMENTS),
    ("rmsnorm", "rrms", (_rows, -1, False), ELEMENTS),
    ("batchnorm", "mean rstd", (_images, 1, True), IMAGES),
):
    tunable(_op, "x", lambda normal, n, how=_how: _norm(normal, n, *how), _classes)
    tunable(
        f"{_op}_backward",
        "dy",
        lambda normal, n, op=_op, names=_names, how=_how: _norm_backward(normal, n, op, names, *how),
        _classes,
    )


tunable("batchnorm_relu", "x", lambda normal, n: _norm(normal, n, _images, 1, True), IMAGES)
tunable(
    "batchnorm_relu_backward",
    "dy",
    lambda normal, n: {
        "y": normal(*_images(n)),
        **_norm_backward(normal, n, "batchnorm", "mean rstd", _images, 1, True),
    },
    IMAGES,
)


def _rotary(normal: Normal, n: int, name: str) -> dict[str, Any]:
    """One head of width 32, or 4 where there are few numbers."""
    width = 32 if n >= 1024 else 4
    angles = normal(n // width, width // 2)
    return {name: normal(1, 1, n // width, width), "cos": np.cos(angles), "sin": np.sin(angles)}


tunable("rotary", "x", lambda normal, n: _rotary(normal, n, "x"), ELEMENTS)
tunable("rotary_backward", "dy", lambda normal, n: _rotary(normal, n, "dy"), ELEMENTS)


def _gathered(index: np.ndarray, table: np.ndarray) -> int:
    return index.size * table.shape[-1]


def _embedding(normal: Normal, n: int) -> dict[str, Any]:
    rows, d = _rows(n)
    return {"index": _target(rows, 1024), "table": normal(1024, d)}


def _embedding_backward(normal: Normal, n: int) -> dict[str, Any]:
    rows, d = _rows(n)
    return {"dy": normal(rows, d), "index": _target(rows, 1024), "V": 1024}


tunable("embedding", "table", _embedding, ELEMENTS, _gathered)
tunable("embedding_backward", "dy", _embedding_backward, ELEMENTS)

# ---------------------------------------------------------------- images: pooling, enlarging

for _op in ("upsample_nearest2d", "upsample_bilinear2d"):
    tunable(_op, "x", lambda normal, n: {"x": normal(*_images(n)), "factor": 2}, IMAGES)

for _op in ("max_pool2d", "avg_pool2d"):
    tunable(_op, "x", lambda normal, n: {"x": normal(*_images(n)), "size": 2}, IMAGES)
tunable("global_avg_pool2d", "x", lambda normal, n: {"x": normal(*_images(n))}, IMAGES)


def _max_pool2d_backward(normal: Normal, n: int) -> dict[str, Any]:
    x = normal(*_images(4 * n))
    y, index = _run("max_pool2d", x=x, size=2)
    return {"dy": normal(*y.shape), "index": index, "height": x.shape[2], "width": x.shape[3]}


def _avg_pool2d_backward(normal: Normal, n: int) -> dict[str, Any]:
    b, c, h, w = _images(n)
    return {"dy": normal(b, c, h, w), "height": 2 * h, "width": 2 * w, "size": 2}


tunable("max_pool2d_backward", "dy", _max_pool2d_backward, IMAGES)
tunable("avg_pool2d_backward", "dy", _avg_pool2d_backward, IMAGES)

# ---------------------------------------------------------------- products of matrices, by multiplications


def _product(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False, out: Any = None) -> int:
    """M N K, times the batch of a."""
    return a.size * (b.shape[-2] if transpose_b else b.shape[-1])


def _product_backward(dy: Any, a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> int:
    return dy.size * (a.shape[-2] if transpose_a else a.shape[-1])


def _linear(x: Any, weight: Any, bias: Any = None, out: Any = None) -> int:
    return x.size * weight.shape[1]


def _linear_backward(dy: Any, x: Any, weight: Any, need_dx: bool = True, add_to: Any = None) -> int:
    return dy.size * weight.shape[0]


def _dense(x: Any, weight: Any, bias: Any = None, activation: str = "relu", keep: bool = True) -> int:
    return x.size * weight.shape[1]


def _dense_backward(
    dy: Any, x: Any, weight: Any, kept: Any, activation: str = "relu", need_dx: bool = True, add_to: Any = None
) -> int:
    return dy.size * weight.shape[0]


def _square(normal: Normal, n: int, *names: str) -> dict[str, Any]:
    side = 1 << _bits(n) // 3
    return {name: normal(side) if name == "bias" else normal(side, side) for name in names}


tunable("matmul", "a", lambda normal, n: _square(normal, n, "a", "b"), PRODUCTS, _product, "gemm")
tunable(
    "matmul_backward", "dy", lambda normal, n: _square(normal, n, "dy", "a", "b"), PRODUCTS, _product_backward, "gemm"
)
tunable("linear", "x", lambda normal, n: _square(normal, n, "x", "weight", "bias"), PRODUCTS, _linear, "gemm")
tunable(
    "linear_backward",
    "dy",
    lambda normal, n: _square(normal, n, "dy", "x", "weight"),
    PRODUCTS,
    _linear_backward,
    "gemm",
)
tunable("dense", "x", lambda normal, n: _square(normal, n, "x", "weight", "bias"), PRODUCTS, _dense, "gemm dense")
tunable(
    "dense_backward",
    "dy",
    lambda normal, n: _square(normal, n, "dy", "x", "weight", "kept"),
    PRODUCTS,
    _dense_backward,
    "gemm",
)


def _conv(x: Any, weight: Any, *_: Any, **__: Any) -> int:
    """B H W times the entries of the weight: a convolution's multiplications at stride 1."""
    return x.size // x.shape[1] * weight.size


def _conv_backward(dy: Any, x: Any, weight: Any, *_: Any, **__: Any) -> int:
    return x.size // x.shape[1] * weight.size


def _conv_args(normal: Normal, n: int, axes: int) -> dict[str, Any]:
    """B, C = O and kernels of 3 x 3 over 8 x 8 (8 over 64 in one dimension)."""
    size, kernel = ((8, 8), (3, 3)) if axes == 2 else ((64,), (8,))
    free = _bits(n) - 9  # 64 positions, and at least 8 entries of a kernel
    c = free // 3
    b = 1 << free - 2 * c
    return {"x": normal(b, 1 << c, *size), "weight": normal(1 << c, 1 << c, *kernel), "padding": kernel[0] // 2}


def _conv_args_backward(normal: Normal, n: int, op: str, axes: int) -> dict[str, Any]:
    args = _conv_args(normal, n, axes)
    return {"dy": normal(*_run(op, **args)[0].shape), **args}


for _op, _axes in (("conv2d", 2), ("conv1d", 1), ("conv_transpose2d", 2)):
    tunable(_op, "x", lambda normal, n, axes=_axes: _conv_args(normal, n, axes), CONVOLUTIONS, _conv, "conv gemm")
    tunable(
        f"{_op}_backward",
        "dy",
        lambda normal, n, op=_op, axes=_axes: _conv_args_backward(normal, n, op, axes),
        CONVOLUTIONS,
        _conv_backward,
        "conv gemm",
    )


def _attention(q: Any, k: Any, *_: Any, **__: Any) -> int:
    """Every query with every key: B H T T D."""
    return q.size * k.shape[-2]


def _attention_backward(dy: Any, q: Any, k: Any, *_: Any, **__: Any) -> int:
    return q.size * k.shape[-2]


def _attention_args(normal: Normal, n: int) -> dict[str, Any]:
    """D = 32, B = 1, T² about n/32 over twice as many heads each time."""
    t = _bits(n) // 3 - 1
    shape = (1, 1 << _bits(n) - 5 - 2 * t, 1 << t, 32)
    return {"q": normal(*shape), "k": normal(*shape), "v": normal(*shape), "causal": True}


def _attention_args_backward(normal: Normal, n: int) -> dict[str, Any]:
    args = _attention_args(normal, n)
    y, lse = _run("attention", **args)
    return {"dy": normal(*y.shape), **args, "y": y, "lse": lse}


tunable("attention", "q", _attention_args, ATTENTION, _attention, "attention")
tunable("attention_backward", "dy", _attention_args_backward, ATTENTION, _attention_backward, "attention")


def _recurrent(x: Any, w_x: Any, w_h: Any) -> int:
    """Steps times the entries of both weights."""
    return x.size // x.shape[-1] * (w_x.size + w_h.size)


def _one_state(x: Any, h0: Any, w_x: Any, w_h: Any, *_: Any, **__: Any) -> int:
    return _recurrent(x, w_x, w_h)


def _one_state_backward(dy: Any, x: Any, h0: Any, w_x: Any, w_h: Any, *_: Any, **__: Any) -> int:
    return _recurrent(x, w_x, w_h)


def _two_states(x: Any, h0: Any, c0: Any, w_x: Any, w_h: Any, *_: Any, **__: Any) -> int:
    return _recurrent(x, w_x, w_h)


def _two_states_backward(dy: Any, dc: Any, x: Any, h0: Any, c0: Any, w_x: Any, w_h: Any, *_: Any, **__: Any) -> int:
    return _recurrent(x, w_x, w_h)


def _recurrent_args(normal: Normal, n: int, gates: int, states: str, biases: str) -> dict[str, Any]:
    """B, T and D = N; the multiplications are 2 gates B T N²."""
    free = _bits(n) - _bits(2 * gates)
    d = free // 3
    t = (free - 2 * d + 1) // 2
    b, t, d = 1 << free - 2 * d - t, 1 << t, 1 << d
    w = {"w_x": normal(d, gates * d), "w_h": normal(d, gates * d)}
    scale = np.float32(d**-0.5)
    return {
        "x": normal(b, t, d),
        **{name: normal(b, d) for name in states.split()},
        **{name: a * scale for name, a in w.items()},
        **{name: normal(gates * d) for name in biases.split()},
    }


def _recurrent_args_backward(normal: Normal, n: int, op: str, names: str, *how: Any) -> dict[str, Any]:
    args = _recurrent_args(normal, n, *how)
    saved = dict(zip(names.split(), _run(op, **args)))
    more = {"dc": None} if "c" in saved else {}
    weights = {name: a for name, a in args.items() if not name.startswith("bias")}
    return {"dy": normal(*saved["y"].shape), **more, **weights, **saved}


for _op, _names, _learner, _works in (
    ("rnn_sequence", "y", (1, "h0", "bias"), (_one_state, _one_state_backward)),
    ("gru_sequence", "y gates", (3, "h0", "bias_x bias_h"), (_one_state, _one_state_backward)),
    ("lstm_sequence", "y c gates", (4, "h0 c0", "bias"), (_two_states, _two_states_backward)),
):
    tunable(
        _op,
        "x",
        lambda normal, n, how=_learner: _recurrent_args(normal, n, *how),
        SEQUENCES,
        _works[0],
        "recurrent gemm",
    )
    tunable(
        f"{_op}_backward",
        "dy",
        lambda normal, n, op=_op, names=_names, how=_learner: _recurrent_args_backward(normal, n, op, names, *how),
        SEQUENCES,
        _works[1],
        "recurrent gemm",
    )


def _cell_args(normal: Normal, n: int, gates: int, states: str, biases: str) -> dict[str, Any]:
    """One step of a sequence, with about as many samples as numbers in the state."""
    free = _bits(n) - _bits(2 * gates)
    side = 1 << free // 3
    b = 1 << free - 2 * (free // 3)
    args = {name: normal(b, side) for name in ("x", *states.split())}
    args |= {name: normal(side, gates * side) for name in ("w_x", "w_h")}
    return args | {name: normal(gates * side) for name in biases.split()}


def _cell(x: Any, h: Any, w_x: Any, w_h: Any, *_: Any, **__: Any) -> int:
    return x.shape[0] * (w_x.size + w_h.size)


def _lstm_cell(x: Any, h: Any, c: Any, w_x: Any, w_h: Any, *_: Any, **__: Any) -> int:
    return x.shape[0] * (w_x.size + w_h.size)


def _cell_backward(dh_next: Any, x: Any, h: Any, w_x: Any, w_h: Any, *_: Any, **__: Any) -> int:
    return x.shape[0] * (w_x.size + w_h.size)


def _lstm_cell_backward(
    dh_next: Any, dc_next: Any, x: Any, h: Any, c: Any, w_x: Any, w_h: Any, *_: Any, **__: Any
) -> int:
    return x.shape[0] * (w_x.size + w_h.size)


def _cell_args_backward(normal: Normal, n: int, op: str, names: str, *how: Any) -> dict[str, Any]:
    args = _cell_args(normal, n, *how)
    outs = _run(op, **args)
    args = {k: v for k, v in args.items() if not k.startswith("bias")}
    saved = dict(zip(names.split(), outs))
    dc = {"dc_next": None} if "c" in args else {}
    return {"dh_next": normal(*args["h"].shape), **dc, **args, **{k: v for k, v in saved.items() if k != "_"}}


for _op, _names, _learner, _counts in (
    ("rnn_cell", "h_next", (1, "h", "bias"), (_cell, _cell_backward)),
    ("gru_cell", "_ gates", (3, "h", "bias_x bias_h"), (_cell, _cell_backward)),
    ("lstm_cell", "_ c_next gates", (4, "h c", "bias"), (_lstm_cell, _lstm_cell_backward)),
):
    tunable(
        _op,
        "x",
        lambda normal, n, how=_learner: _cell_args(normal, n, *how),
        SEQUENCES,
        _counts[0],
        "recurrent gemm",
    )
    tunable(
        f"{_op}_backward",
        "x",
        lambda normal, n, op=_op, names=_names, how=_learner: _cell_args_backward(normal, n, op, names, *how),
        SEQUENCES,
        _counts[1],
        "recurrent gemm",
    )

# ---------------------------------------------------------------- spiking neurons: 8 steps of n / 8


def _spiking(normal: Normal, n: int, steps: int) -> dict[str, Any]:
    x = normal(*([steps] if steps else []), *_rows(n // max(1, steps)))
    return {"x": x, ("v0" if steps else "v"): normal(*(x.shape[1:] if steps else x.shape)), "leak": 0.5}


def _spiking_backward(normal: Normal, n: int, op: str, steps: int) -> dict[str, Any]:
    x = normal(*([steps] if steps else []), *_rows(n // max(1, steps)))
    if op.startswith("leaky"):
        return {"dv": x, "leak": 0.5}
    names = ("dspikes", "dv_last") if steps else ("dspike", "dv_next")
    return dict(zip(names, (x, None))) | {"u": normal(*x.shape), "leak": 0.5}


SPIKING = range(8, 21, 3)
for _op, _steps in (("lif_step", 0), ("lif_sequence", 8), ("leaky_integrator_sequence", 8)):
    _dy = "dv" if _op.startswith("leaky") else "dspikes" if _steps else "dspike"
    tunable(_op, "x", lambda normal, n, steps=_steps: _spiking(normal, n, steps), SPIKING, kernels="spiking")
    tunable(
        f"{_op}_backward",
        _dy,
        lambda normal, n, op=_op, steps=_steps: _spiking_backward(normal, n, op, steps),
        SPIKING,
        kernels="spiking",
    )


def _batchnorm_lif(normal: Normal, n: int) -> dict[str, Any]:
    x = normal(*_images(n))
    C = x.shape[1]
    return {"x": x, "v": normal(*x.shape), "gain": normal(C), "bias": normal(C), "leak": 0.5}


def _batchnorm_lif_backward(normal: Normal, n: int) -> dict[str, Any]:
    args = _batchnorm_lif(normal, n)
    _, _, u, mean, rstd = _run("batchnorm_lif_step", **args)
    rest = {"x": args["x"], "u": u, "gain": args["gain"], "mean": mean, "rstd": rstd, "leak": 0.5}
    return {"dspike": normal(*u.shape), "dv_next": None, **rest, "need_dv": False}


tunable("batchnorm_lif_step", "x", _batchnorm_lif, SPIKING, kernels="spiking")
tunable("batchnorm_lif_step_backward", "dspike", _batchnorm_lif_backward, SPIKING, kernels="spiking")


def _sparse(a: np.ndarray) -> np.ndarray:
    """One entry in six stays."""
    a.reshape(-1)[np.arange(a.size) % 6 != 0] = 0
    return a


def _events(normal: Normal, n: int, *names: str) -> dict[str, Any]:
    args = _square(normal, n, *names)
    return {**args, "x": _sparse(args["x"])}


def _event_linear(x: Any, weight: Any, bias: Any = None) -> int:
    return x.size * weight.shape[1]


tunable(
    "event_linear", "x", lambda normal, n: _events(normal, n, "x", "weight", "bias"), PRODUCTS, _event_linear, "gemm"
)
tunable(
    "event_linear_backward",
    "dy",
    lambda normal, n: _events(normal, n, "dy", "x", "weight"),
    PRODUCTS,
    _linear_backward,
    "gemm",
)

# ---------------------------------------------------------------- graphs: 4 edges a node, 16 features


def _edges(normal: Normal, n: int) -> tuple[int, int, np.ndarray]:
    """Edges, nodes, and the node of each edge, in order."""
    edges = max(4, n // 16)
    return edges, edges // 4, np.arange(edges, dtype=np.int64) // 4


def _segments(normal: Normal, n: int, name: str, op: str) -> dict[str, Any]:
    over_nodes = op.endswith("_backward") and op != "segment_softmax_backward"
    edges, nodes, segment = _edges(normal, 4 * n if over_nodes else n)
    if op == "segment_softmax_backward":
        y = _run("segment_softmax", scores=normal(edges, 16), segment=segment, n_segments=nodes)[0]
        return {"dy": normal(edges, 16), "y": y, "segment": segment, "n_segments": nodes}
    if op == "segment_max_backward":
        argmax = _run("segment_max", x=normal(edges, 16), segment=segment, n_segments=nodes)[1]
        return {"dy": normal(nodes, 16), "argmax": argmax, "E": edges}
    if over_nodes:
        return {"dy": normal(nodes, 16), "segment": segment}
    return {name: normal(edges, 16), "segment": segment, "n_segments": nodes}


for _op in ("segment_sum", "segment_mean", "segment_max", "segment_softmax"):
    _x = "scores" if _op == "segment_softmax" else "x"
    tunable(_op, _x, lambda normal, n, name=_x, op=_op: _segments(normal, n, name, op), IMAGES)
    _op = f"{_op}_backward"
    tunable(_op, "dy", lambda normal, n, op=_op: _segments(normal, n, "dy", op), IMAGES)


def _csr(normal: Normal, n: int, backward: bool) -> dict[str, Any]:
    edges, nodes, _ = _edges(normal, n)
    args = {
        "indptr": np.arange(0, edges + 1, 4, dtype=np.int64),
        "indices": np.arange(edges, dtype=np.int64) * 7919 % nodes,
        "values": normal(edges),
        "x": normal(nodes, 16),
    }
    return {"dy": normal(nodes, 16), **args} if backward else args


def _csr_matmul(indptr: Any, indices: Any, values: Any, x: Any) -> int:
    return indices.size * x.shape[1]


def _csr_matmul_backward(dy: Any, indptr: Any, indices: Any, values: Any, x: Any) -> int:
    return indices.size * x.shape[1]


tunable("csr_matmul", "x", lambda normal, n: _csr(normal, n, False), IMAGES, _csr_matmul)
tunable("csr_matmul_backward", "x", lambda normal, n: _csr(normal, n, True), IMAGES, _csr_matmul_backward)

# ---------------------------------------------------------------- the rest, by elements


def _channels(normal: Normal, n: int, name: str) -> dict[str, Any]:
    x = normal(*_images(n))
    c = x.shape[1]
    more = {"gain": normal(c), "bias": normal(c), "mean": normal(c), "variance": normal(c) ** 2}
    return {"x": x, **more} if name == "x" else {"dy": normal(*x.shape), "x": x, **more, "bias": None}


def _batchnorm_inference_backward(normal: Normal, n: int) -> dict[str, Any]:
    args = _channels(normal, n, "dy")
    del args["bias"]
    return args


def _groupnorm_backward(normal: Normal, n: int) -> dict[str, Any]:
    x = normal(*_images(n))
    gain = normal(x.shape[1])
    _, mean, rstd = _run("groupnorm", x=x, gain=gain, bias=None, groups=1)
    return {"dy": normal(*x.shape), "x": x, "gain": gain, "mean": mean, "rstd": rstd}


def _log_probabilities(normal: Normal, n: int) -> dict[str, Any]:
    return {name: _run("log_softmax", z=normal(*_rows(n)))[0] for name in ("log_p", "log_q")}


def _cosine_backward(normal: Normal, n: int) -> dict[str, Any]:
    a, b = normal(*_rows(n)), normal(*_rows(n))
    s, norm_a, norm_b = _run("cosine_similarity", a=a, b=b)
    return {"ds": normal(*s.shape), "a": a, "b": b, "s": s, "norm_a": norm_a, "norm_b": norm_b}


def _logsumexp_backward(normal: Normal, n: int) -> dict[str, Any]:
    z = normal(*_rows(n))
    y = _run("logsumexp", z=z)[0]
    return {"dy": normal(*y.shape), "z": z, "y": y}


def _row_scaled_sum(normal: Normal, n: int) -> dict[str, Any]:
    b, d = _rows(n)
    return {"a": normal(b), "x": normal(b, d), "b": normal(b), "y": normal(b, d)}


def _denoise(normal: Normal, n: int) -> dict[str, Any]:
    b, d = _rows(n)
    return {"f": normal(b, d), "target": _target(b, d), "weight": normal(b)}


def _mixture_backward(normal: Normal, n: int) -> dict[str, Any]:
    return {"duhat": normal(*_rows(n)), "p": _run("softmax", z=normal(*_rows(n)))[0]}


def _rows_over(normal: Normal, n: int, op: str) -> dict[str, Any]:
    """The gradient of a reduction over 16 rows of n / 16 numbers, whose own has n numbers."""
    d = max(1, n // 16)
    index = {"index": np.arange(d, dtype=np.int64) % 16} if op == "reduce_max_backward" else {}
    return {"dy": normal(d), **index, "axis": 0, "n": 16}


def _pool1d(normal: Normal, n: int, op: str) -> dict[str, Any]:
    b, length = _rows(2 * n if op.endswith("_backward") else n)
    if op == "max_pool1d_backward":
        y, index = _run("max_pool1d", x=normal(1, b, length), size=2)
        return {"dy": normal(*y.shape), "index": index, "length": length}
    if op == "avg_pool1d_backward":
        return {"dy": normal(1, b, length // 2), "length": length, "size": 2}
    return {"x": normal(1, b, length), "size": 2}


def _enlarged(normal: Normal, n: int) -> dict[str, Any]:
    return {"dy": normal(*_images(n)), "factor": 2}


tunable("batchnorm_inference", "x", lambda normal, n: _channels(normal, n, "x"), IMAGES)
tunable("batchnorm_inference_backward", "dy", _batchnorm_inference_backward, IMAGES)
tunable("groupnorm", "x", lambda normal, n: {"x": normal(*_images(n)), "gain": None, "bias": None, "groups": 1}, IMAGES)
tunable("groupnorm_backward", "dy", _groupnorm_backward, IMAGES)
tunable("kl_divergence", "log_p", _log_probabilities, ELEMENTS)
tunable("kl_divergence_backward", "log_p", _log_probabilities, ELEMENTS)
tunable("cosine_similarity", "a", lambda normal, n: {"a": normal(*_rows(n)), "b": normal(*_rows(n))}, ELEMENTS)
tunable("cosine_similarity_backward", "a", _cosine_backward, ELEMENTS)
tunable("logsumexp_backward", "z", _logsumexp_backward, ELEMENTS)
tunable("row_scaled_sum", "x", _row_scaled_sum, ELEMENTS)
tunable("denoise_loss", "f", _denoise, ELEMENTS)
tunable("softmax_mixture", "f", lambda normal, n: {"f": normal(*_rows(n))}, ELEMENTS)
tunable("softmax_mixture_backward", "duhat", _mixture_backward, ELEMENTS)
tunable(
    "dropout_backward",
    "dy",
    lambda normal, n: {"dy": normal(n), "mask": np.arange(n) % 2 == 0, "rate": 0.5},
    ELEMENTS,
)
tunable(
    "global_avg_pool2d_backward",
    "dy",
    lambda normal, n: {"dy": normal(1, n), "height": 8, "width": 8},
    range(2, 15, 3),
)
for _op in ("reduce_sum_backward", "reduce_mean_backward", "reduce_max_backward"):
    tunable(_op, "dy", lambda normal, n, op=_op: _rows_over(normal, 16 * n, op), range(2, 18, 3))
for _op in ("max_pool1d", "avg_pool1d", "max_pool1d_backward", "avg_pool1d_backward"):
    tunable(_op, "dy" if _op.endswith("backward") else "x", lambda normal, n, op=_op: _pool1d(normal, n, op), IMAGES)
for _op in ("upsample_nearest2d_backward", "upsample_bilinear2d_backward"):
    tunable(_op, "dy", _enlarged, IMAGES)

# ---------------------------------------------------------------- transformers: heads of 16, gates, log-probabilities


def _packed(normal: Normal, n: int) -> np.ndarray:
    """(1, T, 3 heads of 16): queries, keys and values of one head side by side; at least 64 numbers."""
    return normal(1, max(1, n // 64), 64)


def _split_backward(normal: Normal, n: int) -> dict[str, Any]:
    """Two query heads of 16 to one of keys and of values."""
    t = max(1, n // 32)
    return {"dq": normal(1, 2, t, 16), "dk": normal(1, 1, t, 16), "dv": normal(1, 1, t, 16)}


def _log_prob_backward(normal: Normal, n: int) -> dict[str, Any]:
    args = _cross_entropy(normal, n)
    lp, lse = _run("log_prob", **args)
    return {"dlp": normal(*lp.shape), **args, "lse": lse}


def _graph_attention(normal: Normal, n: int, backward: bool) -> dict[str, Any]:
    """Nodes with 4 heads of 4 numbers, 4 edges each."""
    nodes = max(1, n // 16)
    args = {
        "indptr": np.arange(0, 4 * nodes + 1, 4, dtype=np.int64),
        "indices": np.arange(4 * nodes, dtype=np.int64) * 7919 % nodes,
        "h": normal(nodes, 4, 4),
        "source": normal(4, 4),
        "target": normal(4, 4),
    }
    return {"dy": normal(nodes, 4, 4), "alpha": _run("graph_attention", **args)[1], **args} if backward else args


tunable("split_heads", "x", lambda normal, n: {"x": _packed(normal, n), "heads": 2, "kv_heads": 1}, IMAGES)
tunable("split_heads_backward", "dq", _split_backward, IMAGES)
tunable("merge_heads", "y", lambda normal, n: {"y": normal(1, 2, n // 32, 16)}, IMAGES)
tunable("merge_heads_backward", "dy", lambda normal, n: {"dy": normal(1, n // 32, 32), "heads": 2}, IMAGES)
tunable("swiglu", "x", lambda normal, n: {"x": normal(*_rows(n))}, ELEMENTS)
tunable("swiglu_backward", "dy", lambda normal, n: {"dy": normal(n), "x": normal(2 * n)}, ELEMENTS)
tunable("log_prob", "logits", _cross_entropy, ELEMENTS)
tunable("log_prob_backward", "logits", _log_prob_backward, ELEMENTS)
tunable("graph_attention", "h", lambda normal, n: _graph_attention(normal, n, False), IMAGES)
tunable("graph_attention_backward", "h", lambda normal, n: _graph_attention(normal, n, True), IMAGES)

# ---------------------------------------------------------------- goodness: pairs of rows; 2 B = 8 D rows, D = N


def _goodness_steps(normal: Normal, n: int) -> dict[str, Any]:
    """One inner step; its matrix products have n = 4 B D N multiplications, D = N, about as many rows."""
    free = _bits(n) - 1
    d = 1 << free // 3
    rows = 1 << free - 2 * (free // 3)
    size = d * d + d
    v = normal(size) ** 2 + np.float32(0.1)
    args = {"param": normal(size), "m": normal(size), "v": v, "u": normal(rows, d), "p": normal(d)}
    return {**args, "theta": 4.0, "step": 1000, "lr": 1e-6, "steps": 1}


def _goodness_work(param: Any, m: Any, v: Any, u: Any, p: Any, *_: Any, **__: Any) -> int:
    return 2 * u.size * p.size


def _goodness_contrast(normal: Normal, n: int) -> dict[str, Any]:
    z = normal(*_rows(n))
    return {"z": z if len(z) % 2 == 0 else z.reshape(2, -1), "p": normal(z.size // 2 if len(z) % 2 else z.shape[1])}


tunable("goodness_contrast", "z", _goodness_contrast, ELEMENTS)
tunable("goodness_steps", "u", _goodness_steps, SEQUENCES, _goodness_work, "gemm")

# ---------------------------------------------------------------- waves


def _cubic_wave_args(normal: Normal, n: int) -> dict[str, Any]:
    """Its matrix products have 6 B D^2 multiplications, B and D about equal."""
    free = _bits(n) - 2
    d = 1 << free // 3
    rows = 1 << free - 2 * (free // 3)
    scale = np.float32(d**-0.5)
    coupling = normal(2 * d, 2 * d) * scale
    return {"x": normal(rows, d), "mixing": normal(d, 2 * d) * scale, "coupling": coupling, "strength": 2.4}


def _cubic_wave(x: Any, mixing: Any, coupling: Any, strength: Any) -> int:
    return x.shape[0] * (mixing.size + coupling.size)


tunable("cubic_wave", "x", _cubic_wave_args, SEQUENCES, _cubic_wave, "gemm")

# ---------------------------------------------------------------- layers with targets; N = D, ten classes


def _labels(B: int) -> np.ndarray:
    return np.arange(B) % 10


def _target_loss(normal: Normal, n: int) -> dict[str, Any]:
    z = normal(*_rows(n))
    return {"z": z, "labels": _labels(len(z)), "codes": normal(10, z.shape[1])}


def _target_step(normal: Normal, n: int) -> dict[str, Any]:
    """Two products of n / 2 = B D N multiplications, B = D = N."""
    free = _bits(n) - 1
    d = 1 << free // 3
    x = normal(1 << free - 2 * (free // 3), d)
    args = {"x": x, "labels": _labels(len(x)), "weight": normal(d, d), "bias": normal(d), "codes": normal(10, d)}
    return {**args, "v_weight": None, "v_bias": None, "lr": 1e-6}


def _target_step_work(x: Any, labels: Any, weight: Any, *_: Any, **__: Any) -> int:
    return 2 * len(x) * weight.size


def _rnn_target_sequence(normal: Normal, n: int) -> dict[str, Any]:
    """Four products of n / 4 = B T D N multiplications, T = 8 and B = D = N."""
    free = _bits(n) - 5
    d = 1 << free // 3
    x = normal(1 << free - 2 * (free // 3), 8, d)
    scale = np.float32(d**-0.5)
    weights = {"w_x": normal(d, d) * scale, "w_h": normal(d, d) * scale, "bias": normal(d)}
    labels = _labels(8 * len(x)).reshape(-1, 8)
    args = {"x": x, "h0": normal(len(x), d), "labels": labels, "codes": normal(10, d), **weights}
    args |= {f"d{name}": np.zeros_like(w) for name, w in weights.items()}
    return args | {"weights": np.full(8, 0.1, np.float32)}


def _rnn_target_work(x: Any, h0: Any, *_: Any, **__: Any) -> int:
    return 2 * h0.shape[1] * x.shape[1] * (len(x) * x.shape[2] + h0.size)


tunable("target_loss", "z", _target_loss, ELEMENTS)
tunable("target_step", "x", _target_step, SEQUENCES, _target_step_work, "target gemm")
tunable("rnn_target_sequence", "x", _rnn_target_sequence, SEQUENCES, _rnn_target_work, "gemm")
