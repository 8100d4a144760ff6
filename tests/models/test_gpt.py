"""The transformer: gradients, causality, padding, grouped heads, and generation with a cache."""

import numpy as np
import pytest

from refimpl import nn, ops
from refimpl.backends import backend
from refimpl.models.gpt import GPT, Block, Cache, Masks, generate, next_token_loss, rows_of_logits
from tests.harness import central_differences, relative_error

VARIANTS = {
    "llama, grouped": {"kv_heads": 1},
    "llama": {},
    "gpt2": {"positions": "learned", "norm": "layer", "mlp": "gelu", "bias": True, "context": 8},
    "mixed": {"positions": "learned", "mlp": "swiglu", "bias": True, "kv_heads": 1, "context": 8},
}


def make(seed=0, V=7, **options):
    model = GPT(V, **{"layers": 2, "d": 8, "heads": 2, "hidden": 6, **options})
    rng = np.random.default_rng(seed)
    params = nn.initialise(model, rng, "float64")
    params.flat += 0.3 * rng.standard_normal(params.size)
    return model, params, rng


@pytest.mark.parametrize("body", ["numpy", "native"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_of_every_parameter_equals_central_differences(variant, body):
    model, params, rng = make(**VARIANTS[variant])
    tokens, target = rng.integers(0, 7, (2, 5)), rng.integers(0, 7, (2, 5))
    weight = np.array([[1, 0, 2, 1, 1], [0.5, 1, 1, 0, 3]])
    padding = np.array([[True, False, False, False, False], [False] * 5])
    with backend(body):
        grads = params.zeros_like()
        grads.flat += 1  # gradients are added
        next_token_loss(model, params, grads, tokens, target, weight, padding)

        def loss():
            return next_token_loss(model, params, None, tokens, target, weight, padding)

        assert relative_error(central_differences(loss, params.flat), grads.flat - 1) < 1e-6


@pytest.mark.parametrize("variant", VARIANTS)
def test_block_backward_returns_the_gradient_of_its_input(variant):
    model, params, rng = make(**VARIANTS[variant])
    x, dz = rng.standard_normal((2, 5, 8)), rng.standard_normal((2, 5, 8))
    scope, grads = params.scope("block0"), params.zeros_like().scope("block0")
    _, saved = model.block.forward(scope, x)
    dx = model.block.backward(scope, grads, saved, dz)

    def loss():
        return float((model.block.forward(scope, x)[0] * dz).sum())

    assert relative_error(central_differences(loss, x), dx) < 1e-6


@pytest.mark.parametrize("bias", [False, True])
def test_adapters_get_their_gradients_and_frozen_weights_none(bias):
    model, params, rng = make(rank=3, scale=0.7, bias=bias)
    params.state += 0.3 * rng.standard_normal(params.state.size)
    tokens, target = rng.integers(0, 7, (2, 5)), rng.integers(0, 7, (2, 5))
    grads = params.zeros_like()
    assert all(name.endswith((".a", ".b")) for name in grads)
    next_token_loss(model, params, grads, tokens, target)
    numeric = central_differences(lambda: next_token_loss(model, params, None, tokens, target), params.flat)
    assert relative_error(numeric, grads.flat) < 1e-6


def test_gradient_with_dropout_equals_central_differences_under_the_same_masks():
    model, params, rng = make(dropout=0.4)
    tokens, target = rng.integers(0, 7, (2, 5)), rng.integers(0, 7, (2, 5))
    masks, grads = Masks(0.4, 3, 5), params.zeros_like()
    next_token_loss(model, params, grads, tokens, target, masks=masks)
    assert next_token_loss(model, params, None, tokens, target, masks=masks) != next_token_loss(
        model, params, None, tokens, target
    )

    def loss():
        return next_token_loss(model, params, None, tokens, target, masks=masks)

    assert relative_error(central_differences(loss, params.flat), grads.flat) < 1e-6


def test_a_dropout_mask_depends_on_its_position_only():
    masks, like = Masks(0.3, 7, 50), np.zeros((3, 50, 21))
    whole = masks.rows(1, 0, like, 0)
    for start, end in ((0, 1), (7, 30), (49, 50)):
        np.testing.assert_array_equal(masks.rows(1, 0, like[:, start:end], start), whole[:, start:end])
    assert abs(whole.mean() - 0.7) < 0.03  # 4 standard deviations
    for other in (masks.rows(1, 1, like, 0), masks.rows(2, 0, like, 0), Masks(0.3, 8, 50).rows(1, 0, like, 0)):
        assert abs((other == whole).mean() - 0.58) < 0.04  # as independent ones: 0.7^2 + 0.3^2


def test_logits_depend_on_earlier_tokens_only():
    model, params, rng = make()
    tokens = rng.integers(0, 7, (2, 6))
    changed = tokens.copy()
    changed[:, 4:] = (changed[:, 4:] + 1) % 7
    one, other = (model.apply(params, t) for t in (tokens, changed))
    np.testing.assert_array_equal(one[:, :4], other[:, :4])
    assert np.abs(one[:, 4:] - other[:, 4:]).max() > 1e-3


def test_model_gives_the_same_gradient_through_forward_and_backward_as_through_the_loss():
    model, params, rng = make()
    tokens, target = rng.integers(0, 7, (2, 5)), rng.integers(0, 7, (2, 5))
    one, other = params.zeros_like(), params.zeros_like()
    next_token_loss(model, params, one, tokens, target)
    logits, saved = model.forward(params, tokens)
    _, p = ops.cross_entropy(logits.reshape(-1, 7), target.ravel())
    model.backward(params, other, saved, ops.cross_entropy_backward(p, target.ravel()).reshape(logits.shape))
    np.testing.assert_allclose(one.flat, other.flat, atol=1e-14)


def test_padded_tokens_change_nothing_and_get_no_gradient():
    model, params, rng = make(positions="rotary")
    tokens, target = rng.integers(0, 6, (1, 6)), rng.integers(0, 7, (1, 6))
    padding = np.array([[True, True, False, False, False, False]])
    weight = np.where(padding, 0.0, 1.0)
    grads = params.zeros_like()
    tokens[padding] = 6  # a token that only the padding uses: its row of the tied table sees the head only
    loss = next_token_loss(model, params, grads, tokens, target, weight, padding)
    other, more = tokens.copy(), params.zeros_like()
    other[padding] = 5
    assert next_token_loss(model, params, more, other, target, weight, padding) == loss
    np.testing.assert_allclose(grads.flat, more.flat, atol=1e-15)


def test_grouped_heads_equal_ordinary_heads_with_repeated_key_weights():
    grouped, params, rng = make(kv_heads=1)
    plain, wide, _ = make(kv_heads=2)
    E = grouped.block.width
    for name, window in wide.items():
        if name.endswith("qkv.weight"):
            q, k, v = np.split(params[name], (2 * E, 3 * E), axis=1)
            window[...] = np.concatenate([q, k, k, v, v], axis=1)
        else:
            window[...] = params[name]
    tokens, target = rng.integers(0, 7, (2, 5)), rng.integers(0, 7, (2, 5))
    few, many = params.zeros_like(), wide.zeros_like()
    assert np.isclose(
        next_token_loss(grouped, params, few, tokens, target), next_token_loss(plain, wide, many, tokens, target)
    )
    q, k1, k2, v1, v2 = np.split(many["block0.qkv.weight"], (2 * E, 3 * E, 4 * E, 5 * E), axis=1)
    np.testing.assert_allclose(few["block0.qkv.weight"], np.concatenate([q, k1 + k2, v1 + v2], axis=1), atol=1e-13)


@pytest.mark.parametrize("variant", VARIANTS)
def test_reading_token_by_token_with_a_cache_gives_the_same_logits(variant):
    model, params, rng = make(**VARIANTS[variant])
    tokens = rng.integers(0, 7, (2, 6))
    whole = model.apply(params, tokens)
    cache = Cache(model, 2, 6, params.dtype)
    np.testing.assert_allclose(rows_of_logits(model, params, tokens[:, :3], cache), whole[:, 2], atol=1e-12)
    for t in range(3, 6):
        np.testing.assert_allclose(rows_of_logits(model, params, tokens[:, t : t + 1], cache), whole[:, t], atol=1e-12)


def test_generation_without_temperature_takes_the_most_probable_token_each_time():
    model, params, rng = make()
    prompt = rng.integers(0, 7, (2, 3))
    text = prompt
    for token in generate(model, params, prompt, 5, rng, temperature=0):
        np.testing.assert_array_equal(token, model.apply(params, text)[:, -1].argmax(axis=1))
        text = np.concatenate([text, token[:, None]], axis=1)
    assert text.shape == (2, 8)


def test_generation_draws_from_the_softmax():
    model, params, _ = make(seed=3)
    prompt = np.tile([[1, 2]], (4000, 1))
    z = model.apply(params, prompt[:1])[0, -1] / 0.7
    p = np.exp(z - z.max())
    p /= p.sum()
    drawn = next(iter(generate(model, params, prompt, 1, np.random.default_rng(0), temperature=0.7)))
    assert np.abs(np.bincount(drawn, minlength=7) / 4000 - p).max() < 0.04  # 5 standard deviations
    few = next(iter(generate(model, params, prompt, 1, np.random.default_rng(0), top_k=2)))
    assert set(few) <= set(np.argsort(z)[-2:])


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="Block: d is 10, expected a multiple of heads = 4"):
        GPT(7, d=10, heads=4)
    with pytest.raises(ValueError, match="expected a multiple of kv_heads = 3"):
        GPT(7, d=8, heads=4, kv_heads=3)
    with pytest.raises(ValueError, match="rotary needs heads of even width"):
        GPT(7, d=9, heads=3)
    with pytest.raises(ValueError, match="positions is 'sine'"):
        GPT(7, positions="sine")
    with pytest.raises(ValueError, match="mlp is 'relu', expected one of swiglu, gelu"):
        Block(8, 2, 2, 8, mlp="relu")
    with pytest.raises(ValueError, match="vocabulary is 0"):
        GPT(0)
    model, params, rng = make(positions="learned", context=4)
    with pytest.raises(ValueError, match="5 tokens is longer than the context of 4"):
        model.apply(params, np.zeros((1, 5), int))
    with pytest.raises(TypeError, match="tokens are float64"):
        model.apply(params, np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"shape \(3,\), expected \(B, T\)"):
        model.apply(params, np.zeros(3, int))
    with pytest.raises(ValueError, match="index holds 7"):
        model.apply(params, np.full((1, 3), 7))
    with pytest.raises(ValueError, match="the context is 4"):
        next(iter(generate(model, params, np.zeros((1, 3), int), 3, rng)))
    with pytest.raises(ValueError, match="temperature is -1"):
        next(iter(generate(model, params, np.zeros((1, 3), int), 1, rng, temperature=-1)))
    with pytest.raises(ValueError, match="every weight is 0"):
        next_token_loss(model, params, None, np.zeros((1, 3), int), np.zeros((1, 3), int), np.zeros((1, 3)))
