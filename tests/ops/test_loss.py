"""Losses: properties, worked examples, errors."""

import numpy as np
import pytest

from refimpl import backend, ops
from tests.harness import team


@pytest.fixture(params=["numpy", "native"], autouse=True)
def body(request):
    with backend(request.param):
        yield request.param


RNG = np.random.default_rng(0)
Z = RNG.standard_normal((6, 5))
T = np.array([0, 4, 2, 2, 1, 3])


def test_cross_entropy_worked_by_hand():
    loss, p = ops.cross_entropy(np.log(np.array([[1.0, 3.0], [1.0, 1.0]])), np.array([1, 0]))
    assert np.isclose(loss, (np.log(4 / 3) + np.log(2)) / 2, rtol=1e-15)
    assert np.allclose(p, [[0.25, 0.75], [0.5, 0.5]], rtol=1e-15)
    d = ops.cross_entropy_backward(p, np.array([1, 0]))
    assert np.allclose(d, [[0.125, -0.125], [-0.25, 0.25]], rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses_are_scalars_of_the_input_dtype(dtype):
    z, half = Z.astype(dtype), np.full(Z.shape, 0.5, dtype)
    losses = [
        ops.cross_entropy(z, T)[0],
        ops.binary_cross_entropy_with_logits(z, half),
        ops.mse(z, half),
        ops.l1(z, half),
        ops.kl_divergence(z, half),
    ]
    assert all(type(loss) is dtype for loss in losses)


def test_cross_entropy_of_equal_logits_is_log_K():
    for s in (0.0, 0.3, 1.0):
        assert np.isclose(ops.cross_entropy(np.ones((3, 7)), np.array([0, 3, 6]), s)[0], np.log(7), rtol=1e-14)


def test_ignored_samples_count_as_if_they_were_absent():
    target = T.copy()
    target[[1, 4]] = -100
    kept = target >= 0
    loss, p = ops.cross_entropy(Z, target, 0.1, ignore_index=-100)
    expected, p_kept = ops.cross_entropy(Z[kept], T[kept], 0.1)
    assert np.isclose(loss, expected, rtol=1e-14)
    d = ops.cross_entropy_backward(p, target, 0.1, ignore_index=-100)
    assert np.allclose(d[kept], ops.cross_entropy_backward(p_kept, T[kept], 0.1), rtol=1e-13)
    assert not d[~kept].any()


def test_ignored_samples_may_hold_anything():
    z = Z.copy()
    z[1] = np.nan
    target = T.copy()
    target[1] = -1
    loss, p = ops.cross_entropy(z, target, ignore_index=-1)
    assert np.isfinite(loss)
    assert np.isfinite(ops.cross_entropy_backward(p, target, ignore_index=-1)).all()


def test_a_weight_of_two_counts_a_sample_twice():
    w = np.array([1.0, 2, 1, 1, 1, 1])
    twice = [0, 1, 1, 2, 3, 4, 5]
    assert np.isclose(ops.cross_entropy(Z, T, weight=w)[0], ops.cross_entropy(Z[twice], T[twice])[0], rtol=1e-14)


def test_cross_entropy_gradient_of_a_sample_sums_to_zero():
    _, p = ops.cross_entropy(Z, T, 0.2)
    assert np.allclose(ops.cross_entropy_backward(p, T, 0.2, dloss=3.0).sum(axis=1), 0, atol=1e-15)


def test_cross_entropy_is_finite_far_from_the_target():
    loss, _ = ops.cross_entropy(np.array([[1e4, 0.0]], np.float32), np.array([1]))
    assert loss == 1e4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": np.array([0, 4, 2, 5, 1, 3])}, r"target holds 5, expected values in \[0, 5\)"),
        ({"target": np.array([0, 4, 2, -1, 1, 3])}, r"target holds -1, expected values in \[0, 5\)"),
        ({"target": np.full(6, -1), "ignore_index": -1}, "no sample counts"),
        ({"weight": np.zeros(6)}, "no sample counts"),
        ({"weight": np.array([1.0, 1, 1, 1, 1, -2])}, "weight holds -2.0, expected values of at least 0"),
        ({"weight": np.full(6, np.nan)}, "weight holds nan, expected values of at least 0"),
        ({"weight": np.ones(5)}, r"weight has shape \(5,\), expected \(6,\)"),
        ({"target": T[:5]}, r"target has shape \(5,\), expected \(6,\)"),
        ({"label_smoothing": 1.5}, "label_smoothing is 1.5, expected 0 to 1"),
        ({"ignore_index": 2**70}, "ignore_index is 1180591620717411303424, expected a 64-bit integer"),
    ],
)
def test_cross_entropy_says_what_is_wrong(change, message):
    args = {"target": T, **change}
    with pytest.raises(ValueError, match=f"^cross_entropy: {message}"):
        ops.cross_entropy(Z, **args)
    with pytest.raises(ValueError, match=f"^cross_entropy_backward: {message}"):
        ops.cross_entropy_backward(ops.softmax(Z), **args)


