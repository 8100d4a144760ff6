"""Parameters: named windows on one flat vector.

    params = initialise(layer, rng)           # every parameter that `layer` declares
    params["fc1.weight"]                      # a view into params.flat
    grads = params.zeros_like()               # the same windows on another vector
    params.flat -= 0.1 * grads.flat           # an optimiser step is a loop over a vector

A copy, an EMA teacher, a rewind, a mask, an interpolation or a checkpoint are one line each. What is not trained
(running statistics) lives in windows of its own on `params.state`, so that no optimiser touches it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

Init = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


@dataclass(frozen=True)
class Parameter:
    """What a layer says about one of its arrays: shape, initialiser, and whether it is trained."""

    shape: tuple[int, ...]
    init: Init
    trained: bool = True


class Scope:
    """The windows below one prefix: `params.scope("block1")["weight"]` is `params["block1.weight"]`."""

    __slots__ = ("_scopes", "_windows")

    def __init__(self, windows: Mapping[str, np.ndarray]):
        self._windows = dict(windows)
        self._scopes: dict[str, Scope] = {}

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            return self._windows[name]
        except KeyError:
            raise KeyError(f"no parameter {name!r}, expected one of {', '.join(self._windows) or '(none)'}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._windows

    def __iter__(self) -> Iterator[str]:
        return iter(self._windows)

    def __len__(self) -> int:
        return len(self._windows)

    def items(self):
        """Pairs of name and window, in the order of declaration."""
        return self._windows.items()

    def scope(self, name: str) -> Scope:
        """The windows whose names start with `name` and a dot, under the rest of their names."""
        found = self._scopes.get(name)
        if found is None:
            prefix = f"{name}."
            found = Scope({k[len(prefix) :]: v for k, v in self._windows.items() if k.startswith(prefix)})
            self._scopes[name] = found
        return found


class Params(Scope):
    """All parameters of a model: windows on `flat` (trained) and on `state` (not trained).

    `shapes` and `state_shapes` map names to shapes, in order. `flat` and `state` are vectors of one float dtype; given
    ones are used as they are (no copy), else they start at zero. Raises ValueError where sizes do not fit.
    """

    __slots__ = ("flat", "shapes", "state", "state_shapes")

    def __init__(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        state_shapes: Mapping[str, tuple[int, ...]] | None = None,
        dtype: np.dtype | type | str = np.float32,
        flat: np.ndarray | None = None,
        state: np.ndarray | None = None,
    ):
        self.shapes = dict(shapes)
        self.state_shapes = dict(state_shapes or {})
        twice = set(self.shapes) & set(self.state_shapes)
        if twice:
            raise ValueError(f"Params: {', '.join(sorted(twice))} declared both as trained and as state")
        self.flat = self._vector("flat", self.shapes, flat, dtype)
        self.state = self._vector("state", self.state_shapes, state, self.flat.dtype)
        super().__init__({**_windows(self.flat, self.shapes), **_windows(self.state, self.state_shapes)})

    @staticmethod
    def _vector(name, shapes, given, dtype) -> np.ndarray:
        n = sum(math.prod(s) for s in shapes.values())
        if given is None:
            return np.zeros(n, dtype)
        if given.shape != (n,) or not given.flags.c_contiguous or given.dtype.kind != "f":
            raise ValueError(f"Params: {name} is {given.dtype}{list(given.shape)}, expected a float vector of {n}")
        return given

    @property
    def dtype(self) -> np.dtype:
        return self.flat.dtype

    @property
    def size(self) -> int:
        """Number of trained parameters."""
        return self.flat.size

    def zeros_like(self) -> Params:
        """The same trained windows on a zero vector (gradients, moments); no state."""
        return Params(self.shapes, None, self.dtype)

    def copy(self) -> Params:
        """An independent copy, state included."""
        return Params(self.shapes, self.state_shapes, flat=self.flat.copy(), state=self.state.copy())

    def assign(self, other: Params) -> None:
        """Take over all values of `other`, which has the same windows. Raises ValueError otherwise."""
        if other.shapes != self.shapes or other.state_shapes != self.state_shapes:
            raise ValueError("Params.assign: the other parameters have different names or shapes")
        self.flat[...] = other.flat
        self.state[...] = other.state

    def __reduce__(self):
        """Pickles and copies have windows on their own vectors, as every other Params."""
        return Params, (self.shapes, self.state_shapes, self.dtype, self.flat, self.state)

    def arrays(self) -> dict[str, np.ndarray]:
        """Name to window, trained and state: what a checkpoint stores."""
        return dict(self.items())

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Fill every window from `arrays`. Raises ValueError for a missing or superfluous name or another shape;
        nothing is changed then."""
        if set(arrays) != set(self):
            missing, extra = sorted(set(self) - set(arrays)), sorted(set(arrays) - set(self))
            raise ValueError(f"Params.load: missing {missing or 'nothing'}, superfluous {extra or 'nothing'}")
        for name, window in self.items():
            if arrays[name].shape != window.shape:
                raise ValueError(f"Params.load: {name} has shape {arrays[name].shape}, expected {window.shape}")
        for name, window in self.items():
            window[...] = arrays[name]

    def __repr__(self) -> str:
        return f"Params({len(self.shapes)} windows, {self.size} parameters, {self.dtype})"


def _windows(vector: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    windows, start = {}, 0
    for name, shape in shapes.items():
        n = math.prod(shape)
        windows[name] = vector[start : start + n].reshape(shape)
        start += n
    return windows
