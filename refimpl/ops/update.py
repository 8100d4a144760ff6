"""Steps over flat vectors: optimisers, moving averages, linear combinations, norms. C mirror: native/src/update.c.

Every function takes arrays of one shape (any number of axes) and one dtype, float32 or float64. Functions that change
an array work in place, return None, and their written arrays must be C-contiguous and writable: so params.flat and its
windows see the same numbers. Numbers (lr, decay, ...) are Python floats; what is computed from numbers alone (1 - beta,
bias corrections) is computed in double precision and rounded once to the arrays' dtype. Errors: TypeError for another
dtype or mixed dtypes, ValueError for shapes that differ, for numbers outside their range, and for written arrays that
share memory with each other.
"""

from __future__ import annotations

import math

import numpy as np

from refimpl.backends import operation
from refimpl.ops import _check

__all__ = [
    "adam_update",
    "axpy",
    "dot",
    "ema_update",
    "fma_combine",
    "rmsprop_update",
    "row_scaled_sum",
    "scale_inplace",
    "sgd_update",
    "sum_of_squares",
]


def _written(op: str, names: str, *arrays: np.ndarray) -> None:
    """The arrays to write: one shape, one dtype, C-contiguous, writable, none sharing memory with another."""
    _check.floats(op, names, *arrays)
    first = arrays[0]
    for i, a in enumerate(arrays):
        if a.shape != first.shape or not (a.flags.c_contiguous and a.flags.writeable):
            _check.writable(op, names.split()[i], a, first.shape, first.dtype)
        for j in range(i):
            if np.may_share_memory(a, arrays[j]):  # exact for contiguous arrays
                name, other = names.split()[i], names.split()[j]
                raise ValueError(f"{op}: {name} and {other} share memory, but both are written")


def _read(op: str, name: str, a: np.ndarray, first: str, *written: np.ndarray) -> np.ndarray:
    """An array to read beside the written ones: of their shape and dtype; a copy where it overlaps one of them."""
    target = written[0]
    _check.floats(op, f"{first} {name}", target, a)
    if a.shape != target.shape:
        _check.shape(op, name, a, target.shape)
    for w in written:
        if a is not w and np.may_share_memory(a, w):
            return a.copy()
    return a


def _fraction(op: str, name: str, value: float) -> None:
    """A number in [0, 1), such as the decay of a moving average. Raises TypeError or ValueError."""
    _check.number(op, name, value)
    if not 0 <= value < 1:
        raise ValueError(f"{op}: {name} is {value}, expected a number in [0, 1)")


def _check_sgd(param, grad, velocity, lr, momentum, weight_decay):
    op = "sgd_update"
    _check.number(op, "lr momentum weight_decay", lr, momentum, weight_decay)
    if velocity is None:
        if momentum != 0:
            raise ValueError(f"{op}: momentum is {momentum}, but velocity is None, expected an array of param's shape")
        _written(op, "param", param)
        return _read(op, "grad", grad, "param", param)
    _written(op, "param velocity", param, velocity)
    return _read(op, "grad", grad, "param", param, velocity)


def _check_adam(param, grad, m, v, step, lr, beta1, beta2, eps, weight_decay):
    op = "adam_update"
    _check.number(op, "lr weight_decay", lr, weight_decay)
    _written(op, "param m v", param, m, v)
    if not isinstance(step, (int, np.integer)):
        raise TypeError(f"{op}: step is a {type(step).__name__}, expected a whole number")
    if step < 1:
        raise ValueError(f"{op}: step is {step}, expected at least 1: the first step is number 1")
    _fraction(op, "beta1", beta1)
    _fraction(op, "beta2", beta2)
    _check.at_least(op, "eps", eps, 0.0)
    return _read(op, "grad", grad, "param", param, m, v)


def _check_rmsprop(param, grad, v, velocity, lr, alpha, eps, momentum, weight_decay):
    op = "rmsprop_update"
    _check.number(op, "lr momentum weight_decay", lr, momentum, weight_decay)
    if velocity is None and momentum != 0:
        raise ValueError(f"{op}: momentum is {momentum}, but velocity is None, expected an array of param's shape")
    _fraction(op, "alpha", alpha)
    _check.at_least(op, "eps", eps, 0.0)
    if velocity is None:
        _written(op, "param v", param, v)
        return _read(op, "grad", grad, "param", param, v)
    _written(op, "param v velocity", param, v, velocity)
    return _read(op, "grad", grad, "param", param, v, velocity)