def test_cross_entropy_refuses_an_empty_batch():
    with pytest.raises(ValueError, match=r"^cross_entropy: logits has shape \(0, 5\), expected at least 1 sample"):
        ops.cross_entropy(np.zeros((0, 5)), np.zeros(0, int))


def test_unsigned_targets_beyond_int64_are_refused():
    with pytest.raises(ValueError, match=r"^cross_entropy: target holds 18446744073709551615"):
        ops.cross_entropy(Z, np.full(6, 2**64 - 1, np.uint64), ignore_index=-1)


def test_binary_cross_entropy_worked_by_hand():
    loss = ops.binary_cross_entropy_with_logits(np.array([0.0, 0.0]), np.array([1.0, 0.0]))
    assert np.isclose(loss, np.log(2), rtol=1e-15)
    d = ops.binary_cross_entropy_with_logits_backward(np.array([0.0, 0.0]), np.array([1.0, 0.25]))
    assert np.array_equal(d, [-0.25, 0.125])


def test_weighted_binary_cross_entropy_divides_by_the_number_of_elements():
    z, t = np.array([0.3, -2.0]), np.array([1.0, 0.0])
    w = np.array([4.0, 4.0])
    assert np.isclose(
        ops.binary_cross_entropy_with_logits(z, t, w), 4 * ops.binary_cross_entropy_with_logits(z, t), rtol=1e-15
    )


def test_binary_cross_entropy_does_not_overflow():
    z, t = np.array([1e4, -1e4], np.float32), np.array([0, 1], np.float32)
    assert ops.binary_cross_entropy_with_logits(z, t) == 1e4


def test_binary_cross_entropy_is_cross_entropy_of_two_classes():
    z, t = RNG.standard_normal(20), RNG.integers(0, 2, 20)
    two = np.stack([np.zeros(20), z], axis=1)
    loss = ops.binary_cross_entropy_with_logits(z, t.astype(float))
    assert np.isclose(loss, ops.cross_entropy(two, t)[0], rtol=1e-13)


def test_mse_and_l1_worked_by_hand():
    y, t = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 4.0, 2.0, 4.0])
    assert ops.mse(y, t) == 1.25
    assert np.array_equal(ops.mse_backward(y, t, 2.0), [0, -2, 1, 0])
    assert ops.l1(y, t) == 0.75
    assert np.array_equal(ops.l1_backward(y, t, 2.0), [0, -0.5, 0.5, 0])


@pytest.mark.parametrize("op", [ops.mse, ops.l1, ops.kl_divergence, ops.binary_cross_entropy_with_logits])
def test_a_mean_over_nothing_is_refused(op):
    with pytest.raises(ValueError, match=rf"^{op.name}: \w+ has shape \(0, 3\), expected at least 1 element"):
        op(np.zeros((0, 3)), np.zeros((0, 3)))
    with pytest.raises(ValueError, match=rf"^{op.name}: \w+ has shape \(3,\), expected \(1, 3\)"):
        op(np.zeros((1, 3)), np.zeros(3))


def test_kl_divergence_is_zero_for_equal_and_positive_for_different_distributions():
    a, b = ops.log_softmax(Z), ops.log_softmax(RNG.standard_normal((6, 5)))
    assert ops.kl_divergence(a, a) == 0
    assert ops.kl_divergence(a, b) > 0


