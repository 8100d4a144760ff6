"""Back-propagation through time with surrogate gradients: what every training rule for spiking networks is held to.

With g[t] = dL/ds[t] arriving from the layer above at the same step, and sg the surrogate slope at u[t] - threshold,

    delta[t] = g[t] sg + delta[t+1] eps[t],    eps[t] = leak (1 - threshold sg),    delta[T+1] = 0

(eps = leak where the spike in the reset is detached). All u and s of all layers and steps are kept until the backward
pass: memory grows with T.

Source: Neftci, Mostafa and Zenke, "Surrogate gradient learning in spiking neural networks", 2019.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from refimpl.models.snn import Simulation
from refimpl.models.spiking_classifier import SpikingClassifier, StepLoss
from refimpl.nn import Params
from refimpl.nn.spiking import Memory

__all__ = ["BPTTClassifier", "bptt_gradient"]


def bptt_gradient(
    simulation: Simulation, grads: Params, y: np.ndarray, loss: StepLoss, kept: list | None = None
) -> tuple[float, np.ndarray]:
    """Add dL/dparams to `grads`; returns L and the sum of the logits (the decision).

    `kept`: an empty list that receives what was saved, for those who want to weigh it.
    """
    T, total = simulation.T, 0.0
    saved, dlogits, decision = [], [], None
    for t in range(T):
        logits, s = simulation.step()
        value, d = loss(logits, y, loss.weight(t, T))
        total += value
        saved.append(s)
        dlogits.append(d)
        decision = logits if decision is None or loss.steps == "last" else decision + logits
    if kept is not None:
        kept.extend(saved)
    dmemory = Memory()
    for t in reversed(range(T)):
        simulation.back(grads, saved.pop(), dlogits[t], dmemory)
    simulation.close(grads)
    assert decision is not None
    return total, decision


class BPTTClassifier(SpikingClassifier):
    """A spiking network trained by back-propagation through time.

    detach_reset: take the spike in the reset for a constant. All else as in SpikingClassifier.
    """

    def __init__(
        self,
        model: Any = "mlp",
        hidden: tuple[int, ...] = (128, 128),
        norm: bool = True,
        options: dict[str, Any] | None = None,
        T: int = 6,
        detach_reset: bool = False,
        tau: float = 1.1,
        threshold: float = 1.0,
        reset: str = "subtract",
        surrogate: str = "triangle",
        surrogate_width: float = 1.0,
        dropout: float = 0.0,
        coding: str = "direct",
        image_shape: tuple[int, int, int] | None = None,
        normalise: bool = False,
        augment: tuple[str, ...] = (),
        loss_weight: float = 0.05,
        loss_target: str = "ones",
        loss_steps: str = "every",
        epochs: int = 20,
        batch_size: int = 128,
        optimizer: str = "momentum",
        lr: float = 0.1,
        weight_decay: float = 0.0,
        schedule: str = "cosine",
        dtype: str = "float32",
        random_state: Any = None,
    ):
        self.model = model
        self.hidden = hidden
        self.norm = norm
        self.options = options
        self.T = T
        self.detach_reset = detach_reset
        self.tau = tau
        self.threshold = threshold
        self.reset = reset
        self.surrogate = surrogate
        self.surrogate_width = surrogate_width
        self.dropout = dropout
        self.coding = coding
        self.image_shape = image_shape
        self.normalise = normalise
        self.augment = augment
        self.loss_weight = loss_weight
        self.loss_target = loss_target
        self.loss_steps = loss_steps
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.lr = lr
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.dtype = dtype
        self.random_state = random_state

    _online = False

    def _neuron(self):
        return dataclasses.replace(super()._neuron(), detach_reset=self.detach_reset)

    def _gradient(self, x, y):
        return bptt_gradient(self._simulation(x, train=True), self._grads, y, self._loss())
