"""The dense layer: zeros are terms like any other there."""

from tests.harness import peer


@peer("event_linear")
def _(torch, x, weight, bias):
    return torch.nn.functional.linear(x, weight.mT, bias)
