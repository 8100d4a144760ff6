"""Sequences of noisy evidence: their statistics, their seeds, their errors."""

import numpy as np
import pytest

from refimpl.data.evidence import draw_evidence


def test_frames_have_unit_variance_and_templates_behind_them():
    data = draw_evidence(0, 3.0, 4000, 100, K=4, D=6, T=8)
    assert data.x_train.shape == (4000, 8, 6) and data.T == 8 and data.n_classes == 4
    assert np.bincount(data.y_train).tolist() == [1000] * 4
    means = np.array([data.x_train[data.y_train == k].mean(axis=(0, 1)) for k in range(4)])
    templates = np.random.default_rng(0).standard_normal((4, 6))
    assert np.allclose(means * np.sqrt(10), templates, atol=0.15)
    within = data.x_train - means[data.y_train][:, None]
    assert within.var() == pytest.approx(0.9, abs=0.02)


def test_the_nearest_template_of_the_mean_frame_knows_more_than_that_of_the_last():
    data, templates = draw_evidence(1, 4.0), np.random.default_rng(1).standard_normal((5, 20))
    x, y = data.test

    def right(frame):
        distance = ((frame[:, None] * np.sqrt(17) - templates) ** 2).sum(axis=2)
        return np.mean(distance.argmin(axis=1) == y)

    assert right(x.mean(axis=1)) > right(x[:, -1]) + 0.3


def test_without_noise_every_frame_is_the_template():
    data = draw_evidence(2, 0.0, 10, 5)
    assert np.array_equal(data.x_train[:, 0], data.x_train[:, -1])


def test_the_same_seed_gives_the_same_sequences():
    a, b, c = draw_evidence(3), draw_evidence(3), draw_evidence(4)
    assert np.array_equal(a.x_test, b.x_test) and not np.array_equal(a.x_test, c.x_test)


@pytest.mark.parametrize(("name", "value"), [("sigma", -1.0), ("sigma", np.nan), ("K", 1), ("T", 0), ("n_train", 0.5)])
def test_unusable_sizes_are_clear_errors(name, value):
    with pytest.raises(ValueError, match=f"evidence: {name} is"):
        draw_evidence(0, **{name: value})
