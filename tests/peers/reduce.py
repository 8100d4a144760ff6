from tests.harness import peer


@peer("total")
def _(torch, x):
    return x.sum()


@peer("sum_rows")
def _(torch, x):
    return x.sum(0)


@peer("reduce_sum")
def _(torch, x, axis):
    return x.sum(axis)


@peer("reduce_mean")
def _(torch, x, axis):
    return x.mean(axis)


@peer("reduce_max")
def _(torch, x, axis):
    return (x.amax(axis),)  # PyTorch promises no order among ties; where the maximum is clear the gradient tells
