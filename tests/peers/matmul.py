from tests.harness import peer


@peer("matmul")
def _(torch, a, b, transpose_a, transpose_b):
    return torch.matmul(a.mT if transpose_a else a, b.mT if transpose_b else b)


@peer("linear")
def _(torch, x, weight, bias):
    return torch.nn.functional.linear(x, weight.mT, bias)


@peer("dense")
def _(torch, x, weight, bias, activation, keep):
    f = torch.nn.functional
    call = {
        "gelu_tanh": lambda z: f.gelu(z, approximate="tanh"),
        "softplus": lambda z: f.softplus(z, threshold=1e9),  # by default it is x itself from 20 on
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
    }
    z = f.linear(x, weight.mT, bias)
    y = call.get(activation, getattr(f, activation, None))(z)
    return (y, y if activation in ("relu", "tanh", "sigmoid") else z) if keep else (y,)
