"""Simulated physical systems: fixed transformations with real inputs and outputs and something complex in between.

A system is called, y = system(x), x (B, d_in) to y (B, d_out): that is all that model-free learning may do with it.
Who holds the simulator can also ask for what no experimenter has: the exact gradient (`backward`) and a `twin`, a copy
whose matrices are off by some part.

    Acoustic     a = H xn, a <- a + 2.4 G (|a|² a), y = |a|, xn = |x| / (||x|| + 1e-6)     a cavity, weakly cubic
    Optical      y = |T x|, or |T x|² seen by an 8-bit camera                               a multimode fibre
    Microwave    y = |h0 + A (I - C S)^-1 C e|, C = diag(c), c = ±1 from 2 bits a value     a programmable surface

All matrices are complex normal, drawn from the seed. They are kept as pairs of real matrices, and products of complex
numbers are real products with [[Re, Im], [-Im, Re]], so that every body of `matmul` serves them.

What experiments suffer from is an option of every system: `noise` (standard deviation of what is added to the output),
`bits` (of the output's quantisation between its extremes in the batch), `drift(r)`: H <- sqrt(1 - r²) H + r H_new, and
`replace()`: another system of the same kind.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from refimpl import ops

__all__ = ["SYSTEMS", "Acoustic", "Microwave", "Optical", "PhysicalSystem", "Scaling", "system", "two_bits"]


SCALINGS = ("standard", "centred", "shift", "none")


class Scaling:
    """Features as a physical system takes them. kind "standard": standardised with the mean and deviation of the rows
    given here, then shifted so that the least of these rows' values is 0; "centred": standardised alone; "shift":
    shifted alone; "none": as they are."""

    def __init__(self, X: np.ndarray, kind: str = "standard"):
        if kind not in SCALINGS:
            raise ValueError(f"scaling is {kind!r}, expected one of {', '.join(SCALINGS)}")
        n = X.shape[1]
        self.mean, self.deviation, self.least = np.zeros(n, X.dtype), np.ones(n, X.dtype), X.dtype.type(0)
        if kind in ("standard", "centred"):
            self.mean = X.mean(axis=0, dtype=np.float64).astype(X.dtype)
            deviation = X.std(axis=0, dtype=np.float64).astype(X.dtype)
            self.deviation = np.where(deviation > 0, deviation, 1).astype(X.dtype)
        if kind in ("standard", "shift"):
            self.least = self(X).min()

    def __call__(self, X: np.ndarray) -> np.ndarray:
        return (X - self.mean) / self.deviation - self.least


def _parts(a: np.ndarray) -> np.ndarray:
    """A complex matrix as (2, ...) real ones."""
    return np.stack([a.real, a.imag])


class PhysicalSystem:
    """What all systems share: matrices, noise, quantisation, drift, replacement; a count of evaluations.

    Shapes: x (B, d_in) to (B, d_out), in the dtype of x. `evaluations` counts rows that were sent through.
    """

    def __init__(self, d_in: int, d_out: int, seed: Any = None, noise: float = 0.0, bits: int | None = None):
        who = type(self).__name__
        for name, value in (("d_in", d_in), ("d_out", d_out)):
            if not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{who}: {name} is {value!r}, expected a whole number of at least 1")
        if not noise >= 0:
            raise ValueError(f"{who}: noise is {noise!r}, expected a number of at least 0")
        if bits is not None and (not isinstance(bits, int | np.integer) or not 1 <= bits <= 16):
            raise ValueError(f"{who}: bits is {bits!r}, expected None or 1 to 16")
        self.d_in, self.d_out, self.noise, self.bits = int(d_in), int(d_out), float(noise), bits
        self.rng = np.random.default_rng(seed)
        self.evaluations = 0
        self._matrices = {name: _parts(m) for name, m in self._draw(self.rng).items()}
        self._real: dict[Any, dict[str, np.ndarray]] = {}

    # ---- what a kind of system says

    def _draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Fresh complex matrices by name."""
        raise NotImplementedError

    def _respond(self, x: np.ndarray) -> np.ndarray:
        """y of x, without noise."""
        raise NotImplementedError

    def backward(self, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        """dx, the exact gradient at x, noise and quantisation left out. Raises NotImplementedError where the response
        is a staircase."""
        raise NotImplementedError(f"{type(self).__name__}: its response is a staircase, its derivative zero")

    # ---- what an experimenter can do

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """One measurement for each row of x. Raises TypeError or ValueError for anything but real (B, d_in) numbers."""
        who = type(self).__name__
        if not isinstance(x, np.ndarray) or x.dtype.kind != "f":
            raise TypeError(f"{who}: x is {getattr(x, 'dtype', type(x).__name__)}, expected an array of real numbers")
        if x.ndim != 2 or x.shape[1] != self.d_in:
            raise ValueError(f"{who}: x has shape {x.shape}, expected (B, {self.d_in})")
        self.evaluations += len(x)
        y = self._respond(x)
        if self.noise:
            y = y + y.dtype.type(self.noise) * self.rng.standard_normal(y.shape, y.dtype)
        return y if self.bits is None or not y.size else _quantised(y, self.bits)

    # ---- what happens to a system

    def drift(self, r: float) -> None:
        """H <- sqrt(1 - r²) H + r H_new for every matrix. Raises ValueError for r outside [0, 1]."""
        if not 0 <= r <= 1:
            raise ValueError(f"{type(self).__name__}: drift by {r!r}, expected a number in [0, 1]")
        if r == 0:
            return
        for name, new in self._draw(self.rng).items():
            m = self._matrices[name]
            m[...] = np.sqrt(1 - r * r) * m + r * _parts(new)
        self._real.clear()

    def replace(self) -> None:
        """Another system of this kind in its place."""
        self.drift(1.0)

    def twin(self, error: float, seed: Any = None) -> PhysicalSystem:
        """A model of this system, without noise, whose matrices are off: T' = T + error T_random."""
        made = copy.deepcopy(self)
        made.noise, made.bits, made.rng, made._real = 0.0, None, np.random.default_rng(seed), {}
        for name, other in self._draw(made.rng).items():
            made._matrices[name] += error * _parts(other)
        return made

    def state(self) -> dict[str, np.ndarray]:
        """The matrices, (2, ...) real and imaginary parts. Writing into them changes the system (call `refresh`)."""
        return self._matrices

    def refresh(self) -> None:
        """Take over what was written into `state()`."""
        self._real.clear()

    # ---- complex products in real arithmetic

    def _constants(self, dtype: np.dtype) -> dict[str, np.ndarray]:
        """By name, for rows x: "T.r" (d_in, 2 d_out) for real rows, "T" (2 d_in, 2 d_out) for [Re, Im] rows."""
        if dtype not in self._real:
            made = {}
            for name, (re, im) in self._matrices.items():
                if re.ndim == 2:  # (out, in)
                    upper = np.concatenate([re.T, im.T], axis=1)
                    made[f"{name}.r"] = np.ascontiguousarray(upper, dtype)
                    made[name] = np.concatenate([upper, np.concatenate([-im.T, re.T], axis=1)]).astype(dtype)
            self._real[dtype] = made
        return self._real[dtype]


def _quantised(y: np.ndarray, bits: int) -> np.ndarray:
    low, span = y.min(), np.ptp(y)
    if span == 0:
        return y
    levels = y.dtype.type(2**bits - 1)
    return low + np.round((y - low) / span * levels) / levels * span


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """CN(0, 1): complex normal of unit variance."""
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) / np.sqrt(2)


