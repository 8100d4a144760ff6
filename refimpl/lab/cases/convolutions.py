"""Convolutions as the models have them: few and many channels, kernels of 1 to 7, strided, dilated, depthwise, 1-d."""

from __future__ import annotations

from refimpl.lab.cases.case import Case, call, gradient


def _conv2d(b: int, c: int, h: int, o: int, k: int, stride: int = 1, dilation: int = 1, groups: int = 1) -> list[Case]:
    """Square images and kernels, padded so that stride 1 keeps the size."""
    pad = dilation * (k // 2)
    m = (h + 2 * pad - dilation * (k - 1) - 1) // stride + 1
    numbers = {"stride": stride, "padding": pad, "dilation": dilation, "groups": groups}

    def make(normal):
        return {"x": normal(b, c, h, h), "weight": normal(o, c // groups, k, k), "bias": normal(o), **numbers}

    def make_backward(normal):
        return {"dy": normal(b, o, m, m), "x": normal(b, c, h, h), "weight": normal(o, c // groups, k, k), **numbers}

    def forward(torch, t):
        return torch.nn.functional.conv2d(t["x"], t["weight"], t["bias"], **numbers)

    def with_bias(torch, t):
        return torch.nn.functional.conv2d(t["x"], t["weight"], torch.zeros(o, requires_grad=True), **numbers)

    shape, flops = f"{b}x{c}x{h}x{h} O{o} k{k}", 2.0 * b * o * m * m * (c // groups) * k * k
    for name, value, usual in (("s", stride, 1), ("d", dilation, 1), ("g", groups, 1)):
        shape += f" {name}{value}" if value != usual else ""
    return [
        Case("conv2d", shape, flops, make, call(forward)),
        Case("conv2d_backward", shape, 2 * flops, make_backward, gradient(with_bias, "x", "weight")),
    ]


def _conv1d(b: int, c: int, t: int, o: int, k: int) -> list[Case]:
    pad = k // 2

    def make(normal):
        return {"x": normal(b, c, t), "weight": normal(o, c, k), "bias": normal(o), "padding": pad}

    def make_backward(normal):
        return {"dy": normal(b, o, t), "x": normal(b, c, t), "weight": normal(o, c, k), "padding": pad}

    def forward(torch, a):
        return torch.nn.functional.conv1d(a["x"], a["weight"], a["bias"], padding=pad)

    def with_bias(torch, a):
        return torch.nn.functional.conv1d(a["x"], a["weight"], torch.zeros(o, requires_grad=True), padding=pad)

    shape, flops = f"{b}x{c}x{t} O{o} k{k}", 2.0 * b * o * t * c * k
    return [
        Case("conv1d", shape, flops, make, call(forward)),
        Case("conv1d_backward", shape, 2 * flops, make_backward, gradient(with_bias, "x", "weight")),
    ]


# Convolutions as the models have them: few and many channels, kernels of 1 to 7, strided, dilated, depthwise, in 1-d.
CONVOLUTIONS: tuple[Case, ...] = (
    *_conv2d(16, 3, 32, 64, 3),
    *_conv2d(32, 32, 16, 32, 3),
    *_conv2d(8, 64, 32, 64, 3),
    *_conv2d(1, 64, 32, 64, 3),
    *_conv2d(16, 128, 16, 128, 3),
    *_conv2d(16, 256, 8, 256, 3),
    *_conv2d(16, 512, 4, 512, 3),
    *_conv2d(16, 256, 14, 64, 1),
    *_conv2d(8, 64, 28, 256, 1),
    *_conv2d(16, 32, 14, 64, 5),
    *_conv2d(8, 64, 32, 128, 3, stride=2),
    *_conv2d(8, 3, 64, 64, 7, stride=2),
    *_conv2d(8, 64, 32, 64, 3, dilation=2),
    *_conv2d(16, 128, 28, 128, 3, groups=128),
    *_conv1d(16, 64, 256, 64, 5),
)
