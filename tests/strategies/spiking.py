import numpy as np
from hypothesis import strategies as st

from refimpl import ops
from tests.harness import BOUNDS, array, bound, generator, gradient, inputs, size
from tests.running import Running
from tests.strategies import norm

SURROGATES = ("rectangle", "triangle", "sigmoid", "atan")
DYADIC_LEAKS = (0.0, 0.25, 0.5, 1.0)


def _signal(draw, shape, dtype, special):
    """Half of the draws on a grid of eighths, where potentials hit the threshold exactly."""
    if draw(st.booleans()):
        a = np.asarray(generator(draw).integers(-16, 33, shape) / 8, dtype)
    else:
        a = array(draw, shape, dtype, draw(st.sampled_from([0.3, 1.0, 3.0])))
    if a.size and special and draw(st.integers(0, 3)) == 0:
        rng = generator(draw)
        chosen = rng.random(shape) < 0.1
        a[chosen] = rng.choice(np.array(special, dtype), int(chosen.sum()))
    return a


def _leak(draw):
    return draw(st.sampled_from(DYADIC_LEAKS) | st.floats(0, 1))


def _neuron(draw):
    reset = draw(st.sampled_from(["subtract", "zero"]))
    thresholds = [0.5, 1.0, 1.0, 1.0, *([np.inf] if reset == "zero" else [])]
    return {
        "leak": _leak(draw),
        "threshold": draw(st.sampled_from(thresholds) | st.floats(0.125, 3)),
        "reset": reset,
        "gain": draw(st.sampled_from([1.0, 1.0, 0.5, 0.3, -2.0])),
    }


def _step_shape(draw):
    """Mostly (B, N); one axis or images too; sometimes beyond the blocks of the C loops (2048 and 1024 neurons)."""
    kind = draw(st.sampled_from(["rows"] * 6 + ["vector", "images", "wide"]))
    if kind == "wide":
        return draw(st.sampled_from([(1, 2049), (3, 1030), (2, 4100)]))
    if kind == "vector":
        return (size(draw),)
    if kind == "images":
        return size(draw, 0, 3), size(draw, 0, 3), size(draw, 0, 5)
    return size(draw, 0, 5), size(draw)


def _sequence_shape(draw):
    """One step, the whole sequence, the axis of time."""
    step, time_axis = _step_shape(draw), draw(st.sampled_from([0, 1]))
    T = draw(st.integers(0, 9))
    return step, (*step[:time_axis], T, *step[time_axis:]), time_axis


SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0)


@inputs("lif_step")
def _(draw, dtype):
    shape = _step_shape(draw)
    return {n: _signal(draw, shape, dtype, SPECIAL) for n in ("x", "v")} | _neuron(draw)


@inputs("lif_sequence")
def _(draw, dtype):
    step, shape, time_axis = _sequence_shape(draw)
    arrays = {"x": _signal(draw, shape, dtype, SPECIAL), "v0": _signal(draw, step, dtype, SPECIAL)}
    return arrays | _neuron(draw) | {"time_axis": time_axis}


def _options(draw):
    return {
        "surrogate": draw(st.sampled_from(SURROGATES)),
        "width": draw(st.sampled_from([0.2, 0.5, 1.0, 1.0, 2.0]) | st.floats(0.25, 4)),
        "detach_reset": draw(st.booleans()),
    }


def _sequence_options(draw):
    return _options(draw) | {"temporal": draw(st.sampled_from([True, True, False]))}


@inputs("lif_step_backward")
def _(draw, dtype):
    shape = _step_shape(draw)
    dspike = _signal(draw, shape, dtype, (np.nan,))
    dv_next = _signal(draw, shape, dtype, (np.nan,)) if draw(st.booleans()) else None
    u = _signal(draw, shape, dtype, (np.nan,))
    return {"dspike": dspike, "dv_next": dv_next, "u": u} | _neuron(draw) | _options(draw)


