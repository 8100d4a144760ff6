"""Native mirrors of refimpl/ops/wave.py: check, make contiguous, call the kernel of the same name."""

from __future__ import annotations

import numpy as np

from refimpl.backends.native import check, contiguous, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import wave as ops
from refimpl.ops.wave import _check_wave

_cubic_wave = kernel("cubic_wave")


@ops.cubic_wave.mirror("native")
def cubic_wave(x, mixing, coupling, strength):
    N = _check_wave(x, mixing, coupling, strength)
    x, (B, D) = contiguous(x), x.shape
    y = np.empty((B, N), x.dtype)
    matrices = p(contiguous(mixing)), p(contiguous(coupling))
    check(_cubic_wave[x.dtype](p(x), *matrices, strength, B, D, N, p(y), threads()), "cubic_wave")
    return y
