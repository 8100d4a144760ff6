"""Floor 4: learners that several papers compare with, under the same contract as a method."""

from refimpl.baselines.backprop import BackpropClassifier, BackpropRegressor
from refimpl.baselines.chain import ChainClassifier, UnrolledFlowClassifier
from refimpl.baselines.forward_forward import ForwardForwardClassifier
from refimpl.baselines.graph import BackpropGNN, BackpropLinks
from refimpl.baselines.physical import PhysicalBackpropClassifier
from refimpl.baselines.ridge import RidgeClassifier

__all__ = [
    "BackpropClassifier",
    "BackpropGNN",
    "BackpropLinks",
    "BackpropRegressor",
    "ChainClassifier",
    "ForwardForwardClassifier",
    "PhysicalBackpropClassifier",
    "RidgeClassifier",
    "UnrolledFlowClassifier",
]
