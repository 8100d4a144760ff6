"""Floor 4: learners that several papers compare with, under the same contract as a method."""

from refimpl.baselines.autoencoder import AutoencoderBackprop
from refimpl.baselines.backprop import BackpropClassifier, BackpropRegressor
from refimpl.baselines.bptt import BPTTClassifier, bptt_gradient
from refimpl.baselines.chain import ChainClassifier, UnrolledFlowClassifier
from refimpl.baselines.feedback import (
    DirectFeedbackAlignmentClassifier,
    FeedbackAlignmentClassifier,
    RandomTargetProjectionClassifier,
    ShallowClassifier,
)
from refimpl.baselines.forward_forward import ForwardForwardClassifier
from refimpl.baselines.graph import BackpropGNN, BackpropLinks
from refimpl.baselines.local_blocks import LocalBlocksClassifier
from refimpl.baselines.ottt import OTTTClassifier, ottt_gradient
from refimpl.baselines.physical import PhysicalBackpropClassifier
from refimpl.baselines.recurrent import RecurrentClassifier
from refimpl.baselines.ridge import RidgeClassifier
from refimpl.baselines.target_propagation import DifferenceTargetPropagationClassifier

__all__ = [
    "AutoencoderBackprop",
    "BPTTClassifier",
    "BackpropClassifier",
    "BackpropGNN",
    "BackpropLinks",
    "BackpropRegressor",
    "ChainClassifier",
    "DifferenceTargetPropagationClassifier",
    "DirectFeedbackAlignmentClassifier",
    "FeedbackAlignmentClassifier",
    "ForwardForwardClassifier",
    "LocalBlocksClassifier",
    "OTTTClassifier",
    "PhysicalBackpropClassifier",
    "RandomTargetProjectionClassifier",
    "RecurrentClassifier",
    "RidgeClassifier",
    "ShallowClassifier",
    "UnrolledFlowClassifier",
    "bptt_gradient",
    "ottt_gradient",
]
