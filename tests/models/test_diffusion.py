import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl.models import diffusion
from refimpl.models.diffusion import Chain, chain, cosine_signal, flow_slope, gamma_schedule, integrate, signal, snr
from refimpl.nn import initialise
from tests.harness import central_differences, relative_error

seeds = st.integers(0, 2**32 - 1)


@st.composite
def signals(draw) -> np.ndarray:
    """Any rising abar_0 .. abar_T inside (0, 1)."""
    rng, T = np.random.default_rng(draw(seeds)), draw(st.integers(1, 30))
    return np.sort(rng.uniform(1e-4, 1 - 1e-4, T + 1))


def close(a, b):
    return np.allclose(a, b, rtol=1e-9, atol=1e-12)


@given(abar=signals())
def test_a_step_keeps_mean_and_variance_of_the_marginals(abar):
    c = chain(abar)
    before, now = abar[:-1], abar[1:]
    assert close(c.a[1:] + c.b[1:] * np.sqrt(before), np.sqrt(now))
    assert close(c.b[1:] ** 2 * (1 - before) + c.c[1:], 1 - now)


@given(abar=signals())
def test_weights_are_differences_of_the_signal_to_noise_ratio_and_add_up(abar):
    c = chain(abar)
    assert np.allclose(c.a[1:] ** 2 / np.where(c.c[1:] > 0, c.c[1:], 1), c.dsnr[1:], rtol=1e-6, atol=1e-9)
    assert np.isclose(c.dsnr[1:].sum(), snr(abar[-1]) - snr(abar[0]), rtol=1e-9)
    assert np.isnan([c.a[0], c.b[0], c.c[0], c.dsnr[0]]).all() and c.T == len(abar) - 1


@pytest.mark.parametrize("schedule", [cosine_signal(10), np.array([0.02, 0.3, 0.31, 0.9, 0.995])])
def test_with_a_perfect_block_the_chain_has_the_marginals_of_the_noise_process(schedule):
    """50,000 chains from z_0 ~ q(z_0|u): mean sqrt(abar_t) u, variance 1 - abar_t, within 5 standard errors."""
    c, n, rng = chain(schedule), 50_000, np.random.default_rng(0)
    u = np.tile([1.0, -0.5], (n, 1))
    z = diffusion.diffuse(u, schedule[0], rng.standard_normal(u.shape))
    for t in range(1, c.T + 1):
        z = c.step(t, u, z, rng.standard_normal(u.shape))
        variance = 1 - schedule[t]
        assert np.abs(z.mean(axis=0) - np.sqrt(schedule[t]) * u[0]).max() < 5 * np.sqrt(variance / n)
        assert np.abs(z.var(axis=0) / variance - 1).max() < 5 * np.sqrt(2 / n)


def test_coefficients_computed_by_hand():
    """abar = 1/4, 1/2: alpha_0 = 1/2, a_1 = sqrt(1/2) (1/2) / (3/4), b_1 = sqrt(1/2) (1/2) / (3/4), c_1 = 1/3."""
    c = chain(np.array([0.25, 0.5]))
    assert close(c.a[1], np.sqrt(0.5) * 2 / 3) and close(c.b[1], np.sqrt(0.5) * 2 / 3) and close(c.c[1], 1 / 3)
    assert close(c.dsnr[1], 1 - 1 / 3)


def test_cosine_schedule_without_offset_is_a_squared_sine():
    t = np.arange(11) / 10
    assert close(cosine_signal(10, 1e-6, 1 - 1e-6, offset=0.0)[1:-1], np.sin(np.pi * t / 2)[1:-1] ** 2)
    abar = cosine_signal(1000)
    assert abar[0] == 1e-3 and abar[-1] == 0.999 and (np.diff(abar) >= 0).all()
    clipped = chain(abar)  # equal neighbours at the clipped ends: steps that change nothing
    assert clipped.a[1] == 0 and clipped.b[1] == 1 and clipped.c[1] == 0 and clipped.dsnr[1] == 0


@pytest.mark.parametrize("abar", [[0.5], [0.5, 0.4], [0.0, 0.5], [0.5, 1.0], [0.1, np.nan], [[0.1, 0.2]]])
def test_a_schedule_that_does_not_rise_inside_0_1_is_an_error(abar):
    with pytest.raises(ValueError, match="rising numbers inside"):
        chain(np.array(abar))


