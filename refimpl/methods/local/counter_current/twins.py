"""The same forward network under other rules, with everything else of CounterCurrent as it is: first weights, batches,
augmentation, centralised and clipped gradients, warm-up, momentum, schedule. What differs is the gradient alone."""

from __future__ import annotations

import numpy as np

from refimpl import ops
from refimpl.methods.local.counter_current.learner import CounterCurrent
from refimpl.methods.local.counter_current.losses import Terms, _backward


class BackpropTwin(CounterCurrent):
    """Back-propagation of the cross-entropy through all layers. Arguments as in CounterCurrent; there are no losses of
    levels, and the feedback network stays at its first random weights (train_feedback=False)."""

    def _gradients(self, x, y):
        net, params, grads = self._pair.forward_network, self._params["forward"], self._grads["forward"]
        out, saved = net.forward(params, x, train=True)
        loss, p = ops.cross_entropy(out, y)
        net.backward(params, grads, saved, ops.cross_entropy_backward(p, y), need_dx=False)
        return self._terms(loss, y)

    def _terms(self, loss: float, y: np.ndarray) -> Terms:
        return Terms((0.0,) * self._pair.L, float(loss), len(y))


class LastLayerTwin(BackpropTwin):
    """The matrix that makes the logits alone is trained; all layers below stay at their first random weights."""

    def _gradients(self, x, y):
        params, grads = self._params["forward"], self._grads["forward"]
        a, saved = self._pair.ascend(params, x)
        loss, p = ops.cross_entropy(a[-1], y)
        _backward(self._pair, self._pair.up, self._pair.L, params, grads, saved, ops.cross_entropy_backward(p, y))
        return self._terms(loss, y)
