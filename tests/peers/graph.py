from tests.harness import peer


@peer("graph_attention")
def _(torch, indptr, indices, h, source, target, slope):
    indptr, indices = indptr.long(), indices.long()
    row = torch.repeat_interleave(torch.arange(len(indptr) - 1), indptr.diff())
    u = (h * source).sum(dim=2)[indices] + (h * target).sum(dim=2)[row]
    e = torch.nn.functional.leaky_relu(u, slope)
    shape = (len(h), h.shape[1])
    m = torch.full(shape, -float("inf"), dtype=h.dtype)
    m = m.scatter_reduce(0, row[:, None].expand(-1, h.shape[1]), e.detach(), "amax")
    w = torch.exp(e - m[row])
    alpha = w / torch.zeros(shape, dtype=h.dtype).index_add(0, row, w)[row]
    return torch.zeros_like(h).index_add(0, row, alpha[:, :, None] * h[indices]), alpha
