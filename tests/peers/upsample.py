from tests.harness import peer


@peer("upsample_nearest2d")
def _(torch, x, factor):
    F, G = factor if isinstance(factor, tuple) else (factor, factor)
    return torch.nn.functional.interpolate(x, (F * x.shape[2], G * x.shape[3]), mode="nearest")


@peer("upsample_bilinear2d")
def _(torch, x, factor):
    F, G = factor if isinstance(factor, tuple) else (factor, factor)
    size = F * x.shape[2], G * x.shape[3]
    return torch.nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)
