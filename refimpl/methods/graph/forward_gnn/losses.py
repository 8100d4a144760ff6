"""The losses of one layer, with their gradients: all that a layer of ForwardGNN ever learns from.

Z (N', D) are the layer's outputs (after ReLU) of some nodes. Numbers in brackets: the outline in __init__.py.
"""

from __future__ import annotations

import numpy as np

from refimpl import ops

__all__ = ["class_probabilities", "goodness", "goodness_loss", "link_goodness_loss", "single_forward_loss"]


def single_forward_loss(
    z: np.ndarray, virtual: np.ndarray, target: np.ndarray, temperature: float = 1.0
) -> tuple[float, np.ndarray, np.ndarray]:
    """SF [3.2]: softmax cross-entropy of the dot products with the class nodes.

    Lg_ic = <Z_i, V_c> / tau,  P = softmax(Lg),  L = -1/|T| sum_i log P_i,y_i
    Dl = (P - Y) / (|T| tau),  dZ = Dl V,  dV = Dl^T Z

    z (|T|, D) training nodes, virtual V (C, D) class nodes, target (|T|,) classes. Returns L, dZ, dV.
    """
    logits = ops.matmul(z, virtual, transpose_b=True)
    if temperature != 1:
        logits /= z.dtype.type(temperature)
    loss, p = ops.cross_entropy(logits, target)
    dlogits = ops.cross_entropy_backward(p, target, dloss=1 / temperature)
    return float(loss), ops.matmul(dlogits, virtual), ops.matmul(dlogits, z, transpose_a=True)


def class_probabilities(z: np.ndarray, virtual: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """softmax_c(<Z_v, V_c> / tau) [3.4], (N', C)."""
    return ops.softmax(ops.matmul(z, virtual, transpose_b=True) / z.dtype.type(temperature))


def goodness(z: np.ndarray) -> np.ndarray:
    """g_v = sum_k Z_vk^2 [1.3], (N',)."""
    return np.einsum("nd,nd->n", z, z)


def goodness_loss(z: np.ndarray, positive: bool, threshold: float, share: float) -> tuple[float, np.ndarray]:
    """FF [1.3]: the part of one pass in the loss, and its gradient.

    L = share/|T| sum_v softplus(s (g_v - theta)),  dZ_v = share 2/|T| s sigma(s (g_v - theta)) Z_v

    with s = -1 for the positive pass (share 1), s = 1 for one of R negative passes (share 1/R). z (|T|, D).
    """
    sign = z.dtype.type(-1 if positive else 1)
    distance = sign * (goodness(z) - z.dtype.type(threshold))
    loss = share * float(ops.softplus(distance).mean())
    return loss, (z.dtype.type(2 * share / len(z)) * sign * ops.sigmoid(distance))[:, None] * z


def link_goodness_loss(
    z_u: np.ndarray, z_v: np.ndarray, joined: np.ndarray, threshold: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Link FF [6]: q = Z_u * Z_v, g = sum q^2, binary cross-entropy of g - theta; means over joined and other pairs.

    delta = dL/dg,  dZ_u = 2 delta q * Z_v,  dZ_v = 2 delta q * Z_u.  All (P, D), joined (P,) of 1 and 0.
    """
    q = z_u * z_v
    logit = goodness(q) - z_u.dtype.type(threshold)
    weight = np.where(joined == 1, 1 / max(1, joined.sum()), 1 / max(1, (1 - joined).sum())).astype(z_u.dtype)
    sign = np.where(joined == 1, -1, 1).astype(z_u.dtype)
    loss = float((weight * ops.softplus(sign * logit)).sum())
    q *= (2 * weight * sign * ops.sigmoid(sign * logit))[:, None]
    return loss, q * z_v, q * z_u
