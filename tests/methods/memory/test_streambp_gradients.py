"""StreamBP's gradients are those of plain back-propagation, for every objective, partition and kind of layer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import nn
from refimpl.backends import backend
from refimpl.methods.memory.streambp.objectives import DPO, GRPO, SFT, shifted
from refimpl.methods.memory.streambp.strategies import Checkpoint, MiniSequence, Plain, Stream, strategy
from refimpl.methods.memory.streambp.streams import chunks, linear_pair, log_probs, stream_backward
from refimpl.models.gpt import GPT, Drop, Masks
from tests.harness import central_differences, relative_error

KINDS = {
    "llama": {"kv_heads": 2},
    "gpt2": {"positions": "learned", "norm": "layer", "mlp": "gelu", "bias": True, "context": 64},
    "adapters": {"kv_heads": 1, "rank": 3, "scale": 0.5},
    "adapters with biases": {"rank": 2, "bias": True},
}


def make(seed=0, V=11, **options):
    model = GPT(V, **{"layers": 2, "d": 16, "heads": 4, "hidden": 12, **options})
    rng = np.random.default_rng(seed)
    params = nn.initialise(model, rng, "float64")
    params.flat += 0.2 * rng.standard_normal(params.size)
    params.state += 0.2 * rng.standard_normal(params.state.size)
    return model, params, rng


def objective(name, tokens, rng):
    target, mask = shifted(tokens, rng.random(tokens.shape) < 0.8)
    reference = -2 + 0.3 * rng.standard_normal(tokens.shape)
    if name == "sft":
        return SFT(target, mask)
    if name == "dpo":
        return DPO(target, mask, reference, beta=0.7)
    old = reference + 0.3 * rng.standard_normal(tokens.shape)
    reduction = name.removeprefix("grpo ")
    A = rng.standard_normal(len(tokens))
    return GRPO(target, mask, A, old, reference, beta=0.1, reduction=reduction, temperature=0.8)


OBJECTIVES = ("sft", "grpo grpo", "grpo bnpo", "grpo dr_grpo", "dpo")


def gradient(strategy, model, params, tokens, aim, **more):
    grads = params.zeros_like()
    grads.flat += 1  # gradients are added
    loss = strategy.gradient(model, params, grads, tokens, aim, **more)
    grads.flat -= 1
    return loss, grads.flat


def same(one, other, tolerance=1e-12):
    """The loss, and each parameter's gradient relative to the largest gradient."""
    assert abs(one[0] - other[0]) <= tolerance * max(1, abs(other[0]))
    assert np.abs(one[1] - other[1]).max() <= tolerance * max(1, np.abs(other[1]).max())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_plain_gradient_of_every_objective_equals_central_differences(name):
    model, params, rng = make(layers=1, d=8, heads=2, hidden=4)
    tokens = rng.integers(0, 11, (4, 5))
    aim = objective(name, tokens, rng)
    _, got = gradient(Plain(), model, params, tokens, aim)

    def loss():
        lp = Plain().log_probs(model, params, tokens, aim.target, temperature=aim.temperature)
        return aim.whole(lp)[0]

    assert relative_error(central_differences(loss, params.flat), got) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_all_strategies_give_the_gradient_of_plain_back_propagation(kind, name):
    model, params, rng = make(**KINDS[kind])
    tokens = rng.integers(0, 11, (4, 13))
    aim = objective(name, tokens, rng)
    expected = gradient(Plain(), model, params, tokens, aim)
    assert np.abs(expected[1]).max() > 1e-3
    for other in (
        Checkpoint(),
        MiniSequence(4, 3),
        Stream(4, 3),
        Stream(4, 5, order="forward"),
        Stream(5, 2, order="forward", keep_keys=False),
        Stream(4, 3, one_pass=True),
        Stream(100, 100),
    ):
        same(gradient(other, model, params, tokens, aim), expected)


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    head_length=st.integers(1, 30),
    B=st.sampled_from([1, 2]),
    kind=st.sampled_from(sorted(KINDS)),
    order=st.sampled_from(["forward", "reverse"]),
    body=st.sampled_from(["numpy", "native"]),
    seed=st.integers(0, 3),
)
def test_the_gradient_does_not_depend_on_the_partition(lengths, head_length, B, kind, order, body, seed):
    model, params, rng = make(seed, **KINDS[kind])
    tokens = rng.integers(0, 11, (B, sum(lengths)))
    aim = SFT(*shifted(tokens)) if sum(lengths) > 1 else SFT(tokens, np.ones(tokens.shape))
    with backend(body):
        same(
            gradient(Stream(lengths, head_length, order), model, params, tokens, aim),
            gradient(Plain(), model, params, tokens, aim),
        )


