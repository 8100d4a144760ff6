"""Floor 4: learners that several papers compare with, under the same contract as a method."""

from refimpl.baselines.backprop import BackpropClassifier, BackpropRegressor

__all__ = ["BackpropClassifier", "BackpropRegressor"]
