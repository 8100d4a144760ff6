import numpy as np
from hypothesis import strategies as st

from refimpl import ops
from tests.harness import array, bound, gradient, inputs, size
from tests.running import Running, concatenate, stack

KINDS = {"rnn": 1, "gru": 3, "lstm": 4}  # gates
BIASES = {"rnn": ("bias",), "gru": ("bias_x", "bias_h"), "lstm": ("bias",)}


def _extents(draw, sequence):
    """B, T, D, N: small and odd; for few draws beyond the tiles of the C product (8 rows, 32 columns)."""
    if draw(st.integers(0, 7)) == 0:
        return draw(st.integers(8, 19)), 3 if sequence else 1, size(draw, 0, 40), draw(st.integers(17, 67))
    return size(draw, 0, 5), size(draw, 0, 5) if sequence else 1, size(draw, 0, 9), size(draw, 0, 17)


def _arguments(draw, dtype, kind, sequence):
    """Weights mostly so that states neither explode nor vanish; sometimes so that gates saturate."""
    B, T, D, N = _extents(draw, sequence)
    scale = draw(st.sampled_from([0.5, 0.5, 1.0, 20.0]))
    n, state = KINDS[kind] * N, "h0" if sequence else "h"
    args = {"x": array(draw, (B, T, D) if sequence else (B, D), dtype, scale), state: array(draw, (B, N), dtype)}
    if kind == "lstm":
        args["c0" if sequence else "c"] = array(draw, (B, N), dtype)
    args["w_x"] = array(draw, (D, n), dtype, 1 / max(D, 1) ** 0.5)
    args["w_h"] = array(draw, (N, n), dtype, draw(st.sampled_from([0.5, 1.0])) / max(N, 1) ** 0.5)
    return args | {name: array(draw, (n,), dtype, scale) for name in BIASES[kind]}


def _backward_arguments(draw, dtype, kind, sequence):
    args = _arguments(draw, dtype, kind, sequence)
    name = f"{kind}_{'sequence' if sequence else 'cell'}"
    results = getattr(ops, name).numpy(**args)
    results = results if isinstance(results, tuple) else (results,)
    like = results[0]
    given = {"dy" if sequence else "dh_next": array(draw, like.shape, dtype)}
    if kind == "lstm":
        given["dc" if sequence else "dc_next"] = array(draw, like.shape, dtype) if draw(st.booleans()) else None
    kept = {"rnn": ("y",), "gru": ("y", "gates"), "lstm": ("y", "c", "gates")}[kind]
    if not sequence:
        kept = {"rnn": ("h_next",), "gru": (None, "gates"), "lstm": (None, "c_next", "gates")}[kind]
    weights = [args[k] for k in ("w_x", "w_h", *BIASES[kind])]
    args = given | {k: v for k, v in args.items() if k not in BIASES[kind]}
    args |= {k: v for k, v in zip(kept, results) if k}
    if sequence and draw(st.booleans()):
        args["need_dx"] = draw(st.booleans())
        args["add_to"] = tuple(array(draw, w.shape, dtype) for w in weights) if draw(st.booleans()) else None
    return args


# ---------------------------------------------------------------- bounds: the formulas on running error numbers


def _numbers(args, eps):
    number = Running.of(eps)
    return {k: number(v) if isinstance(v, np.ndarray) else v for k, v in args.items()}


def _errors(*results):
    return tuple(r.e for r in results)


def _split(a, parts):
    n = a.v.shape[-1] // parts
    return [a[..., i * n : (i + 1) * n] for i in range(parts)]


def _transposed(w):
    return Running(w.v.T, w.e.T, w.eps)


def _steps(args, kind):
    """Forward formulas over all steps: lists of states, cells and gates."""
    x, h, c = args["x"], args["h"], args.get("c")
    states, cells, gates = [], [], []
    for t in range(x.v.shape[1]):
        if kind == "gru":
            a, u = x[:, t] @ args["w_x"] + args["bias_x"], h @ args["w_h"] + args["bias_h"]
            (a_r, a_z, a_n), (u_r, u_z, q) = _split(a, 3), _split(u, 3)
            r, z = (a_r + u_r).sigmoid(), (a_z + u_z).sigmoid()
            n = (a_n + r * q).tanh()
            h = (1 - z) * n + z * h
            gates.append(concatenate([r, z, n, q]))
        else:
            a = x[:, t] @ args["w_x"] + args["bias"] + h @ args["w_h"]
            if kind == "rnn":
                h = a.tanh()
            else:
                i, f, g, o = _split(a, 4)
                i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
                c = f * c + i * g
                h = o * c.tanh()
                cells.append(c)
                gates.append(concatenate([i, f, g, o]))
        states.append(h)
    return [r for r in (states, cells, gates) if r]