def _squares(a: np.ndarray) -> np.ndarray:
    """|a|² of [Re, Im] rows (B, 2 d)."""
    d = a.shape[1] // 2
    re, im = a[:, :d], a[:, d:]
    squared = re * re
    squared += im * im
    return squared


def _magnitude(a: np.ndarray) -> np.ndarray:
    """|a| of [Re, Im] rows (B, 2 d)."""
    squared = _squares(a)
    return np.sqrt(squared, out=squared)


def _phase(a: np.ndarray) -> np.ndarray:
    """a / |a| of [Re, Im] rows, 0 where a is 0."""
    size = _magnitude(a)
    return a * np.tile(np.divide(1, size, out=np.zeros_like(size), where=size > 0), 2)


class Acoustic(PhysicalSystem):
    """Sound in a cavity: linear mixing of the frequencies, a weak cubic non-linearity, microphones that see magnitudes.

    xn = |x| / (||x|| + 1e-6);  a = H xn;  y = |a + 2.4 G (|a|² a)|,  H and G (d_out, .) complex normal / sqrt(columns)
    """

    strength = 3 * 0.8

    def _draw(self, rng):
        d, m = self.d_in, self.d_out
        return {"H": _normal(rng, m, d) / np.sqrt(d), "G": _normal(rng, m, m) / np.sqrt(m)}

    def _field(self, x):
        """xn, a, and a with the non-linearity's part; the rows of a are [Re, Im]."""
        constants, d = self._constants(x.dtype), self.d_out
        xn = np.abs(x) / (np.sqrt((x * x).sum(axis=1, keepdims=True)) + x.dtype.type(1e-6))
        a = ops.matmul(xn, constants["H.r"])
        strength = _squares(a)
        strength *= x.dtype.type(self.strength)
        cubic = a.reshape(-1, 2, d) * strength[:, None]
        total = ops.matmul(cubic.reshape(-1, 2 * d), constants["G"])
        total += a
        return xn, a, total

    def _respond(self, x):
        constants = self._constants(x.dtype)
        return ops.cubic_wave(np.ascontiguousarray(x), constants["H.r"], constants["G"], self.strength)

    def backward(self, x, dy):
        """With the convention dL = Re(conj(g) dr), r = |a|² a: g_a = 2 |a|² g + a² conj(g)."""
        constants, d = self._constants(x.dtype), self.d_out
        xn, a, total = self._field(x)
        dtotal = np.tile(dy, 2) * _phase(total)
        g = x.dtype.type(self.strength) * (dtotal @ constants["G"].T)
        (re, im), (g_re, g_im) = (a[:, :d], a[:, d:]), (g[:, :d], g[:, d:])
        squared, cross = re * re + im * im, 2 * re * im
        difference = re * re - im * im
        own = [
            2 * squared * g_re + difference * g_re + cross * g_im,
            2 * squared * g_im + cross * g_re - difference * g_im,
        ]
        da = dtotal + np.concatenate(own, axis=1)
        dxn = da @ constants["H.r"].T
        length = np.sqrt((x * x).sum(axis=1, keepdims=True))
        full = length + x.dtype.type(1e-6)
        along = (dxn * xn).sum(axis=1, keepdims=True) / (full * np.where(length > 0, length, 1))
        return np.sign(x) * dxn / full - along * x


