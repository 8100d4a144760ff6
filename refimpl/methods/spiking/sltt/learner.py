"""SLTT as a learner: fit, predict, score; a unit of training is an epoch."""

from __future__ import annotations

from typing import Any

import numpy as np

from refimpl.methods.spiking.sltt.gradients import draw_steps, sltt_gradient
from refimpl.models.snn import VGG_11
from refimpl.models.spiking_classifier import SpikingClassifier

__all__ = ["SLTT"]

# The official scripts.
PAPER_SETTINGS: dict[str, dict[str, Any]] = {
    "cifar-10": {
        "model": "resnet",
        "options": {"widths": (64, 128, 256, 512), "blocks": 2},
        "T": 6,
        "epochs": 200,
        "lr": 0.1,
        "weight_decay": 5e-5,
        "augment": ("crop", "cutout", "flip"),
        "normalise": True,
    },
    "cifar-100": {
        "model": "resnet",
        "options": {"widths": (64, 128, 256, 512), "blocks": 2},
        "T": 6,
        "epochs": 200,
        "lr": 0.1,
        "weight_decay": 5e-4,
        "augment": ("crop", "cutout", "flip"),
        "normalise": True,
    },
    "cifar10-dvs": {
        "model": "vgg",
        "options": {"plan": VGG_11},
        "T": 10,
        "K": 2,
        "epochs": 300,
        "lr": 0.05,
        "weight_decay": 5e-4,
        "loss_target": "onehot",
        "dropout": 0.3,
        "coding": "events",
    },
    "dvs-gesture": {
        "model": "vgg",
        "options": {"plan": VGG_11},
        "T": 20,
        "K": 4,
        "epochs": 300,
        "batch_size": 16,
        "lr": 0.1,
        "weight_decay": 5e-4,
        "dropout": 0.4,
        "coding": "events",
    },
    "imagenet": {
        "model": "nfnet",
        "options": {"widths": (64, 128, 256, 512), "blocks": (3, 4, 6, 3)},
        "T": 6,
        "K": 2,
        "epochs": 30,
        "batch_size": 256,
        "lr": 0.001,
        "loss_weight": 0.0,
    },
}


class SLTT(SpikingClassifier):
    """A spiking network trained by spatial learning through time.

    K: steps of a batch that get a backward pass (SLTT-K), drawn at random for each batch; None for all T. Everything
    else is as in SpikingClassifier (refimpl/models/spiking_classifier.py): model "mlp", "vgg", "resnet", "nfnet"; T,
    tau, threshold, reset, surrogate; coding "direct", "pulse" or "events"; loss_weight, loss_target, loss_steps;
    epochs, batch_size, optimizer, lr, weight_decay, schedule; dropout, augment, normalise.
    """

    def __init__(
        self,
        model: Any = "mlp",
        hidden: tuple[int, ...] = (128, 128),
        norm: bool = True,
        options: dict[str, Any] | None = None,
        T: int = 6,
        K: int | None = None,
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
        self.K = K
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

    @classmethod
    def paper(cls, data: str = "cifar-10", **changes: Any) -> SLTT:
        """The official settings for "cifar-10", "cifar-100", "cifar10-dvs", "dvs-gesture" or "imagenet" (NF-ResNet-34,
        second stage: it fine-tunes a network of T = 1); `changes` replace some. Raises ValueError for another name."""
        if data not in PAPER_SETTINGS:
            raise ValueError(f"SLTT: no settings for {data!r}, expected one of {', '.join(PAPER_SETTINGS)}")
        return cls(**{**PAPER_SETTINGS[data], **changes})

    def _check_settings(self) -> None:
        super()._check_settings()
        whole = isinstance(self.K, int | np.integer) and not isinstance(self.K, bool)
        if self.K is not None and not (whole and 1 <= self.K <= self.T):
            raise self._bad("K", f"None or a whole number from 1 to T = {self.T}")

    def _gradient(self, x, y):
        steps = draw_steps(self.T, self.K, self._rngs["steps"])
        return sltt_gradient(self._simulation(x, train=True), self._grads, y, self._loss(), steps)
