from tests.harness import peer


def _contrast(torch, z, p, theta, magnitude):
    """The loss of each pair, the goodness of each row; a vector of length 0 has goodness 0."""
    v = z.abs() if magnitude else z
    lengths = torch.linalg.vector_norm(v, dim=1)
    q = torch.linalg.vector_norm(p)
    both = lengths * q
    g = torch.where(both == 0, torch.zeros_like(both), (v @ p) / torch.where(both == 0, torch.ones_like(both), both))
    half = len(z) // 2
    return torch.nn.functional.softplus(-theta * (g[:half] - g[half:]), threshold=50), g


@peer("goodness_contrast")
def _(torch, z, p, theta, magnitude):
    loss, g = _contrast(torch, z, p, theta, magnitude)
    (dz,) = torch.autograd.grad(loss.sum() / max(len(loss), 1), z, retain_graph=True)
    return loss, g, dz


@peer("goodness_steps")
def _(torch, param, m, v, u, p, theta, step, lr, steps, beta1, beta2, eps):
    D, N, half = u.shape[1], len(p), len(u) // 2
    flat = torch.nn.Parameter(param.clone())
    optimizer = torch.optim.Adam([flat], lr=lr, betas=(beta1, beta2), eps=eps, foreach=False)
    number = torch.tensor(step - 1.0, dtype=torch.float64)
    optimizer.state[flat].update({"step": number, "exp_avg": m.clone(), "exp_avg_sq": v.clone()})
    losses = torch.zeros(steps, dtype=param.dtype)
    for k in range(steps):
        optimizer.zero_grad()
        z = u @ flat[: D * N].reshape(D, N) + flat[D * N :]
        loss = _contrast(torch, z, p, theta, True)[0].sum() / max(half, 1)
        losses[k] = loss.detach()
        loss.backward()
        optimizer.step()
    state = optimizer.state[flat]
    return losses, flat.detach(), state["exp_avg"], state["exp_avg_sq"]
