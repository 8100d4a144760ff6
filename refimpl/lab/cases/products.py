"""Matrix products and linear layers: square, skinny, transposed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from refimpl.lab.cases.case import Case, call


def _matmul(n: int, k: int, m: int) -> Case:
    def make(normal):
        return {"a": normal(n, k), "b": normal(k, m)}

    return Case("matmul", f"{n}x{k}x{m}", 2.0 * n * k * m, make, call(lambda torch, t: t["a"] @ t["b"]))


def _linear(rows: int, d_in: int, d_out: int) -> list[Case]:
    def make(normal):
        return {"x": normal(rows, d_in), "weight": normal(d_in, d_out), "bias": normal(d_out)}

    def make_backward(normal):
        return {"dy": normal(rows, d_out), "x": normal(rows, d_in), "weight": normal(d_in, d_out)}

    def backward(torch, t):
        return t["dy"] @ t["weight"].T, t["x"].T @ t["dy"], t["dy"].sum(0)

    shape, flops = f"{rows}x{d_in}x{d_out}", 2.0 * rows * d_in * d_out
    forward = call(lambda torch, t: torch.addmm(t["bias"], t["x"], t["weight"]))
    return [
        Case("linear", shape, flops, make, forward),
        Case("linear_backward", shape, 2 * flops, make_backward, call(backward)),
    ]


def _dense(rows: int, d_in: int, d_out: int, activation: str) -> list[Case]:
    """A linear layer with its activation, forward keeping what the gradient needs."""

    def make(normal):
        args = {"x": normal(rows, d_in), "weight": normal(d_in, d_out) / np.float32(d_in**0.5), "bias": normal(d_out)}
        return {**args, "activation": activation}

    def make_backward(normal):
        args = {"dy": normal(rows, d_out), "x": normal(rows, d_in), "weight": normal(d_in, d_out)}
        return {**args, "kept": normal(rows, d_out), "activation": activation}

    def forward(torch, t):
        z = torch.addmm(t["bias"], t["x"], t["weight"])
        y = torch.relu(z) if activation == "relu" else torch.nn.functional.gelu(z, approximate="tanh")
        return y, y if activation == "relu" else z

    def backward(torch, t):
        dz = torch.ops.aten.threshold_backward(t["dy"], t["kept"], 0) if activation == "relu" else _gelu(torch, t)
        return dz @ t["weight"].T, t["x"].T @ dz, dz.sum(0)

    shape, flops = f"{rows}x{d_in}x{d_out} {activation}", 2.0 * rows * d_in * d_out
    return [
        Case("dense", shape, flops, make, call(forward)),
        Case("dense_backward", shape, 2 * flops, make_backward, call(backward)),
    ]


def _gelu(torch: Any, t: Mapping[str, Any]) -> Any:
    return torch.ops.aten.gelu_backward(t["dy"], t["kept"], approximate="tanh")


def _product(m: int, k: int, n: int) -> list[Case]:
    """op(a) op(b) with no operand, the second or the first one transposed."""

    def case(transpose_a: bool, transpose_b: bool) -> Case:
        def make(normal):
            a, b = normal(k, m) if transpose_a else normal(m, k), normal(n, k) if transpose_b else normal(k, n)
            return {"a": a, "b": b, "transpose_a": transpose_a, "transpose_b": transpose_b}

        def forward(torch, t):
            return (t["a"].T if transpose_a else t["a"]) @ (t["b"].T if transpose_b else t["b"])

        label = f"{m}x{k}x{n} {'NT'[transpose_a]}{'NT'[transpose_b]}"
        return Case("matmul", label, 2.0 * m * k * n, make, call(forward))

    return [case(False, False), case(False, True), case(True, False)]


PRODUCTS: tuple[Case, ...] = (
    _matmul(128, 784, 256),
    _matmul(512, 512, 512),
    _matmul(1024, 1024, 1024),
    *_linear(128, 784, 256),
    *_linear(2048, 256, 1024),
    *(case for n in (64, 128, 256, 512, 1024, 2048) for case in _product(n, n, n)),
    *(case for n in (8, 32) for case in _product(n, n, n)),
    *_product(1, 784, 512),
    *_product(1, 2048, 2048),
    *_product(32, 784, 256),
    *_product(128, 10, 64),
    *_product(2048, 256, 16),
    *_product(64, 4096, 64),
    *_linear(1, 784, 512),
    *_linear(32, 784, 256),
    *_linear(128, 256, 10),
    *_dense(32, 784, 512, "relu"),
    *_dense(128, 512, 512, "relu"),
    *_dense(2048, 256, 1024, "gelu_tanh"),
)
