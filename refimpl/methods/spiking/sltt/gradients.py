"""The gradient of SLTT and SLTT-K. Section numbers are those of the algorithm in the paper's outline below.

1  forward, step t, layer l         I = BN(W s + b),  u = leak v + I,  s = [u >= threshold],  v = u - threshold s
2  loss of a step                   l[t] = (1 - a) CE(o[t], y) + a MSE(o[t], target),  L = 1/T sum_t l[t]
4  through time (the baseline)      delta[t] = g[t] sg + delta[t+1] eps[t]
5  SLTT                             delta[t] = g[t] sg
6  SLTT-K                           as 5, for K of the T steps only

Forward passes are the same for all. The path from u[t+1] to u[t] is cut, so the backward pass of step t needs nothing
of later steps: it runs right after its forward pass, and what it needed is let go before the next.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from refimpl.models.snn import Simulation
from refimpl.models.spiking_classifier import StepLoss
from refimpl.nn import Params

__all__ = ["draw_steps", "sltt_gradient"]


def draw_steps(T: int, K: int | None, rng: np.random.Generator) -> frozenset[int]:
    """The steps (0 .. T-1) that get a backward pass: all for K = None, else K at random without replacement (6).
    Raises ValueError for K outside 1 .. T."""
    if K is None:
        return frozenset(range(T))
    if not 1 <= K <= T:
        raise ValueError(f"draw_steps: K is {K}, expected 1 to T = {T}")
    return frozenset(rng.permutation(T)[:K].tolist())


def sltt_gradient(
    simulation: Simulation,
    grads: Params,
    y: np.ndarray,
    loss: StepLoss,
    steps: Collection[int] | None = None,
    kept: list | None = None,
) -> tuple[float, np.ndarray]:
    """Add SLTT's gradient to `grads`; returns L and the sum of the logits (the decision).

    steps: those that get a backward pass, None for all. The loss of a step keeps its factor 1/T, so that the gradient
    of SLTT-K is K/T of SLTT's in expectation. `kept`: a list that receives what the last backward pass used, for those
    who want to weigh it.
    """
    T, total, decision = simulation.T, 0.0, None
    for t in range(T):
        logits, saved = simulation.step()  # forward of step t, for all t: batch norm's running statistics move
        weight = loss.weight(t, T)
        value, dlogits = loss(logits, y, weight)
        total += value
        if (steps is None or t in steps) and weight:
            simulation.back(grads, saved, dlogits)  # through space only, straight away
            if kept is not None:
                kept[:] = [saved]
        decision = logits if decision is None or loss.steps == "last" else decision + logits
    simulation.close(grads)
    assert decision is not None
    return total, decision
