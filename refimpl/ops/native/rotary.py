"""Native mirrors of refimpl/ops/rotary.py: check, make contiguous, call the kernel of the same name."""

from __future__ import annotations

import numpy as np

from refimpl.backends.native import check, contiguous, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import rotary as ops
from refimpl.ops.rotary import _checked

_rotary, _rotary_backward = kernel("rotary"), kernel("rotary_backward")


def _rotate(name, kernels, x, cos, sin):
    x, cos, sin = contiguous(x), contiguous(cos), contiguous(sin)
    y = np.empty(x.shape, x.dtype)
    B, H, T, D = x.shape
    check(kernels[x.dtype](p(x), p(cos), p(sin), B * H * T, T, D, p(y), threads()), name)
    return y


@ops.rotary.mirror("native")
def rotary(x, cos, sin):
    _checked("rotary", "x", x, cos, sin)
    return _rotate("rotary", _rotary, x, cos, sin)


@ops.rotary_backward.mirror("native")
def rotary_backward(dy, cos, sin):
    _checked("rotary_backward", "dy", dy, cos, sin)
    return _rotate("rotary_backward", _rotary_backward, dy, cos, sin)