@inputs("lif_sequence_backward")
def _(draw, dtype):
    step, shape, time_axis = _sequence_shape(draw)
    neuron, options = _neuron(draw), _sequence_options(draw)
    dspikes = _signal(draw, shape, dtype, (np.nan,))
    dv_last = _signal(draw, step, dtype, (np.nan,)) if options["temporal"] and draw(st.booleans()) else None
    u = _signal(draw, shape, dtype, (np.nan,))
    return {"dspikes": dspikes, "dv_last": dv_last, "u": u} | neuron | options | {"time_axis": time_axis}


@inputs("leaky_integrator_sequence")
def _(draw, dtype):
    step, shape, time_axis = _sequence_shape(draw)
    x, v0 = _signal(draw, shape, dtype, SPECIAL), _signal(draw, step, dtype, SPECIAL)
    return {"x": x, "v0": v0, "leak": _leak(draw), "time_axis": time_axis}


@inputs("leaky_integrator_sequence_backward")
def _(draw, dtype):
    _, shape, time_axis = _sequence_shape(draw)
    return {"dv": _signal(draw, shape, dtype, (np.nan,)), "leak": _leak(draw), "time_axis": time_axis}


# ---------------------------------------------------------------- bounds


@bound("lif_step", "lif_sequence", "leaky_integrator_sequence")
def _(args, outs, eps):
    """Both bodies round every product and every sum: the same bits for any input."""
    return 0.0


def _finite(tolerance):
    return np.where(np.isfinite(tolerance), tolerance, 0)


def surrogate(z, kind, width, eps):
    """σ'(z) with its error, u = eps / 2, alpha = 1/width, a = alpha |z|.

    z = u - threshold, alpha and the other numbers are the same in both bodies. Rectangle: a comparison, exact.
    Triangle: a and 1 - a are rounded, max(., 0) spreads nothing, the product is rounded: 2u a + 2u (1 - a) of alpha,
    and exactly 0 from a = 1 + 2u on. Sigmoid: the rounding of a moves exp(-a) by a factor 1 + u a, exp is good to 4
    ulp; e / (1 + e)^2 moves by at most as much as e; six roundings. Atan: q twice, q^2, 1 + q^2 and the quotient.
    """
    alpha = float(z.dtype.type(1 / width))
    half_pi = float(z.dtype.type(np.pi / (2 * width)))
    tiny = 4 * float(np.finfo(z.dtype).smallest_subnormal) * max(alpha, 1)
    half_width = z.dtype.type(width / 2)
    inside = np.abs(z) <= half_width
    z = z.astype(np.float64)
    a = alpha * np.abs(z)
    if kind == "rectangle":
        return Running(alpha * inside, np.zeros(z.shape), eps)
    if kind == "triangle":
        value = alpha * np.maximum(1 - a, 0)
        return Running(value, np.where(a < 1 + 2 * eps, alpha * eps, 0), eps)
    if kind == "sigmoid":
        e = np.exp(-a)
        value = alpha * e / (1 + e) ** 2
        return Running(value, np.where(value > 0, value * eps * (a / 2 + 7), 0) + tiny, eps)
    value = float(half_width.dtype.type(0.5 / width)) / (1 + (half_pi * z) ** 2)
    return Running(value, 3 * eps * value + tiny, eps)


def _fire_backward(args, ds, dv, u, eps):
    """The formula of one step back on running error numbers; ds, dv, u are arrays or Running."""
    exact = Running.of(eps)
    real = u.dtype.type
    threshold = real(args["threshold"])
    slope = surrogate(u - threshold, args["surrogate"], args["width"], eps)
    du = exact(ds) * slope
    if dv is None:
        return du
    zero = args["reset"] == "zero"
    stays = exact(np.where((u >= threshold) & zero, 0.0, 1.0))
    if args["detach_reset"]:
        return du + dv * stays
    return du + dv * (stays - exact(u if zero else np.full(u.shape, threshold)) * slope)


