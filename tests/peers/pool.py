from tests.harness import peer


@peer("max_pool1d")
def _(torch, x, size, stride, padding):
    return torch.nn.functional.max_pool1d(x, size, stride, padding, return_indices=True)


@peer("max_pool2d")
def _(torch, x, size, stride, padding):
    return torch.nn.functional.max_pool2d(x, size, stride, padding, return_indices=True)


@peer("avg_pool1d")
def _(torch, x, size, stride, padding):
    return torch.nn.functional.avg_pool1d(x, size, stride, padding)


@peer("avg_pool2d")
def _(torch, x, size, stride, padding):
    return torch.nn.functional.avg_pool2d(x, size, stride, padding)


@peer("global_avg_pool2d")
def _(torch, x):
    return torch.nn.functional.adaptive_avg_pool2d(x, 1)[:, :, 0, 0]
