from tests.harness import peer


@peer("cross_entropy")
def _(torch, logits, target, label_smoothing, ignore_index, weight):
    target = target.to(torch.int64)
    # PyTorch's default for "none" is -100, which is no class; it averages by class weights, so ours are applied here.
    ignored = -100 if ignore_index is None else ignore_index
    losses = torch.nn.functional.cross_entropy(
        logits, target, ignore_index=ignored, label_smoothing=label_smoothing, reduction="none"
    )
    w = (target != ignored).to(logits.dtype) * (1 if weight is None else weight)
    return (w * losses).sum() / w.sum(), torch.softmax(logits, dim=1)


@peer("binary_cross_entropy_with_logits")
def _(torch, logits, target, weight):
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, target, weight)


@peer("mse")
def _(torch, prediction, target):
    return torch.nn.functional.mse_loss(prediction, target)


@peer("l1")
def _(torch, prediction, target):
    return torch.nn.functional.l1_loss(prediction, target)


@peer("kl_divergence")
def _(torch, log_p, log_q):
    total = torch.nn.functional.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return total / (log_p.numel() // log_p.shape[-1])


@peer("cosine_similarity")
def _(torch, a, b, eps):
    norm_a, norm_b = torch.linalg.norm(a, dim=-1), torch.linalg.norm(b, dim=-1)
    s = torch.nn.functional.cosine_similarity(a, b, dim=-1, eps=eps)
    # Where a norm is clamped to eps, PyTorch differentiates it all the same: its value then, the formula's gradient.
    formula = (a * b).sum(dim=-1) / norm_a.clamp(min=eps) / norm_b.clamp(min=eps)
    return formula + (s - formula).detach(), norm_a, norm_b


@peer("log_prob")
def _(torch, logits, target):
    lse = torch.logsumexp(logits, dim=1)
    return logits.gather(1, target.to(torch.int64)[:, None])[:, 0] - lse, lse


@peer("map_agreement")
def _(torch, a, c, sC, sD, need_da, need_dc, eps):
    """The loss as one would write it, its gradients by autograd."""
    a, c = (x if x.requires_grad else x.detach().requires_grad_() for x in (a, c))
    mse = torch.nn.functional.mse_loss

    def unit(x):
        u = x - x.mean(dim=(2, 3), keepdim=True)
        return u / (torch.linalg.vector_norm(u, dim=(2, 3), keepdim=True) + eps)

    loss = a.shape[2] * sC * mse(a, c)
    if sD is not None:
        loss = loss + a.shape[2] * sD * mse(unit(a), unit(c))
    da, dc = torch.autograd.grad(loss, (a, c), retain_graph=True)
    return loss, da if need_da else None, dc if need_dc else None
