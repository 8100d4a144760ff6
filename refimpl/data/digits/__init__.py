"""1,797 handwritten digits of 8x8 pixels, embedded in the library so that every example runs without a download.

They are the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak, UCI Machine Learning
Repository, 1998), as distributed with scikit-learn's `load_digits`. LICENCE.md beside this file gives the terms. A
pixel counts the black dots in a 4x4 block of a scan: 0..16.

**The split.** The images stand in the file form by form: the sequence of labels begins anew with 0123456789 (once with
the first 0 missing) at rows 0, 130, 256, 386, 516, 646, 776, 906, 1029, 1157, 1287, 1415, 1545 and 1667, and each of
these 14 stretches follows the same list of 130 digits, with a few left out in some and one changed in one. Images of
one form look alike: the nearest other image (Euclidean distance) lies in the same form for 54% of the images, where
chance would give 7%, so a random split flatters whatever is tested on it. Here rows 0..1414 (11 forms) are for
training and rows 1415..1796 (the last 3 forms) for testing: no form is cut. The file does not say who filled in which
form. Its documentation speaks of 13 writers, so one writer filled in more than one form, and that a writer stands on
both sides cannot be ruled out.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from refimpl.data.errors import DataError
from refimpl.data.idx import read_idx

__all__ = ["FOLDER", "IMAGES", "LABELS", "N_TRAIN", "read_digits"]

FOLDER = Path(__file__).parent
IMAGES = "digits-images-idx3-ubyte.gz"
LABELS = "digits-labels-idx1-ubyte.gz"
N_TRAIN = 1415


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """All images (1797, 8, 8) uint8 in 0..16 and labels (1797,) int64, in the order of the file.

    Raises DataError when the embedded files are damaged.
    """
    images = read_idx(FOLDER / IMAGES, dims=3, dtype=np.uint8)
    labels = read_idx(FOLDER / LABELS, dims=1, dtype=np.uint8)
    if images.shape != (1797, 8, 8) or labels.shape != (1797,) or images.max() > 16 or labels.max() > 9:
        raise DataError(f"{FOLDER}: {images.shape} images and {labels.shape} labels, expected the 1797 embedded digits")
    return images, labels.astype(np.int64)