@bound("lif_step_backward")
def _(args, outs, eps):
    """Running error analysis of the formula."""
    exact, real = Running.of(eps), args["u"].dtype.type
    dv = None if args["dv_next"] is None else exact(args["dv_next"])
    du = _fire_backward(args, args["dspike"], dv, args["u"], eps)
    return tuple(_finite((exact(real(args[n])) * du).e) for n in ("gain", "leak"))


@bound("lif_sequence_backward")
def _(args, outs, eps):
    """Running error analysis of the formula, carried back through all steps."""
    exact, real = Running.of(eps), args["u"].dtype.type
    dx, dv0 = outs
    e = np.zeros(dx.shape)
    ds, u, e_t = (np.moveaxis(a, args["time_axis"], 0) for a in (args["dspikes"], args["u"], e))
    dv = None if args["dv_last"] is None else exact(args["dv_last"])
    for t in reversed(range(len(u))):
        du = _fire_backward(args, ds[t], dv, u[t], eps)
        e_t[t] = (exact(real(args["gain"])) * du).e
        dv = exact(real(args["leak"])) * du if args["temporal"] else None
    return _finite(e), np.zeros(dv0.shape) if dv is None else _finite(dv.e)


@bound("leaky_integrator_sequence_backward")
def _(args, outs, eps):
    """Running error analysis of the recurrence."""
    exact = Running.of(eps)
    leak = exact(args["dv"].dtype.type(args["leak"]))
    dx, dv0 = outs
    e, carried = np.zeros(dx.shape), exact(np.zeros(dv0.shape))
    dv, e_t = (np.moveaxis(a, args["time_axis"], 0) for a in (args["dv"], e))
    for t in reversed(range(len(dv))):
        d = exact(dv[t]) + carried
        e_t[t] = d.e
        carried = leak * d
    return _finite(e), _finite(carried.e)


# ---------------------------------------------------------------- gradients


def primitive(z, kind, width):
    """The smooth step whose derivative is the surrogate: from 0 to 1."""
    a = z / width
    if kind == "rectangle":
        return np.clip(a + 0.5, 0, 1)
    if kind == "triangle":
        a = np.clip(a, -1, 1)
        return 0.5 + a - a * np.abs(a) / 2
    if kind == "sigmoid":
        return 0.5 + 0.5 * np.tanh(a / 2)
    return np.arctan(np.pi / 2 * a) / np.pi + 0.5


def lif_twin(x, v0, leak, threshold, reset, gain, surrogate, width, detach_reset, temporal=True):
    """What the surrogate gradient is the derivative of, around the given x (T, ...) and v0.

    The potentials u*, spikes s* and states v* found there are recorded. The function returned, of whatever x and v0
    then hold, has the smooth spike s = s* + H(u - threshold) - H(u* - threshold), H the primitive of the surrogate: s*
    at the given point, with the surrogate as its derivative. A detached reset uses the constant s*; without the
    temporal path, each step starts from the constant v*.
    """
    recorded, v = [], v0.copy()
    for x_t in x:
        spike, v_next, u = ops.lif_step.numpy(x_t, v, leak, threshold, reset, gain)
        recorded.append((v, spike, u))
        v = v_next
    v_last = v

    def twin():
        v, spikes, potentials = v0, np.empty(x.shape), np.empty(x.shape)
        for t, (v_star, s_star, u_star) in enumerate(recorded):
            u = leak * (v if temporal else v_star) + gain * x[t]
            rise = primitive(u - threshold, surrogate, width) - primitive(u_star - threshold, surrogate, width)
            s = s_star + rise
            resetting = s_star if detach_reset else s
            v = (1 - resetting) * u if reset == "zero" else u - threshold * resetting
            spikes[t], potentials[t] = s, u
        return spikes, v if temporal else v_last, potentials

    return twin


