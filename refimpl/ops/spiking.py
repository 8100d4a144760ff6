"""Leaky integrate-and-fire neurons and leaky integrators over time, with surrogate gradients. C mirror:
native/src/spiking.c.

A neuron carries a membrane potential from step to step. In every step

    u_t = leak v_{t-1} + gain x_t           integrate: u is the potential before firing
    s_t = [u_t >= threshold]                fire: 1 or 0 (a potential equal to the threshold fires)
    v_t = u_t - threshold s_t               reset="subtract": what exceeds the threshold stays
    v_t = (1 - s_t) u_t                     reset="zero"

With time constant tau: leak = 1 - 1/tau and gain = 1 (the input is not scaled), or gain = 1/tau (the membrane decays
towards its input). Writing u_{t-1} - threshold s_{t-1} for v_{t-1} gives the other common form of the first line.

The step function has no useful derivative. Where a gradient passes through it, the backward functions put a surrogate
σ'(z), z = u - threshold, in place of ds/du. Each has area 1; `width` is the scale w of z, often written 1/alpha:

    rectangle   [|z| <= w/2] / w                              Wu et al., "Spatio-temporal backpropagation for training
                                                              high-performance spiking neural networks", 2018
    triangle    max(0, 1 - |z|/w) / w                         Deng et al., "Temporal efficient training of spiking
                                                              neural network via gradient re-weighting", 2022
    sigmoid     q (1 - q) / w,  q = 1 / (1 + exp(-z/w))       Wu et al., 2018
    atan        1 / (2w (1 + (π z / 2w)^2))                   Fang et al., "Incorporating learnable membrane time
                                                              constant to enhance learning of spiking neural
                                                              networks", 2021

A sequence has its time on axis `time_axis`. 0, (T, B, ...), serves training step by step as well as layer by layer:
x[t] is one contiguous block that a step function takes as it is, and all steps together are T B rows for a matrix
product. 1, (B, T, ...), is the layout of token sequences. The neurons may lie on any number of axes (N, or C, H, W). A
state has the shape of one step.

All arrays are float32 or float64, one dtype in a call; numbers are rounded to it once. Both bodies round every product
and sum of the forward pass alike, so they emit the same spikes for any input, and a sequence emits those of its steps.
Errors: TypeError for another dtype or mixed dtypes; ValueError for shapes that do not fit, a leak outside [0, 1], a
threshold that is not positive (inf: never fires; with reset="zero" only), a gain that is not finite, a width that is
not positive and finite, an unknown reset, surrogate or time axis. A NaN stays a NaN and does not fire.
"""

from __future__ import annotations

import math

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check
from refimpl.ops.norm import batchnorm, batchnorm_backward

__all__ = [
    "batchnorm_lif_step",
    "batchnorm_lif_step_backward",
    "leaky_integrator_sequence",
    "leaky_integrator_sequence_backward",
    "lif_sequence",
    "lif_sequence_backward",
    "lif_step",
    "lif_step_backward",
]

_RESETS = ("subtract", "zero")
_SURROGATES = ("rectangle", "triangle", "sigmoid", "atan")


def _check_leak(op, leak):
    _check.number(op, "leak", leak)
    if not 0 <= leak <= 1:
        raise ValueError(f"{op}: leak is {leak}, expected a number in [0, 1]")


def _check_neuron(op, leak, threshold, reset, gain):
    _check_leak(op, leak)
    _check.number(op, "threshold gain", threshold, gain)
    if reset not in _RESETS:
        raise ValueError(f"{op}: reset is {reset!r}, expected one of {', '.join(_RESETS)}")
    if not threshold > 0:
        raise ValueError(f"{op}: threshold is {threshold}, expected a positive number")
    if threshold == math.inf and reset == "subtract":
        raise ValueError(f'{op}: threshold is {threshold}, expected a finite number with reset="subtract"')
    if not math.isfinite(gain):
        raise ValueError(f"{op}: gain is {gain}, expected a finite number")


def _check_surrogate(op, surrogate, width):
    if surrogate not in _SURROGATES:
        raise ValueError(f"{op}: surrogate is {surrogate!r}, expected one of {', '.join(_SURROGATES)}")
    _check.number(op, "width", width)
    if not 0 < width < math.inf:
        raise ValueError(f"{op}: width is {width}, expected a positive finite number")


