"""TPSGD for recurrent networks: targets in time, nothing passed back through it.

    h_t = tanh(x_t W + h_{t-1} U + b),    d_t = c_t dJ(h_t, t_t)/dz_t                                              (6)
    dW = Σ_t x_t^T d_t,  dU = Σ_t h_{t-1}^T d_t,  db = Σ_t d_t        h_{t-1} counts as a constant                 (7)
c_t says when the target counts: 1 / T at all steps, 1 at the last, a ramp 2 t / (T (T + 1)), or 1 / (T - t_0 + 1) from
step t_0 on. Each of the stacked layers has codes of its own; its input is the state of the layer below at the same
step, a constant too. So the layers go through time together, a few frames at a time, and all that is kept is the
present state: memory does not grow with T. The LSTM's target is compared with h = o tanh(c), and its error goes through
the gates of the same step:
    d_o = dh tanh(c) o (1 - o),   dc = dh o (1 - tanh^2 c),   d_i = dc g i (1 - i),   d_f = dc c_{t-1} f (1 - f),
    d_g = dc i (1 - g^2)                                                                                           (8)
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from refimpl import ops
from refimpl.methods.local.tpsgd.codes import Projections
from refimpl.models.recurrent_classifier import SequenceClassifier
from refimpl.ops.target import LOSSES

__all__ = ["TPSGDRecurrent", "step_weights"]


def step_weights(steps: str | int, T: int) -> np.ndarray:
    """c_t for t = 1 .. T, which sum to 1: "all", "last", "ramp", or the first step that counts. Raises ValueError."""
    t = np.arange(1, T + 1)
    if isinstance(steps, str) and steps in ("all", "last", "ramp"):
        weights: Any = {"all": np.ones(T), "last": t == T, "ramp": t}[steps]
    elif isinstance(steps, int | np.integer) and not isinstance(steps, bool) and 1 <= steps <= T:
        weights = t >= steps
    else:
        raise ValueError(f"TPSGDRecurrent: steps is {steps!r}, expected 'all', 'last', 'ramp', or a step from 1 to {T}")
    return weights / weights.sum()


class TPSGDRecurrent(SequenceClassifier):
    """Classification of sequences X (n, T, ...) by target projection in recurrent layers, rnn or lstm, also stacked.

    loss, delta, p: as in TPSGD (no "logistic" for the LSTM); steps: which steps have targets (`step_weights`); update:
    "accumulate" over the sequence and step once, or "online" after every time step. y (n,) is the label of the
    sequence, or y (n, T) that of each step, whose code is then the target of the step. chunk: frames that
    go through a layer together (accumulated updates of an rnn), which changes the cost of a step and not its result.
    keep_codes, radius, lr, hidden_lr, momentum, epochs, batch_size: as in TPSGD and RecurrentClassifier.

    Reproducible for a given random_state, backend and thread count.
    """

    def __init__(
        self,
        cell: str = "rnn",
        hidden: tuple[int, ...] = (64,),
        loss: str = "l2",
        delta: float = 1.0,
        p: float = 1.0,
        steps: str | int = "all",
        update: str = "accumulate",
        chunk: int = 8,
        keep_codes: bool = False,
        radius: float = 0.9,
        lr: float = 0.05,
        hidden_lr: float | None = 0.005,
        momentum: float = 0.9,
        epochs: int = 10,
        batch_size: int = 64,
        dtype: str = "float32",
        random_state: Any = None,
    ):
        self.cell = cell
        self.hidden = hidden
        self.loss = loss
        self.delta = delta
        self.p = p
        self.steps = steps
        self.update = update
        self.chunk = chunk
        self.keep_codes = keep_codes
        self.radius = radius
        self.lr = lr
        self.hidden_lr = hidden_lr
        self.momentum = momentum
        self.epochs = epochs
        self.batch_size = batch_size
        self.dtype = dtype
        self.random_state = random_state

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.loss not in LOSSES or (self.cell == "lstm" and self.loss == "logistic"):
            raise self._bad("loss", f"one of {', '.join(LOSSES)}; no logistic for an LSTM, whose state is no tanh")
        if self.update not in ("accumulate", "online"):
            raise self._bad("update", "'accumulate' or 'online'")
        if not isinstance(self.chunk, int | np.integer) or self.chunk < 1:
            raise self._bad("chunk", "a whole number of at least 1")
        for name in ("delta", "p"):
            if not 0 < getattr(self, name) < math.inf:
                raise self._bad(name, "a positive finite number")

    def _begin(self, X, y):
        super()._begin(X, y)
        self._weights = step_weights(self.steps, self._X.shape[1])
        # The key of the projections lives in a generator that never moves on: so checkpoints hold it.
        self._rngs["codes"] = np.random.default_rng(self._rngs["train"].integers(0, 2**32, 4).tolist())
        self._codes_from_key()

    def _codes_from_key(self) -> None:
        self._kept: dict[int, np.ndarray] = {}
        key = int(copy.deepcopy(self._rngs["codes"]).integers(0, 2**63))
        self._projections = Projections(key, len(self.classes_), self.p, self.loss, True, self.dtype)

    def restore(self, arrays, meta):
        super().restore(arrays, meta)
        self._codes_from_key()

    def codes(self, k: int) -> np.ndarray:
        """Codes (K, width) of layer k; reachable by tanh, in the LSTM too, whose |h| is below 1."""
        found = self._kept.get(k)
        if found is None:
            found = self._projections.table(k, self.hidden[k], "tanh")
            if self.keep_codes:
                self._kept[k] = found
        return found

    # ------------------------------------------------------------ one batch

    def _step(self, x, y):
        B, T, _ = x.shape
        codes = [self.codes(k) for k in range(len(self._layers))]
        weights = (self._weights / B).astype(x.dtype)  # the only thing here that grows with T: a number a step
        h = [np.zeros((B, n), x.dtype) for n in self.hidden]
        c = [np.zeros_like(a) for a in h] if self.cell == "lstm" else []
        losses, loss, part = [0.0] * len(codes), 0.0, y
        frames = self.chunk if self.cell == "rnn" and self.update == "accumulate" else 1
        for first in range(0, T, frames):  # a part of the sequence goes through all layers
            now = slice(first, first + frames)
            u, weight = np.ascontiguousarray(x[:, now]), weights[now]
            if self.every_step_:
                part = np.ascontiguousarray(y[:, now])
            elif (
                first == 0 or u.shape[1] != part.shape[1]
            ):  # the label of all frames, made anew for a shorter part only
                part = np.repeat(y[:, None], u.shape[1], axis=1)
            for k in range(len(codes)):
                if self.cell == "lstm":
                    u, J = self._lstm(k, u, h, c, part, codes[k], float(weight[0]))
                else:
                    u, J = self._rnn(k, u, h, part, codes[k], weight)  # (6), (7)
                losses[k] += float((J * weight).sum())
                if self.update == "online" and weight.any():
                    self._apply(f"layer{k}")
            if self.every_step_:
                loss += self._read(u.reshape(-1, u.shape[2]), part.ravel(), u.shape[1] / T)[0]
        if not self.every_step_:
            loss = self._read(h[-1], y)[0]
        for name in self._params:
            if name == "readout" or self.update == "accumulate":
                self._apply(name)
        return {"loss": loss, **{f"local{k}": value for k, value in enumerate(losses, 1)}}

    def _rnn(
        self, k: int, u: np.ndarray, h: list[np.ndarray], labels: np.ndarray, codes: np.ndarray, weight: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Layer k over a part of the sequence: its states, and their losses; h[k] becomes the last state, and (7) is
        added to its gradients."""
        params, grads = self._params[f"layer{k}"], self._grads[f"layer{k}"]
        own = params["w_x"], params["w_h"], params["bias"]
        into = grads["w_x"], grads["w_h"], grads["bias"]
        y, J = ops.rnn_target_sequence(u, h[k], labels, codes, *own, *into, weight, self.loss, self.delta)
        h[k] = np.ascontiguousarray(y[:, -1])
        return y, J

    def _lstm(
        self, k: int, u: np.ndarray, h: list, c: list, labels: np.ndarray, codes: np.ndarray, weight: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same for one step of an LSTM."""
        params, grads = self._params[f"layer{k}"], self._grads[f"layer{k}"]
        own, x = (params["w_x"], params["w_h"], params["bias"]), u[:, 0]
        h_next, c_next, gates = ops.lstm_cell(x, h[k], c[k], *own)
        _, J, dh = ops.target_loss(h_next, labels[:, 0], codes, self.loss, "identity", self.delta, weight)
        if weight:
            gradients = ops.lstm_cell_backward(dh, None, x, h[k], c[k], *own[:2], c_next, gates)[3:]  # (8)
            for into, d in zip((grads["w_x"], grads["w_h"], grads["bias"]), gradients):
                into += d
        h[k], c[k] = h_next, c_next
        return h_next[:, None], J[:, None]
