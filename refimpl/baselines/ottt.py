"""Online training through time: a trace of each neuron's spikes takes the place of the path through time.

    grad W = sum_t delta[t] trace[t],    trace[t] = leak trace[t-1] + s[t],    delta[t] = g[t] sg

Each step is back-propagated through space at once, as in SLTT, but the weight gradient sees the decaying sum of the
spikes that came in so far. Memory does not depend on T: a trace is as large as the spikes of one step.

Source: Xiao et al., "Online training through time for spiking neural networks", 2022 (the variant that updates the
weights once, after all steps).
"""

from __future__ import annotations

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

    def _model_options(self):
        if self.model not in ("mlp", "vgg"):
            raise self._bad("model", "'mlp' or 'vgg', whose layers of weights can be traced")
        return {**super()._model_options(), "trace": 1 - 1 / self.tau}

    def _gradient(self, x, y):
        return ottt_gradient(self._simulation(x, train=True), self._grads, y, self._loss())