@given(seed=seeds, abar=st.floats(1e-4, 0.99))
def test_prior_divergence_has_the_derivatives_it_says(seed, abar):
    u, at = np.random.default_rng(seed).standard_normal((3, 2)), np.array([abar])
    _, slope = diffusion.prior_divergence(u, abar)
    numeric = central_differences(lambda: diffusion.prior_divergence(u, float(at[0]))[0], at, step=1e-6)
    assert abs(slope - numeric[0]) < 1e-5 * max(1, abs(slope))
    numeric = central_differences(lambda: diffusion.prior_divergence(u, abar)[0], u)
    assert relative_error(abar / 3 * u, numeric) < 1e-7


SCHEDULES = ["linear", "cosine", "learned"]


def build(name, seed=0, width=5):
    made = gamma_schedule(name, 1e-3, 0.999)
    if name == "learned":
        made = diffusion.LearnedGamma(made.g0, made.g1, width)
    return made, initialise(made, np.random.default_rng(seed), np.float64)


@pytest.mark.parametrize("name", SCHEDULES)
@given(seed=seeds)
def test_gamma_falls_between_its_limits_and_its_slope_is_its_derivative(name, seed):
    made, params = build(name, seed)
    t = np.sort(np.random.default_rng(seed).uniform(0.01, 0.99, 20))
    (gamma, slope), _ = made.forward(params, t)
    (ends, _), _ = made.forward(params, np.array([0.0, 1.0]))
    assert np.allclose(signal(ends), [1e-3, 0.999], rtol=1e-9)
    assert (np.diff(gamma) < 0).all() and (slope < 0).all()
    h = 1e-6
    numeric = (made.forward(params, t + h)[0][0] - made.forward(params, t - h)[0][0]) / (2 * h)
    assert relative_error(slope, numeric) < 1e-6


@given(seed=seeds)
def test_gradients_of_the_learned_schedule_equal_central_differences(seed):
    made, params = build("learned", seed)
    rng = np.random.default_rng(seed)
    params.flat += 0.3 * rng.standard_normal(params.size)
    t, dgamma, dslope = rng.random(4), rng.standard_normal(4), rng.standard_normal(4)
    t[0] = 0.0

    def loss():
        (gamma, slope), _ = made.forward(params, t)
        return float(dgamma @ gamma + dslope @ slope)

    grads = params.zeros_like()
    made.backward(params, grads, made.forward(params, t)[1], (dgamma, dslope))
    assert relative_error(grads.flat, central_differences(loss, params.flat)) < 1e-6


@pytest.mark.parametrize("name", SCHEDULES)
def test_flow_with_a_perfect_denoiser_stays_on_its_line_and_euler_is_of_first_heun_of_second_order(name):
    made, params = build(name)
    u, e = np.array([[1.0, 0.0, -0.3]]), np.array([[0.2, -1.0, 0.7]])

    def at(t):
        gamma, slope = made.forward(params, np.array([t]))[0]
        return float(gamma[0]), float(slope[0])

    def line(t):
        return diffusion.diffuse(u, float(signal(at(t)[0])), e)

    def error(steps, method):
        return np.abs(integrate(lambda z, t: flow_slope(*at(t), u, z), line(0.0), steps, method) - line(1.0)).max()

    for method, order in (("euler", 1), ("heun", 2)):
        ratio = error(1000, method) / error(2000, method)
        assert abs(ratio - 2**order) < 0.15 * 2**order, (method, ratio)


def test_flow_slope_is_the_ode_written_with_abar():
    gamma, slope, rng = 0.7, -3.0, np.random.default_rng(0)
    uhat, z = rng.standard_normal((2, 4, 3))
    abar = float(signal(gamma))
    dabar = -slope * abar * (1 - abar)
    by_hand = dabar / (2 * np.sqrt(abar) * (1 - abar)) * uhat - dabar / (2 * (1 - abar)) * z
    assert close(flow_slope(gamma, slope, uhat, z), by_hand)


def test_a_constant_velocity_arrives_in_one_step():
    z, v = np.random.default_rng(0).standard_normal((2, 3, 4))
    assert close(integrate(lambda z, t: v, z, 1), z + v)
    path = []
    integrate(lambda z, t: v, z, 4, "heun", path)
    assert len(path) == 4 and close(path[-1], z + v)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: integrate(lambda z, t: z, np.ones((1, 1)), 0), "steps is 0"),
        (lambda: integrate(lambda z, t: z, np.ones((1, 1)), 3, "midpoint"), "method is 'midpoint'"),
        (lambda: cosine_signal(0), "T is 0"),
        (lambda: gamma_schedule("steep", 0.1, 0.9), "schedule is 'steep'"),
    ],
)
def test_unusable_settings_are_clear_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_chain_holds_float64():
    assert (
        isinstance(chain(cosine_signal(3)), Chain) and chain(cosine_signal(3).astype(np.float32)).a.dtype == np.float64
    )
