"""The recurrence unrolled, with the surrogate as an autograd function."""

import math

from tests.harness import peer


def _spike(torch):
    class Spike(torch.autograd.Function):
        @staticmethod
        def forward(ctx, z, kind, width):
            ctx.save_for_backward(z)
            ctx.kind, ctx.width = kind, width
            return (z >= 0).to(z.dtype)

        @staticmethod
        def backward(ctx, d):
            (z,), w = ctx.saved_tensors, ctx.width
            q = torch.sigmoid(z / w)
            slope = {
                "rectangle": (z.abs() <= w / 2).to(z.dtype) / w,
                "triangle": torch.relu(1 - z.abs() / w) / w,
                "sigmoid": q * (1 - q) / w,
                "atan": (0.5 / w) / (1 + (math.pi / 2 * z / w) ** 2),
            }[ctx.kind]
            return d * slope, None, None

    return Spike.apply


def _step(torch, x, v, leak, threshold, reset, gain, surrogate, width, detach_reset):
    u = leak * v + gain * x
    s = _spike(torch)(u - threshold, surrogate, width)
    r = s.detach() if detach_reset else s
    return s, (1 - r) * u if reset == "zero" else u - threshold * r, u


@peer("lif_step")
def _(torch, x, v, leak, threshold, reset, gain, surrogate, width, detach_reset):
    return _step(torch, x, v, leak, threshold, reset, gain, surrogate, width, detach_reset)


@peer("lif_sequence")
def _(torch, x, v0, time_axis, temporal=True, **settings):
    v, spikes, potentials = v0, [], []
    for x_t in x.unbind(time_axis):
        s, v, u = _step(torch, x_t, v if temporal else v.detach(), **settings)
        spikes.append(s)
        potentials.append(u)
    return torch.stack(spikes, time_axis), v if temporal else v.detach(), torch.stack(potentials, time_axis)


@peer("leaky_integrator_sequence")
def _(torch, x, v0, leak, time_axis):
    v, states = v0, []
    for x_t in x.unbind(time_axis):
        v = leak * v + x_t
        states.append(v)
    return torch.stack(states, time_axis)


@peer("batchnorm_lif_step")
def _(torch, x, v, gain, bias, leak, threshold, reset, eps, running, momentum, surrogate, width, detach_reset):
    dims = [i for i in range(x.ndim) if i != 1]
    column = (-1, *(1,) * (x.ndim - 2))
    mean = x.mean(dims)
    variance = ((x - mean.view(column)) ** 2).mean(dims)
    rstd = 1 / (variance + eps).sqrt()
    current = (x - mean.view(column)) * (rstd * gain).view(column) + bias.view(column)
    before = torch.zeros_like(x) if v is None else v
    s, v_next, u = _step(torch, current, before, leak, threshold, reset, 1.0, surrogate, width, detach_reset)
    return s, v_next, u, mean, rstd
