"""The multilayer perceptron."""

from __future__ import annotations

import math

from refimpl.nn import Activation, Flatten, Layer, Linear, Sequential, init


def mlp(
    d_in: int, d_out: int, hidden: tuple[int, ...] = (256,), activation: str = "relu", out_gain: float = 1.0
) -> Sequential:
    """Linear layers of the given hidden widths with an activation between; the last is linear.

    Input (B, ...) of d_in features (flattened), output (B, d_out). Hidden weights are initialised as He et al. with the
    gain sqrt(2) for the ReLU family and 1 for others, the last layer with `out_gain`.
    """
    gain = math.sqrt(2.0) if activation in ("relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu") else 1.0
    layers: list[Layer] = [Flatten()]
    for width in hidden:
        layers += [Linear(d_in, width, weight_init=init.kaiming_uniform(d_in, gain)), Activation(activation)]
        d_in = width
    return Sequential(*layers, Linear(d_in, d_out, weight_init=init.kaiming_uniform(d_in, out_gain)))