def _check_time(op, name, a, time_axis):
    """The shape of one step of the sequence `a`."""
    if _check.whole(op, "time_axis", time_axis) not in (0, 1):
        raise ValueError(f"{op}: time_axis is {time_axis!r}, expected 0 or 1")
    if a.ndim < 2:
        raise ValueError(f"{op}: {name} has shape {a.shape}, expected at least 2 axes")
    return a.shape[1:] if time_axis == 0 else (a.shape[0], *a.shape[2:])


def _check_step(x, v, leak, threshold, reset, gain):
    _check.floats("lif_step", "x v", x, v)
    _check.shape("lif_step", "v", v, x.shape)
    _check_neuron("lif_step", leak, threshold, reset, gain)


def _check_step_backward(dspike, dv_next, u, leak, threshold, reset, gain, surrogate, width):
    op = "lif_step_backward"
    if dv_next is None:
        _check.floats(op, "dspike u", dspike, u)
    else:
        _check.floats(op, "dspike dv_next u", dspike, dv_next, u)
        _check.shape(op, "dv_next", dv_next, u.shape)
    _check.shape(op, "dspike", dspike, u.shape)
    _check_neuron(op, leak, threshold, reset, gain)
    _check_surrogate(op, surrogate, width)


def _check_norm_step(x, v, gain, bias, leak, threshold, reset, eps, running, momentum, out):
    op = "batchnorm_lif_step"
    if v is None:
        _check.floats(op, "x gain bias", x, gain, bias)
    else:
        _check.floats(op, "x v gain bias", x, v, gain, bias)
        _check.shape(op, "v", v, x.shape)
    if x.ndim < 2 or not x.size:
        raise ValueError(f"{op}: x has shape {x.shape}, expected (B, C, ...) with at least 1 element in a channel")
    for name, a in (("gain", gain), ("bias", bias)):
        _check.shape(op, name, a, x.shape[1:2])
    _check.at_least(op, "eps", eps, 0)
    _check.number(op, "momentum", momentum)
    _check_neuron(op, leak, threshold, reset, 1.0)
    if running is not None:
        if not isinstance(running, tuple) or len(running) != 2:
            raise TypeError(f"{op}: running is {type(running).__name__}, expected the pair (mean, variance)")
        for i, a in enumerate(running):
            _check.writable(op, f"running[{i}]", a, x.shape[1:2], x.dtype)
    if out is not None:
        if not isinstance(out, tuple) or len(out) != 3:
            raise TypeError(f"{op}: out is {type(out).__name__}, expected the triple (spike, v_next, u)")
        for i, a in enumerate(out):
            _check.writable(op, f"out[{i}]", a, x.shape, x.dtype)


def _check_norm_step_backward(
    dspike, dv_next, x, u, gain, mean, rstd, leak, threshold, reset, surrogate, width, add_to, out
):
    op = "batchnorm_lif_step_backward"
    _check.floats(op, "dspike x u gain mean rstd", dspike, x, u, gain, mean, rstd)
    if dv_next is not None:
        _check.floats(op, "x dv_next", x, dv_next)
        _check.shape(op, "dv_next", dv_next, x.shape)
    if x.ndim < 2 or not x.size:
        raise ValueError(f"{op}: x has shape {x.shape}, expected (B, C, ...) with at least 1 element in a channel")
    for name, a in (("dspike", dspike), ("u", u)):
        _check.shape(op, name, a, x.shape)
    for name, a in (("gain", gain), ("mean", mean), ("rstd", rstd)):
        _check.shape(op, name, a, x.shape[1:2])
    _check_neuron(op, leak, threshold, reset, 1.0)
    _check_surrogate(op, surrogate, width)
    if add_to is not None:
        if not isinstance(add_to, tuple) or len(add_to) != 2:
            raise TypeError(f"{op}: add_to is {type(add_to).__name__}, expected the pair (dgain, dbias)")
        for i, a in enumerate(add_to):
            _check.writable(op, f"add_to[{i}]", a, x.shape[1:2], x.dtype)
    if out is not None:
        _check.writable(op, "out", out, x.shape, x.dtype)


def _check_sequence(op, x, v0, time_axis):
    _check.floats(op, "x v0", x, v0)
    _check.shape(op, "v0", v0, _check_time(op, "x", x, time_axis))


