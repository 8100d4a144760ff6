import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl.models.label_denoiser import Embedding, ReadOut, TimeFeatures, add_rows, denoiser, embed
from refimpl.nn import initialise


def test_time_features_tell_neighbouring_times_apart():
    """Without the factor 1000 two times in [0, 1] a hundredth apart would look alike in most features."""
    e, _ = TimeFeatures(64).forward({}, np.array([0.50, 0.51]))
    assert e.shape == (2, 64) and np.abs(e).max() <= 1
    assert (np.abs(e[0] - e[1]) > 0.01).mean() > 0.5


@given(seed=st.integers(0, 2**32 - 1))
def test_the_joint_layer_is_one_layer_on_what_is_joined(seed):
    """h_x M_x + h_z M_z + e M_t + b = [h_x, h_z, e] M + b."""
    rng = np.random.default_rng(seed)
    block = denoiser("mlp", (3,), 2, 4, 5, timed=True, time_width=6)
    params = initialise(block, rng, np.float64)
    x, z, t = rng.standard_normal((7, 3)), rng.standard_normal((7, 2)), rng.random(7)
    f, _ = block.forward(params, (x, z, t))
    joined = [
        block.image.apply(params.scope("image"), x),
        block.label.apply(params.scope("label"), z),
        block.time.apply(params.scope("time"), t),
    ]
    M = [params[f"join_{name}.weight"] for name in ("image", "label", "time")]
    s = np.concatenate(joined, axis=1) @ np.concatenate(M) + params["join_image.bias"]
    by_hand = np.maximum(s, 0) @ params["head.1.weight"] + params["head.1.bias"]
    assert np.allclose(f, by_hand, rtol=1e-12, atol=1e-12)


@given(seed=st.integers(0, 2**32 - 1))
def test_one_time_for_all_rows_is_that_time_for_each_forward_and_backward(seed):
    rng = np.random.default_rng(seed)
    block = denoiser("mlp", (3,), 2, 4, 5, timed=True, time_width=6)
    params = initialise(block, rng, np.float64)
    x, z, df = rng.standard_normal((7, 3)), rng.standard_normal((7, 2)), rng.standard_normal((7, 4))
    results = []
    for t in (np.array([0.3]), np.full(7, 0.3)):
        grads = params.zeros_like()
        f, saved = block.forward(params, (x, z, t))
        results.append((f, block.backward(params, grads, saved, df), grads.flat))
    for a, b in zip(*results):
        assert np.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_batch_norm_stands_in_discrete_time_only():
    names = {timed: denoiser("conv", (1, 8, 8), 2, 3, 8, timed=timed).declare() for timed in (False, True)}
    assert any("mean" in n for n in names[False]) and not any("mean" in n for n in names[True])


def test_image_labels_get_a_copy_of_the_image_path():
    names = denoiser("conv", (1, 8, 8), 64, 3, 8, image_label=True).declare()
    image = [n.removeprefix("image.") for n in names if n.startswith("image.") and "weight" in n]
    label = [n.removeprefix("label.") for n in names if n.startswith("label.") and "weight" in n]
    assert len(image) == len(label) == 4


@given(seed=st.integers(0, 2**32 - 1))
def test_embedding_and_its_gradient_are_adjoint(seed):
    """<rows, embed(W, y)> = <add_rows(rows), W>."""
    rng = np.random.default_rng(seed)
    W, y, rows = rng.standard_normal((4, 3)), rng.integers(0, 4, 6), rng.standard_normal((6, 3))
    dW = np.zeros_like(W)
    add_rows(dW, y, rows)
    assert np.isclose((rows * embed(W, y, rows)).sum(), (dW * W).sum())
    assert np.array_equal(embed(None, y, np.empty((6, 4))), np.eye(4)[y])


def test_learned_embeddings_start_orthogonal_and_one_hot_ones_have_no_parameters():
    W = initialise(Embedding("learned", 4, 20), np.random.default_rng(0), np.float64)["table"]
    assert np.allclose(W @ W.T, np.eye(4))
    assert initialise(Embedding("onehot", 4, 4), np.random.default_rng(0)).size == 0


def test_nearest_read_out_prefers_the_nearest_class():
    W = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
    readout = ReadOut("nearest", 3, 2, 0.5)
    params = initialise(readout, np.random.default_rng(0), np.float64)
    z = np.array([[0.2, 0.1], [2.0, 0.0], [1.0, 2.5]])
    o = readout.apply(params, (z, W))
    assert o.argmax(axis=1).tolist() == [0, 1, 2]
    assert np.allclose(o, -((z[:, None] - W) ** 2).sum(axis=2) / (2 * 0.25))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: denoiser("tree", (3,), 2, 2, 2), "block is 'tree'"),
        (lambda: denoiser("conv", (3,), 2, 2, 2), "takes images"),
        (lambda: denoiser("conv", (1, 3, 9), 2, 2, 2), "at least 4 x 4"),
    ],
)
def test_networks_that_cannot_be_are_clear_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