def test_kl_divergence_of_an_impossible_class_is_zero_there():
    with np.errstate(divide="ignore"):
        log_p, log_q = np.log(np.array([[0.0, 1.0]])), np.log(np.array([[0.0, 1.0]]))
    assert ops.kl_divergence(log_p, log_q) == 0
    dlog_p, dlog_q = ops.kl_divergence_backward(log_p, log_q)
    assert np.array_equal(dlog_p, [[0, 1]])
    assert np.array_equal(dlog_q, [[0, -1]])


def test_cosine_similarity_worked_by_hand():
    s, a, b = ops.cosine_similarity(np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[4.0, 3.0], [1.0, 0.0]]))
    assert np.allclose(s, [0.96, 0], rtol=1e-15)
    assert np.allclose(a, [5, 0], rtol=1e-15)
    assert np.allclose(b, [5, 1], rtol=1e-15)


def test_cosine_similarity_gradient_is_orthogonal_to_its_vector():
    a, b = RNG.standard_normal((4, 9)), RNG.standard_normal((4, 9))
    s, norm_a, norm_b = ops.cosine_similarity(a, b)
    da, db = ops.cosine_similarity_backward(np.ones(4), a, b, s, norm_a, norm_b)
    assert np.allclose((da * a).sum(axis=1), 0, atol=1e-15)
    assert np.allclose((db * b).sum(axis=1), 0, atol=1e-15)


def test_results_do_not_depend_on_the_number_of_threads():
    rng = np.random.default_rng(1)
    z, t = rng.standard_normal((700, 37)).astype(np.float32), rng.standard_normal((700, 37)).astype(np.float32)
    target = rng.integers(0, 37, 700)

    def results():
        return [
            ops.cross_entropy(z, target, 0.1)[0],
            ops.binary_cross_entropy_with_logits(z, t),
            ops.mse(z, t),
            ops.l1(z, t),
            ops.kl_divergence(z, t),
        ]

    expected = results()
    for n in (2, 3):
        with team(n):
            assert results() == expected


def test_log_prob_by_hand_and_its_gradient_in_place():
    logits, target = np.log(np.array([[1.0, 2.0, 5.0], [3.0, 3.0, 2.0]])), np.array([2, 0])
    lp, lse = ops.log_prob(logits, target)
    np.testing.assert_allclose(np.exp(lp), [5 / 8, 3 / 8])
    np.testing.assert_allclose(np.exp(lse), [8, 8])
    expected = np.array([[-1 / 8, -2 / 8, 3 / 8], [2 * 5 / 8, -2 * 3 / 8, -2 * 2 / 8]])
    dz = ops.log_prob_backward(np.array([1.0, 2.0]), logits, target, lse, out=logits)
    assert dz is logits
    np.testing.assert_allclose(dz, expected)
    np.testing.assert_allclose(dz.sum(axis=1), 0, atol=1e-15)


# ---------------------------------------------------------------- agreement of two sets of maps


def maps(*shape, dtype=np.float64):
    return np.random.default_rng(1).standard_normal((2, *shape)).astype(dtype)


def test_map_agreement_of_one_pixel_that_differs_by_hand():
    """3 against 1 on a map of height 2 with four pixels: mean 4 / 4, times 2; gradient 2 * 2 / 4 * 2."""
    a, c = np.zeros((2, 1, 1, 2, 2))
    a[0, 0, 0, 0], c[0, 0, 0, 0] = 3, 1
    loss, da, dc = ops.map_agreement(a, c)
    assert loss == 2 and da[0, 0, 0, 0] == 2 and np.array_equal(dc, -da)


def test_centred_maps_of_length_1_by_hand():
    """(3, -1, 1, 1) has the mean 1, u = (2, -2, 0, 0), length sqrt 8; (0, 0, 2, 2) has v = (-1, -1, 1, 1), length 2.
    norm(a) - norm(c) = (r + 1/2, 1/2 - r, -1/2, -1/2), r = sqrt 1/2, squares 2: loss 2 * 2 / 4."""
    a, c = (np.array(x, float).reshape(1, 1, 2, 2) for x in ((3, -1, 1, 1), (0, 0, 2, 2)))
    loss, da, dc = ops.map_agreement(a, c, 0.0, 1.0, eps=1e-12)
    assert np.isclose(loss, 1.0, rtol=1e-11)
    # <u, v> = 0: u.g = 2 * 2 / 4 * n, and what is left of du is -norm(c) / n
    assert np.allclose(da.ravel(), np.array([0.5, 0.5, -0.5, -0.5]) / np.sqrt(8), rtol=1e-10)
    assert np.allclose(dc.ravel(), np.array([-1, 1, 0, 0]) * np.sqrt(0.5) / 2, rtol=1e-10, atol=1e-12)


