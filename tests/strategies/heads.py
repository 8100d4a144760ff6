import numpy as np
from hypothesis import strategies as st

from refimpl import ops
from tests.harness import array, bound, gradient, inputs, size


def _angles(draw, dtype, T, E):
    """Drawn tables, true ones, or none (always none for an odd width)."""
    kind = draw(st.sampled_from(["none", "angles", "any"])) if E % 2 == 0 else "none"
    if kind == "none":
        return {"cos": None, "sin": None}
    if kind == "angles":
        cos, sin = ops.rotary_angles(T, E, dtype=dtype)
    else:
        cos, sin = array(draw, (T, E // 2), dtype), array(draw, (T, E // 2), dtype)
    return {"cos": cos, "sin": sin}


def _sizes(draw):
    """B, T, H, G, E; one of H and G may be 0."""
    H, G = draw(st.sampled_from([(1, 1), (4, 2), (3, 3), (2, 0), (0, 2), (5, 1)]))
    return draw(st.integers(0, 3)), size(draw, 0, 20), H, G, size(draw, 0, 34)


@inputs("split_heads")
def _(draw, dtype):
    B, T, H, G, E = _sizes(draw)
    x = array(draw, (B, T, (H + 2 * G) * E), dtype, special=True)
    return {"x": x, "heads": H, "kv_heads": G, **_angles(draw, dtype, T, E)}


@inputs("split_heads_backward")
def _(draw, dtype):
    B, T, H, G, E = _sizes(draw)
    dq, dk, dv = (array(draw, (B, n, T, E), dtype) for n in (H, G, G))
    return {"dq": dq, "dk": dk, "dv": dv, **_angles(draw, dtype, T, E)}


@gradient("split_heads", wrt=("x",), outputs=3)
def _(args, dy):
    return ops.split_heads(**args), {"x": ops.split_heads_backward(*dy, args["cos"], args["sin"])}


def _turned(x, cos, sin):
    """Σ |terms| of a turned head."""
    if cos is None:
        return np.zeros(x.shape)
    x1, x2 = np.split(np.abs(x), 2, axis=-1)
    c, s = np.abs(cos), np.abs(sin)
    return np.concatenate([x1 * c + x2 * s, x2 * c + x1 * s], axis=-1)


@bound("split_heads")
def _(args, outs, eps):
    """Two products and a sum: 2 roundings of eps/2 on each product, which may underflow; v is copied."""
    x, n = args["x"], args["heads"] + 2 * args["kv_heads"]
    heads = x.reshape(*x.shape[:2], n, x.shape[2] // n).transpose(0, 2, 1, 3)
    q, k, _ = np.split(heads, (args["heads"], args["heads"] + args["kv_heads"]), axis=1)
    tiny = 2 * np.finfo(x.dtype).smallest_subnormal
    turned = (eps * _turned(a, args["cos"], args["sin"]) + tiny for a in (q, k))
    return (*turned, 0)


@bound("split_heads_backward")
def _(args, outs, eps):
    """As split_heads."""
    parts = [_turned(args[name], args["cos"], args["sin"]) for name in ("dq", "dk")] + [np.zeros(args["dv"].shape)]
    terms = np.concatenate(parts, axis=1).transpose(0, 2, 1, 3).reshape(outs[0].shape)
    return eps * terms + 2 * np.finfo(args["dq"].dtype).smallest_subnormal


@inputs("merge_heads")
def _(draw, dtype):
    B, T, H, _, E = _sizes(draw)
    return {"y": array(draw, (B, H, T, E), dtype, special=True)}


@inputs("merge_heads_backward")
def _(draw, dtype):
    B, T, H, G, E = _sizes(draw)
    return {"dy": array(draw, (B, T, (H + G) * E), dtype), "heads": H + G}


@gradient("merge_heads", wrt=("y",))
def _(args, dy):
    y = ops.merge_heads(**args)
    return y, {"y": ops.merge_heads_backward(dy, args["y"].shape[1]) if args["y"].shape[1] else args["y"]}


@bound("merge_heads", "merge_heads_backward")
def _(args, outs, eps):
    """Copies."""
    return 0