def _smooth(x, v0, leak, threshold, reset, gain, surrogate, width, detach_reset, temporal=True):
    """No potential within reach of a kink of the primitive or of its derivative, when an input moves by 1e-5 |x|; and
    no potential so sensitive that the curvature would show."""
    u = ops.lif_sequence.numpy(x, v0, leak, threshold, reset, gain)[2]
    if not u.size:
        return True
    slope = 1 / width  # the largest of all surrogates
    steepest = 1.0 if detach_reset else max(1.0, (np.abs(u).max() if reset == "zero" else threshold) * slope - 1)
    if not detach_reset and reset == "zero":
        steepest += 1
    growth = max(1.0, leak * steepest) ** (len(x) - 1 if temporal else 0)
    reach = 2e-5 * max(1.0, abs(gain)) * max(1.0, np.abs(x).max(), np.abs(v0).max()) * growth
    kinks = {"rectangle": (-width / 2, width / 2), "triangle": (-width, 0, width)}.get(surrogate, ())
    clear = all((np.abs(u - threshold - k) > reach).all() for k in kinks)
    return clear and slope**3 * growth**2 * max(1.0, np.abs(x).max()) ** 2 < 1e3


def _as_sequence(args):
    """The arguments of lif_step as a sequence of one step (views: they see changes of x and v)."""
    rest = {k: args[k] for k in ("leak", "threshold", "reset", "gain")}
    return {"x": args["x"][None], "v0": args["v"], **rest}


def _time_first(args):
    """The arguments of lif_sequence with time on axis 0 (views)."""
    args = dict(args)
    return args | {"x": np.moveaxis(args["x"], args.pop("time_axis"), 0)}


def _finite_threshold(args):
    return np.isfinite(args["threshold"])


@gradient(
    "lif_step",
    wrt=("x", "v"),
    outputs=2,
    options=_options,
    smooth=lambda args, **options: _finite_threshold(args) and _smooth(**_as_sequence(args), **options),
    twin=lambda args, **options: _one_step(lif_twin(**_as_sequence(args), **options)),
)
def _(args, dy, **options):
    outs = ops.lif_step(**args)
    neuron = [args[k] for k in ("leak", "threshold", "reset", "gain")]
    return outs, dict(zip(("x", "v"), ops.lif_step_backward(*dy, outs[2], *neuron, **options)))


def _one_step(twin):
    def run():
        spikes, v, u = twin()
        return spikes[0], v, u[0]

    return run


def _time_back(twin, time_axis):
    def run():
        spikes, v, u = twin()
        return np.moveaxis(spikes, 0, time_axis), v, np.moveaxis(u, 0, time_axis)

    return run


@gradient(
    "lif_sequence",
    wrt=("x", "v0"),
    outputs=2,
    options=_sequence_options,
    smooth=lambda args, **options: _finite_threshold(args) and _smooth(**_time_first(args), **options),
    twin=lambda args, **options: _time_back(lif_twin(**_time_first(args), **options), args["time_axis"]),
)
def _(args, dy, **options):
    outs = ops.lif_sequence(**args)
    dspikes, dv_last = dy
    if not options["temporal"]:
        dv_last = None
    neuron = [args[k] for k in ("leak", "threshold", "reset", "gain")]
    grads = ops.lif_sequence_backward(dspikes, dv_last, outs[2], *neuron, **options, time_axis=args["time_axis"])
    return outs, dict(zip(("x", "v0"), grads))


@gradient("leaky_integrator_sequence", wrt=("x", "v0"))
def _(args, dy):
    v = ops.leaky_integrator_sequence(**args)
    grads = ops.leaky_integrator_sequence_backward(dy, args["leak"], args["time_axis"])
    return v, dict(zip(("x", "v0"), grads))


# ---------------------------------------------------------------- behind batch norm


def _norm_neuron(draw):
    neuron = _neuron(draw)
    del neuron["gain"]
    return neuron


def _norm_data(draw, dtype):
    """x (B, C, ...) with columns and segments; gain and bias that make some neurons fire."""
    shape = norm._images(draw)
    shape = (shape[0], max(shape[1], 1), *shape[2:])
    x = array(draw, shape, dtype, draw(st.sampled_from([1.0, 1.0, 30.0])))
    if draw(st.integers(0, 3)) == 0:
        x += x.dtype.type(draw(st.sampled_from([50.0, -1e4])))
    C = shape[1]
    return x, array(draw, (C,), dtype), array(draw, (C,), dtype)


