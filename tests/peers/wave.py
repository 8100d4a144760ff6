from tests.harness import peer


@peer("cubic_wave")
def _(torch, x, mixing, coupling, strength):
    """In complex arithmetic. The pair matrix need not be one of a complex G: its two halves act on Re and on Im."""
    N = len(coupling) // 2
    xn = x.abs() / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-6)
    a = torch.complex(xn @ mixing[:, :N], xn @ mixing[:, N:])
    r = strength * a.abs() ** 2 * a
    re, im = coupling[:, :N].contiguous(), coupling[:, N:].contiguous()
    upper, lower = torch.complex(re, im)[:N], torch.complex(re, im)[N:]
    return (a + r.real.to(a.dtype) @ upper + r.imag.to(a.dtype) @ lower).abs()