def _check_ema(average, value, decay):
    op = "ema_update"
    _written(op, "average", average)
    _check.number(op, "decay", decay)
    if not 0 <= decay <= 1:
        raise ValueError(f"{op}: decay is {decay}, expected a number in [0, 1]")
    return _read(op, "value", value, "average", average)


def _check_axpy(y, x, alpha):
    _written("axpy", "y", y)
    _check.number("axpy", "alpha", alpha)
    return _read("axpy", "x", x, "y", y)


def _check_scale(x, factor):
    _written("scale_inplace", "x", x)
    _check.number("scale_inplace", "factor", factor)


def _check_combine(a, x, b, y, c, z, out):
    op = "fma_combine"
    _check.number(op, "a b c", a, b, c)
    if z is None:
        _check.floats(op, "x y", x, y)
    else:
        _check.floats(op, "x y z", x, y, z)
        _check.shape(op, "z", z, x.shape)
    _check.shape(op, "y", y, x.shape)
    if out is not None:
        _check.writable(op, "out", out, x.shape, x.dtype)


def _check_rows(a, x, b, y, out):
    op = "row_scaled_sum"
    _check.floats(op, "a x b y", a, x, b, y)
    if x.ndim == 0:
        raise ValueError(f"{op}: x has shape (), expected (B, ...)")
    _check.shape(op, "a", a, x.shape[:1])
    _check.shape(op, "b", b, x.shape[:1])
    _check.shape(op, "y", y, x.shape)
    if out is not None:
        _check.writable(op, "out", out, x.shape, x.dtype)


def _check_dot(x, y):
    _check.floats("dot", "x y", x, y)
    _check.shape("dot", "y", y, x.shape)


