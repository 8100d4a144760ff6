"""PyTorch's optimisers and vector sums. Operations that write in place return what they have written."""

from tests.harness import peer


def _decayed(param, grad, lr, weight_decay, decoupled):
    return (param * (1 - lr * weight_decay), grad) if decoupled else (param, grad + weight_decay * param)


@peer("sgd_update")
def _(torch, param, grad, velocity, lr, momentum, nesterov, weight_decay, decoupled):
    if nesterov and momentum:
        param, g = _decayed(param, grad, lr, weight_decay, decoupled)
        v = momentum * velocity + g
        return param - lr * (g + momentum * v), v
    p = torch.nn.Parameter(_decayed(param, grad, lr, weight_decay, True)[0] if decoupled else param.clone())
    p.grad = grad.clone()
    wd = 0.0 if decoupled else weight_decay
    optimizer = torch.optim.SGD([p], lr=lr, momentum=momentum, weight_decay=wd)
    if momentum:
        optimizer.state[p]["momentum_buffer"] = velocity.clone()
    optimizer.step()
    if velocity is None:
        return (p.detach(),)
    return p.detach(), optimizer.state[p]["momentum_buffer"] if momentum else velocity


@peer("adam_update")
def _(torch, param, grad, m, v, step, lr, beta1, beta2, eps, weight_decay, decoupled):
    p = torch.nn.Parameter(param.clone())
    p.grad = grad.clone()
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = kind([p], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay)
    optimizer.state[p] = {"step": torch.tensor(float(step - 1)), "exp_avg": m.clone(), "exp_avg_sq": v.clone()}
    optimizer.step()
    return p.detach(), optimizer.state[p]["exp_avg"], optimizer.state[p]["exp_avg_sq"]


@peer("rmsprop_update")
def _(torch, param, grad, v, velocity, lr, alpha, eps, momentum, weight_decay, decoupled):
    start = _decayed(param, grad, lr, weight_decay, True)[0] if decoupled else param.clone()
    p = torch.nn.Parameter(start)
    p.grad = grad.clone()
    wd = 0.0 if decoupled else weight_decay
    optimizer = torch.optim.RMSprop([p], lr=lr, alpha=alpha, eps=eps, weight_decay=wd, momentum=momentum)
    optimizer.state[p] = {"step": torch.tensor(1.0), "square_avg": v.clone()}
    if momentum:
        optimizer.state[p]["momentum_buffer"] = velocity.clone()
    optimizer.step()
    state = optimizer.state[p]
    if velocity is None:
        return p.detach(), state["square_avg"]
    return p.detach(), state["square_avg"], state["momentum_buffer"] if momentum else velocity


@peer("ema_update")
def _(torch, average, value, decay):
    return torch.lerp(value, average, decay)


@peer("scale_inplace")
def _(torch, x, factor):
    return x * factor


@peer("axpy")
def _(torch, y, x, alpha):
    return torch.add(y, x, alpha=alpha)


@peer("sum_of_squares")
def _(torch, x):
    return x.square().sum()


@peer("dot")
def _(torch, x, y):
    return torch.dot(x.ravel(), y.ravel())


@peer("fma_combine")
def _(torch, a, x, b, y, c=0.0, z=None):
    return a * x + b * y + (0 if z is None else c * z)


@peer("row_scaled_sum")
def _(torch, a, x, b, y):
    return torch.einsum("b,b...->b...", a, x) + torch.einsum("b,b...->b...", b, y)
