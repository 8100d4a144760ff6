from tests.harness import peer


def _turn(torch, x, cos, sin):
    if cos is None:
        return x
    half = torch.complex(*x.chunk(2, dim=-1)) * torch.complex(cos, sin)
    return torch.cat([half.real, half.imag], dim=-1)


@peer("split_heads")
def _(torch, x, heads, kv_heads, cos, sin):
    B, T, columns = x.shape
    E = columns // (heads + 2 * kv_heads)
    q, k, v = x.reshape(B, T, heads + 2 * kv_heads, E).transpose(1, 2).split((heads, kv_heads, kv_heads), dim=1)
    return _turn(torch, q, cos, sin), _turn(torch, k, cos, sin), v


@peer("merge_heads")
def _(torch, y):
    return y.transpose(1, 2).flatten(2)
