import numpy as np
from hypothesis import strategies as st

from refimpl import ops
from refimpl.ops.conv import _conv, _transpose
from tests.harness import array, bound, gamma, gradient, inputs, size

GEOMETRY = ("stride", "padding", "dilation", "groups")


# ---------------------------------------------------------------- Winograd's algorithm
#
# Along an axis, m outputs of a kernel of r taps come from n = m + r - 1 products: y = Aᵀ [(G g) ∘ (Bᵀ d)], in two
# dimensions Y = Aᵀ [(G g Gᵀ) ∘ (Bᵀ d B)] A, summed over the channels before Aᵀ. Let every rounding be a factor
# 1 + δ, |δ| ≤ u, on the path from an input to the result. A product then passes through
#
#     Bᵀ, G, Aᵀ along both axes   at most 8 roundings each, 48 in all: a sum of at most 6 terms takes 5; factors take 3
#                                 (1/6 and 1/24, rounded themselves, times a sum; powers of 2 are exact)
#     product, sum of N products  N at most, in any order
#     bias                        1
#
# and, as for any such sum of products (Higham, sections 3.1 and 3.5),
#
#     |ŷ - y| ≤ γ(N + 49) |Aᵀ| [Σ_c (|G||g||Gᵀ|) ∘ (|Bᵀ||d||B|)] |A|.
#
# This is the bound here (with N counting all taps, not only channels), computed with the matrices themselves. Their
# norms (largest sums of a row's absolute values) ‖Aᵀ‖ = 19, ‖Bᵀ‖ = 10 and ‖G‖ = 1 for n = 6, r = 3 say how much wider
# than the bound of the direct sum it can get. The weight gradient is the transposed form, with the same count:
# dW = Gᵀ [Σ_tiles (Bᵀ d B) ∘ (A dY Aᵀ)] G.

TILES = ((4, 3), (2, 3), (2, 5))  # (m, r)


def _matrices(m, r):
    """|Aᵀ| (m, n), |G| (n, r), |Bᵀ| (n, n) for the points 0, ±1 (, ±2) and infinity; (1, 1): no transform."""
    if r == 1:
        return np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1))
    n = m + r - 1
    points = np.array([0.0, 1, -1, 2, -2][: n - 1])
    others = [np.delete(points, j) for j in range(n - 1)]
    scale = np.array([np.prod(a - o) for a, o in zip(points, others)])
    At, G = np.zeros((m, n)), np.zeros((n, r))
    At[:, :-1], At[-1, -1] = points ** np.arange(m)[:, None], 1
    G[:-1], G[-1, -1] = points[:, None] ** np.arange(r) / scale[:, None], 1
    Bt = np.zeros((n, n))
    for j, o in enumerate(others):
        Bt[j, :-1] = np.poly(o)[::-1]
    Bt[-1] = np.poly(points)[::-1]
    return np.abs(At), np.abs(G), np.abs(Bt)


def _windows(x, first, d, m, n, tiles):
    """(B, C, tiles h, tiles w, n h, n w): windows of n that start m apart, of the phase (a, b) of the dilation."""
    (a, b), (th, tw) = first, tiles
    x = x[:, :, a :: d[0], b :: d[1]]
    need = [(t - 1) * s + k for t, s, k in zip(tiles, m, n)]
    x = np.pad(x, [(0, 0), (0, 0), *((0, max(0, k - e)) for k, e in zip(need, x.shape[2:]))])
    return np.lib.stride_tricks.sliding_window_view(x, n, axis=(2, 3))[:, :, :: m[0], :: m[1]][:, :, :th, :tw]


