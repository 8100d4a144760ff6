"""Online training through time: a trace of each neuron's spikes takes the place of the path through time.

    grad W = sum_t delta[t] trace[t],    trace[t] = leak trace[t-1] + s[t],    delta[t] = g[t] sg

Each step is back-propagated through space at once, as in SLTT, but the weight gradient sees the decaying sum of the
spikes that came in so far. Memory does not depend on T: a trace is as large as the spikes of one step.

Source: Xiao et al., "Online training through time for spiking neural networks", 2022 (the variant that updates the
weights once, after all steps).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refimpl.models.snn import Simulation
from refimpl.models.spiking_classifier import SpikingClassifier, StepLoss
from refimpl.nn import Params

__all__ = ["OTTTClassifier", "ottt_gradient"]


def ottt_gradient(simulation: Simulation, grads: Params, y: np.ndarray, loss: StepLoss) -> tuple[float, np.ndarray]:
    """Add OTTT's gradient to `grads`, for a network whose layers of weights are traced; returns L and the sum of the
    logits."""
    T, total, decision = simulation.T, 0.0, None
    for t in range(T):
        logits, saved = simulation.step()
        value, dlogits = loss(logits, y, loss.weight(t, T))
        simulation.back(grads, saved, dlogits)
        total += value
        decision = logits if decision is None or loss.steps == "last" else decision + logits
    simulation.close(grads)
    assert decision is not None
    return total, decision


class OTTTClassifier(SpikingClassifier):
    """A spiking network (model "mlp" or "vgg") trained online with presynaptic traces. All as in SpikingClassifier."""

    def __init__(
        self,
        model: Any = "mlp",
        hidden: tuple[int, ...] = (128, 128),
        norm: bool = True,
        options: dict[str, Any] | None = None,
        T: int = 6,
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

    def _model_options(self):
        if self.model not in ("mlp", "vgg"):
            raise self._bad("model", "'mlp' or 'vgg', whose layers of weights can be traced")
        return {**super()._model_options(), "trace": 1 - 1 / self.tau}

    def _gradient(self, x, y):
        return ottt_gradient(self._simulation(x, train=True), self._grads, y, self._loss())