def _steps_backward(args, kind):
    """Back-propagation through time; everything (B, T, ...)."""
    x, h0, y, gates, c = (args.get(k) for k in ("x", "h0", "y", "gates", "c"))
    T, N = x.v.shape[1], h0.v.shape[1]
    dh = Running.of(h0.eps)(np.zeros(h0.v.shape))
    dc = Running.of(h0.eps)(np.zeros(h0.v.shape))
    das, dus, before = [], [], []
    for t in reversed(range(T)):
        h = y[:, t - 1] if t else h0
        d = args["dy"][:, t] + dh
        if kind == "rnn":
            da = du = d * (1 - y[:, t] * y[:, t])
            dh = du @ args["w_h"].T
        elif kind == "gru":
            r, z, n, q = _split(gates[:, t], 4)
            da_z = d * (h - n) * z * (1 - z)
            da_n = d * (1 - z) * (1 - n * n)
            da_r = da_n * q * r * (1 - r)
            da, du = concatenate([da_r, da_z, da_n]), concatenate([da_r, da_z, da_n * r])
            dh = d * z + du @ args["w_h"].T
        else:
            i, f, g, o = _split(gates[:, t], 4)
            if args["dc"] is not None:
                dc = dc + args["dc"][:, t]
            tanh_c = c[:, t].tanh()
            dc = dc + d * o * (1 - tanh_c * tanh_c)
            c_before = c[:, t - 1] if t else args["c0"]
            da_i, da_f = dc * g * i * (1 - i), dc * c_before * f * (1 - f)
            da_g, da_o = dc * i * (1 - g * g), d * tanh_c * o * (1 - o)
            da = du = concatenate([da_i, da_f, da_g, da_o])
            dc = dc * f
            dh = du @ args["w_h"].T
        das.insert(0, da)
        dus.insert(0, du)
        before.insert(0, h)
    states = [dh, dc] if kind == "lstm" else [dh]
    if not das:
        n = args["w_x"].v.shape[1]
        zero = Running.of(h0.eps)
        rest = [args["w_x"], args["w_h"], zero(np.zeros(n)), zero(np.zeros(n))]
        return [x, *states, *rest[: 4 if kind == "gru" else 3]]  # all exact
    B, D, n = x.v.shape[0], x.v.shape[2], das[0].v.shape[1]
    da, du, h = stack(das, 1), stack(dus, 1), stack(before, 1)
    rows, u_rows = da.reshape(B * T, n), du.reshape(B * T, n)
    dw_x, dw_h = x.reshape(B * T, D).T @ rows, h.reshape(B * T, N).T @ u_rows
    biases = [rows.sum(0), u_rows.sum(0)] if kind == "gru" else [rows.sum(0)]
    return [da @ args["w_x"].T, *states, dw_x, dw_h, *biases]


def _register(kind):
    for sequence in (True, False):
        name = f"{kind}_{'sequence' if sequence else 'cell'}"

        @inputs(name)
        def _(draw, dtype, sequence=sequence):
            return _arguments(draw, dtype, kind, sequence)

        @inputs(f"{name}_backward")
        def _(draw, dtype, sequence=sequence):
            return _backward_arguments(draw, dtype, kind, sequence)

        @bound(name)
        def _(args, outs, eps, sequence=sequence):
            """Running error analysis of the formulas, carried through all steps."""
            args = _numbers(args, eps)
            if sequence:
                args = args | {"h": args["h0"], "c": args.get("c0")}
            else:
                args["x"] = args["x"][:, None]
            lists = _steps(args, kind)
            if not lists:  # no step: empty results
                return tuple(np.zeros(o.shape) for o in outs)
            return _errors(*(stack(r, 1) if sequence else r[0] for r in lists))

        @bound(f"{name}_backward")
        def _(args, outs, eps, sequence=sequence):
            """Running error analysis of the formulas, carried back through all steps."""
            add_to, need_dx = args.get("add_to"), args.get("need_dx", True)
            args = _numbers(args, eps)
            if not sequence:
                args = args | {k: args[k][:, None] for k in ("x", "dh_next", "gates", "h_next") if k in args}
                args |= {"dy": args["dh_next"], "h0": args["h"], "y": args.get("h_next", args["dh_next"])}
                if kind == "lstm":
                    dc = args["dc_next"]
                    args |= {"c0": args["c"], "c": args["c_next"][:, None], "dc": None if dc is None else dc[:, None]}
            dx, *rest = _steps_backward(args, kind)
            if add_to is not None:  # the arrays that were added to are seen twice: returned, and written to
                states = 2 if kind == "lstm" else 1
                written = [Running.of(eps)(a) + d for a, d in zip(add_to, rest[states:])]
                rest = [*rest[:states], *written, *written]
            return _errors(*([dx if sequence else dx[:, 0]] if need_dx else []), *rest)

    states = ("h0", "c0") if kind == "lstm" else ("h0",)
    wrt = ("x", *states, "w_x", "w_h", *BIASES[kind])
    outputs = 2 if kind == "lstm" else 1

    @gradient(f"{kind}_sequence", wrt=wrt, outputs=outputs, smooth=_moderate)
    def _(args, dy):
        dys = dy if outputs == 2 else (dy,)
        outs = getattr(ops, f"{kind}_sequence")(**args)
        kept = outs if isinstance(outs, tuple) else (outs,)
        given = {k: v for k, v in args.items() if k not in BIASES[kind]}
        grads = getattr(ops, f"{kind}_sequence_backward")(*dys, *given.values(), *kept)
        return outs, dict(zip(wrt, grads))

    cell_wrt = tuple(w.removesuffix("0") for w in wrt)

    @gradient(f"{kind}_cell", wrt=cell_wrt, outputs=outputs, smooth=_moderate)
    def _(args, dy):
        dys = dy if outputs == 2 else (dy,)
        outs = getattr(ops, f"{kind}_cell")(**args)
        kept = {"rnn": lambda: (outs,), "gru": lambda: outs[1:], "lstm": lambda: outs[1:]}[kind]()
        given = {k: v for k, v in args.items() if k not in BIASES[kind]}
        grads = getattr(ops, f"{kind}_cell_backward")(*dys, *given.values(), *kept)
        return outs, dict(zip(cell_wrt, grads))


def _moderate(args):
    """Central differences with a step of 1e-5 |x| need functions that bend little over it."""
    return all(np.abs(v).max(initial=0) < 10 for v in args.values())


for _kind in KINDS:
    _register(_kind)
