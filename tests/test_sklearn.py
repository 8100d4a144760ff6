"""scikit-learn's own estimator checks on our learners (skipped where scikit-learn is not installed)."""

import warnings

import pytest

pytest.importorskip("sklearn")
from sklearn.utils.estimator_checks import parametrize_with_checks

from refimpl import (
    SLTT,
    TPSGD,
    AugLocal,
    BackpropClassifier,
    BackpropRegressor,
    BPTTClassifier,
    ChainClassifier,
    CounterCurrent,
    DifferenceTargetPropagationClassifier,
    DirectFeedbackAlignmentClassifier,
    FeedbackAlignmentClassifier,
    ForwardForwardClassifier,
    LocalBlocksClassifier,
    NoProp,
    OTTTClassifier,
    PhysicalBackpropClassifier,
    PhysicalForwardForward,
    RandomTargetProjectionClassifier,
    RidgeClassifier,
    ShallowClassifier,
    UnrolledFlowClassifier,
)

# Small data, few rows: the defaults are made for more, so the checks get more epochs and a larger step.
LEARNERS = [
    BackpropClassifier(epochs=60, lr=1e-2, batch_size=32, random_state=0),
    BackpropRegressor(epochs=60, lr=1e-2, batch_size=32, random_state=0),
    NoProp("dt", T=4, width=32, epochs=40, lr=1e-2, batch_size=32, random_state=0),
    NoProp("ct", width=32, epochs=100, lr=1e-2, batch_size=32, random_state=0),
    NoProp("fm", width=32, epochs=100, lr=1e-2, batch_size=32, random_state=0),
    ChainClassifier(T=4, width=32, epochs=40, lr=1e-2, batch_size=32, random_state=0),
    UnrolledFlowClassifier(steps=4, width=32, epochs=40, lr=1e-2, batch_size=32, random_state=0),
    SLTT(hidden=(32,), T=3, epochs=60, batch_size=32, random_state=0),
    SLTT(hidden=(32,), T=4, K=2, epochs=60, batch_size=32, random_state=0),
    BPTTClassifier(hidden=(32,), T=3, epochs=60, batch_size=32, random_state=0),
    OTTTClassifier(hidden=(32,), T=3, epochs=60, batch_size=32, random_state=0),
    FeedbackAlignmentClassifier(epochs=60, lr=1e-2, batch_size=32, random_state=0),
    DirectFeedbackAlignmentClassifier(epochs=60, lr=1e-2, batch_size=32, random_state=0),
    RandomTargetProjectionClassifier(epochs=60, lr=1e-2, batch_size=32, random_state=0),
    ShallowClassifier(epochs=60, lr=1e-2, batch_size=32, random_state=0),
    DifferenceTargetPropagationClassifier(hidden=(32, 32), epochs=60, lr=1e-2, batch_size=32, random_state=0),
    CounterCurrent(hidden=(32, 32), epochs=60, batch_size=32, lr=0.3, random_state=0),
    ForwardForwardClassifier(hidden=(32, 32), epochs=60, lr=1e-2, batch_size=32, random_state=0),
    PhysicalForwardForward(epochs=60, lr=1e-2, random_state=0),
    PhysicalBackpropClassifier(epochs=200, lr=3e-2, random_state=0),
    RidgeClassifier(random_state=0),
    AugLocal(1, network="mlp", hidden=(32, 32, 32), epochs=60, batch_size=32, random_state=0),
    TPSGD(hidden=(32,), epochs=60, batch_size=16, random_state=0),
    TPSGD(hidden=(32,), loss="logistic", schedule="greedy", epochs=60, batch_size=16, random_state=0),
    LocalBlocksClassifier(network="mlp", hidden=(32, 32), epochs=60, batch_size=32, random_state=0),
]

# No check is excluded.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=".*does not inherit from `sklearn.base.BaseEstimator`")  # on purpose
    every_check = parametrize_with_checks(LEARNERS)


@every_check
def test_scikit_learn_estimator_check(estimator, check):
    check(estimator)
