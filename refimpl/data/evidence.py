"""Evidence accumulation: sequences in which no single frame tells the class, but all of them together do.

Each of K classes has a template, drawn once from N(0, I_D). A sequence of class k repeats its template under noise,

    x_t = (template_k + sigma e_t) / sqrt(1 + sigma^2),   e_t ~ N(0, I_D) anew for every frame,

so that every input has about unit variance whatever sigma. Averaging T frames divides the noise by sqrt(T): a network
with a memory does that, one that looks at the last frame alone cannot. Generated, nothing is read from a file.
"""

from __future__ import annotations

import numpy as np

from refimpl.data.sequences import Sequences

__all__ = ["draw_evidence"]


def draw_evidence(
    seed: int,
    sigma: float = 2.5,
    n_train: int = 4000,
    n_test: int = 2000,
    K: int = 5,
    D: int = 20,
    T: int = 10,
) -> Sequences:
    """Sequences (n, T, D) of K classes, as many of each (up to one); the same seed gives the same ones.

    Raises ValueError for a sigma that is negative or not finite, fewer than two classes, or a size below 1.
    """
    if not 0 <= sigma < np.inf:
        raise ValueError(f"evidence: sigma is {sigma}, expected a finite number of at least 0")
    for name, value, least in (("n_train", n_train, 1), ("n_test", n_test, 1), ("K", K, 2), ("D", D, 1), ("T", T, 1)):
        if not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"evidence: {name} is {value!r}, expected a whole number of at least {least}")
    rng = np.random.default_rng(seed)
    templates = rng.standard_normal((K, D))

    def split(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.permutation(np.arange(n, dtype=np.int64) % K)
        x = templates[y][:, None] + sigma * rng.standard_normal((n, T, D))
        return (x / np.sqrt(1 + sigma**2)).astype(np.float32), y

    (x_train, y_train), (x_test, y_test) = split(n_train), split(n_test)
    title = f"Evidence accumulation: {K} templates in noise of {sigma:g} times their size, {T} frames (generated)"
    return Sequences("evidence", x_train, y_train, x_test, y_test, K, title, "generated", "none needed")
