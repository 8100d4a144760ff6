import numpy as np
from hypothesis import strategies as st

from refimpl import ops
from tests.harness import array, bound, gamma, gradient, inputs, size

GEOMETRY = ("stride", "padding", "dilation", "groups")


def _axis(draw, small):
    """Kernel size, stride, padding, dilation of one axis."""
    k = draw(st.integers(1, 3 if small else 5))
    return k, draw(st.integers(1, 3)), draw(st.integers(0, 2 if small else 4)), draw(st.integers(1, 2 if small else 3))


def _number_or_pair(draw, values):
    """An integer where all axes agree (sometimes a pair all the same)."""
    if len(values) == 1 or (len(set(values)) == 1 and draw(st.booleans())):
        return values[0]
    return tuple(values)


def _draw(draw, dtype, axes, transposed=False):
    small = draw(st.booleans())
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    if small:
        B, Cg, Og = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
        groups = min(groups, 2)
    else:
        B, Cg, Og = size(draw, 0, 5), size(draw, 1, 9), size(draw, 1, 17)
        if draw(st.sampled_from([False, False, True])):  # depthwise
            groups, Cg, Og = size(draw, 1, 9), 1, draw(st.integers(1, 2))
    kernel, stride, padding, dilation, picture = [], [], [], [], []
    same = _axis(draw, small)
    for _ in range(axes):
        k, s, p, d = same if draw(st.booleans()) else _axis(draw, small)
        span = d * (k - 1) + 1
        extra = draw(st.integers(0, 4)) if small else size(draw, 0, 40)
        kernel.append(k), stride.append(s), padding.append(p), dilation.append(d)
        picture.append(max(1, span - 2 * p) + extra)
    numbers = {
        "stride": _number_or_pair(draw, stride),
        "padding": _number_or_pair(draw, padding),
        "dilation": _number_or_pair(draw, dilation),
        "groups": groups,
    }
    if not transposed:
        C, O = groups * Cg, groups * Og
        x, weight = array(draw, (B, C, *picture), dtype), array(draw, (O, Cg, *kernel), dtype)
        return {"x": x, "weight": weight, **numbers}, O
    # The map is the input: at most as large as the drawn picture, and large enough that padding leaves something.
    extra = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation)]
    shape = []
    for n, k, s, p, d, e in zip(picture, kernel, stride, padding, dilation, extra):
        least = 1 + max(0, -(-(2 * p - d * (k - 1) - e) // s))
        shape.append(max(least, n // s))
    numbers["output_padding"] = _number_or_pair(draw, extra)
    x = array(draw, (B, groups * Cg, *shape), dtype)
    weight = array(draw, (groups * Cg, Og, *kernel), dtype)
    return {"x": x, "weight": weight, **numbers}, groups * Og


def _forward_and_backward(name, axes, transposed):
    forward = getattr(ops, name)
    backward = getattr(ops, f"{name}_backward")

    @inputs(name)
    def _(draw, dtype):
        args, O = _draw(draw, dtype, axes, transposed)
        return {**args, "bias": array(draw, (O,), dtype) if draw(st.booleans()) else None}

    @inputs(f"{name}_backward")
    def _(draw, dtype):
        args, _ = _draw(draw, dtype, axes, transposed)
        shape = forward.numpy(**args).shape
        return {"dy": array(draw, shape, dtype), **args}

    @gradient(name, wrt=("x", "weight", "bias"))
    def _(args, dy):
        rest = {k: v for k, v in args.items() if k != "bias"}
        dx, dweight, dbias = backward(dy, **rest)
        grads = {"x": dx, "weight": dweight}
        return forward(**args), grads if args["bias"] is None else {**grads, "bias": dbias}

    def absolute(args):
        return {k: np.abs(v) if isinstance(v, np.ndarray) else v for k, v in args.items()}

    def terms(weight):
        """An upper bound of the products in one element of y or of dx: channels of a group times taps."""
        return weight.size // min(weight.shape[:2])

    @bound(name)
    def _(args, outs, eps):
        """A sum of n products and a bias in any order: gamma(n + 1) times the same sum of absolute values (Higham,
        section 3.1). The absolute sum is itself computed with that relative error, hence + 1."""
        return gamma(terms(args["weight"]) + 2, eps) * forward.numpy(**absolute(args))

    @bound(f"{name}_backward")
    def _(args, outs, eps):
        """As forward: dx sums over a group's channels and taps, dweight and dbias over batch and positions."""
        dx, dweight, dbias = backward.numpy(**absolute(args))
        positions = max(args["dy"].size // max(args["dy"].shape[1], 1), args["x"].size // args["x"].shape[1])
        return (
            gamma(terms(args["weight"]) + 1, eps) * dx,
            gamma(positions + 2, eps) * dweight,
            gamma(positions + 2, eps) * dbias,
        )


_forward_and_backward("conv1d", 1, False)
_forward_and_backward("conv2d", 2, False)
_forward_and_backward("conv_transpose2d", 2, True)
