"""Native mirrors of refimpl/ops/goodness.py: check, make contiguous, call the kernel of the same name."""

from __future__ import annotations

import numpy as np

from refimpl.backends.native import check, contiguous, kernel
from refimpl.backends.native import p as pointer  # `p` is an argument's name here
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import goodness as ops
from refimpl.ops.goodness import _check_contrast, _check_steps

_contrast, _steps = kernel("goodness_contrast"), kernel("goodness_steps")


@ops.goodness_contrast.mirror("native")
def goodness_contrast(z, p, theta=4.0, magnitude=True):
    _check_contrast(z, p, theta)
    z, p, dtype = contiguous(z), contiguous(p), z.dtype
    B, N = len(z) // 2, z.shape[1]
    loss, g, dz = np.empty(B, dtype), np.empty(2 * B, dtype), np.empty((2 * B, N), dtype)
    status = _contrast[dtype](
        pointer(z), pointer(p), theta, bool(magnitude), B, N, pointer(loss), pointer(g), pointer(dz), threads()
    )
    check(status, "goodness_contrast")
    return loss, g, dz


@ops.goodness_steps.mirror("native")
def goodness_steps(param, m, v, u, p, theta, step, lr, steps, beta1=0.9, beta2=0.999, eps=1e-8):
    steps = _check_steps(param, m, v, u, p, theta, step, lr, steps, beta1, beta2, eps)
    u, p, dtype = contiguous(u), contiguous(p), param.dtype
    losses = np.empty(steps, dtype)
    arrays = (pointer(param), pointer(m), pointer(v), pointer(u), pointer(p))
    numbers = (theta, step, lr, steps, beta1, beta2, eps, len(u) // 2, u.shape[1], len(p))
    check(_steps[dtype](*arrays, *numbers, pointer(losses), threads()), "goodness_steps")
    return losses