@inputs("batchnorm_lif_step")
def _(draw, dtype):
    x, gain, bias = _norm_data(draw, dtype)
    running = None
    if draw(st.booleans()):
        running = array(draw, (x.shape[1],), dtype), np.abs(array(draw, (x.shape[1],), dtype))
    v = array(draw, x.shape, dtype) if draw(st.booleans()) else None
    rest = {"eps": draw(st.sampled_from(norm.EPS)), "running": running, "momentum": draw(st.sampled_from([0.1, 0.5]))}
    return {"x": x, "v": v, "gain": gain, "bias": bias} | _norm_neuron(draw) | rest


@inputs("batchnorm_lif_step_backward")
def _(draw, dtype):
    x, gain, _ = _norm_data(draw, dtype)
    _, mean, rstd = ops.batchnorm.numpy(x, None, None)
    dv_next = array(draw, x.shape, dtype) if draw(st.booleans()) else None
    add_to = (array(draw, gain.shape, dtype), array(draw, gain.shape, dtype)) if draw(st.booleans()) else None
    arrays = {"dspike": array(draw, x.shape, dtype), "dv_next": dv_next, "x": x, "u": _signal(draw, x.shape, dtype, ())}
    arrays |= {"gain": gain, "mean": mean, "rstd": rstd}
    return arrays | _norm_neuron(draw) | _options(draw) | {"need_dv": draw(st.booleans()), "add_to": add_to}


@bound("batchnorm_lif_step")
def _(args, outs, eps):
    """u: the current's error, leak v rounded, their sum. A potential closer to the threshold than two bodies may differ
    fires in one and not in the other; elsewhere spikes are the same and v' has the error of u and one rounding more.

    The running mean moves by m (mean - old): the statistic's error, and four roundings. The variance is 1/rstd² - eps,
    with twice the relative error of rstd and three roundings.
    """
    x, (_, _, u, mean, rstd) = args["x"], outs[:5]
    norm_args = {k: args[k] for k in ("x", "gain", "bias", "eps")}
    e_current, e_mean, e_rstd = BOUNDS["batchnorm"](norm_args, None, eps)
    carried = 0 if args["v"] is None else np.abs(args["leak"] * args["v"])
    e_u = e_current + 3 * eps * (carried + np.abs(u))
    threshold = args["threshold"]
    unsure = np.abs(u - threshold) <= 4 * e_u if np.isfinite(threshold) else np.zeros(u.shape, bool)
    jump = np.abs(u) if args["reset"] == "zero" else threshold
    e_v = e_u + eps * np.abs(u) + (0 if args["reset"] == "zero" else np.where(u >= threshold, eps * threshold, 0))
    tolerances = (np.where(unsure, 1.0, 0.0), np.where(unsure, jump + 2 * e_v, e_v), e_u, e_mean, e_rstd)
    if args["running"] is None:
        return tolerances
    m, n = args["momentum"], x.size // x.shape[1]
    inverse = 1 / rstd.astype(np.float64) ** 2
    unbiased = n / max(1, n - 1)
    e_variance = unbiased * inverse * (2 * e_rstd / rstd + 6 * eps)
    old_mean, old_variance = map(np.abs, args["running"])
    moved = (
        m * e_mean + 4 * eps * (old_mean + np.abs(mean)),
        m * e_variance + 4 * eps * (old_variance + unbiased * inverse),
    )
    return *tolerances, *moved


