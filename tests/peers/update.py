from tests.harness import peer


def _step(torch, optimizer, param, grad, lr, state, weight_decay, decoupled, **settings):
    """One step of a PyTorch optimiser from the given state. Decoupled weight decay, which only AdamW offers, is what it
    says: the parameter shrinks before the step."""
    coupled = 0.0 if decoupled else weight_decay
    if decoupled:
        param = param * (1 - lr * weight_decay)
    p = torch.nn.Parameter(param.clone())
    p.grad = grad.clone()
    opt = optimizer([p], lr=lr, weight_decay=coupled, foreach=False, **settings)
    opt.state[p].update({k: v.clone() if torch.is_tensor(v) else v for k, v in state.items()})
    opt.step()
    return p.detach(), opt.state[p]


@peer("sgd_update")
def _(torch, param, grad, velocity, lr, momentum, nesterov, weight_decay, decoupled):
    if velocity is None or momentum == 0:  # PyTorch keeps no velocity then: ours becomes the gradient
        g = grad if decoupled else grad + weight_decay * param
        p, _ = _step(torch, torch.optim.SGD, param, grad, lr, {}, weight_decay, decoupled)
        return (p,) if velocity is None else (p, g)
    state = {"momentum_buffer": velocity}
    more = {"momentum": momentum, "nesterov": nesterov}
    p, state = _step(torch, torch.optim.SGD, param, grad, lr, state, weight_decay, decoupled, **more)
    return p, state["momentum_buffer"]


@peer("adam_update")
def _(torch, param, grad, m, v, step, lr, beta1, beta2, eps, weight_decay, decoupled):
    optimizer = torch.optim.AdamW if decoupled else torch.optim.Adam
    state = {"step": torch.tensor(step - 1.0, dtype=torch.float64), "exp_avg": m, "exp_avg_sq": v}
    p = torch.nn.Parameter(param.clone())
    p.grad = grad.clone()
    opt = optimizer([p], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, foreach=False)
    opt.state[p].update({k: a.clone() for k, a in state.items()})
    opt.step()
    return p.detach(), opt.state[p]["exp_avg"], opt.state[p]["exp_avg_sq"]


@peer("rmsprop_update")
def _(torch, param, grad, v, velocity, lr, alpha, eps, momentum, weight_decay, decoupled):
    state = {"step": torch.tensor(0.0), "square_avg": v}
    more = {"alpha": alpha, "eps": eps, "momentum": momentum}
    if velocity is not None:
        state["momentum_buffer"] = velocity
    p, state = _step(torch, torch.optim.RMSprop, param, grad, lr, state, weight_decay, decoupled, **more)
    if velocity is None:
        return p, state["square_avg"]
    if momentum == 0:  # PyTorch leaves the velocity alone then: ours becomes the step
        g = grad if decoupled else grad + weight_decay * param
        return p, state["square_avg"], g / (state["square_avg"].sqrt() + eps)
    return p, state["square_avg"], state["momentum_buffer"]


@peer("ema_update")
def _(torch, average, value, decay):
    return torch.lerp(value, average, decay)


@peer("scale_inplace")
def _(torch, x, factor):
    return x.mul(factor)


@peer("axpy")
def _(torch, y, x, alpha):
    return y.add(x, alpha=alpha)


@peer("sum_of_squares")
def _(torch, x):
    return x.square().sum()


@peer("dot")
def _(torch, x, y):
    return torch.dot(x.flatten(), y.flatten())


@peer("fma_combine")
def _(torch, a, x, b, y, c=0.0, z=None):
    return a * x + b * y if z is None else a * x + b * y + c * z


@peer("row_scaled_sum")
def _(torch, a, x, b, y):
    per_row = (-1,) + (1,) * (x.dim() - 1)
    return a.reshape(per_row) * x + b.reshape(per_row) * y