class Optical(PhysicalSystem):
    """Light through a multimode fibre: y = |T x|, T complex normal / sqrt(d_in); with intensity=True y = |T x|²."""

    def __init__(self, d_in: int, d_out: int, seed: Any = None, noise=0.0, bits=None, intensity: bool = False):
        self.intensity = intensity
        super().__init__(d_in, d_out, seed, noise, bits)

    def _draw(self, rng):
        return {"T": _normal(rng, self.d_out, self.d_in) / np.sqrt(self.d_in)}

    def _respond(self, x):
        a = ops.matmul(np.ascontiguousarray(x), self._constants(x.dtype)["T.r"])
        if not self.intensity:
            return _magnitude(a)
        return _squares(a)

    def backward(self, x, dy):
        """da = dy a/|a|, dx = Re(T^H da); with intensity da = 2 dy a."""
        constants = self._constants(x.dtype)
        a = x @ constants["T.r"]
        da = np.tile(dy, 2) * (2 * a if self.intensity else _phase(a))
        return da @ constants["T.r"].T


def two_bits(x: np.ndarray) -> np.ndarray:
    """The code of a programmable surface: two bits a value, (B, 2 d) of -1 and 1.

    Of a row with extremes lo and hi, st = (hi - lo) / 4: x <= lo is 00, x <= lo + st 01, x <= hi - st 10, else 11. A
    row whose values are all the same is 00 everywhere.
    """
    lo, hi = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    st = (hi - lo) / 4
    level = (x > lo).astype(np.int8) + ((x > lo + st) & (x > lo)) + ((x > hi - st) & (x > lo))
    bits = np.stack([level >> 1, level & 1], axis=2).reshape(len(x), -1)
    return (2 * bits - 1).astype(x.dtype)


class Microwave(PhysicalSystem):
    """Microwaves in a chaotic box whose wall is a surface of elements that reflect with +1 or -1, by `two_bits` of x.

    y = |h0 + A (I - C S)^-1 C e|,  C = diag(c): waves go back and forth between the elements (S symmetric), so y is far
    from linear in c; and as a function of x it is a staircase.
    """

    def _draw(self, rng):
        n = 2 * self.d_in
        R = _normal(rng, n, n) / np.sqrt(n)
        return {
            "S": 0.45 * (R + R.T) / np.sqrt(2),
            "A": _normal(rng, self.d_out, n) / np.sqrt(n),
            "e": _normal(rng, n),
            "h0": 0.7 * _normal(rng, self.d_out),
        }

    def scattered(self, c: np.ndarray) -> np.ndarray:
        """The complex field of codes c (B, 2 d_in): with c² = 1, (I - C S)^-1 C e solves (C - S) w = e."""
        kind = np.complex64 if c.dtype == np.float32 else np.complex128
        S, A, e, h0 = ((re + 1j * im).astype(kind) for re, im in (self._matrices[k] for k in ("S", "A", "e", "h0")))
        n, found = len(e), []
        for part in np.array_split(c, max(1, len(c) // 256)):
            left = np.broadcast_to(-S, (len(part), n, n)).copy()
            left[:, np.arange(n), np.arange(n)] += part
            found.append(np.linalg.solve(left, np.broadcast_to(e[:, None], (len(part), n, 1)))[..., 0])
        return h0 + np.concatenate(found) @ A.T

    def _respond(self, x):
        codes, where = np.unique(two_bits(x), axis=0, return_inverse=True)  # the same code is scattered once
        return np.abs(self.scattered(codes))[where.reshape(-1)].astype(x.dtype)


SYSTEMS: dict[str, type[PhysicalSystem]] = {"acoustic": Acoustic, "optical": Optical, "microwave": Microwave}


def system(kind: str, d_in: int, d_out: int, seed: Any = None, noise: float = 0.0, bits: int | None = None):
    """A system by name. Raises ValueError for another name."""
    if kind not in SYSTEMS:
        raise ValueError(f"physical system is {kind!r}, expected one of {', '.join(SYSTEMS)}")
    return SYSTEMS[kind](d_in, d_out, seed, noise, bits)
