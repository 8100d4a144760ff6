import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refimpl.data.augment import augment, check_augmentations, cutout, random_crop, random_flip

IMAGES = np.random.default_rng(0).random((30, 2, 8, 6), np.float32) + 1


@given(seed=st.integers(0, 99), padding=st.integers(0, 3))
def test_a_crop_is_a_window_of_the_padded_image(seed, padding):
    out = random_crop(IMAGES, padding, np.random.default_rng(seed))
    wide = np.pad(IMAGES, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2))
    assert out.shape == IMAGES.shape and out.flags.c_contiguous and out.dtype == np.float32
    for i in range(5):
        windows = [wide[i, :, a : a + 8, b : b + 6] for a in range(2 * padding + 1) for b in range(2 * padding + 1)]
        assert any(np.array_equal(out[i], w) for w in windows)


def test_reflected_crops_show_the_image_s_own_pixels():
    image = np.arange(64, dtype=np.float32).reshape(1, 1, 8, 8).repeat(60, axis=0) + 1
    out = random_crop(image, 1, np.random.default_rng(0), reflect=True)
    wide = np.pad(image[0, 0], 1, mode="reflect")
    windows = [wide[a : a + 8, b : b + 8].tobytes() for a in range(3) for b in range(3)]
    assert {m.tobytes() for m in out} == set(windows) and out.min() > 0
    assert np.array_equal(augment(image, ["reflect"], np.random.default_rng(0)), out)


def test_every_shift_occurs():
    x = np.zeros((500, 1, 5, 5), np.float32)
    x[:, 0, 2, 2] = 1
    out = random_crop(x, 2, np.random.default_rng(0))
    assert len({tuple(np.argwhere(image)[0]) for image in out[:, 0]}) == 25


def test_half_of_the_images_are_mirrored():
    out = random_flip(IMAGES, np.random.default_rng(0))
    mirrored = [np.array_equal(a, b[..., ::-1]) for a, b in zip(out, IMAGES)]
    same = [np.array_equal(a, b) for a, b in zip(out, IMAGES)]
    assert all(a != b for a, b in zip(mirrored, same)) and 8 <= sum(mirrored) <= 22


@given(seed=st.integers(0, 99), size=st.integers(0, 5))
def test_cutout_hides_at_most_a_square_of_all_channels(seed, size):
    out = cutout(IMAGES, size, np.random.default_rng(seed))
    hidden = out == 0
    assert np.array_equal(hidden[:, 0], hidden[:, 1]) and np.array_equal(out[~hidden], IMAGES[~hidden])
    for plane in hidden[:, 0]:
        rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
        assert plane.sum() == len(rows) * len(columns) and max(len(rows), len(columns)) <= size
        assert size == 0 or plane.sum() > 0 or size == 1


def test_names_and_sizes_are_checked():
    rng = np.random.default_rng(0)
    assert augment(IMAGES, ("crop", "flip", "cutout"), rng).shape == IMAGES.shape and augment(IMAGES, (), rng) is IMAGES
    for bad in ("crop", ("crop", "blur")):
        with pytest.raises(ValueError, match=r"SLTT: augment is .*expected a tuple of crop, flip, cutout"):
            check_augmentations("SLTT", bad)
    for call in (lambda: random_crop(IMAGES, -1, rng), lambda: cutout(IMAGES, -1, rng)):
        with pytest.raises(ValueError, match="is -1, expected at least 0"):
            call()
