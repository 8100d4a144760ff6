from tests.harness import peer


def _plain(name):
    @peer(name)
    def _(torch, x):
        return getattr(torch.nn.functional, name)(x)


for _name in ("relu", "silu", "sigmoid", "tanh", "gelu"):
    _plain(_name)


@peer("gelu_tanh")
def _(torch, x):
    return torch.nn.functional.gelu(x, approximate="tanh")


@peer("softplus")
def _(torch, x):
    return torch.nn.functional.softplus(x, threshold=1e9)  # PyTorch's default switches to y = x above 20


@peer("leaky_relu")
def _(torch, x, slope):
    return torch.nn.functional.leaky_relu(x, slope)


@peer("elu")
def _(torch, x, alpha):
    return torch.nn.functional.elu(x, alpha)


@peer("swiglu")
def _(torch, x):
    g, u = x.chunk(2, dim=-1)
    return torch.nn.functional.silu(g) * u
