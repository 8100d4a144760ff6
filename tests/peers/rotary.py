from tests.harness import peer


@peer("rotary")
def _(torch, x, cos, sin):
    half = torch.complex(*x.chunk(2, dim=-1)) * torch.complex(cos, sin)
    return torch.cat([half.real, half.imag], dim=-1)
