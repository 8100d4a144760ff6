"""Back-propagation through time for sequence classifiers, whole, truncated, or not at all.

The loss at the last step goes back through the read-out and then through time:
    window None   all T steps: back-propagation through time (1)
    window w      the last w steps; the state before them counts as a constant: truncated (2)
    window 0      the recurrent layers stay as they were drawn: a reservoir, only the read-out learns (3)
All states of the steps that the gradient passes are kept until the backward pass: memory grows with T.

Sources: (1) Werbos, "Backpropagation through time: what it does and how to do it", 1990. (2) Williams and Peng, "An
efficient gradient-based algorithm for on-line training of recurrent network trajectories", 1990. (3) Jaeger, "The echo
state approach to analysing and training recurrent neural networks", 2001.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refimpl import ops, optim
from refimpl.models.recurrent_classifier import SequenceClassifier

__all__ = ["RecurrentClassifier"]


class RecurrentClassifier(SequenceClassifier):
    """Classification of sequences X (n, T, ...) by stacked recurrent layers and back-propagation through time.

    cell "rnn" or "lstm"; hidden: widths of the layers; window: how many steps back the gradient goes (above); radius:
    of the first recurrent weights, which are orthogonal; lr, hidden_lr (of the recurrent layers, None: lr), momentum;
    clip: largest gradient norm of a layer, or None; epochs, batch_size. y (n,) has the label of each sequence, or
    y (n, T) that of each step (window None or 0 then).
    Reproducible for a given random_state, backend and thread count.
    """

    def __init__(
        self,
        cell: str = "rnn",
        hidden: tuple[int, ...] = (64,),
        window: int | None = None,
        radius: float = 0.9,
        lr: float = 0.05,
        hidden_lr: float | None = None,
        momentum: float = 0.9,
        clip: float | None = None,
        epochs: int = 10,
        batch_size: int = 64,
        dtype: str = "float32",
        random_state: Any = None,
    ):
        self.cell = cell
        self.hidden = hidden
        self.window = window
        self.radius = radius
        self.lr = lr
        self.hidden_lr = hidden_lr
        self.momentum = momentum
        self.clip = clip
        self.epochs = epochs
        self.batch_size = batch_size
        self.dtype = dtype
        self.random_state = random_state

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.window is not None and (not isinstance(self.window, int | np.integer) or self.window < 0):
            raise self._bad("window", "None or a whole number of at least 0")
        if self.clip is not None and not self.clip > 0:
            raise self._bad("clip", "None or a positive number")

    def _begin(self, X, y):
        super()._begin(X, y)
        if self.every_step_ and self.window:
            raise self._bad("window", "None or 0 where every step has a label")

    def _step(self, x, y):
        loss = self._gradients(x, y)
        for grads in self._grads.values():
            if self.clip is not None:
                optim.clip_by_norm(grads, self.clip)
        for name in self._params:
            if name == "readout" or self.window != 0:
                self._apply(name)
        return {"loss": loss}

    def _gradients(self, x: np.ndarray, y: np.ndarray) -> float:
        """Mean loss; adds the gradients of all layers."""
        h, kept = x, []
        for k, layer in enumerate(self._layers):
            h, saved = layer.forward(self._params[f"layer{k}"], h)
            kept.append(saved)
        B, T, N = h.shape
        read = h.reshape(B * T, N) if self.every_step_ else np.ascontiguousarray(h[:, -1])
        loss, dlogits = self._read(read, y.reshape(-1))
        if self.window == 0:
            return loss
        steps = T if self.window is None else min(T, self.window)
        dread = ops.matmul(dlogits, self._params["readout"]["weight"], transpose_b=True)
        if self.every_step_:
            dy = dread.reshape(B, T, N)
        else:
            dy = np.zeros((B, steps, N), h.dtype)
            dy[:, -1] = dread
        for k in reversed(range(len(self._layers))):
            dy = self._layer_backward(k, kept.pop(), dy, T - steps)
        return loss

    def _layer_backward(self, k: int, saved: tuple, dy: np.ndarray, first: int) -> np.ndarray | None:
        """Through the steps from `first` on; the states before them are constants. Returns the input's gradient."""
        params, grads = self._params[f"layer{k}"], self._grads[f"layer{k}"]
        weights, add_to = (params["w_x"], params["w_h"]), (grads["w_x"], grads["w_h"], grads["bias"])
        x, *states = saved

        def part(a: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(a[:, first:]) if first else a

        def before(a: np.ndarray) -> np.ndarray:
            return np.ascontiguousarray(a[:, first - 1]) if first else np.zeros_like(a[:, 0])

        if self.cell == "rnn":
            (y,) = states
            return ops.rnn_sequence_backward(dy, part(x), before(y), *weights, part(y), k > 0, add_to)[0]
        y, c, gates = states
        start, rest = (before(y), before(c)), map(part, (y, c, gates))
        return ops.lstm_sequence_backward(dy, None, part(x), *start, *weights, *rest, k > 0, add_to)[0]
