"""Properties of the simulated systems, their gradients, and what happens to them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.models.physics import SYSTEMS, Acoustic, Microwave, Optical, Scaling, system, two_bits
from tests.harness import central_differences, relative_error

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 7)


def rows(seed, B, d):
    return np.random.default_rng(seed).standard_normal((B, d))


@settings(max_examples=30, deadline=None)
@given(seed=seeds, d=sizes, m=sizes, kind=st.sampled_from(["acoustic", "optical", "intensity"]))
def test_the_exact_gradient_equals_central_differences(seed, d, m, kind):
    one = Optical(d, m, seed, intensity=True) if kind == "intensity" else system(kind, d, m, seed)
    x, dy = rows(seed, 3, d), rows(seed + 1, 3, m)
    x += 0.1 * np.sign(x)  # the acoustic system takes |x|: away from its kink
    if d == 1 and kind == "acoustic":
        return  # xn of one number is 1: the gradient is rounding
    numeric = central_differences(lambda: float((one(x) * dy).sum()), x, 1e-6)
    assert relative_error(one.backward(x, dy), numeric) < 1e-6


@settings(max_examples=20, deadline=None)
@given(seed=seeds, factor=st.floats(0.1, 100))
def test_the_acoustic_system_hears_no_loudness_and_the_optical_one_is_linear_in_it(seed, factor):
    x = rows(seed, 4, 6)
    acoustic, optical = Acoustic(6, 5, seed), Optical(6, 5, seed)
    assert np.allclose(acoustic(factor * x), acoustic(x), rtol=1e-3)
    assert np.allclose(optical(factor * x), factor * optical(x))


@settings(max_examples=20, deadline=None)
@given(seed=seeds, kind=st.sampled_from(["acoustic", "optical"]))
def test_a_system_is_what_its_complex_formula_says(seed, kind):
    one, x = system(kind, 6, 5, seed), rows(seed, 4, 6)
    m = {name: re + 1j * im for name, (re, im) in one.state().items()}
    if kind == "optical":
        expected = np.abs(x @ m["T"].T)
    else:
        a = np.abs(x) / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-6) @ m["H"].T
        expected = np.abs(a + 2.4 * (np.abs(a) ** 2 * a) @ m["G"].T)
    assert np.allclose(one(x), expected)


@settings(max_examples=20, deadline=None)
@given(seed=seeds)
def test_microwaves_scatter_as_the_full_inverse_says(seed):
    one = Microwave(4, 3, seed)
    m = {name: re + 1j * im for name, (re, im) in one.state().items()}
    assert np.allclose(m["S"], m["S"].T)
    x = rows(seed, 3, 4)
    for row, c in zip(one(x), two_bits(x)):
        C = np.diag(c)
        field = m["h0"] + m["A"] @ np.linalg.inv(np.eye(8) - C @ m["S"]) @ C @ m["e"]
        assert np.allclose(row, np.abs(field))


@pytest.mark.parametrize("seed", range(10))
def test_what_is_scattered_again_and_again_dies_out(seed):
    re, im = Microwave(20, 20, seed).state()["S"]
    assert np.abs(np.linalg.eigvals(re + 1j * im)).max() < 1


def test_without_scattering_the_field_is_linear_in_the_code():
    one = Microwave(4, 3, 0)
    one.state()["S"][...] = 0
    m = {name: re + 1j * im for name, (re, im) in one.state().items()}
    c = two_bits(rows(0, 6, 4))
    assert np.allclose(one.scattered(c), m["h0"] + (c * m["e"]) @ m["A"].T)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, d=st.integers(1, 12), factor=st.floats(0.5, 20), shift=st.floats(-5, 5))
def test_bits_rise_with_the_value_and_do_not_see_scale_or_offset(seed, d, factor, shift):
    x = np.round(rows(seed, 3, d) * 64) / 64
    level = (two_bits(x).reshape(3, d, 2) + 1) @ np.array([1.0, 0.5])
    for values, levels in zip(x, level):
        order = np.argsort(values)
        assert (np.diff(levels[order]) >= 0).all()
    power = 2.0 ** np.round(np.log2(factor))  # exact, so that no value crosses a border by rounding
    assert np.array_equal(two_bits(power * (x + np.round(shift))), two_bits(x))
    assert (two_bits(np.full((2, d), shift)) == -1).all()


@pytest.mark.parametrize("kind", SYSTEMS)
def test_drift_by_nothing_changes_nothing_and_replacement_everything(kind):
    one, x = system(kind, 6, 5, 0), rows(0, 8, 6)
    before = one(x)
    one.drift(0.0)
    assert np.array_equal(one(x), before)
    one.drift(0.1)
    little = np.abs(one(x) - before).mean()
    one.replace()
    assert 0 < little < np.abs(one(x) - before).mean()


def test_drift_keeps_the_variance():
    one = Optical(200, 200, 0)
    for _ in range(20):
        one.drift(0.5)
    assert one.state()["T"].var() == pytest.approx(1 / 400, rel=0.05)


def test_noise_and_quantisation_are_what_they_say():
    x = rows(0, 500, 6)
    quiet = Optical(6, 5, 0)(x)
    noisy = Optical(6, 5, 0, noise=0.1)(x) - quiet
    assert noisy.std() == pytest.approx(0.1, rel=0.1) and abs(noisy.mean()) < 0.01
    coarse = Optical(6, 5, 0, bits=3)(x)
    assert len(np.unique(coarse.round(9))) <= 8
    assert np.abs(coarse - quiet).max() <= np.ptp(quiet) / 7 / 2 + 1e-12


def test_a_twin_is_off_by_what_was_asked_and_leaves_the_system_alone():
    one, x = Optical(6, 5, 0, noise=0.1), rows(0, 8, 6)
    state, rng = one.state()["T"].copy(), one.rng.bit_generator.state
    exact, off = one.twin(0.0, 1), one.twin(0.5, 1)
    assert np.array_equal(exact(x), exact(x)) and np.array_equal(exact.state()["T"], state)
    assert np.abs(off.state()["T"] - state).std() > 0 and np.array_equal(one.state()["T"], state)
    assert one.rng.bit_generator.state == rng
    assert (off.state()["T"] - state).std() == pytest.approx(0.5 * state.std(), rel=0.5)


def test_evaluations_are_counted():
    one = Optical(6, 5, 0)
    one(rows(0, 8, 6))
    one(rows(0, 3, 6))
    assert one.evaluations == 11


def test_a_staircase_has_no_gradient_to_offer():
    with pytest.raises(NotImplementedError, match="Microwave: its response is a staircase"):
        Microwave(4, 3, 0).backward(rows(0, 2, 4), rows(0, 2, 3))


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: system("gravity", 3, 3), ValueError, "physical system is 'gravity', expected one of acoustic"),
        (lambda: Optical(0, 3), ValueError, "Optical: d_in is 0, expected a whole number of at least 1"),
        (lambda: Optical(3, 3, noise=-1.0), ValueError, "Optical: noise is -1.0"),
        (lambda: Optical(3, 3, bits=0), ValueError, "Optical: bits is 0"),
        (lambda: Optical(3, 3, 0)(np.ones((2, 4))), ValueError, r"Optical: x has shape \(2, 4\), expected \(B, 3\)"),
        (lambda: Optical(3, 3, 0)(np.ones((2, 3), complex)), TypeError, "expected an array of real numbers"),
        (lambda: Optical(3, 3, 0).drift(1.5), ValueError, "Optical: drift by 1.5"),
        (lambda: Scaling(np.ones((2, 2)), "log"), ValueError, "scaling is 'log', expected one of standard"),
    ],
)
def test_bad_input_is_a_clear_error(make, error, match):
    with pytest.raises(error, match=match):
        make()
