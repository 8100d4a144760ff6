"""Augmentation of images (B, C, H, W): random crops, flips, cutout. Randomness is an argument."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["augment", "check_augmentations", "cutout", "random_crop", "random_flip"]

NAMES = ("crop", "flip", "cutout", "reflect")


def random_crop(x: np.ndarray, padding: int, rng: np.random.Generator, reflect: bool = False) -> np.ndarray:
    """Each image moved by -padding .. padding pixels along both axes; zeros come in from outside, or with `reflect`
    what lies behind the edge, mirrored there."""
    if padding < 0:
        raise ValueError(f"random_crop: padding is {padding}, expected at least 0")
    B, _, H, W = x.shape
    wide = np.pad(x, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2), mode="reflect" if reflect else "constant")
    top, left = rng.integers(0, 2 * padding + 1, (2, B, 1))
    rows, columns = top + np.arange(H), left + np.arange(W)
    return np.ascontiguousarray(
        wide[np.arange(B)[:, None, None], :, rows[:, :, None], columns[:, None, :]].transpose(0, 3, 1, 2)
    )


def random_flip(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image mirrored left to right with probability 1/2."""
    flipped = rng.random(len(x)) < 0.5
    return np.where(flipped[:, None, None, None], x[..., ::-1], x)


def cutout(x: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A square of `size` pixels is set to 0 in each image, its centre anywhere (it may hang over the edge).

    Source: DeVries and Taylor, "Improved regularization of convolutional neural networks with cutout", 2017.
    """
    if size < 0:
        raise ValueError(f"cutout: size is {size}, expected at least 0")
    B, _, H, W = x.shape
    top = rng.integers(0, H, (B, 1)) - size // 2
    left = rng.integers(0, W, (B, 1)) - size // 2
    rows, columns = np.arange(H), np.arange(W)
    hidden = ((rows >= top) & (rows < top + size))[:, :, None] & ((columns >= left) & (columns < left + size))[:, None]
    return np.where(hidden[:, None], x.dtype.type(0), x)


def check_augmentations(who: str, names: Sequence[str]) -> None:
    """Raises ValueError, in the name of `who`, for a name that does not exist."""
    if isinstance(names, str) or any(name not in NAMES for name in names):
        raise ValueError(f"{who}: augment is {names!r}, expected a tuple of {', '.join(NAMES)}")


def augment(x: np.ndarray, names: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """The named augmentations in turn: crops with padding H // 8 ("crop" of zeros, "reflect" of mirrored pixels),
    flips, cutout of squares of H // 2 (for 32 x 32 images: 4 and 16 pixels)."""
    for name in names:
        if name in ("crop", "reflect"):
            x = random_crop(x, x.shape[2] // 8, rng, reflect=name == "reflect")
        elif name == "flip":
            x = random_flip(x, rng)
        else:
            x = cutout(x, x.shape[2] // 2, rng)
    return x