def _check_sequence_backward(dspikes, dv_last, u, leak, threshold, reset, gain, surrogate, width, temporal, time_axis):
    """The shape of one step."""
    op = "lif_sequence_backward"
    if dv_last is None:
        _check.floats(op, "dspikes u", dspikes, u)
    else:
        _check.floats(op, "dspikes dv_last u", dspikes, dv_last, u)
    step = _check_time(op, "u", u, time_axis)
    _check.shape(op, "dspikes", dspikes, u.shape)
    if dv_last is not None:
        _check.shape(op, "dv_last", dv_last, step)
        if not temporal:
            raise ValueError(f"{op}: dv_last is given, expected None with temporal=False (it comes through time)")
    _check_neuron(op, leak, threshold, reset, gain)
    _check_surrogate(op, surrogate, width)
    return step


def _check_integrator_backward(dv, leak, time_axis):
    """The shape of one step."""
    op = "leaky_integrator_sequence_backward"
    _check.floats(op, "dv", dv)
    step = _check_time(op, "dv", dv, time_axis)
    _check_leak(op, leak)
    return step


def _steps(time_axis: int, *arrays: np.ndarray) -> list[np.ndarray]:
    """Views with time on axis 0."""
    return [np.moveaxis(a, time_axis, 0) for a in arrays]


def _fire(u: np.ndarray, threshold: float, reset: str) -> tuple[np.ndarray, np.ndarray]:
    """s and v after the reset."""
    fires = u >= threshold
    return fires.astype(u.dtype), np.where(fires, u - threshold if reset == "subtract" else u.dtype.type(0), u)


def _surrogate(z: np.ndarray, kind: str, width: float) -> np.ndarray:
    """σ'(z): the table above."""
    real = z.dtype.type
    alpha = real(1 / width)
    if kind == "rectangle":
        return alpha * (np.abs(z) <= real(width / 2))
    if kind == "triangle":
        return alpha * np.maximum(1 - alpha * np.abs(z), 0)
    if kind == "sigmoid":
        e = np.exp(-(alpha * np.abs(z)))  # q (1 - q) is even in z; this form neither overflows nor cancels
        return alpha * e / ((1 + e) * (1 + e))
    q = real(math.pi / (2 * width)) * z
    return real(0.5 / width) / (1 + q * q)


def _fire_backward(dspike, dv, u, threshold, reset, surrogate, width, detach_reset):
    """du = ds σ' + dv dv/du, the second term only where dv is given."""
    threshold = u.dtype.type(threshold)
    slope = _surrogate(u - threshold, surrogate, width)
    du = dspike * slope
    if dv is None:
        return du
    if reset == "subtract":
        return du + dv * (1 if detach_reset else 1 - threshold * slope)
    stays = ~(u >= threshold)
    return du + dv * (stays if detach_reset else stays - u * slope)