def test_neither_offset_nor_scale_of_a_map_is_seen_by_its_normalised_agreement():
    a, c = maps(2, 3, 4, 5)
    loss, da, dc = ops.map_agreement(a, c, 0.0, 1.0)
    assert np.isclose(loss, ops.map_agreement(3 * a + 2, c, 0.0, 1.0)[0], rtol=1e-6)
    for x, dx in ((a, da), (c, dc)):
        assert np.allclose(dx.sum(axis=(2, 3)), 0, atol=1e-12) and np.allclose((x * dx).sum(axis=(2, 3)), 0, atol=1e-7)


def test_maps_without_contrast_have_finite_gradients():
    a, c = maps(2, 2, 3, 3)
    a[0], c[0, 1], c[1] = 0, 0.5, 0
    loss, da, dc = ops.map_agreement(a, c, 1.0, 1.0)
    assert np.isfinite(loss) and np.isfinite(da).all() and np.isfinite(dc).all()
    both = ops.map_agreement(np.zeros((1, 1, 2, 2)), np.zeros((1, 1, 2, 2)), 1.0, 1.0)
    assert both[0] == 0 and not both[1].any() and not both[2].any()


def test_a_bright_flat_map_keeps_its_contrast_in_float32():
    """Sums of squares would lose all digits here: 1000^2 against 1e-4."""
    a, c = (x * np.float32(0.01) + np.float32(1000) for x in maps(1, 1, 32, 32, dtype=np.float32))
    exact = ops.map_agreement(a.astype(float), c.astype(float), 0.0, 1.0)
    for mine, theirs in zip(ops.map_agreement(a, c, 0.0, 1.0), exact):
        assert np.abs(mine - theirs).max() < 1e-3 * np.abs(theirs).max()


def test_agreement_that_is_small_keeps_its_digits():
    a, c = maps(1, 2, 16, 16, dtype=np.float32)
    c = a + np.float32(1e-4) * c
    exact = ops.map_agreement(a.astype(float), c.astype(float), 1.0, 1.0)[0]
    assert np.isclose(ops.map_agreement(a, c, 1.0, 1.0)[0], exact, rtol=1e-2)


@pytest.mark.parametrize("sD", [None, 1.0])
def test_any_number_of_threads_gives_the_same_bits_of_an_agreement(sD):
    a, c = maps(9, 70, 5, 7, dtype=np.float32)
    results = []
    for n in (1, 2, 3):
        with team(n):
            results.append(ops.map_agreement(a, c, 1.0, sD))
    for other in results[1:]:
        assert all(np.array_equal(x, y) for x, y in zip(results[0], other))


def test_a_gradient_of_an_agreement_that_is_not_needed_is_none_and_the_other_is_as_ever():
    a, c = maps(2, 3, 4, 5)
    for sD in (None, 1.0):
        loss, da, dc = ops.map_agreement(a, c, 1.0, sD)
        one, other = ops.map_agreement(a, c, 1.0, sD, need_dc=False), ops.map_agreement(a, c, 1.0, sD, need_da=False)
        assert one[2] is None and other[1] is None and one[0] == other[0] == loss
        assert np.array_equal(one[1], da) and np.array_equal(other[2], dc)


def test_map_agreement_says_what_it_expects():
    a = np.zeros((1, 1, 2, 2))
    for args, message in (
        ((a, a[:, :, :1]), r"map_agreement: c has shape \(1, 1, 1, 2\), expected \(1, 1, 2, 2\)"),
        ((a[0], a[0]), r"map_agreement: a has shape \(1, 2, 2\), expected 4 axes"),
        ((a[:0], a[:0]), "expected at least 1 element"),
        ((a, a, -1.0), "map_agreement: sC is -1.0"),
        ((a, a, 1.0, np.nan), "map_agreement: sD is nan"),
        ((a, a, 1.0, None, True, True, 0.0), "map_agreement: eps is 0.0, expected a positive number"),
    ):
        with pytest.raises(ValueError, match=message):
            ops.map_agreement(*args)
