"""A network as a column: layers in a row, any of which the gradient can be cut behind.

    layer 0, ..., layer n-1, read-out

A layer is what local learning takes as one: of a ResNet the stem (convolution, batch norm, ReLU) and then each residual
block, of an MLP each matrix with its activation. The column also knows how to make more of what it is made of, because
local learning builds auxiliary networks in its image: `block` is one more layer of the same kind, `classifier` one more
read-out.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from refimpl.models.convnet import basic_block, conv_bn
from refimpl.nn import Activation, BatchNorm, Flatten, GlobalAvgPool2d, Layer, Linear, Sequential, init

__all__ = ["Column", "mlp_column", "resnet_column", "spread_cuts"]


@dataclass(frozen=True)
class Column:
    """`layers` 0..n-1; `shapes[l]` is the shape of one sample behind layer l, `shape` that of the input, K the number
    of classes of `readout`. `kind` is "resnet" or "mlp"."""

    kind: str
    shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    shapes: tuple[tuple[int, ...], ...]
    K: int

    @property
    def n(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def widths(self) -> tuple[int, ...]:
        """C_l, the channels (of an MLP: features) behind each layer."""
        return tuple(s[0] for s in self.shapes)

    @property
    def readout(self) -> Layer:
        """Pooling and the classifier, behind the last layer."""
        return self.classifier(self.widths[-1])

    def block(self, c_in: int, c_out: int, stride: int = 1) -> Layer:
        """A layer of the column's kind: a residual block, or a matrix with its activation (which has no stride)."""
        return basic_block(c_in, c_out, stride, fan="out") if self.kind == "resnet" else _dense(c_in, c_out)

    def classifier(self, c: int, norm: bool = False) -> Sequential:
        """Global average pooling (of images), with `norm` a batch norm, and a linear map to the classes."""
        pool: list[Layer] = [GlobalAvgPool2d()] if self.kind == "resnet" else []
        return Sequential(*pool, *([BatchNorm(c)] if norm else []), linear(c, self.K))

    def network(self) -> Sequential:
        """The whole column as one network, layers named layer0, layer1, ..., and readout."""
        return Sequential(**{f"layer{i}": layer for i, layer in enumerate(self.layers)}, readout=self.readout)


def linear(d_in: int, d_out: int, bias: bool = True) -> Linear:
    """A linear layer that starts uniform within 1 / sqrt(d_in)."""
    first = init.uniform(1 / math.sqrt(d_in))
    return Linear(d_in, d_out, bias, weight_init=first, bias_init=first)


def _dense(d_in: int, d_out: int) -> Sequential:
    return Sequential(Linear(d_in, d_out), Activation("relu"))


def resnet_column(
    shape: tuple[int, int, int], K: int, widths: tuple[int, ...] = (16, 32, 64), blocks: int = 5
) -> Column:
    """The CIFAR ResNet: a 3x3 stem, `blocks` residual blocks a stage, stride 2 at each new stage.

    blocks=5 is ResNet-32 (n = 16 layers), blocks=18 ResNet-110 (n = 55). First weights of all convolutions are
    N(0, 2 / (k^2 C_out)). Raises ValueError for what is no image, or widths and blocks that are not positive.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"resnet_column: images of shape {shape}, expected (C, H, W)")
    if not widths or min(widths) < 1 or blocks < 1:
        raise ValueError(f"resnet_column: widths are {widths} and blocks {blocks}, expected positive numbers")
    c, (h, w) = widths[0], shape[1:]
    layers: list[Layer] = [Sequential(*conv_bn(shape[0], c, fan="out"), Activation("relu"))]
    shapes: list[tuple[int, ...]] = [(c, h, w)]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            layers.append(basic_block(c, width, stride, fan="out"))
            c, h, w = width, -(-h // stride), -(-w // stride)
            shapes.append((c, h, w))
    return Column("resnet", shape, tuple(layers), tuple(shapes), K)


def mlp_column(shape: tuple[int, ...], K: int, hidden: tuple[int, ...] = (256, 256, 256)) -> Column:
    """A multilayer perceptron with ReLU: layer l is a matrix with its activation, `hidden[l]` wide.

    Raises ValueError where no hidden layer is given or one is empty.
    """
    if not hidden or min(hidden) < 1:
        raise ValueError(f"mlp_column: hidden is {hidden}, expected at least one layer of at least one unit")
    d = math.prod(shape)
    layers: list[Layer] = [Sequential(Flatten(), Linear(d, hidden[0]), Activation("relu"))]
    layers += [_dense(a, b) for a, b in itertools.pairwise(hidden)]
    return Column("mlp", tuple(shape), tuple(layers), tuple((width,) for width in hidden), K)


def spread_cuts(n: int, modules: int) -> tuple[int, ...]:
    """Where to cut a column of n layers into that many modules of nearly equal length: the last layer of each module
    but the last. Raises ValueError for another number than 1..n."""
    if not 1 <= modules <= n:
        raise ValueError(f"modules is {modules}, expected 1..{n}: the column has {n} layers")
    return tuple(j * n // modules - 1 for j in range(1, modules))