@bound("batchnorm_lif_step_backward")
def _(args, outs, eps):
    """du by running error analysis; what its error makes of dx, dgain and dbias, which are linear in it, and the errors
    of these sums themselves."""
    exact, x, u = Running.of(eps), args["x"], args["u"]
    dv = None if args["dv_next"] is None else exact(args["dv_next"])
    du = _fire_backward(args, args["dspike"], dv, u, eps)
    value, error = np.abs(du.v) + du.e, du.e
    axes, n = tuple(i for i in range(x.ndim) if i != 1), x.size // x.shape[1]
    column = (-1, *(1,) * (x.ndim - 2))
    mean, rstd, gain = (args[k].astype(np.float64).reshape(column) for k in ("mean", "rstd", "gain"))
    d = x - mean
    xhat, g_error = np.abs(d) * rstd, error * np.abs(gain)
    spread = g_error + g_error.mean(axis=axes, keepdims=True)
    spread = rstd * (spread + xhat * (g_error * xhat).mean(axis=axes, keepdims=True))
    dx = norm._backward_bound(value, d, rstd, gain, axes, n, eps) + 2 * spread
    dgain, dbias = norm._vector_bounds(value, xhat, axes, n, eps)
    dgain, dbias = dgain + 2 * (error * xhat).sum(axis=axes), dbias + 2 * error.sum(axis=axes)
    sums = [dgain, dbias]
    if args["add_to"] is not None:
        sums = [s + eps * (np.abs(old) + np.abs(new)) for s, old, new in zip(sums, args["add_to"], outs[-2:])] * 2
    dv = ((exact(u.dtype.type(args["leak"])) * du).e,) if args["need_dv"] else ()
    return dx, *dv, *sums


def _smooth_norm(args, surrogate, width, detach_reset):
    """No potential within reach of a kink, a variance that a step of 1e-5 hardly changes, modest numbers."""
    if not _finite_threshold(args) or not norm._varied(norm._channel_rows)(args) or width < 0.5:
        return False
    call = {k: v for k, v in args.items() if k not in ("running", "momentum")}
    u, rstd = ops.batchnorm_lif_step.numpy(**call)[2], ops.batchnorm_lif_step.numpy(**call)[4]
    most = max(1.0, np.abs(args["x"]).max(), 0 if args["v"] is None else np.abs(args["v"]).max())
    reach = 2e-5 * most * (1 + 2 * np.abs(args["gain"]).max() * rstd.max() * most)
    kinks = {"rectangle": (-width / 2, width / 2), "triangle": (-width, 0, width)}.get(surrogate, ())
    clear = all((np.abs(u - args["threshold"] - k) > reach).all() for k in kinks)
    return clear and np.abs(u).max() < 20 and most < 20


def _norm_twin(args, surrogate, width, detach_reset):
    """As lif_twin, of one step, with the current from batch norm."""
    call = {k: v for k, v in args.items() if k not in ("running", "momentum")}
    s_star, _, u_star, _, _ = ops.batchnorm_lif_step.numpy(**call)

    def twin():
        current, mean, rstd = ops.batchnorm.numpy(args["x"], args["gain"], args["bias"], args["eps"])
        u = current if args["v"] is None else args["leak"] * args["v"] + current
        threshold = args["threshold"]
        s = s_star + primitive(u - threshold, surrogate, width) - primitive(u_star - threshold, surrogate, width)
        resetting = s_star if detach_reset else s
        v = (1 - resetting) * u if args["reset"] == "zero" else u - threshold * resetting
        return s, v, u, mean, rstd

    return twin


@gradient(
    "batchnorm_lif_step",
    wrt=("x", "v", "gain", "bias"),
    outputs=2,
    options=_options,
    smooth=_smooth_norm,
    twin=_norm_twin,
)
def _(args, dy, **options):
    call = {k: v for k, v in args.items() if k != "running"}
    outs = ops.batchnorm_lif_step(**call)
    neuron = [args[k] for k in ("leak", "threshold", "reset")]
    saved = args["x"], outs[2], args["gain"], outs[3], outs[4]
    dx, dv, dgain, dbias = ops.batchnorm_lif_step_backward(*dy, *saved, *neuron, **options)
    grads = {"x": dx, "v": dv, "gain": dgain, "bias": dbias}
    return outs, {k: d for k, d in grads.items() if args[k] is not None}