def test_one_chunk_gives_checkpointing_its_numbers():
    model, params, rng = make()
    tokens = rng.integers(0, 11, (2, 9))
    aim = SFT(*shifted(tokens))
    same(gradient(Stream(9, 9), model, params, tokens, aim), gradient(Checkpoint(), model, params, tokens, aim), 1e-14)


def layer(seed=0, T=10, **options):
    model, params, rng = make(seed, **options)
    x, dz = rng.standard_normal((2, 2, T, 16))
    return model.block, params.scope("block0"), params, x, dz


def stream(block, scope, params, x, dz, *how, **more):
    grads = params.zeros_like()
    dx = stream_backward(block, scope, grads.scope("block0"), x, dz.copy(), *how, **more)
    return dx, grads.flat


@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_a_layers_gradient_is_linear_in_the_cotangent(order):
    block, scope, params, x, dz = layer()
    other = np.random.default_rng(5).standard_normal(dz.shape)
    parts = [stream(block, scope, params, x, d, 3, order=order) for d in (dz, other, dz + other)]
    for i in range(2):
        np.testing.assert_allclose(parts[0][i] + parts[1][i], parts[2][i], atol=1e-12)


@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_rows_without_a_cotangent_behind_them_get_no_gradient(order):
    block, scope, params, x, dz = layer()
    dz[:, 6:] = 0
    dx, _ = stream(block, scope, params, x, dz, 4, order=order)
    assert np.array_equal(dx[:, 6:], np.zeros_like(dx[:, 6:])) and np.abs(dx[:, :6]).min() > 0


def test_a_layers_input_gradient_equals_central_differences():
    block, scope, params, x, dz = layer(T=5)
    dx, _ = stream(block, scope, params, x, dz, 2)
    numeric = central_differences(lambda: float((block.forward(scope, x)[0] * dz).sum()), x)
    assert relative_error(numeric, dx) < 1e-6


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_tokens_change_nothing(side):
    model, params, rng = make()
    tokens = rng.integers(0, 10, (2, 9))
    padding = np.zeros((2, 9), bool)
    padding[0, slice(0, 3) if side == "left" else slice(6, 9)] = True
    target, mask = shifted(tokens, ~padding)
    mask[padding] = 0
    aim = SFT(target, mask)
    found = []
    for filler in (3, 10):
        tokens[padding] = filler
        x = rng.standard_normal((2, 9, 16))
        found.append(gradient(Stream(4, 3), model, params, tokens, aim, padding=padding))
    same(*found, 1e-14)
    same(found[0], gradient(Plain(), model, params, tokens, aim, padding=padding))
    dz = rng.standard_normal(x.shape)
    dz[padding] = 0
    grads = params.zeros_like().scope("block0")
    dx = stream_backward(model.block, params.scope("block0"), grads, x, dz, 4, padding)
    assert np.array_equal(dx[padding], np.zeros_like(dx[padding]))


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_meets_the_same_masks_again(kind):
    model, params, rng = make(dropout=0.3, **KINDS[kind])
    tokens, masks = rng.integers(0, 11, (2, 13)), Masks(0.3, 5, 13)
    aim = SFT(*shifted(tokens))
    expected = gradient(Plain(), model, params, tokens, aim, masks=masks)
    assert expected[0] != gradient(Plain(), model, params, tokens, aim)[0]
    for other in (Checkpoint(), MiniSequence(4, 3), Stream(4, 3), Stream([6, 7], 3, order="forward")):
        same(gradient(other, model, params, tokens, aim, masks=masks), expected)
    assert Drop(masks, 1).start == 0


def test_linear_warm_up_gives_the_gradients_of_the_whole():
    rng = np.random.default_rng(0)
    x, w1, w2, dz = (rng.standard_normal(s) for s in ((17, 5), (5, 7), (7, 3), (17, 3)))
    for length in (1, 4, 17, 30, [10, 7]):
        dw1, dw2 = linear_pair(x, w1, w2, dz, length)
        np.testing.assert_allclose(dw2, (x @ w1).T @ dz, atol=1e-13)
        np.testing.assert_allclose(dw1, x.T @ (dz @ w2.T), atol=1e-13)


def test_chunks_cover_all_rows_once():
    assert (
        chunks(7, 3) == [(0, 3), (3, 6), (6, 7)] and chunks(4, 9) == [(0, 4)] and chunks(5, [2, 3]) == [(0, 2), (2, 5)]
    )
    with pytest.raises(ValueError, match="the length is 0"):
        chunks(7, 0)
    with pytest.raises(ValueError, match=r"lengths \(3, 3\) do not add up to 7"):
        chunks(7, [3, 3])


# ---------------------------------------------------------------- objectives


