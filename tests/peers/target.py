from tests.harness import peer


def _layer(torch, z, t, loss, activation, delta):
    """Output and local loss of each row; the errors are left to autograd."""
    f = torch.nn.functional
    y = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu, "identity": torch.clone}[activation](z)
    if loss == "l2":
        return y, 0.5 * f.mse_loss(y, t, reduction="none").sum(1)
    if loss == "l1":
        return y, f.l1_loss(y, t, reduction="none").sum(1)
    if loss == "huber":
        return y, f.huber_loss(y, t, reduction="none", delta=delta).sum(1)
    if loss == "logistic":
        c, q = (2, (1 + t) / 2) if activation == "tanh" else (1, t)
        return y, (f.softplus(-c * z, threshold=1e9) + c * (1 - q) * z).sum(1)
    if loss == "cosine":
        lengths = torch.linalg.vector_norm(y, dim=1) * torch.linalg.vector_norm(t, dim=1)
        one = torch.ones_like(lengths)
        return y, 1 - torch.where(lengths == 0, 0 * one, (t * y).sum(1) / torch.where(lengths == 0, one, lengths))
    return y, -(t * y).sum(1)


def _error(torch, J, z):
    """dJ/dz; rows of length 0 have no gradient."""
    (d,) = torch.autograd.grad(J.sum(), z, retain_graph=True)
    return torch.nan_to_num(d)


@peer("target_loss")
def _(torch, z, labels, codes, loss, activation, delta, scale):
    z = z.detach().requires_grad_() if not z.requires_grad else z
    y, J = _layer(torch, z, codes[labels.long()], loss, activation, delta)
    return y, J, scale * _error(torch, J, z)


@peer("target_step")
def _(torch, x, labels, weight, bias, codes, v_weight, v_bias, lr, momentum, loss, activation, delta):
    params = [torch.nn.Parameter(weight.detach().clone()), torch.nn.Parameter(bias.detach().clone())]
    z = torch.nn.functional.linear(x, *params)
    y, J = _layer(torch, z, codes[labels.long()], loss, activation, delta)
    gradients = [torch.nan_to_num(g) for g in torch.autograd.grad(J.mean(), params)]
    y, J = y.detach(), J.detach()
    if v_weight is None:
        return y, J, *(p.detach() - lr * g for p, g in zip(params, gradients))
    velocity = [momentum * v + g for v, g in zip((v_weight, v_bias), gradients)]
    return y, J, *(p.detach() - lr * v for p, v in zip(params, velocity)), *velocity


@peer("rnn_target_sequence")
def _(torch, x, h0, labels, codes, w_x, w_h, bias, dw_x, dw_h, dbias, weights, loss, delta):
    """Step by step from a detached state."""
    params = [torch.nn.Parameter(a.detach().clone()) for a in (w_x, w_h, bias)]
    h, ys, Js, total = h0, [], [], torch.zeros((), dtype=x.dtype)
    for t in range(x.shape[1]):
        z = x[:, t] @ params[0] + h.detach() @ params[1] + params[2]
        h, J = _layer(torch, z, codes[labels[:, t].long()], loss, "tanh", delta)
        total = total + weights[t] * J.sum()
        ys.append(h.detach())
        Js.append(J.detach())
    gradients = torch.autograd.grad(total, params)
    sums = (into + torch.nan_to_num(g) for into, g in zip((dw_x, dw_h, dbias), gradients))
    return torch.stack(ys, 1), torch.stack(Js, 1), *sums
