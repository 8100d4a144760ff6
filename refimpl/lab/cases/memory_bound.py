"""Operations that wait for memory: activations, norms, losses, pools, reductions, optimisers.

Backward passes are raced against PyTorch's backward kernels themselves (torch.ops.aten), without its autograd.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from refimpl.lab.cases.case import Args, Case, Torch, aten, call, functional, gradient, words


def _elementwise(op: str, n: int, flops: int, torch: Torch, **more: Any) -> Case:
    return Case(op, f"{n:,}".replace(",", " "), float(flops * n), lambda normal: {"x": normal(n), **more}, torch)


def _softmax(rows: int, k: int) -> list[Case]:
    def make_backward(normal):
        e = np.exp(normal(rows, k))
        return {"dy": normal(rows, k), "y": e / e.sum(axis=1, keepdims=True)}

    n, shape = float(rows * k), f"{rows}x{k}"
    forward = call(lambda torch, t: torch.softmax(t["z"], -1))
    backward = call(lambda torch, t: torch._softmax_backward_data(t["dy"], t["y"], -1, t["y"].dtype))
    return [
        Case("softmax", shape, 4 * n, lambda normal: {"z": normal(rows, k)}, forward),
        Case("softmax_backward", shape, 4 * n, make_backward, backward),
    ]


def _cross_entropy(rows: int, k: int) -> Case:
    def make(normal):
        return {"logits": normal(rows, k), "target": np.arange(rows, dtype=np.int64) * 7919 % k}

    def forward(torch, t):
        return torch.nn.functional.cross_entropy(t["logits"], t["target"])

    return Case("cross_entropy", f"{rows}x{k}", 5.0 * rows * k, make, call(forward))


def _layernorm(rows: int, d: int) -> list[Case]:
    def make(normal):
        return {"x": normal(rows, d), "gain": normal(d), "bias": normal(d)}

    def make_backward(normal):
        x = normal(rows, d)
        mean = x.mean(axis=1)
        rstd = (1 / np.sqrt(x.var(axis=1) + 1e-5)).astype(np.float32)
        return {"dy": normal(rows, d), "x": x, "gain": normal(d), "mean": mean, "rstd": rstd}

    def prepare(torch, t):
        given = {**t, "bias": torch.zeros(d)}
        return lambda: backward(torch, given)

    def forward(torch, t):
        return torch.nn.functional.layer_norm(t["x"], (d,), t["gain"], t["bias"])

    def backward(torch, t):
        mean, rstd = t["mean"][:, None], t["rstd"][:, None]
        ask = [True, True, True]
        return torch.ops.aten.native_layer_norm_backward(t["dy"], t["x"], (d,), mean, rstd, t["gain"], t["bias"], ask)

    n, shape = float(rows * d), f"{rows}x{d}"
    return [
        Case("layernorm", shape, 7 * n, make, call(forward)),
        Case("layernorm_backward", shape, 13 * n, make_backward, prepare),
    ]


def _batchnorm(b: int, c: int, h: int, w: int) -> Case:
    def make(normal):
        return {"x": normal(b, c, h, w), "gain": normal(c), "bias": normal(c)}

    def forward(torch, t):
        return torch.nn.functional.batch_norm(t["x"], None, None, t["gain"], t["bias"], training=True)

    return Case("batchnorm", f"{b}x{c}x{h}x{w}", 7.0 * b * c * h * w, make, call(forward))


def _max_pool2d(b: int, c: int, h: int) -> Case:
    def make(normal):
        return {"x": normal(b, c, h, h), "size": 2}

    def forward(torch, t):
        return torch.nn.functional.max_pool2d(t["x"], 2, return_indices=True)[0]

    return Case("max_pool2d", f"{b}x{c}x{h}x{h}", 1.0 * b * c * h * h, make, call(forward))


def _adam(n: int) -> Case:
    def make(normal):
        zeros = np.zeros(n, np.float32)
        hyper = {"step": 1, "lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
        return {"param": normal(n), "grad": normal(n), "m": zeros, "v": zeros.copy(), **hyper}

    def prepare(torch, t):
        param = torch.nn.Parameter(t["param"].clone())
        param.grad = t["grad"].clone()
        optimizer = torch.optim.Adam([param], lr=1e-3, fused=True)

        def step():
            optimizer.step()
            return param

        return step

    return Case("adam_update", f"{n:,}".replace(",", " "), 12.0 * n, make, prepare)


def _embedding(rows: int, v: int, d: int) -> Case:
    def make(normal):
        return {"index": np.arange(rows, dtype=np.int64) * 7919 % v, "table": normal(v, d)}

    return Case("embedding", f"{rows} of {v}x{d}", 0.0, make, call(lambda torch, t: t["table"][t["index"]]))


# op -> (flops an element, its second array, PyTorch's same)
_ELEMENTWISE: dict[str, tuple[int, str, Callable[[Any, Mapping[str, Any]], Any]]] = {
    "relu": (1, "", lambda aten, t: aten.relu(t["x"])),
    "relu_backward": (1, "y", lambda aten, t: aten.threshold_backward(t["dy"], t["y"], 0)),
    "leaky_relu": (2, "", lambda aten, t: aten.leaky_relu(t["x"], 0.01)),
    "leaky_relu_backward": (2, "x", lambda aten, t: aten.leaky_relu_backward(t["dy"], t["x"], 0.01, False)),
    "elu": (3, "", lambda aten, t: aten.elu(t["x"])),
    "elu_backward": (4, "x", lambda aten, t: aten.elu_backward(t["dy"], 1, 1, 1, False, t["x"])),
    "gelu": (8, "", lambda aten, t: aten.gelu(t["x"])),
    "gelu_backward": (12, "x", lambda aten, t: aten.gelu_backward(t["dy"], t["x"])),
    "gelu_tanh": (8, "", lambda aten, t: aten.gelu(t["x"], approximate="tanh")),
    "gelu_tanh_backward": (16, "x", lambda aten, t: aten.gelu_backward(t["dy"], t["x"], approximate="tanh")),
    "silu": (4, "", lambda aten, t: aten.silu(t["x"])),
    "silu_backward": (7, "x", lambda aten, t: aten.silu_backward(t["dy"], t["x"])),
    "tanh": (1, "", lambda aten, t: aten.tanh(t["x"])),
    "tanh_backward": (3, "y", lambda aten, t: aten.tanh_backward(t["dy"], t["y"])),
    "sigmoid": (3, "", lambda aten, t: aten.sigmoid(t["x"])),
    "sigmoid_backward": (3, "y", lambda aten, t: aten.sigmoid_backward(t["dy"], t["y"])),
    "softplus": (4, "", lambda aten, t: aten.softplus(t["x"])),
    "softplus_backward": (4, "x", lambda aten, t: aten.softplus_backward(t["dy"], t["x"], 1, 20)),
}


def _activations(n: int, names: Iterable[str] = tuple(_ELEMENTWISE)) -> list[Case]:
    def case(op: str) -> Case:
        flops, second, f = _ELEMENTWISE[op]

        def make(normal):
            if not second:
                return {"x": normal(n)}
            a = normal(n)
            return {"dy": normal(n), second: 1 / (1 + np.exp(-a)) if op == "sigmoid_backward" else a}

        return Case(op, words(n), float(flops * n), make, aten(f))

    return [case(op) for op in names]


def _rms(rows: int, d: int) -> list[Case]:
    def make_backward(normal):
        x = normal(rows, d)
        rrms = (1 / np.sqrt((x * x).mean(axis=1) + 1e-5)).astype(np.float32)
        return {"dy": normal(rows, d), "x": x, "gain": normal(d), "rrms": rrms}

    def forward(torch, t):
        return torch.nn.functional.rms_norm(t["x"], (d,), t["gain"], 1e-5)

    n, shape = float(rows * d), f"{rows}x{d}"
    make = lambda normal: {"x": normal(rows, d), "gain": normal(d)}  # noqa: E731
    return [
        Case("rmsnorm", shape, 5 * n, make, call(forward)),
        # PyTorch has no backward kernel of its own for this on a CPU
        Case("rmsnorm_backward", shape, 9 * n, make_backward, gradient(forward, "x", "gain")),
    ]


def _groups(b: int, c: int, h: int, groups: int) -> list[Case]:
    def make(normal):
        return {"x": normal(b, c, h, h), "gain": normal(c), "bias": normal(c), "groups": groups}

    def make_backward(normal):
        x = normal(b, c, h, h)
        by_group = x.reshape(b, groups, -1)
        rstd = (1 / np.sqrt(by_group.var(axis=2) + 1e-5)).astype(np.float32)
        return {"dy": normal(b, c, h, h), "x": x, "gain": normal(c), "mean": by_group.mean(axis=2), "rstd": rstd}

    def forward(torch, t):
        return torch.nn.functional.group_norm(t["x"], groups, t["gain"], t["bias"])

    def backward(aten, t):
        sizes, ask = (b, c, h * h, groups), [True, True, True]
        return aten.native_group_norm_backward(t["dy"], t["x"], t["mean"], t["rstd"], t["gain"], *sizes, ask)

    n, shape = float(b * c * h * h), f"{b}x{c}x{h}x{h} g{groups}"
    return [
        Case("groupnorm", shape, 7 * n, make, call(forward)),
        Case("groupnorm_backward", shape, 13 * n, make_backward, aten(backward)),
    ]


def _batch(*shape: int) -> list[Case]:
    """Training and inference, forward and backward."""
    c, axes = shape[1], (0, *range(2, len(shape)))

    def make(normal):
        return {"x": normal(*shape), "gain": normal(c), "bias": normal(c)}

    def make_inference(normal):
        return {**make(normal), "mean": normal(c), "variance": 0.5 + normal(c) ** 2}

    def make_backward(normal):
        x = normal(*shape)
        rstd = (1 / np.sqrt(x.var(axis=axes) + 1e-5)).astype(np.float32)
        return {"dy": normal(*shape), "x": x, "gain": normal(c), "mean": x.mean(axis=axes), "rstd": rstd}

    def make_inference_backward(normal):
        some = {"mean": normal(c), "variance": 0.5 + normal(c) ** 2}
        return {"dy": normal(*shape), "x": normal(*shape), "gain": normal(c), **some}

    def inference(aten, t):
        return aten.native_batch_norm(t["x"], t["gain"], t["bias"], t["mean"], t["variance"], False, 0.1, 1e-5)[0]

    def forward(aten, t):
        return aten.native_batch_norm(t["x"], t["gain"], t["bias"], None, None, True, 0.1, 1e-5)

    def backward(aten, t):
        ask = [True, True, True]
        saved = (None, None, t["mean"], t["rstd"])
        return aten.native_batch_norm_backward(t["dy"], t["x"], t["gain"], *saved, True, 1e-5, ask)

    def inference_backward(aten, t):
        ask = [True, True, True]
        saved = (t["mean"], t["variance"], None, None)
        return aten.native_batch_norm_backward(t["dy"], t["x"], t["gain"], *saved, False, 1e-5, ask)

    def make_relu_backward(normal):
        return {"y": np.maximum(normal(*shape), 0), **make_backward(normal)}

    def relu(aten, t):
        y, mean, rstd = forward(aten, t)
        return aten.relu_(y), mean, rstd

    def relu_backward(aten, t):
        return backward(aten, {**t, "dy": aten.threshold_backward(t["dy"], t["y"], 0)})

    n, text = float(math.prod(shape)), "x".join(map(str, shape))
    return [
        Case("batchnorm_relu", text, 8 * n, make, aten(relu)),
        Case("batchnorm_relu_backward", text, 14 * n, make_relu_backward, aten(relu_backward)),
        Case("batchnorm", text, 7 * n, make, aten(forward)),
        Case("batchnorm_backward", text, 13 * n, make_backward, aten(backward)),
        Case("batchnorm_inference", text, 3 * n, make_inference, aten(inference)),
        Case("batchnorm_inference_backward", text, 5 * n, make_inference_backward, aten(inference_backward)),
    ]


def _softmax_family(rows: int, k: int) -> list[Case]:
    def make_log(normal):
        z = normal(rows, k)
        return {"dy": normal(rows, k), "y": z - np.log(np.exp(z).sum(axis=1, keepdims=True))}

    def make_lse(normal):
        z = normal(rows, k)
        return {"dy": normal(rows), "z": z, "y": np.log(np.exp(z).sum(axis=1))}

    def log_backward(aten, t):
        return aten._log_softmax_backward_data(t["dy"], t["y"], -1, t["y"].dtype)

    def lse_backward(torch, t):
        return t["dy"][:, None] * torch.exp(t["z"] - t["y"][:, None])

    n, shape = float(rows * k), f"{rows}x{k}"
    make = lambda normal: {"z": normal(rows, k)}  # noqa: E731
    return [
        Case("log_softmax", shape, 5 * n, make, aten(lambda aten, t: aten._log_softmax(t["z"], -1, False))),
        Case("log_softmax_backward", shape, 4 * n, make_log, aten(log_backward)),
        Case("logsumexp", shape, 4 * n, make, aten(lambda aten, t: aten.logsumexp(t["z"], [-1]))),
        Case("logsumexp_backward", shape, 3 * n, make_lse, call(lse_backward)),
    ]


def _cross_entropy_backward(rows: int, k: int) -> Case:
    def make(normal):
        e = np.exp(normal(rows, k))
        return {"p": e / e.sum(axis=1, keepdims=True), "target": np.arange(rows, dtype=np.int64) * 7919 % k}

    def prepare(torch, t):
        log_p, aten = torch.log(t["p"]), torch.ops.aten
        one, total = torch.tensor(1.0), torch.tensor(float(rows))

        def backward():
            d = aten.nll_loss_backward(one, log_p, t["target"], None, 1, -100, total)
            return aten._log_softmax_backward_data(d, log_p, -1, log_p.dtype)

        return backward

    return Case("cross_entropy_backward", f"{rows}x{k}", 2.0 * rows * k, make, prepare)


def _losses(n: int) -> list[Case]:
    def two(a: str, b: str) -> Callable[..., Args]:
        return lambda normal: {a: normal(n), b: normal(n)}

    def half(a: str, b: str) -> Callable[..., Args]:
        return lambda normal: {a: normal(n), b: (normal(n) > 0).astype(np.float32)}

    def logs(normal):
        return {"log_p": -np.abs(normal(n // 64, 64)) - 1, "log_q": -np.abs(normal(n // 64, 64)) - 1}

    def functional(name: str, a: str, b: str, **more: Any) -> Torch:
        return call(lambda torch, t: getattr(torch.nn.functional, name)(t[a], t[b], **more))

    def mse_backward(torch, t):
        return torch.ops.aten.mse_loss_backward(torch.tensor(1.0), t["prediction"], t["target"], 1)

    def l1_backward(torch, t):
        return torch.sign(t["prediction"] - t["target"]) * (1.0 / n)

    def bce_backward(torch, t):
        return (torch.sigmoid(t["logits"]) - t["target"]) * (1.0 / n)

    def kl(torch, t):
        return torch.nn.functional.kl_div(t["log_q"], t["log_p"], reduction="batchmean", log_target=True)

    def kl_backward(torch, t):
        g = torch.exp(t["log_p"]) * (64 / n)
        return g * (t["log_p"] - t["log_q"] + 1), -g

    pair, bce = ("prediction", "target"), "binary_cross_entropy_with_logits"
    shape, m = words(n), float(n)
    return [
        Case("mse", shape, 3 * m, two(*pair), functional("mse_loss", *pair)),
        Case("mse_backward", shape, 2 * m, two(*pair), call(mse_backward)),
        Case("l1", shape, 3 * m, two(*pair), functional("l1_loss", *pair)),
        Case("l1_backward", shape, 3 * m, two(*pair), call(l1_backward)),
        Case(bce, shape, 8 * m, half("logits", "target"), functional(bce, "logits", "target")),
        Case(f"{bce}_backward", shape, 5 * m, half("logits", "target"), call(bce_backward)),
        Case("kl_divergence", shape, 4 * m, logs, call(kl)),
        Case("kl_divergence_backward", shape, 6 * m, logs, call(kl_backward)),
    ]


def _cosine(rows: int, d: int) -> list[Case]:
    def make(normal):
        return {"a": normal(rows, d), "b": normal(rows, d)}

    def make_backward(normal):
        a, b = normal(rows, d), normal(rows, d)
        na, nb = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
        return {"ds": normal(rows), "a": a, "b": b, "s": (a * b).sum(axis=1) / na / nb, "norm_a": na, "norm_b": nb}

    def backward(torch, t):
        a, b, na, nb = t["a"], t["b"], t["norm_a"][:, None], t["norm_b"][:, None]
        ds, s = t["ds"][:, None], t["s"][:, None]
        cross = ds / (na * nb)
        return cross * b - (ds * s / (na * na)) * a, cross * a - (ds * s / (nb * nb)) * b

    def forward(torch, t):
        return torch.nn.functional.cosine_similarity(t["a"], t["b"], -1)

    n, shape = float(rows * d), f"{rows}x{d}"
    return [
        Case("cosine_similarity", shape, 6 * n, make, call(forward)),
        Case("cosine_similarity_backward", shape, 6 * n, make_backward, call(backward)),
    ]


def _pools(b: int, c: int, h: int, size: int, stride: int, padding: int) -> list[Case]:
    m = (h + 2 * padding - size) // stride + 1
    window = {"size": size, "stride": stride, "padding": padding}
    given = (size, stride, padding)

    def make(normal):
        return {"x": normal(b, c, h, h), **window}

    def make_max_backward(normal):
        n = (np.arange(m) * stride).clip(0, h - 1)
        index = np.tile(n[:, None] * h + n, (b, c, 1, 1)).astype(np.int64)
        return {"dy": normal(b, c, m, m), "index": index, "height": h, "width": h}

    def make_avg_backward(normal):
        return {"dy": normal(b, c, m, m), "height": h, "width": h, **window}

    def max_backward(torch, t):
        x, aten = torch.empty(b, c, h, h), torch.ops.aten
        sizes = ([size] * 2, [stride] * 2, [padding] * 2, [1, 1], False)
        return lambda: aten.max_pool2d_with_indices_backward(t["dy"], x, *sizes, t["index"])

    def avg_backward(torch, t):
        x, aten = torch.empty(b, c, h, h), torch.ops.aten
        sizes = ([size] * 2, [stride] * 2, [padding] * 2, False, True, None)
        return lambda: aten.avg_pool2d_backward(t["dy"], x, *sizes)

    def max_forward(torch, t):
        return torch.nn.functional.max_pool2d(t["x"], *given, return_indices=True)

    def avg_forward(torch, t):
        return torch.nn.functional.avg_pool2d(t["x"], *given)

    n, shape = float(b * c * m * m * size * size), f"{b}x{c}x{h}x{h} k{size} s{stride}"
    return [
        Case("max_pool2d", shape, n, make, call(max_forward)),
        Case("max_pool2d_backward", shape, float(b * c * m * m), make_max_backward, max_backward),
        Case("avg_pool2d", shape, n, make, call(avg_forward)),
        Case("avg_pool2d_backward", shape, n, make_avg_backward, avg_backward),
    ]


def _global_pool(b: int, c: int, h: int) -> list[Case]:
    def backward(torch, t):
        x, aten = torch.empty(b, c, h, h), torch.ops.aten
        return lambda: aten._adaptive_avg_pool2d_backward(t["dy"][:, :, None, None], x)

    def forward(torch, t):
        return torch.ops.aten.mean(t["x"], [2, 3])  # what adaptive_avg_pool2d(x, 1) does

    n, shape = float(b * c * h * h), f"{b}x{c}x{h}x{h}"
    make_backward = lambda normal: {"dy": normal(b, c), "height": h, "width": h}  # noqa: E731
    return [
        Case("global_avg_pool2d", shape, n, lambda normal: {"x": normal(b, c, h, h)}, call(forward)),
        Case("global_avg_pool2d_backward", shape, 1.0 * b * c, make_backward, backward),
    ]


def _reductions(*shape: int) -> list[Case]:
    n, text, cases = float(math.prod(shape)), "x".join(map(str, shape)), []
    for axis in range(len(shape)):
        kept = shape[:axis] + shape[axis + 1 :]
        at, where = f"{text} axis {axis}", {"axis": axis}
        x = lambda normal, where=where: {"x": normal(*shape), **where}  # noqa: E731
        dy = lambda normal, kept=kept, axis=axis: {"dy": normal(*kept), "axis": axis, "n": shape[axis]}  # noqa: E731

        def spread(torch, t):
            return t["dy"].unsqueeze(t["axis"]).expand(shape).contiguous()

        cases += [
            Case("reduce_sum", at, n, x, call(lambda torch, t: t["x"].sum(t["axis"]))),
            Case("reduce_mean", at, n, x, call(lambda torch, t: t["x"].mean(t["axis"]))),
            Case("reduce_max", at, n, x, call(lambda torch, t: tuple(t["x"].max(t["axis"])))),
            Case("reduce_sum_backward", at, 0.0, dy, call(spread)),
        ]
    make = lambda normal: {"x": normal(*shape)}  # noqa: E731
    cases.append(Case("total", text, n, make, call(lambda torch, t: t["x"].sum())))
    squares = call(lambda torch, t: torch.linalg.vector_norm(t["x"]).square())
    if n < 1e7:  # beyond, PyTorch's sum in single precision is off by more than the race tolerates
        cases.append(Case("sum_of_squares", text, 2 * n, make, squares))
    return cases


def _embedding_backward(rows: int, v: int, d: int) -> Case:
    def make(normal):
        return {"dy": normal(rows, d), "index": np.arange(rows, dtype=np.int64) * 7919 % v, "V": v}

    def backward(aten, t):
        return aten.embedding_dense_backward(t["dy"], t["index"], v, -1, False)

    return Case("embedding_backward", f"{rows} of {v}x{d}", float(rows * d), make, aten(backward))


def _dropout(n: int) -> list[Case]:
    def make(name: str) -> Callable[..., Args]:
        return lambda normal: {name: normal(n), "mask": normal(n) > 0, "rate": 0.5}

    def times(name: str) -> Torch:
        return aten(lambda aten, t: aten.native_dropout_backward(t[name], t["mask"], 2.0))

    return [
        Case("dropout", words(n), 2.0 * n, make("x"), times("x")),
        Case("dropout_backward", words(n), 2.0 * n, make("dy"), times("dy")),
    ]


def _updates(n: int) -> list[Case]:
    def state(*names: str, **numbers: Any) -> Callable[..., Args]:
        return lambda normal: {
            "param": normal(n),
            "grad": normal(n),
            **{k: np.zeros(n, np.float32) for k in names},
            **numbers,
        }

    def optimizer(name: str, **numbers: Any) -> Torch:
        def prepare(torch, t):
            param = torch.nn.Parameter(t["param"].clone())
            param.grad = t["grad"].clone()
            o = getattr(torch.optim, name)([param], **numbers)

            def step():
                o.step()
                return param

            return step

        return prepare

    def vectors(*names: str, **numbers: Any) -> Callable[..., Args]:
        return lambda normal: {**{k: normal(n) for k in names}, **numbers}

    def rows(normal):
        d = 256
        return {"a": normal(n // d), "x": normal(n // d, d), "b": normal(n // d), "y": normal(n // d, d)}

    def row_sum(torch, t):
        return torch.addcmul(t["a"][:, None] * t["x"], t["b"][:, None], t["y"])

    adam = {"lr": 1e-3, "fused": True}
    decoupled = state("m", "v", step=1, lr=1e-3, weight_decay=0.01, decoupled=True)
    shape, m = words(n), float(n)
    return [
        Case("sgd_update", f"{shape} plain", 2 * m, state(velocity=None, lr=0.1), optimizer("SGD", lr=0.1, fused=True)),
        Case(
            "sgd_update",
            f"{shape} momentum",
            4 * m,
            state("velocity", lr=1e-4, momentum=0.9),
            optimizer("SGD", lr=1e-4, momentum=0.9, fused=True),
        ),
        Case("adam_update", f"{shape} decoupled", 14 * m, decoupled, optimizer("AdamW", **adam)),
        Case("rmsprop_update", shape, 9 * m, state("v", velocity=None, lr=1e-3), optimizer("RMSprop", lr=1e-3)),
        Case(
            "ema_update",
            shape,
            3 * m,
            vectors("average", "value", decay=0.99),
            call(lambda torch, t: t["average"].lerp_(t["value"], 0.01)),
        ),
        Case("scale_inplace", shape, m, vectors("x", factor=1.0), call(lambda torch, t: t["x"].mul_(1.0))),
        Case(
            "axpy", shape, 2 * m, vectors("y", "x", alpha=1e-9), call(lambda torch, t: t["y"].add_(t["x"], alpha=1e-9))
        ),
        Case(
            "fma_combine",
            shape,
            3 * m,
            vectors("x", "y", a=1.0, b=0.5),
            call(lambda torch, t: torch.add(t["x"], t["y"], alpha=0.5)),
        ),
        Case("row_scaled_sum", shape, 3 * m, rows, call(row_sum)),
        Case("dot", shape, 2 * m, vectors("x", "y"), call(lambda torch, t: torch.dot(t["x"], t["y"]))),
    ]


_MILLION, _BEYOND = 1 << 20, 1 << 24  # within the last cache, and far beyond

MEMORY_BOUND: tuple[Case, ...] = (
    _max_pool2d(32, 64, 16),
    *_layernorm(2048, 512),
    _batchnorm(32, 64, 16, 16),
    *_softmax(128, 10),
    *_softmax(2048, 1024),
    _cross_entropy(128, 10),
    _cross_entropy(2048, 1024),
    _elementwise("relu", 1_000_000, 1, functional("relu")),
    _elementwise("gelu", 1_000_000, 8, functional("gelu")),
    _elementwise("tanh", 1_000_000, 1, call(lambda torch, t: torch.tanh(t["x"]))),
    _elementwise("sigmoid", 1_000_000, 3, call(lambda torch, t: torch.sigmoid(t["x"]))),
    _embedding(4096, 1024, 256),
    _adam(1_000_000),
    *(
        case
        for rows, d in ((4096, 64), (512, 128), (8192, 768), (16, 65536), (16384, 1024))
        for case in _layernorm(rows, d)
    ),
    *(case for rows, d in ((4096, 64), (2048, 512), (8192, 768)) for case in _rms(rows, d)),
    *_groups(32, 64, 16, 8),
    *_groups(8, 128, 32, 32),
    *_groups(32, 64, 8, 64),
    *_groups(16, 64, 128, 8),
    *_batch(32, 64, 16, 16),
    *_batch(256, 256),
    *_batch(32, 64, 56, 56),
    *(case for shape in ((4096, 64), (256, 16384), (16384, 1024)) for case in _softmax(*shape)),
    *(case for shape in ((128, 10), (2048, 1024), (4096, 64), (256, 16384)) for case in _softmax_family(*shape)),
    _cross_entropy(512, 32768),
    *(_cross_entropy_backward(rows, k) for rows, k in ((128, 10), (2048, 1024), (512, 32768))),
    *_losses(_MILLION),
    *_losses(_BEYOND),
    *_cosine(4096, 64),
    *_cosine(2048, 512),
    *_activations(4096),
    *_activations(_MILLION),
    *_activations(_BEYOND, ("relu", "relu_backward", "gelu", "gelu_backward", "silu", "tanh", "sigmoid_backward")),
    *_pools(32, 64, 16, 2, 2, 0),
    *_pools(32, 64, 56, 2, 2, 0),
    *_pools(16, 64, 56, 3, 2, 1),
    *_pools(16, 64, 28, 3, 1, 1),
    *_global_pool(32, 64, 16),
    *_global_pool(32, 512, 7),
    *_global_pool(32, 64, 56),
    *_reductions(1024, 1024),
    *_reductions(64, 256, 64),
    *_reductions(4096, 4096),
    _embedding(16384, 32768, 512),
    *(_embedding_backward(*shape) for shape in ((4096, 1024, 256), (4096, 32768, 64), (16384, 32768, 512))),
    *_dropout(_MILLION),
    *_dropout(_BEYOND),
    *_updates(65536),
    *_updates(_MILLION),
    *_updates(_BEYOND),
)