def test_dpo_at_zero_margin_and_with_the_pair_exchanged():
    rng = np.random.default_rng(0)
    target, mask = rng.integers(0, 5, (6, 4)), np.ones((6, 4))
    lp = -rng.random((6, 4))
    flat = DPO(target, mask, lp, beta=0.4)
    loss, dlp = flat.whole(lp)
    assert np.isclose(loss, np.log(2))
    np.testing.assert_allclose(dlp, np.repeat([-0.4 / 6, 0.4 / 6], 3)[:, None] * mask)
    aim = DPO(target, mask, 0 * lp, beta=0.4)
    swapped = np.roll(lp, 3, axis=0)
    np.testing.assert_allclose(aim.margins(swapped), -aim.margins(lp))


def test_grpo_of_one_inner_iteration_is_the_policy_gradient():
    rng = np.random.default_rng(0)
    target, A = rng.integers(0, 5, (3, 4)), np.array([1.0, -2.0, 0.0])
    mask = (rng.random((3, 4)) < 0.7).astype(float)
    mask[:, 0] = 1
    lp = -rng.random((3, 4))
    aim = GRPO(target, mask, A)
    np.testing.assert_allclose(aim.whole(lp)[1], -aim.weights * A[:, None])
    np.testing.assert_allclose(aim.weights.sum(), 1)
    still = GRPO(target, mask, 0 * A, reference=lp, beta=0.5)
    assert still.whole(lp)[0] == 0 and not still.whole(lp)[1].any()


def test_grpo_clips_only_what_would_leave_the_trusted_range():
    target, mask, lp = np.zeros((4, 1), int), np.ones((4, 1)), np.zeros((4, 1))
    old = -np.log(np.array([[1.5], [0.5], [1.5], [0.5]]))  # r = 1.5 and 0.5
    A = np.array([1.0, 1.0, -1.0, -1.0])
    loss, dlp = GRPO(target, mask, A, old=old, clip=(0.2, 0.3)).whole(lp)
    np.testing.assert_allclose(dlp[:, 0] * 4, [0, -0.5, 1.5, 0])
    assert np.isclose(loss, (-1.3 - 0.5 + 1.5 + 0.8) / 4)


def test_accumulated_sums_divided_once_equal_the_gradient_of_the_joint_batch():
    model, params, rng = make()
    tokens = rng.integers(0, 11, (4, 9))
    target, mask = shifted(tokens, rng.random(tokens.shape) < 0.6)
    expected = gradient(Plain(), model, params, tokens, SFT(target, mask))
    total, loss = params.zeros_like(), 0.0
    for rows in ([0], [1, 2], [3]):
        loss += Stream(4, 3).gradient(model, params, total, tokens[rows], SFT(target[rows], mask[rows], 1.0))
    n = mask.sum()
    same((loss / n, total.flat / n), expected)


def test_no_label_is_lost_where_chunks_meet():
    model, params, rng = make()
    tokens = rng.integers(0, 11, (1, 13))
    target, mask = shifted(tokens)
    assert mask.sum() == 12 and np.array_equal(target[0, :-1], tokens[0, 1:])
    x = Stream(4, 3).hidden(model, params, tokens)
    lp = log_probs(model, params, x, target, 3)
    np.testing.assert_allclose(lp, Plain().log_probs(model, params, tokens, target, length=13), atol=1e-13)


def test_bad_arguments_are_named():
    model, params, rng = make()
    tokens = rng.integers(0, 11, (2, 6))
    target, mask = shifted(tokens)
    grads = params.zeros_like()
    with pytest.raises(ValueError, match="no token counts"):
        SFT(target, 0 * mask)
    with pytest.raises(ValueError, match=r"SFT: mask has shape \(2, 5\), expected \(2, 6\)"):
        SFT(target, mask[:, :5])
    with pytest.raises(ValueError, match="mask holds -1"):
        SFT(target, -mask)
    with pytest.raises(ValueError, match="DPO: 3 texts, expected pairs"):
        DPO(np.zeros((3, 4), int), np.ones((3, 4)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="reduction is 'mean'"):
        GRPO(target, mask, np.ones(2), reduction="mean")
    with pytest.raises(ValueError, match=r"advantages has shape \(3,\), expected \(2,\)"):
        GRPO(target, mask, np.ones(3))
    with pytest.raises(ValueError, match="there is no reference"):
        GRPO(target, mask, np.ones(2), beta=0.1)
    with pytest.raises(ValueError, match=r"tokens have shape \(1, 6\), the objective's \(2, 6\)"):
        Plain().gradient(model, params, grads, tokens[:1], SFT(target, mask))
    with pytest.raises(ValueError, match="strategy is 'mst'"):
        strategy("mst")
    with pytest.raises(ValueError, match="order is 'random'"):
        Stream(order="random")
    with pytest.raises(ValueError, match="needs order='forward'"):
        Stream(keep_keys=False)
    assert not grads.flat.any()
