"""The baselines as learning rules for one common multilayer perceptron, for `refimpl compare`."""

from __future__ import annotations

from typing import Any

from refimpl.baselines.backprop import BackpropClassifier
from refimpl.baselines.feedback import (
    DirectFeedbackAlignmentClassifier,
    FeedbackAlignmentClassifier,
    RandomTargetProjectionClassifier,
    ShallowClassifier,
)
from refimpl.baselines.forward_forward import ForwardForwardClassifier
from refimpl.baselines.local_blocks import LocalBlocksClassifier
from refimpl.baselines.target_propagation import DifferenceTargetPropagationClassifier
from refimpl.record import Common, Rule

__all__ = ["rules"]

ADAM = (3e-4, 1e-3, 3e-3)
SGD = (0.01, 0.03, 0.1)


def rules(common: Common) -> list[Rule]:
    """Back-propagation and what others have put in its place, each with its own module's settings otherwise."""
    shared = {"hidden": common.hidden, "epochs": common.epochs, "batch_size": common.batch_size}

    def of(learner: type, **more: Any):
        return lambda rate, seed: learner(lr=rate, random_state=seed, **shared, **more)

    greedy = of(LocalBlocksClassifier, network="mlp", rule="greedy")
    above = ("error from above", "weights above")
    return [
        Rule("Back-propagation", of(BackpropClassifier), ADAM, above, "baseline"),
        Rule("Frozen hidden layers", of(ShallowClassifier), ADAM, (), "baseline"),
        Rule("Greedy, linear heads", greedy, SGD, ("labels", "own head"), "baseline"),
        Rule(
            "Feedback alignment",
            of(FeedbackAlignmentClassifier),
            ADAM,
            ("error from above", "fixed random"),
            "baseline",
        ),
        Rule(
            "Direct feedback alignment",
            of(DirectFeedbackAlignmentClassifier),
            ADAM,
            ("output error", "fixed random"),
            "baseline",
            "tanh",
        ),
        Rule(
            "DFA by sign",
            of(DirectFeedbackAlignmentClassifier, sign=True),
            ADAM,
            ("output error", "fixed random"),
            "baseline",
            "tanh",
        ),
        Rule(
            "Direct random target projection",
            of(RandomTargetProjectionClassifier),
            ADAM,
            ("labels", "fixed random"),
            "baseline",
            "tanh",
        ),
        Rule(
            "Difference target propagation",
            of(DifferenceTargetPropagationClassifier),
            ADAM,
            ("error from above", "second network"),
            "baseline",
            "tanh; inverse mappings are trained along",
        ),
        Rule(
            "Forward-forward",
            of(ForwardForwardClassifier),
            ADAM,
            ("labels", "second pass"),
            "baseline",
            "labels are part of the input, every label is tried at inference",
        ),
    ]