@operation(inplace=("param", "velocity"))
def sgd_update(
    param: np.ndarray,
    grad: np.ndarray,
    velocity: np.ndarray | None,
    lr: float,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> None:
    """One step of stochastic gradient descent, with momentum, Nesterov's momentum and weight decay.

    g = grad + wd p                 (coupled weight decay: wd is weight_decay)
    v = mu v + g                    (mu is momentum; velocity None: v = g is not kept, mu must be 0)
    p = p - lr v                    (nesterov: p - lr (g + mu v))

    Decoupled weight decay leaves g = grad and shrinks p to (1 - lr wd) p before the step. Writes param and velocity.

    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning", 2013, with the
    velocity in units of the gradient, so that a change of lr acts at once.
    """
    grad = _check_sgd(param, grad, velocity, lr, momentum, weight_decay)
    g = grad + param.dtype.type(weight_decay) * param if weight_decay and not decoupled else grad
    step = g
    if velocity is not None:
        velocity[...] = momentum * velocity + g
        step = g + momentum * velocity if nesterov else velocity
    if weight_decay and decoupled:
        param *= 1 - lr * weight_decay
    param -= param.dtype.type(lr) * step


@operation(inplace=("param", "m", "v"))
def adam_update(
    param: np.ndarray,
    grad: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    step: int,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> None:
    """One step of Adam, number `step` = 1, 2, ...

    g = grad + wd p                                     (coupled weight decay: wd is weight_decay)
    m = beta1 m + (1 - beta1) g
    v = beta2 v + (1 - beta2) g^2
    p = p - lr / (1 - beta1^step)  m / (sqrt(v) / sqrt(1 - beta2^step) + eps)

    Decoupled weight decay (AdamW) leaves g = grad and shrinks p to (1 - lr wd) p before the step. Writes param, m and
    v.

    Sources: Kingma and Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1; Loshchilov and Hutter,
    "Decoupled weight decay regularization", 2019, algorithm 2.
    """
    grad = _check_adam(param, grad, m, v, step, lr, beta1, beta2, eps, weight_decay)
    number = param.dtype.type
    rate, root = lr / (1 - beta1**step), math.sqrt(1 - beta2**step)
    g = grad + number(weight_decay) * param if weight_decay and not decoupled else grad
    m[...] = beta1 * m + number(1 - beta1) * g
    v[...] = beta2 * v + number(1 - beta2) * (g * g)
    if weight_decay and decoupled:
        param *= 1 - lr * weight_decay
    param -= number(rate) * (m / (np.sqrt(v) * number(1 / root) + number(eps)))


@operation(inplace=("param", "v", "velocity"))
def rmsprop_update(
    param: np.ndarray,
    grad: np.ndarray,
    v: np.ndarray,
    velocity: np.ndarray | None,
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    decoupled: bool = False,
) -> None:
    """One step of RMSprop.

    g = grad + wd p                         (coupled weight decay: wd is weight_decay)
    v = alpha v + (1 - alpha) g^2
    u = g / (sqrt(v) + eps)
    w = mu w + u                            (w is velocity, mu is momentum; velocity None: w = u, mu must be 0)
    p = p - lr w

    Decoupled weight decay leaves g = grad and shrinks p to (1 - lr wd) p before the step. Writes param, v and velocity.

    Source: Hinton, Srivastava and Swersky, "Neural networks for machine learning", lecture 6e, 2012.
    """
    grad = _check_rmsprop(param, grad, v, velocity, lr, alpha, eps, momentum, weight_decay)
    number = param.dtype.type
    g = grad + number(weight_decay) * param if weight_decay and not decoupled else grad
    v[...] = alpha * v + number(1 - alpha) * (g * g)
    step = g / (np.sqrt(v) + number(eps))
    if velocity is not None:
        velocity[...] = momentum * velocity + step
        step = velocity
    if weight_decay and decoupled:
        param *= 1 - lr * weight_decay
    param -= number(lr) * step


@operation(inplace=("average",))
def ema_update(average: np.ndarray, value: np.ndarray, decay: float) -> None:
    """average = decay average + (1 - decay) value, in place: an exponential moving average. decay in [0, 1].

    Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992, in the exponential
    form.
    """
    value = _check_ema(average, value, decay)
    average[...] = decay * average + value.dtype.type(1 - decay) * value


@operation(inplace=("x",))
def scale_inplace(x: np.ndarray, factor: float) -> None:
    """x = factor x, in place."""
    _check_scale(x, factor)
    x *= x.dtype.type(factor)


@operation(inplace=("y",))
def axpy(y: np.ndarray, x: np.ndarray, alpha: float) -> None:
    """y = y + alpha x, in place."""
    x = _check_axpy(y, x, alpha)
    y += x.dtype.type(alpha) * x


@operation
def sum_of_squares(x: np.ndarray) -> float:
    """Σ x^2 over all elements, squared and accumulated in double precision."""
    _check.floats("sum_of_squares", "x", x)
    return float(np.square(x, dtype=np.float64).sum())


@operation
def dot(x: np.ndarray, y: np.ndarray) -> float:
    """Σ x y over all elements of two arrays of one shape, multiplied and accumulated in double precision."""
    _check_dot(x, y)
    return float(np.multiply(x, y, dtype=np.float64).sum())


@operation
def fma_combine(
    a: float,
    x: np.ndarray,
    b: float,
    y: np.ndarray,
    c: float = 0.0,
    z: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """a x + b y + c z, element by element: the mixing of data and noise, or one step of a diffusion chain.

    x, y and z have one shape; a, b and c are numbers; without z the last term is absent, whatever c. `out`
    (C-contiguous) may name the array to write; it may be x, y or z itself.
    """
    _check_combine(a, x, b, y, c, z, out)
    number = x.dtype.type
    result = number(a) * x + number(b) * y
    if z is not None:
        result = result + number(c) * z
    if out is None:
        return np.asarray(result)
    out[...] = result
    return out


@operation
def row_scaled_sum(
    a: np.ndarray, x: np.ndarray, b: np.ndarray, y: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """out_i = a_i x_i + b_i y_i for each sample i: mixing where every sample has a time of its own.

    Shapes: a and b (B,), x and y (B, ...), the result as x. `out` (C-contiguous) may name the array to write; it may be
    x or y itself.
    """
    _check_rows(a, x, b, y, out)
    per_row = (-1,) + (1,) * (x.ndim - 1)
    result = a.reshape(per_row) * x + b.reshape(per_row) * y
    if out is None:
        return result
    out[...] = result
    return out
