from tests.harness import peer


@peer("attention")
def _(torch, q, k, v, mask=None, padding=None, causal=False, scale=None):
    T, S, group = q.shape[2], k.shape[2], q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    s = torch.einsum("bhtd,bhsd->bhts", q, k) * scale
    if mask is not None:
        s = s + mask
    seen = torch.ones(T, S, dtype=torch.bool).tril(S - T) if causal else torch.ones(T, S, dtype=torch.bool)
    seen = seen[None, None].expand(*s.shape)
    if padding is not None:
        seen = seen & ~padding[:, None, None, :]
    s = s.masked_fill(~seen, -torch.inf)
    empty = torch.isneginf(s).all(dim=-1, keepdim=True)  # softmax makes NaN of these; attention defines 0
    p = torch.where(empty, 0.0, torch.softmax(torch.where(empty, 0.0, s), dim=-1))
    lse = torch.where(empty[..., 0], -torch.inf, torch.logsumexp(torch.where(empty, 0.0, s), dim=-1))
    return p @ v, lse
