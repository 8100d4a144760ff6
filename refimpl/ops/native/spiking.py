"""Native mirrors of refimpl/ops/spiking.py. The kernels see (B, T, N): a step is a sequence of one, and time-first
arrays are one sequence of all their neurons."""

from __future__ import annotations

import math

import numpy as np

from refimpl.backends.native import NULL, check, contiguous, kernel, p
from refimpl.backends.threads import get_num_threads as threads
from refimpl.ops import spiking as ops
from refimpl.ops.spiking import (
    _RESETS,
    _SURROGATES,
    _check_integrator_backward,
    _check_leak,
    _check_neuron,
    _check_norm_step,
    _check_norm_step_backward,
    _check_sequence,
    _check_sequence_backward,
    _check_step,
    _check_step_backward,
)

_lif, _lif_backward = kernel("lif_sequence"), kernel("lif_sequence_backward")
_integrator = kernel("leaky_integrator_sequence")
_integrator_backward = kernel("leaky_integrator_sequence_backward")


def _sizes(a, time_axis):
    """B, T, N"""
    shape = a.shape
    return (shape[0] if time_axis else 1), shape[time_axis], math.prod(shape[time_axis + 1 :])


@ops.lif_step.mirror("native")
def lif_step(x, v, leak, threshold=1.0, reset="subtract", gain=1.0):
    _check_step(x, v, leak, threshold, reset, gain)
    x, v = contiguous(x), contiguous(v)
    spike, v_next, u = (np.empty(x.shape, x.dtype) for _ in range(3))
    numbers = (leak, threshold, _RESETS.index(reset), gain, 1, 1, x.size)
    check(_lif[x.dtype](p(x), p(v), *numbers, p(spike), p(v_next), p(u), threads()), "lif_step")
    return spike, v_next, u


@ops.lif_step_backward.mirror("native")
def lif_step_backward(
    dspike,
    dv_next,
    u,
    leak,
    threshold=1.0,
    reset="subtract",
    gain=1.0,
    surrogate="triangle",
    width=1.0,
    detach_reset=False,
):
    _check_step_backward(dspike, dv_next, u, leak, threshold, reset, gain, surrogate, width)
    dspike, u = contiguous(dspike), contiguous(u)
    given = dv_next if dv_next is None else contiguous(dv_next)
    dx, dv = np.empty(u.shape, u.dtype), np.empty(u.shape, u.dtype)
    numbers = (leak, threshold, _RESETS.index(reset), gain, _SURROGATES.index(surrogate), width, bool(detach_reset))
    arrays = (p(dspike), NULL if given is None else p(given), p(u))
    check(_lif_backward[u.dtype](*arrays, *numbers, 1, 1, 1, u.size, p(dx), p(dv), threads()), "lif_step_backward")
    return dx, dv


_norm_step, _norm_step_backward = kernel("batchnorm_lif_step"), kernel("batchnorm_lif_step_backward")


def _channels(x):
    """B, C, positions"""
    shape = x.shape
    return shape[0], shape[1], math.prod(shape[2:])


@ops.batchnorm_lif_step.mirror("native")
def batchnorm_lif_step(
    x, v, gain, bias, leak, threshold=1.0, reset="subtract", eps=1e-5, running=None, momentum=0.1, out=None
):
    _check_norm_step(x, v, gain, bias, leak, threshold, reset, eps, running, momentum, out)
    x, gain, bias, dtype = contiguous(x), contiguous(gain), contiguous(bias), x.dtype
    spike, v_next, u = _aligned(out) or (np.empty(x.shape, dtype), np.empty(x.shape, dtype), np.empty(x.shape, dtype))
    mean, rstd = np.empty(x.shape[1], dtype), np.empty(x.shape[1], dtype)
    moved = _aligned(running)
    before = NULL if v is None else p(contiguous(v))
    outs = p(spike), p(v_next), p(u), p(mean), p(rstd), *((NULL, NULL) if moved is None else map(p, moved))
    numbers = leak, threshold, _RESETS.index(reset), eps, momentum, *_channels(x)
    check(_norm_step[dtype](p(x), before, p(gain), p(bias), *numbers, *outs, threads()), "batchnorm_lif_step")
    _give_back(running, moved)
    if out is not None:
        _give_back(out, (spike, v_next, u))
        spike, v_next, u = out
    return spike, v_next, u, mean, rstd


def _aligned(arrays):
    """Arrays to write, misaligned ones as copies."""
    return arrays if arrays is None else tuple(map(contiguous, arrays))


def _give_back(given, used):
    """Arrays that were misaligned, and so copied, get what was written."""
    for mine, made in zip(given or (), used or ()):
        if mine is not made:
            mine[...] = made


