"""Convolutional networks for small images: LeNet-like, VGG-like and a small ResNet. All take (B, C, H, W)."""

from __future__ import annotations

from refimpl.nn import (
    Activation,
    BatchNorm,
    Conv2d,
    Flatten,
    GlobalAvgPool2d,
    Layer,
    Linear,
    MaxPool2d,
    Residual,
    Sequential,
    init,
)

Shape = tuple[int, int, int]


def _least(name: str, shape: Shape, least: int) -> None:
    if len(shape) != 3 or min(shape) < 1 or min(shape[1:]) < least:
        raise ValueError(f"{name}: images of shape {shape}, expected (C, H, W) with H and W at least {least}")


def lenet(shape: Shape, d_out: int, widths: tuple[int, int] = (16, 32), hidden: int = 128) -> Sequential:
    """Two 3x3 convolutions with 2x2 max pooling and two linear layers.

    After LeCun et al., "Gradient-based learning applied to document recognition", 1998, with ReLU and max pooling.
    """
    _least("lenet", shape, 4)
    c, h, w = shape
    first, second = widths
    return Sequential(
        Conv2d(c, first, 3, padding=1),
        Activation("relu"),
        MaxPool2d(2),
        Conv2d(first, second, 3, padding=1),
        Activation("relu"),
        MaxPool2d(2),
        Flatten(),
        Linear(second * (h // 4) * (w // 4), hidden),
        Activation("relu"),
        Linear(hidden, d_out, weight_init=init.kaiming_uniform(hidden, 1.0)),
    )


def conv_bn(c_in: int, c_out: int, stride: int = 1, size: int = 3, fan: str = "in") -> list[Layer]:
    """A convolution without bias and its batch norm. First weights: He et al., 2015, by the fan-in (uniform) or the
    fan-out, N(0, 2 / (size^2 c_out))."""
    if fan not in ("in", "out"):
        raise ValueError(f"conv_bn: fan is {fan!r}, expected 'in' or 'out'")
    weight = None if fan == "in" else init.kaiming_normal(size * size * c_out)
    return [Conv2d(c_in, c_out, size, stride, padding=size // 2, bias=False, weight_init=weight), BatchNorm(c_out)]


def vgg(
    shape: Shape, d_out: int, plan: tuple[tuple[int, ...], ...] = ((32, 32), (64, 64)), hidden: int = 128
) -> Sequential:
    """Stages of 3x3 convolutions with batch norm and ReLU, 2x2 max pooling after each stage, two linear layers.

    `plan` lists the channels of each stage's convolutions. After Simonyan and Zisserman, 2015, with batch norm.
    """
    _least("vgg", shape, 2 ** len(plan))
    c, h, w = shape
    layers: list[Layer] = []
    for stage in plan:
        for width in stage:
            layers += [*conv_bn(c, width), Activation("relu")]
            c = width
        layers.append(MaxPool2d(2))
        h, w = h // 2, w // 2
    head = [Linear(c * h * w, hidden), Activation("relu")]
    return Sequential(*layers, Flatten(), *head, Linear(hidden, d_out, weight_init=init.kaiming_uniform(hidden, 1.0)))


def basic_block(c_in: int, c_out: int, stride: int = 1, fan: str = "in") -> Sequential:
    """The two-convolution residual block of He et al., 2016, with a 1x1 projection where shapes change."""
    body = Sequential(*conv_bn(c_in, c_out, stride, fan=fan), Activation("relu"), *conv_bn(c_out, c_out, fan=fan))
    project = stride != 1 or c_in != c_out
    shortcut = Sequential(*conv_bn(c_in, c_out, stride, size=1, fan=fan)) if project else None
    return Sequential(Residual(body, shortcut), Activation("relu"))


def resnet(shape: Shape, d_out: int, widths: tuple[int, ...] = (16, 32, 64), blocks: int = 1) -> Sequential:
    """A CIFAR-style ResNet: 6 * blocks + 2 weighted layers for three widths (blocks=3: ResNet-20, blocks=5: ResNet-32).

    A 3x3 stem, `blocks` basic blocks a stage, stride 2 at each new stage, global average pooling, one linear layer.
    Source: He et al., "Deep residual learning for image recognition", 2016, section 4.2.
    """
    _least("resnet", shape, 1)
    layers: list[Layer] = [*conv_bn(shape[0], widths[0]), Activation("relu")]
    c = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            layers.append(basic_block(c, width, 2 if stage and not block else 1))
            c = width
    return Sequential(*layers, GlobalAvgPool2d(), Linear(c, d_out, weight_init=init.kaiming_uniform(c, 1.0)))
