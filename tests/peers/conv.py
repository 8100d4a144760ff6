from tests.harness import peer


@peer("conv1d")
def _(torch, x, weight, bias, stride, padding, dilation, groups):
    return torch.nn.functional.conv1d(x, weight, bias, stride, padding, dilation, groups)


@peer("conv2d")
def _(torch, x, weight, bias, stride, padding, dilation, groups):
    return torch.nn.functional.conv2d(x, weight, bias, stride, padding, dilation, groups)


@peer("conv_transpose2d")
def _(torch, x, weight, bias, stride, padding, output_padding, dilation, groups):
    return torch.nn.functional.conv_transpose2d(x, weight, bias, stride, padding, output_padding, groups, dilation)
