import numpy as np
from hypothesis import strategies as st

from tests.harness import array, bound, inputs, size
from tests.running import Running


@inputs("cubic_wave")
def _(draw, dtype):
    """Sometimes enough rows for a second thread, a row of zeros, a NaN."""
    B = draw(st.sampled_from([300, 513])) if draw(st.integers(0, 9)) == 0 else size(draw, 0, 33)
    D, N = size(draw, 0, 33), size(draw, 0, 33)
    x = array(draw, (B, D), dtype, draw(st.sampled_from([1.0, 1e-7, 100.0])))
    if x.size:
        kind = draw(st.integers(0, 5))
        if kind == 0:
            x[draw(st.integers(0, B - 1))] = 0
        elif kind == 1:
            x.flat[draw(st.integers(0, x.size - 1))] = np.nan
    strength = draw(st.sampled_from([2.4, 0.0, 1.0, -0.5]))
    return {
        "x": x,
        "mixing": array(draw, (D, 2 * N), dtype, 0.3),
        "coupling": array(draw, (2 * N, 2 * N), dtype, 0.2),
        "strength": strength,
    }


def _doubled(a):
    return Running(np.tile(a.v, 2), np.tile(a.e, 2), a.eps)


def _squares(a):
    N = a.v.shape[1] // 2
    re, im = a[:, :N], a[:, N:]
    return re * re + im * im


@bound("cubic_wave")
def _(args, outs, eps):
    """Running error analysis of the formula; |x| is exact."""
    number = Running.of(eps)
    x, mixing, coupling = (number(args[name]) for name in ("x", "mixing", "coupling"))
    length = (x * x).sum(axis=1).sqrt() + 1e-6
    xn = number(np.abs(x.v)) / length[:, None]
    a = xn @ mixing
    cubic = _doubled(args["strength"] * _squares(a)) * a
    e = _squares(a + cubic @ coupling).sqrt().e
    return np.where(np.isfinite(e), e, 0)