def _phases(extent, d, m):
    """For each phase of the dilation: where it starts, and its number of tiles."""
    for a in range(min(d[0], extent[0])):
        for b in range(min(d[1], extent[1])):
            yield (a, b), [-(-len(range(f, e, s)) // k) for f, e, s, k in zip((a, b), extent, d, m)]


def _seen(x, padding, length):
    """|x| in float64, its planes from -padding on, `length` long."""
    x = np.abs(x).astype(np.float64)
    x = np.pad(x, [(0, 0), (0, 0), *((max(0, p), max(0, n)) for p, n in zip(padding, length))])
    (p, q), (n, m) = (max(0, -p) for p in padding), length
    return x[:, :, p : p + n, q : q + m]


def _tile(m, kernel):
    """(m, m), (n, n), and the matrices of both axes; an axis without taps has no tiles."""
    ms = tuple(m if k > 1 else 1 for k in kernel)
    return ms, tuple(a + k - 1 for a, k in zip(ms, kernel)), [_matrices(a, k) for a, k in zip(ms, kernel)]


def _winograd_sum(x, weight, padding, d, extent, m):
    """|A^T| [sum over channels of (|G||w||G^T|) * (|B^T||x||B|)] |A|; a padding below 0 crops."""
    kernel = weight.shape[2:]
    m, n, ((Ah, Gh, Bh), (Aw, Gw, Bw)) = _tile(m, kernel)
    x = _seen(x, padding, [e + s * (k - 1) for e, s, k in zip(extent, d, kernel)])
    y = np.zeros((len(x), len(weight), *extent))
    U = np.einsum("pi,ocij,qj->ocpq", Gh, np.abs(weight).astype(np.float64), Gw, optimize=True)
    for (a, b), tiles in _phases(extent, d, m):
        V = np.einsum("pi,bctsij,qj->bctspq", Bh, _windows(x, (a, b), d, m, n, tiles), Bw, optimize=True)
        M = np.einsum("ocpq,bctspq->botspq", U, V, optimize=True)
        Y = np.einsum("ip,botspq,jq->botisj", Ah, M, Aw, optimize=True)
        Y = Y.reshape(*Y.shape[:2], tiles[0] * m[0], tiles[1] * m[1])
        part = y[:, :, a :: d[0], b :: d[1]]
        part[...] = Y[:, :, : part.shape[2], : part.shape[3]]
    return y


def _winograd_weight(dy, x, kernel, padding, d, m):
    """|G^T| [sum over tiles of (|B^T||x||B|) * (|A||dy||A^T|)] |G|."""
    m, n, ((Ah, Gh, Bh), (Aw, Gw, Bw)) = _tile(m, kernel)
    extent = dy.shape[2:]
    x = _seen(x, padding, [e + s * (k - 1) for e, s, k in zip(extent, d, kernel)])
    dy = np.abs(dy).astype(np.float64)
    U = np.zeros((dy.shape[1], x.shape[1], *n))
    for first, tiles in _phases(extent, d, m):
        V = np.einsum("pi,bctsij,qj->bctspq", Bh, _windows(x, first, d, m, n, tiles), Bw, optimize=True)
        D = np.einsum("ip,botsij,jq->botspq", Ah, _windows(dy, first, d, m, m, tiles), Aw, optimize=True)
        U += np.einsum("bctspq,botspq->ocpq", V, D, optimize=True)
    return np.einsum("pi,ocpq,qj->ocij", Gh, U, Gw, optimize=True)


class Winograd:
    """The largest of the bounds of the kinds of tiles that the C core may take for a call, by whatever rule it does."""

    def __init__(self, name, args):
        one = name.startswith("conv1d")
        plane = (lambda a: a[:, :, None]) if one else (lambda a: a)
        x, weight = args["x"], args["weight"]
        numbers = [args[n] for n in GEOMETRY]
        if "transpose" in name:
            g = _transpose(name, x, weight, None, *numbers[:2], args["output_padding"], *numbers[2:])
        else:
            g = _conv(name, 1 if one else 2, x, weight, None, *numbers)
        self.g, self.x, self.weight = g, plane(x), plane(weight)
        self.dy = plane(args["dy"]) if "dy" in args else None
        self.flat = (lambda a: a[:, :, 0]) if one else (lambda a: a)
        kernel = self.weight.shape[2:]
        once = all(s == 1 or n == 1 for s, n in zip(g.stride, g.map))
        taps = set(kernel) - {1} if kernel[0] == 1 else set(kernel)
        self.tiles = [m for m, r in TILES if once and g.groups == 1 and taps == {r}]
        self.steps = tuple(d if k > 1 else 1 for d, k in zip(g.dilation, kernel))

    def _most(self, of, shape):
        return self.flat(np.max([of(m) for m in self.tiles], axis=0)) if self.tiles else self.flat(np.zeros(shape))

    def collect(self, picture):
        g, w = self.g, self.weight
        return self._most(
            lambda m: _winograd_sum(picture, w, g.padding, self.steps, g.map, m), (len(picture), len(w), *g.map)
        )

    def spread(self, map):
        g, w = self.g, self.weight[:, :, ::-1, ::-1].swapaxes(0, 1)
        padding = [s * (k - 1) - p for s, k, p in zip(self.steps, w.shape[2:], g.padding)]
        return self._most(
            lambda m: _winograd_sum(map, w, padding, self.steps, g.picture, m),
            (len(map), self.weight.shape[1] * g.groups, *g.picture),
        )

    def correlate(self, map, picture):
        g, shape = self.g, self.weight.shape
        return self._most(lambda m: _winograd_weight(map, picture, shape[2:], g.padding, self.steps, m), shape)


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
    if not small and draw(st.sampled_from([False, True])):  # where Winograd's algorithm serves
        groups, Cg, Og = 1, size(draw, 1, 40), size(draw, 1, 40)
        same = draw(st.sampled_from([3, 3, 5])), 1, *same[2:]
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
        section 3.1). The absolute sum is itself computed with that relative error, hence + 1. Where the C core may use
        Winograd's algorithm, the larger of this and that algorithm's bound, derived above."""
        direct = gamma(terms(args["weight"]) + 2, eps) * forward.numpy(**absolute(args))
        w = Winograd(name, args)
        if not w.tiles:
            return direct
        bias = 0 if args["bias"] is None else np.abs(args["bias"]).reshape(-1, *[1] * axes)
        other = (w.spread(w.x) if transposed else w.collect(w.x)) + bias
        return np.maximum(direct, gamma(terms(args["weight"]) + 50, eps) * other)

    @bound(f"{name}_backward")
    def _(args, outs, eps):
        """As forward: dx sums over a group's channels and taps, dweight and dbias over batch and positions."""
        dx, dweight, dbias = backward.numpy(**absolute(args))
        positions = max(args["dy"].size // max(args["dy"].shape[1], 1), args["x"].size // args["x"].shape[1])
        dx, dweight = gamma(terms(args["weight"]) + 1, eps) * dx, gamma(positions + 2, eps) * dweight
        w = Winograd(name, args)
        if w.tiles:
            map, picture = (w.x, w.dy) if transposed else (w.dy, w.x)
            other = w.collect(w.dy) if transposed else w.spread(w.dy)
            dx = np.maximum(dx, gamma(terms(args["weight"]) + 50, eps) * other)
            dweight = np.maximum(dweight, gamma(positions + 50, eps) * w.correlate(map, picture))
        return dx, dweight, gamma(positions + 2, eps) * dbias


_forward_and_backward("conv1d", 1, False)
_forward_and_backward("conv2d", 2, False)
_forward_and_backward("conv_transpose2d", 2, True)
