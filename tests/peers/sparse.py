from tests.harness import peer


@peer("csr_matmul")
def _(torch, indptr, indices, values, x):
    indptr, indices = indptr.long(), indices.long()
    row = torch.repeat_interleave(torch.arange(len(indptr) - 1), indptr.diff())
    terms = x[indices] if values is None else values[:, None] * x[indices]
    return torch.zeros(len(indptr) - 1, x.shape[1], dtype=x.dtype).index_add(0, row, terms)
