import numpy as np
from hypothesis import strategies as st

from refimpl import ops
from tests.harness import array, bound, gamma, gradient, inputs, size


def _geometry(draw, axes):
    """Size, stride and padding of the windows, and extents of a plane that holds at least one."""
    windows, strides, paddings, plane = [], [], [], []
    same = draw(st.integers(1, 5))
    common = draw(st.booleans())
    for _ in range(axes):
        k = same if common else draw(st.integers(1, 5))
        p = draw(st.integers(0, k // 2))
        windows.append(k), paddings.append(p), strides.append(draw(st.integers(1, 4)))
        plane.append(max(1, k - 2 * p) + (draw(st.integers(0, 3)) if draw(st.booleans()) else size(draw, 0, 66)))
    if axes == 1:
        numbers = {"size": windows[0], "stride": strides[0], "padding": paddings[0]}
    else:
        numbers = {
            "size": windows[0] if common else tuple(windows),
            "stride": strides[0] if strides[0] == strides[1] else tuple(strides),
            "padding": paddings[0] if paddings[0] == paddings[1] else tuple(paddings),
        }
    if draw(st.booleans()):  # the commonest use
        numbers = {"size": numbers["size"], "stride": None, "padding": 0}
        plane = [n + k for n, k in zip(plane, windows)]
    return numbers, tuple(plane)


def _planes(draw):
    return size(draw, 0, 3), size(draw, 0, 4)


def _ties(draw, x):
    """Sometimes few distinct values, so that many maxima are tied."""
    return np.round(x) if draw(st.booleans()) else x


def _max_pool(name, axes, extents):
    forward, backward = getattr(ops, name), getattr(ops, f"{name}_backward")

    @inputs(name)
    def _(draw, dtype):
        numbers, plane = _geometry(draw, axes)
        return {"x": _ties(draw, array(draw, (*_planes(draw), *plane), dtype, special=True)), **numbers}

    @inputs(f"{name}_backward")
    def _(draw, dtype):
        numbers, plane = _geometry(draw, axes)
        x = _ties(draw, array(draw, (*_planes(draw), *plane), dtype))
        _, index = forward.numpy(x, **numbers)
        index = index.astype(draw(st.sampled_from([np.int64, np.int32])))
        return {"dy": array(draw, index.shape, dtype), "index": index, **dict(zip(extents, plane))}

    def smooth(args):
        """No two entries of x so close that the step of a central difference could exchange them."""
        x = np.sort(args["x"].reshape(-1))
        return bool((np.diff(x) > 1e-3).all())

    @gradient(name, wrt=("x",), smooth=smooth)
    def _(args, dy):
        y, index = forward(**args)
        return y, {"x": backward(dy, index, *args["x"].shape[2:])}

    @bound(name)
    def _(args, outs, eps):
        """Comparisons only: both bodies return entries of x, the same ones."""
        return 0.0

    @bound(f"{name}_backward")
    def _(args, outs, eps):
        """At most M terms, the windows of a plane, meet in one entry."""
        dy = np.abs(args["dy"])
        terms = dy[0, 0].size if dy.size else 1
        return gamma(terms, eps) * backward.numpy(**{**args, "dy": dy})


def _avg_pool(name, axes, extents):
    forward, backward = getattr(ops, name), getattr(ops, f"{name}_backward")

    @inputs(name)
    def _(draw, dtype):
        numbers, plane = _geometry(draw, axes)
        return {"x": array(draw, (*_planes(draw), *plane), dtype), **numbers}

    @inputs(f"{name}_backward")
    def _(draw, dtype):
        numbers, plane = _geometry(draw, axes)
        y = forward.numpy(np.zeros((*_planes(draw), *plane), dtype), **numbers)
        return {"dy": array(draw, y.shape, dtype), **dict(zip(extents, plane)), **numbers}

    @gradient(name, wrt=("x",))
    def _(args, dy):
        rest = {k: v for k, v in args.items() if k != "x"}
        return forward(**args), {"x": backward(dy, *args["x"].shape[2:], **rest)}

    @bound(name, f"{name}_backward")
    def _(args, outs, eps):
        """A sum of at most n = KH KW terms and a division: gamma(n + 1) times the same of absolute values."""
        taps = np.prod(np.broadcast_to(args["size"], axes))
        absolute = {k: np.abs(v) if isinstance(v, np.ndarray) else v for k, v in args.items()}
        return gamma(int(taps) + 2, eps) * (forward if "x" in args else backward).numpy(**absolute)


_max_pool("max_pool1d", 1, ("length",))
_max_pool("max_pool2d", 2, ("height", "width"))
_avg_pool("avg_pool1d", 1, ("length",))
_avg_pool("avg_pool2d", 2, ("height", "width"))


def _extent(draw):
    return size(draw, 1, 20)


@inputs("global_avg_pool2d")
def _(draw, dtype):
    return {"x": array(draw, (*_planes(draw), _extent(draw), _extent(draw)), dtype, special=True)}


@inputs("global_avg_pool2d_backward")
def _(draw, dtype):
    return {"dy": array(draw, _planes(draw), dtype, special=True), "height": _extent(draw), "width": _extent(draw)}


@gradient("global_avg_pool2d", wrt=("x",))
def _(args, dy):
    return ops.global_avg_pool2d(**args), {"x": ops.global_avg_pool2d_backward(dy, *args["x"].shape[2:])}


@bound("global_avg_pool2d")
def _(args, outs, eps):
    """A sum of H W terms and a division."""
    x = args["x"]
    return gamma(x.shape[2] * x.shape[3] + 2, eps) * ops.global_avg_pool2d.numpy(np.abs(x))


@bound("global_avg_pool2d_backward")
def _(args, outs, eps):
    """One division, correctly rounded (a subnormal quotient too)."""
    return gamma(1, eps) * np.abs(outs[0])