@ops.batchnorm_lif_step_backward.mirror("native")
def batchnorm_lif_step_backward(
    dspike,
    dv_next,
    x,
    u,
    gain,
    mean,
    rstd,
    leak,
    threshold=1.0,
    reset="subtract",
    surrogate="triangle",
    width=1.0,
    detach_reset=False,
    need_dv=True,
    add_to=None,
    out=None,
):
    _check_norm_step_backward(
        dspike, dv_next, x, u, gain, mean, rstd, leak, threshold, reset, surrogate, width, add_to, out
    )
    arrays = [contiguous(a) for a in (dspike, x, u, gain, mean, rstd)]
    given = dv_next if dv_next is None else contiguous(dv_next)
    x, dtype = arrays[1], x.dtype
    dx = np.empty(x.shape, dtype) if out is None else contiguous(out)
    dv = np.empty(x.shape, dtype) if need_dv else None
    into = _aligned(add_to)
    dgain, dbias = into or (np.empty(x.shape[1], dtype), np.empty(x.shape[1], dtype))
    pointers = p(arrays[0]), NULL if given is None else p(given), *map(p, arrays[1:])
    numbers = leak, threshold, _RESETS.index(reset), _SURROGATES.index(surrogate), width, bool(detach_reset)
    outs = into is not None, p(dx), NULL if dv is None else p(dv), p(dgain), p(dbias)
    status = _norm_step_backward[dtype](*pointers, *numbers, *_channels(x), *outs, threads())
    check(status, "batchnorm_lif_step_backward")
    _give_back(add_to, into)
    if out is not None:
        _give_back((out,), (dx,))
        dx = out
    return dx, dv, *(add_to or (dgain, dbias))


@ops.lif_sequence.mirror("native")
def lif_sequence(x, v0, leak, threshold=1.0, reset="subtract", gain=1.0, time_axis=0):
    _check_sequence("lif_sequence", x, v0, time_axis)
    _check_neuron("lif_sequence", leak, threshold, reset, gain)
    x, v0 = contiguous(x), contiguous(v0)
    spikes, v_last, u = (np.empty(a.shape, x.dtype) for a in (x, v0, x))
    numbers = (leak, threshold, _RESETS.index(reset), gain, *_sizes(x, time_axis))
    check(_lif[x.dtype](p(x), p(v0), *numbers, p(spikes), p(v_last), p(u), threads()), "lif_sequence")
    return spikes, v_last, u


@ops.lif_sequence_backward.mirror("native")
def lif_sequence_backward(
    dspikes,
    dv_last,
    u,
    leak,
    threshold=1.0,
    reset="subtract",
    gain=1.0,
    surrogate="triangle",
    width=1.0,
    detach_reset=False,
    temporal=True,
    time_axis=0,
):
    step = _check_sequence_backward(
        dspikes, dv_last, u, leak, threshold, reset, gain, surrogate, width, temporal, time_axis
    )
    dspikes, u = contiguous(dspikes), contiguous(u)
    given = dv_last if dv_last is None else contiguous(dv_last)
    dx, dv0 = np.empty(u.shape, u.dtype), np.empty(step, u.dtype)
    numbers = (leak, threshold, _RESETS.index(reset), gain, _SURROGATES.index(surrogate), width)
    numbers += (bool(detach_reset), bool(temporal), *_sizes(u, time_axis))
    arrays = (p(dspikes), NULL if given is None else p(given), p(u))
    check(_lif_backward[u.dtype](*arrays, *numbers, p(dx), p(dv0), threads()), "lif_sequence_backward")
    return dx, dv0


@ops.leaky_integrator_sequence.mirror("native")
def leaky_integrator_sequence(x, v0, leak, time_axis=0):
    _check_sequence("leaky_integrator_sequence", x, v0, time_axis)
    _check_leak("leaky_integrator_sequence", leak)
    x, v0 = contiguous(x), contiguous(v0)
    v = np.empty(x.shape, x.dtype)
    sizes = _sizes(x, time_axis)
    check(_integrator[x.dtype](p(x), p(v0), leak, *sizes, p(v), threads()), "leaky_integrator_sequence")
    return v


@ops.leaky_integrator_sequence_backward.mirror("native")
def leaky_integrator_sequence_backward(dv, leak, time_axis=0):
    step = _check_integrator_backward(dv, leak, time_axis)
    dv = contiguous(dv)
    dx, dv0 = np.empty(dv.shape, dv.dtype), np.empty(step, dv.dtype)
    numbers = (leak, *_sizes(dv, time_axis))
    check(
        _integrator_backward[dv.dtype](p(dv), *numbers, p(dx), p(dv0), threads()), "leaky_integrator_sequence_backward"
    )
    return dx, dv0
