from tests.harness import peer


@peer("softmax_mixture")
def _(torch, f, embedding):
    p = torch.softmax(f, dim=1)
    return (p if embedding is None else p @ embedding), p


@peer("denoise_loss")
def _(torch, f, target, weight, embedding):
    p = torch.softmax(f, dim=1)
    target = target.long()
    uhat = p if embedding is None else p @ embedding
    u = torch.eye(p.shape[1], dtype=p.dtype)[target] if embedding is None else embedding[target]
    squared = ((uhat - u) ** 2).sum(dim=1)
    duhat = 2 * weight[:, None] * (uhat - u)
    dp = duhat if embedding is None else duhat @ embedding.T
    df = p * (dp - (p * dp).sum(dim=1, keepdim=True))
    return squared, p, duhat, df
