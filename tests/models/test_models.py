import numpy as np
import pytest

from refimpl import models, nn, ops
from tests.harness import assert_gradient

SMALL = {
    "mlp": ((5,), {"hidden": (4, 3), "activation": "tanh"}),
    "lenet": ((1, 4, 4), {"widths": (2, 3), "hidden": 4}),
    "vgg": ((1, 4, 4), {"plan": ((2,), (3,)), "hidden": 4}),
    "resnet": ((2, 4, 4), {"widths": (2, 3)}),
}


@pytest.mark.parametrize("name", models.names())
def test_model_gradient_equals_central_differences(name):
    shape, options = SMALL[name]
    net = models.build(name, shape, 3, **options)
    rng = np.random.default_rng(0)
    params = nn.initialise(net, rng, "float64")
    params.flat += 0.05 * rng.standard_normal(params.size)  # off the symmetric point of zero biases
    x, target = rng.standard_normal((4, *shape)), np.array([0, 1, 2, 1])
    out, saved = net.forward(params, x, train=True, rng=rng)
    _, p = ops.cross_entropy(out, target)
    grads = params.zeros_like()
    net.backward(params, grads, saved, ops.cross_entropy_backward(p, target), need_dx=False)

    def loss():
        return float(ops.cross_entropy(net.forward(params, x, train=True)[0], target)[0])

    assert_gradient(grads.flat, loss, params.flat)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("mlp", (3, 8, 8)), ("lenet", (1, 28, 28)), ("vgg", (3, 32, 32)), ("resnet", (3, 32, 32))],
)
def test_model_maps_a_batch_of_images_to_outputs(name, shape):
    net = models.build(name, shape, 7)
    params = nn.initialise(net, np.random.default_rng(0))
    for b in (1, 3):
        out = net.apply(params, np.zeros((b, *shape), np.float32))
        assert out.shape == (b, 7) and out.dtype == np.float32


def test_resnet_of_five_blocks_a_stage_has_32_weighted_layers():
    net = models.resnet((3, 32, 32), 10, blocks=5)
    weights = [n for n, s in net.declare().items() if n.endswith("weight") and "shortcut" not in n]
    assert len(weights) == 32


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("mpl", (4,), "expected one of mlp"),
        ("lenet", (64,), r"takes images \(C, H, W\)"),
        ("lenet", (1, 3, 28), "H and W at least 4"),
        ("vgg", (1, 2, 2), "H and W at least 4"),
    ],
)
def test_models_refuse_what_they_cannot_take(name, shape, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, shape, 2)