@operation
def lif_step(
    x: np.ndarray, v: np.ndarray, leak: float, threshold: float = 1.0, reset: str = "subtract", gain: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """u = leak v + gain x;  s = [u >= threshold];  v' = u - threshold s (reset="subtract") or (1 - s) u ("zero").

    x and v of one shape. Returns s, v' and u of that shape; the backward pass needs u.

    Sources: Lapicque, 1907, in discrete time; Meng et al., "Towards memory- and time-efficient backpropagation for
    training spiking neural networks", 2023 (subtract, gain 1).
    """
    _check_step(x, v, leak, threshold, reset, gain)
    leak, threshold, gain = map(x.dtype.type, (leak, threshold, gain))
    u = leak * v + gain * x
    spike, v_next = _fire(u, threshold, reset)
    return spike, v_next, u


@operation
def lif_step_backward(
    dspike: np.ndarray,
    dv_next: np.ndarray | None,
    u: np.ndarray,
    leak: float,
    threshold: float = 1.0,
    reset: str = "subtract",
    gain: float = 1.0,
    surrogate: str = "triangle",
    width: float = 1.0,
    detach_reset: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """du = ds σ'(u - threshold) + dv' dv'/du;  dx = gain du, dv = leak du.

    dv'/du is 1 - threshold σ' (reset="subtract") or 1 - s - u σ' ("zero"); without the σ' terms where `detach_reset`
    takes the spike in the reset for a constant. dv_next may be None: no gradient comes from later steps. (So SLTT
    trains: dv_next None, dv not used.) Returns dx, dv.

    Source: Neftci, Mostafa and Zenke, "Surrogate gradient learning in spiking neural networks", 2019.
    """
    _check_step_backward(dspike, dv_next, u, leak, threshold, reset, gain, surrogate, width)
    du = _fire_backward(dspike, dv_next, u, threshold, reset, surrogate, width, detach_reset)
    return u.dtype.type(gain) * du, u.dtype.type(leak) * du


@operation(inplace=("running",))
def batchnorm_lif_step(
    x: np.ndarray,
    v: np.ndarray | None,
    gain: np.ndarray,
    bias: np.ndarray,
    leak: float,
    threshold: float = 1.0,
    reset: str = "subtract",
    eps: float = 1e-5,
    running: tuple[np.ndarray, np.ndarray] | None = None,
    momentum: float = 0.1,
    out: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """I = batchnorm(x), u = leak v + I; then s and v' as in `lif_step`.

    Shapes: x, v (B, C, ...) with at least one element in a channel, v None for neurons at rest (0); gain, bias (C,).
    Returns s, v', u, and the mean and rstd (C,) of this step. With `running` = (mean, variance), these are moved by
    `momentum` towards the statistics of this step (the variance towards the unbiased one) in place. `out` names the
    arrays for s, v' and u (C-contiguous, none of them an input; v' may be v).
    """
    _check_norm_step(x, v, gain, bias, leak, threshold, reset, eps, running, momentum, out)
    current, mean, rstd = batchnorm.numpy(x, gain, bias, eps)
    u = current if v is None else x.dtype.type(leak) * v + current
    spike, v_next = _fire(u, x.dtype.type(threshold), reset)
    if running is not None:
        n, momentum = x.size // x.shape[1], x.dtype.type(momentum)
        variance = (1 / (rstd * rstd) - x.dtype.type(eps)) * x.dtype.type(n / max(1, n - 1))
        running[0][...] += momentum * (mean - running[0])
        running[1][...] += momentum * (variance - running[1])
    if out is not None:
        for to, a in zip(out, (spike, v_next, u)):
            to[...] = a
        spike, v_next, u = out
    return spike, v_next, u, mean, rstd


@operation(inplace=("add_to",))
def batchnorm_lif_step_backward(
    dspike: np.ndarray,
    dv_next: np.ndarray | None,
    x: np.ndarray,
    u: np.ndarray,
    gain: np.ndarray,
    mean: np.ndarray,
    rstd: np.ndarray,
    leak: float,
    threshold: float = 1.0,
    reset: str = "subtract",
    surrogate: str = "triangle",
    width: float = 1.0,
    detach_reset: bool = False,
    need_dv: bool = True,
    add_to: tuple[np.ndarray, np.ndarray] | None = None,
    out: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray]:
    """The step of `lif_step_backward` for u, then that of `batchnorm_backward` for x. Returns dx, dv, dgain, dbias.

    dv_next may be None: no gradient comes from later steps. Without `need_dv` none goes to earlier ones: dv is None.
    With `add_to` = (dgain, dbias) these are added to in place and returned; `out` (C-contiguous, no input) is for dx.
    """
    _check_norm_step_backward(
        dspike, dv_next, x, u, gain, mean, rstd, leak, threshold, reset, surrogate, width, add_to, out
    )
    du = _fire_backward(dspike, dv_next, u, threshold, reset, surrogate, width, detach_reset)
    dx, dgain, dbias = batchnorm_backward.numpy(du, x, gain, mean, rstd)
    if add_to is not None:
        add_to[0][...] += dgain
        add_to[1][...] += dbias
        dgain, dbias = add_to
    if out is not None:
        out[...] = dx
        dx = out
    dv = u.dtype.type(leak) * du if need_dv else None
    return dx, dv, dgain, dbias


@operation
def lif_sequence(
    x: np.ndarray,
    v0: np.ndarray,
    leak: float,
    threshold: float = 1.0,
    reset: str = "subtract",
    gain: float = 1.0,
    time_axis: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """T steps of `lif_step` from v0.

    Shapes: x (T, B, ...), or (B, T, ...) with time_axis=1; v0 (B, ...). Returns the spikes (shape of x), the last
    state (B, ...) and the potentials before firing u (shape of x), which the backward pass needs.
    """
    _check_sequence("lif_sequence", x, v0, time_axis)
    _check_neuron("lif_sequence", leak, threshold, reset, gain)
    leak, threshold, gain = map(x.dtype.type, (leak, threshold, gain))
    spikes, u = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    x, s, potential = _steps(time_axis, x, spikes, u)
    v = v0.copy()
    for t in range(len(x)):
        potential[t] = leak * v + gain * x[t]
        s[t], v = _fire(potential[t], threshold, reset)
    return spikes, v, u


@operation
def lif_sequence_backward(
    dspikes: np.ndarray,
    dv_last: np.ndarray | None,
    u: np.ndarray,
    leak: float,
    threshold: float = 1.0,
    reset: str = "subtract",
    gain: float = 1.0,
    surrogate: str = "triangle",
    width: float = 1.0,
    detach_reset: bool = False,
    temporal: bool = True,
    time_axis: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Back-propagation through time: the step of `lif_step_backward` from the last to the first,

    du_t = ds_t σ'(u_t - threshold) + leak du_{t+1} dv_t/du_t;  dx_t = gain du_t, dv0 = leak du_1.

    dspikes (shape of u) is the gradient of all spikes, dv_last (B, ...) that of the last state, None for 0. With
    temporal=False the second term is dropped at every step, as if each v_{t-1} were a constant (SLTT): dv0 is 0 then,
    and dv_last must be None. Returns dx (shape of u), dv0 (B, ...).

    Sources: Neftci, Mostafa and Zenke, 2019; Meng et al., 2023 (temporal=False).
    """
    step = _check_sequence_backward(
        dspikes, dv_last, u, leak, threshold, reset, gain, surrogate, width, temporal, time_axis
    )
    leak, gain = u.dtype.type(leak), u.dtype.type(gain)
    dx = np.empty(u.shape, u.dtype)
    dinput, ds, potential = _steps(time_axis, dx, dspikes, u)
    dv = None if dv_last is None else dv_last.copy()
    for t in reversed(range(len(potential))):
        du = _fire_backward(ds[t], dv, potential[t], threshold, reset, surrogate, width, detach_reset)
        dinput[t] = gain * du
        dv = leak * du if temporal else None
    return dx, np.zeros(step, u.dtype) if dv is None else dv


@operation
def leaky_integrator_sequence(x: np.ndarray, v0: np.ndarray, leak: float, time_axis: int = 0) -> np.ndarray:
    """v_t = leak v_{t-1} + x_t: a neuron that never fires (a read-out), or a decaying trace of spikes.

    Shapes: x (T, B, ...), or (B, T, ...) with time_axis=1; v0 (B, ...). Returns all v_t (shape of x); the last is the
    last state.

    Source: Hammouamri, Khalfaoui-Hassani and Masquelier, "Learning delays in spiking neural networks using dilated
    convolutions with learnable spacings", 2024 (the output layer).
    """
    _check_sequence("leaky_integrator_sequence", x, v0, time_axis)
    _check_leak("leaky_integrator_sequence", leak)
    leak = x.dtype.type(leak)
    potentials = np.empty(x.shape, x.dtype)
    x, v = _steps(time_axis, x, potentials)
    for t in range(len(x)):
        v[t] = leak * (v[t - 1] if t else v0) + x[t]
    return potentials


@operation
def leaky_integrator_sequence_backward(
    dv: np.ndarray, leak: float, time_axis: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """dx_t = dv_t + leak dx_{t+1}, from the last step to the first; dv0 = leak dx_1.

    dv is the gradient of all v_t, the last one included. Returns dx (shape of dv), dv0 (one step of it).
    """
    step = _check_integrator_backward(dv, leak, time_axis)
    leak = dv.dtype.type(leak)
    dx = np.empty(dv.shape, dv.dtype)
    dinput, d = _steps(time_axis, dx, dv)
    carried = np.zeros(step, dv.dtype)
    for t in reversed(range(len(d))):
        dinput[t] = d[t] + carried
        carried = leak * dinput[t]
    return dx, carried
