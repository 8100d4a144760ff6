from tests.harness import PEERS, peer


def _statistics(x, dims, eps):
    return x.mean(dim=dims), 1 / (x.var(dim=dims, correction=0) + eps).sqrt()


@peer("layernorm")
def _(torch, x, gain, bias, eps):
    return torch.nn.functional.layer_norm(x, x.shape[-1:], gain, bias, eps), *_statistics(x, -1, eps)


@peer("rmsnorm")
def _(torch, x, gain, eps):
    y = torch.nn.functional.rms_norm(x, x.shape[-1:], gain, eps)
    return y, 1 / ((x * x).mean(dim=-1) + eps).sqrt()


def _affine(y, gain, bias):
    column = (-1, *(1,) * (y.ndim - 2))
    y = y if gain is None else y * gain.reshape(column)
    return y if bias is None else y + bias.reshape(column)


@peer("groupnorm")
def _(torch, x, gain, bias, groups, eps):
    grouped = x.reshape(x.shape[0], groups, -1)
    mean, rstd = _statistics(grouped, -1, eps)
    if grouped.shape[-1] == 1:  # PyTorch refuses one element a group
        return _affine(((grouped - mean[..., None]) * rstd[..., None]).reshape(x.shape), gain, bias), mean, rstd
    # PyTorch cannot differentiate a bias without a gain, so the bias is added outside.
    return _affine(torch.nn.functional.group_norm(x, groups, gain, None, eps), None, bias), mean, rstd


@peer("batchnorm")
def _(torch, x, gain, bias, eps):
    dims = [i for i in range(x.ndim) if i != 1]
    mean, rstd = _statistics(x, dims, eps)
    if x.numel() == x.shape[1]:  # PyTorch refuses one element a channel
        return _affine(_affine(_affine(x, None, -mean), rstd, None), gain, bias), mean, rstd
    return torch.nn.functional.batch_norm(x, None, None, gain, bias, training=True, eps=eps), mean, rstd


@peer("batchnorm_relu")
def _(torch, x, gain, bias, eps):
    y, mean, rstd = PEERS["batchnorm"](torch, x, gain, bias, eps)
    return torch.relu(y), mean, rstd


@peer("batchnorm_inference")
def _(torch, x, gain, bias, mean, variance, eps):
    return torch.nn.functional.batch_norm(x, mean, variance, gain, bias, training=False, eps=eps)
