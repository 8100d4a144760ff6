"""Spiking architectures: shapes, where dropout and pooling stand, and the ways to show an input."""

import math

import numpy as np
import pytest

from refimpl.models.snn import (
    SNN_MODELS,
    VGG_11,
    Simulation,
    build_snn,
    frames,
    spiking_mlp,
    spiking_nfnet,
    spiking_resnet,
    spiking_vgg,
)
from refimpl.nn import MaxPool2d, initialise
from refimpl.nn.spiking import Neuron, StepDropout

RNG = np.random.default_rng


def layers(layer):
    yield layer
    for part in (*getattr(layer, "layers", {}).values(), *(getattr(layer, n, None) for n in PARTS)):
        if part is not None:
            yield from layers(part)


PARTS = ("encoder", "body", "shortcut", "layer")


@pytest.mark.parametrize("name", SNN_MODELS)
@pytest.mark.parametrize("coding", ["direct", "pulse", "events"])
def test_every_model_runs_on_every_kind_of_input(name, coding):
    net = build_snn(name, (2, 8, 8), 5, Neuron())
    params = initialise(net, RNG(0))
    x = RNG(1).random((3, 4, 2, 8, 8) if coding == "events" else (3, 2, 8, 8), np.float32)
    simulation, grads = Simulation(net, params, x, 4, coding, train=True), params.zeros_like()
    for _ in range(4):
        logits, saved = simulation.step()
        assert logits.shape == (3, 5) and logits.dtype == np.float32
        simulation.back(grads, saved, np.ones_like(logits))
    simulation.close(grads)
    assert np.isfinite(grads.flat).all() and grads["body.readout.bias"].tolist() == [12] * 5
    assert not any(isinstance(layer, MaxPool2d) for layer in layers(net))


def test_a_network_is_a_layer_of_one_step():
    net = spiking_mlp((6,), 3, hidden=(5,))
    params, x = initialise(net, RNG(0)), RNG(1).random((4, 6), np.float32)
    assert np.array_equal(net.apply(params, x), Simulation(net, params, x, 1).step()[0])
    y, saved = net.forward(params, x, train=True)
    assert net.backward(params, params.zeros_like(), saved, np.ones_like(y)).shape == (4, 6)


def test_sizes_of_the_networks_of_the_paper():
    resnet = initialise(spiking_resnet((3, 32, 32), 10, widths=(64, 128, 256, 512), blocks=2), RNG(0))
    assert 11.1e6 < resnet.size < 11.3e6  # ResNet-18
    deep = spiking_nfnet((3, 32, 32), 1000, widths=(64, 128, 256, 512), blocks=(3, 4, 6, 3)).declare()
    assert sum(name.endswith(("conv1.weight", "conv2.weight")) for name in deep) == 2 * (3 + 4 + 6 + 3)
    assert 21e6 < sum(math.prod(spec.shape) for spec in deep.values()) < 22e6  # ResNet-34
    vgg = spiking_vgg((2, 48, 48), 10, plan=VGG_11)
    assert sum(isinstance(width, int) for width in VGG_11) == 8
    assert vgg.declare()["body.readout.weight"].shape == (512 * 9, 10)


def test_dropout_stands_before_the_second_convolution_and_before_the_readout():
    block = list(
        spiking_resnet((1, 4, 4), 2, widths=(3,), dropout=0.2).body.layers["stage1_block1"].layers["sum"].body.layers
    )
    assert block == ["conv1", "lif", "drop", "conv2"]
    assert list(spiking_vgg((1, 4, 4), 2, plan=(3,), dropout=0.2).body.layers)[-3:] == ["drop", "flatten", "readout"]
    assert sum(isinstance(p, StepDropout) for p in spiking_mlp((4,), 2, dropout=0.1).body.layers.values()) == 2


def test_residual_branches_of_the_nfnet_start_at_nothing():
    net = spiking_nfnet((1, 6, 6), 3, widths=(4,), blocks=3)
    params = initialise(net, RNG(0), "float64")
    gains = [k for k in params.shapes if k.endswith("branch.gain")]
    assert len(gains) == 3 and all(params[k].tolist() == [0] for k in gains)
    x = RNG(1).standard_normal((2, 1, 6, 6))
    before = Simulation(net, params, x, 1).step()[0]
    for name in params.shapes:
        if "conv" in name:
            params[name][...] = 7 * RNG(2).standard_normal(params[name].shape)
    assert np.array_equal(before, Simulation(net, params, x, 1).step()[0])


def test_what_is_shown_at_each_step():
    x = RNG(0).random((2, 3), np.float32)
    assert all(f is x for f in frames(x, 3, "direct"))
    first, *rest = frames(x, 3, "pulse")
    assert first is x and len(rest) == 2 and not any(f.any() for f in rest)
    stream = RNG(0).random((2, 3, 5), np.float32)
    assert all(np.array_equal(f, stream[:, t]) for t, f in enumerate(frames(stream, 3, "events")))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build_snn("lstm", (3,), 2, Neuron()), "model is 'lstm', expected one of mlp, vgg, resnet, nfnet"),
        (lambda: spiking_mlp((3,), 2, hidden=()), "hidden is .., expected at least one width"),
        (lambda: spiking_vgg((3,), 2), r"spiking_vgg: frames of shape \(3,\), expected \(C, H, W\)"),
        (lambda: spiking_vgg((1, 3, 3), 2, plan=(2, "pool", "pool")), "too small for plan"),
        (lambda: spiking_resnet((3, 4), 2), "spiking_resnet: frames of shape"),
        (lambda: spiking_nfnet((0, 4, 4), 2), "spiking_nfnet: frames of shape"),
        (
            lambda: spiking_nfnet((1, 4, 4), 2, blocks=(1,)),
            r"blocks is \(1,\), expected a number .*, or 2: one a stage",
        ),
        (lambda: spiking_resnet((1, 4, 4), 2, blocks=0), "blocks is 0, expected a number of at least 1"),
        (lambda: frames(np.zeros((2, 3)), 3, "poisson"), "coding is 'poisson', expected one of direct"),
        (lambda: frames(np.zeros((2, 4, 5)), 3, "events"), r"shape \(2, 4, 5\), expected \(B, 3, ...\)"),
    ],
)
def test_bad_descriptions_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
